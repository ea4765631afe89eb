"""The prefix table as Python sees it: the supervisor creates it, workers and the simulator use it."""

from collections.abc import Sequence

class PrefixTable:
    """Which endpoints should have which beginnings of prompts cached, shared between processes.

    Keys are numbers below 2**64, one per boundary of a prompt; `tokens[d]` is how many tokens the prompt has
    up to `keys[d]`. Raises (every method): IndexError for a slot that is not there, ValueError when `tokens`
    has another length than the keys.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    @staticmethod
    def create(size_bytes: int, slot_count: int) -> PrefixTable:
        """An empty table of at most `size_bytes`, which cost memory only once used.

        Raises: ValueError when that does not hold one bucket of entries.
        """
    @staticmethod
    def attach(fd: int) -> PrefixTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no prefix table, or one of another layout.
        """
    @property
    def slot_count(self) -> int: ...
    @property
    def bucket_count(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def used_bytes(self) -> int:
        """What of it has been touched by any process and takes memory."""
    def use_huge_pages(self) -> bool:
        """Puts all of it into huge pages, for every process that has it, and says whether the kernel could.

        Takes about a millisecond a MiB, and from then on the memory of the whole table.
        """
    def match(self, keys: Sequence[int], tokens: Sequence[int], slots: Sequence[int]) -> list[float]:
        """For each of `slots` the tokens it should have cached, times its trust."""
    def insert(
        self, keys: Sequence[int], tokens: Sequence[int], slot: int, uncached_tokens: int, now_us: int
    ) -> None:
        """The prompt goes to the slot, whose cache takes `uncached_tokens` for it."""
    def reported(self, slot: int, expected_tokens: int, reported_tokens: int, missed_tokens: int = 0) -> None:
        """The endpoint had `reported_tokens` cached where `expected_tokens` (before trust) were expected, and
        computed `missed_tokens` more than `insert` was told."""
    def forget(self, slot: int) -> None:
        """What was claimed for the slot no longer counts, and it is trusted again."""
    def set_capacity(self, slot: int, capacity_tokens: int) -> None:
        """The KV tokens of the slot's cache; 0 when not known (512 Ki are assumed)."""
    def eviction(self, slot: int) -> float:
        """How likely what a full cache drives out is asked for again, squared: 0..1."""
    def trust(self, slot: int) -> float: ...

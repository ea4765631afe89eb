"""The door to the native pick, for tests and micro-benchmarks; requests call the same C without it."""

from collections.abc import Iterable, Sequence

from router.native.loadtable import LoadTable

class CandidateSet:
    def __init__(
        self,
        slots: Sequence[int],
        weights: Sequence[float] | None = None,
        identities: Sequence[int] | None = None,
        points_per_weight: int = 0,
    ) -> None:
        """Candidates at these slots of a load table; with `points_per_weight` there is a ring, too.

        Raises: ValueError when lengths differ or a weight is not above 0.
        """
    def __len__(self) -> int: ...
    def ring(self) -> list[tuple[int, int]]:
        """(point, candidate position) in ring order."""
    def pick(
        self,
        policy: int,
        table: LoadTable,
        *,
        random: int = 0,
        key: int = 0,
        now_us: int = 0,
        excluded: Iterable[int] = (),
        load_factor: float = 1.25,
    ) -> int:
        """The winner's position, or -1 when every candidate is excluded."""
    def bench_loop(self, policy: int, table: LoadTable, pick_count: int, now_us: int = 0) -> float:
        """Picks `pick_count` times with a new random key each and returns nanoseconds per pick."""

def random_words(seed: int, count: int) -> list[int]: ...

"""The session table as Python sees it: the supervisor creates it, workers and the simulator use it."""

class SessionTable:
    """Where each session was served last, shared between processes.

    A session is a key below 2**64, not 0. Raises (every method with a slot): IndexError for one that is
    not there.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    @staticmethod
    def create(size_bytes: int, slot_count: int) -> SessionTable:
        """A table that knows nobody. Raises: ValueError."""
    @staticmethod
    def attach(fd: int) -> SessionTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no session table, or one of another layout.
        """
    @property
    def slot_count(self) -> int: ...
    @property
    def set_count(self) -> int:
        """Lines; each holds four sessions."""
    def line(self, key: int) -> int:
        """Where the session lies: those of one line drive each other out."""
    def find(self, key: int, now_us: int, remembered_s: float = 3600) -> tuple[int, int, int] | None:
        """Slot, lower 16 bits of the model and prompt tokens of its last request; None: not known."""
    def put(self, key: int, slot: int, now_us: int, *, model: int = 0, prompt_tokens: int = 0) -> None:
        """Its request goes there."""
    def forget(self, slot: int, now_us: int) -> None:
        """Nobody has been there before now."""
    def churn(self, first_key: int, key_count: int, rounds: int, now_us: int) -> int:
        """Notes and finds keys without the interpreter between; how many were found where they are not.

        For tests of races: every process that churns puts a key at the same slot, its remainder.
        """

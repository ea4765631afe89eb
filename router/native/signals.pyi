"""The signal table as Python sees it: made by the supervisor, written by workers and by whoever measures."""

from collections.abc import Iterable
from typing import Final, TypedDict

SIGNALS: Final[tuple[str, ...]]
"""waiting, running (requests), kv, power (shares of what there is), rtt_s, health (0-1)."""
SOURCES: Final[tuple[str, ...]]
VERDICTS: Final[tuple[str, ...]]
"""Of a write; the first is that it was taken, each other one is counted."""

class Told(TypedDict):
    """What the signals of an endpoint come to, by their age."""

    kv: float
    kv_weight: float
    power: float
    power_weight: float
    sickness: float
    rtt_s: float
    others_waiting: float
    others_running: float

class SignalTable:
    """What others say of all endpoints, shared between processes.

    Times are monotonic, in microseconds, kept to the millisecond. Raises (every method with a slot):
    IndexError for one that is not there.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    @staticmethod
    def create(slot_count: int) -> SignalTable:
        """A table that has been told nothing. Raises: ValueError."""
    @staticmethod
    def attach(fd: int) -> SignalTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no signal table, or one of another layout.
        """
    @property
    def slot_count(self) -> int: ...
    def push(self, batch: Iterable[tuple[int, str, float, int, str]], now_us: int) -> list[str]:
        """Writes (slot, signal, value, when it was true, source) and returns a verdict for each.

        Raises: ValueError for an unknown signal or source; nothing has been written then.
        """
    def round_trip(self, slot: int, rtt_us: int, now_us: int) -> None:
        """One measured round trip."""
    def read(self, slot: int, now_us: int) -> dict[str, tuple[float, int, str]]:
        """(value, age in microseconds, source) of each signal that was ever told."""
    def weigh(self, slot: int, now_us: int, *, in_flight: float = 0, pending: float = 0) -> Told:
        """What a refresh that sees the signals for the first time makes of them."""
    def rejected(self) -> dict[tuple[str, str], int]:
        """How many writes were not simply taken, by source and verdict."""
    def forget(self, slot: int) -> None:
        """Nothing has been told of the slot."""

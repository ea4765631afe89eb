"""The load table as Python sees it: the supervisor creates and settles it, admin and metrics read it."""

from collections.abc import Sequence
from typing import Literal, TypedDict

class LoadView(TypedDict):
    in_flight: int
    pending: int
    queued_tokens: int
    queued_work_us: int
    kv_tokens: int
    oldest_pending_us: int
    ttft_us: float
    itl_us: float
    error_ratio: float
    attempts: int
    ejected_until_us: int

class Charge:
    """One attempt's share of an account; `LoadTable.charge` makes it and keeps it until it is released."""

    @property
    def state(self) -> Literal["released", "pending", "decoding"]: ...

class LoadTable:
    """Accounts and estimates of all endpoints, shared between processes.

    Raises (every method): IndexError for a slot or column that is not there, OverflowError below zero.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    @staticmethod
    def create(slot_count: int, column_count: int) -> LoadTable:
        """A zeroed table; `slot_count` is rounded up to a whole cache line of cells."""
    @staticmethod
    def attach(fd: int) -> LoadTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no load table, or one of another layout.
        """
    @property
    def slot_count(self) -> int: ...
    @property
    def column_count(self) -> int: ...
    def charge(
        self,
        column: int,
        slot: int,
        *,
        prompt_tokens: int = 0,
        uncached_tokens: int = 0,
        work_us: int = 0,
        kv_tokens: int = 0,
        now_us: int = 1,
    ) -> Charge:
        """Adds one attempt at the slot. Only the process that owns the column may call it."""
    def first_token(self, column: int, charge: Charge, now_us: int = 1) -> None:
        """Its prompt is no longer queued. Once; later calls change nothing."""
    def release(self, column: int, which: Charge | int) -> None:
        """Takes a charge back, or the oldest one held at a slot.

        A slot without a charge counts an underflow and changes nothing else.
        """
    def set_remote(self, column: int, slot: int, cells: Sequence[int]) -> None:
        """Another replica's account of a slot, as ROW_COUNT cells of a column that nobody here charges."""
    def expect_remote(self, column: int, charge: Charge) -> None:
        """Until it is set again: that replica is expected to have made a pending charge like this one."""
    def row(self, row: int, slots: Sequence[int], in_a_row: bool = False) -> list[float]:
        """Sums over columns of a row of accounts; ROW_COUNT rows, in the order of native/account.pxd."""
    def read(self, slots: Sequence[int], now_us: int, in_a_row: bool = False) -> dict[str, list[float]]:
        """What picks that weigh everybody read: every array of load_read_t by its name."""
    def progress_us(self, slots: Sequence[int], now_us: int, in_a_row: bool = False) -> list[float]:
        """One of these: how much of the oldest pending charge of each slot its engine has had time for."""
    def in_flight(self, slot: int) -> int: ...
    def in_flight_by_column(self, slot: int | None = None) -> list[int]:
        """Attempts open per column, of one slot or of all."""
    def total_in_flight(self) -> int: ...
    def underflows(self) -> int:
        """Releases that had no charge since the table was made. Anything but 0 is a bug."""
    def clear_column(self, column: int) -> int:
        """Settles the share of a dead worker and returns how many attempts it had open.

        Only for the supervisor, and only once the column's owner is known to be dead.
        """
    def reset_slot(self, slot: int) -> None:
        """Forgets estimates, ejection and attempts before a slot goes to another endpoint.

        Raises: ValueError while attempts are in flight there.
        """
    def view(self, slot: int) -> LoadView: ...
    def observe_ttft(self, slot: int, ttft_us: int, now_us: int) -> None: ...
    def observe_itl(self, slot: int, itl_us: int, now_us: int) -> None: ...
    def observe_outcome(self, slot: int, failed: bool, now_us: int) -> None: ...
    def eject(self, slot: int, now_us: int, base_us: int, max_us: int) -> None: ...
    def readmit(self, slot: int) -> None: ...
    def is_ejected(self, slot: int, now_us: int) -> bool: ...
    def churn(self, column: int, slot: int, round_count: int) -> None:
        """Charges, observes and releases `round_count` times in native code: for tests and benches."""

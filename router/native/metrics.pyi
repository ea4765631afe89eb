"""The metrics table as Python sees it: the supervisor creates, folds and resets, router/metrics.py reads."""

from router.native.histogram import Histogram

COUNTER_NAMES: dict[int, str]
"""Name by counter number."""
HISTOGRAM_KINDS: dict[str, int]
"""Kind by name: route_ttft, route_e2e, route_router_time, route_itl; endpoint_ttft, endpoint_itl."""
ROUTE_COUNTER_NAMES: dict[int, str]
"""Name by number of what is counted for each route: requests by side, tokens by kind, cost in billionths."""
ROUTE_ENDINGS: tuple[str, ...]
"""Those of them that count requests, each in one: completed, or who failed it."""
GAUGES: frozenset[str]
"""Counters that say how things stand: they go with their worker."""
NO_INDEX: int
"""Slot of a request for which no endpoint was picked, route of one that matched none."""

class MetricsTable:
    """Counters, request counts and histograms of all workers, shared between processes.

    Raises (every method): IndexError for a column, counter, kind or index that is not there.
    """

    fd: int
    """The segment's descriptor, owned by the table: pass it to children, do not close it."""
    column_count: int
    @staticmethod
    def create(column_count: int, route_count_max: int, slot_count: int) -> MetricsTable: ...
    @staticmethod
    def attach(fd: int) -> MetricsTable:
        """The table behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no metrics table, or one of another layout.
        """
    @property
    def route_count_max(self) -> int: ...
    @property
    def slot_count(self) -> int: ...
    def columns(self) -> list[int]:
        """The columns that workers write."""
    def counters(self) -> dict[str, int]:
        """Every counter summed over workers, dead ones included; gauges over those that live."""
    def column_counters(self, column: int) -> dict[str, int]:
        """The counters of one worker, or of all dead ones (`column == column_count`)."""
    def requests(self) -> list[tuple[int, int, int, int]]:
        """(route, slot, outcome, count), summed over workers, in ascending order."""
    def requests_overflow(self) -> int:
        """Requests that found no place to be counted by route, slot and outcome."""
    def route_counters(self, route: int) -> dict[str, int]:
        """What is counted for one route, by the names of ROUTE_COUNTER_NAMES, summed over workers."""
    def histogram(self, kind: int, index: int) -> Histogram:
        """A copy, merged over workers."""
    def fold_column(self, column: int) -> None:
        """Keeps what a dead worker counted and empties its column.

        Only for the supervisor, and only once the column's owner is known to be dead.
        """
    def reset_slot(self, slot: int) -> None:
        """Forgets what was counted for a slot before it goes to another endpoint."""
    def reset_route(self, route: int) -> None:
        """Forgets what was counted for a route index before it goes to another route."""
    def add(self, column: int, counter: int, amount: int) -> None: ...
    def set(self, column: int, counter: int, value: int) -> None: ...
    def add_route(self, column: int, route: int, counter: int, amount: int) -> None: ...
    def observe_us(self, column: int, kind: int, index: int, value_us: int) -> None:
        """Adds a sample; an index beyond the table's bounds is ignored."""
    def count_request(self, column: int, route: int, slot: int, outcome: int) -> None: ...
    def churn(self, column: int, round_count: int) -> None:
        """Counts and observes `round_count` requests in native code: for tests and benches."""

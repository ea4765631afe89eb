"""What routers counted, as windows: by version and route, over all routers, since a mark and lately.

Reports are cumulative, so a lost one loses nothing, and what is new in them is added once in a while, for
each router in its own time: to add up hundreds at once would hold up the link. A process that is new, counts
that fell, and a router that was silent for a while (its counts may be of another time than the mark says)
begin anew: what they count from then on is added.

Invariant: nothing negative is ever added, and what is kept is bounded by routers, by the rows of a report
and by the slices of `lately`. Neighbours: schema/link.py (the reports), guard.py (compares windows),
rollout.py (says when to mark).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from router import limits
from router.schema.link import Report, RouteCounts

EVERY_ROUTE = ""  # stands for all routes together: no route has this name

_NUMBERS = ("requests", "faults", "refused", "prompt_tokens", "output_tokens", "cost_nano")


class Window(Struct, frozen=True, kw_only=True):
    """What was counted in some time: of one version, and of one route or all."""

    requests: int = 0
    faults: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    bounds_us: tuple[int, ...] = ()
    ttft_us: tuple[int, ...] = ()
    itl_us: tuple[int, ...] = ()
    batch_count: int = 0
    """Batches with tokens: one a router and look. Sums of squares of their cost and tokens are below."""
    cost_squared: float = 0.0
    cost_by_tokens: float = 0.0
    tokens_squared: float = 0.0

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.output_tokens


Routes = Mapping[str, Window]
"""By route, EVERY_ROUTE among them."""


def sum_windows(windows: Iterable[Window]) -> Window:
    """All of it as one; of histograms with other bounds than the first, only the counts."""
    total = _Sum()
    for window in windows:
        total.add(window)
    return total.window()


@dataclass(slots=True)
class RouterSeen:
    """One router process as `Collector.describe` shows it."""

    router: str
    heard_s: float
    is_silent: bool = False
    has_other_bounds: bool = False
    """Its histograms cannot be added to the others': it is of another release. Its counts are."""
    began_anew_count: int = 0


@dataclass(slots=True)
class _Sum:
    """A Window that grows."""

    numbers: list[int] = field(default_factory=lambda: [0] * len(_NUMBERS))
    bounds_us: tuple[int, ...] = ()
    ttft_us: list[int] = field(default_factory=list)
    itl_us: list[int] = field(default_factory=list)
    batch_count: int = 0
    cost_squared: float = 0.0
    cost_by_tokens: float = 0.0
    tokens_squared: float = 0.0

    def add(self, other: Window) -> None:
        self.numbers = [a + getattr(other, name) for a, name in zip(self.numbers, _NUMBERS, strict=True)]
        self.batch_count += other.batch_count
        self.cost_squared += other.cost_squared
        self.cost_by_tokens += other.cost_by_tokens
        self.tokens_squared += other.tokens_squared
        self.bounds_us = self.bounds_us or other.bounds_us
        if other.bounds_us == self.bounds_us:
            _add(self.ttft_us, other.ttft_us)
            _add(self.itl_us, other.itl_us)

    def window(self) -> Window:
        return Window(
            **dict(zip(_NUMBERS, self.numbers, strict=True)),
            bounds_us=self.bounds_us,
            ttft_us=tuple(self.ttft_us),
            itl_us=tuple(self.itl_us),
            batch_count=self.batch_count,
            cost_squared=self.cost_squared,
            cost_by_tokens=self.cost_by_tokens,
            tokens_squared=self.tokens_squared,
        )


_Key = tuple[int, str]  # version and route
_Sums = dict[_Key, _Sum]


@dataclass(slots=True)
class _Process:
    """One router process: what it said last, and what of that has been added."""

    seen: RouterSeen
    newest: Report
    added: dict[_Key, RouteCounts]
    added_s: float
    is_new: bool = False
    """It reported since `added`."""


class Collector:
    """All routers' reports; what is new in those of one is added every `interval_s`.

    `advance` is called as often.
    """

    def __init__(self, interval_s: float = limits.GUARD_INTERVAL_MS / 1000) -> None:
        self._interval_s = interval_s
        self._open: _Sums = {}
        self._processes: dict[str, _Process] = {}
        self._bounds_us: tuple[int, ...] = ()
        self._since_mark: _Sums = {}
        self._slices: deque[_Sums] = deque(maxlen=limits.SLIDING_SLICES_MAX)

    def observe(self, router: str, instance: str, report: Report, now_s: float) -> None:
        """`router`, in its process `instance`, has reported."""
        process = self._processes.get(instance)
        if process is None:
            while len(self._processes) >= limits.LINK_ROUTERS_MAX:
                del self._processes[min(self._processes, key=lambda name: self._processes[name].seen.heard_s)]
            seen = RouterSeen(router=router, heard_s=now_s)
            self._processes[instance] = _Process(seen, report, _rows(report), now_s)
            return
        if _is_silent(process, now_s):
            process.added = _rows(report)
            process.seen.began_anew_count += 1
        process.newest, process.is_new = report, True
        process.seen.heard_s, process.seen.is_silent = now_s, False
        if now_s - process.added_s >= self._interval_s:
            process.added_s = now_s
            self._take(process)

    def forget(self, instance: str) -> None:
        """That process is gone; what it said last is added before."""
        process = self._processes.pop(instance, None)
        if process is not None:
            self._take(process)

    def advance(self, now_s: float) -> None:
        """What was added since the last time is one slice of `lately`, and seen from here on."""
        for process in self._processes.values():
            process.seen.is_silent = _is_silent(process, now_s)
        self._slices.append(self._open)
        _merge(self._since_mark, self._open)
        self._open = {}

    def mark(self, now_s: float) -> None:
        """From here on `since_mark` counts; what was reported and is not added yet never is."""
        for process in self._processes.values():
            process.added, process.added_s, process.is_new = _rows(process.newest), now_s, False
        self.advance(now_s)
        self._since_mark = {}

    def since_mark(self, version: int) -> dict[str, Window]:
        """What that version has counted since the mark: by route, and all together as EVERY_ROUTE."""
        return _of_version(self._since_mark, version)

    def lately(self, version: int, slice_count: int = limits.SLIDING_SLICES_MAX) -> dict[str, Window]:
        """The same over the last `slice_count` steps of `advance`."""
        sums: _Sums = {}
        for part in list(self._slices)[-slice_count:]:
            _merge(sums, part)
        return _of_version(sums, version)

    def describe(self) -> list[RouterSeen]:
        """Who has been heard; the silent ones add nothing."""
        return [process.seen for process in self._processes.values()]

    def _take(self, process: _Process) -> None:
        if not process.is_new:
            return
        process.is_new = False
        bounds = process.newest.bucket_bounds_us[: limits.REPORT_BOUNDS_MAX]
        self._bounds_us = self._bounds_us or bounds
        process.seen.has_other_bounds = bounds != self._bounds_us
        rows = _rows(process.newest)
        for key, counts in rows.items():
            before = process.added.get(key)
            new = _difference(before, counts, bounds if bounds == self._bounds_us else ())
            if new is None:
                process.seen.began_anew_count += 1
            elif new.requests or new.tokens or new.ttft_us or new.itl_us:
                self._open.setdefault(key, _Sum()).add(new)
        # A row that is not reported for a while comes back with its counts: it is kept while there is room.
        kept = {**process.added, **rows}
        process.added = kept if len(kept) <= limits.ROUTE_INDEXES_MAX else rows


def _rows(report: Report) -> dict[_Key, RouteCounts]:
    return {(row.version, row.route): row for row in report.routes[: limits.ROUTE_INDEXES_MAX]}


def _is_silent(process: _Process, now_s: float) -> bool:
    return (now_s - process.seen.heard_s) * 1000 > limits.REPORT_SILENCE_MS


def _difference(before: RouteCounts | None, now: RouteCounts, bounds: tuple[int, ...]) -> Window | None:
    """What was counted between the two; None when counts fell."""
    numbers = {}
    for name in _NUMBERS:
        numbers[name] = getattr(now, name) - (getattr(before, name) if before is not None else 0)
        if numbers[name] < 0:
            return None
    ttft = _bucket_difference(before.ttft_us if before is not None else (), now.ttft_us, len(bounds))
    itl = _bucket_difference(before.itl_us if before is not None else (), now.itl_us, len(bounds))
    if ttft is None or itl is None:
        return None
    cost, tokens = float(numbers["cost_nano"]), float(numbers["prompt_tokens"] + numbers["output_tokens"])
    return Window(
        **numbers,
        bounds_us=bounds,
        ttft_us=ttft,
        itl_us=itl,
        batch_count=1 if tokens else 0,
        cost_squared=cost * cost,
        cost_by_tokens=cost * tokens,
        tokens_squared=tokens * tokens,
    )


def _bucket_difference(
    before: tuple[int, ...], now: tuple[int, ...], bound_count: int
) -> tuple[int, ...] | None:
    """Nothing where nothing is new, or where it does not fit the bounds; None when a bucket fell."""
    if now == before or not bound_count or len(now) != bound_count + 1:
        return None if before and not now else ()
    if len(before) != len(now):
        before = (0,) * len(now)
    new = tuple(b - a for a, b in zip(before, now, strict=True))
    return None if min(new) < 0 else new


def _add(into: list[int], counts: tuple[int, ...]) -> None:
    if counts:
        into.extend([0] * (len(counts) - len(into)))
        for index, count in enumerate(counts):
            if count:
                into[index] += count


def _merge(into: _Sums, sums: _Sums) -> None:
    for key, part in sums.items():
        into.setdefault(key, _Sum()).add(part.window())


def _of_version(sums: _Sums, version: int) -> dict[str, Window]:
    routes = {route: part.window() for (of, route), part in sums.items() if of == version}
    return {EVERY_ROUTE: sum_windows(routes.values()), **routes}

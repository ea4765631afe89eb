"""CPU, waiting and memory of a proxy's processes, and how readings become a figure that can be trusted.

A *slice* is one proxy under one load for a moment; a *round* takes a slice of every proxy; ratios are paired
within a round, so that what the machine does over minutes cancels. CPU comes from the kernel's own account of
each process: a CPU clock, which counts nanoseconds over all threads, ended ones included. A slice in which
the proxy or the load generator had to wait for its core, or the hypervisor took the core away, says more
about the machine than about the proxy: a starved proxy finds more work at each wake and looks cheaper than it
is. Such a slice is taken again and counted.

Nothing here knows a proxy or a load: `take` is a function given by scenarios.py.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STARVED_RATIO_MAX = 0.05  # of the wall time; batching shows in the figures from about a tenth
RETAKES_MAX = (
    3  # of one slice; all together at most as many as slices wanted, or a busy machine took for ever
)
SLICES_MIN = 3  # with fewer kept, the least starved of the others are used, and the figure is marked
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class SliceFailed(Exception):
    """A proxy did not carry a load as it must: no figure, and why."""


class SliceLost(Exception):
    """The machine let nothing happen for a whole slice: no figure, and no fault of the proxy."""


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads a process has had; 0 when it is gone."""
    # The clock id of another process, as clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED is 2.
    clock_id = (~pid << 3) | 2
    try:
        return time.clock_gettime_ns(clock_id)
    except OSError:
        return 0


def process_wait_ns(pid: int) -> int:
    """Time the threads of a process were ready to run and did not; 0 where the kernel does not say."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total


def stolen_ticks(cpu: int) -> int:
    """Ticks the hypervisor gave a core's time to somebody else."""
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words and words[0] == f"cpu{cpu}":
            return int(words[8])
    return 0


def children(pid: int) -> list[int]:
    """The processes that descend from one, oldest first."""
    parent_of: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parent_of[int(path.parent.name)] = int(after_name[1])
    found: list[int] = []
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parent_of.items() if parent in wanted}
        found += sorted(wanted)
    return found


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, a page shared by several counted once (Pss)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes as the system's tools show it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Clocks of one moment, all in nanoseconds but for ticks."""

    at_ns: int
    cpu_ns: int
    other_cpu_ns: int
    wait_ns: int
    load_cpu_ns: int
    load_wait_ns: int
    stolen_ticks: int


@dataclass(frozen=True, kw_only=True)
class Meter:
    """Reads what a proxy and the load generator (this process) have used.

    data_pids: processes that carry traffic; other_pids: masters and supervisors, told apart in the report
    shares_core: proxy and generator run on one core, where each must wait for the other
    """

    data_pids: Sequence[int]
    other_pids: Sequence[int]
    cpu: int
    shares_core: bool

    def read(self) -> Reading:
        """The clocks now."""
        own = os.getpid()
        return Reading(
            at_ns=time.monotonic_ns(),
            cpu_ns=sum(map(process_cpu_ns, self.data_pids)),
            other_cpu_ns=sum(map(process_cpu_ns, self.other_pids)),
            wait_ns=sum(map(process_wait_ns, self.data_pids)),
            load_cpu_ns=process_cpu_ns(own),
            load_wait_ns=process_wait_ns(own),
            stolen_ticks=stolen_ticks(self.cpu),
        )

    def starved_ratio(self, before: Reading, after: Reading) -> float:
        """The share of the time that anything but proxy and generator kept one of them from its core."""
        wall_ns = max(after.at_ns - before.at_ns, 1)
        wait_ns = after.wait_ns - before.wait_ns
        load_wait_ns = after.load_wait_ns - before.load_wait_ns
        if self.shares_core:  # waiting for the other of the two is what this placement is about
            wait_ns -= after.load_cpu_ns - before.load_cpu_ns
            load_wait_ns -= after.cpu_ns - before.cpu_ns
        stolen_ns = (after.stolen_ticks - before.stolen_ticks) * 1_000_000_000 // _TICKS_PER_S
        return max(wait_ns, load_wait_ns, stolen_ns, 0) / wall_ns


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One proxy under one load for a moment.

    value: the figure (CPU microseconds per unit, or a latency)
    starved_ratio: how much of the time the machine kept the proxy or the load from running
    busy_ratio: CPU of the proxy by wall time; near 1 the proxy was the bottleneck
    """

    value: float
    unit_count: int
    wall_s: float
    starved_ratio: float
    busy_ratio: float
    other_cpu_us: float = 0.0
    note: str = ""


@dataclass(kw_only=True)
class Series:
    """What all rounds of one scenario gave for one proxy."""

    kept: dict[int, Slice] = field(default_factory=dict)  # by round
    discarded: list[tuple[int, Slice]] = field(default_factory=list)  # with their round
    lost_count: int = 0
    failure: str = ""

    @property
    def is_starved(self) -> bool:
        """Whether too few slices were clean, so that discarded ones had to be used."""
        return len(self.kept) < SLICES_MIN and bool(self.discarded or self.lost_count)

    @property
    def used(self) -> list[Slice]:
        """The slices a figure is made of."""
        used = list(self.kept.values())
        if self.is_starved:
            starved = sorted((one for _, one in self.discarded), key=lambda one: one.starved_ratio)
            used += starved[: SLICES_MIN - len(used)]
        return used

    def best_by_round(self) -> dict[int, Slice]:
        """Of every round its clean slice, or else the least starved one."""
        best: dict[int, Slice] = {}
        for index, one in self.discarded:
            if index not in best or one.starved_ratio < best[index].starved_ratio:
                best[index] = one
        return best | self.kept


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A figure of one proxy: its median with quartiles, and the paired ratio to the base with quartiles."""

    value: float
    value_low: float
    value_high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    ratio_is_starved: bool
    kept_count: int
    discarded_count: int
    is_starved: bool
    busy_ratio: float
    unit_count: int
    other_cpu_us: float
    note: str


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def take_rounds(
    names: Sequence[str],
    round_count: int,
    take: Callable[[str], Slice],
    *,
    starved_ratio_max: float = STARVED_RATIO_MAX,
    retakes_max: int = RETAKES_MAX,
    on_slice: Callable[[str, int, Slice], None] | None = None,
) -> dict[str, Series]:
    """Takes slices A B C, B C A, C A B ...: every proxy in every round, none always first.

    A starved slice is taken again, within bounds; a proxy that fails takes no further part.
    """
    series = {name: Series() for name in names}
    retakes_left = round_count * len(names)
    for round_index in range(round_count):
        turn = round_index % len(names)
        for name in [*names[turn:], *names[:turn]]:
            mine = series[name]
            for attempt in range(retakes_max + 1):
                if mine.failure or (attempt and retakes_left == 0):
                    break
                retakes_left -= bool(attempt)
                try:
                    slice_ = take(name)
                except SliceLost:
                    mine.lost_count += 1
                    continue
                except SliceFailed as exc:
                    mine.failure = str(exc)
                    break
                if on_slice:
                    on_slice(name, round_index, slice_)
                if slice_.starved_ratio <= starved_ratio_max:
                    mine.kept[round_index] = slice_
                    break
                mine.discarded.append((round_index, slice_))
    return series


def paired_ratios(mine: Series, base: Series) -> tuple[list[float], bool]:
    """Ratios of slices of the same round, and whether all of these were clean.

    Where too few rounds have two clean slices, every round's least starved ones are paired: what starved both
    alike still cancels.
    """
    clean = _pairs(mine.kept, base.kept)
    if len(clean) >= SLICES_MIN:
        return clean, True
    every = _pairs(mine.best_by_round(), base.best_by_round())
    return every, len(every) == len(clean)


def _pairs(mine: dict[int, Slice], base: dict[int, Slice]) -> list[float]:
    rounds = sorted(mine.keys() & base.keys())
    return [mine[index].value / base[index].value for index in rounds if base[index].value > 0]


def summarise(series: dict[str, Series], base: str) -> dict[str, Summary | str]:
    """Per proxy its figure, or why it has none."""
    summaries: dict[str, Summary | str] = {}
    for name, mine in series.items():
        used = mine.used
        if mine.failure or not used:
            summaries[name] = mine.failure or "no slice"
            continue
        low, middle, high = quartiles([one.value for one in used])
        ratios: list[float] = []
        is_clean = True
        if base in series and not series[base].failure:
            ratios, is_clean = paired_ratios(mine, series[base])
        ratio_low, ratio, ratio_high = quartiles(ratios) if ratios else (None, None, None)
        summaries[name] = Summary(
            value=middle,
            value_low=low,
            value_high=high,
            ratio=ratio,
            ratio_low=ratio_low,
            ratio_high=ratio_high,
            ratio_is_starved=not is_clean,
            kept_count=len(mine.kept),
            discarded_count=len(mine.discarded) + mine.lost_count,
            is_starved=mine.is_starved,
            busy_ratio=statistics.median(one.busy_ratio for one in used),
            unit_count=sum(one.unit_count for one in used),
            other_cpu_us=statistics.median(one.other_cpu_us for one in used),
            note=next((one.note for one in used if one.note), ""),
        )
    return summaries

"""The figures of the data plane and what each must reach and aims at.

A figure is measured by scenarios.py and judged here; ratios are to nginx in the same run. The bounds are
those the project set before it was built, so that no result could move them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scenario(StrEnum):
    """What can be asked for with --scenario; one scenario gives one or more figures."""

    REQUEST = "request"
    LOCKSTEP = "lockstep"
    PACED = "paced"
    LATENCY = "latency"
    TLS = "tls"
    MEMORY = "memory"
    MANY = "many"
    PICK = "pick"
    SNAPSHOT = "snapshot"
    SOAK = "soak"


class JudgedBy(StrEnum):
    """What of a figure is held against its bounds."""

    RATIO = "ratio"
    VALUE = "value"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row of the report; must and aim are upper bounds."""

    key: str
    scenario: Scenario
    text: str
    unit: str
    judged_by: JudgedBy = JudgedBy.NOTHING
    must: float | None = None
    aim: float | None = None

    def verdict(self, value: float, ratio: float | None) -> str:
        """`aim`, `must` or `missed`: the best bound that is met; empty when nothing is asked."""
        judged = ratio if self.judged_by is JudgedBy.RATIO else value
        if self.judged_by is JudgedBy.NOTHING or judged is None:
            return ""
        if self.aim is not None and judged <= self.aim:
            return "aim"
        if self.must is not None and judged <= self.must:
            return "must"
        return "missed"


SCORE_BOUNDS_NS = ((100, 1000.0, 3000.0), (1000, 6000.0, None))  # endpoints, must of p50 and of p99
PICK_BOUNDS_NS = ((8, 50.0, 20.0), (64, 100.0, 40.0), (1024, 1000.0, 400.0))  # endpoints, must, aim


def _nanoseconds(key: str, text: str, must: float | None, aim: float | None) -> Figure:
    judged_by = JudgedBy.VALUE if must is not None else JudgedBy.NOTHING
    return Figure(
        key=key, scenario=Scenario.PICK, text=text, unit="ns", judged_by=judged_by, must=must, aim=aim
    )


def _pick(count: int, must: float, aim: float) -> Figure:
    return _nanoseconds(f"pick_{count}", f"pick over {count:,} endpoints, p2c", must, aim)


def _score(count: int, quantile: str, must: float | None) -> Figure:
    text = f"pick by score over {count:,} endpoints with prefix match, {quantile}"
    return _nanoseconds(f"score_{count}_{quantile}", text, must, None)


def _scan(count: int, must: float, aim: float) -> Figure:
    return _nanoseconds(f"scan_{count}", f"pick over {count:,} endpoints, least of all", must, aim)


def _snapshot(key: str, text: str, unit: str, must: float) -> Figure:
    return Figure(
        key=f"snapshot_{key}",
        scenario=Scenario.SNAPSHOT,
        text=f"snapshot of 1,000 endpoints x 50 routes: {text}",
        unit=unit,
        judged_by=JudgedBy.VALUE,
        must=must,
    )


FIGURES = (
    Figure(
        key="request",
        scenario=Scenario.REQUEST,
        text="CPU per request, 32 connections",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=0.90,
        aim=0.75,
    ),
    Figure(
        key="lockstep",
        scenario=Scenario.LOCKSTEP,
        text="CPU per event, 32 streams in lockstep",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.05,
        aim=0.92,
    ),
    Figure(
        key="paced",
        scenario=Scenario.PACED,
        text="CPU per event, 256 streams, 20 ms",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.05,
        aim=0.95,
    ),
    Figure(
        key="paced_one_core",
        scenario=Scenario.PACED,
        text="the same, all on one core",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.05,
        aim=0.95,
    ),
    Figure(
        key="latency",
        scenario=Scenario.LATENCY,
        text="added p50, one connection",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.05,
        aim=1.0,
    ),
    Figure(
        key="latency_one_core",
        scenario=Scenario.LATENCY,
        text="the same, all on one core",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.05,
        aim=1.0,
    ),
    Figure(
        key="tls",
        scenario=Scenario.TLS,
        text="CPU per request, TLS to the client",
        unit="us",
        judged_by=JudgedBy.RATIO,
        must=1.1,
        aim=1.0,
    ),
    Figure(
        key="memory",
        scenario=Scenario.MEMORY,
        text="user memory per open stream",
        unit="KiB",
        judged_by=JudgedBy.VALUE,
        must=5.0,
        aim=1.0,
    ),
    Figure(
        key="many",
        scenario=Scenario.MANY,
        text="RSS with 10,000 paced streams",
        unit="MiB",
        judged_by=JudgedBy.VALUE,
        must=250.0,
        aim=120.0,
    ),
    Figure(key="many_cpu", scenario=Scenario.MANY, text="CPU per event with these", unit="us"),
    *(_pick(count, must, aim) for count, must, aim in PICK_BOUNDS_NS),
    *(_scan(count, must, aim) for count, must, aim in PICK_BOUNDS_NS),
    *(_score(count, "p50", must) for count, must, _ in SCORE_BOUNDS_NS),
    *(_score(count, "p99", must) for count, _, must in SCORE_BOUNDS_NS),
    _snapshot("gap", "worst gap of traffic", "ms", 5.0),
    _snapshot("apply", "until every worker picks under it, at worst", "ms", 100.0),
    _snapshot("step", "longest step of a worker's loop, CPU", "ms", 2.0),
    Figure(
        key="soak",
        scenario=Scenario.SOAK,
        text="RSS growth after the second load",
        unit="%",
        judged_by=JudgedBy.VALUE,
        must=2.0,
        aim=None,
    ),
)


def figures_of(scenario: Scenario) -> list[Figure]:
    """The figures a scenario gives, in the report's order."""
    return [figure for figure in FIGURES if figure.scenario is scenario]

"""Many runs of one trace: every fleet, policy, speed and seed that is asked for, in one process or several.

Invariant: results come in the order of the cases, whoever finished first, so that what is written of them
does not depend on the number of processes. Neighbours: cli.py (asks), run.py (one run), measures.py, page.py.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.sim.fleets import Fleet
from bench.sim.measures import Curves, Objective, curves, measure
from bench.sim.run import Asking, Fault, simulate
from bench.sim.traces import SESSIONS_DEFAULT, Jitter, Recording, replay


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run to make."""

    fleet: Fleet
    policy: str
    speed: float
    seed: int
    fault_text: str | None = None
    """As it was asked for; what results call it."""
    faults: tuple[Fault, ...] = ()
    jitter: Jitter = Jitter.RAW
    session_count: int = SESSIONS_DEFAULT
    asking: Asking | None = None
    objective: Objective | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run made."""

    figures: dict[str, Any]
    """As the JSON has them, with what the run was."""
    curves: Curves
    endpoint_names: list[str]


def run_case(recording: Recording, case: Case) -> Result:
    trace = replay(
        recording,
        speed=case.speed,
        seed=case.seed,
        jitter=case.jitter,
        session_count=case.session_count,
    )
    outcome = simulate(trace, case.fleet, case.policy, seed=case.seed, faults=case.faults, asking=case.asking)
    what = {
        "policy": case.policy,
        "fleet": case.fleet.name,
        "speed": case.speed,
        "seed": case.seed,
        "fault": case.fault_text,
    }
    return Result(
        figures=what | measure(outcome, case.objective),
        curves=curves(outcome),
        endpoint_names=case.fleet.endpoint_names(),
    )


def run_cases(
    recording: Recording,
    cases: Sequence[Case],
    *,
    jobs: int = 1,
    tell: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """The results in the order of the cases; `tell` hears of each in that order, with its number."""
    results: list[Result] = []

    def take(result: Result) -> None:
        if tell:
            tell(len(results), result)
        results.append(result)

    if jobs <= 1 or len(cases) <= 1:
        for case in cases:
            take(run_case(recording, case))
        return results
    with ProcessPoolExecutor(
        min(jobs, len(cases)),
        mp_context=multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn"),
        initializer=_remember,
        initargs=(recording,),
    ) as pool:
        for result in pool.map(_run_remembered, cases):
            take(result)
    return results


_recordings: list[Recording] = []
"""Of a worker process: read once, by the process that asks."""


def _remember(recording: Recording) -> None:
    _recordings[:] = [recording]


def _run_remembered(case: Case) -> Result:
    return run_case(_recordings[0], case)

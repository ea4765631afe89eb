"""One run over sockets and the same one simulated, as rows of equal figures.

Both are of the same requests, fleet, policy and seed, and go through the same `measure`. The pace makes
engines and arrivals faster than life, on both sides alike; the columns are told in the time of the fleet's
own engines. What a run cost this machine is told beside it: a client, a router or an engine that had to wait
for a core says more about the machine than about the policy. And since a moment's delay sends a request, and
all after it, elsewhere, the simulated run is made again with arrivals nudged by as little as sockets may: two
policies whose simulated figures overlap then are not told apart by the simulator either.

Neighbours: stage.py (engines, routers), player.py (client), bench/sim/run.py (the simulated run), ranking.py.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import measure as clocks
from bench.real import prompts
from bench.real.player import Played, Player
from bench.real.stage import Stage, paced, staged
from bench.sim.fleets import Fleet
from bench.sim.measures import Objective, measure
from bench.sim.run import WARM_UP_RATIO, Outcome, State, simulate
from bench.sim.traces import Jitter, Recording, Trace, replay

NUDGED_RUNS = 16
NUDGE_US = 20_000
"""Of an arrival, at most: what a busy machine's client is late by."""
COMPARED = ("requests", "ttft_ms", "tpot_ms", "goodput_ratio", "prefix_hit_ratio", "failed", "preemptions")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run to make, twice."""

    fleet: Fleet
    policy: str
    speed: float
    seed: int
    seconds: float
    """Of the trace, at its speed."""
    pace: float
    jitter: Jitter
    session_count: int
    objective: Objective


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same run over sockets and simulated: figures of `measure`, with what the run was."""

    real: dict[str, Any]
    simulated: dict[str, Any]
    nudged: list[dict[str, Any]]
    """Simulated again, arrivals nudged."""
    machine: dict[str, float]
    """Shares of one core's time, and how late the client was."""
    failures: list[str]


def trace_of(recording: Recording, case: Case) -> Trace:
    """The requests of a case, by the clock of its pace."""
    trace = replay(
        recording, speed=case.speed, seed=case.seed, jitter=case.jitter, session_count=case.session_count
    )
    trace = prompts.finely(prompts.window(trace, case.seconds))
    return replace(trace, arrival_us=(trace.arrival_us / case.pace).astype(np.int64))


def nudged(trace: Trace) -> Iterator[Trace]:
    """The same requests, each a moment later; the same moments for the same trace."""
    for number in range(NUDGED_RUNS):
        later_us = np.random.default_rng(number).integers(0, NUDGE_US, len(trace))
        yield replace(trace, arrival_us=trace.arrival_us + later_us)


def run_pair(recording: Recording, case: Case) -> Pair:
    """Plays and simulates.

    Raises: click.ClickException when a router does not start.
    """
    trace = trace_of(recording, case)
    fleet = paced(case.fleet, case.pace)
    with tempfile.TemporaryDirectory(prefix="fairlead-real-") as folder:
        real, played, machine = asyncio.run(_play(trace, fleet, case, Path(folder)))
    return Pair(
        real=_figures(real, case, "sockets"),
        simulated=_figures(simulate(trace, fleet, case.policy, seed=case.seed), case, "simulator"),
        nudged=[
            _figures(simulate(each, fleet, case.policy, seed=case.seed), case, "simulator, nudged")
            for each in nudged(trace)
        ],
        machine=machine,
        failures=[f"request {index}: {reason}" for index, reason in sorted(played.failures.items())],
    )


async def _play(
    trace: Trace, fleet: Fleet, case: Case, folder: Path
) -> tuple[Outcome, Played, dict[str, float]]:
    async with staged(fleet, case.policy, folder) as stage:
        player = Player(trace, stage.ports, _routers(trace, fleet, case.seed))
        before = _clocks(stage)
        played = await player.play()
        after = _clocks(stage)
        preemptions = [stage.engines.stats(index)["preemptions"] for index in range(fleet.endpoint_count())]
    shares = {name: (after[name] - before[name]) / (after["wall"] - before["wall"]) for name in before}
    del shares["wall"]
    machine = shares | {"late_p99_ms": float(np.percentile(played.late_us, 99)) / 1000}
    outcome = _outcome(trace, fleet, case, played, preemptions)
    return outcome, played, {name: round(value, 4) for name, value in machine.items()}


def _clocks(stage: Stage) -> dict[str, float]:
    """CPU time in ns of routers, client (this thread) and engines (the other one), and waiting for a core."""
    client = time.thread_time_ns()
    return {
        "wall": time.monotonic_ns(),
        "routers": sum(map(clocks.process_cpu_ns, stage.router_pids)),
        "client": client,
        "engines": time.process_time_ns() - client,
        "waited": sum(map(clocks.process_wait_ns, [os.getpid(), *stage.router_pids])),
    }


def _routers(trace: Trace, fleet: Fleet, seed: int) -> NDArray[np.int64]:
    """Which router each request asks: any, or its session's."""
    count = fleet.replicas.count
    drawn = np.random.default_rng(seed).integers(0, count, len(trace)).astype(np.int64)
    by_session = (trace.session % np.uint64(count)).astype(np.int64)
    return np.where(fleet.replicas.by_session & (trace.session > 0), by_session, drawn)


def _outcome(trace: Trace, fleet: Fleet, case: Case, played: Played, preemptions: list[int]) -> Outcome:
    count = len(trace)
    places = {name: index for index, name in enumerate(fleet.endpoint_names())}
    failed = np.zeros(count, np.bool_)
    failed[list(played.failures)] = True
    return Outcome(
        trace=trace,
        fleet=fleet,
        policy=case.policy,
        seed=case.seed,
        faults=(),
        arrival_us=played.arrival_us,
        picked_us=played.arrival_us,
        first_us=played.first_us,
        end_us=played.end_us,
        endpoint=np.asarray([places.get(name, -1) for name in played.endpoint], np.int32),
        models=trace.models,
        model=trace.model,
        cached_tokens=played.cached_tokens,
        state=np.where(failed, State.FAILED, State.DONE).astype(np.uint8),
        failure=failed.astype(np.uint8),
        attempt_count=np.ones(count, np.uint8),
        measured=played.arrival_us >= played.arrival_us[int(count * WARM_UP_RATIO)],
        busy_s=np.zeros(fleet.endpoint_count()),  # a mock engine does not tell
        preemption_count=np.asarray(preemptions, np.int64),
        step_count=0,
        pick_count=count,
    )


def _figures(outcome: Outcome, case: Case, where: str) -> dict[str, Any]:
    """In the time of the fleet's own engines."""

    def slowed(times_us: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.rint(times_us * case.pace), np.int64)

    told = replace(
        outcome,
        arrival_us=slowed(outcome.arrival_us),
        first_us=slowed(outcome.first_us),
        end_us=slowed(outcome.end_us),
    )
    figures = measure(told, case.objective)
    what = {
        "where": where,
        "policy": case.policy,
        "fleet": case.fleet.name,
        "speed": case.speed,
        "seed": case.seed,
    }
    return what | {name: figures[name] for name in COMPARED}

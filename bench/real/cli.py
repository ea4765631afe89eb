"""`fairlead bench real`: a trace over sockets and simulated, and whether the ranking of policies survives.

The options are those of `bench sim` where they mean the same. Exit codes: 0 done; 1 a file that cannot be
read, a router that did not start, or a request that failed; 2 wrong usage. Neighbours: live.py, ranking.py.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import click
import msgspec

from bench.real.live import Case, Pair, run_pair, trace_of
from bench.real.ranking import print_pairs, rankings
from bench.sim import options
from bench.sim.fleets import Fleet
from bench.sim.traces import Jitter


@click.command(context_settings=options.SETTINGS)
@options.with_options(*options.WHAT_IS_PLAYED, *options.HOW_IT_IS_PLAYED)
@click.option(
    "--seconds", default=300.0, type=click.FloatRange(1, 86_400), help="Of the trace, from its begin."
)
@click.option(
    "--pace", default=1.0, type=click.FloatRange(0.1, 100),
    help="Engines and arrivals are so many times faster than life; times are told as if they were not.",
)  # fmt: skip
@options.OBJECTIVE
@options.JSON
def real(
    *,
    trace: Path,
    trace_format: str,
    fleet_names: str,
    policy_texts: str,
    speed_text: str,
    seeds: int,
    jitter: str,
    sessions: int,
    replicas: int | None,
    seconds: float,
    pace: float,
    objective_text: str,
    json_path: Path | None,
) -> None:
    """Play a trace through the real router to mock engines, and simulate the same beside it.

    \b
    fairlead bench real --trace conversation.jsonl.gz --format mooncake --jitter uniform --pace 4
        --fleet mixed-2h100-3a100-3l40s --policy p2c,lmetric,five_axis --speed 1.2 --seconds 600
    """
    named = options.fleets_of(fleet_names, replicas)
    _check(named)
    options.check_place(json_path)
    recording = options.recording_of(trace, trace_format, named)
    policies = options.policies_of(policy_texts)
    objective = options.objective_of(objective_text)
    cases = [
        Case(
            fleet=fleet,
            policy=policy,
            speed=speed,
            seed=seed,
            seconds=seconds,
            pace=pace,
            jitter=Jitter(jitter),
            session_count=sessions,
            objective=objective,
        )
        for fleet, speed, seed, policy in product(
            named, options.speeds_of(speed_text), range(1, seeds + 1), policies
        )
    ]
    if not len(trace_of(recording, cases[0])):
        options.refuse(f"{trace}: nothing comes in its first {seconds:g} s")
    pairs = []
    for number, case in enumerate(cases):
        click.echo(f"{number + 1}/{len(cases)} {case.policy} {case.fleet.name} x{case.speed:g}", err=True)
        pairs.append(run_pair(recording, case))
    ranked = rankings(pairs)
    print_pairs(pairs, ranked)
    if json_path:
        options.write(json_path, _to_json(pairs, ranked))
    sys.exit(1 if any(pair.failures for pair in pairs) else 0)


def _check(named: list[Fleet]) -> None:
    """What mock engines cannot be: without a model, or far away."""
    for fleet in named:
        if any(group.models for group in fleet.endpoints):
            options.refuse(f"fleet {fleet.name}: mock engines do not load models; leave `models` out")


def _to_json(pairs: list[Pair], ranked: list[dict[str, object]]) -> bytes:
    value = {"pairs": [asdict(pair) for pair in pairs], "rankings": ranked}
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"

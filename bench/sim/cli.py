"""`fairlead bench sim`: options in, tables, a JSON and a page out.

Neighbours: sweep.py (makes the runs), tables.py and page.py (show them). Exit codes: 0 done, 1 a file that
cannot be read, 2 wrong usage.
"""

from __future__ import annotations

import os
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import click
import msgspec

from bench.sim import options, tables
from bench.sim.fleets import Fleet
from bench.sim.measures import paired
from bench.sim.page import to_html
from bench.sim.run import Asking, Fault, FaultKind
from bench.sim.sweep import Case, Result, run_cases
from bench.sim.traces import Jitter
from router.schema.words import nearest

FAULT_KINDS = {kind.name.lower(): kind for kind in FaultKind}
_FAULT = re.compile(r"(\w+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?):([\w.-]+|\*)")


@click.command(context_settings=options.SETTINGS)
@options.with_options(*options.WHAT_IS_PLAYED)
@click.option(
    "--fault", "fault_texts", multiple=True, metavar="KIND@START-END:ENDPOINT",
    help=f"Seconds, and an endpoint's name or number, or *. Kinds: {', '.join(FAULT_KINDS)}.",
)  # fmt: skip
@click.option(
    "--model", metavar="NAME",
    help="Model or alias that all requests ask for.  [default: as the trace says]",
)  # fmt: skip
@options.with_options(*options.HOW_IT_IS_PLAYED)
@click.option(
    "--gossip-ms", type=click.FloatRange(0), help="Between tellings; 0: never.  [default: the fleet's]"
)
@options.OBJECTIVE
@click.option("--ask-slo", is_flag=True, help="Requests ask for that time to first token (SLO mode).")
@click.option(
    "--cost-weight", default=0.0, type=click.FloatRange(0), help="Seconds a unit of currency is worth."
)
@options.JSON
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write a page with plots there.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Processes.  [default: one per core]", show_default=False
)
def sim(
    *,
    trace: Path,
    trace_format: str,
    fleet_names: str,
    policy_texts: str,
    speed_text: str,
    seeds: int,
    fault_texts: tuple[str, ...],
    model: str | None,
    jitter: str,
    sessions: int,
    replicas: int | None,
    gossip_ms: float | None,
    objective_text: str,
    ask_slo: bool,
    cost_weight: float,
    json_path: Path | None,
    html_path: Path | None,
    jobs: int | None,
) -> None:
    """Play a trace against modelled engines with the real decision core, in virtual time.

    \b
    fairlead bench sim --trace conversation.jsonl.gz --format mooncake --jitter uniform
        --fleet hom-8xa100 --policy p2c,lmetric,five_axis --speed 0.8,1.0 --seeds 5
    """
    policies = options.policies_of(policy_texts)
    speeds = options.speeds_of(speed_text)
    objective = options.objective_of(objective_text)
    named = options.fleets_of(fleet_names, replicas, gossip_ms)
    faults = tuple(fault_texts)
    per_fleet = {fleet.name: tuple(_fault(text, fleet) for text in faults) for fleet in named}
    options.check_place(json_path, html_path)
    recording = options.recording_of(trace, trace_format, named, model)
    cases = [
        Case(
            fleet=fleet,
            policy=policy,
            speed=speed,
            seed=seed,
            fault_text=",".join(faults) or None,
            faults=per_fleet[fleet.name],
            jitter=Jitter(jitter),
            session_count=sessions,
            asking=Asking(
                ttft_target_s=objective.ttft_s if ask_slo else 0.0,
                ttft_target_token_s=objective.ttft_token_s if ask_slo else 0.0,
                cost_weight_s=cost_weight,
            ),
            objective=objective,
        )
        for fleet, speed, policy, seed in product(named, speeds, policies, range(1, seeds + 1))
    ]
    results = run_cases(recording, cases, jobs=jobs or os.cpu_count() or 1, tell=_progress(len(cases)))
    _clear_progress()
    runs = [result.figures for result in results]
    comparisons = paired(runs, policies[-1])
    tables.print_runs(runs, comparisons)
    if json_path:
        options.write(json_path, to_json(runs, comparisons))
    if html_path:
        options.write(html_path, to_html(results, f"{recording.name} ({trace_format})").encode())


def to_json(runs: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> bytes:
    """The same bytes for the same runs: nothing in it is of today."""
    value = {"runs": runs, "paired": comparisons}
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


# --- options ------------------------------------------------------------------------------------------------


def _fault(text: str, fleet: Fleet) -> Fault:
    found = _FAULT.fullmatch(text)
    if not found:
        raise click.UsageError(f"--fault: {text!r} is not KIND@START-END:ENDPOINT, as in slow@600-800:0")
    word, start, end, endpoint = found.groups()
    if word not in FAULT_KINDS:
        guess = nearest(word, FAULT_KINDS)
        hint = f"{guess!r} perhaps" if guess else f"one of: {', '.join(FAULT_KINDS)}"
        raise click.UsageError(f"--fault: unknown kind {word!r}; {hint}")
    names = fleet.endpoint_names()
    if endpoint == "*":
        index = -1
    elif endpoint in names:
        index = names.index(endpoint)
    elif endpoint.isdecimal() and int(endpoint) < len(names):
        index = int(endpoint)
    else:
        guess = nearest(endpoint, names)
        hint = f"{guess!r} perhaps" if guess else f"there are {', '.join(names)}"
        raise click.UsageError(f"--fault: fleet {fleet.name} has no endpoint {endpoint!r}; {hint}")
    if float(end) <= float(start):
        raise click.UsageError(f"--fault: {text!r} ends before it begins")
    return Fault(FAULT_KINDS[word], index, float(start), float(end))


# --- output -------------------------------------------------------------------------------------------------


def _progress(total: int) -> Any:
    is_terminal = sys.stderr.isatty()

    def tell(number: int, result: Result) -> None:
        if is_terminal:
            what = result.figures
            line = f"{number + 1}/{total} {what['policy']} {what['fleet']} x{what['speed']:g} #{what['seed']}"
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)

    return tell


def _clear_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[2K", nl=False, err=True)

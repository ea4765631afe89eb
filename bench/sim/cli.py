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
from typing import Any, NoReturn

import click
import msgspec

from bench.sim import fleets, tables
from bench.sim.fleets import Fleet, FleetError
from bench.sim.measures import Objective, paired
from bench.sim.page import to_html
from bench.sim.run import Asking, Fault, FaultKind
from bench.sim.sweep import Case, Result, run_cases
from bench.sim.traces import SESSIONS_DEFAULT, Format, Jitter, TraceError, read_trace
from router.schema.policies import PolicyError, parse_policy
from router.schema.words import nearest

FAULT_KINDS = {kind.name.lower(): kind for kind in FaultKind}
_FAULT = re.compile(r"(\w+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?):([\w.-]+|\*)")
_OBJECTIVE = re.compile(r"(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?,(\d+(?:\.\d+)?)")


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.option("--trace", required=True, type=click.Path(path_type=Path), help="Trace file, plain or gzip.")
@click.option(
    "--format", "trace_format", required=True, type=click.Choice([each.value for each in Format]),
    help="Whose columns it has.",
)  # fmt: skip
@click.option(
    "--fleet", "fleet_names", required=True,
    help="A shipped fleet or a YAML file; several with commas.",
)  # fmt: skip
@click.option(
    "--policy", "policy_texts", required=True, metavar="NAME[:KNOB=VALUE]...[,NAME...]",
    help="Policies; others are compared with the last.",
)  # fmt: skip
@click.option("--speed", "speed_text", default="1", metavar="X[,X...]", help="Arrivals come X times as fast.")
@click.option("--seeds", default=1, type=click.IntRange(1, 1000), help="Runs of each, seeds 1 to N.")
@click.option(
    "--fault", "fault_texts", multiple=True, metavar="KIND@START-END:ENDPOINT",
    help=f"Seconds, and an endpoint's name or number, or *. Kinds: {', '.join(FAULT_KINDS)}.",
)  # fmt: skip
@click.option(
    "--jitter", default=Jitter.RAW.value, type=click.Choice([each.value for each in Jitter]),
    help="Of arrivals recorded in lumps.",
)  # fmt: skip
@click.option(
    "--sessions", default=SESSIONS_DEFAULT, type=click.IntRange(1, 1_000_000), help="Of format agents."
)
@click.option("--replicas", type=click.IntRange(1, 64), help="Routers.  [default: the fleet's]")
@click.option(
    "--gossip-ms", type=click.FloatRange(0), help="Between tellings; 0: never.  [default: the fleet's]"
)
@click.option(
    "--slo", "objective_text", default="1000+0.3,100", metavar="TTFT_MS[+MS_PER_TOKEN],TPOT_MS",
    help="When an answer is good.",
)  # fmt: skip
@click.option("--ask-slo", is_flag=True, help="Requests ask for that time to first token (SLO mode).")
@click.option(
    "--cost-weight", default=0.0, type=click.FloatRange(0), help="Seconds a unit of currency is worth."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there.")
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
    policies = _policies(policy_texts)
    speeds = _speeds(speed_text)
    objective = _objective(objective_text)
    named = [_fleet(name, replicas, gossip_ms) for name in fleet_names.split(",")]
    faults = tuple(fault_texts)
    per_fleet = {fleet.name: tuple(_fault(text, fleet) for text in faults) for fleet in named}
    try:
        recording = read_trace(trace, Format(trace_format))
    except TraceError as exc:
        _refuse(str(exc))
    _check_models(named, recording.models)
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
        _write(json_path, to_json(runs, comparisons))
    if html_path:
        _write(html_path, to_html(results, f"{recording.name} ({trace_format})").encode())


def to_json(runs: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> bytes:
    """The same bytes for the same runs: nothing in it is of today."""
    value = {"runs": runs, "paired": comparisons}
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


# --- options ------------------------------------------------------------------------------------------------


def _refuse(message: str) -> NoReturn:
    raise click.ClickException(message)


def _policies(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise click.UsageError("--policy names nothing")
    for policy in found:
        try:
            parse_policy(policy)
        except PolicyError as exc:
            raise click.UsageError(f"--policy: {exc}") from exc
    return list(dict.fromkeys(found))


def _speeds(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise click.UsageError(f"--speed: {text!r} is not a list of numbers") from exc
    if any(not 0 < speed <= 1000 for speed in found):
        raise click.UsageError("--speed: must be above 0 and at most 1000")
    return found


def _objective(text: str) -> Objective:
    found = _OBJECTIVE.fullmatch(text)
    if not found:
        raise click.UsageError(f"--slo: {text!r} is not TTFT_MS[+MS_PER_TOKEN],TPOT_MS, as in 1000+0.3,100")
    ttft_ms, token_ms, tpot_ms = (float(part or 0) for part in found.groups())
    return Objective(ttft_s=ttft_ms / 1000, ttft_token_s=token_ms / 1000, tpot_s=tpot_ms / 1000)


def _fleet(name: str, replicas: int | None, gossip_ms: float | None) -> Fleet:
    try:
        fleet = fleets.load_fleet(name.strip())
    except FleetError as exc:
        _refuse(str(exc))
    own = fleet.replicas
    told = msgspec.structs.replace(
        own,
        count=own.count if replicas is None else replicas,
        gossip_ms=own.gossip_ms if gossip_ms is None else gossip_ms,
    )
    return msgspec.structs.replace(fleet, replicas=told)


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


def _check_models(named: list[Fleet], models: tuple[str, ...]) -> None:
    for fleet, model in product(named, models):
        if model and not any(not group.models or model in group.models for group in fleet.endpoints):
            known = sorted({name for group in fleet.endpoints for name in group.models})
            guess = nearest(model, known)
            hint = f"{guess!r} perhaps" if guess else f"it has {', '.join(known)}"
            _refuse(f"fleet {fleet.name} has no endpoint for the trace's model {model!r}; {hint}")


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


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        _refuse(f"{path}: {exc.strerror or exc}")

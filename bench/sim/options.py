"""What `bench sim` and `bench real` both ask for: the options, and what their texts mean.

Invariant: a text that means nothing ends the command with 2, a file that cannot be read with 1, and the
message names the nearest word that is known. Neighbours: cli.py, bench/real/cli.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
import numpy as np

from bench.sim import fleets
from bench.sim.fleets import Fleet, FleetError
from bench.sim.measures import Objective
from bench.sim.traces import SESSIONS_DEFAULT, Format, Jitter, Recording, TraceError, read_trace
from router.schema.policies import PolicyError, parse_policy
from router.schema.words import nearest

SETTINGS = {"show_default": True, "max_content_width": 100}
_OBJECTIVE = re.compile(r"(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?,(\d+(?:\.\d+)?)")
Function = TypeVar("Function", bound=Callable[..., Any])

WHAT_IS_PLAYED = (
    click.option(
        "--trace", required=True, type=click.Path(path_type=Path), help="Trace file, plain or gzip.",
    ),
    click.option(
        "--format", "trace_format", required=True, type=click.Choice([each.value for each in Format]),
        help="Whose columns it has.",
    ),
    click.option(
        "--fleet", "fleet_names", required=True,
        help="A shipped fleet or a YAML file; several with commas.",
    ),
    click.option(
        "--policy", "policy_texts", required=True, metavar="NAME[:KNOB=VALUE]...[,NAME...]",
        help="Policies, played one after the other.",
    ),
    click.option(
        "--speed", "speed_text", default="1", metavar="X[,X...]", help="Arrivals come X times as fast.",
    ),
    click.option("--seeds", default=1, type=click.IntRange(1, 1000), help="Runs of each, seeds 1 to N."),
)  # fmt: skip
HOW_IT_IS_PLAYED = (
    click.option(
        "--jitter", default=Jitter.RAW.value, type=click.Choice([each.value for each in Jitter]),
        help="Of arrivals recorded in lumps.",
    ),
    click.option(
        "--sessions", default=SESSIONS_DEFAULT, type=click.IntRange(1, 1_000_000), help="Of format agents."
    ),
    click.option("--replicas", type=click.IntRange(1, 64), help="Routers.  [default: the fleet's]"),
)  # fmt: skip
OBJECTIVE = click.option(
    "--slo", "objective_text", default="1000+0.3,100", metavar="TTFT_MS[+MS_PER_TOKEN],TPOT_MS",
    help="When an answer is good.",
)  # fmt: skip
JSON = click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there.")


def with_options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """They are listed in the order given."""

    def apply(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


def refuse(message: str) -> NoReturn:
    raise click.ClickException(message)


def policies_of(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise click.UsageError("--policy names nothing")
    for policy in found:
        try:
            parse_policy(policy)
        except PolicyError as exc:
            raise click.UsageError(f"--policy: {exc}") from exc
    return list(dict.fromkeys(found))


def speeds_of(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise click.UsageError(f"--speed: {text!r} is not a list of numbers") from exc
    if any(not 0 < speed <= 1000 for speed in found):
        raise click.UsageError("--speed: must be above 0 and at most 1000")
    return found


def objective_of(text: str) -> Objective:
    found = _OBJECTIVE.fullmatch(text)
    if not found:
        raise click.UsageError(f"--slo: {text!r} is not TTFT_MS[+MS_PER_TOKEN],TPOT_MS, as in 1000+0.3,100")
    ttft_ms, token_ms, tpot_ms = (float(part or 0) for part in found.groups())
    return Objective(ttft_s=ttft_ms / 1000, ttft_token_s=token_ms / 1000, tpot_s=tpot_ms / 1000)


def fleets_of(text: str, replicas: int | None = None, gossip_ms: float | None = None) -> list[Fleet]:
    """With so many routers, and telling each other so often, where that is said."""
    return [_fleet(name.strip(), replicas, gossip_ms) for name in text.split(",")]


def _fleet(name: str, replicas: int | None, gossip_ms: float | None) -> Fleet:
    try:
        fleet = fleets.load_fleet(name)
    except FleetError as exc:
        refuse(str(exc))
    own = fleet.replicas
    told = msgspec.structs.replace(
        own,
        count=own.count if replicas is None else replicas,
        gossip_ms=own.gossip_ms if gossip_ms is None else gossip_ms,
    )
    return msgspec.structs.replace(fleet, replicas=told)


def recording_of(
    path: Path, trace_format: str, named: Sequence[Fleet], model: str | None = None
) -> Recording:
    """A trace whose models each of the fleets has, or all of which asks for `model`."""
    try:
        recording = read_trace(path, Format(trace_format))
    except TraceError as exc:
        refuse(str(exc))
    if model is not None:
        recording = replace(recording, models=(model,), model=np.zeros_like(recording.model))
    _check_models(named, recording.models, "--model" if model is not None else "the trace's model")
    return recording


def _check_models(named: Sequence[Fleet], models: tuple[str, ...], source: str) -> None:
    for fleet, model in product(named, models):
        if not model or model in fleet.aliases:
            continue
        if not any(not group.models or model in group.models for group in fleet.endpoints):
            known = [*fleet.models(), *fleet.aliases]
            guess = nearest(model, known)
            hint = f"{guess!r} perhaps" if guess else f"it has {', '.join(known)}"
            refuse(f"fleet {fleet.name} has no endpoint for {source} {model!r}; {hint}")


def check_place(*paths: Path | None) -> None:
    """Where something is to be written after a long run is looked at before."""
    for path in paths:
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            refuse(f"{path}: cannot be written there")


def write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        refuse(f"{path}: {exc.strerror or exc}")

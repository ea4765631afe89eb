"""Small traces and fleets for the simulator's tests, and a run of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.sim import fleets, keys
from bench.sim.fleets import Fleet, read_fleet
from bench.sim.traces import Trace
from router.schema.engines import CLASSES

BLOCK_TOKENS = 64


def trace_of(
    arrival_s: Sequence[float],
    prompt_tokens: Sequence[int] | int = 200,
    output_tokens: Sequence[int] | int = 20,
    *,
    prefixes: Sequence[int] | None = None,
    models: tuple[str, ...] = ("",),
    model: Sequence[int] | None = None,
    follows: Sequence[int] | None = None,
    next_turn: Sequence[int] | None = None,
) -> Trace:
    """Requests at these times; those of one number in `prefixes` begin alike, others share nothing."""
    count = len(arrival_s)
    prompts = np.broadcast_to(np.asarray(prompt_tokens, np.int32), (count,)).copy()
    outputs = np.broadcast_to(np.asarray(output_tokens, np.int32), (count,)).copy()
    counts = prompts // BLOCK_TOKENS
    offset = np.r_[0, np.cumsum(counts)].astype(np.int64)
    groups = np.arange(count) if prefixes is None else np.asarray(prefixes)
    depth = np.arange(offset[-1]) - np.repeat(offset[:-1], counts)
    numbers = ((np.repeat(groups, counts) + 1) * 1_000_003 + depth).astype(np.uint64)
    return Trace(
        name="made up",
        block_tokens=BLOCK_TOKENS,
        models=models,
        arrival_us=np.rint(np.asarray(arrival_s) * 1e6).astype(np.int64),
        follows=np.asarray(follows if follows is not None else [-1] * count, np.int32),
        prompt_tokens=prompts,
        output_tokens=outputs,
        model=np.asarray(model if model is not None else [0] * count, np.int32),
        session=(groups + 1).astype(np.uint64),
        block_offset=offset,
        blocks=keys.mixed(numbers),
        next_turn=np.asarray(next_turn if next_turn is not None else [-1] * count, np.int32),
    )


def poisson(rate_per_s: float, count: int, seed: int = 1) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    return [float(value) for value in np.cumsum(gaps)]


def fleet_of(*groups: dict[str, Any], **settings: Any) -> Fleet:
    given = {"regions": {"near": 0}, "endpoints": list(groups) or [{"class": "8b-a100"}]}
    return read_fleet(given | settings, "made up", "made-up")


def engine_class(
    patch: pytest.MonkeyPatch, name: str, figures: tuple[float, float, float, float, float, int]
) -> None:
    """An engine class for one test, without the overhead that every step has."""
    patch.setitem(CLASSES, name, figures)
    patch.setattr(fleets, "OVERHEAD_MS", 0.0)

"""What engines can do: the figures of known classes, and those a configuration gives of an endpoint.

One step of an engine is one batch iteration, and takes

    max(floor, base + token * tokens) + pair * sum of n (context + n / 2) + context * tokens in KV

The step model of the mock engines and of the simulator, and what the router believes of an endpoint
before it has learnt better, read these same figures. Neighbours: config.py (an endpoint's `engine_class`
and `figures`), snapshot.py (which hands them on in seconds), bench/native/step.pyx.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

# (floor, base, per token, attention per token pair, per context token) in ms, KV tokens. The 8B rows and
# the floors and per-token figures of all rows come from Vidur's public profiles (L40S scaled by
# datasheet). For the other rows attention is 4 * hidden * layers FLOP per pair at half of peak, context
# is KV bytes per token at 70 % of bandwidth (both reproduce the 8B rows), base is half the floor, and KV
# tokens are 90 % of memory less the weights.
CLASSES: dict[str, tuple[float, float, float, float, float, int]] = {
    "8b-a100": (9.8, 5.0, 0.0665, 3.4e-6, 9.2e-5, 400_000),
    "8b-h100": (5.6, 3.5, 0.0225, 1.06e-6, 5.6e-5, 400_000),
    "8b-l40s": (22.0, 6.0, 0.068, 3.4e-6, 2.2e-4, 165_000),
    "8b-a100-tp2": (5.7, 2.8, 0.0355, 1.7e-6, 4.6e-5, 970_000),
    "70b-a100-tp4": (25.0, 12.5, 0.161, 4.2e-6, 5.7e-5, 450_000),
    "70b-a100-tp8": (14.4, 7.2, 0.088, 2.1e-6, 2.9e-5, 1_330_000),
    "70b-h100-tp4": (14.5, 7.2, 0.0535, 1.33e-6, 3.5e-5, 450_000),
    "70b-h100-tp8": (8.4, 4.2, 0.029, 6.6e-7, 1.75e-5, 1_330_000),
}
OVERHEAD_MS = 1.0  # scheduling and sampling between two steps, added to every class

CLASS_DEFAULT = "8b-a100"  # what an endpoint of which nothing is said is taken for, until its answers tell
NAMED_CLASSES_MAX = 16  # class numbers below are for names of CLASSES; the others for endpoints on their own
CLASSES_MAX = 256  # that the learner keeps apart, as in native/learner.pxd


class EngineFigures(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine's speed, where it is known better than its class says. The router learns what is not."""

    prefill_us_per_token: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        Meta(description="Microseconds of prefill for each uncached prompt token."),
    ] = None
    prefill_pair_ps: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)] | None,
        Meta(description="Picoseconds of attention for each pair of prompt tokens."),
    ] = None
    step_floor_us: Annotated[
        Annotated[float, Meta(gt=0, le=1e8)] | None,
        Meta(description="Microseconds that a decode step takes at least."),
    ] = None
    step_base_us: Annotated[
        Annotated[float, Meta(ge=0, le=1e8)] | None,
        Meta(description="Microseconds of a step before its first token."),
    ] = None
    context_ns_per_token: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)] | None,
        Meta(description="Nanoseconds of a decode step for each token in the KV cache."),
    ] = None
    kv_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(description="Tokens that its KV cache holds."),
    ] = None


class FigureTables(Struct, frozen=True, kw_only=True, gc=False):
    """The same for native code (engine_figures_t): seconds, tokens, one currency; every field filled."""

    engine_class: int
    token_s: float
    pair_s: float
    floor_s: float
    base_s: float
    context_s: float
    kv_capacity_tokens: float
    input_price: float
    output_price: float
    second_price: float
    rtt_s: float


def class_number(name: str | None, slot: int) -> int:
    """Endpoints of one number learn together: those of a named class, and each other one alone (by slot)."""
    if name is not None:
        return list(CLASSES).index(name)
    return NAMED_CLASSES_MAX + slot % (CLASSES_MAX - NAMED_CLASSES_MAX)


def figures_of(
    name: str | None,
    given: EngineFigures,
    slot: int,
    *,
    input_price: float,
    output_price: float,
    second_price: float,
    rtt_s: float,
) -> FigureTables:
    """What is believed of an engine at first: what was given, else its class's figures, else CLASS_DEFAULT's.

    The KV cache of an endpoint of which neither class nor `kv_tokens` is given is not known: 0.
    """
    floor_ms, base_ms, token_ms, pair_ms, context_ms, kv_tokens = CLASSES[name or CLASS_DEFAULT]
    if name is None:
        kv_tokens = 0

    def seconds(figure: float | None, unit_s: float, class_ms: float) -> float:
        return class_ms / 1e3 if figure is None else figure * unit_s

    return FigureTables(
        engine_class=class_number(name, slot),
        token_s=seconds(given.prefill_us_per_token, 1e-6, token_ms),
        pair_s=seconds(given.prefill_pair_ps, 1e-12, pair_ms),
        floor_s=seconds(given.step_floor_us, 1e-6, floor_ms),
        base_s=seconds(given.step_base_us, 1e-6, base_ms),
        context_s=seconds(given.context_ns_per_token, 1e-9, context_ms),
        kv_capacity_tokens=float(given.kv_tokens or kv_tokens),
        input_price=input_price,
        output_price=output_price,
        second_price=second_price,
        rtt_s=rtt_s,
    )

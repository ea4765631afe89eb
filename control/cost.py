"""What a token costs at an endpoint, measured: the money of a stretch of time over the tokens served in it.

A machine is paid for by the hour, busy or not, and its energy by the kilowatt-hour:

    money = (gpu_hour * gpus / 3600 + kwh * watts / 3.6e6) * seconds

Prefill and decode share it as they share the machine's time, of which idle time is shared in proportion:

    prefill_s = uncached prompt tokens * token_s
    decode_s  = generated tokens * max(floor_s, base_s + token_s * batch) / batch
    price of a prompt token    = money * prefill_s / (prefill_s + decode_s) / prompt tokens
    price of a generated token = money * decode_s  / (prefill_s + decode_s) / generated tokens

The two times are those of the step model in router/schema/engines.py, without its terms of attention and
context; batch is the mean number of running requests. That a step's time is the sum of what is in it is that
model's assumption, and makes the shares add up where prefill and decode run in one step. Prompt tokens count
cached ones too, for the score multiplies by whole prompts. So a price falls as load rises.

Invariant: a price is finite and not negative, or not known: an endpoint that serves next to nothing has none.
The clock comes in. Neighbours: scrape.py (counters, watts), router/schema/config.py (prices).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from control.reading import Fact
from router import limits
from router.schema.config import Endpoint
from router.schema.engines import figures_of

TOKENS_MIN = 1000.0
"""Prompt and generated tokens of a window, together: with fewer, one request more is another price."""

GAP_S_MAX = 30.0
"""Between two values of watts or of running requests: what was in a longer gap is not known."""

VALUE_MAX = 1e15  # of a counter: thirty years of a million tokens a second
PRICE_MAX = 1e9  # of a million tokens, as in router/schema/kinds.Price
JOULES_PER_KWH = 3.6e6


class CostBasis(Struct, frozen=True, kw_only=True):
    """What an endpoint's work is paid by, in any one currency, and how its machine divides its time."""

    input_per_million_tokens: float | None = None
    output_per_million_tokens: float | None = None
    """Where tokens are what is paid for, they are the measure already."""
    gpu_hour: float | None = None
    """Of one GPU, or of the machine with `gpus` 1."""
    gpus: int = 1
    kwh: float = 0.0
    token_s: float
    floor_s: float
    base_s: float


class MeasuredCost(Struct, frozen=True, kw_only=True):
    """What tokens cost now."""

    input_per_million_tokens: float | None
    output_per_million_tokens: float | None
    money_per_s: float | None = None
    """None where tokens are paid for."""
    joules_per_token: float | None = None
    """Of either kind; None where the draw is not known."""
    window_s: float = 0.0
    """What it was measured over; 0: it was not, but is as listed."""


def basis_of(endpoint: Endpoint, *, gpus: int = 1, kwh: float = 0.0) -> CostBasis:
    """From an endpoint's prices, its engine's class and figures."""
    price = endpoint.price
    figures = figures_of(
        endpoint.engine_class and endpoint.engine_class.value,
        endpoint.figures,
        0,
        input_price=0.0,
        output_price=0.0,
        second_price=0.0,
        rtt_s=0.0,
    )
    return CostBasis(
        input_per_million_tokens=price.input_per_million_tokens,
        output_per_million_tokens=price.output_per_million_tokens,
        gpu_hour=price.gpu_hour,
        gpus=gpus,
        kwh=kwh,
        token_s=figures.token_s,
        floor_s=figures.floor_s,
        base_s=figures.base_s,
    )


class CostMeter:
    """One endpoint's counters and gauges of the last `window_s`, and what they come to."""

    def __init__(self, *, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._prompt = _Counter(window_s)
        self._cached = _Counter(window_s)
        self._generated = _Counter(window_s)
        self._watts = _Gauge(window_s)
        self._running = _Gauge(window_s)

    def observe(self, facts: Iterable[Fact], at_s: float) -> None:
        """What was told of it at that time; what does not matter to cost is passed over."""
        if not math.isfinite(at_s):
            return
        for fact in facts:
            if not 0 <= fact.value <= VALUE_MAX:
                continue
            match fact.kind:
                case "prompt_tokens":
                    self._prompt.observe(fact.value, at_s)
                case "cached_tokens":
                    self._cached.observe(fact.value, at_s)
                case "generation_tokens":
                    self._generated.observe(fact.value, at_s)
                case "watts":
                    self._watts.observe(fact.value, at_s)
                case "running":
                    self._running.observe(fact.value, at_s)

    def cost(self, basis: CostBasis, now_s: float) -> MeasuredCost | None:
        """None: nobody knows: not priced, or too little was served, or nothing was told."""
        if basis.gpu_hour is None and (
            basis.input_per_million_tokens is not None or basis.output_per_million_tokens is not None
        ):
            return MeasuredCost(
                input_per_million_tokens=basis.input_per_million_tokens or 0.0,
                output_per_million_tokens=basis.output_per_million_tokens or 0.0,
            )
        watts = self._watts.mean(now_s)
        if basis.gpu_hour is None and not (basis.kwh and watts is not None):
            return None
        prompt, prompt_window_s = self._prompt.increase(now_s)
        generated, window_s = self._generated.increase(now_s)
        if window_s <= 0 or prompt_window_s <= 0 or prompt + generated < TOKENS_MIN:
            return None
        prompt *= window_s / prompt_window_s  # they may come on different pages
        cached, cached_window_s = self._cached.increase(now_s)
        cached = min(cached * window_s / cached_window_s, prompt) if cached_window_s > 0 else 0.0

        money_per_s = (basis.gpu_hour or 0.0) * basis.gpus / 3600 + basis.kwh * (
            watts or 0.0
        ) / JOULES_PER_KWH
        batch = max(self._running.mean(now_s) or 0.0, 1.0)
        prefill_s = (prompt - cached) * basis.token_s
        decode_s = generated * max(basis.floor_s, basis.base_s + basis.token_s * batch) / batch
        work_s = prefill_s + decode_s
        money = money_per_s * window_s
        return MeasuredCost(
            input_per_million_tokens=_per_million(money * _share(prefill_s, work_s), prompt),
            output_per_million_tokens=_per_million(money * _share(decode_s, work_s), generated),
            money_per_s=money_per_s,
            joules_per_token=None if watts is None else watts * window_s / (prompt + generated),
            window_s=window_s,
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _per_million(money: float, tokens: float) -> float | None:
    if tokens < 1:
        return None
    price = money / tokens * 1e6
    return price if price <= PRICE_MAX else None


class _Counter:
    """What a counter has counted since it was first seen; one that falls was begun again, from 0."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._last: float | None = None
        self._total = 0.0
        self._points: deque[tuple[float, float]] = deque(maxlen=limits.COST_POINTS_MAX)

    def observe(self, value: float, at_s: float) -> None:
        if self._points and at_s <= self._points[-1][0]:
            return
        if self._last is not None:
            self._total += value - self._last if value >= self._last else value
        self._last = value
        self._points.append((at_s, self._total))

    def increase(self, now_s: float) -> tuple[float, float]:
        """By how much, and over how many seconds; of the points within the window."""
        while self._points and self._points[0][0] < now_s - self._window_s:
            self._points.popleft()
        if len(self._points) < 2:
            return 0.0, 0.0
        (begin_s, before), (end_s, after) = self._points[0], self._points[-1]
        return after - before, end_s - begin_s


class _Gauge:
    """The mean of a gauge over time: each value holds from the one before it."""

    def __init__(self, window_s: float) -> None:
        self._area = _Counter(window_s)
        self._known = _Counter(window_s)
        self._area_total = self._known_total = 0.0
        self._last: tuple[float, float] | None = None

    def observe(self, value: float, at_s: float) -> None:
        if self._last is not None and at_s <= self._last[0]:
            return
        gap_s = at_s - self._last[0] if self._last is not None else 0.0
        if gap_s <= GAP_S_MAX:
            self._area_total += value * gap_s
            self._known_total += gap_s
        self._last = (at_s, value)
        self._area.observe(self._area_total, at_s)
        self._known.observe(self._known_total, at_s)

    def mean(self, now_s: float) -> float | None:
        """None: nothing was told for longer than a gap may be."""
        area, _ = self._area.increase(now_s)
        known_s, _ = self._known.increase(now_s)
        if known_s > 0:
            return area / known_s
        if self._last is None or now_s - self._last[0] > GAP_S_MAX:
            return None
        return self._last[1]

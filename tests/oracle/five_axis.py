"""The five-axis score, slow and obvious: what native/policy_five_axis must answer for the same accounts.

Plain floats and one candidate at a time, from the formulas of docs/explanation/decision.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

RUNNING_WEIGHT = 0.02
PRESSURE_GAIN = 2.0
ANSWER_PRIOR_S = 5.0
IDLE_SHARE = 1 / 3
PRESSURE_ON_DECODE = 2.0
WAITED_S_MIN = 0.05


@dataclass(frozen=True)
class Knobs:
    """In the order of native code."""

    beta: float = 1.25
    gamma: float = 0.3
    kappa: float = 3.0
    band_ratio: float = 0.02
    band_ms: float = 2.0
    cost_weight: float = 0.0
    barrier_s: float = 0.15
    error_s: float = 6.0
    ratio_mode: float = 0.0
    slo_penalty: float = 100.0
    switch_ms: float = 20.0
    session_s: float = 3600.0
    eta: float = 4.0
    power_s: float = 0.15
    phi: float = 0.2

    def in_order(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True)
class Candidate:
    """One endpoint as a pick sees it: its account, its figures, and what was learnt of it."""

    in_flight: float
    decoding: float
    queued_s: float
    queued_tokens: float
    kv_tokens: float
    hit_tokens: float
    eviction: float
    token_s: float
    pair_s: float
    floor_s: float
    base_s: float
    context_s: float
    input_price: float
    output_price: float
    second_price: float
    theta: Sequence[float]
    residual: float
    step_residual: float
    sigma: float
    bias_s: float
    others_s: float  # of this, for explaining it
    is_partial: bool
    barrier: float
    power_barrier: float
    error: float
    ramp: float
    share_s: float
    slowness: float
    load_s: float = 0.0  # until the model is in memory there
    harm_s: float = 0.0  # what that load costs others
    switch_s: float = 0.0  # for a session that was elsewhere

    def uncached(self, prompt_tokens: float) -> float:
        return max(1.0, prompt_tokens - min(self.hit_tokens, prompt_tokens))


@dataclass
class Running:
    """What the score remembers of the picks before: how much was cached, waits, and how long answers take."""

    prompt: float = 0.0
    hit: float = 0.0
    queued_s: float = 0.0
    waited_s: float = 0.0
    answer_s: float = ANSWER_PRIOR_S
    picks: list[int] = field(default_factory=list)

    @property
    def again(self) -> float:
        hit_ratio = min(1.0, self.hit / max(self.prompt, 1.0))
        return hit_ratio / (1.02 - hit_ratio)

    @property
    def delay_weight(self) -> float:
        return min(PRESSURE_GAIN * self.queued_s, self.waited_s) / max(self.waited_s + self.answer_s, 0.001)

    @property
    def behind_weight(self) -> float:
        return 1 / max(self.waited_s, WAITED_S_MIN)

    @property
    def crowd_weight(self) -> float:
        return 1 + PRESSURE_ON_DECODE * min(1.0, self.queued_s * self.behind_weight)

    def note(self, winner: Candidate, prompt_tokens: float, output_tokens: float) -> None:
        waited_s = winner.queued_s + winner.token_s * winner.uncached(prompt_tokens) + 0.05
        self.prompt += (prompt_tokens - self.prompt) * RUNNING_WEIGHT
        self.hit += (winner.hit_tokens - self.hit) * RUNNING_WEIGHT
        self.queued_s += (winner.queued_s - self.queued_s) * RUNNING_WEIGHT
        self.waited_s += (waited_s - self.waited_s) * RUNNING_WEIGHT
        answer_s = output_tokens * step_s(winner, prompt_tokens)
        self.answer_s += (answer_s - self.answer_s) * RUNNING_WEIGHT


def step_s(one: Candidate, prompt_tokens: float) -> float:
    """A decode step with this stream in it."""
    step = max(one.floor_s, one.base_s + one.token_s * (one.in_flight + 1))
    return step + one.context_s * (one.kv_tokens + prompt_tokens)


def idle_s(one: Candidate, prompt_tokens: float) -> float:
    """A decode step with this stream alone."""
    return max(one.floor_s, one.base_s + one.token_s) + one.context_s * prompt_tokens


def score(
    knobs: Knobs,
    one: Candidate,
    running: Running,
    prompt_tokens: float,
    output_tokens: float,
    target_s: float,
    mean_token_s: float,
) -> float:
    n = one.uncached(prompt_tokens)
    if knobs.ratio_mode:
        ratio = (one.queued_tokens + n) * (one.in_flight + 1) * one.token_s * one.residual
        return ratio + one.load_s + one.harm_s + one.switch_s
    work = (one.token_s * n + one.pair_s * n * (prompt_tokens - n / 2)) * one.ramp
    fitted = one.theta[0] + one.theta[1] * one.queued_s + one.theta[2] * work + one.theta[3] * one.decoding
    ttft = max(0.3 * (one.queued_s + work) + one.theta[0], fitted) * one.residual + one.bias_s + one.load_s
    step = step_s(one, prompt_tokens)
    cost = one.input_price * prompt_tokens + one.output_price * output_tokens
    cost += one.second_price * (work + output_tokens * one.share_s)
    if target_s:
        late = max(0.0, ttft * math.exp(1.645 * one.sigma) - target_s)
        total = 0.01 * ttft + knobs.slo_penalty * late
    else:
        total = ttft
    total += one.harm_s + one.switch_s
    total += knobs.beta * running.delay_weight * work * one.in_flight * one.ramp * one.slowness
    total += knobs.phi * running.behind_weight * work * one.queued_s * one.residual
    idle = idle_s(one, prompt_tokens)
    decode = running.crowd_weight * (step * one.slowness - idle) + IDLE_SHARE * idle
    total += knobs.gamma * output_tokens * decode
    total += knobs.kappa * running.again * mean_token_s * n
    total += knobs.eta * one.eviction * mean_token_s * min(n, running.prompt) * one.in_flight
    total += knobs.cost_weight * cost
    total += knobs.barrier_s * one.barrier + knobs.power_s * one.power_barrier
    return total + knobs.error_s * one.error

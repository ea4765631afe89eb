"""The policies that weigh every candidate, slow and obvious: what each one's score must be, and who may win.

A score is lower for a better candidate, as in native code; who has none may not win. What policies remember
between picks is here, too, as whole histories that nothing is ever dropped from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from router.schema.policies import (
    BasePolicy,
    Dynamo,
    Llmd,
    Lmetric,
    Loadaware,
    Mooncake,
    PeakEwma,
    Prequal,
    Smetric,
    SmgCacheAware,
    Sticky,
)
from tests.oracle.pick import Words

HOT = 1e6


@dataclass(frozen=True)
class Endpoint:
    """What the view knows of one candidate."""

    in_flight: int = 0
    pending: int = 0
    queued_tokens: int = 0
    queued_s: float = 0.0
    kv_tokens: int = 0
    hit_tokens: int = 0
    is_refused: bool = False
    token_s: float = 1e-4
    pair_s: float = 1e-9
    inverse_kv: float = 0.0


class Memory:
    """All that was ever observed of endpoints."""

    def __init__(self) -> None:
        self.peaks: dict[int, tuple[float, int]] = {}
        self.latencies: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.rates: dict[int, list[float]] = defaultdict(list)
        self.polls: dict[int, tuple[int, float, float]] = {}
        self.decay_s = 10.0

    def first_token(
        self, slot: int, ttft_s: float, now_us: int, uncached_tokens: int = 0, in_flight: int = 0
    ) -> None:
        self._observe_peak(slot, ttft_s, now_us)
        self.latencies[slot, min(in_flight.bit_length(), 11)].append(ttft_s)
        if uncached_tokens:
            self.rates[slot].append(uncached_tokens / ttft_s)

    def ended_early(self, slot: int, begun_us: int, now_us: int, failed: bool, in_flight: int = 0) -> None:
        elapsed_s = max((now_us - begun_us) / 1e6, 1e-6)
        self._observe_peak(slot, elapsed_s, now_us)
        if failed:
            seen = [s for (at, _), values in self.latencies.items() if at == slot for s in values[-5:]]
            self.latencies[slot, min(in_flight.bit_length(), 11)].append(2 * max([1.0, elapsed_s, *seen]))

    def _observe_peak(self, slot: int, latency_s: float, now_us: int) -> None:
        if slot not in self.peaks or latency_s > self.peaks[slot][0]:
            peak_s = latency_s
        else:
            keep = self._kept(slot, now_us)
            peak_s = self.peaks[slot][0] * keep + latency_s * (1 - keep)
        self.peaks[slot] = peak_s, max(now_us, self.peaks.get(slot, (0, 0))[1])

    def _kept(self, slot: int, now_us: int) -> float:
        return math.exp(-max(now_us - self.peaks[slot][1], 0) / 1e6 / self.decay_s)

    def peak_s(self, slot: int, guess_s: float, decay_s: float, now_us: int) -> float:
        self.decay_s = decay_s
        self.peaks.setdefault(slot, (guess_s, now_us))
        return self.peaks[slot][0] * self._kept(slot, now_us)

    def latency_s(self, slot: int, in_flight: int) -> float:
        known = [bucket for at, bucket in self.latencies if at == slot]
        if not known:
            return 0.0
        here = min(in_flight.bit_length(), 11)
        nearest = min(known, key=lambda bucket: (abs(bucket - here), bucket))
        return median_low(self.latencies[slot, nearest][-5:])

    def rate(self, slot: int) -> float:
        last = sorted(self.rates[slot][-64:])
        return last[math.floor(0.9 * (len(last) - 1) + 0.5)] if len(last) >= 8 else 0.0

    def poll(self, slot: int, age_us: int, now_us: int, pending: float, kv: float) -> tuple[float, float]:
        if age_us == 0:
            return pending, kv
        if slot not in self.polls or now_us >= self.polls[slot][0] + age_us:
            self.polls[slot] = now_us, pending, kv
        return self.polls[slot][1:]


@dataclass(frozen=True)
class Situation:
    """One pick: candidates whose slots are their positions."""

    endpoints: list[Endpoint]
    prompt_tokens: int = 0
    random: int = 0
    now_us: int = 1
    memory: Memory = field(default_factory=Memory)

    @property
    def eligible(self) -> list[int]:
        return [position for position, endpoint in enumerate(self.endpoints) if not endpoint.is_refused]

    def uncached(self, position: int) -> int:
        return max(self.prompt_tokens - self.endpoints[position].hit_tokens, 1)

    def share(self, position: int) -> float:
        """Of the prompt, cached there."""
        return self.endpoints[position].hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


def draw(situation: Situation, wanted: int) -> list[int]:
    """Distinct eligible positions by the request's random word."""
    words, count, found = Words(situation.random), len(situation.endpoints), []
    if count > 16 and count > 2 * wanted:
        for _ in range(8 * wanted):
            position = words.below(count)
            if position in situation.eligible and position not in found:
                found.append(position)
                if len(found) == wanted:
                    return found
    found = []
    for seen, position in enumerate(situation.eligible, 1):
        if seen <= wanted:
            found.append(position)
        elif (place := words.below(seen)) < wanted:
            found[place] = position
    return found


Scores = dict[int, float]


def peak_ewma(situation: Situation, policy: PeakEwma) -> Scores:
    return {
        position: (situation.endpoints[position].pending + 1)
        * situation.memory.peak_s(
            position, policy.first_guess_ms / 1e3, policy.decay_ms / 1e3, situation.now_us
        )
        for position in draw(situation, 2)
    }


def prequal(situation: Situation, policy: Prequal) -> Scores:
    pool = draw(situation, policy.pool)
    loads = sorted(situation.endpoints[position].in_flight for position in pool)
    theta = loads[max(math.ceil(round(policy.q_rif * len(pool), 4)), 1) - 1] if pool else 0
    scores = {}
    for position in pool:
        load = situation.endpoints[position].in_flight
        is_cold = load <= theta
        scores[position] = situation.memory.latency_s(position, load) if is_cold else HOT + load
    return scores


def smg_cache_aware(situation: Situation, policy: SmgCacheAware) -> Scores:
    endpoints, eligible = situation.endpoints, situation.eligible
    loads = {position: float(endpoints[position].in_flight) for position in eligible}
    least, most = min(loads.values(), default=0), max(loads.values(), default=0)
    if most - least > policy.balance_abs and most > policy.balance_rel * least:
        return loads
    if max((situation.share(position) for position in eligible), default=0) > policy.cache_threshold:
        return {position: -float(endpoints[position].hit_tokens) for position in eligible}
    return loads


def loadaware(situation: Situation, policy: Loadaware) -> Scores:
    loads = {position: situation.endpoints[position].in_flight for position in situation.eligible}
    mean = sum(loads.values()) / len(loads) if loads else 0.0
    return {
        position: policy.beta * (load - mean) / max(1.0, mean) - situation.share(position)
        for position, load in loads.items()
    }


def llmd(situation: Situation, policy: Llmd) -> Scores:
    """The original's sum, to be greatest, taken from the sum of its weights but for the prefix's."""
    age_us = int(policy.poll_ms * 1000)
    polled = {}
    for position, endpoint in enumerate(situation.endpoints):
        kv = min(endpoint.kv_tokens * endpoint.inverse_kv, 1.0)
        polled[position] = situation.memory.poll(position, age_us, situation.now_us, endpoint.pending, kv)
    queues = [polled[position][0] for position in situation.eligible]
    scores = {}
    for position in situation.eligible:
        waiting, kv = polled[position]
        most, least = max(queues), min(queues)
        queue = (most - waiting) / (most - least) if most > least else 1.0
        scores[position] = (
            policy.queue_weight * (1 - queue)
            + policy.kv_weight * kv
            - policy.prefix_weight * situation.share(position)
        )
    return scores


def sticky(situation: Situation, policy: Sticky) -> Scores:
    queued = {position: situation.endpoints[position].queued_tokens for position in situation.eligible}
    left = set(queued)
    holders = {
        position
        for position in left
        if situation.prompt_tokens
        and situation.endpoints[position].hit_tokens >= policy.affinity_ratio * situation.prompt_tokens
    }
    others = left - holders
    if holders:
        least = min(queued[position] for position in holders)
        least_other = min((queued[position] for position in others), default=math.inf)
        if not least - least_other > policy.saturated_tokens:
            left = holders
    return {position: float(queued[position] + situation.uncached(position)) for position in left}


def dynamo(situation: Situation, policy: Dynamo) -> Scores:
    block, asked = policy.block_tokens, max(situation.prompt_tokens, 1)
    floor = min((situation.endpoints[position].queued_tokens for position in situation.eligible), default=0)
    scores = {}
    for position in situation.eligible:
        endpoint = situation.endpoints[position]
        excess_ratio = (endpoint.queued_tokens - floor) / asked
        credit = policy.overlap_credit / (1 + policy.credit_decay * excess_ratio)
        prefill = max(0.0, (endpoint.queued_tokens + asked - credit * endpoint.hit_tokens) / block)
        scores[position] = (
            policy.prefill_scale * prefill
            + endpoint.kv_tokens / block
            + policy.request_weight * endpoint.in_flight
        )
    return scores


def lmetric(situation: Situation, policy: Lmetric) -> Scores:
    return {
        position: (
            policy.queue_weight * situation.endpoints[position].queued_tokens + situation.uncached(position)
        )
        * (situation.endpoints[position].in_flight + 1)
        for position in situation.eligible
    }


def smetric(situation: Situation, policy: Smetric) -> Scores:
    endpoints, eligible = situation.endpoints, situation.eligible
    work = {
        position: float(endpoints[position].queued_tokens + situation.uncached(position))
        for position in eligible
    }
    target_s = policy.slack * (policy.ttft_s + policy.ttft_s_per_1k * situation.prompt_tokens / 1000)

    def meets(position: int) -> bool:
        rate = situation.memory.rate(position)
        return not rate or work[position] / rate <= target_s

    longest = max((endpoints[position].hit_tokens for position in eligible), default=0)
    if longest > 0 and longest > policy.hit_ratio * situation.prompt_tokens:
        holders = {
            position: work[position] for position in eligible if endpoints[position].hit_tokens == longest
        }
        nearest = [position for position in holders if holders[position] == min(holders.values())]
        if any(meets(position) for position in nearest) or not any(map(meets, eligible)):
            return holders
    return {position: work[position] * endpoints[position].in_flight for position in eligible}


def mooncake(situation: Situation, _policy: Mooncake) -> Scores:
    scores = {}
    for position in situation.eligible:
        endpoint, uncached = situation.endpoints[position], situation.uncached(position)
        pairs = uncached * max(situation.prompt_tokens - uncached / 2, 0.0)
        scores[position] = endpoint.queued_s + endpoint.token_s * uncached + endpoint.pair_s * pairs
    return scores


SCORES: dict[type[BasePolicy], Callable[[Situation, Any], Scores]] = {
    PeakEwma: peak_ewma,
    Prequal: prequal,
    SmgCacheAware: smg_cache_aware,
    Loadaware: loadaware,
    Llmd: llmd,
    Sticky: sticky,
    Dynamo: dynamo,
    Lmetric: lmetric,
    Smetric: smetric,
    Mooncake: mooncake,
}

"""Rivals with all that a decision has: a prefix table, a learner, a memory of their attempts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from router.native.decision import Decider
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.pick import random_words
from router.native.prefix import PrefixTable
from router.schema.engines import EngineFigures, figures_of
from router.schema.policies import POLICIES, BasePolicy, PeakEwma, Prequal, Smetric

NOW_US = 1_000_000_000
SLOTS = range(8)
TURN_ONE: dict[str, Any] = {"blocks": [11, 22, 33], "block_tokens": [500, 1000, 1900], "prompt_tokens": 2000}
TURN_TWO: dict[str, Any] = {
    "blocks": [11, 22, 33, 44],
    "block_tokens": [500, 1000, 1900, 2300],
    "prompt_tokens": 2400,
}
KNOW_PROMPTS = ["smg_cache_aware", "loadaware", "llmd", "sticky", "dynamo", "lmetric", "smetric", "mooncake"]
EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
CACHE_POLICIES = pytest.mark.parametrize(
    "policy", [POLICIES[name] for name in KNOW_PROMPTS], ids=KNOW_PROMPTS
)


def fresh(fast_slot: int | None = None) -> Decider:
    learner = Learner.create(16)
    for slot in SLOTS:
        name = "8b-h100" if slot == fast_slot else "8b-a100"
        prices = {"input_price": 0.0, "output_price": 0.0, "second_price": 0.0, "rtt_s": 0.0}
        learner.set_figures(slot, figures_of(name, EngineFigures(), slot, **prices))
    decider = Decider(LoadTable.create(16, 1), PrefixTable.create(1 << 20, 16), learner)
    decider.remember([policy.KIND for policy in POLICIES.values()])
    decider.reserve(len(SLOTS))
    return decider


@EVERY_POLICY
def test_a_policy_decides_from_first_request_to_last(policy: type[BasePolicy]) -> None:
    decider, now_us = fresh(), NOW_US
    for word in random_words(1, 60):
        now_us += 5_000
        decision = decider.decide(
            policy.KIND, SLOTS, knobs=policy().knobs(), random=word, key=word % 7, now_us=now_us, **TURN_ONE
        )
        assert decision.slot in SLOTS
        now_us += 100_000
        decider.first_token(decision, now_us)
        decider.end(decision, now_us + 50_000, prompt_tokens=2000, cached_tokens=0)
    assert decider.load.total_in_flight() == 0


@CACHE_POLICIES
def test_a_conversation_returns_to_where_its_first_turn_was(policy: type[BasePolicy]) -> None:
    for word in random_words(2, 10):
        decider = fresh()
        asked: dict[str, Any] = {"knobs": policy().knobs(), "random": word}
        first = decider.decide(policy.KIND, SLOTS, now_us=NOW_US, **asked, **TURN_ONE)
        decider.first_token(first, NOW_US + 200_000)
        decider.end(first, NOW_US + 900_000)
        second = decider.decide(policy.KIND, SLOTS, now_us=NOW_US + 1_000_000, **asked, **TURN_TWO)
        assert second.slot == first.slot


@CACHE_POLICIES
def test_what_all_have_cached_goes_to_all(policy: type[BasePolicy]) -> None:
    """However differently their engines' reports agree with what was expected of them."""
    winners: Counter[int | None] = Counter()
    decider = fresh()
    prefix = decider.prefix
    assert prefix is not None
    for slot in SLOTS:
        prefix.insert([11], [500], slot, 500, NOW_US)
        for _ in range(slot):
            prefix.reported(slot, 500, 480)
    assert len({prefix.trust(slot) for slot in SLOTS}) == len(SLOTS)
    now_us = NOW_US
    for word in random_words(3, 200):
        now_us += 1_000_000
        decision = decider.decide(
            policy.KIND,
            SLOTS,
            knobs=policy().knobs(),
            random=word,
            now_us=now_us,
            blocks=[11],
            block_tokens=[500],
            prompt_tokens=600,
        )
        winners[decision.slot] += 1
        decider.end(decision, now_us + 1)
    assert set(winners) == set(SLOTS)


def test_only_the_calibrated_argmin_knows_that_engines_differ() -> None:
    asked: dict[str, Any] = {"now_us": NOW_US, "prompt_tokens": 3000}
    for policy in POLICIES.values():
        winners = {
            fresh(fast_slot=5).decide(policy.KIND, SLOTS, knobs=policy().knobs(), random=word, **asked).slot
            for word in random_words(4, 30)
        }
        assert (winners == {5}) == (policy.name() in ("mooncake", "five_axis")), policy.name()


def test_smetric_leaves_a_holder_that_will_miss_the_target() -> None:
    decider, policy = fresh(), Smetric(ttft_s=0.5, ttft_s_per_1k=0.0)
    kind, knobs, now_us = policy.KIND, policy.knobs(), NOW_US
    holder = decider.decide(kind, SLOTS, knobs=knobs, random=9, now_us=now_us, **TURN_ONE)
    assert holder.slot is not None
    for _ in range(10):  # 1,000 tokens a second, as measured
        slow = decider.decide(kind, [holder.slot], knobs=knobs, now_us=now_us, prompt_tokens=1000)
        now_us += 1_000_000
        decider.first_token(slow, now_us)
        decider.end(slow, now_us)
    asked: dict[str, Any] = {"knobs": knobs, "now_us": now_us}
    short = {**TURN_ONE, "prompt_tokens": 2100}  # 200 new, but 2,000 are queued: 2.2 s
    assert decider.decide(kind, SLOTS, **asked, random=1, **short).slot != holder.slot
    decider.first_token(holder, now_us)
    decider.end(holder, now_us)
    assert decider.decide(kind, SLOTS, **asked, random=1, **short).slot == holder.slot


def test_peak_ewma_avoids_whoever_was_slow() -> None:
    decider, policy = fresh(), PeakEwma()
    now_us = NOW_US
    for slot, ttft_us in ((0, 900_000), (1, 50_000)):
        decision = decider.decide(policy.KIND, [slot], knobs=policy.knobs(), now_us=now_us, prompt_tokens=100)
        decider.first_token(decision, now_us + ttft_us)
        decider.end(decision, now_us + ttft_us)
    now_us += 1_000_000
    winners = {
        decider.decide(policy.KIND, [0, 1], knobs=policy.knobs(), random=word, now_us=now_us).slot
        for word in random_words(5, 1)
    }
    assert winners == {1}


@pytest.mark.parametrize("policy", [PeakEwma(), Prequal()], ids=["peak_ewma", "prequal"])
def test_who_fails_before_a_first_token_is_remembered_as_slow(policy: BasePolicy) -> None:
    decider, now_us = fresh(), NOW_US
    for slot in (0, 1):
        decision = decider.decide(policy.KIND, [slot], knobs=policy.knobs(), now_us=now_us, prompt_tokens=100)
        if slot == 1:
            decider.first_token(decision, now_us + 50_000)
        decider.end(decision, now_us + 900_000, failed=slot == 0)
    now_us += 1_000_000
    winners = set()
    for word in random_words(6, 20):
        asked: dict[str, Any] = {"random": word, "now_us": now_us, "prompt_tokens": 100}
        decision = decider.decide(policy.KIND, [0, 1], knobs=policy.knobs(), **asked)
        winners.add(decision.slot)
        decider.first_token(decision, now_us + 50_000)
        decider.end(decision, now_us + 50_000)
    assert winners == {1}

"""Policies that weigh every candidate pick and score as their oracles do, and remember as much."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.native.pick import CandidateSet, random_words
from router.native.policy_memory import PolicyMemory
from router.schema.policies import BasePolicy, Dynamo, Mooncake, PeakEwma, Prequal
from tests.oracle.policies import SCORES, Endpoint, Memory, Situation

NOW_US = 50_000_000
WORDS = st.integers(0, 2**64 - 1)
TIMES_S = st.sampled_from([0.011, 0.037, 0.13, 0.37, 1.3, 4.1])
KNOBS: dict[str, st.SearchStrategy[float]] = {
    "pool": st.integers(1, 24),
    "q_rif": st.sampled_from([0.0, 0.25, 0.5, 0.84, 1.0]),
    "balance_abs": st.integers(0, 40),
    "balance_rel": st.sampled_from([1.0, 1.1, 2.0]),
    "poll_ms": st.sampled_from([0.0, 50.0, 1000.0]),
    "saturated_tokens": st.sampled_from([0.0, 1000.0, 286_720.0]),
    "block_tokens": st.sampled_from([1, 16, 64]),
    "decay_ms": st.sampled_from([100.0, 10_000.0]),
    "first_guess_ms": st.sampled_from([1.0, 30.0]),
    "temperature": st.just(0.0),
}
SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0])


@st.composite
def policies(draw: st.DrawFn, kind: type[BasePolicy]) -> BasePolicy:
    if draw(st.booleans()):
        return kind()
    return kind(**{name: draw(KNOBS.get(name, SHARES | st.just(2.0))) for name in kind.knob_names()})


@st.composite
def endpoints(draw: st.DrawFn, prompt_tokens: int) -> Endpoint:
    pending = draw(st.integers(0, 8))
    return Endpoint(
        in_flight=pending + draw(st.integers(0, 60)),
        pending=pending,
        queued_tokens=draw(st.integers(0, 5) | st.integers(0, 400_000)) if pending else 0,
        queued_s=draw(st.sampled_from([0.0, 0.1, 0.7, 12.5])) if pending else 0.0,
        kv_tokens=draw(st.integers(0, 500_000)),
        hit_tokens=draw(st.just(0) | st.integers(0, prompt_tokens)),
        is_refused=draw(st.sampled_from([False, False, False, True])),
        token_s=draw(st.sampled_from([2.25e-5, 6.65e-5])),
        pair_s=draw(st.sampled_from([0.0, 3.4e-9])),
        inverse_kv=draw(st.sampled_from([0.0, 1 / 400_000])),
    )


@st.composite
def histories(draw: st.DrawFn, slot_count: int) -> list[tuple[str, dict[str, Any]]]:
    """What happened before, in order of time."""
    happened: list[tuple[str, dict[str, Any]]] = []
    now_us = NOW_US - 20_000_000
    for _ in range(draw(st.integers(0, 30))):
        now_us += draw(st.sampled_from([0, 1000, 200_000, 600_000]))
        slot, in_flight = draw(st.integers(0, slot_count - 1)), draw(st.integers(0, 70))
        if draw(st.integers(0, 4)):
            tokens, ttft_s = draw(st.integers(0, 9000)), draw(TIMES_S)
            fact = {"ttft_s": ttft_s, "now_us": now_us, "uncached_tokens": tokens}
            happened.append(("first_token", {"slot": slot, "in_flight": in_flight, **fact}))
        else:
            fact = {"begun_us": now_us - draw(st.sampled_from([0, 90_000])), "failed": draw(st.booleans())}
            happened.append(("ended_early", {"slot": slot, "now_us": now_us, "in_flight": in_flight, **fact}))
    return happened


@st.composite
def situations(draw: st.DrawFn) -> tuple[Situation, PolicyMemory]:
    count = draw(st.integers(1, 8) | st.sampled_from([17, 30]))
    prompt_tokens = draw(st.just(0) | st.integers(1, 30_000))
    known, native = Memory(), PolicyMemory(count)
    for name, fact in draw(histories(min(count, 3))):
        getattr(known, name)(**fact)
        getattr(native, name)(**fact)
    candidates = draw(st.lists(endpoints(prompt_tokens), min_size=count, max_size=count))
    return Situation(candidates, prompt_tokens, draw(WORDS), NOW_US, known), native


def pick(
    situation: Situation, policy: BasePolicy, memory: PolicyMemory | None = None
) -> tuple[int, list[float]]:
    candidates = situation.endpoints
    columns = ("in_flight", "pending", "queued_tokens", "queued_s", "kv_tokens", "hit_tokens")
    figures = ("token_s", "pair_s", "inverse_kv")
    view: dict[str, Any] = {name: [getattr(candidate, name) for candidate in candidates] for name in columns}
    view["refused"] = {position for position, candidate in enumerate(candidates) if candidate.is_refused}
    return CandidateSet(range(len(candidates))).pick_by_view(
        policy.KIND,
        view,
        random=situation.random,
        now_us=situation.now_us,
        knobs=policy.knobs(),
        prompt_tokens=situation.prompt_tokens,
        memory=memory,
        learner={name: [getattr(candidate, name) for candidate in candidates] for name in figures},
    )


@pytest.mark.parametrize("kind", SCORES, ids=lambda kind: kind.name())
@given(st.data())
def test_a_policy_scores_and_picks_as_its_oracle(kind: type[BasePolicy], data: st.DataObject) -> None:
    situation, memory = data.draw(situations())
    policy = data.draw(policies(kind))
    winner, scores = pick(situation, policy, memory)
    expected = SCORES[kind](situation, policy)
    if not situation.eligible:
        assert winner == -1
        return
    for position, score in expected.items():
        assert scores[position] == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert winner in expected
    margin = 1e-4 * max(1.0, *(abs(score) for score in expected.values()))
    assert expected[winner] <= min(expected.values()) + margin


@pytest.mark.parametrize("kind", SCORES, ids=lambda kind: kind.name())
def test_equal_candidates_win_by_chance(kind: type[BasePolicy]) -> None:
    for count in (1, 3, 1500):
        winners = {
            pick(Situation([Endpoint()] * count, 1000, word), kind())[0] for word in random_words(3, 40)
        }
        assert winners <= set(range(count))
        assert len(winners) > min(count, 20) - 1


@pytest.mark.parametrize("kind", [Mooncake])
def test_what_is_no_number_never_wins(kind: type[BasePolicy]) -> None:
    broken = Endpoint(queued_s=math.nan, token_s=math.nan)
    assert pick(Situation([broken, Endpoint(), broken], 1000), kind())[0] == 1


@settings(max_examples=50)
@given(situations(), st.sampled_from([0.1, 1.0, 5.0]))
def test_a_softmax_draws_by_its_odds(known: tuple[Situation, PolicyMemory], temperature: float) -> None:
    situation, _ = known
    if not situation.eligible:
        return
    policy = Dynamo(temperature=temperature)
    costs = SCORES[Dynamo](situation, policy)
    span = max(costs.values()) - min(costs.values())
    odds = {
        position: math.exp((min(costs.values()) - cost) / span / temperature) if span else 1.0
        for position, cost in costs.items()
    }
    rounds, share = 400, sum(odds.values())
    wins = [
        pick(Situation(situation.endpoints, situation.prompt_tokens, word), policy)[0]
        for word in random_words(5, rounds)
    ]
    best = max(odds, key=lambda position: odds[position])
    expected = rounds * odds[best] / share
    assert set(wins) <= set(odds)
    assert abs(wins.count(best) - expected) < 5 * math.sqrt(rounds) / 2 + 1


@given(st.data())
def test_memory_is_the_oracles(data: st.DataObject) -> None:
    known, native = Memory(), PolicyMemory(3)
    for name, fact in data.draw(histories(3)):
        getattr(known, name)(**fact)
        getattr(native, name)(**fact)
    for slot in range(3):
        in_flight = data.draw(st.integers(0, 5000))
        assert native.latency_s(slot, in_flight) == pytest.approx(known.latency_s(slot, in_flight), rel=1e-5)
        assert native.rate(slot) == pytest.approx(known.rate(slot), rel=1e-5)
        peak_s = known.peak_s(slot, 0.03, 10.0, NOW_US)
        assert native.peak_s(slot, 0.03, 10.0, NOW_US) == pytest.approx(peak_s, rel=1e-4)


def test_a_rate_is_the_ninetieth_percentile_of_the_last_64() -> None:
    known, native = Memory(), PolicyMemory(1)
    for sample in range(200):
        for memory in (known, native):
            memory.first_token(0, 1.0, sample, (sample * 7919) % 997 + 1)
        assert native.rate(0) == pytest.approx(known.rate(0), rel=1e-5)


def test_an_unknown_endpoint_is_tried_by_prequal_and_guessed_by_peak_ewma() -> None:
    native = PolicyMemory(2)
    for _ in range(3):
        native.first_token(0, 1.0, NOW_US)
    situation = Situation([Endpoint(), Endpoint()], 1000, 7, NOW_US)
    assert pick(situation, Prequal(), native)[0] == 1
    assert pick(situation, PeakEwma(), native)[1] == [pytest.approx(1.0), pytest.approx(0.03)]


def test_an_endpoint_that_fails_fast_repels_prequal() -> None:
    native = PolicyMemory(2)
    native.first_token(0, 1.0, NOW_US)
    native.ended_early(1, NOW_US - 10, NOW_US, True)
    assert pick(Situation([Endpoint(), Endpoint()], 1000, 7, NOW_US), Prequal(), native)[0] == 0


def test_an_endpoint_that_joins_again_is_not_known() -> None:
    native = PolicyMemory(1)
    native.first_token(0, 1.0, NOW_US, 100, 3)
    native.forget(0)
    assert (native.latency_s(0, 3), native.rate(0)) == (0.0, 0.0)

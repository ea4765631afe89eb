"""The view that policies read and the decisions that are charged from it, played by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from router.native.decision import Decider, Decision
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.pick import random_words
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from tests.support.figures import EIGHT_B

NOW_US = 1_000_000_000
ROUND_ROBIN = 1
LEAST_IN_FLIGHT = 4
LMETRIC = 16
BLOCKS = [11, 22, 33, 44]
BLOCK_TOKENS = [100, 200, 400, 800]


def decider(slot_count: int = 16, column: int = 0, load: LoadTable | None = None) -> Decider:
    load = load or LoadTable.create(slot_count, 2)
    learner = Learner.create(load.slot_count)
    for slot in range(min(load.slot_count, 16)):
        learner.set_figures(slot, EIGHT_B)
    return Decider(load, PrefixTable.create(1 << 20, load.slot_count), learner, column)


def test_view_holds_the_accounts_of_all_candidates_in_their_order() -> None:
    one = decider()
    load = one.load
    load.charge(0, 5, uncached_tokens=300, work_us=40_000, kv_tokens=400, now_us=NOW_US)
    decoding = load.charge(1, 5, uncached_tokens=100, work_us=9_000, kv_tokens=100, now_us=NOW_US)
    load.first_token(1, decoding, NOW_US)
    load.charge(1, 2, uncached_tokens=50, work_us=5_000, kv_tokens=50, now_us=NOW_US)
    for slots in ([5, 9, 2], [2, 3, 4, 5]):
        view = one.view(slots, now_us=NOW_US + 10_000, prompt_tokens=1000)
        at = slots.index(5)
        assert (view["in_flight"][at], view["pending"][at], view["decoding"][at]) == (2, 1, 1)
        assert (view["queued_tokens"][at], view["kv_tokens"][at]) == (300, 500)
        assert view["queued_s"][at] == pytest.approx(0.030)
        assert view["queued_s"][slots.index(2)] == 0, "its engine has had the time for it"
        assert view["uncached_tokens"][at] == 1000
        assert view["refused"][: len(slots)] == [0] * len(slots)
        assert len(view["refused"]) == 16
        for name, row in view.items():
            wanted = {"refused": math.inf, "uncached_tokens": 1}.get(name, 0)
            assert row[len(slots) :] == [wanted] * (16 - len(slots)), name


def test_view_knows_what_is_cached_and_never_claims_the_whole_prompt() -> None:
    one = decider()
    assert one.prefix is not None
    one.prefix.insert(BLOCKS, BLOCK_TOKENS, 3, 800, NOW_US)
    view = one.view([1, 3], prompt_tokens=1000, blocks=BLOCKS, block_tokens=BLOCK_TOKENS)
    assert view["hit_tokens"][:2] == [0, 800]
    assert view["uncached_tokens"][:2] == [1000, 200]
    view = one.view([1, 3], prompt_tokens=700, blocks=BLOCKS, block_tokens=BLOCK_TOKENS)
    assert (view["hit_tokens"][1], view["uncached_tokens"][1]) == (700, 1)
    assert one.view([1, 3])["uncached_tokens"][:2] == [1, 1], "nothing is known of the request"


def test_view_refuses_the_excluded_and_the_ejected_and_readmits_the_latter_when_nobody_is_left() -> None:
    one = decider()
    one.load.eject(1, NOW_US, 1_000_000, 1_000_000)
    assert one.view([0, 1, 2], now_us=NOW_US, excluded=[2])["refused"][:3] == [0, math.inf, math.inf]
    assert one.view([0, 1, 2], now_us=NOW_US, excluded=[0, 2])["refused"][:3] == [math.inf, 0, math.inf]
    assert one.view([0, 1, 2], now_us=NOW_US + 1_000_000)["refused"][:3] == [0, 0, 0]


def test_view_takes_as_many_candidates_as_are_reserved_for() -> None:
    one = decider(slot_count=2048)
    with pytest.raises(ValueError, match="at most 1024 candidates"):
        one.view(range(2000))
    one.reserve(2000)
    view = one.view(range(2000))
    assert len(view["in_flight"]) == 2000
    assert len(one.view([7])["in_flight"]) == 16


def test_all_are_weighed_that_there_is_room_for() -> None:
    one = decider()
    for slot in range(15):
        one.load.charge(0, slot, uncached_tokens=5000, now_us=NOW_US)
    for word in random_words(1, 20):
        decision = one.decide(LMETRIC, range(16), random=word, prompt_tokens=100, now_us=NOW_US)
        assert decision.slot == 15
        one.end(decision, NOW_US)


def test_decision_is_charged_at_the_pick_and_settled_at_the_end() -> None:
    one = decider()
    decision = one.decide(LEAST_IN_FLIGHT, [4], prompt_tokens=1000, output_tokens=200, now_us=NOW_US)
    assert (decision.position, decision.slot, decision.state) == (0, 4, "pending")
    view = one.load.view(4)
    assert (view["in_flight"], view["pending"]) == (1, 1)
    assert (view["queued_tokens"], view["kv_tokens"]) == (1000, 1200)
    figures = decision.figures()
    assert view["queued_work_us"] == figures["work_us"] == pytest.approx(figures["work_s"] * 1e6, abs=10)
    assert figures["predicted_s"] > figures["work_s"] * 0.3
    one.first_token(decision, NOW_US + 300_000)
    assert decision.state == "decoding"
    assert one.load.view(4)["queued_work_us"] == 0
    one.end(decision, NOW_US + 900_000)
    one.end(decision, NOW_US + 900_000)
    assert str(decision.state) == "released"
    assert one.load.total_in_flight() == 0
    assert one.load.view(4)["kv_tokens"] == 0
    assert one.load.underflows() == 0


@pytest.mark.parametrize("kind", [LEAST_IN_FLIGHT, LMETRIC])
def test_prediction_counts_what_is_queued_and_what_is_cached_whichever_way_it_was_read(kind: int) -> None:
    one = decider()

    def ask(now_us: int) -> Decision:
        return one.decide(
            kind,
            [6],
            prompt_tokens=1000,
            output_tokens=10,
            now_us=now_us,
            blocks=BLOCKS,
            block_tokens=BLOCK_TOKENS,
        )

    first = ask(NOW_US)
    decoding = one.decide(kind, [6], prompt_tokens=500, now_us=NOW_US)
    one.first_token(decoding, NOW_US)
    second = ask(NOW_US + 10_000).figures()
    assert first.figures()["uncached_tokens"] == 1000
    assert (second["uncached_tokens"], second["hit_tokens"]) == (200, 800)
    assert second["queued_s"] == pytest.approx(first.figures()["work_s"] - 0.010, abs=1e-4)
    assert second["decoding"] == 1
    assert second["work_s"] < first.figures()["work_s"] / 4


def test_a_request_without_a_prompt_is_counted_and_nothing_is_learnt_from_it() -> None:
    one = decider()
    decision = one.decide(LMETRIC, [0, 1, 2], now_us=NOW_US)
    figures = decision.figures()
    assert (figures["prompt_tokens"], figures["work_us"], figures["predicted_s"]) == (0, 0, 0)
    assert decision.slot is not None
    assert one.load.in_flight(decision.slot) == 1
    one.first_token(decision, NOW_US + 10_000_000)
    one.end(decision, NOW_US + 10_000_000, failed=True)
    assert one.learner.view(decision.slot, NOW_US + 10_000_000)["residual"] == 1
    assert one.load.total_in_flight() == 0


def test_nobody_eligible_charges_nobody() -> None:
    one = decider()
    decision = one.decide(ROUND_ROBIN, [3, 4], excluded=[0, 1])
    assert (decision.position, decision.slot, decision.state) == (-1, None, "released")
    one.end(decision, NOW_US)
    assert one.load.total_in_flight() == 0


def test_slow_first_tokens_and_failures_raise_what_is_predicted() -> None:
    for failed in (False, True):
        one = decider()
        now_us = NOW_US
        for _ in range(10):
            decision = one.decide(LEAST_IN_FLIGHT, [1], prompt_tokens=1000, now_us=now_us)
            if not failed:
                one.first_token(decision, now_us + 3_000_000)
            one.end(decision, now_us + (10_000 if failed else 3_100_000), failed=failed)
            now_us += 3_200_000
        assert one.learner.view(1, now_us)["residual"] > 2
        assert one.learner.view(2, now_us)["residual"] == pytest.approx(1)


def test_engines_report_corrects_how_far_its_claims_are_trusted() -> None:
    one = decider()
    assert one.prefix is not None
    trusts = []
    for turn in range(300):
        decision = one.decide(
            LEAST_IN_FLIGHT,
            [2],
            prompt_tokens=1000,
            now_us=NOW_US + turn,
            blocks=BLOCKS,
            block_tokens=BLOCK_TOKENS,
        )
        one.end(decision, NOW_US + turn, prompt_tokens=2000, cached_tokens=0)
        trusts.append(one.prefix.trust(2))
    assert trusts[0] == 1, "nothing was expected to be cached"
    assert trusts[-1] < 0.5
    decision = one.decide(
        LEAST_IN_FLIGHT, [2], prompt_tokens=1000, now_us=NOW_US, blocks=BLOCKS, block_tokens=BLOCK_TOKENS
    )
    assert decision.figures()["hit_tokens"] == pytest.approx(800, abs=1), "what is expected is before trust"
    assert decision.figures()["uncached_tokens"] > 600
    before = one.prefix.trust(2)
    one.end(decision, NOW_US, prompt_tokens=2000, cached_tokens=1600)
    assert one.prefix.trust(2) > before, "1,600 of 2,000 is what was expected"


def test_a_stream_that_breaks_says_nothing_of_first_tokens() -> None:
    one = decider()
    for turn in range(10):
        now_us = NOW_US + turn * 20_000_000
        decision = one.decide(LEAST_IN_FLIGHT, [1], prompt_tokens=1000, now_us=now_us)
        one.first_token(decision, now_us + round(decision.figures()["predicted_s"] * 1e6))
        now_us += 10_000_000
        one.end(decision, now_us, failed=True)
    assert one.learner.view(1, now_us)["residual"] == pytest.approx(1, abs=0.01)


def residual_after(answer_s: float, output_tokens: int | None) -> float:
    """How slow endpoint 1 is believed to be once it has answered a prompt of 1,000 tokens: whole, with so
    many tokens (-1: not told, 100 expected), or None: with the first of a stream.
    """
    one = decider()
    decision = one.decide(LEAST_IN_FLIGHT, [1], prompt_tokens=1000, output_tokens=100, now_us=NOW_US)
    now_us = NOW_US + round(answer_s * 1e6)
    if output_tokens is None:
        one.first_token(decision, now_us)
    else:
        one.whole_answer(decision, now_us, output_tokens)
    assert decision.state == "decoding"
    one.whole_answer(decision, now_us + 60_000_000, 1)  # once
    one.end(decision, now_us)
    assert one.load.view(1)["queued_tokens"] == 0
    return one.learner.view(1, now_us)["residual"]


def test_a_whole_answer_came_as_long_after_its_first_token_as_the_others_took() -> None:
    assert residual_after(5.0, 1) == residual_after(5.0, None) > 2
    assert residual_after(5.0, -1) == residual_after(5.0, 100) < residual_after(5.0, 1)
    step_s = 0.0098 + 92e-9 * 1100
    assert residual_after(5.0, 100) == pytest.approx(residual_after(5.0 - 99 * step_s, None), rel=1e-3)


def test_a_whole_answer_faster_than_its_tokens_can_be_was_no_faster_than_predicted() -> None:
    assert residual_after(0.2, 1000) == pytest.approx(1, abs=0.01)


def test_a_whole_answer_tells_that_its_model_is_loaded_and_not_how_fast_the_engine_is() -> None:
    load = LoadTable.create(16, 1)
    residency = ResidencyTable.create(16)
    one = Decider(load, None, Learner.create(16), 0, residency)
    one.learner.set_figures(1, EIGHT_B)
    asked: dict[str, Any] = {"model": 77, "load_s": [10.0], "models_max": [1]}
    decision = one.decide(LEAST_IN_FLIGHT, [1], prompt_tokens=1000, now_us=NOW_US, **asked)
    assert residency.wait_s(1, 77, 10, 1, NOW_US) == pytest.approx(10)
    late_us = NOW_US + 15_000_000
    assert residency.wait_s(1, 77, 10, 1, late_us) == pytest.approx(5), "it is late: as long again"
    one.whole_answer(decision, late_us, 1)
    assert residency.wait_s(1, 77, 10, 1, late_us) == 0
    assert one.learner.view(1, late_us)["residual"] == 1


def reported(
    one: Decider, prompt_tokens: int, cached_tokens: int, capacity_tokens: int = 2000
) -> tuple[float, float]:
    """Trust in endpoint 2, and what it is believed to hold of another prompt, once it has reported a prompt
    of 1,000 tokens, 800 of which were believed to be cached there.
    """
    assert one.prefix is not None
    one.prefix.set_capacity(2, capacity_tokens)
    one.prefix.insert([77], [500], 2, 0, NOW_US)
    one.prefix.insert(BLOCKS, BLOCK_TOKENS, 2, 0, NOW_US)
    decision = one.decide(
        LEAST_IN_FLIGHT, [2], prompt_tokens=1000, now_us=NOW_US, blocks=BLOCKS, block_tokens=BLOCK_TOKENS
    )
    assert decision.figures()["hit_tokens"] == 800
    one.end(decision, NOW_US, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
    (held,) = one.prefix.match([77], [500], [2])
    trust = one.prefix.trust(2)
    return trust, held / trust


@pytest.mark.parametrize(
    ("prompt_tokens", "cached_tokens"), [(1000, 800), (2000, 1600), (500, 400), (-1, 800), (-1, 1000)]
)
def test_a_report_is_in_the_engines_tokens_where_it_says_how_many_there_were(
    prompt_tokens: int, cached_tokens: int
) -> None:
    assert reported(decider(), prompt_tokens, cached_tokens) == (1, 500)


@pytest.mark.parametrize(
    ("prompt_tokens", "cached_tokens"), [(1000, 400), (2000, 800), (500, 200), (-1, 400)]
)
def test_half_of_what_was_expected_is_half_in_whatever_tokens(prompt_tokens: int, cached_tokens: int) -> None:
    trust, _held = reported(decider(), prompt_tokens, cached_tokens)
    assert trust == 1 - 0.5 / 256


@pytest.mark.parametrize(
    ("prompt_tokens", "cached_tokens", "capacity_tokens", "held"),
    [
        (10_000, 6000, 2000, 500),
        (10_000, 5000, 2000, 0),
        (500, 0, 640, 500),
        (1000, 0, 640, 0),
        (-1, 0, 640, 0),
    ],
)
def test_a_cache_has_taken_in_what_it_was_wrongly_believed_to_hold_in_its_own_tokens(
    prompt_tokens: int, cached_tokens: int, capacity_tokens: int, held: float
) -> None:
    """A claim counts until 1.25 caches have been taken in; 200 tokens of the prompt were new in any case."""
    assert reported(decider(), prompt_tokens, cached_tokens, capacity_tokens)[1] == held


@pytest.mark.parametrize("tokens", [1 << 31, 3 << 32, 10**17, (1 << 63) - 1])
@pytest.mark.parametrize("cached", [False, True])
def test_a_report_of_more_than_any_prompt_has_says_nothing(tokens: int, cached: bool) -> None:
    one = decider()
    assert reported(one, tokens, tokens if cached else 0) == (1, 500)


def test_deciders_of_two_workers_see_each_others_charges() -> None:
    load = LoadTable.create(16, 2)
    other_load = LoadTable.attach(load.fd)
    one, other = decider(load=load), decider(load=other_load, column=1)
    mine = one.decide(LEAST_IN_FLIGHT, [0, 1], prompt_tokens=100, now_us=NOW_US)
    theirs = other.decide(LEAST_IN_FLIGHT, [0, 1], prompt_tokens=100, now_us=NOW_US)
    assert {mine.slot, theirs.slot} == {0, 1}
    one.end(mine, NOW_US)
    other.end(theirs, NOW_US)
    assert load.in_flight_by_column() == [0, 0]


def test_tables_must_have_room_for_each_other() -> None:
    load = LoadTable.create(32, 1)
    with pytest.raises(ValueError, match="32 slots"):
        Decider(load, None, Learner.create(16))
    with pytest.raises(IndexError, match="column 1 of 1"):
        Decider(load, None, Learner.create(32), 1)
    lone = Decider(load, None, Learner.create(32))
    assert lone.view([1], prompt_tokens=5, blocks=BLOCKS, block_tokens=BLOCK_TOKENS)["hit_tokens"][0] == 0

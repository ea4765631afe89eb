"""The five-axis score against its oracle: the same fleet, the same history, the same scores and winner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.native.decision import Decider
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable
from tests.oracle import five_axis as oracle
from tests.support.figures import Figures

FIVE_AXIS = 19
KEYS = [(position + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1 for position in range(4)]
FIGURES = (
    *("token_s", "pair_s", "floor_s", "base_s", "context_s"),
    *("input_price", "output_price", "second_price"),
)
STEP_US = 20_000  # more than a refresh is apart: both sides read the same arrays


figures = st.builds(
    Figures,
    engine_class=st.integers(0, 1),
    token_s=st.floats(1e-5, 2e-4),
    pair_s=st.floats(0, 5e-9),
    floor_s=st.floats(0.004, 0.03),
    base_s=st.floats(0.002, 0.01),
    context_s=st.floats(0, 3e-7),
    kv_capacity_tokens=st.sampled_from([0.0, 50_000.0, 400_000.0]),
    input_price=st.floats(0, 1e-5),
    output_price=st.floats(0, 1e-5),
    second_price=st.floats(0, 0.01),
    rtt_s=st.floats(0, 0.1),
)


@dataclass(frozen=True)
class Ask:
    """One request, and what became of it."""

    prompt_tokens: int
    depth: int  # blocks of a quarter of the prompt
    output_tokens: int
    target_s: float
    model: int  # 0: none; the others take turns in memory
    stays: int  # 0: ends at once, 1: is decoding when the next one comes, 2: is still pending then
    ttft_s: float
    session: int = 0
    gap_s: float = 0.0  # between tokens of a stream that ended at the first endpoint before; 0: none did
    power: float = 0.0  # told of the first endpoint; 0: nothing is


asks = st.lists(
    st.builds(
        Ask,
        prompt_tokens=st.integers(4, 20_000),
        depth=st.integers(0, 4),
        output_tokens=st.integers(1, 1000),
        target_s=st.sampled_from([0.0, 0.0, 0.05, 2.0]),
        model=st.integers(0, 3),
        stays=st.integers(0, 2),
        ttft_s=st.floats(0.001, 20),
        session=st.integers(0, 2),
        gap_s=st.sampled_from([0.0, 0.01, 5.0]),
        power=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    ),
    min_size=1,
    max_size=12,
)
knobs = st.builds(
    oracle.Knobs,
    beta=st.floats(0, 4),
    gamma=st.floats(0, 1),
    kappa=st.sampled_from([2.0, 0.0, 0.7]),
    eta=st.sampled_from([4.0, 0.0, 100.0]),
    cost_weight=st.sampled_from([0.0, 100.0]),
    barrier_s=st.floats(0, 1),
    power_s=st.floats(0, 1),
    phi=st.floats(0, 2),
    error_s=st.floats(0, 2),
    ratio_mode=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    slo_penalty=st.floats(0, 200),
    switch_ms=st.sampled_from([0.0, 5.0, 1000.0]),
    session_s=st.sampled_from([0.0, 3600.0]),
)


class Fleet:
    """A decider over endpoints of these figures, and the oracle's idea of it."""

    def __init__(self, fleet: list[Figures]) -> None:
        self.figures = fleet
        self.load = LoadTable.create(len(fleet), 1)
        self.learner = Learner.create(self.load.slot_count)
        for slot, one in enumerate(fleet):
            self.learner.set_figures(slot, one)
        self.signals = SignalTable.create(self.load.slot_count)
        self.learner.listen(self.signals)
        self.prefix = PrefixTable.create(1 << 16, self.load.slot_count)
        self.residency = ResidencyTable.create(self.load.slot_count)
        sessions = SessionTable.create(1 << 16, self.load.slot_count)
        self.decider = Decider(self.load, self.prefix, self.learner, 0, self.residency, sessions)
        self.homes: dict[int, tuple[int, int]] = {}  # session: slot, model
        self.decider.reserve(len(fleet))
        self.ring = ExplainRing.create(1)
        self.slots = list(range(len(fleet)))
        self.running = oracle.Running()

    @staticmethod
    def loads(slot: int) -> tuple[float, int]:
        """Seconds, and places: at the last endpoint nothing ever has to be loaded."""
        return ((0.01, 1), (3.0, 2), (0.5, 1), (0.0, 0))[slot]

    def home(self, session: int, model: int) -> int | None:
        """Where the session was last; -1: for another model."""
        slot, of_model = self.homes.get(session, (None, 0))
        return slot if slot is None or of_model == model else -1

    def candidates(self, now_us: int, request: dict[str, Any], knobs: oracle.Knobs) -> list[oracle.Candidate]:
        home = self.home(request["key"], request["model"])
        learnt = [self.learner.view(slot, now_us, self.load) for slot in self.slots]
        view = self.decider.view(self.slots, now_us=now_us, **request)
        return [
            oracle.Candidate(
                in_flight=view["in_flight"][slot],
                decoding=view["decoding"][slot],
                queued_s=view["queued_s"][slot],
                queued_tokens=view["queued_tokens"][slot],
                kv_tokens=view["kv_tokens"][slot],
                hit_tokens=view["hit_tokens"][slot],
                eviction=self.prefix.eviction(slot),
                **{name: getattr(self.figures[slot], name) for name in FIGURES},
                **learnt[slot],
                load_s=self.residency.wait_s(slot, request["model"], *self.loads(slot), now_us),
                harm_s=self.residency.harm_s(slot, request["model"], *self.loads(slot), now_us),
                switch_s=knobs.switch_ms / 1000 if home not in (None, slot) else 0.0,
            )
            for slot in self.slots
        ]


@given(st.lists(figures, min_size=1, max_size=4), asks, knobs)
def test_scores_are_the_oracles(fleet: list[Figures], history: list[Ask], knobs: oracle.Knobs) -> None:
    play(Fleet(fleet), history, knobs)


def play(fleet: Fleet, history: list[Ask], knobs: oracle.Knobs) -> list[int]:
    """Every decision of the history; returns who won each."""
    winners = []
    for turn, ask in enumerate(history):
        now_us = (turn + 1) * STEP_US
        request: dict[str, Any] = {
            "prompt_tokens": ask.prompt_tokens,
            "output_tokens": ask.output_tokens,
            "model": ask.model,
            "key": ask.session,
            "load_s": [fleet.loads(slot)[0] for slot in fleet.slots],
            "models_max": [fleet.loads(slot)[1] for slot in fleet.slots],
            "blocks": KEYS[: ask.depth],
            "block_tokens": [ask.prompt_tokens * (place + 1) // 4 for place in range(ask.depth)],
        }
        fleet.learner.decoded(0, ask.gap_s, 1, 0, 100, now_us)
        if ask.power:
            fleet.signals.push([(0, "power", ask.power, now_us, "control")], now_us)
        candidates = fleet.candidates(now_us, request, knobs)
        mean_s = fmean(one.token_s for one in candidates)
        expected = [
            oracle.score(
                knobs, one, fleet.running, ask.prompt_tokens, ask.output_tokens, ask.target_s, mean_s
            )
            for one in candidates
        ]
        told: dict[str, Any] = {"knobs": knobs.in_order(), "now_us": now_us, "random": turn, **request}
        fleet.ring.explain(
            fleet.decider, FIVE_AXIS, fleet.slots, str(turn), ttft_target_s=ask.target_s, **told
        )
        shown = fleet.ring.find(str(turn))[0]["shown"]
        fleet.running.note(candidates[shown[0]["slot"]], ask.prompt_tokens, ask.output_tokens)
        for one in shown:
            assert one["score"] == pytest.approx(expected[one["slot"]], rel=2e-3, abs=1e-5)
        limit = min(expected) * (1 + knobs.band_ratio) + knobs.band_ms / 1000
        assert expected[shown[0]["slot"]] <= limit * 1.004 + 1e-5
        home = fleet.home(ask.session, ask.model)
        if home not in (None, -1) and knobs.switch_ms and expected[home] <= limit * 0.996 - 1e-5:
            assert shown[0]["slot"] == home
        winners.append(shown[0]["slot"])

        decision = fleet.decider.decide(FIVE_AXIS, fleet.slots, **told)
        fleet.running.note(candidates[decision.position], ask.prompt_tokens, ask.output_tokens)
        if ask.session and knobs.session_s:
            fleet.homes[ask.session] = (decision.position, ask.model)
        if ask.stays < 2:
            fleet.decider.first_token(decision, now_us + int(ask.ttft_s * 1e6))
        if ask.stays < 1:
            fleet.decider.end(decision, now_us + int(ask.ttft_s * 1e6))
    return winners


PLAIN = Figures(kv_capacity_tokens=0)
ASK = Ask(prompt_tokens=4000, depth=4, output_tokens=100, target_s=0, model=0, stays=2, ttft_s=1)


def test_a_prompt_goes_where_it_is_cached_until_waiting_there_takes_longer() -> None:
    winners = play(Fleet([PLAIN] * 3), [ASK] * 2, oracle.Knobs())
    assert winners[0] == winners[1]
    fresh = [replace(ASK, depth=0)] * 3
    assert sorted(play(Fleet([PLAIN] * 3), fresh, oracle.Knobs(band_ratio=0, band_ms=0))) == [0, 1, 2]


def test_a_faster_endpoint_is_preferred_and_a_far_one_is_not() -> None:
    quick, far = structs.replace(PLAIN, token_s=5e-5), structs.replace(PLAIN, rtt_s=0.06)
    assert play(Fleet([PLAIN, quick, far]), [ASK], oracle.Knobs()) == [1]
    assert play(Fleet([far, PLAIN]), [ASK], oracle.Knobs()) == [1]


def test_with_a_target_the_cheapest_that_keeps_it_wins_and_without_money_at_stake_the_fastest() -> None:
    dear, cheap = (
        structs.replace(PLAIN, token_s=5e-5, second_price=0.01),
        structs.replace(PLAIN, second_price=0.001),
    )
    target = [replace(ASK, target_s=5.0)]
    assert play(Fleet([dear, cheap]), target, oracle.Knobs(cost_weight=100)) == [1]
    assert play(Fleet([dear, cheap]), [replace(ASK, target_s=0.3)], oracle.Knobs(cost_weight=1)) == [0]
    assert play(Fleet([dear, cheap]), [ASK], oracle.Knobs()) == [0]


def term(fleet: Fleet, name: str, output_tokens: int) -> float:
    """Of the endpoint that a prompt with so long an answer would go to."""
    told: dict[str, Any] = {"prompt_tokens": 4000, "output_tokens": output_tokens, "now_us": 1_000_000}
    fleet.ring.explain(fleet.decider, FIVE_AXIS, fleet.slots, "x", knobs=oracle.Knobs().in_order(), **told)
    return float(fleet.ring.find("x")[0]["shown"][0]["terms"][name])


def externality(fleet: Fleet, output_tokens: int) -> float:
    """Of a prompt at the endpoint it goes to, after a queue of requests with answers that long."""
    play(fleet, [replace(ASK, depth=0, output_tokens=output_tokens)] * 20, oracle.Knobs())
    return term(fleet, "externality", output_tokens)


def test_to_delay_short_answers_costs_more_than_to_delay_long_ones_and_nothing_where_nobody_waits() -> None:
    assert externality(Fleet([PLAIN]), 5) > 1.2 * externality(Fleet([PLAIN]), 2000) > 0
    idle = Fleet([PLAIN])
    play(idle, [replace(ASK, stays=1)], oracle.Knobs())
    assert term(idle, "externality", 5) == 0


def test_what_streams_add_to_a_step_counts_in_full_and_what_the_machine_takes_by_itself_by_a_third() -> None:
    slow = structs.replace(PLAIN, floor_s=0.03, base_s=0.0, context_s=1e-6)
    weight = oracle.Knobs().gamma * 100
    by_itself = term(Fleet([slow]), "decode", 100)
    assert by_itself == pytest.approx(weight * (0.03 + 4000e-6) / 3, rel=1e-3)
    decoding = Fleet([slow])
    play(decoding, [replace(ASK, depth=0, stays=1)] * 2, oracle.Knobs())
    added_s = 2 * (4000 + 100) * 1e-6
    assert term(decoding, "decode", 100) - by_itself == pytest.approx(weight * added_s, rel=1e-3)


def test_what_streams_add_to_a_step_counts_for_more_where_prompts_wait_for_each_other() -> None:
    slow = structs.replace(PLAIN, floor_s=0.03, base_s=0.0, context_s=1e-6)
    weight = oracle.Knobs().gamma * 100
    by_itself = weight * (0.03 + 4000e-6) / 3
    queued = Fleet([slow])
    play(queued, [replace(ASK, depth=0)] * 20, oracle.Knobs())
    added_s = 20 * (4000 + 100) * 1e-6
    assert 2 < queued.running.crowd_weight < 3
    assert term(queued, "decode", 100) - by_itself == pytest.approx(
        weight * added_s * queued.running.crowd_weight, rel=1e-2
    )


def test_a_long_prompt_minds_a_queue_more_than_a_short_one() -> None:
    short, long = replace(ASK, depth=0, prompt_tokens=100), replace(ASK, depth=0, prompt_tokens=20_000)
    before = [replace(ASK, depth=0)]

    def winner(ask: Ask, phi: float) -> int:
        far = Fleet([PLAIN, structs.replace(PLAIN, rtt_s=0.8)])
        return play(far, [*before, ask], oracle.Knobs(beta=0, gamma=0, phi=phi))[-1]

    assert (winner(short, 0), winner(long, 0)) == (0, 0)
    assert (winner(short, 0.5), winner(long, 0.5)) == (0, 1)


def test_a_request_without_a_prompt_goes_to_the_less_busy_of_two() -> None:
    fleet = Fleet([PLAIN] * 2)
    for _ in range(3):
        fleet.load.charge(0, 0)
    winners = {
        fleet.decider.decide(FIVE_AXIS, [0, 1], random=word << 33, now_us=1).position for word in range(3)
    }
    assert winners == {1}

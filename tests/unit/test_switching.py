"""Sessions in decisions: they come back to their endpoint unless leaving gains more than it costs; why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from router.native.decision import Decider, Decision
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.metrics import COUNTER_NAMES
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.switching import SWITCH_REASONS
from router.schema.policies import FiveAxis
from tests.support.figures import Figures

LMETRIC, RENDEZVOUS, FIVE_AXIS = 16, 2, 19
SECOND_US = 1_000_000
NOW_US = 1000 * SECOND_US
SESSION = 0x1234_5678_9ABC_DEF0
SLOTS = [3, 5, 6]
BLOCKS, BLOCK_TOKENS = [11, 12], [400, 900]


class Fleet:
    """Three endpoints that are alike but for what a test says, and a session that was at one of them."""

    def __init__(self, home: int | None = 5, slots: Sequence[int] = SLOTS, **figures: Figures) -> None:
        self.slots = slots
        self.load = LoadTable.create(16, 1)
        self.prefix = PrefixTable.create(1 << 20, 16)
        self.learner = Learner.create(16)
        for slot in slots:
            self.learner.set_figures(slot, figures.get(f"e{slot}", Figures()))
        self.residency = ResidencyTable.create(16)
        self.sessions = SessionTable.create(1 << 16, 16)
        self.decider = Decider(self.load, self.prefix, self.learner, 0, self.residency, self.sessions)
        self.ring = ExplainRing.create(1)
        if home is not None:
            self.sessions.put(SESSION, home, NOW_US - 10 * SECOND_US, prompt_tokens=700)

    def settings(self, switch_ms: float = 50.0, session_s: float = 60.0, **given: Any) -> dict[str, Any]:
        knobs = structs.replace(FiveAxis(), kappa=0.0, switch_ms=switch_ms, session_s=session_s).knobs()
        return {"knobs": knobs, "key": SESSION, "prompt_tokens": 1000, "now_us": NOW_US, **given}

    def ask(self, kind: int = FIVE_AXIS, **given: Any) -> tuple[int | None, str]:
        """Who answers and why there; the charge is gone again."""
        decision: Decision = self.decider.decide(kind, self.slots, **self.settings(**given))
        slot = decision.slot
        self.decider.end(decision, given.get("now_us", NOW_US))
        return slot, decision.session

    def busy(self, slot: int, work_s: float) -> None:
        """Somebody else's prompt is queued there."""
        self.load.charge(
            0, slot, prompt_tokens=100, uncached_tokens=100, work_us=round(work_s * 1e6), now_us=NOW_US
        )


def test_a_session_comes_back_whatever_the_draw() -> None:
    fleet = Fleet(home=None)
    home, why = fleet.ask()
    assert why == "new"
    for random in range(20):
        assert fleet.ask(random=random) == (home, "stayed")
    homes = {fleet.ask(key=key)[0] for key in range(1, 60)}
    assert homes == set(SLOTS), "others are free"


@pytest.mark.parametrize("slots", [[3, 5, 6], [4, 5, 6]])
def test_it_stays_for_what_leaving_costs_and_goes_for_more(slots: list[int]) -> None:
    fleet = Fleet(slots=slots)
    fleet.busy(5, 0.1)
    assert fleet.ask(switch_ms=500) == (5, "stayed")
    slot, why = fleet.ask(switch_ms=20)
    assert (slot != 5, why) == (True, "queue")
    assert fleet.ask(switch_ms=500) == (slot, "stayed"), "it is at home there now"


def test_without_a_cost_sessions_are_free_and_it_is_told_all_the_same() -> None:
    fleet = Fleet()
    moves = [fleet.ask(key=key, switch_ms=0)[1] for key in range(1, 40)]
    assert set(moves) == {"new"}
    for key in range(1, 40):
        fleet.sessions.put(key, 5, NOW_US)
    assert {fleet.ask(key=key, switch_ms=0)[1] for key in range(1, 40)} == {"stayed", "tie"}


def test_it_goes_where_more_of_its_prompt_is_cached() -> None:
    fleet = Fleet()
    fleet.prefix.insert(BLOCKS, BLOCK_TOKENS, 6, 900, NOW_US)
    assert fleet.ask(blocks=BLOCKS, block_tokens=BLOCK_TOKENS) == (6, "cache")


def test_it_goes_where_the_way_is_shorter() -> None:
    slot, why = Fleet(e5=Figures(rtt_s=0.2)).ask()
    assert (slot in (3, 6), why) == (True, "queue")


def test_a_second_copy_of_its_prompt_counts_with_what_there_is_to_compute() -> None:
    fleet = Fleet()
    knobs = structs.replace(FiveAxis(), switch_ms=1).knobs()
    cached: dict[str, Any] = {"blocks": BLOCKS, "block_tokens": BLOCK_TOKENS, "knobs": knobs}
    fleet.prefix.insert(BLOCKS, BLOCK_TOKENS, 6, 900, NOW_US)
    now_us = NOW_US
    for _ in range(100):  # what is cached is asked for again and again
        now_us += 20_000
        fleet.ask(key=1, now_us=now_us, **cached)
    fleet.load.charge(0, 5, prompt_tokens=100, uncached_tokens=100, work_us=95_000, now_us=now_us)
    assert fleet.ask(now_us=now_us, **cached) == (6, "cache"), "0.09 s to compute, 0.095 s to wait"


def test_it_goes_where_less_that_others_need_is_driven_out() -> None:
    fleet = Fleet()
    fleet.prefix.set_capacity(5, 1000)
    for turn in range(200):
        fleet.prefix.insert([turn % 10], [110], 5, 110, NOW_US)
    assert fleet.prefix.eviction(5) > 0.5
    for slot in SLOTS:
        for _ in range(4):
            fleet.load.first_token(0, fleet.load.charge(0, slot, now_us=NOW_US), NOW_US)
    for _ in range(40):
        fleet.ask(key=1)  # prompts of a usual length
    there, why = fleet.ask(switch_ms=1)
    assert (there in (3, 6), why) == (True, "cache")


def test_it_goes_where_its_model_is_loaded() -> None:
    fleet = Fleet()
    fleet.residency.used(3, 77, 20, 0, NOW_US - 1)
    fleet.sessions.put(SESSION, 5, NOW_US, model=77)
    assert fleet.ask(model=77, load_s=[20.0] * 3, models_max=[1] * 3) == (3, "load")


def test_what_has_no_prompt_goes_where_its_model_is_loaded_too() -> None:
    fleet = Fleet()
    fleet.residency.used(6, 77, 20, 0, NOW_US - 1)
    asked: dict[str, Any] = {
        "key": 0,
        "prompt_tokens": 0,
        "model": 77,
        "load_s": [20.0] * 3,
        "models_max": [1] * 3,
    }
    assert {fleet.ask(random=word << 32, **asked)[0] for word in range(0, 2**32, 2**28)} == {6}


def test_its_model_is_part_of_where_it_was() -> None:
    fleet = Fleet()
    fleet.sessions.put(SESSION, 5, NOW_US, model=77)
    asked = fleet.settings(switch_ms=500, model=78)
    fleet.ring.explain(fleet.decider, FIVE_AXIS, fleet.slots, "r", **asked)
    record = fleet.ring.find("r")[0]
    assert record["session"] == "model"
    assert [one["terms"]["switching"] for one in record["shown"]] == [0.5] * 3
    assert record["shown"][0]["score"] > 0.5
    assert fleet.ask(model=77) == (5, "stayed")


def test_it_goes_when_its_endpoint_may_not_be_picked() -> None:
    fleet = Fleet()
    assert fleet.ask(excluded=[1])[1] == "health"
    fleet = Fleet()
    fleet.load.eject(5, now_us=NOW_US - 1, base_us=10 * SECOND_US, max_us=10 * SECOND_US)
    slot, why = fleet.ask()
    assert (slot in (3, 6), why) == (True, "health")
    assert fleet.ask() == (slot, "stayed")
    assert Fleet(home=9).ask()[1] == "health", "it has left the pool"


def test_it_goes_when_attempts_fail_there() -> None:
    fleet = Fleet()
    for _ in range(20):
        fleet.load.observe_outcome(5, True, NOW_US)
    slot, why = fleet.ask()
    assert (slot in (3, 6), why) == (True, "health")


def test_money_and_promises_are_reasons_too() -> None:
    fleet = Fleet(e5=Figures(input_price=1e-2))
    slot, why = fleet.ask(knobs=structs.replace(FiveAxis(), cost_weight=1.0).knobs())
    assert (slot in (3, 6), why) == (True, "cost")
    fleet = Fleet()
    fleet.busy(5, 3.0)
    asked = fleet.settings(ttft_target_s=0.5)
    fleet.ring.explain(fleet.decider, FIVE_AXIS, fleet.slots, "r", **asked)
    assert fleet.ring.find("r")[0]["session"] == "target"


def test_it_goes_where_it_disturbs_less() -> None:
    fleet = Fleet(e5=Figures(base_s=0.2, floor_s=0.2))
    slot, why = fleet.ask(output_tokens=1000)
    assert (slot in (3, 6), why) == (True, "headroom")


def test_a_session_that_was_not_seen_for_long_is_new() -> None:
    fleet = Fleet()
    assert fleet.ask(session_s=5)[1] == "new"
    assert fleet.ask(now_us=NOW_US + 300 * SECOND_US)[1] == "new"
    assert Fleet().ask(session_s=0)[1] == "", "sessions are not remembered"
    fleet = Fleet()
    fleet.sessions.forget(5, NOW_US)
    assert fleet.ask()[1] == "new", "its endpoint joined anew"


def test_who_has_no_key_and_who_asks_another_policy_has_no_session() -> None:
    fleet = Fleet(home=None)
    assert fleet.ask(key=0)[1] == ""
    for kind in (RENDEZVOUS, LMETRIC):
        assert fleet.ask(kind, knobs=())[1] == ""
    assert fleet.sessions.find(SESSION, NOW_US) is None
    assert Decider(fleet.load, None, fleet.learner).decide(FIVE_AXIS, SLOTS, **fleet.settings()).session == ""


def test_what_one_decision_knew_is_not_told_of_the_next() -> None:
    fleet = Fleet()
    for kind, knobs in ((FIVE_AXIS, fleet.settings()["knobs"]), (LMETRIC, ())):
        fleet.ring.explain(fleet.decider, kind, fleet.slots, f"by {kind}", **fleet.settings(knobs=knobs))
    told = [fleet.ring.find(f"by {kind}")[0] for kind in (FIVE_AXIS, LMETRIC)]
    assert [(one["session"], one["session_tokens"]) for one in told] == [("stayed", 700), ("", 0)]


def test_a_pick_that_was_not_charged_moves_no_session() -> None:
    fleet = Fleet()
    fleet.ring.explain(fleet.decider, FIVE_AXIS, fleet.slots, "r", **fleet.settings())
    other = fleet.decider.decide(LMETRIC, [3], **fleet.settings(knobs=()))
    fleet.decider.end(other, NOW_US)
    assert fleet.sessions.find(SESSION, NOW_US) == (5, 0, 700)


def test_the_cost_is_a_term_of_the_score_and_the_reason_where_it_decided() -> None:
    fleet = Fleet()
    fleet.busy(5, 0.1)
    asked = fleet.settings(switch_ms=500)
    assert fleet.ring.explain(fleet.decider, FIVE_AXIS, fleet.slots, "r", **asked) == "session"
    record = fleet.ring.find("r")[0]
    assert (record["session"], record["session_tokens"]) == ("stayed", 700)
    assert [one["terms"]["switching"] for one in record["shown"]] == [0, 0.5, 0.5]
    for one in record["shown"]:
        assert sum(one["terms"].values()) == pytest.approx(one["score"], rel=1e-4)
    assert fleet.sessions.find(SESSION, NOW_US) == (5, 0, 700), "explaining charges nothing"


def test_every_reason_is_counted_by_its_number() -> None:
    first = {name: number for number, name in COUNTER_NAMES.items()}["session_new"]
    for number, reason in enumerate(SWITCH_REASONS[1:]):
        assert COUNTER_NAMES[first + number] == f"session_{reason}"

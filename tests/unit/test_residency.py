"""Which models are believed to be in memory where, and what that does to decisions."""

from __future__ import annotations

import os
from typing import Any

import pytest

from router.native.decision import Decider, Decision
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from tests.support.figures import Figures

FIVE_AXIS = 19
NOW_US = 1_000_000_000
SECOND_US = 1_000_000
A, B, C = 11, 22, 33


def decider(slot_count: int = 3) -> Decider:
    load = LoadTable.create(slot_count, 1)
    learner = Learner.create(load.slot_count)
    for slot in range(slot_count):
        learner.set_figures(slot, Figures())
    residency = ResidencyTable.create(load.slot_count)
    return Decider(load, PrefixTable.create(1 << 20, load.slot_count), learner, 0, residency)


def ask(one: Decider, model: int, now_us: int = NOW_US, load_s: float = 20.0, **given: Any) -> Decision:
    return one.decide(
        FIVE_AXIS,
        range(3),
        **{
            "knobs": (0.25, 0.05, -1.0, 0.02, 2.0, 0.0, 0.15, 1.0, 0.0, 100.0),
            **{"prompt_tokens": 100, "output_tokens": 10, "now_us": now_us, "random": now_us},
            **{"model": model, "load_s": [load_s] * 3, "models_max": [1] * 3, **given},
        },
    )


# ---- the table


def test_a_model_is_there_from_its_use_until_others_have_driven_it_out() -> None:
    table = ResidencyTable.create(2)
    assert not table.is_resident(1, A, 2, NOW_US)
    assert table.wait_s(1, A, 20, 2, NOW_US) == 20
    table.used(1, A, 20, 0, NOW_US)
    table.used(1, B, 20, 0, NOW_US + 1)
    assert table.is_resident(1, A, 2, NOW_US + 1)
    assert not table.is_resident(1, A, 1, NOW_US + 1), "there is one place, and it went to B"
    table.used(1, C, 20, 0, NOW_US + 2)
    assert not table.is_resident(1, A, 2, NOW_US + 2)
    assert table.is_resident(1, B, 2, NOW_US + 2)
    assert not table.is_resident(0, B, 2, NOW_US + 2), "another endpoint"


def test_while_it_is_loaded_what_is_left_of_the_load_is_waited_for() -> None:
    table = ResidencyTable.create(1)
    table.used(0, A, 20, 20, NOW_US)
    later_us = NOW_US + 15 * SECOND_US
    assert table.wait_s(0, A, 20, 2, later_us) == pytest.approx(5)
    assert not table.is_resident(0, A, 2, later_us)
    assert table.wait_s(0, B, 20, 2, later_us) == pytest.approx(25), "one load after the other"
    table.seen(0, A, later_us)
    assert table.wait_s(0, A, 20, 2, later_us) == 0, "it answers: it is there"
    assert table.wait_s(0, B, 20, 2, later_us) == 20


def test_a_load_that_is_late_is_expected_to_take_as_long_again_within_bounds() -> None:
    table = ResidencyTable.create(1)
    table.used(0, A, 20, 20, NOW_US)
    assert table.wait_s(0, A, 20, 1, NOW_US + 30 * SECOND_US) == pytest.approx(10)
    assert table.wait_s(0, A, 20, 1, NOW_US + 3600 * SECOND_US) == pytest.approx(80)
    table.used(0, B, 20, 20, NOW_US + 3600 * SECOND_US)
    assert table.wait_s(0, A, 20, 1, NOW_US + 3600 * SECOND_US) == pytest.approx(40), "it must be loaded anew"


def test_what_is_asked_for_often_is_driven_out_at_a_higher_price() -> None:
    table = ResidencyTable.create(2)
    for turn in range(40):
        table.used(0, A, 20, 0, NOW_US + turn * SECOND_US)
        table.used(1, A, 20, 0, NOW_US + turn * 10 * SECOND_US)
    often_us, seldom_us = NOW_US + 39 * SECOND_US, NOW_US + 390 * SECOND_US
    assert table.harm_s(0, B, 20, 1, often_us) == pytest.approx(400, rel=0.05), (
        "20 requests in a load of 20 s"
    )
    assert table.harm_s(1, B, 20, 1, seldom_us) == pytest.approx(40, rel=0.05)
    assert table.harm_s(0, B, 20, 1, often_us + 100 * SECOND_US) == pytest.approx(4, rel=0.05), (
        "nobody asks any more"
    )
    assert table.harm_s(0, B, 20, 2, often_us) == 0, "there is a place left"
    assert table.harm_s(0, A, 20, 1, often_us) == 0, "it is there"


def test_a_ninth_model_replaces_the_least_recently_used_one() -> None:
    table = ResidencyTable.create(1)
    for model in range(1, 9):
        table.used(0, model, 1, 0, NOW_US + model)
    table.used(0, 1, 1, 0, NOW_US + 9)
    table.used(0, 9, 1, 0, NOW_US + 10)
    there = [model for model in range(1, 10) if table.is_resident(0, model, 8, NOW_US + 10)]
    assert there == [1, 3, 4, 5, 6, 7, 8, 9]


def test_a_model_that_takes_the_place_of_one_that_was_loading_is_not_loading_itself() -> None:
    table = ResidencyTable.create(1)
    for model in range(1, 9):
        table.used(0, model, 20, 20, NOW_US + model)
    table.used(0, 9, 20, 0, NOW_US + 10)
    assert table.is_resident(0, 9, 9, NOW_US + 10)
    assert table.wait_s(0, 9, 20, 9, NOW_US + 10) == 0


def test_a_forgotten_slot_and_no_model_have_nothing() -> None:
    table = ResidencyTable.create(1)
    table.used(0, A, 20, 0, NOW_US)
    table.used(0, 0, 20, 0, NOW_US)
    assert not table.is_resident(0, 0, 8, NOW_US)
    assert table.wait_s(0, 0, 20, 1, NOW_US) == 0
    table.forget(0)
    assert not table.is_resident(0, A, 1, NOW_US)


def test_the_table_is_shared_by_its_descriptor_and_refuses_any_other() -> None:
    table = ResidencyTable.create(2)
    load = LoadTable.create(2, 1)
    other = ResidencyTable.attach(table.fd)
    table.used(1, A, 20, 0, NOW_US)
    assert other.is_resident(1, A, 1, NOW_US)
    assert other.slot_count == 2
    with pytest.raises(IndexError):
        other.forget(2)
    with pytest.raises(ValueError, match="no residency table"):
        ResidencyTable.attach(load.fd)
    read, write = os.pipe()
    with pytest.raises((OSError, ValueError)):
        ResidencyTable.attach(read)
    os.close(read)
    os.close(write)
    with pytest.raises(ValueError, match="slot_count"):
        ResidencyTable.create(0)


# ---- decisions


def test_each_model_stays_where_it_was_loaded() -> None:
    one = decider()
    homes: dict[int, int | None] = {}
    for turn in range(30):
        model = (A, B, C)[turn % 3]
        now_us = NOW_US + turn * 30 * SECOND_US
        decision = ask(one, model, now_us)
        assert homes.setdefault(model, decision.slot) == decision.slot
        one.first_token(decision, now_us + SECOND_US)
        one.end(decision, now_us + 2 * SECOND_US)
    assert sorted(homes.values(), key=str) == [0, 1, 2], "and they share no endpoint"


def test_a_second_copy_is_loaded_once_waiting_for_the_first_takes_longer() -> None:
    one = decider()
    first = ask(one, A)
    one.first_token(first, NOW_US)
    one.end(first, NOW_US)
    later_us = NOW_US + 10 * SECOND_US
    slots = [ask(one, A, later_us + turn, load_s=0.5, prompt_tokens=2000).slot for turn in range(8)]
    assert len(set(slots)) > 1
    assert slots[:2] == [first.slot] * 2


def test_a_model_that_takes_no_place_waits_for_nothing_and_drives_nothing_out() -> None:
    one = decider()
    first = ask(one, A)
    home = first.slot
    one.first_token(first, NOW_US)
    for turn in range(6):
        ask(one, B, NOW_US + turn, models_max=[0] * 3)
    assert one.residency is not None
    assert one.residency.is_resident(home or 0, A, 1, NOW_US + 20)
    assert ask(one, A, NOW_US + 10).slot == home


def test_a_load_does_not_make_an_endpoint_look_slow() -> None:
    one = decider()
    decision = ask(one, A)
    one.first_token(decision, NOW_US + 25 * SECOND_US)
    assert one.learner.view(decision.slot or 0, NOW_US + 25 * SECOND_US)["residual"] == 1
    later_us = NOW_US + 60 * SECOND_US
    one.end(decision, later_us)
    loaded = ask(one, A, later_us)
    one.first_token(loaded, later_us + 5 * SECOND_US)
    assert one.learner.view(loaded.slot or 0, later_us + 5 * SECOND_US)["residual"] > 1, "without one it is"


def test_the_load_is_a_term_of_its_own_and_the_terms_add_up() -> None:
    one = decider()
    assert one.residency is not None
    one.residency.used(2, A, 20, 0, NOW_US - 1)
    one.learner.set_figures(2, Figures(rtt_s=0.05))  # nearer ones would win
    ring = ExplainRing.create(1)
    asked: dict[str, Any] = {"model": A, "load_s": [20.0, 0.3, 20.0], "models_max": [1] * 3}
    for target_s in (0.0, 0.1):
        reason = ring.explain(
            one,
            FIVE_AXIS,
            range(3),
            str(target_s),
            knobs=(0.25, 0.05, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 10.0),
            now_us=NOW_US,
            prompt_tokens=1000,
            output_tokens=10,
            ttft_target_s=target_s,
            **asked,
        )
        assert reason == ("fastest" if target_s else "loaded")
        shown = ring.find(str(target_s))[0]["shown"]
        assert [candidate["slot"] for candidate in shown] == [2, 1, 0]
        for candidate in shown:
            assert sum(candidate["terms"].values()) == pytest.approx(candidate["score"], rel=1e-4)
        weight = 0.01 if target_s else 1
        loads = [candidate["terms"]["load"] for candidate in shown]
        assert loads == pytest.approx([0, 0.3 * weight, 20 * weight])

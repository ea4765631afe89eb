"""The pick for an alias against its oracle: least score and quality, or the first that has somebody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.choice import choose
from router.native.decision import Decider
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from tests.oracle.five_axis import Knobs
from tests.support.figures import Figures

FIVE_AXIS, LEAST_IN_FLIGHT = 19, 4
NOW_US = 1_000_000
SLOTS = 6
TOKEN_S = 1e-4
TIMES, RATIOS = -1.0, 1.0


@dataclass(frozen=True)
class Model:
    """Who serves a model: a slot may serve several."""

    slots: tuple[int, ...]
    excluded: frozenset[int]
    features: tuple[int, ...]
    quality_s: float


@dataclass(frozen=True)
class Scene:
    in_flight: tuple[int, ...]  # by slot
    ejected: frozenset[int]
    required: int
    models: tuple[Model, ...]

    def standing(self, model: Model) -> list[int]:
        """Positions that what is required and what was tried leave."""
        return [
            position
            for position, bits in enumerate(model.features)
            if position not in model.excluded and bits & self.required == self.required
        ]

    def allowed(self) -> list[list[int]]:
        """For each model the positions that may win: ejected ones only where no model has another."""
        standing = [self.standing(model) for model in self.models]
        well = [
            [position for position in positions if model.slots[position] not in self.ejected]
            for model, positions in zip(self.models, standing, strict=True)
        ]
        return well if any(well) else standing


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    models = []
    for _ in range(draw(st.integers(1, 4))):
        slots = draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True))
        models.append(
            Model(
                slots=tuple(slots),
                excluded=draw(st.frozensets(st.integers(0, len(slots) - 1), max_size=2)),
                features=tuple(draw(st.lists(st.integers(0, 3), min_size=len(slots), max_size=len(slots)))),
                quality_s=draw(st.sampled_from([0.0, 0.001, 0.2, 5.0])),
            )
        )
    return Scene(
        in_flight=tuple(draw(st.lists(st.integers(0, 5), min_size=SLOTS, max_size=SLOTS))),
        ejected=draw(st.frozensets(st.integers(0, SLOTS - 1))),
        required=draw(st.sampled_from([0, 0, 1, 3])),
        models=tuple(models),
    )


def ask(
    scene: Scene, kind: int, prompt_tokens: int, random: int, ratio_mode: float = TIMES
) -> tuple[int, int, list[float | None]]:
    load = LoadTable.create(SLOTS, 1)
    for slot, count in enumerate(scene.in_flight):
        for _ in range(count):
            load.charge(0, slot)
    for slot in scene.ejected:
        load.eject(slot, NOW_US, 1_000, 1_000)
    learner = Learner.create(load.slot_count)
    for slot in range(SLOTS):
        learner.set_figures(slot, Figures(token_s=TOKEN_S))
    decider = Decider(load, PrefixTable.create(1 << 16, load.slot_count), learner)
    return choose(
        decider,
        kind,
        [(model.slots, model.excluded, model.features, model.quality_s) for model in scene.models],
        knobs=Knobs(band_ratio=0, band_ms=0, ratio_mode=ratio_mode).in_order(),
        random=random,
        now_us=NOW_US,
        prompt_tokens=prompt_tokens,
        required=scene.required,
    )


@given(scenes(), st.integers(1, 20_000), st.integers(0, 2**64 - 1), st.sampled_from([TIMES, RATIOS]))
def test_the_score_and_the_quality_decide_together(
    scene: Scene, prompt_tokens: int, random: int, ratio_mode: float
) -> None:
    chosen, position, totals = ask(scene, FIVE_AXIS, prompt_tokens, random, ratio_mode)
    allowed = scene.allowed()
    if not any(allowed):
        assert (chosen, position) == (-1, -1)
        return
    assert position in allowed[chosen]
    mine = totals[chosen]
    assert mine is not None
    assert math.isfinite(mine)
    for index, positions in enumerate(allowed):
        total = totals[index]
        if positions:
            assert total is not None
            assert total >= mine
            assert total > mine or index >= chosen, "of equals the one that stands first"


@given(scenes(), st.integers(1, 20_000), st.sampled_from([TIMES, RATIOS]))
def test_what_a_model_costs_in_quality_comes_on_top_of_its_best_score(
    scene: Scene, prompt_tokens: int, ratio_mode: float
) -> None:
    _chosen, _position, totals = ask(scene, FIVE_AXIS, prompt_tokens, 0, ratio_mode)
    for model, total in zip(scene.models, totals, strict=True):
        alone = replace(scene, models=(replace(model, quality_s=0.0),))
        ((score,), (allowed,)) = ask(alone, FIVE_AXIS, prompt_tokens, 0, ratio_mode)[2], alone.allowed()
        if not allowed:
            assert (score, total) == (None, None)
            continue
        assert score is not None
        assert total == pytest.approx(score + model.quality_s)
        if ratio_mode == RATIOS:
            busy = min(scene.in_flight[model.slots[position]] for position in allowed)
            assert score == pytest.approx(prompt_tokens * (busy + 1) * TOKEN_S)


def alike(slot_count: int, models: Sequence[Sequence[int]]) -> tuple[Decider, list[tuple[int, int]]]:
    """A decider of endpoints that are alike, and (model, position) of a prompt of 1,000 tokens that any of
    these models may answer; those after the first would be a thousand seconds better.
    """
    load = LoadTable.create(slot_count, 1)
    learner = Learner.create(load.slot_count)
    for slot in range(slot_count):
        learner.set_figures(slot, Figures(token_s=TOKEN_S))
    decider = Decider(load, None, learner)
    asked = [
        (slots, frozenset[int](), [0] * len(slots), 0.0 if place else 1000.0)
        for place, slots in enumerate(models)
    ]
    knobs = Knobs(ratio_mode=TIMES).in_order()
    picked = [
        choose(decider, FIVE_AXIS, asked, knobs=knobs, now_us=NOW_US, prompt_tokens=1000)[:2]
        for _ in range(2)
    ]
    return decider, picked


@pytest.mark.parametrize("models", [[[0, 1]], [[0], [1]], [[0], [1], [2], [3]]])
def test_one_decision_is_remembered_of_however_many_models(models: list[list[int]]) -> None:
    decider, _picked = alike(SLOTS, models)
    assert decider.running()["prompt_tokens"] == pytest.approx(1000 * (1 - 0.98**2))


def test_models_with_more_endpoints_than_can_be_weighed_are_taken_in_order() -> None:
    assert {model for model, _ in alike(2048, [range(1000), range(1000)])[1]} == {1}
    assert {model for model, _ in alike(2048, [range(1500), range(10)])[1]} == {0}


@given(scenes(), st.integers(0, 2**64 - 1), st.sampled_from([(LEAST_IN_FLIGHT, 100), (FIVE_AXIS, 0)]))
def test_without_a_score_the_first_model_with_somebody_answers(
    scene: Scene, random: int, kind_and_tokens: tuple[int, int]
) -> None:
    kind, prompt_tokens = kind_and_tokens
    chosen, position, _totals = ask(scene, kind, prompt_tokens, random)
    allowed = scene.allowed()
    first = next((index for index, positions in enumerate(allowed) if positions), -1)
    assert chosen == first
    if first >= 0:
        assert position in allowed[first]
        if kind == LEAST_IN_FLIGHT:
            model = scene.models[first]
            least = min(scene.in_flight[model.slots[place]] for place in allowed[first])
            assert scene.in_flight[model.slots[position]] == least

"""The residency table against its oracle: the same answers after any history of one writer."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from router.native.residency import ResidencyTable
from tests.oracle import residency as oracle

SLOTS = 3
models = st.integers(0, 12)
"""More than are remembered; 0 is none."""
slots = st.integers(0, SLOTS - 1)
waits = st.sampled_from([0.0, 0.5, 4.4, 22.7, 1e30, -1.0, float("nan"), float("inf")])


class History(RuleBasedStateMachine):
    """Every rule does the same to both tables, and `ask` what both say."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ResidencyTable.create(SLOTS)
        self.plain = [oracle.Slot() for _ in range(SLOTS)]
        self.now_us = 1_000_000

    @rule(slot=slots, model=models, wait_s=waits, later_us=st.integers(1, 40_000_000))
    def use(self, slot: int, model: int, wait_s: float, later_us: int) -> None:
        self.now_us += later_us
        self.table.used(slot, model, 4.4, wait_s, self.now_us)
        self.plain[slot].used(model, 4.4, wait_s, self.now_us)

    @rule(slot=slots, model=models, later_us=st.integers(0, 10_000_000))
    def see(self, slot: int, model: int, later_us: int) -> None:
        self.now_us += later_us
        self.table.seen(slot, model, self.now_us)
        self.plain[slot].seen(model)

    @rule(slot=slots)
    def forget(self, slot: int) -> None:
        self.table.forget(slot)
        self.plain[slot] = oracle.Slot()

    @rule(slot=slots, model=models, models_max=st.integers(0, 3), load_s=st.sampled_from([0.0, 22.7]))
    def ask(self, slot: int, model: int, models_max: int, load_s: float) -> None:
        now_us, plain = self.now_us, self.plain[slot]
        is_resident = plain.is_resident(model, models_max, now_us)
        wait_s = plain.wait_s(model, load_s, models_max, now_us)
        assert self.table.is_resident(slot, model, models_max, now_us) == is_resident
        assert math.isclose(
            self.table.wait_s(slot, model, load_s, models_max, now_us), wait_s, rel_tol=1e-4, abs_tol=1e-3
        )
        if plain.must_load(model, models_max, now_us):
            harm_s = plain.harm_s(model, models_max, now_us)
            assert math.isclose(
                self.table.harm_s(slot, model, load_s, models_max, now_us), harm_s, rel_tol=1e-3, abs_tol=1e-6
            )


TestHistory = History.TestCase


@given(
    st.lists(st.tuples(models, waits, st.integers(0, 2**64 - 1)), max_size=20),
    st.floats(width=32),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)
def test_waits_stay_finite_whatever_clocks_and_seconds_do(
    uses: list[tuple[int, float, int]], load_s: float, models_max: int, now_us: int
) -> None:
    table = ResidencyTable.create(1)
    for model, wait_s, used_us in uses:
        table.used(0, model, wait_s, wait_s, used_us)
    for model in range(13):
        assert 0 <= table.wait_s(0, model, load_s, models_max, now_us) <= 4 * oracle.LOAD_S_MAX
        harm_s = table.harm_s(0, model, load_s, models_max, now_us)
        assert 0 <= harm_s <= oracle.HARMED_MAX * oracle.LOAD_S_MAX * (1 + 1e-6)  # float32 rounds

"""Any history of charges, over several workers and their deaths, leaves the sums that a plain list gives."""

from __future__ import annotations

import random

import pytest

from router.native.loadtable import Charge, LoadTable
from tests.oracle.accounts import Accounts, OpenCharge

COLUMNS = 3
SLOTS = 5
START_US = 1_000_000
ROWS = ("in_flight", "pending", "queued_tokens", "queued_work_us", "kv_tokens")


class History:
    """The native table, one attachment per worker, beside the oracle."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.table = LoadTable.create(16, COLUMNS)
        # Every other history has all columns charged through one attachment, as tools do.
        shared = seed % 2 == 0
        self.workers = [
            self.table if shared else LoadTable.attach(self.table.fd) for _column in range(COLUMNS)
        ]
        self.oracle = Accounts()
        self.held: list[tuple[Charge, OpenCharge]] = []
        self.now_us = START_US

    def step(self) -> None:
        rng = self.rng
        self.now_us += rng.choice((0, 1, 70, 5_000, 2_000_000))
        action = rng.randrange(10)
        if action < 4:
            self.charge()
        elif action < 7 and self.held:
            native, plain = rng.choice(self.held)
            self.workers[plain.column].first_token(plain.column, native, self.now_us)
            self.oracle.first_token(plain, self.now_us)
        elif action < 9 and self.held:
            self.release(rng.choice(self.held))
        elif rng.random() < 0.2:
            self.kill(rng.randrange(COLUMNS))

    def charge(self) -> None:
        rng = self.rng
        column, slot = rng.randrange(COLUMNS), rng.randrange(SLOTS)
        tokens = rng.choice((0, 1, 1000, 100_000, 1 << 23))
        work_us = rng.choice((0, 10, 333, 250_000, 500_000_000))
        kv_tokens = rng.choice((0, tokens, tokens + 500))
        native = self.workers[column].charge(
            column,
            slot,
            uncached_tokens=tokens,
            work_us=work_us,
            kv_tokens=kv_tokens,
            now_us=self.now_us,
        )
        plain = OpenCharge(column, slot, self.now_us, tokens, work_us, kv_tokens)
        self.held.append((native, self.oracle.charge(plain)))

    def release(self, pair: tuple[Charge, OpenCharge]) -> None:
        native, plain = pair
        self.workers[plain.column].release(plain.column, native)
        assert native.state == "released"
        self.oracle.release(plain)
        self.held.remove(pair)

    def kill(self, column: int) -> None:
        if self.workers[column] is not self.table:
            # Its process is gone, and so is what it knew; the one that takes its place starts with nothing.
            self.workers[column] = LoadTable.attach(self.table.fd)
        assert self.table.clear_column(column) == self.oracle.clear(column)
        self.held = [pair for pair in self.held if pair[1].column != column]

    def check(self) -> None:
        slots = list(range(SLOTS))
        for slot in slots:
            view = self.table.view(slot)
            wanted = self.oracle.at(slot)
            assert {name: dict(view)[name] for name in wanted} == wanted, slot
        for row, name in enumerate(ROWS):
            unit = 10 if name == "queued_work_us" else 1
            sums = [self.oracle.at(slot)[name] // unit for slot in slots]
            assert self.table.row(row, slots) == pytest.approx(sums)
            assert self.table.row(row, slots, in_a_row=True) == self.table.row(row, slots)
        for in_a_row in (False, True):
            progress = self.table.progress_us(slots, self.now_us, in_a_row)
            for slot in slots:
                possible = self.oracle.progress_us(slot, self.now_us)
                assert any(progress[slot] == pytest.approx(one) for one in possible), slot


@pytest.mark.parametrize("seed", range(24))
def test_sums_are_those_of_all_open_charges_after_every_step(seed: int) -> None:
    history = History(seed)
    for _ in range(100):
        history.step()
        history.check()
    while history.held:
        history.release(history.held[-1])
    history.check()
    assert history.table.total_in_flight() == 0
    assert history.table.underflows() == 0

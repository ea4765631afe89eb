"""Micro-benchmarks of the load table, in native code: tiny under plain pytest, measured by `make bench`."""

from typing import Any

from router.native.loadtable import LoadTable

ROUNDS = 1000


def test_charge_observe_release(benchmark: Any) -> None:
    """ROUNDS times what an attempt does to the table: one charge, one estimate, one release."""
    table = LoadTable.create(64, 4)
    benchmark.extra_info["per_call"] = ROUNDS
    benchmark(table.churn, 1, 7, ROUNDS)
    assert table.in_flight(7) == 0


def test_clear_column(benchmark: Any) -> None:
    """What the supervisor does for a dead worker, at the table's bound of endpoints."""
    table = LoadTable.create(4096, 4)
    benchmark(table.clear_column, 1)

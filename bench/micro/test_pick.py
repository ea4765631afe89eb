"""Micro-benchmarks of the pick, in native code: tiny under plain pytest, measured by `make bench`."""

from typing import Any

import pytest

from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet

PICKS = 200
POLICIES = {
    "p2c": 0,
    "round_robin": 1,
    "rendezvous": 2,
    "bounded_ring": 3,
    "least_in_flight": 4,
    "random": 5,
}
NOW_US = 1_000_000


@pytest.mark.parametrize("count", [8, 64, 1024])
@pytest.mark.parametrize("policy", POLICIES)
def test_pick(benchmark: Any, policy: str, count: int) -> None:
    """PICKS picks by random keys from `count` endpoints, two workers' counts summed."""
    table = LoadTable.create(count, 4)
    for slot in range(0, count, 3):
        table.charge(slot & 1, slot)
    candidates = CandidateSet(range(count), points_per_weight=100)
    benchmark.extra_info["per_call"] = PICKS
    benchmark.extra_info["ns_per_pick"] = candidates.bench_loop(POLICIES[policy], table, PICKS)
    benchmark(candidates.bench_loop, POLICIES[policy], table, PICKS)


@pytest.mark.parametrize("policy", POLICIES)
def test_pick_with_one_ejected(benchmark: Any, policy: str) -> None:
    """The same with eligibility to be checked."""
    table = LoadTable.create(64, 4)
    table.charge(0, 1)
    table.eject(3, NOW_US, 1_000_000, 1_000_000)
    candidates = CandidateSet(range(64), points_per_weight=100)
    benchmark.extra_info["per_call"] = PICKS
    benchmark(candidates.bench_loop, POLICIES[policy], table, PICKS, NOW_US)

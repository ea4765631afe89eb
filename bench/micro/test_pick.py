"""Micro-benchmarks of the pick, in native code: tiny under plain pytest, measured by `make bench`.

No prefix is known and nothing learnt here, so five_axis is not among them: its benchmark is the decision's.
"""

from typing import Any

import pytest

from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet
from router.schema.policies import POLICIES, BasePolicy

PICKS = 200
NOW_US = 1_000_000
PROMPT_TOKENS = 3000
MEASURED = {name: policy for name, policy in POLICIES.items() if name != "five_axis"}


@pytest.mark.parametrize("count", [8, 64, 1024])
@pytest.mark.parametrize("policy", MEASURED.values(), ids=MEASURED)
def test_pick(benchmark: Any, policy: type[BasePolicy], count: int) -> None:
    """PICKS picks by random keys from `count` endpoints, two workers' counts summed."""
    table = LoadTable.create(count, 4)
    for slot in range(0, count, 3):
        table.charge(slot & 1, slot)
    candidates = CandidateSet(range(count), points_per_weight=100, maglev=True)
    asked = (policy.KIND, table, PICKS, 0, policy().knobs(), PROMPT_TOKENS)
    benchmark.extra_info["per_call"] = PICKS
    benchmark.extra_info["ns_per_pick"] = candidates.bench_loop(*asked)
    benchmark(candidates.bench_loop, *asked)


@pytest.mark.parametrize("policy", MEASURED.values(), ids=MEASURED)
def test_pick_with_one_ejected(benchmark: Any, policy: type[BasePolicy]) -> None:
    """The same with eligibility to be checked."""
    table = LoadTable.create(64, 4)
    table.charge(0, 1)
    table.eject(3, NOW_US, 1_000_000, 1_000_000)
    candidates = CandidateSet(range(64), points_per_weight=100, maglev=True)
    benchmark.extra_info["per_call"] = PICKS
    benchmark(candidates.bench_loop, policy.KIND, table, PICKS, NOW_US, policy().knobs(), PROMPT_TOKENS)

"""Micro-benchmarks of whole decisions, in native code: the pick, its charge, first token and end.

Endpoints are half busy, prompts come with their keys given, and a few hundred attempts are open at a time.
Percentiles are in extra_info: a mean hides the pick that refreshes what the learner knows.
"""

import random
from typing import Any

import pytest

from bench.micro.pick_cost import engine_figures
from router.native.decision import Decider
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.schema.policies import POLICIES

ROUNDS = 400
CHAINS = 50
BLOCK_TOKENS = [64 * (index + 1) for index in range(16)] + [1024 + 128 * (index + 1) for index in range(32)]


def make(endpoint_count: int) -> Decider:
    """A decider over endpoints of which half have something to do."""
    rng = random.Random(endpoint_count)
    load = LoadTable.create(endpoint_count, 2)
    learner = Learner.create(load.slot_count)
    for slot in range(endpoint_count):
        learner.set_figures(slot, engine_figures())
        if rng.random() < 0.5:
            load.charge(1, slot, uncached_tokens=1000, work_us=50_000, kv_tokens=2000)
    return Decider(load, PrefixTable.create(1 << 24, load.slot_count), learner)


@pytest.mark.parametrize("count", [8, 100, 1000])
@pytest.mark.parametrize("name", ["p2c", "lmetric", "five_axis"])
def test_decision(benchmark: Any, name: str, count: int) -> None:
    """ROUNDS decisions for CHAINS prompts of 5,000 tokens that come again and again."""
    rng = random.Random(count)
    policy = POLICIES[name]
    decider = make(count)
    chains = [[rng.getrandbits(63) | 1 for _ in BLOCK_TOKENS] for _ in range(CHAINS)]

    def run() -> tuple[list[int], list[int]]:
        return decider.bench(
            policy.KIND,
            range(count),
            chains,
            BLOCK_TOKENS,
            ROUNDS,
            knobs=policy().knobs(),
            prompt_tokens=5200,
        )

    run()
    picks_ns, decisions_ns = (sorted(samples) for samples in run())
    benchmark.extra_info["per_call"] = ROUNDS
    for label, samples in (("pick", picks_ns), ("decision", decisions_ns)):
        for percent in (50, 99):
            benchmark.extra_info[f"{label}_ns_p{percent}"] = samples[len(samples) * percent // 100]
    benchmark(run)

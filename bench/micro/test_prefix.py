"""Micro-benchmarks of the prefix table, in native code: tiny under plain pytest, measured by `make bench`."""

import random
from typing import Any

import pytest

from router.native.prefix import PrefixTable
from router.native.prefix_bench import insert_repeatedly, match_repeatedly

DEPTH = 32  # keys of a prompt of 16 KiB, about 4,000 tokens
CHAINS = 64
ROUNDS = 4
SIZE_BYTES = 32 << 20
TOKENS = [128 * (depth + 1) for depth in range(DEPTH)]


def chains_of(count: int, shared_depth: int, seed: int) -> list[list[int]]:
    """Prompts that agree in their first `shared_depth` blocks."""
    chance = random.Random(seed)
    shared = [chance.getrandbits(64) for _ in range(shared_depth)]
    return [shared + [chance.getrandbits(64) for _ in range(DEPTH - shared_depth)] for _ in range(count)]


def filled(endpoint_count: int, chains: list[list[int]]) -> PrefixTable:
    table = PrefixTable.create(SIZE_BYTES, endpoint_count)
    insert_repeatedly(table, chains, TOKENS, 1)
    return table


@pytest.mark.parametrize("endpoint_count", [8, 100, 1000])
@pytest.mark.parametrize("shared_depth", [0, 8, 31])
def test_match(benchmark: Any, endpoint_count: int, shared_depth: int) -> None:
    """Prompts known whole at one endpoint each, and as far as they agree at up to all of them."""
    chains = chains_of(CHAINS, shared_depth, 1)
    table = filled(endpoint_count, chains)
    benchmark.extra_info["per_call"] = CHAINS * ROUNDS
    hits = benchmark(match_repeatedly, table, chains, TOKENS, range(endpoint_count), ROUNDS)
    assert hits >= min(CHAINS, endpoint_count)


def test_match_among_slots_with_gaps(benchmark: Any) -> None:
    chains = chains_of(CHAINS, 8, 1)
    table = filled(200, chains)
    benchmark.extra_info["per_call"] = CHAINS * ROUNDS
    benchmark(match_repeatedly, table, chains, TOKENS, range(0, 200, 2), ROUNDS)


def test_match_of_unknown_prompts(benchmark: Any) -> None:
    table = filled(100, chains_of(CHAINS, 8, 1))
    benchmark.extra_info["per_call"] = CHAINS * ROUNDS
    assert benchmark(match_repeatedly, table, chains_of(CHAINS, 8, 2), TOKENS, range(100), ROUNDS) == 0


@pytest.mark.parametrize("shared_depth", [0, 8])
def test_insert_of_known_prompts(benchmark: Any, shared_depth: int) -> None:
    """A session's next turn at the endpoint that has it."""
    chains = chains_of(CHAINS, shared_depth, 1)
    table = filled(100, chains)
    benchmark.extra_info["per_call"] = CHAINS * ROUNDS
    benchmark(insert_repeatedly, table, chains, TOKENS, ROUNDS)
    assert table.match(chains[1], TOKENS, [1]) == [TOKENS[-1]]

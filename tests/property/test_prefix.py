"""The prefix table against its oracle: the same answers after any history of one writer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.native.prefix import PrefixTable
from tests.oracle import prefix as oracle

SLOTS_MAX = 32
HEAD_BYTES = 4096 + 28 * SLOTS_MAX + 64
BUCKET_BYTES = 16 + 4 * 64
TOKENS = 100

chains = st.lists(st.integers(0, 3), min_size=1, max_size=6)
"""A path in a tree of prompts; two that begin alike have the same keys as far as that."""
slots = st.integers(0, SLOTS_MAX - 1)


def keys_of(path: list[int], shift: int = 0) -> list[int]:
    keys = []
    key = 1
    for branch in path:
        key = (key * 5 + branch) << shift | 1
        keys.append(key % 2**64)
    return keys


def tokens_of(path: list[int]) -> list[int]:
    return [TOKENS * (depth + 1) for depth in range(len(path))]


class History(RuleBasedStateMachine):
    """Every rule does the same to both tables; the invariant asks for every prompt that was inserted."""

    @initialize(bucket_count=st.sampled_from([1, 2, 5, 64]), shift=st.sampled_from([0, 3, 20]))
    def begin(self, bucket_count: int, shift: int) -> None:
        self.table = PrefixTable.create(HEAD_BYTES + bucket_count * BUCKET_BYTES + 64, SLOTS_MAX)
        self.model = oracle.Table(self.table.bucket_count, SLOTS_MAX)
        self.shift = shift
        self.now_us = 0
        self.paths: list[list[int]] = [[0]]

    @rule(
        path=chains,
        slot=slots,
        uncached=st.sampled_from([0, 1, 100, 40_000, 2**32 - 1]),
        later=st.integers(0, 2**33),
    )
    def insert(self, path: list[int], slot: int, uncached: int, later: int) -> None:
        self.now_us += later
        self.table.insert(keys_of(path, self.shift), tokens_of(path), slot, uncached, self.now_us)
        self.model.insert(keys_of(path, self.shift), tokens_of(path), slot, uncached, self.now_us)
        self.paths.append(path)

    @rule(path=chains, first=slots, count=st.integers(1, 20))
    def insert_at_many(self, path: list[int], first: int, count: int) -> None:
        for slot in range(first, first + count):
            self.insert(path, slot % SLOTS_MAX, 1000, 0)

    @rule(
        slot=slots,
        expected=st.integers(0, 2000),
        reported=st.integers(0, 3000),
        missed=st.sampled_from([0, 0, 5000, 2**32 - 1]),
    )
    def report(self, slot: int, expected: int, reported: int, missed: int) -> None:
        self.table.reported(slot, expected, reported, missed)
        self.model.reported(slot, expected, reported, missed)

    @rule(slot=slots)
    def forget(self, slot: int) -> None:
        self.table.forget(slot)
        self.model.forget(slot)

    @rule(slot=slots, capacity=st.sampled_from([0, 1, 1000, 50_000, 2**32 - 1]))
    def set_capacity(self, slot: int, capacity: int) -> None:
        self.table.set_capacity(slot, capacity)
        self.model.set_capacity(slot, capacity)

    @rule(first=slots, count=st.integers(1, 14), units=st.sampled_from([100, 319, 320, 321]))
    def fill_many(self, first: int, count: int, units: int) -> None:
        """Some caches take something else, up to just as much as they hold of claims, or more."""
        for slot in range(first, min(first + count, SLOTS_MAX)):
            self.set_capacity(slot, 256_000)
            self.insert([3, 3, slot], slot, units * 1000, 0)

    @rule(candidates=st.lists(slots, max_size=10), path=chains)
    def match_some(self, candidates: list[int], path: list[int]) -> None:
        keys = keys_of(path, self.shift)
        found = self.table.match(keys, tokens_of(path), candidates)
        assert found == self.model.match(keys, tokens_of(path), candidates)

    @invariant()
    def evictions_cost_alike(self) -> None:
        for slot in range(SLOTS_MAX):
            assert self.table.eviction(slot) == pytest.approx(self.model.eviction[slot], rel=1e-4, abs=1e-9)

    @invariant()
    def the_latest_prompts_match_alike(self) -> None:
        for path in self.paths[-3:]:
            self.match_some(list(range(SLOTS_MAX)), path)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=80, stateful_step_count=30)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), slots), min_size=1, max_size=60), st.integers(1, 8))
def test_long_chains_of_any_keys_match_alike(claims: list[tuple[int, int]], bucket_count: int) -> None:
    table = PrefixTable.create(HEAD_BYTES + bucket_count * BUCKET_BYTES + 64, SLOTS_MAX)
    model = oracle.Table(table.bucket_count, SLOTS_MAX)
    keys = [key for key, _ in claims]
    tokens = [2 * depth for depth in range(len(keys))]  # the first boundary may be worth no token
    for depth, (_, slot) in enumerate(claims):
        table.insert(keys[: depth + 1], tokens[: depth + 1], slot, 10, depth << 18)
        model.insert(keys[: depth + 1], tokens[: depth + 1], slot, 10, depth << 18)
    everyone = list(range(SLOTS_MAX))
    assert table.match(keys, tokens, everyone) == model.match(keys, tokens, everyone)


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=40))
def test_a_block_that_was_everywhere_is_followed_alike(turns: list[tuple[int, bool]]) -> None:
    """Fourteen owners, of which some are then filled with something else, and some given the block anew."""
    table = PrefixTable.create(HEAD_BYTES + 4 * BUCKET_BYTES, SLOTS_MAX)
    model = oracle.Table(table.bucket_count, SLOTS_MAX)
    everyone = list(range(SLOTS_MAX))
    for slot, is_filled in [(slot, False) for slot in range(14)] + turns:
        keys = [100 + slot] if is_filled else [7]
        uncached = 2 * oracle.CAPACITY_DEFAULT_TOKENS if is_filled else 1
        table.insert(keys, [TOKENS], slot, uncached, 0)
        model.insert(keys, [TOKENS], slot, uncached, 0)
        assert table.match([7], [TOKENS], everyone) == model.match([7], [TOKENS], everyone)

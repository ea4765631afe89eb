"""The split between stable and canary against its oracle, and what a share promises."""

import math
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.native.variant import is_canary
from tests.oracle import variant
from tests.oracle.pick import hash_pair

keys = st.integers(0, 2**64 - 1)
ratios = st.floats(0, 1)
SEED = 20261123


@given(key=keys, ratio=ratios)
def test_the_native_split_is_the_oracles(key: int, ratio: float) -> None:
    assert is_canary(key, ratio) == variant.is_canary(key, ratio)


@given(key=keys, ratio=ratios, more=ratios)
def test_who_has_the_canary_keeps_it_while_its_share_grows(key: int, ratio: float, more: float) -> None:
    if is_canary(key, min(ratio, more)):
        assert is_canary(key, max(ratio, more))


@given(key=keys)
def test_no_share_is_nobody_and_the_whole_is_everybody(key: int) -> None:
    assert not is_canary(key, 0.0)
    assert is_canary(key, 1.0)


def test_as_many_have_it_as_the_share_says() -> None:
    drawn = random.Random(SEED)
    count = 20_000
    for ratio in (0.01, 0.1, 0.5, 0.9):
        found = sum(is_canary(drawn.getrandbits(64), ratio) for _ in range(count))
        assert abs(found - count * ratio) < 5 * math.sqrt(count * ratio * (1 - ratio))


def test_keys_in_a_row_are_spread_like_any_others() -> None:
    found = sum(is_canary(key, 0.1) for key in range(10_000))
    assert abs(found - 1000) < 5 * math.sqrt(900)


def test_those_who_have_it_are_not_crowded_where_a_hash_puts_their_keys() -> None:
    drawn = random.Random(SEED)
    endpoints = [drawn.getrandbits(64) for _ in range(8)]
    canary = [key for key in (drawn.getrandbits(64) for _ in range(40_000)) if is_canary(key, 0.2)]
    winners = Counter(max(endpoints, key=lambda one: hash_pair(key, one)) for key in canary)
    expected = len(canary) / len(endpoints)
    assert all(abs(winners[one] - expected) < 5 * math.sqrt(expected) for one in endpoints)

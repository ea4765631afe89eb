"""Picks equal the oracle's, spread as their policy promises, and move few keys when an endpoint goes."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet, random_words
from tests.oracle import pick as oracle
from tests.oracle.pick import Candidate, Policy, Request

NOW_US = 1_000_000
POINTS = 8
WORDS = st.integers(0, 2**64 - 1)
RANDOMS = [Policy.RANDOM, Policy.WEIGHTED]
KEYED = [Policy.RENDEZVOUS, Policy.RING, Policy.BOUNDED_RING, Policy.MAGLEV]


def build(candidates: list[Candidate], ejected_ratio_max: float = 0) -> tuple[CandidateSet, LoadTable]:
    """The same candidates natively; slots are not the positions, so that mixing them up shows."""
    count = len(candidates)
    table = LoadTable.create(2 * count + 1, 3)
    slots = [2 * position + 1 for position in reversed(range(count))]
    for slot, candidate in zip(slots, candidates, strict=True):
        for attempt in range(candidate.in_flight):
            table.charge(attempt % 3, slot)
        if candidate.is_ejected:
            table.eject(slot, NOW_US, 1_000, 1_000)
    weights = [candidate.weight for candidate in candidates]
    identities = [candidate.identity for candidate in candidates]
    features = [candidate.features for candidate in candidates]
    return CandidateSet(
        slots,
        weights,
        identities,
        POINTS,
        maglev=True,
        ejected_ratio_max=ejected_ratio_max,
        features=features,
    ), table


def answer(candidates: list[Candidate], policy: Policy, request: Request) -> int:
    native, table = build(candidates)
    return ask(native, table, policy, request)


def ask(native: CandidateSet, table: LoadTable, policy: Policy, request: Request) -> int:
    return native.pick(
        policy,
        table,
        random=request.random,
        key=request.key,
        now_us=NOW_US,
        excluded=request.excluded,
        knobs=(request.load_factor,),
        required=request.required,
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Candidate], Request]:
    count = draw(st.integers(1, 40))
    is_weighted, is_anybody_out = draw(st.booleans()), draw(st.booleans())
    required = draw(st.sampled_from([0, 0, 0b1, 0b101, 1 << 63]))
    features = st.sampled_from([required, required, 0b1, 0, (1 << 64) - 1]) if required else st.just(0)
    weights = st.sampled_from([0.5, 1.0, 2.0, 3.0] if is_weighted else [1.0])
    candidates = [
        Candidate(
            identity=identity,
            weight=draw(weights),
            in_flight=draw(st.integers(0, 4)),
            is_ejected=is_anybody_out and draw(st.booleans()),
            features=draw(features),
        )
        for identity in draw(st.lists(WORDS, min_size=count, max_size=count, unique=True))
    ]
    excluded = draw(st.frozensets(st.integers(0, count - 1))) if is_anybody_out else frozenset()
    key, word = draw(st.just(0) | WORDS), draw(WORDS)
    load_factor = draw(st.sampled_from([0.0, 1.0, 1.25, 2.0]))
    return candidates, Request(
        random=word, key=key, excluded=excluded, load_factor=load_factor, required=required
    )


def spread(count: int, seed: int, *, is_ejected: bool = False) -> list[Candidate]:
    identities = random.Random(seed)
    return [Candidate(identity=identities.getrandbits(64), is_ejected=is_ejected) for _ in range(count)]


@given(WORDS)
def test_random_words_are_wyrand(seed: int) -> None:
    words = oracle.Words(seed)
    assert random_words(seed, 5) == [words.next() for _ in range(5)]


@given(situations())
def test_two_choices_equal_the_oracle(situation: tuple[list[Candidate], Request]) -> None:
    assert answer(situation[0], Policy.P2C, situation[1]) == oracle.p2c(*situation)


@given(situations(), st.integers(1, 6))
def test_round_robin_equals_the_oracle(situation: tuple[list[Candidate], Request], turns: int) -> None:
    candidates, request = situation
    native, table = build(candidates)
    turn = 0
    for _ in range(turns):
        expected = oracle.round_robin(candidates, request, turn)
        assert ask(native, table, Policy.ROUND_ROBIN, request) == expected
        turn = expected + 1


@given(situations(), st.sampled_from(Policy), st.floats(0.01, 1) | st.integers(1, 100).map(lambda n: n / 100))
def test_with_so_many_ejected_that_it_is_panic_nobody_counts_as_ejected(
    situation: tuple[list[Candidate], Request], policy: Policy, ratio_max: float
) -> None:
    candidates, request = situation
    asked = [one for one in candidates if one.features & request.required == request.required]
    is_panic = sum(one.is_ejected for one in asked) > Fraction(str(ratio_max)) * len(asked)
    believed = [replace(one, is_ejected=False) for one in candidates] if is_panic else candidates
    native, table = build(candidates, ratio_max)
    assert ask(native, table, policy, request) == answer(believed, policy, request)


@given(situations())
def test_least_in_flight_is_one_of_the_oracles(situation: tuple[list[Candidate], Request]) -> None:
    winner = answer(situation[0], Policy.LEAST_IN_FLIGHT, situation[1])
    assert winner in (oracle.least(*situation) or {-1})


@given(situations())
def test_a_random_pick_equals_the_oracle(situation: tuple[list[Candidate], Request]) -> None:
    assert answer(situation[0], Policy.RANDOM, situation[1]) == oracle.uniform(*situation)


@given(situations(), st.sampled_from([Policy.RENDEZVOUS, Policy.WEIGHTED]))
def test_rendezvous_has_the_oracles_lowest_cost(
    situation: tuple[list[Candidate], Request], policy: Policy
) -> None:
    candidates, request = situation
    winner = answer(candidates, policy, request)
    left = oracle.eligible(candidates, request)
    key = request.random if policy is Policy.WEIGHTED else request.key or request.random
    assert winner in (left or {-1})
    if left:
        lowest = min(oracle.rendezvous_cost(candidates[position], key) for position in left)
        assert oracle.rendezvous_cost(candidates[winner], key) <= lowest * (1 + 1e-6)


@given(situations())
def test_bounded_ring_equals_the_oracle(situation: tuple[list[Candidate], Request]) -> None:
    candidates, _ = situation
    native, _ = build(candidates)
    assert native.ring() == oracle.ring(candidates, POINTS)
    assert answer(candidates, Policy.BOUNDED_RING, situation[1]) == oracle.bounded_ring(*situation, POINTS)


@given(situations())
def test_a_ring_equals_the_oracle(situation: tuple[list[Candidate], Request]) -> None:
    assert answer(situation[0], Policy.RING, situation[1]) == oracle.consistent_ring(*situation, POINTS)


@settings(max_examples=15)
@given(situations(), st.lists(WORDS, min_size=1, max_size=10))
def test_a_maglev_table_and_its_picks_equal_the_oracle(
    situation: tuple[list[Candidate], Request], keys: list[int]
) -> None:
    candidates, request = situation
    native, table = build(candidates)
    entries = oracle.maglev_table(candidates)
    assert native.maglev() == entries
    for key in keys:
        asked = replace(request, key=key)
        owner = oracle.maglev(candidates, asked, entries)
        expected = ask(native, table, Policy.RENDEZVOUS, asked) if owner is None else owner
        assert ask(native, table, Policy.MAGLEV, asked) == expected


@pytest.mark.parametrize("count", [2, 40, 1500])
def test_a_maglev_table_does_not_depend_on_the_order_and_moves_few_keys(count: int) -> None:
    identities = [candidate.identity for candidate in spread(count, 5)]
    whole = CandidateSet(range(count), identities=identities, maglev=True).maglev()
    turned = CandidateSet(range(count), identities=identities[::-1], maglev=True).maglev()
    assert [count - 1 - position for position in turned] == whole
    rest = CandidateSet(range(count - 1), identities=identities[1:], maglev=True).maglev()
    moved = sum(before not in (0, after + 1) for before, after in zip(whole, rest, strict=True))
    assert moved < 0.1 * len(whole)
    shares = Counter(whole)
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize("policy", [Policy.P2C, Policy.ROUND_ROBIN, Policy.LEAST_IN_FLIGHT, *RANDOMS])
@pytest.mark.parametrize("count", [2, 5, 40, 1500])
def test_equal_idle_candidates_are_picked_equally_often(policy: Policy, count: int) -> None:
    candidates = spread(count, 1)
    native, table = build(candidates)
    rounds = 20_000
    picks = Counter(ask(native, table, policy, Request(random=word)) for word in random_words(7, rounds))
    mean = rounds / count
    chi_square = sum((picks[position] - mean) ** 2 / mean for position in range(count))
    freedom = count - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations


@pytest.mark.parametrize("policy", [Policy.P2C, Policy.LEAST_IN_FLIGHT, *RANDOMS])
@pytest.mark.parametrize("count", [4, 40])
def test_eligible_candidates_are_picked_equally_often(policy: Policy, count: int) -> None:
    candidates = spread(count // 2, 1) + spread(count // 4, 2, is_ejected=True) + spread(count // 4, 3)
    native, table = build(candidates)
    excluded = frozenset(range(count // 2 + count // 4, count))
    rounds = 10_000
    picks = Counter(
        ask(native, table, policy, Request(random=word, excluded=excluded))
        for word in random_words(8, rounds)
    )
    assert set(picks) == set(range(count // 2))
    mean = rounds / (count // 2)
    chi_square = sum((picks[position] - mean) ** 2 / mean for position in picks)
    freedom = count // 2 - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("policy", KEYED)
def test_keys_spread_by_weight(policy: Policy) -> None:
    candidates = [
        Candidate(identity=c.identity, weight=w)
        for c, w in zip(spread(8, 4), [1, 1, 1, 1, 2, 2, 4, 4], strict=True)
    ]
    table = LoadTable.create(8, 1)
    identities, weights = [c.identity for c in candidates], [c.weight for c in candidates]
    native = CandidateSet(range(8), weights, identities, points_per_weight=400, maglev=True)
    rounds = 20_000
    picks = Counter(native.pick(policy, table, key=key) for key in range(1, rounds + 1))
    for position, candidate in enumerate(candidates):
        assert picks[position] == pytest.approx(rounds * candidate.weight / 16, rel=0.15)


@pytest.mark.parametrize("policy", [Policy.RENDEZVOUS, Policy.RING, Policy.BOUNDED_RING])
@pytest.mark.parametrize("gone", [0, 7, 19])
def test_a_removed_endpoint_moves_its_own_keys_only(policy: Policy, gone: int) -> None:
    identities = [candidate.identity for candidate in spread(20, 5)]
    rest = identities[:gone] + identities[gone + 1 :]
    table = LoadTable.create(20, 1)
    before = CandidateSet(range(20), identities=identities, points_per_weight=100)
    after = CandidateSet(range(19), identities=rest, points_per_weight=100)
    moved = 0
    for key in random_words(3, 4000):
        owner = identities[before.pick(policy, table, key=key)]
        heir = rest[after.pick(policy, table, key=key)]
        assert heir == owner or owner == identities[gone]
        moved += heir != owner
    assert moved <= 4000 * 1.4 / 20


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=12),
    st.sampled_from([1.0, 1.25, 2.0]),
    WORDS,
)
def test_bounded_ring_keeps_everybody_under_his_share(
    weights: list[float], load_factor: float, seed: int
) -> None:
    candidates = spread(len(weights), 6)
    table = LoadTable.create(len(weights), 1)
    native = CandidateSet(range(len(weights)), weights, [c.identity for c in candidates], POINTS)
    hot_keys = random_words(seed, 3)
    for total in range(1, 80):
        owner = native.pick(Policy.BOUNDED_RING, table, key=hot_keys[total % 3] or 1, knobs=(load_factor,))
        table.charge(0, owner)
        bound = math.ceil(load_factor * total * weights[owner] / sum(weights))
        assert table.in_flight(owner) <= bound


def test_two_choices_balance_better_than_chance() -> None:
    table = LoadTable.create(100, 1)
    native = CandidateSet(range(100))
    for word in random_words(9, 10_000):
        table.charge(0, native.pick(Policy.P2C, table, random=word))
    loads = [table.in_flight(slot) for slot in range(100)]
    assert max(loads) <= 100 + 5  # ln ln n / ln 2 above the mean; chance alone is near 128

"""What a pick does at its edges: nobody there, nobody left, one left, another process's load."""

import pytest

from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet, random_words
from router.schema.policies import POLICIES, BasePolicy
from tests.oracle.pick import Policy

EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
LOOK_AT_ALL = {
    "least_in_flight",
    "smg_cache_aware",
    "loadaware",
    "llmd",
    "sticky",
    "dynamo",
    "lmetric",
    "mooncake",
}
NOW_US = 1_000_000


@EVERY_POLICY
def test_no_candidates_give_no_winner(policy: type[BasePolicy]) -> None:
    assert CandidateSet([], points_per_weight=10, maglev=True).pick(policy.KIND, LoadTable.create(1, 1)) == -1


@EVERY_POLICY
@pytest.mark.parametrize("count", [1, 3, 40, 256])
def test_excluding_everybody_gives_no_winner(policy: type[BasePolicy], count: int) -> None:
    table = LoadTable.create(count, 1)
    candidates = CandidateSet(range(count), points_per_weight=10, maglev=True)
    for is_anybody_ejected in (False, True):
        if is_anybody_ejected:
            table.eject(0, NOW_US, 10, 10)
        assert (
            candidates.pick(
                policy.KIND, table, random=5, now_us=NOW_US, excluded=range(count), knobs=policy().knobs()
            )
            == -1
        )


@EVERY_POLICY
@pytest.mark.parametrize("count", [2, 40, 300])
def test_the_only_eligible_candidate_wins_however_rare(policy: type[BasePolicy], count: int) -> None:
    table = LoadTable.create(count, 1)
    candidates = CandidateSet(range(count), points_per_weight=10, maglev=True)
    survivor = count - 1
    for slot in range(survivor):
        table.eject(slot, NOW_US, 10, 10)
    for word in random_words(1, 20):
        assert (
            candidates.pick(policy.KIND, table, random=word, key=word, now_us=NOW_US, knobs=policy().knobs())
            == survivor
        )


@EVERY_POLICY
@pytest.mark.parametrize("count", [4, 40])
def test_with_everybody_ejected_those_not_tried_yet_are_tried(policy: type[BasePolicy], count: int) -> None:
    table = LoadTable.create(count, 1)
    candidates = CandidateSet(range(count), points_per_weight=10, maglev=True)
    for slot in range(count):
        table.eject(slot, NOW_US, 10, 10)
    excluded = {0, 2}
    winners = {
        candidates.pick(
            policy.KIND,
            table,
            random=word,
            key=word,
            now_us=NOW_US,
            excluded=excluded,
            knobs=policy().knobs(),
        )
        for word in random_words(1, 40 * count)
    }
    assert winners == set(range(count)) - excluded


@EVERY_POLICY
def test_an_ejection_ends_by_itself(policy: type[BasePolicy]) -> None:
    table = LoadTable.create(2, 1)
    candidates = CandidateSet(range(2), points_per_weight=10, maglev=True)
    table.eject(0, NOW_US, 10, 10)
    words = random_words(1, 40)

    def winners(now_us: int) -> set[int]:
        return {
            candidates.pick(policy.KIND, table, random=word, key=word, now_us=now_us, knobs=policy().knobs())
            for word in words
        }

    assert winners(NOW_US + 9) == {1}
    assert winners(NOW_US + 10) == {0, 1}


@EVERY_POLICY
@pytest.mark.parametrize("prompt_tokens", [0, 1, 30_000])
def test_one_candidate_wins_whatever_is_asked(policy: type[BasePolicy], prompt_tokens: int) -> None:
    table = LoadTable.create(3, 1)
    candidates = CandidateSet([1], points_per_weight=10, maglev=True)
    knobs = policy().knobs()
    for word in random_words(1, 5):
        assert candidates.pick(policy.KIND, table, random=word, prompt_tokens=prompt_tokens, knobs=knobs) == 0


@EVERY_POLICY
@pytest.mark.parametrize("weights", [None, [0.001, 1.0, 5000.0]])
def test_a_request_without_a_prompt_is_placed(policy: type[BasePolicy], weights: list[float] | None) -> None:
    """The busy endpoint gets it only from those that do not look at load."""
    table = LoadTable.create(3, 1)
    for _ in range(50):
        table.charge(0, 0, prompt_tokens=4000, uncached_tokens=4000, kv_tokens=5000, work_us=200_000)
    candidates = CandidateSet(range(3), weights, points_per_weight=10, maglev=True)
    winners = {
        candidates.pick(policy.KIND, table, random=word, key=word, now_us=NOW_US, knobs=policy().knobs())
        for word in random_words(2, 60)
    }
    assert winners <= {0, 1, 2}
    if policy.name() in LOOK_AT_ALL:
        assert 0 not in winners


@EVERY_POLICY
def test_all_knobs_at_zero_still_pick_somebody(policy: type[BasePolicy]) -> None:
    table = LoadTable.create(3, 1)
    table.charge(0, 0, prompt_tokens=4000, uncached_tokens=4000, kv_tokens=5000)
    candidates = CandidateSet(range(3), points_per_weight=10, maglev=True)
    for prompt_tokens in (0, 1000):
        assert candidates.pick(policy.KIND, table, prompt_tokens=prompt_tokens, now_us=NOW_US) >= 0


@pytest.mark.parametrize("policy", [Policy.P2C, Policy.LEAST_IN_FLIGHT])
def test_load_of_another_process_counts(policy: Policy) -> None:
    table = LoadTable.create(2, 2)
    other = LoadTable.attach(table.fd)
    candidates = CandidateSet([0, 1])
    other.charge(1, 0)
    assert {candidates.pick(policy, table, random=word) for word in random_words(1, 20)} == {1}
    other.charge(1, 1)
    other.charge(1, 1)
    assert {candidates.pick(policy, table, random=word) for word in random_words(1, 20)} == {0}


@pytest.mark.parametrize("policy", [Policy.P2C, Policy.LEAST_IN_FLIGHT])
def test_load_counts_in_proportion_to_weight(policy: Policy) -> None:
    table = LoadTable.create(2, 1)
    candidates = CandidateSet([0, 1], weights=[1.0, 4.0])
    table.charge(0, 0)
    for in_flight in range(4):
        winners = {candidates.pick(policy, table, random=word) for word in random_words(1, 20)}
        assert winners == {1}, in_flight
        table.charge(0, 1)
    assert {candidates.pick(policy, table, random=word) for word in random_words(1, 20)} == {0, 1}


def test_round_robin_goes_round_and_gives_a_skipped_turn_to_no_neighbour() -> None:
    table = LoadTable.create(4, 1)
    candidates = CandidateSet(range(4))
    table.eject(1, NOW_US, 10, 10)
    turns = [candidates.pick(Policy.ROUND_ROBIN, table, now_us=NOW_US) for _ in range(9)]
    assert turns == [0, 2, 3] * 3


@pytest.mark.parametrize("policy", [Policy.RENDEZVOUS, Policy.RING, Policy.BOUNDED_RING, Policy.MAGLEV])
def test_a_key_keeps_its_endpoint_whatever_the_random_word(policy: Policy) -> None:
    table = LoadTable.create(16, 1)
    candidates = CandidateSet(range(16), points_per_weight=100, maglev=True)
    assert len({candidates.pick(policy, table, key=99, random=word) for word in random_words(1, 50)}) == 1
    without_key = {candidates.pick(policy, table, random=word) for word in random_words(1, 200)}
    assert without_key == set(range(16))


@pytest.mark.parametrize("policy", [Policy.RING, Policy.BOUNDED_RING, Policy.MAGLEV])
def test_what_was_not_built_is_a_rendezvous(policy: Policy) -> None:
    table = LoadTable.create(16, 1)
    candidates = CandidateSet(range(16))
    assert (candidates.ring(), candidates.maglev()) == ([], [])
    for key in random_words(1, 50):
        winner = candidates.pick(Policy.RENDEZVOUS, table, key=key)
        assert candidates.pick(policy, table, key=key) == winner


def test_a_hot_key_spills_to_the_next_owner_when_its_endpoint_is_full() -> None:
    table = LoadTable.create(4, 1)
    candidates = CandidateSet(range(4), points_per_weight=100)
    owners = []
    for _ in range(8):
        owner = candidates.pick(Policy.BOUNDED_RING, table, key=5, knobs=(1.25,))
        table.charge(0, owner)
        owners.append(owner)
    assert owners[0] == owners[3]  # capacity is 1 for the first three, then 2
    assert len(set(owners[:3])) == 3
    assert max(table.in_flight(slot) for slot in range(4)) == 3  # ceil(1.25 * 8 / 4)


def test_huge_weights_do_not_make_a_huge_ring() -> None:
    candidates = CandidateSet(range(3), weights=[1e6, 1e6, 1.0], points_per_weight=100)
    points = candidates.ring()
    assert len(points) <= (1 << 20) + 3
    assert {owner for _, owner in points} == {0, 1, 2}


def test_candidates_must_lie_in_the_table_and_have_weight() -> None:
    with pytest.raises(IndexError, match="slot 16 of 16"):
        CandidateSet([16]).pick(Policy.P2C, LoadTable.create(16, 1))
    with pytest.raises(ValueError, match="above 0"):
        CandidateSet([0, 1], weights=[1.0, 0.0])
    with pytest.raises(ValueError, match="equally many"):
        CandidateSet([0, 1], weights=[1.0])

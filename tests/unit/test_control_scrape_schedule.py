"""Whose turn it is: spread, jittered, backed off, never twice at once."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from control.scrape_schedule import JITTER_RATIO, Schedule


def schedule(*, backoff_max_s: float = 8.0, seed: int = 1) -> Schedule:
    return Schedule(backoff_max_s=backoff_max_s, random_=random.Random(seed))


def keys(taken: list[tuple[str, int]]) -> list[str]:
    return [key for key, _ in taken]


def test_first_turns_are_spread_over_the_period() -> None:
    turns = schedule()
    turns.set({str(number): 1.0 for number in range(1000)}, 100.0)
    counts = [len(turns.take(100.0 + tenth / 10, 1000)) for tenth in range(1, 11)]
    assert sum(counts) == 1000
    assert all(60 < count < 140 for count in counts)


def test_a_page_that_is_out_is_not_due_until_it_is_back() -> None:
    turns = schedule()
    turns.set({"a": 1.0}, 0.0)
    ((key, serial),) = turns.take(1.0, 10)
    assert turns.take(50.0, 10) == []
    turns.done(key, serial, 50.0, is_well=True)
    assert keys(turns.take(51.0, 10)) == ["a"]


def test_turns_keep_their_pace_and_what_was_missed_is_not_made_up_for() -> None:
    turns = schedule()
    turns.set({"a": 1.0}, 0.0)
    now_s, times = 0.0, list[float]()
    while len(times) < 100:
        now_s += 0.01
        for key, serial in turns.take(now_s, 10):
            times.append(now_s)
            turns.done(key, serial, now_s + 0.005, is_well=True)
    gaps = [after - before for before, after in pairwise(times)]
    assert all(1 - JITTER_RATIO - 0.02 < gap < 1 + JITTER_RATIO + 0.02 for gap in gaps)
    assert 0.97 < sum(gaps) / len(gaps) < 1.03
    turns.take(now_s + 2, 1)
    later_s = now_s + 100
    turns.done("a", 1, later_s, is_well=True)
    assert len(turns.take(later_s + 1, 10)) == 1


def test_each_failure_in_a_row_halves_the_rate_down_to_a_bound() -> None:
    turns = schedule(backoff_max_s=8.0)
    turns.set({"a": 1.0}, 0.0)
    now_s = 1.0
    for most_s in (2.0, 4.0, 8.0, 8.0):
        ((key, serial),) = turns.take(now_s, 1)
        turns.done(key, serial, now_s, is_well=False)
        assert turns.take(now_s + most_s / 2 - 0.001, 1) == []
        now_s += most_s


def test_a_page_that_never_answers_is_asked_at_the_bound_and_one_answer_ends_that() -> None:
    turns = schedule(backoff_max_s=8.0)
    turns.set({"a": 1.0}, 0.0)
    now_s = 1.0
    for _ in range(20):
        ((key, serial),) = turns.take(now_s, 1)
        turns.done(key, serial, now_s, is_well=False)
        now_s += 8.0
    ((key, serial),) = turns.take(now_s, 1)
    turns.done(key, serial, now_s, is_well=True)
    assert len(turns.take(now_s + 1.0 + JITTER_RATIO, 1)) == 1


def test_no_more_are_taken_than_there_is_room_for() -> None:
    turns = schedule()
    turns.set({str(number): 1.0 for number in range(10)}, 0.0)
    taken = turns.take(1.0, 4) + turns.take(1.0, 0) + turns.take(1.0, 100)
    assert sorted(keys(taken)) == sorted(map(str, range(10)))


def test_who_is_taken_off_while_out_and_put_on_again_has_one_turn_only() -> None:
    turns = schedule()
    turns.set({"a": 1.0}, 0.0)
    ((key, serial),) = turns.take(1.0, 1)
    turns.set({}, 1.0)
    turns.set({"a": 1.0}, 1.0)
    turns.done(key, serial, 1.0, is_well=True)
    assert len(turns.take(2.0, 10)) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "take", "well", "ill"]), st.sets(st.integers(0, 4)), st.floats(0, 3)
        )
    )
)
def test_whatever_happens_a_page_is_out_at_most_once_and_none_is_lost(
    events: list[tuple[str, set[int], float]],
) -> None:
    turns = schedule(backoff_max_s=4.0)
    now_s, wanted, out = 0.0, set[str](), dict[tuple[str, int], None]()
    for what, numbers, pause_s in events:
        now_s += pause_s
        if what == "set":
            wanted = {str(number) for number in numbers}
            turns.set(dict.fromkeys(wanted, 1.0), now_s)
            out = {pair: None for pair in out if pair[0] in wanted}
        elif what == "take":
            for pair in turns.take(now_s, 3):
                assert pair[0] in wanted
                assert pair[0] not in [key for key, _ in out]
                out[pair] = None
        elif out:
            pair = next(iter(out))
            del out[pair]
            turns.done(*pair, now_s, is_well=what == "well")
    found = keys(turns.take(now_s + 10, 100))
    assert sorted(found + [key for key, _ in out]) == sorted(wanted)

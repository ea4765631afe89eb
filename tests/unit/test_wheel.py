"""The timer wheel under a virtual clock, held to a dictionary of deadlines.

Every timer fires once per arming, never early, and at most one tick late; the wait it asks for never sleeps
through a timer.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.wheel import TimerScript

TICK_US = 8192
TURN_US = 512 * TICK_US
TIMERS = 16

MOMENTS = st.one_of(
    st.integers(0, 3 * TICK_US),
    st.integers(0, 4 * TURN_US),
    st.sampled_from([0, TICK_US - 1, TICK_US, TICK_US + 1, TURN_US - 1, TURN_US, TURN_US + 1, 2 * TURN_US]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, TIMERS - 1), MOMENTS),
        st.tuples(st.just("cancel"), st.integers(0, TIMERS - 1), st.just(0)),
        st.tuples(st.just("advance"), st.just(0), MOMENTS),
    ),
    max_size=60,
)


def must_fire_us(due_us: int) -> int:
    """The first moment at which a look at the wheel has to find the timer: the end of its tick."""
    return (due_us // TICK_US + 1) * TICK_US


@given(st.integers(0, 10 * TURN_US), STEPS)
def test_timers_fire_once_never_early_and_within_a_tick(
    start_us: int, steps: list[tuple[str, int, int]]
) -> None:
    wheel = TimerScript(start_us)
    armed: dict[int, int] = {}
    now_us = start_us
    for what, number, value in steps:
        if what == "arm":
            armed[number] = now_us + value
            wheel.arm(number, now_us + value)
        elif what == "cancel":
            armed.pop(number, None)
            wheel.cancel(number)
        else:
            now_us += value
            fired = wheel.advance(now_us)
            assert len(fired) == len(set(fired))
            for each in fired:
                assert armed.pop(each) <= now_us
            assert [due for due in armed.values() if must_fire_us(due) <= now_us] == []
        assert wheel.armed_count() == len(armed)


@given(st.lists(MOMENTS, max_size=TIMERS))
def test_the_wait_ends_before_the_next_timer_must_fire(dues_us: list[int]) -> None:
    wheel = TimerScript(0)
    for number, due_us in enumerate(dues_us):
        wheel.arm(number, due_us)
    waiting = set(range(len(dues_us)))
    now_us = 0
    for _ in range(2000):
        wait_ms = wheel.wait_ms()
        if not waiting:
            assert wait_ms == -1
            return
        assert wait_ms >= 0
        assert now_us + wait_ms * 1000 <= max(now_us, min(must_fire_us(dues_us[n]) for n in waiting)) + 1000
        now_us += max(wait_ms * 1000, 1)
        waiting -= set(wheel.advance(now_us))
    raise AssertionError(f"{waiting} never fired")


def test_a_wheel_without_timers_asks_for_no_wake() -> None:
    wheel = TimerScript(5)
    assert wheel.wait_ms() == -1
    assert wheel.advance(10 * TURN_US) == []


def test_a_long_sleep_fires_everything_that_came_due_in_it() -> None:
    wheel = TimerScript(0)
    for number in range(600):
        wheel.arm(number, number * TICK_US * 3)
    assert sorted(wheel.advance(600 * TICK_US * 3 + TICK_US)) == list(range(600))
    assert wheel.armed_count() == 0


def test_timers_of_later_turns_stay_in_the_slot_they_share() -> None:
    wheel = TimerScript(0)
    wheel.arm(0, 5 * TICK_US)
    wheel.arm(1, 5 * TICK_US + TURN_US)
    wheel.arm(2, 5 * TICK_US + 2 * TURN_US)
    assert wheel.advance(6 * TICK_US) == [0]
    assert wheel.advance(6 * TICK_US + TURN_US) == [1]
    assert wheel.advance(6 * TICK_US + 2 * TURN_US) == [2]


def test_arming_again_moves_the_deadline() -> None:
    wheel = TimerScript(0)
    wheel.arm(7, 2 * TICK_US)
    wheel.arm(7, 20 * TICK_US)
    assert wheel.armed_count() == 1
    assert wheel.advance(19 * TICK_US) == []
    assert wheel.advance(21 * TICK_US) == [7]


def test_a_deadline_in_the_past_fires_at_the_next_tick() -> None:
    wheel = TimerScript(100 * TICK_US)
    wheel.arm(3, 1)
    assert wheel.advance(100 * TICK_US) == [3]


@pytest.mark.parametrize("number", [0, 1])
def test_cancelling_what_is_not_armed_changes_nothing(number: int) -> None:
    wheel = TimerScript(0)
    wheel.arm(0, 5)
    wheel.cancel(1)
    wheel.cancel(number)
    wheel.cancel(number)
    assert wheel.armed_count() == (0 if number == 0 else 1)

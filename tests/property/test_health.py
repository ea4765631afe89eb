"""Health of an endpoint under any events: legal, damped, and sure of what is constantly so."""

from hypothesis import given
from hypothesis import strategies as st

from control.health import (
    Answer,
    Attempted,
    Condition,
    Drained,
    EndpointHealth,
    Event,
    Loaded,
    Probed,
    ProbeKind,
    after,
    health_value,
    is_left_out,
    unknown,
)
from control.health_settings import Generation, HealthSettings

times = st.floats(-1e6, 1e6)
counts = st.integers(-5, 10_000)
regions = st.sampled_from(["", "eu", "us", "ap"])
events = st.one_of(
    st.builds(
        Probed,
        at_s=times,
        answer=st.sampled_from(Answer),
        kind=st.sampled_from(ProbeKind),
        latency_s=st.floats(-1, 100),
    ),
    st.builds(Attempted, at_s=times, region=regions, attempts=counts, faults=counts, output_tokens=counts),
    st.builds(Loaded, at_s=times, waiting=counts, has_progressed=st.booleans()),
    st.builds(Drained, at_s=times, is_draining=st.booleans()),
)
settings_of_health = st.builds(
    HealthSettings,
    rise=st.integers(1, 5),
    fall=st.integers(1, 5),
    generation=st.builds(Generation, is_on=st.booleans()),
)


def check(before: EndpointHealth, health: EndpointHealth, event: Event, settings: HealthSettings) -> None:
    assert health.seen_s >= before.seen_s
    assert health.seen_s >= event.at_s
    assert before.since_s <= health.since_s <= health.seen_s
    assert (health.since_s == before.since_s) or health.condition is not before.condition
    assert health.reason
    assert all(0 <= health_value(health, region) <= 1 for region in ("", "eu", "us", "ap"))
    assert (health_value(health) == 0) >= (health.condition in (Condition.DOWN, Condition.DRAINING))
    assert (health.condition is Condition.DRAINING) == health.is_draining == is_left_out(health)
    assert 0 <= health.penalty <= settings.damping.penalty_max
    assert not (health.liveness.good and health.liveness.bad)
    assert 0 <= health.fault_ratio <= 1
    assert all(0 <= path.faults <= path.attempts for path in health.paths)
    assert len({path.region for path in health.paths}) == len(health.paths)
    if health.condition in (Condition.HEALTHY, Condition.DEGRADED, Condition.BUSY):
        assert health.liveness.is_up
        assert not health.is_loading
        assert not health.is_held


@given(st.lists(events, max_size=60), settings_of_health)
def test_any_events_leave_a_legal_state(sequence: list[Event], settings: HealthSettings) -> None:
    health = unknown(0.0)
    for event in sequence:
        before, health = health, after(health, event, settings)
        check(before, health, event, settings)


@given(st.lists(events, max_size=30), settings_of_health)
def test_one_that_is_constantly_good_is_healthy_in_the_end_whatever_was(
    sequence: list[Event], settings: HealthSettings
) -> None:
    health = unknown(0.0)
    for event in sequence:
        health = after(health, event, settings)
    health = after(health, Drained(at_s=health.seen_s, is_draining=False), settings)
    for _ in range(30):
        for kind in ProbeKind:
            health = after(health, Probed(at_s=health.seen_s + 5, answer=Answer.OK, kind=kind), settings)
    assert health.condition is Condition.HEALTHY


@given(st.integers(1, 20), st.floats(0.001, 3600))
def test_one_that_was_always_good_is_healthy_after_rise_probes_and_not_before(
    rise: int, step_s: float
) -> None:
    settings = HealthSettings(rise=rise)
    health = unknown(0.0)
    seen = []
    for _ in range(rise + 5):
        health = after(health, Probed(at_s=health.seen_s + step_s, answer=Answer.OK), settings)
        seen.append(health.condition)
    assert seen == [Condition.UNKNOWN] * (rise - 1) + [Condition.HEALTHY] * 6


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0.1, 30),
    st.sampled_from([Answer.REFUSED, Answer.LOADING, Answer.TIMED_OUT, Answer.STATUS]),
)
def test_one_that_flaps_with_any_period_changes_a_few_times_in_a_half_life(
    rise: int, fall: int, good: int, bad: int, step_s: float, answer: Answer
) -> None:
    settings = HealthSettings(rise=rise, fall=fall)
    half_life_s = settings.damping.half_life_ms / 1000
    health, changes_s = unknown(0.0), []
    was_up = False
    for turn in range(200):
        is_good = turn % (good + bad) < good
        event = Probed(at_s=health.seen_s + step_s, answer=Answer.OK if is_good else answer)
        health = after(health, event, settings)
        is_up = health.condition in (Condition.HEALTHY, Condition.DEGRADED)
        if is_up is not was_up:
            changes_s.append(health.seen_s)
        was_up = is_up
    # Each change adds 1 to a penalty that halves at most within the window: past twice the bound it is held.
    few = 2 * settings.damping.suppress_above + 2
    for index, first_s in enumerate(changes_s):
        assert sum(at_s <= first_s + half_life_s for at_s in changes_s[index:]) <= few


@given(st.lists(st.tuples(st.integers(16, 500), st.floats(0.1, 7.0)), min_size=1, max_size=60))
def test_one_that_is_full_and_gets_on_is_never_down(turns: list[tuple[int, float]]) -> None:
    settings = HealthSettings()
    health = unknown(0.0)
    for _ in range(2):
        health = after(health, Probed(at_s=health.seen_s + 1, answer=Answer.OK), settings)
    for waiting, step_s in turns:
        health = after(health, Loaded(at_s=health.seen_s, waiting=waiting, has_progressed=True), settings)
        health = after(health, Probed(at_s=health.seen_s + step_s, answer=Answer.TIMED_OUT), settings)
        assert health.condition is Condition.BUSY

"""Health of an endpoint: every way from one condition to another, and what routers are told of each."""

from collections.abc import Callable, Iterable

import msgspec
import pytest

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
from control.health_settings import Damping, Generation, HealthSettings
from router import limits
from router.schema.config import Engine

SETTINGS = HealthSettings(generation=Generation(is_on=True))
INTERVAL_S = 2.0

Make = Callable[[float], Event]


def probe(answer: Answer, latency_s: float = 0.01, detail: str = "") -> Make:
    return lambda at_s: Probed(at_s=at_s, answer=answer, latency_s=latency_s, detail=detail)


def generate(answer: Answer, detail: str = "") -> Make:
    return lambda at_s: Probed(at_s=at_s, answer=answer, kind=ProbeKind.GENERATION, detail=detail)


def attempts(count: int, faults: int = 0, region: str = "eu") -> Make:
    return lambda at_s: Attempted(at_s=at_s, region=region, attempts=count, faults=faults)


def queue(waiting: int, has_progressed: bool = True) -> Make:
    return lambda at_s: Loaded(at_s=at_s, waiting=waiting, has_progressed=has_progressed)


def drain(is_draining: bool = True) -> Make:
    return lambda at_s: Drained(at_s=at_s, is_draining=is_draining, by="ann")


OK, LOADING, REFUSED = probe(Answer.OK), probe(Answer.LOADING), probe(Answer.REFUSED)
TIMED_OUT, STATUS = probe(Answer.TIMED_OUT, 2.0), probe(Answer.STATUS, detail="500: dead")
SLOW, SAYS_BUSY = probe(Answer.OK, 1.9), probe(Answer.BUSY)
GENERATED, NO_TOKEN = generate(Answer.OK), generate(Answer.STATUS, "500: dead")
UP, GONE = [OK, OK], [REFUSED] * 3


def played(
    events: Iterable[Make],
    health: EndpointHealth | None = None,
    settings: HealthSettings = SETTINGS,
    step_s: float = INTERVAL_S,
) -> EndpointHealth:
    health = health or unknown(100.0)
    for make in events:
        health = after(health, make(health.seen_s + step_s), settings)
    return health


TRANSITIONS: dict[str, tuple[list[Make], Condition, str]] = {
    "nothing seen": ([], Condition.UNKNOWN, "not probed yet"),
    "one good probe is not enough": ([OK], Condition.UNKNOWN, "1 of 2 good probes"),
    "two failures are not enough": ([REFUSED] * 2, Condition.UNKNOWN, "no good probe yet: refused"),
    "unknown to healthy": (UP, Condition.HEALTHY, "probes are good"),
    "unknown to down": (GONE, Condition.DOWN, "3 probes failed in a row: refused"),
    "unknown to warming": ([LOADING], Condition.WARMING, "loads its model"),
    "unknown to draining": ([drain()], Condition.DRAINING, "taken out of use by ann"),
    "a new one that is full": ([*UP, queue(16)], Condition.BUSY, "16 requests wait"),
    "healthy stays so for two failures": ([*UP, REFUSED, REFUSED], Condition.HEALTHY, ""),
    "a good probe ends the row": ([*UP, REFUSED, REFUSED, OK, REFUSED], Condition.DEGRADED, "fail"),
    "healthy to down, refused": ([*UP, *GONE], Condition.DOWN, "refused"),
    "healthy to down, hanging": ([*UP, *[TIMED_OUT] * 3], Condition.DOWN, "timed out"),
    "healthy to down, its own word": ([*UP, *[STATUS] * 3], Condition.DOWN, "500: dead"),
    "healthy to down, HTML": ([*UP, *[probe(Answer.UNREADABLE)] * 3], Condition.DOWN, "unreadable"),
    "healthy to down, resets": ([*UP, *[probe(Answer.CUT)] * 3], Condition.DOWN, "cut"),
    "a wrong question is no failure": ([*UP, *[probe(Answer.REJECTED)] * 9], Condition.HEALTHY, ""),
    "healthy to warming at once": ([*UP, LOADING], Condition.WARMING, "loads"),
    "healthy to degraded, slow": ([*UP, *[SLOW] * 4], Condition.DEGRADED, "probes take 1.4 s"),
    "degraded to healthy, fast again": ([*UP, *[SLOW] * 4, *[OK] * 4], Condition.HEALTHY, ""),
    "healthy to degraded, flaky": ([*UP, *[OK, REFUSED] * 9], Condition.DEGRADED, "of probes fail"),
    "healthy to degraded, faults": ([*UP, attempts(40, 8)], Condition.DEGRADED, "20% of attempts fail"),
    "few attempts say nothing": ([*UP, attempts(19, 19)], Condition.HEALTHY, ""),
    "faults are forgotten": ([*UP, attempts(40, 8), *[OK] * 16], Condition.HEALTHY, ""),
    "degraded to down": ([*UP, attempts(40, 40), *GONE], Condition.DOWN, "refused"),
    "degraded to busy": ([*UP, attempts(40, 8), queue(20)], Condition.BUSY, "20 requests"),
    "healthy to busy": ([*UP, queue(16)], Condition.BUSY, "16 requests wait in its queue"),
    "healthy to busy, its own word": ([*UP, SAYS_BUSY], Condition.BUSY, "too much to do"),
    "its word holds until the next": ([*UP, SAYS_BUSY, OK], Condition.HEALTHY, ""),
    "busy stays so at half": ([*UP, queue(16), queue(8)], Condition.BUSY, "8 requests"),
    "busy to healthy": ([*UP, queue(16), queue(7)], Condition.HEALTHY, ""),
    "an old queue says nothing": ([*UP, queue(16), *[OK] * 6], Condition.HEALTHY, ""),
    "busy never down": ([*UP, *[queue(90), TIMED_OUT] * 9], Condition.BUSY, "90 requests"),
    "busy and stuck is down": ([*UP, *[queue(90, False), TIMED_OUT] * 3], Condition.DOWN, "timed out"),
    "saturated by its own word": ([*UP, *[SAYS_BUSY] * 20], Condition.BUSY, ""),
    "probes fail, requests do not": (
        [*UP, *[REFUSED, attempts(5)] * 4],
        Condition.DEGRADED,
        "yet it answers requests",
    ),
    "requests from before the failure": ([*UP, attempts(50), *GONE], Condition.DOWN, "refused"),
    "requests end, too": ([*UP, *[REFUSED, attempts(5)] * 4, *[REFUSED] * 9], Condition.DOWN, "refused"),
    "down, but routers reach it": ([*GONE, *[attempts(5), REFUSED] * 3], Condition.DEGRADED, "yet"),
    "down to warming": ([*GONE, LOADING], Condition.WARMING, "loads"),
    "one good probe of one that was down": ([*GONE, OK], Condition.DOWN, "answers again: 1 of 2"),
    "down to healthy": ([*GONE, *UP], Condition.HEALTHY, ""),
    "down to draining": ([*GONE, drain()], Condition.DRAINING, ""),
    "warming, one good probe": ([LOADING, OK], Condition.WARMING, "has loaded its model: 1 of 2"),
    "warming to healthy": ([LOADING, *UP], Condition.HEALTHY, ""),
    "warming to down": ([LOADING, *GONE], Condition.DOWN, "refused"),
    "warming for as long as it says": ([*UP, *[LOADING] * 99], Condition.WARMING, ""),
    "drained whatever comes": ([*UP, drain(), *GONE, LOADING, queue(99)], Condition.DRAINING, ""),
    "back from draining as it is": ([*UP, drain(), drain(False)], Condition.HEALTHY, ""),
    "back from draining, gone": ([*UP, drain(), *GONE, drain(False)], Condition.DOWN, "refused"),
    "green and useless": ([*UP, *[OK, NO_TOKEN] * 3], Condition.DOWN, "3 tries to generate a token failed"),
    "generates once": ([*UP, *[OK, NO_TOKEN] * 3, GENERATED], Condition.DOWN, "generates again: 1 of 2"),
    "generates again": ([*UP, *[NO_TOKEN] * 3, GENERATED, GENERATED], Condition.HEALTHY, ""),
    "another process may generate": ([*UP, *[NO_TOKEN] * 3, *GONE, *UP], Condition.HEALTHY, ""),
    "asked for a model it has not": ([*UP, *[generate(Answer.REJECTED)] * 9], Condition.HEALTHY, ""),
    "no token for one that is full": (
        [*UP, *[queue(90), OK, generate(Answer.TIMED_OUT)] * 9],
        Condition.BUSY,
        "",
    ),
}


@pytest.mark.parametrize("case", TRANSITIONS)
def test_evidence_leads_to_a_condition_and_its_reason(case: str) -> None:
    events, condition, reason = TRANSITIONS[case]
    health = played(events)
    assert health.condition is condition, health.reason
    assert reason in health.reason


def test_since_is_when_the_condition_began_and_not_the_last_event() -> None:
    health = played(UP)
    since_s = health.since_s
    assert since_s == health.seen_s
    later = played([OK] * 5, health)
    assert (later.since_s, later.condition) == (since_s, Condition.HEALTHY)


def test_an_event_from_before_the_last_counts_as_of_that_moment() -> None:
    health = played(UP)
    early = after(health, Probed(at_s=health.seen_s - 50, answer=Answer.LOADING), SETTINGS)
    assert (early.seen_s, early.since_s) == (health.seen_s, health.seen_s)


def test_generation_that_is_switched_off_no_longer_counts() -> None:
    health = played([*UP, *[NO_TOKEN] * 3])
    assert health.condition is Condition.DOWN
    assert played([OK], health, HealthSettings()).condition is Condition.HEALTHY


def test_one_that_comes_and_goes_is_held_down_until_it_stayed_good_for_longer() -> None:
    cycle = [*GONE, *UP]
    health = played(UP)
    health = played(cycle * 2, health)
    assert health.condition is Condition.DOWN
    assert "comes and goes: must stay good for" in health.reason
    held_since_s = health.seen_s
    while health.condition is Condition.DOWN:
        health = played([OK], health)
    assert health.condition is Condition.HEALTHY
    assert 45 <= health.seen_s - held_since_s <= 120


def test_a_restart_by_an_operator_who_drains_first_is_no_flapping() -> None:
    health = played(UP)
    for _ in range(6):
        health = played([drain(), *GONE, *UP, drain(False)], health)
    assert health.condition is Condition.HEALTHY
    assert health.penalty == 0


def test_what_one_region_sees_alone_is_the_path() -> None:
    health = played([*UP, attempts(100, 0, "eu"), attempts(100, 60, "us")], step_s=0.5)
    assert health.condition is Condition.HEALTHY
    assert "attempts fail from us" in health.reason
    assert {path.region: path.condition for path in health.paths} == {
        "eu": Condition.HEALTHY,
        "us": Condition.DEGRADED,
    }
    assert health_value(health, "eu") == health_value(health, "") == 1
    assert health_value(health, "us") == pytest.approx(0.4)


def test_what_most_regions_see_is_the_endpoint() -> None:
    regions = [attempts(100, 0, "eu"), attempts(100, 60, "us"), attempts(100, 60, "ap")]
    health = played([*UP, *regions], step_s=0.5)
    assert health.condition is Condition.DEGRADED
    assert health_value(health, "eu") == 0.5


def test_a_path_gets_better_when_nothing_is_sent_by_it() -> None:
    health = played([*UP, attempts(100, 0, "eu"), attempts(100, 60, "us")], step_s=0.5)
    health = played([OK] * 40, health)
    assert health_value(health, "us") == 1


def test_regions_are_bounded_and_the_most_silent_is_forgotten() -> None:
    count = limits.REGIONS_PER_ENDPOINT_MAX + 5
    health = played([attempts(1, 0, f"r{index}") for index in range(count)])
    assert [path.region for path in health.paths] == [f"r{index}" for index in range(5, count)]


VALUES = {
    "nothing seen": 1.0,
    "unknown to healthy": 1.0,
    "healthy to busy": 1.0,
    "healthy to degraded, slow": 0.5,
    "healthy to degraded, faults": 0.5,
    "unknown to warming": 0.1,
    "unknown to down": 0.0,
    "unknown to draining": 0.0,
}


@pytest.mark.parametrize(("case", "value"), VALUES.items())
def test_routers_are_told_a_value(case: str, value: float) -> None:
    health = played(TRANSITIONS[case][0])
    assert health_value(health) == value
    assert is_left_out(health) == (health.condition is Condition.DRAINING)


def test_the_more_attempts_fail_the_less_is_left_of_a_degraded_endpoint() -> None:
    assert health_value(played([*UP, attempts(100, 90)])) == pytest.approx(0.1)


def test_damping_whose_bounds_are_in_disorder_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="reuse_below must be less"):
        msgspec.convert({"suppress_above": 2.0, "reuse_below": 3.0}, Damping)


def test_an_engine_has_settings_of_its_own() -> None:
    settings = msgspec.convert({"engines": {"vllm": {"interval_ms": 500}}}, HealthSettings)
    vllm, provider = settings.of(Engine.VLLM), settings.of(Engine.OPENAI)
    assert (vllm.interval_ms, vllm.timeout_ms) == (500, settings.timeout_ms)
    assert provider.interval_ms > settings.interval_ms

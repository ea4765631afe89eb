"""Health of the fleet: what routers counted becomes evidence, and health becomes signals."""

import logging

import msgspec
import pytest

from control.fleet_health import FRESH_MS_MAX, FleetHealth
from control.health import Answer, Condition, Probed
from control.health_settings import HealthSettings
from control.probe import target_of
from router.schema.config import Endpoint, Engine
from router.schema.link import EndpointCounts, Report

SETTINGS = HealthSettings(jitter_ratio=0.0)
DUE_S = (SETTINGS.interval_ms + SETTINGS.timeout_ms) / 1000


def report(uptime_ms: int, **counts: tuple[int, int]) -> Report:
    endpoints = tuple(
        EndpointCounts(endpoint=name, attempts=attempts, faults=faults)
        for name, (attempts, faults) in counts.items()
    )
    return Report(sequence=1, uptime_ms=uptime_ms, bucket_bounds_us=(), routes=(), endpoints=endpoints)


def fleet(*names: str) -> FleetHealth:
    health = FleetHealth(SETTINGS)
    health.set_endpoints(dict.fromkeys(names, Engine.VLLM), 0.0)
    for at_s in (1.0, 2.0):
        health.take_probes((name, Probed(at_s=at_s, answer=Answer.OK)) for name in names)
    return health


def seen(health: FleetHealth, endpoint: str = "a") -> tuple[int, int]:
    health.settle(3.0)
    paths = health.describe()[endpoint].paths
    return round(sum(path.attempts for path in paths)), round(sum(path.faults for path in paths))


def test_the_difference_between_two_reports_is_what_counts() -> None:
    health = fleet("a")
    health.take_report("r1", "eu", report(5_000, a=(900, 800)))
    assert seen(health) == (0, 0)  # of before this control
    health.take_report("r1", "eu", report(6_000, a=(950, 810)))
    assert seen(health) == (50, 10)
    health.take_report("r1", "eu", report(8_000, a=(960, 811), gone=(3, 3)))
    assert seen(health) == (60, 11)


def test_a_router_that_started_again_counts_from_there() -> None:
    health = fleet("a")
    health.take_report("r1", "eu", report(5_000, a=(900, 0)))
    health.take_report("r1", "eu", report(1_000, a=(10, 0)))
    health.take_report("r1", "eu", report(2_000, a=(30, 5)))
    assert seen(health) == (20, 5)
    health.forget_router("r1")
    health.take_report("r1", "eu", report(3_000, a=(90, 5)))
    assert seen(health) == (20, 5)


def test_two_routers_of_a_region_are_one_path() -> None:
    health = fleet("a")
    for name in ("r1", "r2"):
        health.take_report(name, "eu", report(1_000, a=(0, 0)))
        health.take_report(name, "eu", report(2_000, a=(40, 20)))
    assert seen(health) == (80, 40)
    assert len(health.describe()["a"].paths) == 1
    assert health.describe()["a"].condition is Condition.DEGRADED


def test_regions_are_told_values_of_their_own() -> None:
    health = fleet("a")
    for region, faults in (("eu", 0), ("us", 30)):
        health.take_report(region, region, report(1_000, a=(0, 0)))
        health.take_report(region, region, report(2_000, a=(40, faults)))
    assert health.signals("eu", 3.0)[0].value == 1
    assert health.signals("us", 3.0)[0].value == pytest.approx(0.25)


def test_a_value_ages_once_its_next_probe_is_overdue_and_then_is_none() -> None:
    health = fleet("a")
    assert [signal.age_ms for signal in health.signals("", 2.0 + DUE_S)] == [0]
    assert [signal.age_ms for signal in health.signals("", 3.0 + DUE_S)] == [1000]
    assert health.signals("", 3.0 + DUE_S + FRESH_MS_MAX / 1000) == []


def test_what_is_unknown_is_not_signalled() -> None:
    health = FleetHealth(SETTINGS)
    health.set_endpoints({"a": Engine.VLLM}, 0.0)
    assert health.signals("", 1.0) == []


def test_a_drained_endpoint_is_left_out_until_it_is_wanted_again() -> None:
    health = fleet("a", "b")
    assert health.drain("a", is_draining=True, by="ann", now_s=3.0)
    assert not health.drain("none", is_draining=True, by="ann", now_s=3.0)
    assert health.left_out() == {"a"}
    health.drain("a", is_draining=False, by="ann", now_s=4.0)
    assert health.left_out() == frozenset()


def test_those_that_stay_keep_their_health_and_the_others_are_gone() -> None:
    health = fleet("a", "b")
    health.set_endpoints({"a": Engine.VLLM, "c": Engine.VLLM}, 3.0)
    health.take("b", Probed(at_s=4.0, answer=Answer.OK))
    conditions = {name: one.condition for name, one in health.describe().items()}
    assert conditions == {"a": Condition.HEALTHY, "c": Condition.UNKNOWN}


def test_a_change_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    health = fleet("a")
    with caplog.at_level(logging.INFO, "fairlead.control"):
        health.take_load("a", waiting=40, has_progressed=True, at_s=3.0)
        health.take_load("a", waiting=41, has_progressed=True, at_s=3.1)
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint a: healthy → busy: 40 requests wait in its queue"
    ]


def test_settings_give_an_engine_another_path() -> None:
    endpoint = Endpoint(url="http://127.0.0.1:1", engine=Engine.SGLANG)
    assert target_of(endpoint, SETTINGS).path == "/health"
    changed = msgspec.convert({"engines": {"sglang": {"path": "/health_generate"}}}, HealthSettings)
    assert target_of(endpoint, changed).path == "/health_generate"

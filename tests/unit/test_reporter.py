"""What a router reports to control: counts by route and version, so that a guard can compare two of them."""

from __future__ import annotations

from typing import Any

from router.errors import Cause
from router.native.loadtable import LoadTable
from router.native.metrics import HISTOGRAM_KINDS, ROUTE_COUNTER_NAMES, MetricsTable
from router.native.signals import SignalTable
from router.reporter import build_report
from router.schema.link import Report

NUMBERS = {name: number for number, name in ROUTE_COUNTER_NAMES.items()}


def reported(metrics: MetricsTable, **changes: Any) -> Report:
    given: dict[str, Any] = {
        "slots": {"gpu": 0},
        "routes": {("chat", 12): 0, ("chat", 13): 1},
        "sequence": 5,
        "uptime_ms": 1,
        **changes,
    }
    return build_report(metrics, LoadTable.create(4, 1), SignalTable.create(4), **given)


def test_versions_of_a_route_are_reported_apart_with_all_that_a_guard_compares() -> None:
    metrics = MetricsTable.create(1, 4, 4)
    for row, factor in ((0, 1), (1, 100)):
        for place, name in enumerate(NUMBERS):
            metrics.add_route(0, row, NUMBERS[name], factor * (place + 1))
        metrics.observe_us(0, HISTOGRAM_KINDS["route_ttft"], row, 50_000)
        metrics.observe_us(0, HISTOGRAM_KINDS["route_itl"], row, 1_000)
    stable, canary = reported(metrics).routes
    assert (stable.route, stable.version, canary.route, canary.version) == ("chat", 12, "chat", 13)
    assert (stable.requests, canary.requests) == (1 + 2 + 3 + 4 + 5 + 6, 2100)
    assert (stable.faults, stable.refused) == (3 + 5, 4 + 6)
    assert (stable.prompt_tokens, stable.output_tokens, stable.cost_nano) == (7, 8, 10)
    assert sum(canary.ttft_us) == sum(canary.itl_us) == 1
    assert canary.ttft_us != canary.itl_us


def test_an_endpoints_faults_are_its_own() -> None:
    metrics = MetricsTable.create(1, 4, 4)
    metrics.count_request(0, 0, 0, Cause.CONNECT_FAILED)
    metrics.count_request(0, 1, 0, Cause.UPSTREAM_5XX)
    metrics.count_request(0, 0, 0, Cause.CLIENT_CLOSED)
    metrics.count_request(0, 0, 1, Cause.UPSTREAM_5XX)
    (endpoint,) = reported(metrics).endpoints
    assert (endpoint.endpoint, endpoint.faults) == ("gpu", 2)

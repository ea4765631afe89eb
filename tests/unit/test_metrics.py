"""The Prometheus page: parsed back with the client's own parser, it says what the tables say."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.errors import OUTCOMES, Cause, outcome_labels
from router.metrics import TTFT_BUCKETS_S, Facts, render
from router.native.loadtable import LoadTable
from router.native.metrics import COUNTER_NAMES, HISTOGRAM_KINDS, NO_INDEX, ROUTE_COUNTER_NAMES, MetricsTable
from router.native.signals import SignalTable

NUMBERS = {name: number for number, name in COUNTER_NAMES.items()}
NOW_US = 7_000_000
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> MetricsTable:
    return MetricsTable.create(3, 4, 16)


@pytest.fixture
def load() -> LoadTable:
    return LoadTable.create(16, 3)


def samples(
    metrics: MetricsTable, load: LoadTable, signals: SignalTable | None = None, **more: Any
) -> Samples:
    given: dict[str, Any] = {"routes": ["chat", "embed"], "endpoints": ["gpu-a", 'gpu-"b"'], **more}
    facts = Facts(now_us=NOW_US, config_version=3, build_version="1.2.3", **given)
    found: Samples = {}
    page = render(metrics, load, signals or SignalTable.create(16), facts)
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            assert sample.name.startswith("fairlead_")
            found[key] = sample.value
    return found


def value(page: Samples, name: str, **labels: str) -> float:
    return page[name, frozenset(labels.items())]


def test_requests_carry_route_endpoint_outcome_and_side(metrics: MetricsTable, load: LoadTable) -> None:
    for column in (0, 1):
        metrics.count_request(column, 0, 1, Cause.NONE)
    metrics.count_request(0, 1, 0, Cause.TRUNCATED)
    metrics.count_request(0, 1, NO_INDEX, Cause.NO_ENDPOINT)
    metrics.count_request(0, NO_INDEX, NO_INDEX, Cause.NO_ROUTE)
    metrics.count_request(0, 3, 7, 55)
    metrics.count_request(0, 2, 8, 55)
    page = samples(metrics, load)
    name = "fairlead_requests_total"
    completed = {"outcome": "completed", "side": "-"}
    assert value(page, name, route="chat", endpoint='gpu-"b"', **completed) == 2
    truncated = {"outcome": "truncated", "side": "upstream"}
    assert value(page, name, route="embed", endpoint="gpu-a", **truncated) == 1
    assert value(page, name, route="embed", endpoint="-", outcome="no_endpoint", side="router") == 1
    assert value(page, name, route="-", endpoint="-", outcome="no_route", side="policy") == 1
    assert value(page, name, route="unknown", endpoint="unknown", outcome="unknown", side="-") == 2


def test_every_cause_has_its_own_outcome_label_and_its_side() -> None:
    labels = {cause: outcome_labels(cause) for cause in Cause}
    assert len(set(labels.values())) == len(Cause)
    assert {labels[cause][1] for cause in Cause if cause} == {row.side.value for row in OUTCOMES.values()}


def test_latencies_are_cumulative_histograms_in_seconds(metrics: MetricsTable, load: LoadTable) -> None:
    for column, ttft_us in ((0, 4_000), (1, 200_000), (2, 3_000_000), (2, 500_000_000)):
        metrics.observe_us(column, HISTOGRAM_KINDS["route_ttft"], 0, ttft_us)
    metrics.observe_us(0, HISTOGRAM_KINDS["endpoint_itl"], 1, 20_000)
    metrics.observe_us(0, HISTOGRAM_KINDS["route_router_time"], 1, 42)
    page = samples(metrics, load)
    name = "fairlead_time_to_first_token_seconds"
    counts = [value(page, f"{name}_bucket", route="chat", le=f"{bound}") for bound in TTFT_BUCKETS_S]
    assert counts == [1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert value(page, f"{name}_bucket", route="chat", le="+Inf") == 4
    assert value(page, f"{name}_count", route="chat") == 4
    assert value(page, f"{name}_sum", route="chat") == pytest.approx(503.204)
    itl = "fairlead_inter_token_latency_seconds"
    assert value(page, f"{itl}_bucket", endpoint='gpu-"b"', le="0.01") == 0
    assert value(page, f"{itl}_bucket", endpoint='gpu-"b"', le="0.025") == 1
    router_time = "fairlead_router_time_seconds"
    assert value(page, f"{router_time}_bucket", route="embed", le="2.5e-05") == 0
    assert value(page, f"{router_time}_bucket", route="embed", le="5e-05") == 1
    assert not any(key[0].startswith("fairlead_e2e") for key in page)


def test_endpoints_show_the_load_table(metrics: MetricsTable, load: LoadTable) -> None:
    load.charge(0, 0)
    load.charge(2, 0)
    load.observe_ttft(0, 250_000, NOW_US)
    load.eject(1, NOW_US - 500_000, 1_000_000, 8_000_000)
    page = samples(metrics, load)
    assert value(page, "fairlead_endpoint_in_flight", endpoint="gpu-a") == 2
    assert value(page, "fairlead_endpoint_attempts_total", endpoint="gpu-a") == 2
    assert value(page, "fairlead_endpoint_ttft_ewma_seconds", endpoint="gpu-a") == 0.25
    assert value(page, "fairlead_endpoint_ejected", endpoint="gpu-a") == 0
    assert value(page, "fairlead_endpoint_ejected", endpoint='gpu-"b"') == 1
    assert value(page, "fairlead_load_underflows_total") == 0


def test_routes_are_shown_apart_for_each_version(metrics: MetricsTable, load: LoadTable) -> None:
    for row in (0, 1, 2):
        metrics.count_request(0, row, 0, Cause.NONE)
        metrics.observe_us(0, HISTOGRAM_KINDS["route_ttft"], row, 10_000 * (row + 1))
        metrics.observe_us(0, HISTOGRAM_KINDS["route_itl"], row, 1_000 * (row + 1))
        for number in ROUTE_COUNTER_NAMES:
            metrics.add_route(0, row, number, row + 1)
    page = samples(
        metrics,
        load,
        routes=["chat", "chat@12", "chat@13"],
        policy_version=12,
        canary_version=13,
        canary_ratio=0.05,
    )
    labels: list[dict[str, str]] = [{}, {"version": "12"}, {"version": "13"}]
    for row, version in enumerate(labels):
        given = {"route": "chat", **version}
        answered = {"endpoint": "gpu-a", "outcome": "completed", "side": "-"}
        assert value(page, "fairlead_requests_total", **given, **answered) == 1
        for name in ("time_to_first_token", "route_inter_token_latency"):
            assert value(page, f"fairlead_{name}_seconds_count", **given) == 1
        assert value(page, "fairlead_route_requests_total", **given, ended="refused") == row + 1
        assert value(page, "fairlead_route_tokens_total", **given, kind="completion") == row + 1
        assert value(page, "fairlead_route_cost_total", **given) == pytest.approx((row + 1) * 1e-9)
    assert value(page, "fairlead_policy_version", variant="stable") == 12
    assert value(page, "fairlead_policy_version", variant="canary") == 13
    assert value(page, "fairlead_canary_ratio") == 0.05


def test_where_there_is_no_canary_none_is_shown(metrics: MetricsTable, load: LoadTable) -> None:
    page = samples(metrics, load)
    assert value(page, "fairlead_policy_version", variant="stable") == 0
    assert ("fairlead_policy_version", frozenset({("variant", "canary")})) not in page


def test_every_counter_is_on_the_page(metrics: MetricsTable, load: LoadTable) -> None:
    for number in NUMBERS.values():
        metrics.set(0, number, 1_000_000 + number)
    shown = set(samples(metrics, load).values())
    missing = {name for name, number in NUMBERS.items() if 1_000_000 + number not in shown}
    assert missing == {"loop_lag_us"}  # shown in seconds


def test_loop_lag_and_memory_are_told_per_worker(metrics: MetricsTable, load: LoadTable) -> None:
    for column in (0, 2):
        metrics.set(column, NUMBERS["rss_bytes"], 1000 + column)
        metrics.set(column, NUMBERS["loop_lag_us"], 1500)
    page = samples(metrics, load)
    assert value(page, "fairlead_resident_memory_bytes", worker="2") == 1002
    assert value(page, "fairlead_loop_lag_seconds", worker="0") == 0.0015
    assert value(page, "fairlead_workers") == 2


def test_the_build_and_the_configuration_in_force_are_named(metrics: MetricsTable, load: LoadTable) -> None:
    page = samples(metrics, load)
    assert value(page, "fairlead_build_info", version="1.2.3") == 1
    assert value(page, "fairlead_config_version") == 3


def test_signals_show_their_value_their_age_and_what_was_not_taken(
    metrics: MetricsTable, load: LoadTable
) -> None:
    signals = SignalTable.create(16)
    signals.push([(1, "kv", 0.5, NOW_US - 250_000, "header"), (1, "kv", -1, NOW_US, "header")], NOW_US)
    page = samples(metrics, load, signals)
    assert value(page, "fairlead_endpoint_signal", endpoint='gpu-"b"', signal="kv") == 0.5
    assert value(page, "fairlead_endpoint_signal_age_seconds", endpoint='gpu-"b"', signal="kv") == 0.25
    assert value(page, "fairlead_signals_rejected_total", source="header", reason="negative") == 1
    assert value(page, "fairlead_signals_rejected_total", source="poll", reason="negative") == 0

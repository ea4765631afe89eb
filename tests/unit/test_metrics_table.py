"""The metrics table: columns add up, totals never go back, dead workers' gauges go, all is bounded."""

import os
import subprocess
import sys

import pytest

from router import limits
from router.native.metrics import (
    COUNTER_NAMES,
    GAUGES,
    HISTOGRAM_KINDS,
    NO_INDEX,
    ROUTE_COUNTER_NAMES,
    MetricsTable,
)

NUMBERS = {name: number for number, name in COUNTER_NAMES.items()}
RETRIES = NUMBERS["retries"]
RSS = NUMBERS["rss_bytes"]
TTFT = HISTOGRAM_KINDS["route_ttft"]
ITL = HISTOGRAM_KINDS["endpoint_itl"]


def test_counters_are_summed_over_columns() -> None:
    table = MetricsTable.create(3, 4, 4)
    assert set(table.counters().values()) == {0}
    table.add(0, RETRIES, 2)
    table.add(2, RETRIES, 5)
    table.add(2, NUMBERS["requests_in_flight"], 3)
    table.add(2, NUMBERS["requests_in_flight"], -1)
    table.set(0, RSS, 1000)
    table.set(0, RSS, 1200)
    counters = table.counters()
    assert counters["retries"] == 7
    assert counters["requests_in_flight"] == 2
    assert counters["rss_bytes"] == 1200
    assert table.columns() == [0, 2]
    assert table.column_counters(2)["retries"] == 5


def test_every_counter_has_a_distinct_name_and_gauges_are_among_them() -> None:
    assert len(set(COUNTER_NAMES.values())) == len(COUNTER_NAMES) == 48
    assert set(COUNTER_NAMES.values()) > GAUGES


def test_requests_are_counted_by_route_slot_and_outcome() -> None:
    table = MetricsTable.create(2, 4, 4)
    for column in (0, 1, 1):
        table.count_request(column, 3, 2, 51)
    table.count_request(0, 0, NO_INDEX, 20)
    table.count_request(0, NO_INDEX, NO_INDEX, 21)
    assert table.requests() == [
        (0, NO_INDEX, 20, 1),
        (3, 2, 51, 3),
        (NO_INDEX, NO_INDEX, 21, 1),
    ]
    assert table.requests_overflow() == 0


def test_request_series_are_bounded_and_what_does_not_fit_is_still_counted() -> None:
    table = MetricsTable.create(1, 200, 200)
    for route in range(200):
        for slot in range(50):
            table.count_request(0, route, slot, 1)
    counted = sum(count for *_, count in table.requests())
    assert counted <= 8192
    assert counted + table.requests_overflow() == 10_000
    assert table.requests_overflow() > 0


def test_histograms_are_merged_over_columns() -> None:
    table = MetricsTable.create(2, 4, 4)
    table.observe_us(0, TTFT, 3, 10)
    table.observe_us(1, TTFT, 3, 1000)
    table.observe_us(1, ITL, 3, 7)
    merged = table.histogram(TTFT, 3)
    assert (merged.count, merged.sum_us) == (2, 1010)
    assert table.histogram(ITL, 3).buckets() == [(7, 1)]
    assert table.histogram(TTFT, 0).count == 0


def test_samples_without_a_route_or_endpoint_are_left_out() -> None:
    table = MetricsTable.create(1, 4, 4)
    for kind in HISTOGRAM_KINDS.values():
        table.observe_us(0, kind, 4, 10)
        table.observe_us(0, kind, NO_INDEX, 10)
    for kind in HISTOGRAM_KINDS.values():
        for index in range(4):
            assert table.histogram(kind, index).count == 0


def test_folding_a_dead_worker_keeps_totals_and_drops_gauges() -> None:
    table = MetricsTable.create(2, 4, 4)
    for column in (0, 1):
        table.add(column, RETRIES, 1)
        table.set(column, RSS, 100)
        table.count_request(column, 1, 1, 0)
        table.observe_us(column, TTFT, 1, 50)
    totals, requests, histogram = table.counters(), table.requests(), table.histogram(TTFT, 1)
    for _ in range(3):
        table.fold_column(1)
        assert table.counters() == totals | {"rss_bytes": 100}
        assert table.requests() == requests
        assert table.histogram(TTFT, 1).buckets() == histogram.buckets()
        assert table.histogram(TTFT, 1).sum_us == histogram.sum_us
        assert table.columns() == [0]
    table.add(1, RETRIES, 1)
    table.count_request(1, 1, 1, 0)
    assert table.columns() == [0, 1]
    assert table.counters()["retries"] == 3
    assert table.requests() == [(1, 1, 0, 3)]


def test_a_reset_slot_or_route_starts_from_nothing_and_leaves_others_alone() -> None:
    table = MetricsTable.create(2, 4, 4)
    for column in (0, 1):
        for index in (1, 2):
            table.count_request(column, index, index, 0)
            table.observe_us(column, TTFT, index, 50)
            table.observe_us(column, ITL, index, 50)
    table.fold_column(1)
    table.reset_slot(1)
    assert table.requests() == [(2, 2, 0, 2)]
    assert (table.histogram(ITL, 1).count, table.histogram(ITL, 2).count) == (0, 2)
    assert table.histogram(TTFT, 1).count == 2
    table.reset_route(2)
    assert table.requests() == []
    assert (table.histogram(TTFT, 1).count, table.histogram(TTFT, 2).count) == (2, 0)
    table.count_request(0, 1, 1, 0)
    assert table.requests() == [(1, 1, 0, 1)]


def test_what_a_route_counts_is_summed_over_workers_kept_of_dead_ones_and_reset_with_it() -> None:
    table = MetricsTable.create(2, 4, 4)
    number = {name: number for number, name in ROUTE_COUNTER_NAMES.items()}
    for column in (0, 1):
        for route in (1, 2, NO_INDEX):
            table.add_route(column, route, number["prompt_tokens"], 10)
        table.add_route(column, 2, number["upstream"], 1)
    for _ in range(2):
        assert table.route_counters(1) == dict.fromkeys(number, 0) | {"prompt_tokens": 20}
        assert table.route_counters(2) == dict.fromkeys(number, 0) | {"prompt_tokens": 20, "upstream": 2}
        table.fold_column(1)
    table.reset_slot(2)
    table.reset_route(1)
    assert set(table.route_counters(1).values()) == {0}
    assert table.route_counters(2)["prompt_tokens"] == 20
    assert set(table.route_counters(0).values()) == set(table.route_counters(3).values()) == {0}


def test_columns_counters_and_indexes_are_bounded() -> None:
    table = MetricsTable.create(2, 4, 4)
    for call in (
        lambda: table.add(2, RETRIES, 1),
        lambda: table.add(0, 48, 1),
        lambda: table.add(0, -1, 1),
        lambda: table.observe_us(0, 6, 0, 1),
        lambda: table.histogram(TTFT, 4),
        lambda: table.histogram(6, 0),
        lambda: table.add_route(0, 0, 10, 1),
        lambda: table.route_counters(4),
        lambda: table.fold_column(2),
        lambda: table.reset_slot(4),
        lambda: table.reset_route(4),
    ):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(ValueError, match="route_count_max must be"):
        MetricsTable.create(1, 0, 1)


def test_untouched_bounds_cost_no_memory() -> None:
    table = MetricsTable.create(64, limits.ROUTE_INDEXES_MAX, limits.ENDPOINTS_MAX)
    table.add(63, RETRIES, 1)
    table.observe_us(63, ITL, 4095, 1)
    table.counters()
    table.histogram(ITL, 4095)
    facts = os.stat(table.fd)
    assert facts.st_size > 1 << 30
    assert facts.st_blocks * 512 < 1 << 18


def test_totals_seen_by_a_reader_never_go_back_while_columns_are_folded() -> None:
    table = MetricsTable.create(2, 4, 4)
    body = f"""
from router.native.metrics import MetricsTable
table = MetricsTable.attach({table.fd})
for turn in range(40):
    table.churn(turn & 1, 500)
    table.fold_column(turn & 1)
"""
    events = requests = samples = 0
    with subprocess.Popen([sys.executable, "-c", body], pass_fds=[table.fd]) as child:
        while child.poll() is None:
            seen = (
                table.counters()["events"],
                sum(count for *_, count in table.requests()),
                table.histogram(TTFT, 0).count,
            )
            assert seen[0] >= events
            assert seen[1] >= requests
            assert seen[2] >= samples
            events, requests, samples = seen
    assert child.returncode == 0
    assert table.counters()["events"] == 20_000
    assert table.requests() == [(0, slot, 0, 5_000) for slot in range(4)]
    assert table.histogram(TTFT, 0).count == 20_000
    assert table.columns() == []

"""Micro-benchmarks of native histograms and metrics: tiny under plain pytest, measured by `make bench`."""

from typing import Any

from router.native.histogram import Histogram
from router.native.metrics import HISTOGRAM_KINDS, MetricsTable

SAMPLES = 1000
TTFT_BOUNDARIES_US = (5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 3e7, 6e7, 1.2e8)


def test_record(benchmark: Any) -> None:
    histogram = Histogram()
    benchmark.extra_info["per_call"] = SAMPLES
    benchmark(histogram.record_evenly, SAMPLES)
    assert histogram.count >= SAMPLES


def test_cumulative(benchmark: Any) -> None:
    histogram = Histogram()
    histogram.record_evenly(SAMPLES)
    counts = benchmark(histogram.cumulative, TTFT_BOUNDARIES_US)
    assert counts[-1] == SAMPLES


def test_request_counted_and_observed(benchmark: Any) -> None:
    """What one finished request costs in metrics: a counter, its series, a histogram."""
    table = MetricsTable.create(1, 8, 8)
    benchmark.extra_info["per_call"] = SAMPLES
    benchmark(table.churn, 0, SAMPLES)
    assert table.histogram(HISTOGRAM_KINDS["route_ttft"], 0).count >= SAMPLES

"""The histogram's range, precision and edges."""

from itertools import pairwise

import pytest

from router.native.histogram import Histogram, bucket_starts_us


def test_buckets_cover_a_microsecond_to_an_hour_without_gaps() -> None:
    starts = bucket_starts_us()
    assert starts[0] == 0
    assert starts[-1] == 2**32
    assert all(earlier < later for earlier, later in pairwise(starts))
    assert starts[-1] > 3600 * 1_000_000


def test_a_bucket_is_at_most_a_sixteenth_of_its_value_wide() -> None:
    starts = bucket_starts_us()
    for start, end in pairwise(starts):
        assert end - start <= max(1, start / 16)


def test_both_ends_of_every_bucket_are_recorded_there() -> None:
    starts = bucket_starts_us()
    for start, end in pairwise(starts):
        histogram = Histogram()
        histogram.record(start)
        histogram.record(end - 1)
        assert histogram.buckets() == [(start, 2)]


def test_what_is_longer_than_the_range_is_counted_in_the_last_bucket() -> None:
    histogram = Histogram()
    histogram.record(2**63)
    assert histogram.buckets() == [(bucket_starts_us()[-2], 1)]
    assert histogram.sum_us == 2**63


def test_an_empty_histogram_answers_zero() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.sum_us, histogram.quantile_us(0.5)) == (0, 0, 0)
    assert histogram.cumulative([1.0, 2.0]) == [0, 0]
    assert histogram.cumulative([]) == []


def test_quantiles_of_an_even_spread_are_within_the_bucket_width() -> None:
    histogram = Histogram()
    histogram.record_evenly(100_000)
    for quantile in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        assert histogram.quantile_us(quantile) == pytest.approx(quantile * 100_000, rel=1 / 16)
    assert histogram.quantile_us(0.5) == pytest.approx(50_000, rel=1e-3)  # interpolated


def test_a_cleared_histogram_is_empty() -> None:
    histogram = Histogram()
    histogram.record(5)
    histogram.clear()
    assert (histogram.count, histogram.sum_us) == (0, 0)

"""Histograms against the samples they were given."""

import math

from hypothesis import given
from hypothesis import strategies as st

from router.native.histogram import Histogram
from tests.oracle import histogram as oracle

VALUES = st.integers(0, 64) | st.integers(0, 10**6) | st.integers(0, 2**34)
SAMPLES = st.lists(VALUES, max_size=60)
BOUNDARIES = st.lists(st.floats(0, 2.0**35) | st.integers(0, 2**33).map(float), max_size=12).map(sorted)


def filled(samples_us: list[int]) -> Histogram:
    histogram = Histogram()
    for sample_us in samples_us:
        histogram.record(sample_us)
    return histogram


@given(SAMPLES)
def test_every_sample_is_in_its_bucket(samples_us: list[int]) -> None:
    expected: dict[int, int] = {}
    for sample_us in samples_us:
        start, _ = oracle.bucket(min(sample_us, oracle.VALUE_US_MAX))
        expected[start] = expected.get(start, 0) + 1
    histogram = filled(samples_us)
    assert dict(histogram.buckets()) == expected
    assert histogram.count == len(samples_us)
    assert histogram.sum_us == sum(samples_us)


@given(SAMPLES, BOUNDARIES)
def test_cumulative_counts_equal_the_oracle(samples_us: list[int], boundaries_us: list[float]) -> None:
    counts = filled(samples_us).cumulative(boundaries_us)
    assert counts == sorted(counts)
    for count, boundary_us in zip(counts, boundaries_us, strict=True):
        exact = oracle.cumulative(samples_us, boundary_us)
        assert math.floor(exact - 1) <= count <= exact + 1e-6
        whole = all(
            boundary_us < start or boundary_us + 1 >= start + width
            for start, width in (oracle.bucket(min(value, oracle.VALUE_US_MAX)) for value in samples_us)
        )
        assert not whole or count == exact


@given(SAMPLES.filter(bool), st.floats(0, 1))
def test_quantiles_lie_in_the_bucket_of_the_sample_of_that_rank(
    samples_us: list[int], quantile: float
) -> None:
    ranked = sorted(min(sample_us, oracle.VALUE_US_MAX) for sample_us in samples_us)
    index = max(math.ceil(quantile * len(ranked)) - 1, 0)
    start, width = oracle.bucket(ranked[index])
    assert start <= filled(samples_us).quantile_us(quantile) <= start + width - 1


@given(SAMPLES, SAMPLES)
def test_merging_equals_recording_both(first_us: list[int], second_us: list[int]) -> None:
    merged = filled(first_us)
    merged.merge(filled(second_us))
    together = filled(first_us + second_us)
    assert merged.buckets() == together.buckets()
    assert merged.sum_us == together.sum_us


@given(SAMPLES, VALUES, BOUNDARIES)
def test_cumulative_counts_never_go_back_when_samples_come(
    samples_us: list[int], more_us: int, boundaries_us: list[float]
) -> None:
    histogram = filled(samples_us)
    before = histogram.cumulative(boundaries_us)
    histogram.record(more_us)
    after = histogram.cumulative(boundaries_us)
    assert all(later >= earlier for earlier, later in zip(before, after, strict=True))

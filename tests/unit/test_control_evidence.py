"""Bounds that hold however often one looks, held against simulation and against exact sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.evidence import (
    mean_excess_z,
    quantile_at_least,
    quantile_at_most,
    quantile_seen,
    share_at_least,
    share_at_most,
    share_evidence,
)

BOUNDS = tuple(round(100 * 2 ** (step / 4)) for step in range(91))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_the_evidence_against_a_true_share_is_fair(share: float) -> None:
    """Its mean over everything that may happen is 1: that is what bounds how often it grows large."""
    count = 40
    mean = sum(
        math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)
        * math.exp(share_evidence(hits, count, share))
        for hits in range(count + 1)
    )  # fmt: skip
    assert mean == pytest.approx(1.0)


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(1e-9, 0.5))
def test_bounds_of_a_share_enclose_it_and_are_finite(hits: float, misses: float, alpha: float) -> None:
    count = hits + misses
    low, high = share_at_least(hits, count, alpha), share_at_most(hits, count, alpha)
    assert 0.0 <= low <= high <= 1.0
    if count:
        assert low <= hits / count + 1e-9
        assert high >= hits / count - 1e-9


def test_nothing_counted_says_nothing() -> None:
    assert (share_at_least(0, 0, 0.01), share_at_most(0, 0, 0.01)) == (0.0, 1.0)
    assert quantile_at_least((), BOUNDS, 0.95, 0.01, 1.0) == 0.0
    assert quantile_at_most((), BOUNDS, 0.95, 0.01, 1.0) == math.inf
    assert quantile_seen((), BOUNDS, 0.95) is None


def test_bounds_close_in_as_counts_grow() -> None:
    widths = [share_at_most(n / 10, n, 0.01) - share_at_least(n / 10, n, 0.01) for n in (100, 1000, 10000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


@settings(max_examples=25)
@given(st.lists(st.integers(0, 300), min_size=92, max_size=92), st.sampled_from([0.5, 0.95, 0.99]))
def test_bounds_of_a_quantile_enclose_that_of_the_sample(counts: list[int], quantile: float) -> None:
    seen = quantile_seen(counts, BOUNDS, quantile)
    low = quantile_at_least(counts, BOUNDS, quantile, 0.01, 1.0)
    high = quantile_at_most(counts, BOUNDS, quantile, 0.01, 1.0)
    if seen is not None:
        assert low <= seen + 1e-3 and seen <= high + 1e-3


def test_looking_at_every_request_rules_out_the_true_share_no_more_often_than_agreed() -> None:
    random = np.random.default_rng(1)
    alpha, runs, length = 0.1, 100, 200
    wrong = 0
    hits = (random.random((runs, length)) < 0.05).cumsum(axis=1)
    for run in hits:
        wrong += any(share_evidence(int(seen), n, 0.05) >= -math.log(alpha) for n, seen in enumerate(run, 1))
    assert wrong / runs <= alpha


def test_looking_often_is_wrong_about_a_quantile_no_more_often_than_agreed() -> None:
    random = np.random.default_rng(2)
    alpha, runs, looks, each = 0.1, 40, 20, 25
    true_us = math.exp(12.0 + 1.6449)  # the 95th percentile of what is drawn below
    wrong = 0
    for _ in range(runs):
        counts = np.zeros(92, dtype=np.int64)
        for _ in range(looks):
            drawn = np.exp(random.normal(12.0, 1.0, each))
            counts += np.bincount(np.searchsorted(BOUNDS, drawn), minlength=92)
            buckets = counts.tolist()
            low = quantile_at_least(buckets, BOUNDS, 0.95, alpha / 2, 1.0)
            high = quantile_at_most(buckets, BOUNDS, 0.95, alpha / 2, 1.0)
            if not low <= true_us <= high:
                wrong += 1
                break
    assert wrong / runs <= alpha


def test_looking_often_is_wrong_about_a_mean_no_more_often_than_agreed() -> None:
    random = np.random.default_rng(3)
    alpha, runs, length = 0.1, 1000, 400
    drawn = random.exponential(1.0, (runs, length)) - 1.0
    counts = np.arange(1, length + 1)
    means = drawn.cumsum(axis=1) / counts
    deviations = np.sqrt((drawn**2).cumsum(axis=1) / counts / counts)
    z = np.array([mean_excess_z(int(count), alpha) for count in counts])
    from_30 = (np.abs(means) > z * deviations)[:, 29:]
    assert from_30.any(axis=1).mean() <= alpha

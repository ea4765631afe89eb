"""What counts say for sure, however often one looks at them: bounds of shares, quantiles and costs.

A guard looks every few seconds and acts the first time that it is convinced. A test made for one look would
be wrong in far more than its share of cases then (Armitage, McPherson and Rowe 1969), so each bound here
holds at all times at once: with probability `1 - alpha` it is never wrong, whenever one looks and stops
(confidence sequences: Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021).

Invariant: any non-negative counts give finite bounds; nothing is read here, least of all a clock.
Neighbours: guard.py (asks), collect.py (counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_HALVINGS = 30  # of what a bound is searched in: to a billionth of it
_MIXING_BATCHES = 30.0  # where `mean_excess_z` is tightest: at the fewest batches that are judged


def share_evidence(hits: float, count: float, share: float) -> float:
    """How strongly `hits` of `count` speak against a true share of `share`: the logarithm of an e-process.

    The likelihood ratio of a mixture of all shares (Jeffreys' prior, as Krichevsky and Trofimov 1981 use it)
    to the one in question. It is a martingale where that one is true, so it ever exceeds log(1 / alpha) with
    probability alpha at most (Ville 1939). Counts need not be whole: see `guard.GuardSettings.dependence`.
    """
    misses = count - hits
    if (share <= 0 and hits > 0) or (share >= 1 and misses > 0):
        return math.inf
    likelihood = (hits * math.log(share) if hits else 0.0) + (misses * math.log1p(-share) if misses else 0.0)
    return _log_beta(hits + 0.5, misses + 0.5) - _log_beta(0.5, 0.5) - likelihood


def share_at_least(hits: float, count: float, alpha: float) -> float:
    """The least true share that is not ruled out."""
    if hits <= 0 or count <= 0:
        return 0.0
    low, high = 0.0, hits / count  # evidence against a share falls towards the observed one
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if share_evidence(hits, count, middle) >= -math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def share_at_most(hits: float, count: float, alpha: float) -> float:
    """The greatest true share that is not ruled out."""
    return 1.0 - share_at_least(count - hits, count, alpha)


def quantile_at_least(
    counts: Sequence[int], bounds: Sequence[int], quantile: float, alpha: float, weight: float
) -> float:
    """What the true quantile surely exceeds.

    `counts[i]` samples are above `bounds[i - 1]` and at most `bounds[i]`, evenly, and the last ones above all
    bounds; each weighs `weight` of an independent one. A point is below the quantile exactly where less than
    `quantile` of all are at or below it. That is one question for each point, and yet needs no correction for
    many: a wrong answer to any of them is a wrong answer at the quantile itself (Howard and Ramdas 2022).
    """
    total = sum(counts) * weight
    rank = _rank_at_most(total, quantile, alpha)
    return 0.0 if rank is None else _point_of(counts, bounds, rank / weight)


def quantile_at_most(
    counts: Sequence[int], bounds: Sequence[int], quantile: float, alpha: float, weight: float
) -> float:
    """What the true quantile surely does not exceed; infinity: nothing."""
    total = sum(counts) * weight
    above = _rank_at_most(total, 1.0 - quantile, alpha)
    if above is None or above / weight < counts[-1]:
        return math.inf
    return _point_of(counts, bounds, sum(counts) - above / weight)


def _rank_at_most(total: float, share: float, alpha: float) -> float | None:
    """The most of `total` below a point that still rules out that `share` of all are; None: nothing does."""
    if share_evidence(0.0, total, share) < -math.log(alpha):
        return None
    low, high = 0.0, share * total  # evidence falls on the way
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if share_evidence(middle, total, share) >= -math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def _point_of(counts: Sequence[int], bounds: Sequence[int], rank: float) -> float:
    """Where `rank` samples are below, straight within a bucket; at most the last bound."""
    below, start = 0, 0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return start + (bound - start) * (rank - below) / count
        below, start = below + count, bound
    return float(start)


def quantile_seen(counts: Sequence[int], bounds: Sequence[int], quantile: float) -> float | None:
    """The quantile of the samples themselves, straight within a bucket; None without samples."""
    total = sum(counts)
    return _point_of(counts, bounds, quantile * total) if total else None


def mean_excess_z(batch_count: int, alpha: float) -> float:
    """How many standard errors a mean of batches may be off at any time, with probability `1 - alpha`.

    The normal mixture of Robbins 1970 with the variance estimated from the batches: an asymptotic confidence
    sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024), hence not for few batches.
    """
    mixing = _MIXING_BATCHES
    spread = math.log((batch_count + mixing) / mixing) - 2 * math.log(alpha)
    return math.sqrt((1 + mixing / batch_count) * spread)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

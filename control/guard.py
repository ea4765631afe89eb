"""Whether a version does harm: its windows beside those of the stable one, with how sure that is.

Each criterion is a limit for one figure, absolute or relative to stable. A version is taken back when a
figure is *surely* beyond its limit, and may go on when there are enough requests and no figure is *seen*
beyond it; in between the guard says "not yet", and why. It looks as often as it likes: the bounds of
evidence.py hold at all looks together. `false_alarm_ratio` is shared out over everything that could raise an
alarm: windows (each step of a canary counts anew, then the bake), criteria, all routes together (half) and
each of them (the other half), and, where two versions are compared, the bounds of both.

Invariant: pure, and every verdict has a reason in words. Neighbours: collect.py (windows), rollout.py (acts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from control.collect import EVERY_ROUTE, Routes, Window
from control.evidence import (
    mean_excess_z,
    quantile_at_least,
    quantile_at_most,
    quantile_seen,
    share_at_least,
    share_at_most,
)
from router import limits
from router.schema.kinds import DAY_MS, Section

RatioMax = Annotated[float, Meta(ge=1, le=1000)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]

# Of the tokens of one stream each tells little after the first, and a long stream must not outvote short
# ones: n of them weigh as n / (1 + cv^2) alike ones (Kish 1965), and lengths of answers have a cv of about 1.
STREAMS_PER_SAMPLE = 2.0
# Fewer batches say nothing of how costs spread.
COST_BATCHES_MIN = 30

NANO = 1e9
MILLION_TOKENS = 1e6


class ShareCriterion(Section, frozen=True, kw_only=True):
    """A share of the requests: of faults, or of refusals."""

    max: Annotated[
        Share | None,
        Meta(description="Never more than this share; absent: only beside the stable version."),
    ] = None
    ratio_max: Annotated[
        RatioMax | None, Meta(description="Never more than this times that of the stable version.")
    ] = 1.5
    slack: Annotated[
        float,
        Meta(
            ge=0, lt=1, description="And never less allowed than this on top of the stable version's share."
        ),
    ] = 0.005


class QuantileCriterion(Section, frozen=True, kw_only=True):
    """A quantile of a time."""

    quantile: Annotated[Literal["p50", "p95", "p99"], Meta(description="Which.")]
    max_ms: Annotated[
        Annotated[float, Meta(gt=0, le=DAY_MS)] | None,
        Meta(description="Never more; absent: only beside the stable version."),
    ] = None
    ratio_max: Annotated[
        RatioMax | None, Meta(description="Never more than this times that of the stable version.")
    ] = 1.25


class CostCriterion(Section, frozen=True, kw_only=True):
    """What tokens cost by the endpoints' prices; without prices it says nothing."""

    max: Annotated[
        Positive | None,
        Meta(description="Never more for a million tokens; absent: only beside the stable version."),
    ] = None
    ratio_max: Annotated[
        RatioMax | None, Meta(description="Never more than this times that of the stable version.")
    ] = 1.25


Quantiles = Annotated[tuple[QuantileCriterion, ...], Meta(max_length=limits.GUARD_QUANTILES_MAX)]


class GuardSettings(Section, frozen=True, kw_only=True):
    """What is watched while a version is new."""

    errors: Annotated[
        ShareCriterion | None,
        Meta(description="Requests that failed, and not by the client's doing. null: not watched."),
    ] = ShareCriterion()
    refused: Annotated[
        ShareCriterion | None,
        Meta(description="Requests answered with a 4xx, as where a model is not found. null: not watched."),
    ] = ShareCriterion(slack=0.02)
    ttft: Annotated[Quantiles, Meta(description="Quantiles of the time to the first token.")] = (
        QuantileCriterion(quantile="p50"),
        QuantileCriterion(quantile="p95"),
    )
    itl: Annotated[Quantiles, Meta(description="Quantiles of the gap between tokens.")] = (
        QuantileCriterion(quantile="p95"),
    )
    cost: Annotated[CostCriterion | None, Meta(description="Cost per token. null: not watched.")] = (
        CostCriterion()
    )
    requests_min: Annotated[
        int, Meta(ge=1, description="Of the new version, before it may go a step further.")
    ] = 200
    false_alarm_ratio: Annotated[
        float,
        Meta(gt=0, le=0.5, description="How many of all harmless versions may be taken back, at most."),
    ] = 0.01
    dependence: Annotated[
        float,
        Meta(
            ge=1,
            le=100,
            description="How many requests tell as much as one would alone: turns of a session are alike.",
        ),
    ] = 2.0
    bake_ms: Annotated[
        int, Meta(ge=0, le=7 * DAY_MS, description="How long a version is watched once all have it; 0: not.")
    ] = 900_000
    bake_margin: Annotated[
        float,
        Meta(
            ge=1, le=100, description="Relative limits are this many times as wide then: it is another hour."
        ),
    ] = 1.5
    deadline_ms: Annotated[
        int,
        Meta(ge=1000, le=30 * DAY_MS, description="A step that has not been decided by then is held."),
    ] = 3_600_000


class Finding(Struct, frozen=True, kw_only=True):
    """One figure of one route, or of all."""

    criterion: str
    route: str
    seen: float
    """Of the version that is judged: a share, milliseconds, or the cost of a million tokens."""
    stable: float | None
    """Of the one that it is compared with."""
    limit: float
    """What `seen` may be."""
    at_least: float
    """What the true figure surely is."""
    limit_at_most: float
    """What the true limit surely is not above."""
    sample: int
    stable_sample: int
    unit: str = ""

    @property
    def is_beyond(self) -> bool:
        """Surely."""
        return self.at_least > self.limit_at_most

    def words(self) -> str:
        """For people: the figure, its bound, and of how many."""
        where = f" of route {self.route}" if self.route != EVERY_ROUTE else ""
        stable = "" if self.stable is None else f"; stable {_shown(self.stable, self.unit)}"
        of = f", n={self.sample}" + (f" and {self.stable_sample}" if self.stable is not None else "")
        return (
            f"{self.criterion}{where} {_shown(self.seen, self.unit)}{stable}{of}: "
            f"surely at least {_shown(self.at_least, self.unit)}, "
            f"allowed at most {_shown(self.limit_at_most, self.unit)}"
        )


class Verdict(Struct, frozen=True, kw_only=True):
    """What the guard says, and why."""

    action: Literal["keep", "promote", "roll_back"]
    """promote: it may go a step further; keep: not yet."""
    reason: str
    findings: tuple[Finding, ...] = ()


def judge(
    settings: GuardSettings,
    version: Routes,
    stable: Routes,
    *,
    window_count: int,
    route_count: int,
    requests_min: int | None = None,
    margin: float = 1.0,
) -> Verdict:
    """Whether `version`'s window, beside `stable`'s of the same time, is fit to go on.

    `window_count` is how many windows the whole change has, and `route_count` how many routes its documents
    have: both the same for all looks at it. `margin` widens relative limits.
    """
    whole = version.get(EVERY_ROUTE, Window())
    checks = _checks(settings, margin)
    wanted = settings.requests_min if requests_min is None else requests_min
    if not checks:
        return _enough(whole.requests, wanted, ())
    apart_count = max(route_count, len(version) - 1)  # what matches no route is counted as one more
    scope_count = 1 if apart_count < 2 else 2
    alpha = settings.false_alarm_ratio / (window_count * len(checks) * scope_count)
    findings = []
    for route, window in version.items():
        if route != EVERY_ROUTE and apart_count < 2:
            continue
        own = alpha if route == EVERY_ROUTE else alpha / apart_count
        beside = stable.get(route, Window())
        found = (check(window, beside, own) for check in checks)
        findings += [structs.replace(finding, route=route) for finding in found if finding is not None]
    beyond = [finding for finding in findings if finding.is_beyond]
    if beyond:
        reason = "; ".join(finding.words() for finding in beyond[:3])
        return Verdict(action="roll_back", reason=reason, findings=tuple(findings))
    seen_over = [found for found in findings if found.route == EVERY_ROUTE and found.seen > found.limit]
    if seen_over and whole.requests >= wanted:
        reason = "not sure yet: " + "; ".join(finding.words() for finding in seen_over[:3])
        return Verdict(action="keep", reason=reason, findings=tuple(findings))
    return _enough(whole.requests, wanted, tuple(findings))


def _enough(count: int, wanted: int, findings: tuple[Finding, ...]) -> Verdict:
    if count >= wanted:
        reason = f"no figure is beyond its limit in {count} requests"
        return Verdict(action="promote", reason=reason, findings=findings)
    reason = f"{count} requests so far, {wanted} are needed"
    return Verdict(action="keep", reason=reason, findings=findings)


_Check = Callable[[Window, Window, float], Finding | None]


def _checks(settings: GuardSettings, margin: float) -> list[_Check]:
    """One for each figure; a limit that is both absolute and relative is two."""
    checks: list[_Check] = []
    weight = 1.0 / settings.dependence
    for name, field, shares in (
        ("errors", "faults", settings.errors),
        ("refused", "refused", settings.refused),
    ):
        if shares is not None:
            checks += _share_checks(name, field, shares, weight, margin)
    for name, quantiles in (("ttft", settings.ttft), ("itl", settings.itl)):
        for criterion in quantiles:
            checks += _quantile_checks(name, criterion, weight, margin)
    if settings.cost is not None:
        checks += _cost_checks(settings.cost, settings.dependence, margin)
    return checks


def _share_checks(
    name: str, field: str, criterion: ShareCriterion, weight: float, margin: float
) -> list[_Check]:
    def absolute(window: Window, _stable: Window, alpha: float) -> Finding | None:
        hits = getattr(window, field)
        if not window.requests or criterion.max is None:
            return None
        return Finding(
            criterion=name,
            route=EVERY_ROUTE,
            seen=hits / window.requests,
            stable=None,
            limit=criterion.max,
            at_least=share_at_least(hits * weight, window.requests * weight, alpha),
            limit_at_most=criterion.max,
            sample=window.requests,
            stable_sample=0,
            unit="%",
        )

    def relative(window: Window, stable: Window, alpha: float) -> Finding | None:
        hits, stable_hits = getattr(window, field), getattr(stable, field)
        if not window.requests or not stable.requests:
            return None
        seen, beside = hits / window.requests, stable_hits / stable.requests
        at_most = share_at_most(stable_hits * weight, stable.requests * weight, alpha / 2)
        return Finding(
            criterion=name,
            route=EVERY_ROUTE,
            seen=seen,
            stable=beside,
            limit=allowed(beside),
            at_least=share_at_least(hits * weight, window.requests * weight, alpha / 2),
            limit_at_most=allowed(at_most),
            sample=window.requests,
            stable_sample=stable.requests,
            unit="%",
        )

    def allowed(share: float) -> float:
        ratio = (criterion.ratio_max or 1.0) * margin
        return min(1.0, max(share * ratio, share + criterion.slack * margin))

    return [*([absolute] if criterion.max else []), *([relative] if criterion.ratio_max else [])]


def _quantile_checks(name: str, criterion: QuantileCriterion, weight: float, margin: float) -> list[_Check]:
    quantile = int(criterion.quantile[1:]) / 100
    label = f"{name} {criterion.quantile}"

    def read(window: Window) -> tuple[tuple[int, ...], float, int]:
        """The buckets, what one sample in them weighs, and of how many requests they are."""
        if name == "ttft":
            return window.ttft_us, weight, sum(window.ttft_us)
        gaps, streams = sum(window.itl_us), sum(window.ttft_us)
        if not gaps or not streams:
            return (), weight, 0
        return window.itl_us, min(1.0, streams / STREAMS_PER_SAMPLE / gaps) * weight, streams

    def absolute(window: Window, _stable: Window, alpha: float) -> Finding | None:
        counts, own, sample = read(window)
        seen = quantile_seen(counts, window.bounds_us, quantile)
        if seen is None or criterion.max_ms is None:
            return None
        return Finding(
            criterion=label,
            route=EVERY_ROUTE,
            seen=seen / 1000,
            stable=None,
            limit=criterion.max_ms,
            at_least=quantile_at_least(counts, window.bounds_us, quantile, alpha, own) / 1000,
            limit_at_most=criterion.max_ms,
            sample=sample,
            stable_sample=0,
            unit="ms",
        )

    def relative(window: Window, stable: Window, alpha: float) -> Finding | None:
        counts, own, sample = read(window)
        stable_counts, stable_own, stable_sample = read(stable)
        seen = quantile_seen(counts, window.bounds_us, quantile)
        beside = quantile_seen(stable_counts, stable.bounds_us, quantile)
        if seen is None or beside is None or criterion.ratio_max is None:
            return None
        ratio = criterion.ratio_max * margin
        at_most = quantile_at_most(stable_counts, stable.bounds_us, quantile, alpha / 2, stable_own)
        return Finding(
            criterion=label,
            route=EVERY_ROUTE,
            seen=seen / 1000,
            stable=beside / 1000,
            limit=beside * ratio / 1000,
            at_least=quantile_at_least(counts, window.bounds_us, quantile, alpha / 2, own) / 1000,
            limit_at_most=at_most * ratio / 1000,
            sample=sample,
            stable_sample=stable_sample,
            unit="ms",
        )

    return [*([absolute] if criterion.max_ms else []), *([relative] if criterion.ratio_max else [])]


def _cost_checks(criterion: CostCriterion, dependence: float, margin: float) -> list[_Check]:
    def compare(window: Window, alpha: float, stable: Window | None, ratio: float) -> Finding | None:
        batches = window.batch_count if stable is None else min(window.batch_count, stable.batch_count)
        if batches < COST_BATCHES_MIN:
            return None
        seen, variance = _cost(window)
        beside, stable_variance = (criterion.max or 0.0, 0.0) if stable is None else _cost(stable)
        if not seen or not beside:
            return None
        off = mean_excess_z(batches, alpha) * math.sqrt((variance + ratio**2 * stable_variance) * dependence)
        return Finding(
            criterion="cost",
            route=EVERY_ROUTE,
            seen=seen,
            stable=None if stable is None else beside,
            limit=beside * ratio,
            at_least=max(0.0, seen - off),
            limit_at_most=beside * ratio,
            sample=window.requests,
            stable_sample=0 if stable is None else stable.requests,
            unit="/M tokens",
        )

    def absolute(window: Window, _stable: Window, alpha: float) -> Finding | None:
        return compare(window, alpha, None, 1.0)

    def relative(window: Window, stable: Window, alpha: float) -> Finding | None:
        return compare(window, alpha, stable, (criterion.ratio_max or 1.0) * margin)

    return [*([absolute] if criterion.max else []), *([relative] if criterion.ratio_max else [])]


def _cost(window: Window) -> tuple[float, float]:
    """Of a million tokens, and the variance of that: a ratio of sums over batches (Cochran 1977, 6.4)."""
    if not window.tokens or window.batch_count < 2:
        return 0.0, 0.0
    ratio = window.cost_nano / window.tokens
    squared = window.cost_squared - 2 * ratio * window.cost_by_tokens + ratio * ratio * window.tokens_squared
    count = window.batch_count
    variance = max(0.0, squared) / window.tokens**2 * count / (count - 1)
    unit = MILLION_TOKENS / NANO
    return ratio * unit, variance * unit * unit


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.2%}"
    if math.isinf(value):
        return "unknown"
    return f"{value:.4g} {unit}" if unit == "ms" else f"{value:.4g}{unit}"

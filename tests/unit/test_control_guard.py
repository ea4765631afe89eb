"""The guard beside simulated canaries: how often it is wrong, and how soon it is right."""

import math
from dataclasses import dataclass

import hypothesis
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.collect import EVERY_ROUTE, Window, sum_windows
from control.guard import (
    CostCriterion,
    GuardSettings,
    QuantileCriterion,
    ShareCriterion,
    Verdict,
    judge,
)

BOUNDS = tuple(round(100 * 2 ** (step / 4)) for step in range(91))
WINDOWS = 5  # four steps and the bake


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What requests of a version are like."""

    faults: float = 0.01
    ttft_median_ms: float = 300.0
    itl_ms: float = 20.0
    price: float = 1000.0
    turns: int = 1
    """Requests in a row that are alike, as those of one session."""


@dataclass
class Fleet:
    """Draws windows."""

    random: np.random.Generator

    def window(self, traffic: Traffic, count: int, weather: float = 1.0) -> Window:
        """One batch of requests; `weather` slows and breaks all alike."""
        draws = self.random
        sessions = -(-count // traffic.turns)
        slow = np.repeat(draws.lognormal(0.0, 0.9, sessions), traffic.turns)[:count]
        luck = np.repeat(draws.random(sessions), traffic.turns)[:count]
        lengths = draws.geometric(1 / 25, count)
        gaps = np.repeat(draws.lognormal(0.0, 0.3, count) * traffic.itl_ms * 1000 * weather, lengths)
        gaps = gaps * draws.lognormal(0.0, 0.2, len(gaps))
        tokens = lengths + draws.geometric(1 / 1000, count)
        batch_tokens = int(tokens.sum())
        cost = int((tokens * draws.lognormal(0.0, 0.3, count)).sum() * traffic.price)
        return Window(
            requests=count,
            faults=int((luck < min(0.9, traffic.faults * weather)).sum()),
            prompt_tokens=batch_tokens,
            cost_nano=cost,
            bounds_us=BOUNDS,
            ttft_us=buckets(slow * traffic.ttft_median_ms * 1000 * weather),
            itl_us=buckets(gaps),
            batch_count=1 if count else 0,
            cost_squared=float(cost) ** 2,
            cost_by_tokens=float(cost) * batch_tokens,
            tokens_squared=float(batch_tokens) ** 2,
        )


def buckets(samples: np.ndarray) -> tuple[int, ...]:
    return tuple(np.bincount(np.searchsorted(BOUNDS, samples), minlength=len(BOUNDS) + 1).tolist())


def look(settings: GuardSettings, canary: Window, stable: Window) -> Verdict:
    whole = ({EVERY_ROUTE: canary}, {EVERY_ROUTE: stable})
    return judge(settings, *whole, window_count=WINDOWS, route_count=1)


def play(
    fleet: Fleet,
    canary: Traffic,
    stable: Traffic,
    *,
    settings: GuardSettings | None = None,
    looks: int = 40,
    each: int = 25,
    beside: int = 100,
    stormy: bool = False,
) -> tuple[Verdict, int]:
    """One step of a canary, looked at after each batch: the last verdict, and after how many requests."""
    settings = settings or GuardSettings()
    seen, reference = Window(), Window()
    verdict = look(settings, seen, reference)
    for _ in range(looks):
        weather = float(fleet.random.choice([1.0, 1.0, 1.0, 6.0])) if stormy else 1.0
        seen = sum_windows([seen, fleet.window(canary, each, weather)])
        reference = sum_windows([reference, fleet.window(stable, beside, weather)])
        verdict = look(settings, seen, reference)
        if verdict.action == "roll_back":
            break
    return verdict, seen.requests


NO_MARGIN = GuardSettings(
    errors=ShareCriterion(ratio_max=1.0, slack=0.0),
    refused=None,
    ttft=(QuantileCriterion(quantile="p95", ratio_max=1.0),),
    itl=(QuantileCriterion(quantile="p95", ratio_max=1.0),),
    cost=CostCriterion(ratio_max=1.0),
    false_alarm_ratio=0.1,
)
"""Allows nothing more than stable has, so that equal versions are at the limit itself."""


@pytest.mark.parametrize(
    ("traffic", "stormy"),
    [
        (Traffic(), False),
        (Traffic(faults=0.08), False),
        (Traffic(faults=0.03), True),
        (Traffic(faults=0.05, turns=2), False),
    ],
    ids=["plain", "many faults", "storms that hit both", "sessions of alike turns"],
)
def test_equal_versions_are_taken_back_no_more_often_than_agreed_with_no_margin_at_all(
    traffic: Traffic, stormy: bool
) -> None:
    fleet = Fleet(np.random.default_rng(11))
    runs = 10
    wrong = [
        verdict.reason
        for verdict, _ in (
            play(fleet, traffic, traffic, settings=NO_MARGIN, looks=15, stormy=stormy) for _ in range(runs)
        )
        if verdict.action == "roll_back"
    ]
    assert len(wrong) <= runs * NO_MARGIN.false_alarm_ratio, wrong


def test_equal_versions_are_not_taken_back_by_the_defaults_and_may_go_on() -> None:
    fleet = Fleet(np.random.default_rng(12))
    verdicts = [play(fleet, Traffic(), Traffic(), looks=20)[0].action for _ in range(8)]
    assert "roll_back" not in verdicts
    assert verdicts.count("promote") > 4


WORSE = {
    "five percent more errors": (Traffic(faults=0.06), "errors", 2500),
    "a third fails": (Traffic(faults=0.33), "errors", 250),
    "twice the time to the first token": (Traffic(ttft_median_ms=600), "ttft", 1200),
    "three times the time between tokens": (Traffic(itl_ms=60), "itl", 300),
    "twice the price": (Traffic(price=2000), "cost", 1000),
}


@pytest.mark.parametrize(("canary", "criterion", "requests_max"), WORSE.values(), ids=WORSE)
def test_a_worse_version_is_taken_back_within_so_many_requests(
    canary: Traffic, criterion: str, requests_max: int
) -> None:
    fleet = Fleet(np.random.default_rng(13))
    for _ in range(2):
        verdict, count = play(fleet, canary, Traffic(), looks=80, beside=250)
        assert verdict.action == "roll_back"
        assert criterion in verdict.reason
        assert count <= requests_max


def test_twice_the_p95_alone_is_found() -> None:
    """Its own criterion, where the median says nothing."""
    settings = GuardSettings(ttft=(QuantileCriterion(quantile="p95"),), itl=(), cost=None)
    fleet = Fleet(np.random.default_rng(14))
    for _ in range(2):
        verdict, count = play(
            fleet, Traffic(ttft_median_ms=600), Traffic(), settings=settings, looks=100, beside=250
        )
        assert verdict.action == "roll_back"
        assert count <= 2000


def test_a_small_canary_that_looks_bad_is_not_judged_yet() -> None:
    fleet = Fleet(np.random.default_rng(15))
    stable = fleet.window(Traffic(), 5000)
    unlucky = Window(requests=20, faults=1)
    assert look(GuardSettings(), unlucky, stable).action == "keep"
    verdict = look(GuardSettings(), Window(requests=250, faults=10), stable)
    assert verdict.action == "keep"
    assert verdict.reason.startswith("not sure yet: errors 4.00%")


def test_absolute_limits_need_no_stable_version() -> None:
    settings = GuardSettings(
        errors=ShareCriterion(max=0.05, ratio_max=None),
        ttft=(QuantileCriterion(quantile="p95", max_ms=400, ratio_max=None),),
        itl=(),
        cost=CostCriterion(max=0.5, ratio_max=None),
    )
    fleet = Fleet(np.random.default_rng(16))
    seen = sum_windows([fleet.window(Traffic(faults=0.2), 50) for _ in range(60)])
    verdict = look(settings, seen, Window())
    assert verdict.action == "roll_back"
    assert {finding.criterion for finding in verdict.findings if finding.is_beyond} == {
        "errors",
        "ttft p95",
        "cost",
    }
    good = GuardSettings(errors=ShareCriterion(max=0.3, ratio_max=None), ttft=(), itl=(), cost=None)
    assert look(good, seen, Window()).action == "promote"


def test_one_route_that_breaks_is_found_among_others() -> None:
    fleet = Fleet(np.random.default_rng(17))
    stable = {name: fleet.window(Traffic(), 4000) for name in ("chat", "code")}
    canary = {"chat": fleet.window(Traffic(), 4000), "code": fleet.window(Traffic(faults=0.5), 60)}
    verdict = judge(
        GuardSettings(refused=None),
        {EVERY_ROUTE: sum_windows(canary.values()), **canary},
        {EVERY_ROUTE: sum_windows(stable.values()), **stable},
        window_count=WINDOWS,
        route_count=2,
    )
    assert verdict.action == "roll_back"
    assert "of route code" in verdict.reason


def test_requests_that_are_refused_count_apart_from_faults() -> None:
    stable = Window(requests=5000, refused=50)
    assert look(GuardSettings(), Window(requests=300, refused=270), stable).reason.startswith(
        "refused 90.00%"
    )


def test_the_bakes_margin_widens_what_is_relative_only() -> None:
    fleet = Fleet(np.random.default_rng(18))
    stable = fleet.window(Traffic(), 20000)
    slower = fleet.window(Traffic(ttft_median_ms=520), 6000)
    whole = ({EVERY_ROUTE: slower}, {EVERY_ROUTE: stable})
    settings = GuardSettings(itl=(), cost=None)
    narrow = judge(settings, *whole, window_count=2, route_count=1)
    wide = judge(settings, *whole, window_count=2, route_count=1, margin=2.0)
    assert (narrow.action, wide.action) == ("roll_back", "promote")


def test_without_requests_or_criteria_nothing_is_claimed() -> None:
    empty = look(GuardSettings(), Window(), Window())
    assert (empty.action, empty.findings) == ("keep", ())
    assert judge(GuardSettings(), {}, {}, window_count=1, route_count=1).action == "keep"
    blind = GuardSettings(errors=None, refused=None, ttft=(), itl=(), cost=None)
    assert look(blind, Window(requests=200), Window()).action == "promote"
    assert look(blind, Window(requests=199), Window()).reason == "199 requests so far, 200 are needed"


counted = st.integers(0, 10_000)
histograms = st.one_of(
    st.just(()), st.lists(st.integers(0, 500), min_size=92, max_size=92).map(tuple), st.just((0,) * 92)
)


@hypothesis.settings(max_examples=25)
@given(counted, counted, counted, histograms, histograms, counted, st.integers(0, 50))
def test_no_figure_is_ever_nan(
    requests: int,
    faults: int,
    refused: int,
    ttft: tuple[int, ...],
    itl: tuple[int, ...],
    tokens: int,
    batches: int,
) -> None:
    window = Window(
        requests=requests,
        faults=min(faults, requests),
        refused=min(refused, requests),
        prompt_tokens=tokens,
        cost_nano=3 * tokens,
        bounds_us=BOUNDS,
        ttft_us=ttft,
        itl_us=itl,
        batch_count=batches,
        tokens_squared=float(tokens),
    )
    for pair in ((window, Window()), (Window(), window), (window, window)):
        verdict = look(GuardSettings(), *pair)
        assert verdict.reason
        assert verdict.action != "roll_back" or pair[0] is window
        for finding in verdict.findings:
            figures = (finding.seen, finding.limit, finding.at_least, finding.limit_at_most)
            assert not any(math.isnan(figure) for figure in figures)
            assert "nan" not in finding.words()


def test_settings_are_read_with_their_bounds() -> None:
    told = {
        "errors": {"max": 0.05, "ratio_max": None},
        "ttft": [{"quantile": "p99", "max_ms": 900}],
        "cost": None,
    }
    settings = msgspec.convert(told, GuardSettings)
    assert settings.errors == ShareCriterion(max=0.05, ratio_max=None)
    assert settings.ttft == (QuantileCriterion(quantile="p99", max_ms=900.0),)
    for wrong in ({"errors": {"max": 1.5}}, {"false_alarm_ratio": 0}, {"itl": [{"quantile": "p42"}]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, GuardSettings)

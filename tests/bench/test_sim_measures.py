"""Figures of a run: what counts, from when on, what it costs, and how seeds are compared."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.sim.fleets import load_fleet, price_per_h
from bench.sim.measures import COMPARED, Objective, curves, interval, measure, paired, tpot_of, ttft_of
from bench.sim.run import Fault, FaultKind, Outcome, State, simulate
from tests.bench.sim_worlds import fleet_of, poisson, trace_of

CLASS = {"class": "8b-a100"}


def an_outcome(count: int = 500, **changes: Any) -> Outcome:
    trace = trace_of(poisson(5, count), 1000, 30, prefixes=[row % 20 for row in range(count)])
    fleet = fleet_of({"class": "8b-a100", "count": 2, "input_price": 1.0, "output_price": 4.0})
    return replace(simulate(trace, fleet, "p2c"), **changes)


def test_the_first_tenth_is_left_out() -> None:
    outcome = an_outcome()
    assert measure(outcome)["requests"] == 450
    assert outcome.measured.tolist() == [False] * 50 + [True] * 450


def test_times_are_those_of_the_columns() -> None:
    outcome = an_outcome()
    figures = measure(outcome)
    ttft_ms = (outcome.first_us - outcome.arrival_us)[50:] / 1000
    tpot_ms = (outcome.end_us - outcome.first_us)[50:] / 1000 / 29
    assert figures["ttft_ms"]["mean"] == pytest.approx(ttft_ms.mean(), abs=1e-3)
    assert figures["ttft_ms"]["p99"] == pytest.approx(np.percentile(ttft_ms, 99), abs=1e-3)
    assert figures["tpot_ms"]["p50"] == pytest.approx(np.percentile(tpot_ms, 50), abs=1e-3)
    assert figures["prefix_hit_ratio"] == pytest.approx(outcome.cached_tokens[50:].sum() / 450_000, abs=1e-6)


def test_goodput_wants_both_limits_met_and_failures_count_against_it() -> None:
    outcome = an_outcome()
    generous = Objective(ttft_s=1e6, tpot_s=1e6)
    assert measure(outcome, generous)["goodput_ratio"] == 1.0
    assert measure(outcome, Objective(ttft_s=0, ttft_token_s=0, tpot_s=1e6))["goodput_ratio"] == 0.0
    assert measure(outcome, Objective(ttft_s=1e6, tpot_s=0))["goodput_ratio"] == 0.0
    middle = float(np.median(ttft_of(outcome)[outcome.measured]))
    half = measure(outcome, Objective(ttft_s=middle, ttft_token_s=0, tpot_s=1e6))["goodput_ratio"]
    assert half == pytest.approx(0.5, abs=0.05)  # equal times are on one side
    state = outcome.state.copy()
    state[-45:] = State.FAILED
    failed = measure(replace(outcome, state=state), generous)
    assert failed["goodput_ratio"] == 0.9
    assert failed["failed"] == 45


def test_an_answer_of_one_token_has_no_tpot_to_miss() -> None:
    outcome = simulate(trace_of(poisson(5, 100), 100, 1), fleet_of(), "p2c")
    figures = measure(outcome, Objective(tpot_s=0))
    assert figures["tpot_ms"] == {"p50": None, "p99": None}
    assert figures["goodput_ratio"] == 1.0
    assert np.isfinite(tpot_of(outcome)).all()


def test_cost_is_busy_time_and_tokens_at_their_prices() -> None:
    outcome = an_outcome()
    busy = outcome.busy_s.sum() * price_per_h(outcome.fleet.endpoints[0]) / 3600
    tokens = 450 * 1030
    wanted = (busy + 450 * (1000 * 1.0 + 30 * 4.0) / 1e6) / tokens * 1000
    assert measure(outcome)["cost_per_1k_tokens"] == pytest.approx(wanted, rel=1e-5)


def test_a_switch_is_a_request_elsewhere_than_its_sessions_last_one() -> None:
    outcome = simulate(trace_of(poisson(5, 100), prefixes=[0] * 100), fleet_of({"count": 3} | CLASS), "p2c")
    endpoint = np.zeros(100, np.int32)
    endpoint[[4, 40, 41, 90]] = [1, 1, 2, 2]  # the first is in the warm-up: there and back
    assert measure(replace(outcome, endpoint=endpoint))["switches"] == 5
    endpoint[50] = -1  # there was nobody to ask
    assert measure(replace(outcome, endpoint=endpoint))["switches"] == 5


def test_the_score_keeps_sessions_together() -> None:
    sessions = np.random.default_rng(1).integers(0, 300, 600).tolist()
    trace = trace_of(poisson(10, 600), 8000, 100, prefixes=sessions)
    fleet = fleet_of({"count": 2} | CLASS)
    free, kept = (
        measure(simulate(trace, fleet, f"five_axis:kappa=0:eta=0:switch_ms={switch_ms}"))["switches"]
        for switch_ms in (0, 2000)
    )
    assert kept < free < measure(simulate(trace, fleet, "round_robin"))["switches"]


def test_a_run_that_answered_nobody_has_no_figures_and_does_not_fail() -> None:
    fault = Fault(FaultKind.CRASH, -1, 0.0, 1e5)
    outcome = simulate(trace_of(poisson(5, 50)), fleet_of(), "p2c", faults=[fault])
    figures = measure(outcome)
    assert figures["failed"] == figures["requests"] == 45
    assert figures["ttft_ms"]["p99"] is figures["cost_per_1k_tokens"] is figures["recovery_s"] is None
    assert figures["goodput_ratio"] == 0.0
    assert curves(outcome).ttft_ms == []


def test_recovery_is_the_time_until_those_who_come_are_served_as_before() -> None:
    # One request a second for 400 s, 1 s to the first token; 10 s in the fault and for 55 s after it.
    count = 400
    trace = trace_of([float(second) for second in range(count)])
    arrival_us = trace.arrival_us.copy()
    waits_s = np.where((np.arange(count) >= 100) & (np.arange(count) < 255), 10.0, 1.0)
    endpoint = (np.arange(count) % 4).astype(np.int32)
    endpoint[100:230] = np.arange(100, 230) % 3 + 1
    outcome = replace(
        simulate(trace, fleet_of({"class": "8b-a100", "count": 4}), "p2c"),
        first_us=arrival_us + np.rint(waits_s * 1e6).astype(np.int64),
        endpoint=endpoint,
        faults=(Fault(FaultKind.SLOW, 0, 100.0, 200.0),),
    )
    figures = measure(outcome)
    # Of the 30 that come in a window at most one may still be slow for its 95 % quantile to be well.
    assert figures["recovery_s"] == pytest.approx(54.0, abs=1.0)
    # Endpoint 0 is back from 230 s on; its share of 64 s (16 requests) is fair enough from about 214 s on.
    assert figures["share_recovery_s"] == pytest.approx(14.0, abs=4.0)
    assert figures["fault_ttft_ms"] == {"mean": 10_000.0, "p95": 10_000.0}
    assert figures["fault_share"] == 0.0


def test_a_share_is_counted_for_as_long_as_it_takes_to_tell() -> None:
    # One request a second, one in seven of them to endpoint 0: eight a minute, of which a quarter is two.
    count = 2000
    trace = trace_of([float(second) for second in range(count)])
    places = np.arange(count)
    fault = Fault(FaultKind.SLOW, 0, 800.0, 1000.0)
    outcome = replace(
        simulate(trace, fleet_of({"class": "8b-a100", "count": 2}), "p2c"),
        endpoint=np.where((places % 7 == 6) & ((places < 800) | (places >= 1200)), 0, 1).astype(np.int32),
        faults=(fault,),
    )
    figures = measure(outcome)
    assert figures["share_window_s"] == pytest.approx(16 * 7, rel=0.02)
    # A quarter of a window may be without it.
    assert figures["share_recovery_s"] == pytest.approx(200 - 112 / 4, abs=8.0)
    rare = measure(replace(outcome, endpoint=np.where(places % 20 == 15, 0, 1).astype(np.int32)))
    assert rare["share_window_s"] > 300 and rare["share_recovery_s"] is None
    nothing = measure(replace(outcome, endpoint=np.ones(count, dtype=np.int32)))
    assert nothing["share_recovery_s"] is nothing["share_window_s"] is None


def test_a_trace_that_ends_in_the_fault_has_not_recovered() -> None:
    trace = trace_of(poisson(5, 300))
    outcome = simulate(trace, fleet_of(), "p2c", faults=[Fault(FaultKind.SLOW, 0, 20.0, 1000.0)])
    figures = measure(outcome)
    assert figures["recovery_s"] is None and figures["share_recovery_s"] is None


def test_shares_over_time_sum_to_one_where_anything_was_picked() -> None:
    drawn = curves(an_outcome())
    assert len(drawn.share) == 60
    assert {round(sum(row), 3) for row in drawn.share} <= {0.0, 1.0}
    assert drawn.ttft_ms == sorted(drawn.ttft_ms)


def test_an_interval_is_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(0.975, 4) = 2.776, deviation sqrt(2.5), five values.
    half = 2.776 * (2.5 / 5) ** 0.5
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))
    assert interval([7.0]) == (7.0, -np.inf, np.inf)


def test_policies_are_compared_seed_by_seed() -> None:
    figures = measure(an_outcome(100))

    def run(policy: str, seed: int, mean_ms: float) -> dict[str, Any]:
        what = {"policy": policy, "fleet": "f", "speed": 1.0, "seed": seed, "fault": None}
        return what | figures | {"ttft_ms": figures["ttft_ms"] | {"mean": mean_ms}}

    # Seeds differ by far more than policies do; pairing takes that out.
    runs = [run("ours", seed, 100.0 * seed) for seed in (1, 2, 3)]
    runs += [run("other", seed, 100.0 * seed + 10 + seed / 10) for seed in (1, 2, 3)]
    (row,) = paired(runs, "ours")
    assert (row["policy"], row["reference"], row["seeds"]) == ("other", "ours", 3)
    assert row["ttft_ms.mean"]["mean"] == pytest.approx(10.2)
    assert 9.9 < row["ttft_ms.mean"]["low"] < row["ttft_ms.mean"]["high"] < 10.5
    assert row["goodput_ratio"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert {f"{name}.{part}" if part else name for name, part in COMPARED} <= row.keys()


def test_one_seed_gives_a_difference_without_an_interval() -> None:
    runs = [
        {"policy": policy, "fleet": "f", "speed": 1.0, "seed": 1, "fault": None} | measure(an_outcome(60))
        for policy in ("a", "b")
    ]
    assert paired(runs, "a")[0]["goodput_ratio"] == {"mean": 0.0, "low": None, "high": None}


def test_a_spot_fleet_is_cheaper_where_it_is_spot() -> None:
    trace = trace_of(poisson(10, 300), 500, 20)
    mixed = measure(simulate(trace, load_fleet("spot-mix"), "round_robin"))
    plain = measure(simulate(trace, load_fleet("hom-8xa100"), "round_robin"))
    assert mixed["cost_per_1k_tokens"] == pytest.approx(0.7 * plain["cost_per_1k_tokens"], rel=0.02)

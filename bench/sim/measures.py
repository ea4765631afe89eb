"""Figures of a run: what its users waited, what it cost, how it was shared, and how it got over a fault.

The first part of the requests (run.WARM_UP_RATIO) is left out of all of them. What each is:

- ttft: from a request's arrival at the router to its first token there, over all attempts; of those answered.
- tpot: (last token - first token) / (output tokens - 1), of answers with more than one.
- goodput_ratio: requests answered within both limits of the objective, of all.
- cost_per_1k_tokens: the engines' time in steps at their machines' price, and prices per token, over the
  tokens (of prompts and answers) of requests answered. An idle machine costs nothing: it is there for others.
- prefix_hit_ratio: prompt tokens that engines found cached, of all prompt tokens.
- imbalance: the busiest engine's time in steps over the mean.
- switches: of measured requests those whose session's request before was picked for another endpoint.
- model_shares: of answers, by the model that gave them; only where an alias was asked for.
- share_recovery_s: from a fault's end until the endpoint's share of the requests of a window is within
  SHARE_TOLERANCE of what it was before. The window (share_window_s) is as long as its share before took for
  SHARE_COUNT requests. None: not within the trace, or not to be told: of an endpoint that got one a minute a
  minute says nothing, and in a quarter of an hour the traffic changes by itself.
- recovery_s: from a fault's end until requests that come in the next RECOVERY_WINDOW_S have a p95 of TTFT
  below RECOVERY_RATIO times that before the fault; None: not within the trace.

Neighbours: run.py (columns), sweep.py (many runs), page.py (plots).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.sim import fleets
from bench.sim.run import Fault, Outcome, State

RECOVERY_RATIO = 1.5
RECOVERY_WINDOW_S = 30.0
SHARE_WINDOW_S = 60.0
"""At least: a fair share is counted, and counts of few are noise."""
SHARE_WINDOW_MAX_S = 120.0
"""Beyond it there is nothing to tell a recovery by."""
SHARE_TOLERANCE = 0.25
SHARE_COUNT = 16
"""Requests that a fair share is counted by: the tolerance is the standard deviation of so many."""
STEP_S = 1.0
"""Between two looks for a recovery."""
CURVE_POINTS = 101
"""Quantiles that a page draws a distribution from."""
SHARE_SLICES = 60
"""Into so many parts of equal length a page cuts a run."""

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; beyond them the normal's."""
Z_975 = 1.960


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """When an answer is good: first token within ttft_s and more by the prompt, others tpot_s apart."""

    ttft_s: float = 1.0
    ttft_token_s: float = 0.0003
    tpot_s: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """What a page draws of a run."""

    ttft_ms: list[float]
    """Its quantiles, 0 to 100 %."""
    share: list[list[float]]
    """share[slice][endpoint]: of the requests picked in that part of the run."""
    share_step_s: float


def measure(outcome: Outcome, objective: Objective | None = None) -> dict[str, Any]:
    """The figures of one run, as its JSON has them."""
    objective = objective or Objective()
    trace = outcome.trace
    done = outcome.measured & (outcome.state == State.DONE)
    ttft_s = ttft_of(outcome)
    tpot_s = tpot_of(outcome)
    several = done & (trace.output_tokens > 1)
    good = (
        done
        & (ttft_s <= objective.ttft_s + objective.ttft_token_s * trace.prompt_tokens)
        & ((trace.output_tokens <= 1) | (tpot_s <= objective.tpot_s))
    )
    busy_mean_s = outcome.busy_s.mean()
    prompt_tokens = int(trace.prompt_tokens[done].sum())
    figures = {
        "requests": int(outcome.measured.sum()),
        "ttft_ms": {"mean": _mean(ttft_s[done] * 1000)}
        | {name: _quantile(ttft_s[done] * 1000, q) for name, q in (("p50", 50), ("p95", 95), ("p99", 99))},
        "tpot_ms": {name: _quantile(tpot_s[several] * 1000, q) for name, q in (("p50", 50), ("p99", 99))},
        "goodput_ratio": _ratio(int(good.sum()), int(outcome.measured.sum())),
        "cost_per_1k_tokens": cost_per_1k_tokens(outcome),
        "prefix_hit_ratio": _ratio(int(outcome.cached_tokens[done].sum()), prompt_tokens),
        "imbalance": _rounded(outcome.busy_s.max() / busy_mean_s) if busy_mean_s else None,
        "recovery_s": None,
        "failed": int((outcome.measured & (outcome.state == State.FAILED)).sum()),
        "preemptions": int(outcome.preemption_count.sum()),
        "switches": switch_count(outcome),
    }
    if any(name in outcome.fleet.aliases for name in trace.models):
        figures["model_shares"] = {
            name: _ratio(int((outcome.model[done] == index).sum()), int(done.sum()))
            for index, name in enumerate(outcome.models)
        }
    if outcome.faults:
        figures |= _fault_figures(outcome, outcome.faults[0])
    return figures


def ttft_of(outcome: Outcome) -> NDArray[np.float64]:
    """[request_count] in seconds; only of answered requests does it mean something."""
    return (outcome.first_us - outcome.arrival_us) / 1e6


def tpot_of(outcome: Outcome) -> NDArray[np.float64]:
    """[request_count] in seconds; only of answered requests with several tokens does it mean something."""
    return (outcome.end_us - outcome.first_us) / 1e6 / np.maximum(outcome.trace.output_tokens - 1, 1)


def switch_count(outcome: Outcome) -> int:
    session = outcome.trace.session
    rows = np.flatnonzero((session != 0) & (outcome.endpoint >= 0))
    rows = rows[np.lexsort((outcome.picked_us[rows], session[rows]))]
    before, after = rows[:-1], rows[1:]
    moved = (session[before] == session[after]) & (outcome.endpoint[before] != outcome.endpoint[after])
    return int((moved & outcome.measured[after]).sum())


def cost_per_1k_tokens(outcome: Outcome) -> float | None:
    trace = outcome.trace
    groups = outcome.fleet.groups()
    done = outcome.measured & (outcome.state == State.DONE)
    tokens = int(trace.prompt_tokens[done].sum() + trace.output_tokens[done].sum())
    if not tokens:
        return None
    cost = 0.0
    for index, group in enumerate(groups):
        here = done & (outcome.endpoint == index)
        cost += float(outcome.busy_s[index]) * fleets.price_per_h(group) / 3600
        cost += float(trace.prompt_tokens[here].sum()) * group.input_price / 1e6
        cost += float(trace.output_tokens[here].sum()) * group.output_price / 1e6
    return float(f"{cost / tokens * 1000:.6g}")


def curves(outcome: Outcome) -> Curves:
    done = outcome.measured & (outcome.state == State.DONE)
    ttft_ms = ttft_of(outcome)[done] * 1000
    quantiles = np.percentile(ttft_ms, np.linspace(0, 100, CURVE_POINTS)) if done.any() else []
    picked = outcome.endpoint >= 0
    last_us = int(outcome.picked_us.max(initial=1)) or 1
    step_us = max(1, -(-last_us // SHARE_SLICES))
    count = len(outcome.busy_s)
    cells = np.zeros((SHARE_SLICES, count))
    np.add.at(
        cells,
        (np.minimum(outcome.picked_us[picked] // step_us, SHARE_SLICES - 1), outcome.endpoint[picked]),
        1,
    )
    sums = cells.sum(axis=1, keepdims=True)
    shares = np.divide(cells, sums, out=np.zeros_like(cells), where=sums > 0)
    return Curves(
        ttft_ms=[round(float(value), 3) for value in quantiles],
        share=[[round(float(value), 4) for value in row] for row in shares],
        share_step_s=step_us / 1e6,
    )


# --- faults -------------------------------------------------------------------------------------------------


def _fault_figures(outcome: Outcome, fault: Fault) -> dict[str, Any]:
    """How requests that came within the fault fared, and how long it was felt."""
    arrival_s = outcome.arrival_us / 1e6
    done = outcome.state == State.DONE
    ttft_s = ttft_of(outcome)
    within = (arrival_s >= fault.start_s) & (arrival_s < fault.end_s)
    before = outcome.measured & done & (arrival_s < fault.start_s)
    figures: dict[str, Any] = {
        "fault_ttft_ms": {
            "mean": _mean(ttft_s[within & done] * 1000),
            "p95": _quantile(ttft_s[within & done] * 1000, 95),
        },
        "fault_failed": int((within & (outcome.state == State.FAILED)).sum()),
        "fault_share": _ratio(int((within & (outcome.endpoint == fault.endpoint)).sum()), int(within.sum())),
        "share_recovery_s": None,
        "share_window_s": None,
    }
    if not before.any():
        return figures
    last_s = float(arrival_s.max())
    limit_s = RECOVERY_RATIO * float(np.percentile(ttft_s[before], 95))
    figures["recovery_s"] = _first(
        fault.end_s,
        last_s - RECOVERY_WINDOW_S,
        lambda at: _window(arrival_s, at, RECOVERY_WINDOW_S) & done,
        lambda rows: float(np.percentile(ttft_s[rows], 95)) < limit_s,
    )
    if fault.endpoint >= 0:
        here = before & (outcome.endpoint == fault.endpoint)
        if not here.any():
            return figures
        fair = float(here.sum() / before.sum())
        span_s = fault.start_s - float(arrival_s[before].min())
        window_s = max(SHARE_WINDOW_S, SHARE_COUNT * span_s / float(here.sum()))
        figures["share_window_s"] = _rounded(window_s)
        if window_s > SHARE_WINDOW_MAX_S:
            return figures
        figures["share_recovery_s"] = _first(
            fault.end_s,
            last_s - window_s,
            lambda at: _window(arrival_s, at, window_s),
            lambda rows: (
                abs(float((outcome.endpoint[rows] == fault.endpoint).mean()) - fair) <= SHARE_TOLERANCE * fair
            ),
        )
    return figures


def _window(arrival_s: NDArray[np.float64], start_s: float, length_s: float) -> NDArray[np.bool_]:
    return (arrival_s >= start_s) & (arrival_s < start_s + length_s)


def _first(start_s: float, last_s: float, rows_at: Any, is_well: Any) -> float | None:
    """How long after `start_s` the rows of a window are well for the first time."""
    at = start_s
    while at <= last_s:
        rows = rows_at(at)
        if rows.any() and is_well(rows):
            return _rounded(at - start_s)
        at += STEP_S
    return None


# --- over seeds ---------------------------------------------------------------------------------------------

COMPARED = (
    ("ttft_ms", "mean"),
    ("ttft_ms", "p50"),
    ("ttft_ms", "p95"),
    ("ttft_ms", "p99"),
    ("tpot_ms", "p50"),
    ("tpot_ms", "p99"),
    ("goodput_ratio", ""),
    ("cost_per_1k_tokens", ""),
    ("prefix_hit_ratio", ""),
    ("imbalance", ""),
)


def value_of(figures: dict[str, Any], name: str, part: str) -> float | None:
    value = figures[name][part] if part else figures[name]
    return None if value is None else float(value)


def interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a 95 % t interval; of one value its width is not known, and infinite."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, -np.inf, np.inf
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    freedom = len(values) - 1
    half = (T_975[freedom - 1] if freedom <= len(T_975) else Z_975) * deviation / len(values) ** 0.5
    return mean, mean - half, mean + half


def paired(runs: list[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Each policy against the reference, by runs of equal fleet, speed, fault and seed: the mean difference
    and its 95 % interval, None where seeds are too few to tell.
    """
    by_place: dict[tuple[Any, ...], dict[str, dict[int, dict[str, Any]]]] = {}
    for run in runs:
        place = (run["fleet"], run["speed"], run["fault"])
        by_place.setdefault(place, {}).setdefault(run["policy"], {})[run["seed"]] = run
    found = []
    for (fleet, speed, fault), policies in by_place.items():
        base = policies.get(reference, {})
        for policy, by_seed in policies.items():
            seeds = sorted(by_seed.keys() & base.keys())
            if policy == reference or not seeds:
                continue
            row: dict[str, Any] = {
                "policy": policy,
                "reference": reference,
                "fleet": fleet,
                "speed": speed,
                "fault": fault,
                "seeds": len(seeds),
            }
            for name, part in COMPARED:
                pairs = [
                    (value_of(by_seed[seed], name, part), value_of(base[seed], name, part)) for seed in seeds
                ]
                differences = [
                    mine - other for mine, other in pairs if mine is not None and other is not None
                ]
                row[f"{name}.{part}" if part else name] = _interval_row(differences)
            found.append(row)
    return found


def _interval_row(differences: list[float]) -> dict[str, float | None]:
    if not differences:
        return {"mean": None, "low": None, "high": None}
    mean, low, high = interval(differences)
    is_known = len(differences) > 1
    return {
        "mean": float(f"{mean:.6g}"),
        "low": float(f"{low:.6g}") if is_known else None,
        "high": float(f"{high:.6g}") if is_known else None,
    }


# --- numbers ------------------------------------------------------------------------------------------------


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _mean(values: NDArray[np.float64]) -> float | None:
    return _rounded(values.mean()) if len(values) else None


def _quantile(values: NDArray[np.float64], percent: float) -> float | None:
    return _rounded(np.percentile(values, percent)) if len(values) else None


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None

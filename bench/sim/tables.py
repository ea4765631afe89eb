"""The figures of a sweep as tables on a terminal: mean over seeds, and the differences that seeds can tell.

Neighbours: cli.py, which prints them; measures.py, which says what each figure is.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from bench.sim.measures import value_of

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("TTFT mean", "ttft_ms", "mean", "ms"),
    ("p50", "ttft_ms", "p50", "ms"),
    ("p95", "ttft_ms", "p95", "ms"),
    ("p99", "ttft_ms", "p99", "ms"),
    ("TPOT p50", "tpot_ms", "p50", "ms"),
    ("p99", "tpot_ms", "p99", "ms"),
    ("goodput", "goodput_ratio", "", "%"),
    ("cost/1k", "cost_per_1k_tokens", "", "g"),
    ("hits", "prefix_hit_ratio", "", "%"),
    ("max/mean", "imbalance", "", "x"),
)
"""(heading, figure, part, unit)"""

WIDTH = 190
"""Of a table that goes into a file or a pipe."""

FAULT_COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("p95 in fault", "fault_ttft_ms", "p95", "ms"),
    ("share", "fault_share", "", "%"),
    ("recovery", "recovery_s", "", "s"),
    ("share back", "share_recovery_s", "", "s"),
)


def columns_of(runs: list[dict[str, Any]]) -> tuple[tuple[str, str, str, str], ...]:
    """Those that say something of these runs."""
    faults = FAULT_COLUMNS if any("fault_share" in run for run in runs) else ()
    models = dict.fromkeys(model for run in runs for model in run.get("model_shares", ()))
    return COLUMNS + faults + tuple((model, "model_shares", model, "%") for model in models)


def print_runs(runs: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> None:
    console = Console(width=None if Console().is_terminal else WIDTH)
    for fleet, speed, fault in dict.fromkeys((run["fleet"], run["speed"], run["fault"]) for run in runs):
        chosen = [run for run in runs if (run["fleet"], run["speed"], run["fault"]) == (fleet, speed, fault)]
        seeds = len({run["seed"] for run in chosen})
        title = f"{fleet}, speed {speed:g}" + (f", {fault}" if fault else "")
        caption = f"{chosen[0]['requests']} requests measured" + (
            f", mean of {seeds} seeds" if seeds > 1 else ""
        )
        console.print(_runs_table(title, caption, chosen))
    if any(row["seeds"] > 1 for row in comparisons):
        console.print(_paired_table(comparisons))


def _runs_table(title: str, caption: str, runs: list[dict[str, Any]]) -> Table:
    columns = columns_of(runs)
    has_failures = any(run["failed"] for run in runs)
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("policy", no_wrap=True)
    for heading, _, _, unit in columns:
        table.add_column(
            f"{heading}\n{unit if unit in ('ms', '%', 's') else ''}", justify="right", no_wrap=True
        )
    if has_failures:
        table.add_column("failed\n", justify="right")
    for policy in dict.fromkeys(run["policy"] for run in runs):
        mine = [run for run in runs if run["policy"] == policy]
        cells = [shown(mean_of(mine, name, part), unit) for _, name, part, unit in columns]
        if has_failures:
            cells.append(shown(sum(run["failed"] for run in mine) / len(mine), "x"))
        table.add_row(policy, *cells)
    return table


def _paired_table(comparisons: list[dict[str, Any]]) -> Table:
    reference = comparisons[0]["reference"]
    table = Table(
        title=f"Difference to {reference}, paired by seed; * : the 95 % interval excludes 0",
        title_justify="left",
    )
    for heading in ("fleet", "speed", "policy"):
        table.add_column(heading, no_wrap=True)
    chosen = [
        ("TTFT mean ms", "ttft_ms.mean", 1.0),
        ("p99 ms", "ttft_ms.p99", 1.0),
        ("TPOT p99 ms", "tpot_ms.p99", 1.0),
        ("goodput points", "goodput_ratio", 100.0),
    ]
    for heading, _, _ in chosen:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparisons:
        cells = [_difference(row[name], scale) for _, name, scale in chosen]
        table.add_row(row["fleet"], f"{row['speed']:g}", row["policy"], *cells)
    return table


def _difference(interval: dict[str, float | None], scale: float) -> str:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean * scale:+.1f}"
    half = (high - low) / 2 * scale
    return f"{mean * scale:+.1f} ±{half:.1f}{'*' if low > 0 or high < 0 else ' '}"


def mean_of(runs: list[dict[str, Any]], name: str, part: str) -> float | None:
    """Over the runs that have the figure; None when none has."""
    values = [value for run in runs if name in run and (value := value_of(run, name, part)) is not None]
    return sum(values) / len(values) if values else None


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "%":
        return f"{value * 100:.1f}"
    if unit == "g":
        return f"{value:.3g}"
    if unit == "x":
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

"""The results of a sweep as one page: plots as inline SVG, no script, nothing fetched; light and dark.

Invariant: the same results give the same bytes. Text from outside (policies, fleets, files) is escaped.
Neighbours: sweep.py (results), tables.py (the same figures for a terminal), plot.py (axes and lines).
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from bench.sim import plot
from bench.sim.sweep import Result
from bench.sim.tables import columns_of, mean_of, shown

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #ffffff; --faint: #68707f; --rule: #dfe3ea;
  --c0: #2166ac; --c1: #d6604d; --c2: #1b7837; --c3: #7b3294; --c4: #b8860b; --c5: #008b8b; --c6: #c2185b;
  --c7: #5d4037; --c8: #607d8b; --c9: #7cb342; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --paper: #14181f; --faint: #98a1b0;
  --rule: #303846; --c0: #6baed6; --c1: #f4a582; --c2: #74c476; --c3: #c2a5cf; --c4: #e6c35c; --c5: #66c2c2;
  --c6: #f06292; --c7: #bcaaa4; --c8: #b0bec5; --c9: #aed581; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid var(--rule);
  padding-top: 1rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; } p, figcaption { color: var(--faint); }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); } svg .name { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--faint); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.8; }
"""


def to_html(results: list[Result], source: str) -> str:
    """A page of every fleet and fault in the results, each with its speeds."""
    places = dict.fromkeys((result.figures["fleet"], result.figures["fault"]) for result in results)
    body = "".join(
        _place(
            fleet,
            fault,
            [each for each in results if (each.figures["fleet"], each.figures["fault"]) == (fleet, fault)],
        )
        for fleet, fault in places
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Simulation of {escape(source)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Simulation of {escape(source)}</h1>\n"
        "<p>Modelled engines in virtual time behind the real decision core. Figures are means over seeds; "
        "the first tenth of the requests is left out.</p>\n"
        f"{body}</body>\n</html>\n"
    )


def _place(fleet: str, fault: str | None, results: list[Result]) -> str:
    policies = list(dict.fromkeys(result.figures["policy"] for result in results))
    speeds = sorted({result.figures["speed"] for result in results})
    colors = {policy: f"var(--c{index % 10})" for index, policy in enumerate(policies)}
    parts = [f"<h2>{escape(fleet)}{escape(f', {fault}') if fault else ''}</h2>\n"]
    if len(speeds) > 1:
        parts.append(_figure("SLO goodput against load", _goodput(results, policies, speeds, colors)))
    for speed in speeds:
        chosen = [result for result in results if result.figures["speed"] == speed]
        parts.append(f"<h3>Speed {speed:g}</h3>\n{_table(chosen, policies)}")
        figures = [_figure("Time to first token, share of requests below", _ttft(chosen, policies, colors))]
        for policy in policies:
            first = min(
                (each for each in chosen if each.figures["policy"] == policy),
                key=lambda each: int(each.figures["seed"]),
            )
            figures.append(_figure(f"{policy}: share of picks by endpoint", _shares(first)))
        parts.append(f'<div class="plots">\n{"".join(figures)}</div>\n')
    return "".join(parts)


def _figure(title: str, svg: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>\n{svg}</figure>\n"


def _table(results: list[Result], policies: Iterable[str]) -> str:
    runs = [result.figures for result in results]
    columns = columns_of(runs)
    units = {"ms": " ms", "%": " %", "s": " s"}
    head = "".join(f"<th>{escape(heading + units.get(unit, ''))}</th>" for heading, _, _, unit in columns)
    rows = []
    for policy in policies:
        mine = [run for run in runs if run["policy"] == policy]
        cells = "".join(
            f"<td>{shown(mean_of(mine, name, part), unit)}</td>" for _, name, part, unit in columns
        )
        rows.append(f"<tr><td>{escape(policy)}</td>{cells}</tr>\n")
    return f'<div class="scroll"><table>\n<tr><th>policy</th>{head}</tr>\n{"".join(rows)}</table></div>\n'


def _ttft(results: list[Result], policies: Iterable[str], colors: dict[str, str]) -> str:
    lines = []
    for policy in policies:
        mine = [each for each in results if each.figures["policy"] == policy and each.curves.ttft_ms]
        if not mine:
            continue
        count = len(mine[0].curves.ttft_ms)
        points = [
            (max(1.0, sum(each.curves.ttft_ms[at] for each in mine) / len(mine)), at / (count - 1))
            for at in range(count)
        ]
        lines.append(plot.Line(policy, colors[policy], points))
    return plot.lines(lines, x_label="ms", x_is_log=True, y_label="", y_range=(0.0, 1.0))


def _goodput(
    results: list[Result], policies: Iterable[str], speeds: list[float], colors: dict[str, str]
) -> str:
    lines = []
    for policy in policies:
        points = []
        for speed in speeds:
            mine = [
                each.figures
                for each in results
                if each.figures["policy"] == policy and each.figures["speed"] == speed
            ]
            value = mean_of(mine, "goodput_ratio", "")
            if value is not None:
                points.append((speed, value))
        lines.append(plot.Line(policy, colors[policy], points))
    return plot.lines(lines, x_label="speed", x_is_log=False, y_label="", y_range=(0.0, 1.0))


def _shares(result: Result) -> str:
    bands: list[Any] = [
        plot.Band(name, f"var(--c{index % 10})", [row[index] for row in result.curves.share])
        for index, name in enumerate(result.endpoint_names)
    ]
    return plot.bands(bands, step=result.curves.share_step_s, x_label="s")

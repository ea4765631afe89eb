"""Whether policies rank over sockets as they do in the simulator: the table, Kendall's tau, and who swapped.

Invariant: figures compared are means over the same seeds. Neighbours: live.py (makes the pairs),
bench/sim/tables.py (whose columns these are).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.real.live import Pair
from bench.sim.tables import COLUMNS, WIDTH, mean_of, shown

RANKED = (("ttft_ms", "mean"), ("ttft_ms", "p99"))
SHOWN = (
    ("ttft_ms", "mean"),
    ("ttft_ms", "p50"),
    ("ttft_ms", "p95"),
    ("ttft_ms", "p99"),
    ("goodput_ratio", ""),
    ("prefix_hit_ratio", ""),
)
MACHINE = ("routers", "client", "engines", "waited")
FAILURES_SHOWN = 3


def rankings(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Of each place (fleet and speed) and figure: both orders, tau, and the pairs that swapped."""
    found = []
    for place in dict.fromkeys(_place(pair) for pair in pairs):
        mine = [pair for pair in pairs if _place(pair) == place]
        for name, part in RANKED:
            real, simulated = (
                _by_policy([getattr(pair, side) for pair in mine], name, part)
                for side in ("real", "simulated")
            )
            ranges = {policy: _range(mine, policy, name, part) for policy in real}
            what = {"fleet": place[0], "speed": place[1], "figure": f"{name}.{part}"}
            found.append(what | compare(real, simulated, ranges))
    return found


def compare(
    real: dict[str, float], simulated: dict[str, float], ranges: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """Two rankings of the same policies by a figure of which less is better.

    `ranges`: least and most of each that the simulator gives when arrivals are nudged.
    """
    swapped = []
    agreed = counted = 0
    for one, other in combinations(sorted(real.keys() & simulated.keys()), 2):
        signs = _sign(real[one] - real[other]) * _sign(simulated[one] - simulated[other])
        agreed += signs
        counted += 1
        if signs < 0:
            swapped.append(
                {
                    "policies": [one, other],
                    "sockets": _apart(real[one], real[other]),
                    "simulator": _apart(simulated[one], simulated[other]),
                    "told_apart": _are_apart(ranges[one], ranges[other]),
                }
            )
    return {
        "sockets": sorted(real, key=lambda policy: real[policy]),
        "simulator": sorted(simulated, key=lambda policy: simulated[policy]),
        "tau": round(agreed / counted, 4) if counted else None,
        "ranges": {policy: list(ranges[policy]) for policy in ranges},
        "swapped": swapped,
    }


def print_pairs(pairs: Sequence[Pair], ranked: Sequence[dict[str, Any]]) -> None:
    console = Console(width=None if Console().is_terminal else WIDTH)
    for place in dict.fromkeys(_place(pair) for pair in pairs):
        mine = [pair for pair in pairs if _place(pair) == place]
        console.print(_table(place, mine))
        console.print(_machine_table(mine))
        for row in ranked:
            if (row["fleet"], row["speed"]) == place:
                console.print(_told(row), markup=False, highlight=False)
        for pair in mine:
            for failure in pair.failures[:FAILURES_SHOWN]:
                console.print(f"{pair.real['policy']}: {failure}", markup=False, highlight=False)


def _table(place: tuple[str, float], pairs: Sequence[Pair]) -> Table:
    requests = pairs[0].real["requests"]
    table = Table(
        title=f"{place[0]}, speed {place[1]:g}: over sockets / simulated",
        caption=f"{requests} requests measured; in brackets: simulated with arrivals nudged, least and most",
        title_justify="left",
        caption_justify="left",
    )
    units = {(name, part): (heading, unit) for heading, name, part, unit in COLUMNS}
    table.add_column("policy", no_wrap=True)
    for wanted in SHOWN:
        heading, unit = units[wanted]
        table.add_column(f"{heading}\n{unit}", justify="right", no_wrap=True)
    table.add_column("failed\n", justify="right")
    for policy in dict.fromkeys(pair.real["policy"] for pair in pairs):
        mine = [pair for pair in pairs if pair.real["policy"] == policy]
        real, simulated = [pair.real for pair in mine], [pair.simulated for pair in mine]
        cells = []
        for wanted in SHOWN:
            unit = units[wanted][1]
            cell = f"{shown(mean_of(real, *wanted), unit)} / {shown(mean_of(simulated, *wanted), unit)}"
            if wanted in RANKED:
                low, high = _range(mine, policy, *wanted)
                cell += f" [{shown(low, unit)}-{shown(high, unit)}]"
            cells.append(cell)
        table.add_row(policy, *map(escape, cells), str(sum(run["failed"] for run in real)))
    return table


def _machine_table(pairs: Sequence[Pair]) -> Table:
    table = Table(title="What it cost: % of one core's time", title_justify="left")
    for heading in ("policy", *MACHINE, "client late, p99 ms"):
        table.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=True)
    for policy in dict.fromkeys(pair.real["policy"] for pair in pairs):
        mine = [pair.machine for pair in pairs if pair.real["policy"] == policy]
        means = {name: sum(machine[name] for machine in mine) / len(mine) for name in mine[0]}
        table.add_row(
            policy, *(f"{means[name] * 100:.0f}" for name in MACHINE), f"{means['late_p99_ms']:.1f}"
        )
    return table


def _told(row: dict[str, Any]) -> str:
    lines = [f"{row['figure']}: Kendall's tau {'-' if row['tau'] is None else format(row['tau'], '.2f')}"]
    lines += [f"  {side:9} {' < '.join(row[side])}" for side in ("sockets", "simulator")]
    for swap in row["swapped"]:
        one, other = swap["policies"]
        apart = f"{swap['sockets']:+.1%} over sockets, {swap['simulator']:+.1%} simulated"
        doubt = "" if swap["told_apart"] else "; not told apart by the simulator when arrivals are nudged"
        lines.append(f"  swapped: {one} against {other} is {apart}{doubt}")
    return "\n".join(lines)


def _place(pair: Pair) -> tuple[str, float]:
    return pair.real["fleet"], pair.real["speed"]


def _by_policy(runs: Sequence[dict[str, Any]], name: str, part: str) -> dict[str, float]:
    found = {}
    for policy in dict.fromkeys(run["policy"] for run in runs):
        value = mean_of([run for run in runs if run["policy"] == policy], name, part)
        if value is not None:
            found[policy] = value
    return found


def _range(pairs: Sequence[Pair], policy: str, name: str, part: str) -> tuple[float, float]:
    """Over the nudged runs, each the mean over seeds."""
    mine = [pair for pair in pairs if pair.real["policy"] == policy]
    means = [mean_of(list(runs), name, part) for runs in zip(*(pair.nudged for pair in mine), strict=True)]
    known = [value for value in means if value is not None]
    return min(known, default=0.0), max(known, default=0.0)


def _are_apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def _apart(one: float, other: float) -> float:
    return round(one / other - 1, 4) if other else 0.0

"""Whether policies rank over sockets as they do in the simulator: the table, Kendall's tau, and who swapped.

Invariant: figures compared are means over the same seeds. Neighbours: live.py (makes the pairs),
bench/sim/tables.py (whose columns these are).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from rich.console import Console
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
            found.append(
                {"fleet": place[0], "speed": place[1], "figure": f"{name}.{part}"} | compare(real, simulated)
            )
    return found


def compare(real: dict[str, float], simulated: dict[str, float]) -> dict[str, Any]:
    """Two rankings of the same policies by a figure of which less is better."""
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
                }
            )
    return {
        "sockets": sorted(real, key=lambda policy: real[policy]),
        "simulator": sorted(simulated, key=lambda policy: simulated[policy]),
        "tau": round(agreed / counted, 4) if counted else None,
        "swapped": swapped,
    }


def print_pairs(pairs: Sequence[Pair], ranked: Sequence[dict[str, Any]]) -> None:
    console = Console(width=None if Console().is_terminal else WIDTH)
    for place in dict.fromkeys(_place(pair) for pair in pairs):
        mine = [pair for pair in pairs if _place(pair) == place]
        console.print(_table(place, mine))
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
        caption=f"{requests} requests measured; routers, client, engines and waiting: % of one core's time",
        title_justify="left",
        caption_justify="left",
    )
    units = {(name, part): (heading, unit) for heading, name, part, unit in COLUMNS}
    table.add_column("policy", no_wrap=True)
    for wanted in SHOWN:
        heading, unit = units[wanted]
        table.add_column(f"{heading}\n{unit}", justify="right", no_wrap=True)
    for heading in ("failed\n", *(f"{name}\n%" for name in MACHINE), "late p99\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for policy in dict.fromkeys(pair.real["policy"] for pair in pairs):
        mine = [pair for pair in pairs if pair.real["policy"] == policy]
        real, simulated = [pair.real for pair in mine], [pair.simulated for pair in mine]
        cells = [
            f"{shown(mean_of(real, *wanted), units[wanted][1])} / "
            f"{shown(mean_of(simulated, *wanted), units[wanted][1])}"
            for wanted in SHOWN
        ]
        cells.append(str(sum(run["failed"] for run in real)))
        machine = {name: sum(pair.machine[name] for pair in mine) / len(mine) for name in mine[0].machine}
        cells += [f"{machine[name] * 100:.0f}" for name in MACHINE]
        cells.append(f"{machine['late_p99_ms']:.1f}")
        table.add_row(policy, *cells)
    return table


def _told(row: dict[str, Any]) -> str:
    lines = [f"{row['figure']}: Kendall's tau {'-' if row['tau'] is None else format(row['tau'], '.2f')}"]
    lines += [f"  {side:9} {' < '.join(row[side])}" for side in ("sockets", "simulator")]
    for swap in row["swapped"]:
        one, other = swap["policies"]
        apart = f"{swap['sockets']:+.1%} over sockets, {swap['simulator']:+.1%} simulated"
        lines.append(f"  swapped: {one} against {other} is {apart}")
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


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def _apart(one: float, other: float) -> float:
    return round(one / other - 1, 4) if other else 0.0

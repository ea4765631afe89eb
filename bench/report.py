"""What a run of compare found, as tables for a terminal, Markdown and JSON.

A figure is judged only for Fairlead and only by the bounds of goals.py. A figure made of slices that the
machine starved is marked with `*`, since it says as much about the machine as about the proxy.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.goals import FIGURES, Figure, JudgedBy
from bench.measure import Summary
from bench.scenarios import Cores

JUDGED = "fairlead"
WORTH_TELLING = 0.01  # a share of the figure
_verbosity = {"detail": False}


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run. results: by figure key and proxy, a summary or why there is none."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    skipped: Mapping[str, str]
    command: str
    rounds: int
    seconds: float
    starved_ratio_max: float
    results: Mapping[str, Mapping[str, Summary | str]]


def set_verbose(is_verbose: bool) -> None:
    """Whether `progress` also prints details."""
    _verbosity["detail"] = is_verbose


def progress(line: str, *, detail: bool = False) -> None:
    """A line on stderr while the run goes on."""
    if not detail or _verbosity["detail"]:
        print(f"bench: {line}", file=sys.stderr, flush=True)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine_facts(cores: Cores) -> dict[str, str]:
    """What the figures depend on."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    loads = os.getloadavg()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": f"proxy {cores.proxy}, load and engines {cores.load}",
        "load_average": f"{loads[0]:.1f} {loads[1]:.1f} {loads[2]:.1f}",
    }


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _mark(summary: Summary) -> str:
    return "*" if summary.is_starved else ""


def _ratio_text(summary: Summary) -> str:
    if summary.ratio is None:
        return ""
    mark = "*" if summary.ratio_is_starved else ""
    if summary.ratio_low is None or summary.ratio_high is None or summary.ratio_low == summary.ratio_high:
        return f"{summary.ratio:.2f}{mark}"
    return f"{summary.ratio:.2f}{mark} ({summary.ratio_low:.2f}-{summary.ratio_high:.2f})"


def _bounds_text(figure: Figure) -> str:
    if figure.judged_by is JudgedBy.NOTHING:
        return ""
    sign = "x" if figure.judged_by is JudgedBy.RATIO else ""
    aim = "" if figure.aim is None else f" / {figure.aim:g}{sign}"
    return f"{figure.must:g}{sign}{aim}"


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's cells as COLUMNS names them, one row for each figure and proxy."""
    lines: list[tuple[str, ...]] = []
    for figure in FIGURES:
        for name, outcome in report.results.get(figure.key, {}).items():
            title = f"{figure.text}, {figure.unit}"
            if isinstance(outcome, str):
                lines.append((title, _bounds_text(figure), name, "-", "", "", "", outcome))
                continue
            spread = (
                f" ({_number(outcome.value_low)}-{_number(outcome.value_high)})"
                if outcome.value_low != outcome.value_high
                else ""
            )
            notes = [outcome.note]
            if outcome.other_cpu_us > WORTH_TELLING * outcome.value:
                notes.append(f"supervisor {outcome.other_cpu_us:.2f} us more")
            verdict = figure.verdict(outcome.value, outcome.ratio) if name == JUDGED else ""
            slices = f"{outcome.kept_count}+{outcome.discarded_count}" if outcome.unit_count > 1 else ""
            lines.append(
                (
                    title,
                    _bounds_text(figure),
                    name,
                    f"{_number(outcome.value)}{_mark(outcome)}{spread}",
                    _ratio_text(outcome),
                    verdict,
                    slices,
                    ", ".join(filter(None, notes)),
                )
            )
    return lines


COLUMNS = (
    "figure",
    "must / aim",
    "proxy",
    "value (quartiles)",
    "to nginx (quartiles)",
    "met",
    "kept+discarded",
    "note",
)


def facts(report: Report) -> list[str]:
    """The lines above the table."""
    lines = [f"{key}: {value}" for key, value in report.machine.items()]
    lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()))
    lines += [f"skipped: {name}: {what}" for name, what in report.skipped.items()]
    lines.append(
        f"command: {report.command} ({report.rounds} rounds of {report.seconds:g} s; slices starved for more "
        f"than {report.starved_ratio_max:.0%} of their time are taken again; * made of starved slices)"
    )
    return lines


def print_tables(report: Report) -> None:
    """The result on stdout."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    for line in facts(report):
        console.print(line, markup=False, highlight=False)
    table = Table(*COLUMNS)
    last = ""
    for row in rows(report):
        if last and row[0] != last:
            table.add_section()
        table.add_row(*(row if row[0] != last else ("", "", *row[2:])))
        last = row[0]
    console.print(table)


def to_markdown(report: Report) -> str:
    """The same as Markdown."""
    lines = [f"- {line}" for line in facts(report)]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(report)]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> bytes:
    """The same for programs; times in the units of the figures."""
    results = {
        key: {
            name: asdict(one) if isinstance(one, Summary) else {"failure": one}
            for name, one in by_peer.items()
        }
        for key, by_peer in report.results.items()
    }
    fields = {name: getattr(report, name) for name in Report.__dataclass_fields__}
    return msgspec.json.format(msgspec.json.encode(fields | {"results": results}), indent=2)


def missed(report: Report) -> list[str]:
    """Keys of the figures in which Fairlead missed what it must reach."""
    found = []
    for figure in FIGURES:
        outcome = report.results.get(figure.key, {}).get(JUDGED)
        if isinstance(outcome, Summary) and figure.verdict(outcome.value, outcome.ratio) == "missed":
            found.append(figure.key)
    return found

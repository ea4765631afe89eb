"""Lines and stacked bands as SVG text: what a page of results needs, and no more.

Colors come in as CSS, classes `grid`, `axis`, `line` and `name` are the page's. Coordinates are rounded to a
tenth of a pixel, so that equal data gives equal bytes. Neighbour: page.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 130, 10, 34
NAMES_MAX = 16
"""In a legend; more would not fit beside the plot."""


class Line(NamedTuple):
    """A named line through points."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]


class Band(NamedTuple):
    """A named layer of a stack: its thickness at each step."""

    name: str
    color: str
    values: Sequence[float]


class _Scale(NamedTuple):
    """From data to pixels along one axis."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, is_log: bool) -> list[float]:
    """Round numbers from `low` to `high`: about five, or the powers of ten."""
    if is_log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]
    if high <= low:
        return [low]
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def lines(
    drawn: Sequence[Line],
    *,
    x_label: str,
    x_is_log: bool,
    y_label: str,
    y_range: tuple[float, float],
) -> str:
    """An SVG of the lines with axes and a legend; without a point, one that says so."""
    points = [point for line in drawn for point in line.points]
    if not points:
        return _svg(f'<text x="{LEFT}" y="{TOP + 20}">nothing to show</text>')
    xs = [x for x, _ in points]
    x_axis = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, x_is_log)
    y_axis = _Scale(*y_range, HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_axis, y_axis, x_label, y_label)]
    for line in drawn:
        path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line" style="stroke:{line.color}" points="{path}"/>')
        if len(line.points) <= 12:
            parts += [
                f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.6" style="fill:{line.color}"/>'
                for x, y in line.points
            ]
    parts.append(_legend([(line.name, line.color) for line in drawn]))
    return _svg("\n".join(parts))


def bands(drawn: Sequence[Band], *, step: float, x_label: str) -> str:
    """An SVG of the bands stacked to 1; value i of a band holds from i * step on."""
    count = max((len(band.values) for band in drawn), default=0)
    if not count:
        return _svg(f'<text x="{LEFT}" y="{TOP + 20}">nothing to show</text>')
    x_axis = _Scale(0.0, count * step, LEFT, WIDTH - RIGHT)
    y_axis = _Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = []
    below = [0.0] * count
    for number, band in enumerate(drawn):
        above = [low + value for low, value in zip(below, band.values, strict=True)]
        outline = _stairs(x_axis, y_axis, above, step) + _stairs(x_axis, y_axis, below, step)[::-1]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        # Names repeat colors after ten; a lighter turn of them is told apart.
        opacity = 0.85 if number // 10 % 2 == 0 else 0.5
        parts.append(f'<polygon style="fill:{band.color};fill-opacity:{opacity}" points="{path}"/>')
        below = above
    parts.append(_axes(x_axis, y_axis, x_label, ""))
    parts.append(_legend([(band.name, band.color) for band in drawn]))
    return _svg("\n".join(parts))


def _stairs(
    x_axis: _Scale, y_axis: _Scale, values: Sequence[float], step: float
) -> list[tuple[float, float]]:
    corners = []
    for place, value in enumerate(values):
        corners += [
            (x_axis.at(place * step), y_axis.at(value)),
            (x_axis.at((place + 1) * step), y_axis.at(value)),
        ]
    return corners


def _axes(x_axis: _Scale, y_axis: _Scale, x_label: str, y_label: str) -> str:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(x_axis.low, x_axis.high, x_axis.is_log):
        x = x_axis.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>')
    for value in ticks(y_axis.low, y_axis.high, y_axis.is_log):
        y = y_axis.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(
        f'<polyline class="axis" fill="none" points="{LEFT},{TOP} {LEFT},{bottom} {right},{bottom}"/>'
    )
    parts.append(f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    if y_label:
        parts.append(f'<text x="4" y="{TOP + 2}">{escape(y_label)}</text>')
    return "\n".join(parts)


def _legend(names: Sequence[tuple[str, str]]) -> str:
    parts = []
    x = WIDTH - RIGHT + 12
    for place, (name, color) in enumerate(names[:NAMES_MAX]):
        y = TOP + 8 + place * 16
        shown = name if len(name) <= 17 else name[:16] + "…"
        parts.append(f'<rect x="{x}" y="{y - 7}" width="10" height="10" style="fill:{color}"/>')
        parts.append(f'<text class="name" x="{x + 15}" y="{y + 2}">{escape(shown)}</text>')
    if len(names) > NAMES_MAX:
        y = TOP + 8 + NAMES_MAX * 16
        parts.append(f'<text x="{x}" y="{y}">and {len(names) - NAMES_MAX} more</text>')
    return "\n".join(parts)


def _svg(content: str) -> str:
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {size} role="img">\n{content}\n</svg>\n'

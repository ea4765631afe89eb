"""The Prometheus text format, of which only the lines that are wanted are read.

An engine's page has some six hundred lines, of which ten matter. Chunks are fed as they arrive and cut into
lines; a line whose first bytes begin no wanted name is dropped on a set look-up, and only the others are
parsed: name, labels, value, and, passed over, what may follow it (a timestamp, OpenMetrics' exemplar). The
format is that of prometheus.io/docs/instrumenting/exposition_formats and of OpenMetrics 1.0; names in quotes
and lines that begin with blanks are not looked for, since no exporter writes them.

Invariant: what is kept grows with the wanted lines only, and those are bounded; how the page was cut into
chunks changes nothing. A page that ends within a line was cut short and is refused whole: half a page would
read as half a load. Neighbours: dialects.py (which names are wanted), scrape.py (feeds).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from router import limits

_NAME = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*")
_LABEL = re.compile(rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*(,)?')
_LABELS_END = re.compile(rb"[ \t]*\}[ \t]*")
_ESCAPE = re.compile(rb'\\([\\"n])')
_UNESCAPED = {b"\\": b"\\", b'"': b'"', b"n": b"\n"}

_END = b"# EOF"  # of OpenMetrics, which need not end its line

BLOCK_BYTES = 8192  # looked at together: some 80 lines, so that `enough` is known soon

_OTHER_FORMATS = {
    b"<": "HTML or XML",
    b"{": "JSON",
    b"[": "JSON",
    b"\x1f": "compressed",
}
_FIRST_BYTES = frozenset(b"#_:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class ExpositionError(ValueError):
    """What was fed is not a whole page of metrics; the text says why."""


class Sample(NamedTuple):
    """One line: a series and its value."""

    name: str
    labels: dict[str, str]
    value: float


class Wanted:
    """Names of samples as they stand in the text (`_total`, `_sum` and their kin included)."""

    __slots__ = ("key_bytes", "keys", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {name.encode("ascii"): name for name in names}
        self.key_bytes = min(map(len, self.names))
        # As many bytes as each name has: one slice and one look-up tell nearly every other line.
        self.keys = frozenset(name[: self.key_bytes] for name in self.names)


class ExpositionReader:
    """Takes one page in chunks of any size; `finish` has the wanted samples in the page's order.

    With `enough`, what comes after so many wanted lines is not looked at, but for its end. Who has read all
    of a page knows how many there are; most have gauges and counters first, then a long tail of histograms.
    """

    def __init__(self, wanted: Wanted, *, enough: int = 0, bytes_max: int = limits.SCRAPE_BYTES_MAX) -> None:
        self.byte_count = 0
        self.line_count = 0
        self._wanted = wanted
        self._enough = enough or limits.SCRAPE_SAMPLES_MAX + 1
        self._bytes_max = bytes_max
        self._samples: list[Sample] = []
        self._is_begun = False  # something but blanks has come
        self._is_passing = False  # within a line that is not wanted
        self._pieces: list[bytes] = []  # of a line whose end has not come
        self._pieces_bytes = 0
        self._last = b""  # bytes of what is not looked at any more

    def feed(self, data: bytes) -> None:
        """Raises: ExpositionError, after which the reader is of no more use."""
        self.byte_count += len(data)
        if self.byte_count > self._bytes_max:
            raise ExpositionError(f"longer than {self._bytes_max} bytes")
        for at in range(0, len(data), BLOCK_BYTES):
            if len(self._samples) >= self._enough:
                self._last = (self._last + data[-len(_END) :])[-len(_END) :]
                return
            self._look(data[at : at + BLOCK_BYTES])

    def finish(self) -> list[Sample]:
        """Raises: ExpositionError where the page has no end, or never began."""
        if not self._is_begun:
            raise ExpositionError("empty")
        if self._last:
            is_ended = self._last.endswith((b"\n", _END))
        else:
            is_ended = not self._is_passing and b"".join(self._pieces).strip() in (b"", _END)
        if not is_ended:
            raise ExpositionError("ends within a line")
        return self._samples

    def _look(self, data: bytes) -> None:
        if b"\0" in data:
            raise ExpositionError("binary, not text")
        if not self._is_begun:
            self._begin(data)
        if self._is_passing:
            _, end, data = data.partition(b"\n")
            if not end:
                return
            self.line_count += 1
            self._is_passing = False
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._pieces:
                lines[0] = b"".join(self._pieces) + lines[0]
                self._pieces.clear()
                self._pieces_bytes = 0
            self.line_count += len(lines)
            if self.line_count > limits.SCRAPE_LINES_MAX:
                raise ExpositionError(f"more than {limits.SCRAPE_LINES_MAX} lines")
            key_bytes, keys = self._wanted.key_bytes, self._wanted.keys
            for line in [line for line in lines if line[:key_bytes] in keys]:
                self._take(line)
        if rest:
            self._keep(rest)

    def _begin(self, data: bytes) -> None:
        """Knows a page that is something else by its first byte."""
        first = data.lstrip()[:1]
        if not first:
            return
        if first[0] not in _FIRST_BYTES:
            raise ExpositionError(f"{_OTHER_FORMATS.get(first, 'something else')}, not metrics")
        self._is_begun = True

    def _keep(self, rest: bytes) -> None:
        """Of a line that has not ended: all of it while it may be wanted, nothing once it cannot be."""
        self._pieces.append(rest)
        self._pieces_bytes += len(rest)
        key_bytes = self._wanted.key_bytes
        if self._pieces_bytes < key_bytes:
            return
        if len(self._pieces) > 1 and len(self._pieces[0]) < key_bytes:
            self._pieces = [b"".join(self._pieces)]
        if self._pieces[0][:key_bytes] not in self._wanted.keys:
            self._is_passing = True
            self._pieces.clear()
            self._pieces_bytes = 0
        elif self._pieces_bytes > limits.SCRAPE_LINE_BYTES_MAX:
            raise ExpositionError(f"a line longer than {limits.SCRAPE_LINE_BYTES_MAX} bytes")

    def _take(self, line: bytes) -> None:
        begin = _NAME.match(line)
        name = self._wanted.names.get(begin[1]) if begin else None
        if begin is None or name is None:
            return
        if len(line) > limits.SCRAPE_LINE_BYTES_MAX:
            raise ExpositionError(f"a line longer than {limits.SCRAPE_LINE_BYTES_MAX} bytes")
        if len(self._samples) == limits.SCRAPE_SAMPLES_MAX:
            raise ExpositionError(f"more than {limits.SCRAPE_SAMPLES_MAX} series of what is wanted")
        at = begin.end()
        try:
            if line[at : at + 1] == b"{":
                labels, at = _labels(line, at + 1)
            else:
                labels = {}
                if line[at - 1 : at] not in (b" ", b"\t"):
                    raise ValueError("no blank before the value")
            value = _value(line[at:])
        except ValueError as exc:
            raise ExpositionError(f"{name}: {exc}") from exc
        self._samples.append(Sample(name, labels, value))


def _labels(line: bytes, at: int) -> tuple[dict[str, str], int]:
    """Those from `at` on, behind the brace, and where the value begins. Raises: ValueError."""
    labels: dict[str, str] = {}
    while label := _LABEL.match(line, at):
        text = label[2]
        if b"\\" in text:
            text = _ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], text)
        labels[label[1].decode()] = text.decode()
        at = label.end()
        if not label[3]:
            break
    end = _LABELS_END.match(line, at)
    if end is None:
        raise ValueError("its labels cannot be read")
    return labels, end.end()


def _value(rest: bytes) -> float:
    """The first of what stands behind name and labels. Raises: ValueError."""
    tokens = rest.split(None, 3)
    if not tokens or b"_" in tokens[0]:  # Python takes 1_000 for a number, nobody else does
        raise ValueError("no value")
    if len(tokens) > 1 and tokens[1] != b"#":
        float(tokens[1])  # a timestamp
        if len(tokens) > 2 and tokens[2] != b"#":
            raise ValueError("more than a value and a timestamp")
    return float(tokens[0])

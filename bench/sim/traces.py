"""Trace files as arrays: what was asked when, and which prompts begin alike.

`read_trace` gives a Recording, rows as the file has them; `replay` makes the Trace of one run of it, at a
speed and with a seed. Invariant: a Recording depends on the file alone, and a Trace on (recording, speed,
seed, jitter, sessions) alone, so that policies are compared on equal requests. A row that cannot be meant is
a TraceError with file, line and reason. Neighbours: keys.py (keys of blocks), world.pyx, which runs a Trace.
"""

from __future__ import annotations

import csv
import gzip
import math
import textwrap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bench.sim import keys

MOONCAKE_BLOCK_TOKENS = 512
"""Of the trace's hash_ids."""
AGENT_BLOCK_TOKENS = 64
"""256 characters, about 4 a token."""
PLAIN_BLOCK_TOKENS = 64
"""Of traces without prefixes; only the engines' rounding depends on it."""
MOONCAKE_LUMP_US = 3_000_000
"""Its time stamps are rounded down to so much."""
SESSIONS_DEFAULT = 600
SESSIONS_WINDOW_US = 1_200_000_000
"""The default sessions start within 20 minutes at speed 1."""
Row = TypeVar("Row", bound=Struct)

TIME_MS_MAX = 1e12
"""30 years: what is more is no time of a trace."""
TOKENS_MAX = 1 << 22
"""Of a prompt or an answer; the accounts hold no more."""


class Format(StrEnum):
    """Whose columns a trace file has."""

    MOONCAKE = "mooncake"
    AZURE = "azure"
    SERVEGEN = "servegen"
    AGENTS = "agents"


class Jitter(StrEnum):
    """What to do about arrivals that were recorded in lumps."""

    RAW = "raw"
    UNIFORM = "uniform"


class TraceError(Exception):
    """A trace file that cannot be read: file, line and reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What requests ask, in columns [row_count]; whoever extends it says what their order and times are."""

    name: str
    block_tokens: int
    models: tuple[str, ...]
    arrival_us: NDArray[np.int64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    model: NDArray[np.int32]
    """Index into `models`."""
    session: NDArray[np.uint64]
    """Key of who asks; 0: not known."""
    block_offset: NDArray[np.int64]
    """[row_count + 1]: the row's full blocks are blocks[block_offset[row]:block_offset[row + 1]]."""
    blocks: NDArray[np.uint64]
    """Key of everything up to the block's end."""
    next_turn: NDArray[np.int32]
    """Index of the row whose prompt is this one's with its answer and more behind, or -1."""

    def __len__(self) -> int:
        return len(self.arrival_us)

    def taken(self, order: NDArray[np.int64]) -> dict[str, Any]:
        """The columns of these rows in this order, and what is common to all; times are the caller's, and so
        is `next_turn` where a row comes twice.
        """
        block_offset, blocks = keys.gathered(self.block_offset, self.blocks, order)
        place = np.full(len(self) + 1, -1, np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return {
            "name": self.name,
            "block_tokens": self.block_tokens,
            "models": self.models,
            "prompt_tokens": self.prompt_tokens[order],
            "output_tokens": self.output_tokens[order],
            "model": self.model[order],
            "session": self.session[order],
            "block_offset": block_offset,
            "blocks": blocks,
            "next_turn": place[self.next_turn[order]],  # -1 is the last place
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording(Rows):
    """The rows of a trace file. Sessions are runs of rows, in order; a row of its own is a session of one.

    Arrivals are, of agents since the session's first call, else since the first row.
    """

    format: Format


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace(Rows):
    """The requests of one run, by arrival; those of a session after its first wait for the one before.

    The arrival of one that follows another is how long after the other's end it comes.
    """

    follows: NDArray[np.int32]
    """Index of the request it waits for, or -1."""


# --- rows -------------------------------------------------------------------------------------------------

_Tokens = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
_AnswerTokens = Annotated[
    int, Meta(ge=0, le=TOKENS_MAX)
]  # 0: it ended at once, which costs an engine one token
_Time = Annotated[float, Meta(ge=0, le=TIME_MS_MAX)]
_Id = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class _MooncakeRow(Struct, frozen=True):
    timestamp: _Time
    input_length: _Tokens
    output_length: _AnswerTokens
    hash_ids: list[_Id]


class _AgentRow(Struct, frozen=True):
    kind: str
    session: int
    t_ms: _Time
    input_length: _Tokens
    output_length: _AnswerTokens
    hash_ids: list[_Id]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a text file, plain or gzip by its first bytes.

    Raises: TraceError when it cannot be read.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            source: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            for number, line in enumerate(source, 1):
                yield number, line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise TraceError(f"{path}:{number}: is not UTF-8: {exc.reason}") from exc
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise TraceError(f"{path}:{number + 1}: broken gzip: {exc}") from exc
    except OSError as exc:
        raise TraceError(f"{path}: {exc.strerror or exc}") from exc


def _json_rows(path: Path, row_type: type[Row]) -> list[Row]:
    decoder = msgspec.json.Decoder(row_type)
    rows = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            rows.append(decoder.decode(line))
        except msgspec.DecodeError as exc:  # a ValidationError is one
            raise TraceError(f"{path}:{number}: {_plain(exc)}") from exc
    return rows


def _plain(exc: msgspec.DecodeError) -> str:
    return str(exc).replace(" - at `$.", " in `").replace(" - at `$", " in `row")


def _csv_rows(path: Path, columns: dict[str, Callable[[str], Any]]) -> list[tuple[Any, ...]]:
    """The wanted columns of each row, converted.

    Raises: TraceError.
    """
    lines = _lines(path)
    numbers = {"line": 0}

    def texts() -> Iterator[str]:
        for numbers["line"], line in lines:
            yield line

    reader = csv.reader(texts())
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        found = textwrap.shorten(", ".join(header), 120, placeholder=" ...") or "none"
        raise TraceError(f"{path}:1: no column {', '.join(missing)}; it has {found}")
    places = [(header.index(name), name, convert) for name, convert in columns.items()]
    rows = []
    for fields in reader:
        if not fields:
            continue
        if len(fields) != len(header):
            raise TraceError(
                f"{path}:{numbers['line']}: {len(fields)} fields where the header has {len(header)}"
            )
        values = []
        for place, name, convert in places:
            try:
                values.append(convert(fields[place]))
            except ValueError as exc:
                raise TraceError(f"{path}:{numbers['line']}: {name} is {exc}") from exc
        rows.append(tuple(values))
    return rows


def _time_ms(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= TIME_MS_MAX:  # NaN is not
        raise ValueError(f"{text!r}, not a time in milliseconds")
    return value


def _count(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = -1
        if not least <= value <= TOKENS_MAX:
            raise ValueError(f"{text!r}, not an integer from {least} to {TOKENS_MAX}")
        return value

    return convert


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text.strip()


# --- formats ----------------------------------------------------------------------------------------------


def read_trace(path: Path, trace_format: Format) -> Recording:
    """Raises: TraceError with file, line and reason."""
    reader = {
        Format.MOONCAKE: _read_mooncake,
        Format.AZURE: _read_azure,
        Format.SERVEGEN: _read_servegen,
        Format.AGENTS: _read_agents,
    }[trace_format]
    return reader(path)


def _microseconds(times_ms: list[float]) -> NDArray[np.int64]:
    return np.rint(np.asarray(times_ms, dtype=np.float64) * 1000).astype(np.int64)


def _recording(
    path: Path,
    trace_format: Format,
    *,
    block_tokens: int,
    arrival_us: NDArray[np.int64],
    prompt_tokens: list[int],
    output_tokens: list[int],
    id_lists: list[list[int]] | None,
    session: NDArray[np.uint64] | None = None,
    models: tuple[str, ...] = ("",),
    model: list[int] | None = None,
) -> Recording:
    count = len(arrival_us)
    if count == 0:
        raise TraceError(f"{path}: has no rows")
    prompts = np.asarray(prompt_tokens, dtype=np.int32)
    answers = np.maximum(np.asarray(output_tokens, dtype=np.int32), 1)
    if id_lists is None:
        block_offset, blocks = keys.own_prompts(prompts // block_tokens)
    else:
        block_offset, blocks = keys.chained(id_lists, prompts // block_tokens)
    if session is None:
        session = keys.opening(block_offset, blocks) if id_lists is not None else np.zeros(count, np.uint64)
    return Recording(
        name=path.name,
        format=trace_format,
        block_tokens=block_tokens,
        models=models,
        arrival_us=arrival_us,
        prompt_tokens=prompts,
        output_tokens=answers,
        model=np.asarray(model if model is not None else np.zeros(count), dtype=np.int32),
        session=session,
        block_offset=block_offset,
        blocks=blocks,
        next_turn=keys.next_turns(block_offset, blocks, prompts, answers, session),
    )


def _read_mooncake(path: Path) -> Recording:
    rows = sorted(_json_rows(path, _MooncakeRow), key=lambda row: row.timestamp)
    arrival_us = _microseconds([row.timestamp for row in rows])
    return _recording(
        path,
        Format.MOONCAKE,
        block_tokens=MOONCAKE_BLOCK_TOKENS,
        arrival_us=arrival_us - arrival_us[:1],
        prompt_tokens=[row.input_length for row in rows],
        output_tokens=[row.output_length for row in rows],
        id_lists=[row.hash_ids for row in rows],
    )


def _read_azure(path: Path) -> Recording:
    columns = {"t_ms": _time_ms, "context_tokens": _count(1), "generated_tokens": _count(0)}
    rows = sorted(_csv_rows(path, columns), key=lambda row: float(row[0]))
    arrival_us = _microseconds([row[0] for row in rows])
    return _recording(
        path,
        Format.AZURE,
        block_tokens=PLAIN_BLOCK_TOKENS,
        arrival_us=arrival_us - arrival_us[:1],
        prompt_tokens=[row[1] for row in rows],
        output_tokens=[row[2] for row in rows],
        id_lists=None,
    )


def _read_servegen(path: Path) -> Recording:
    columns = {
        "t_ms": _time_ms,
        "model": _name,
        "client": _name,
        "input_tokens": _count(1),
        "output_tokens": _count(0),
    }
    rows = sorted(_csv_rows(path, columns), key=lambda row: float(row[0]))
    models = tuple(sorted({row[1] for row in rows}))
    clients = [zlib.crc32(f"{row[1]}/{row[2]}".encode()) for row in rows]
    arrival_us = _microseconds([row[0] for row in rows])
    return _recording(
        path,
        Format.SERVEGEN,
        block_tokens=PLAIN_BLOCK_TOKENS,
        arrival_us=arrival_us - arrival_us[:1],
        prompt_tokens=[row[3] for row in rows],
        output_tokens=[row[4] for row in rows],
        id_lists=None,
        session=keys.mixed(np.asarray(clients, dtype=np.uint64)),
        models=models,
        model=[models.index(row[1]) for row in rows],
    )


def _read_agents(path: Path) -> Recording:
    rows = sorted(_json_rows(path, _AgentRow), key=lambda row: (row.kind, row.session, row.t_ms))
    sessions = [zlib.crc32(f"{row.kind}/{row.session}".encode()) for row in rows]
    return _recording(
        path,
        Format.AGENTS,
        block_tokens=AGENT_BLOCK_TOKENS,
        arrival_us=_microseconds([row.t_ms for row in rows]),
        prompt_tokens=[row.input_length for row in rows],
        output_tokens=[row.output_length for row in rows],
        id_lists=[row.hash_ids for row in rows],
        session=keys.mixed(np.asarray(sessions, dtype=np.uint64)),
    )


# --- replay -----------------------------------------------------------------------------------------------


def replay(
    recording: Recording,
    *,
    speed: float = 1.0,
    seed: int = 1,
    jitter: Jitter = Jitter.RAW,
    session_count: int = SESSIONS_DEFAULT,
) -> Trace:
    """The requests of one run. Arrivals come `speed` times as fast; `session_count` is for agents."""
    random = np.random.default_rng(seed)
    if recording.format is Format.AGENTS:
        return _replay_sessions(recording, speed, random, session_count)
    arrival_us = recording.arrival_us.astype(np.float64)
    if jitter is Jitter.UNIFORM:
        lump_us = MOONCAKE_LUMP_US if recording.format is Format.MOONCAKE else 0
        arrival_us = arrival_us + random.uniform(0, 1, len(arrival_us)) * lump_us
    order = np.argsort(arrival_us, kind="stable")
    return _trace(
        recording,
        order,
        arrival_us=(arrival_us[order] / speed).astype(np.int64),
        follows=np.full(len(order), -1, np.int32),
        salts=None,
    )


def _replay_sessions(
    recording: Recording, speed: float, random: np.random.Generator, session_count: int
) -> Trace:
    """Copies of the recorded sessions, started at Poisson times; every round through all has its own keys.

    A call comes as long after the end of the one before as it was recorded after that one's beginning.
    """
    starts = np.flatnonzero(np.r_[True, recording.session[1:] != recording.session[:-1]])
    ends = np.r_[starts[1:], len(recording.session)]
    mean_us = SESSIONS_WINDOW_US / SESSIONS_DEFAULT / speed
    begun_us = np.cumsum(random.exponential(mean_us, session_count)).astype(np.int64)
    rows: list[NDArray[np.int64]] = []
    waits: list[NDArray[np.int64]] = []
    follows: list[NDArray[np.int64]] = []
    salts: list[NDArray[np.uint64]] = []
    next_turns: list[NDArray[np.int64]] = []
    taken = 0
    shuffled = np.arange(len(starts))
    for number in range(session_count):
        round_number, place = divmod(number, len(starts))
        if place == 0:
            random.shuffle(shuffled)
        template = shuffled[place]
        calls = np.arange(starts[template], ends[template])
        times_us = recording.arrival_us[calls]
        rows.append(calls)
        waits.append(np.r_[begun_us[number], np.diff(times_us)])
        follows.append(np.r_[-1, np.arange(taken, taken + len(calls) - 1)])
        salts.append(np.full(len(calls), round_number, np.uint64))
        after = recording.next_turn[calls]  # of the same session, so it was copied with it
        next_turns.append(np.where(after >= 0, after - calls[0] + taken, -1))
        taken += len(calls)
    trace = _trace(
        recording,
        np.concatenate(rows),
        arrival_us=np.concatenate(waits),
        follows=np.concatenate(follows).astype(np.int32),
        salts=np.concatenate(salts),
    )
    return replace(trace, next_turn=np.concatenate(next_turns).astype(np.int32))


def _trace(
    recording: Recording,
    order: NDArray[np.int64],
    *,
    arrival_us: NDArray[np.int64],
    follows: NDArray[np.int32],
    salts: NDArray[np.uint64] | None,
) -> Trace:
    trace = Trace(arrival_us=arrival_us, follows=follows, **recording.taken(order))
    if salts is None:
        return trace
    own = keys.mixed(np.repeat(salts, np.diff(trace.block_offset)))
    return replace(
        trace,
        blocks=keys.mixed(trace.blocks ^ own),
        session=keys.mixed(trace.session ^ keys.mixed(salts)),
    )

"""What a trace's requests are over a wire: a window of it, texts that share what its prompts share, bodies.

A trace has keys in place of text. A block's text is made of its key, so that prompts begin alike exactly
where the trace says so, and what follows the last full block is every request's own. The simulator is given
the same at the mock engines' block size (`finely`), so that both have the same to find in a cache.

Invariant: an engine that counts four bytes a token counts the trace's tokens, and answers with as many as the
trace has. How long the answer will be the router is not told: it goes in a header that only mocks read.
Neighbours: bench/sim/traces.py (traces), player.py (sends these), bench/native/request.pyx (counts).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.sim import keys
from bench.sim.traces import Trace

MODEL = "mock"
BYTES_PER_TOKEN = 4
"""BYTES_PER_TOKEN of bench/native/exchange.pyx, and keys.CHARACTERS_PER_TOKEN."""
BLOCK_TOKENS = 16
"""BLOCK_TOKENS of bench/native/step.pxd: what a mock engine's cache goes by."""
QUOTES_BYTES = 2
"""A mock engine counts them as part of the prompt's JSON."""
SESSION_HEADER = "x-session-id"
"""What keyed policies look at by default."""


def window(trace: Trace, seconds: float) -> Trace:
    """The requests of its first seconds; of one that follows another the recorded waits are summed up."""
    nominal_us = trace.arrival_us.copy()
    for index, before in enumerate(trace.follows):
        if before >= 0:
            nominal_us[index] += nominal_us[before]
    rows = np.flatnonzero(nominal_us < seconds * 1e6)
    place = np.full(len(trace) + 1, -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    return Trace(
        arrival_us=trace.arrival_us[rows],
        follows=place[trace.follows[rows]],  # -1 is the last place
        **trace.taken(rows),
    )


def finely(trace: Trace) -> Trace:
    """The same in blocks of BLOCK_TOKENS; those after a prompt's last full block are its own, and so are all
    answers: mock engines do not give what the trace's next prompt goes on with.
    """
    parts = trace.block_tokens // BLOCK_TOKENS
    counts = (trace.prompt_tokens // BLOCK_TOKENS).astype(np.int64)
    offset = np.r_[0, np.cumsum(counts)].astype(np.int64)
    blocks = keys.mixed(np.arange(offset[-1], dtype=np.uint64) ^ np.uint64(1 << 62))
    steps = keys.mixed(np.arange(parts, dtype=np.uint64))
    for row in range(len(trace)):
        whole = trace.blocks[trace.block_offset[row] : trace.block_offset[row + 1]]
        shared = keys.mixed(whole[:, None] ^ steps[None, :]).reshape(-1)
        blocks[offset[row] : offset[row] + len(shared)] = shared
    return replace(
        trace,
        block_tokens=BLOCK_TOKENS,
        block_offset=offset,
        blocks=blocks,
        next_turn=np.full(len(trace), -1, np.int32),
    )


@lru_cache(maxsize=65_536)
def _block_text(key: int, size_bytes: int) -> bytes:
    return (b"%016x" % key) * (size_bytes // 16)


def prompt_text(trace: Trace, index: int) -> bytes:
    """Of a trace whose blocks are a multiple of four tokens."""
    own: NDArray[np.uint64] = trace.blocks[trace.block_offset[index] : trace.block_offset[index + 1]]
    size_bytes = trace.block_tokens * BYTES_PER_TOKEN
    wanted_bytes = max(0, (int(trace.prompt_tokens[index]) - 1) * BYTES_PER_TOKEN - QUOTES_BYTES)
    text = b"".join([_block_text(int(key), size_bytes) for key in own])
    if len(text) < wanted_bytes:
        tail = b"own part of %d. " % index
        text += tail * (1 + (wanted_bytes - len(text)) // len(tail))
    return text[:wanted_bytes]


def request_bytes(trace: Trace, index: int, host: str) -> bytes:
    """Head and body of a streamed completion."""
    body = b'{"model":"%s","prompt":"%s","stream":true,"stream_options":{"include_usage":true}}' % (
        MODEL.encode(),
        prompt_text(trace, index),
    )
    session = int(trace.session[index])
    fields = [
        "POST /v1/completions HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-mock-tokens: {trace.output_tokens[index]}",
    ]
    if session:
        fields.append(f"{SESSION_HEADER}: {session:x}")
    return "\r\n".join([*fields, "", ""]).encode() + body

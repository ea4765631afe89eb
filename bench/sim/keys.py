"""Keys of prompts' beginnings, as arrays: a key stands for everything up to the end of a block.

Invariant: two keys are equal when all ids up to there are, and (but for 64-bit luck) only then; a key is
never 0, which means "nothing" to engines and policies. Prompts are flat arrays: row r has
values[offset[r]:offset[r + 1]]. Neighbours: traces.py; router/native/prompt.pxd, whose boundaries these are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHARACTERS_PER_TOKEN = 4
"""What the proxy's boundaries in bytes are taken to be in tokens."""
BOUNDARY_BYTES = 256
BOUNDARY_COUNT_MAX = 256
"""PROMPT_BLOCK_BYTES_DEFAULT and PROMPT_BLOCKS_MAX of router/native/prompt.pxd."""
BOUNDARY_STEP_RATIO = 16
"""STEP_RATIO of router/native/prompt.pyx: steps double when so many of them lie before."""


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), never 0."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        values = values ^ (values >> np.uint64(31))
    return np.maximum(values, np.uint64(1))


def _offsets(counts: NDArray[np.int32]) -> NDArray[np.int64]:
    offset = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offset[1:])
    return offset


def chained(
    id_lists: list[list[int]], count_max: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(offset, keys) of lists of ids, each cut to `count_max`; chained, whether the ids were or not."""
    lengths = np.asarray([len(ids) for ids in id_lists], dtype=np.int32)
    counts = np.minimum(lengths, count_max)
    offset = _offsets(counts)
    ids = np.empty(offset[-1], np.uint64)
    for row, given in enumerate(id_lists):
        ids[offset[row] : offset[row + 1]] = given[: counts[row]]
    values = np.empty_like(ids)
    rows = np.flatnonzero(counts > 0)
    before = np.zeros(len(id_lists), np.uint64)
    depth = 0
    while len(rows):
        before[rows] = mixed(before[rows] ^ mixed(ids[offset[rows] + depth]))
        values[offset[rows] + depth] = before[rows]
        depth += 1
        rows = rows[counts[rows] > depth]
    return offset, values


def own_prompts(counts: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(offset, keys) of prompts that share nothing."""
    offset = _offsets(counts)
    return offset, mixed(np.arange(offset[-1], dtype=np.uint64) ^ np.uint64(1 << 62))


def opening(offset: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Who asks, guessed: the key of the second block, since many share a first one; 0 when there is none."""
    session = np.zeros(len(offset) - 1, np.uint64)
    for place in (0, 1):
        rows = np.flatnonzero(np.diff(offset) > place)
        session[rows] = values[offset[rows] + place]
    return session


def gathered(
    offset: NDArray[np.int64], values: NDArray[np.uint64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(offset, values) of the rows in another order; rows may come several times, or not at all."""
    counts = np.diff(offset)[order]
    moved = _offsets(counts.astype(np.int32))
    places = np.arange(moved[-1], dtype=np.int64) + np.repeat(offset[order] - moved[:-1], counts)
    return moved, values[places]


def next_turns(
    offset: NDArray[np.int64],
    values: NDArray[np.uint64],
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    session: NDArray[np.uint64],
) -> NDArray[np.int32]:
    """Index of the row in which each row's conversation goes on, answer and all; -1: in none.

    That is the first later one of its session that begins with all of its blocks, the last of which nobody
    had before, and is longer by the answer at least. So a prompt that others have as well goes on in none,
    nor does one whose answer was left out or shortened before the next.
    """
    counts = np.diff(offset)
    rows = np.repeat(np.arange(len(counts)), counts)
    by_key = np.lexsort((rows, values))
    is_first = np.r_[True, values[by_key][1:] != values[by_key][:-1]] if len(by_key) else np.zeros(0, bool)
    first = by_key[is_first]
    has_second = np.flatnonzero(np.diff(np.r_[np.flatnonzero(is_first), len(by_key)]) > 1)
    first, second = first[has_second], by_key[np.flatnonzero(is_first)[has_second] + 1]
    is_last_block = first == offset[rows[first] + 1] - 1
    row, after = rows[first[is_last_block]], rows[second[is_last_block]]
    goes_on = (prompt_tokens[after] >= prompt_tokens[row] + output_tokens[row]) & (
        session[after] == session[row]
    )
    found = np.full(len(counts), -1, np.int32)
    found[row[goes_on]] = after[goes_on]
    return found


def with_answers(
    offset: NDArray[np.int64],
    values: NDArray[np.uint64],
    *,
    block_tokens: int,
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    next_turn: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(offset, keys) of each prompt's blocks and those that its answer fills, as they are in the next turn's
    prompt; without one they are nobody else's. An answer's last token is never computed, and fills nothing.
    """
    counts = np.diff(offset)
    added = (prompt_tokens + output_tokens - 1) // block_tokens - prompt_tokens // block_tokens
    added[counts != prompt_tokens // block_tokens] = 0  # not all of the prompt's blocks are known
    moved = _offsets((counts + added).astype(np.int32))
    rows = np.repeat(np.arange(len(counts)), counts + added)
    depth = np.arange(moved[-1], dtype=np.int64) - moved[rows]
    found = mixed(mixed(np.arange(moved[-1], dtype=np.uint64)) ^ np.uint64(1 << 61))
    source = np.where(depth < counts[rows], rows, next_turn[rows])
    is_known = (source >= 0) & (depth < counts[source])
    found[is_known] = values[offset[source[is_known]] + depth[is_known]]
    return moved, found


def boundaries(block_tokens: int, block_count: int) -> NDArray[np.int64]:
    """Counts of blocks, up to `block_count`, at whose ends the proxy has a key."""
    found: list[int] = []
    block_bytes = block_tokens * CHARACTERS_PER_TOKEN
    step_bytes = at_bytes = BOUNDARY_BYTES
    for _ in range(BOUNDARY_COUNT_MAX):
        if at_bytes > block_count * block_bytes:
            break
        if at_bytes % block_bytes == 0:
            found.append(at_bytes // block_bytes)
        if step_bytes * BOUNDARY_STEP_RATIO <= at_bytes:
            step_bytes *= 2
        at_bytes += step_bytes
    return np.asarray(found, dtype=np.int64)


def at_boundaries(
    offset: NDArray[np.int64], values: NDArray[np.uint64], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(offset, keys) of every prompt at the boundaries that lie in it."""
    counts = np.searchsorted(bounds, np.diff(offset), side="right")
    moved = _offsets(counts.astype(np.int32))
    depth = np.arange(moved[-1], dtype=np.int64) - np.repeat(moved[:-1], counts)
    return moved, values[np.repeat(offset[:-1], counts) + bounds[depth] - 1]

"""The plain reading of the prompt chain that router/native/prompt.pyx is held equal to.

Every beginning is hashed whole. Only the hash is the native one (tests/unit/test_hash.py pins its values).
"""

import struct
from collections.abc import Iterable, Iterator

from router.native.hash import hash_of

BLOCK_BYTES = 256
BLOCKS_MAX = 96
STEP_RATIO = 16
WORD = 1 << 64


def boundaries(size: int, block_bytes: int = BLOCK_BYTES) -> Iterator[int]:
    """The offsets, up to `size`, that a prompt's keys are for."""
    step = block_bytes
    offset = step
    for _ in range(BLOCKS_MAX):
        if offset > size:
            return
        yield offset
        if step * STEP_RATIO <= offset:
            step *= 2
        offset += step


def keys(
    prompt: bytes,
    ahead: Iterable[tuple[int, bytes]] = (),
    model_hash: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> list[tuple[int, int]]:
    """(key, end) of each boundary; `ahead`: what engines put before the prompt, (name, bytes), any order."""
    parts = list(ahead)
    seed = sum(hash_of(text, name) for name, text in parts) % WORD
    seed_bytes = sum(len(text) for _, text in parts)
    salt = hash_of(struct.pack("=QQ", seed, model_hash))
    found = [(salt or 1, seed_bytes)] if seed_bytes else []
    for end in boundaries(len(prompt), block_bytes):
        found.append(((hash_of(prompt[:end]) ^ salt) or 1, seed_bytes + end))
    return found

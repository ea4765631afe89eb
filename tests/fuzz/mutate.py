"""A seeded byte mutator that every fuzz entry point shares: corpus in, endless variations out.

Invariant: the same corpus, seed and count give the same inputs on any machine, so a printed seed is a
reproduction. It knows no format; what it knows of one it takes from the corpus, by splicing inputs and by
repeating pieces that occur in them. Neighbours: `tests/fuzz/fuzz_*.py` feed what comes out to native code and
to its oracle.
"""

import random
from collections.abc import Iterator
from pathlib import Path

MUTATIONS_MAX = 4
"""Changes stacked on one input: more and nothing of the corpus is left for the parser's later states."""

INPUT_BYTES_MAX = 16384
"""Inputs are cut here, so that repetition cannot grow one without end."""

PIECE_BYTES_MAX = 64
"""Longest run that is repeated, moved or removed: about one field line or one chunk."""

INTERESTING_BYTES = b"\x00\x01\t\n\r \"#%&'()*+,-./09:;<=>?@AZ[\\]^_`afz{|}~\x7f\x80\xff"
"""Delimiters, edges of character classes, controls and bytes that are not ASCII."""

INTERESTING_RUNS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\r\n"),
    *(b"\x00", b"  ", b"\t", b"\xc3\xa9", b"\xff\xfe", b"\\u0000", b'"', b"\\", b",", b":"),
    *(b"0", b"-1", b"+1", b"0x", b"ffffffffffffffff"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616"),
)
"""Line ends, integer bounds, encodings and escapes that parsers of text formats trip over."""


def read_corpus(folder: Path) -> list[bytes]:
    """The files of `folder` in name order, so that the order never depends on the file system."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]


def mutations(corpus: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yields `count` inputs of bounded size: the corpus as it is first, then mutated members of it."""
    if not corpus:
        raise ValueError("the corpus is empty")
    yield from corpus[:count]
    chance = random.Random(seed)
    for _ in range(count - len(corpus)):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, MUTATIONS_MAX)):
            mutate_once(data, corpus, chance)
        yield bytes(data[:INPUT_BYTES_MAX])


def mutate_once(data: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    """Changes `data` in place in one of ten ways."""
    start = chance.randint(0, len(data))
    end = min(len(data), start + chance.randint(1, PIECE_BYTES_MAX))
    match chance.randrange(10):
        case 0 if start < len(data):
            data[start] ^= 1 << chance.randrange(8)
        case 1 if start < len(data):
            data[start] = chance.choice(INTERESTING_BYTES)
        case 2:
            data.insert(start, chance.choice(INTERESTING_BYTES))
        case 3:
            data[start:start] = chance.choice(INTERESTING_RUNS)
        case 4:
            del data[start : start + chance.choice((1, 1, 2, end - start))]
        case 5:
            data[start:start] = data[start:end]
        case 6:
            place = chance.randint(0, len(data))
            data[place:place] = data[start:end]
        case 7:
            other = chance.choice(corpus)
            place = chance.randint(0, len(other))
            data[start:end] = other[place : place + chance.randint(1, PIECE_BYTES_MAX)]
        case 8:
            other = chance.choice(corpus)
            data[start:] = other[chance.randint(0, len(other)) :]
        case _:
            data[start:end] = data[start:end].swapcase()

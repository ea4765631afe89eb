"""Fuzzes HTTP/1.1 heads and chunked bodies: `python -m tests.fuzz.fuzz_http1 [COUNT [SEED]]`.

Mutated messages go to native code and oracle, whole and in pieces, and they must agree. Corpus file names say
what they hold: request-*, response-* and chunked-*. An input that fails is printed whole, to be kept in the
corpus or as a named case.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from router.native import chunk, http1
from tests.fuzz.mutate import mutations
from tests.oracle import http1 as oracle

CORPUS = Path(__file__).parent / "corpus" / "http1"


def check_head(data: bytes, is_response: bool) -> None:
    length = http1.find_head([data])
    assert length == oracle.find_head(data)
    assert length == http1.find_head([data[: len(data) // 2], data[len(data) // 2 :]])
    head = data[:length] if isinstance(length, int) and length > 0 else data
    assert http1.parse_head(head, is_response) == oracle.parse_head(head, is_response)
    assert http1.parse_trailer_section(head) == oracle.parse_trailer_section(head)


def check_request(data: bytes) -> None:
    check_head(data, is_response=False)


def check_response(data: bytes) -> None:
    check_head(data, is_response=True)


def check_chunked(data: bytes) -> None:
    whole = chunk.decode_chunked([data])
    expected = oracle.decode_chunked(data)
    assert whole[:2] == expected[:2]
    assert whole[0] != "end" or whole == expected
    assert whole == chunk.decode_chunked([data[i : i + 1] for i in range(len(data))]) or whole[0] == "bad"


CHECKS: dict[str, Callable[[bytes], None]] = {
    "request": check_request,
    "response": check_response,
    "chunked": check_chunked,
}


def run(count: int, seed: int) -> None:
    """Checks `count` inputs of each kind. Raises: AssertionError with the input."""
    for kind, check in CHECKS.items():
        corpus = [path.read_bytes() for path in sorted(CORPUS.glob(f"{kind}-*"))]
        for data in mutations(corpus, seed, count):
            try:
                check(data)
            except AssertionError as disagreement:
                raise AssertionError(f"{kind} read in two ways: {data!r}") from disagreement


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)

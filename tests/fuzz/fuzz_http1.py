"""Feeds mutated HTTP/1.1 messages to native code and oracle, for a bounded time, and asserts that they agree.

    python -m tests.fuzz.fuzz_http1 [--seconds 10] [--count 1000000] [--seed N]

The seed is printed; with it and the same corpus a run repeats. Corpus file names say what they hold:
request-*, response-* and chunked-*. An input that fails is printed whole, to be kept in the corpus or as a
named case.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

from router.native import chunk, http1
from tests.fuzz.mutate import mutations
from tests.oracle import http1 as oracle

CORPUS = Path(__file__).parent / "corpus" / "http1"
BATCH_COUNT = 500
"""Inputs between two looks at the clock."""


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


def fuzz(seed: int, seconds: float, count: int) -> int:
    """Runs until either bound is met; how many inputs were checked. Raises: AssertionError with the input."""
    corpora = {
        kind: [path.read_bytes() for path in sorted(CORPUS.glob(f"{kind}-*"))] for kind in sorted(CHECKS)
    }
    deadline_s = time.monotonic() + seconds
    checked = 0
    batch = 0
    while checked < count and time.monotonic() < deadline_s:
        for kind, corpus in corpora.items():
            size = min(BATCH_COUNT, count - checked)
            for data in mutations(corpus, seed + batch, size):
                try:
                    CHECKS[kind](data)
                except AssertionError as disagreement:
                    raise AssertionError(f"{kind} read in two ways: {data!r}") from disagreement
            checked += size
        batch += 1
    return checked


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--count", type=int, default=10**9)
    options.add_argument("--seed", type=int, default=secrets.randbits(32))
    chosen = options.parse_args()
    print(f"http1: seed {chosen.seed}", flush=True)
    print(f"http1: {fuzz(chosen.seed, chosen.seconds, chosen.count)} inputs, native code and oracle agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())

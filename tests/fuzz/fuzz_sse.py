"""Fuzzes the response meter: `python -m tests.fuzz.fuzz_sse [COUNT [SEED]]`.

Mutated streams and bodies go in whole and in pieces, in both modes. They must give the same counts, as many
events as the oracle sees, and the oracle's tokens where every event is valid JSON. Built with sanitizers
(`make asan`), reads outside the pieces are found too.
"""

import random
import sys
from pathlib import Path

from router.native.sse import MODE_JSON, MODE_SSE
from tests.fuzz.mutate import mutations, read_corpus
from tests.oracle import sse as oracle
from tests.property.test_sse import counted, meter

CORPUS = Path(__file__).parent / "corpus/sse"
PIECES_MAX = 6


def run(count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number, mutated in enumerate(mutations(read_corpus(CORPUS), seed, count)):
        body = mutated + b"\n\n"
        edges = sorted(chance.randint(0, len(body)) for _ in range(chance.randint(1, PIECES_MAX)))
        pieces = [body[first:last] for first, last in zip([0, *edges], [*edges, len(body)], strict=True)]
        try:
            for mode, read in ((MODE_SSE, oracle.read_events), (MODE_JSON, oracle.read_body)):
                whole = meter(mode, body)
                reading = read(body)
                assert counted(meter(mode, *pieces)) == counted(whole)
                assert whole.event_count == reading.event_count
                if reading.is_plain:
                    assert counted(whole) == counted(reading)
        except AssertionError:
            print(f"seed {seed}, input {number}: {body!r} cut at {edges}", file=sys.stderr)
            raise


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)

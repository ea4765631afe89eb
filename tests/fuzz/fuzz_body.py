"""Fuzzes the body scanner: `python -m tests.fuzz.fuzz_body [COUNT [SEED]]`.

Mutated request bodies go in whole and in pieces. They must give the same facts; on valid JSON the facts must
be the oracle's, or in doubt. Built with sanitizers (`make asan`), reads outside the pieces are found too.
"""

import random
import sys
from pathlib import Path

from tests.fuzz.mutate import mutations, read_corpus
from tests.oracle import body as oracle
from tests.property.test_body import assert_agrees, facts, scan

CORPUS = Path(__file__).parent / "corpus/body"
PIECES_MAX = 6


def run(count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number, body in enumerate(mutations(read_corpus(CORPUS), seed, count)):
        edges = sorted(chance.randint(0, len(body)) for _ in range(chance.randint(1, PIECES_MAX)))
        pieces = [body[first:last] for first, last in zip([0, *edges], [*edges, len(body)], strict=True)]
        body_scan = scan(body)
        try:
            assert facts(scan(*pieces)) == facts(body_scan)
            if oracle.is_valid(body):
                assert_agrees(body, body_scan)
        except AssertionError:
            print(f"seed {seed}, input {number}: {body!r} cut at {edges}", file=sys.stderr)
            raise


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)

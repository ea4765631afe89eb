"""Fuzzes the whole request path: `python -m tests.fuzz.fuzz_path [COUNT [SEED]]`.

Each input is a history of 120 random events over scripted connections: valid and mutated messages in random
pieces, both sides ending, full send queues, time passing. Nothing may be left open, charged or booked twice;
built with sanitizers (`make asan`), stray memory accesses are found too.
"""

import sys

from tests.property.test_path import play


def run(count: int, seed: int) -> None:
    for number in range(count):
        try:
            play(seed * 1_000_000 + number)
        except AssertionError:
            print(f"seed {seed}, history {number}", file=sys.stderr)
            raise


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)

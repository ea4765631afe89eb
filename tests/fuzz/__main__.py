"""Every fuzz entry point for a bounded time: `python -m tests.fuzz [--seconds 60] [--seed N] [NAME ...]`.

The time is shared out evenly; each entry point is fed batches of growing seeds until its share is spent. The
seed is printed with each, and an input that fails is printed by the entry point that found it. Neighbours:
fuzz_*.py (a `run(count, seed)` each), mutate.py, `make fuzz`, `make asan`.
"""

import argparse
import importlib
import secrets
import sys
import time
from pathlib import Path

BATCH_COUNT = 500
"""Inputs between two looks at the clock: a second at most with sanitizers."""


def fuzz(name: str, seconds: float, seed: int) -> int:
    """How many inputs were checked. Raises: AssertionError when native code and oracle disagree."""
    run = importlib.import_module(f"tests.fuzz.fuzz_{name}").run
    end = time.monotonic() + seconds
    batch = 0
    while time.monotonic() < end:
        run(BATCH_COUNT, seed + batch)
        batch += 1
    return batch * BATCH_COUNT


def main() -> int:
    known = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all when none")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=secrets.randbits(32))
    chosen = options.parse_args()
    names = chosen.names or known
    if unknown := set(names) - set(known):
        options.error(f"{', '.join(sorted(unknown))} is not one of {', '.join(known)}")
    for name in names:
        print(f"{name}: seed {chosen.seed}", flush=True)
        checked = fuzz(name, chosen.seconds / len(names), chosen.seed)
        print(f"{name}: {checked} inputs, native code and oracle agree", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A worker process with the fake core: `python fake_worker.py FD`."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from router import wire, worker
from tests.integration.fake_core import FakeCore


def make_fake_core(start: wire.Start, load: Any, metrics: Any, hooks: Any) -> Any:
    return FakeCore(column=start.column, hooks=hooks)


if __name__ == "__main__":
    sys.exit(worker.main(sys.argv[1:], core_factory=make_fake_core))

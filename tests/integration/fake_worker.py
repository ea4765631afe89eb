"""A worker process with the fake core: `python fake_worker.py FD`."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from router import wire, worker
from router.schema.config import Config
from tests.integration.fake_core import FakeCore


def make_fake_core(start: wire.Start, config: Config, load: Any, metrics: Any, hooks: Any) -> Any:
    names = [endpoint.name for pool in config.pools for endpoint in pool.endpoints]
    return FakeCore(column=start.column, hooks=hooks, endpoint_names=names)


if __name__ == "__main__":
    worker.build_tables = lambda config, slots, routes: (
        config,
        slots,
    )  # what the fake core's `prepare` takes
    sys.exit(worker.main(sys.argv[1:], core_factory=make_fake_core))

"""A worker process with the fake core: `python fake_worker.py FD`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parents[2]))

from router import wire, worker
from router.schema.config import Config
from tests.integration.fake_core import FakeCore


def make_fake_core(start: wire.Start, config: Config, load: Any, metrics: Any, hooks: Any) -> Any:
    names = [endpoint.name for pool in config.pools for endpoint in pool.endpoints]
    return FakeCore(column=start.column, hooks=hooks, endpoint_names=names)


def config_and_slots(
    config: Config, slots: Mapping[str, int], _routes: Mapping[str, int], _version: int
) -> Any:
    """What the fake core's `prepare` takes in place of tables."""
    return config, slots


if __name__ == "__main__":
    with mock.patch.object(worker, "build_tables", config_and_slots):
        sys.exit(worker.main(sys.argv[1:], core_factory=make_fake_core))

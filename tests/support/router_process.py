"""A real router with the real core, as tests of the data plane use it: configured, started, ready, asked,
stopped.

`running_router` is the one way in. Leaving it stops the router by its process id and holds it to an orderly
end: exit status 0, and nothing in its log that only a fault of ours writes. Neighbours:
tests/integration/processes.py (starting and waiting, shared with the tests of supervisor and workers),
raw_peer.py (clients and endpoints played by the test).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.processes import BOUND_S, Router, wait_until

# `python -m router serve --config`, but every scrape is rendered anew, so that a reading is never from before
# what a test has just seen.
FRESH = "import router.admin; router.admin.METRICS_KEPT_S = 0; import router.__main__"
COMMAND = (sys.executable, "-c", FRESH, "serve", "--config")

# What stderr never shows while the router is sound; workers write there too.
FAULT_MARKS = ("Traceback", "Exception ignored", "Fatal Python error", "died", "killed", "AddressSanitizer")


class Metrics:
    """One reading of /metrics."""

    def __init__(self, page: str) -> None:
        self.page = page
        families = list(text_string_to_metric_families(page))
        endings = ("", "_total", "_count", "_sum", "_bucket")
        self._names = {family.name + ending for family in families for ending in endings}
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """All samples called `name` that have these labels, added up; 0 when there is none."""
        assert name in self._names, f"there is no metric {name}"
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    def outcomes(self) -> dict[tuple[str, str], int]:
        """(outcome, side) -> exchanges that ended so, over all routes and endpoints."""
        counts: dict[tuple[str, str], int] = {}
        for sample in self._samples:
            if sample.name == "fairlead_requests_total" and sample.value:
                key = (sample.labels["outcome"], sample.labels["side"])
                counts[key] = counts.get(key, 0) + int(sample.value)
        return counts

    def requests_finished(self) -> int:
        return sum(self.outcomes().values())


class RouterProcess:
    """A router that is ready: where it listens, what it shows of itself."""

    def __init__(self, router: Router) -> None:
        self.router = router

    @property
    def address(self) -> tuple[str, int]:
        return self.router.traffic

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.router.traffic)

    @property
    def admin_url(self) -> str:
        return "http://{}:{}".format(*self.router.admin)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.router.processes[-1].pid

    @property
    def folder(self) -> Path:
        """Its own; goes with it."""
        return self.router.folder

    def worker_pids(self) -> set[int]:
        """Of the workers that are ready."""
        return self.router.worker_pids()

    def metrics(self) -> Metrics:
        """What /metrics says now."""
        status, page = self.router.get("/metrics", self.router.admin)
        assert status == 200
        return Metrics(page.decode())

    def debug_endpoints(self) -> list[dict[str, Any]]:
        return list(self.router.get("/debug/endpoints", self.router.admin)[1])

    def debug_pools(self) -> list[dict[str, Any]]:
        return list(self.router.get("/debug/pools", self.router.admin)[1])

    def debug_workers(self) -> list[dict[str, Any]]:
        return self.router.workers()

    def in_flight(self) -> int:
        """Attempts open at all endpoints, as the load table has them now."""
        return sum(row["in_flight"] for row in self.debug_endpoints())

    def wait_in_flight(self, count: int) -> None:
        wait_until(lambda: self.in_flight() == count, f"{count} attempts open")

    def wait_metric(self, name: str, value: float, **labels: str) -> Metrics:
        """The first reading in which `name` is `value`."""
        reading: list[Metrics] = []

        def holds() -> bool:
            reading[:] = [self.metrics()]
            return reading[0].sum(name, **labels) == value

        wait_until(holds, f"{name} {labels} is {value}")
        return reading[0]

    def wait_finished(self, count: int) -> Metrics:
        """The first reading in which `count` exchanges have ended since the start."""
        return self.wait_metric("fairlead_requests_total", count)

    def wait_settled(self) -> Metrics:
        """Returns when nothing is held any more: no exchange, no attempt, no body, no connection to an
        endpoint that is not in its pool.
        """
        self.wait_in_flight(0)
        reading: list[Metrics] = []

        def holds() -> bool:
            reading[:] = [self.metrics()]
            return (
                reading[0].sum("fairlead_requests_in_flight") == 0
                and reading[0].sum("fairlead_buffered_bytes") == 0
                and reading[0].sum("fairlead_upstream_connections_open")
                == reading[0].sum("fairlead_upstream_connections_idle")
            )

        wait_until(holds, "all exchanges are over")
        settled = self.metrics()  # a page that was made while the last one ended may not have counted it
        assert settled.sum("fairlead_endpoint_in_flight") == 0
        return settled

    def log(self) -> str:
        """What supervisor and workers have written to stderr so far."""
        return self.router.stderr()

    def reload(self, **changes: Any) -> None:
        """Changes the configuration and has it loaded."""
        self.router.write_config(**changes)
        status, answer = self.router.request("POST", "/reload", self.router.admin)
        assert status == 200, answer

    def signal(self, number: signal.Signals) -> None:
        self.router.processes[-1].send_signal(number)


@contextlib.contextmanager
def running_router(
    config: Mapping[str, Any] | str, *arguments: str, expect_in_log: Sequence[str] = ()
) -> Iterator[RouterProcess]:
    """A router with `config` (a mapping, or YAML text), ready; listeners, admin port and folders are filled
    in.

    `expect_in_log` names fault marks that this test provokes.
    """
    given: dict[str, Any] = dict(yaml.safe_load(config) if isinstance(config, str) else config)
    given.setdefault("drain", {"deadline_ms": 500})  # a test that leaves something open waits no longer
    folder = Path(tempfile.mkdtemp(prefix="fairlead-"))
    router = Router(folder, given, COMMAND)
    try:
        process = router.start(*arguments)
        yield RouterProcess(router)
        process.send_signal(signal.SIGTERM)
        status = process.wait(BOUND_S)
        log = router.stderr()
        assert status == 0, log
        marks = [mark for mark in FAULT_MARKS if mark in log and mark not in expect_in_log]
        assert not marks, log
    finally:
        router.end()
        shutil.rmtree(folder, ignore_errors=True)


def one_pool(urls: Sequence[str], **more: Any) -> dict[str, Any]:
    """The configuration of one pool over these endpoints, e0, e1 and so on; `endpoint`, `pool` and the rest
    are added to it.
    """
    endpoint = more.pop("endpoint", {})
    pool = more.pop("pool", {})
    endpoints = [{"name": f"e{index}", "url": url, **endpoint} for index, url in enumerate(urls)]
    return {"pools": [{"name": "main", "endpoints": endpoints, **pool}], **more}

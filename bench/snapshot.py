"""A snapshot of 1,000 endpoints and 50 routes put in force under traffic: how long, and what traffic sees.

One client asks again as soon as it is answered, so that a stall of the worker is a late answer: a *gap*. Each
snapshot changes every endpoint, which is the most that one can do. The supervisor shares the worker's core,
where it disturbs most. Gaps are of wall time, so on a machine with other work its turns are in them: the
quiet gap, between two snapshots, says how much; the longest step, as the router measures it, is CPU time and
free of that. Neighbours: compare (shows the figures), peers.fairlead (starts the router).
"""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import scenarios
from bench.measure import SliceFailed
from bench.peers.base import Running
from bench.scenarios import Stage

ENDPOINT_COUNT = 1000
POOL_COUNT = 10
ROUTE_COUNT = 50
MODELS_PER_POOL = 4
SNAPSHOT_COUNT = 20
APPLY_SECONDS_MAX = 30.0
LOOK_SECONDS = 0.25  # between looks whether an apply has ended: the load stands still for them


def document(
    own: dict[str, Any], turn: int, *, endpoint_count: int = ENDPOINT_COUNT, route_count: int = ROUTE_COUNT
) -> dict[str, Any]:
    """The router's `own` configuration with so many endpoints and routes, all of them changed each turn."""
    (engines,) = own["pools"]
    weight = 1.0 + turn % 7
    per_pool = (endpoint_count - len(engines["endpoints"])) // (POOL_COUNT - 1)
    pools = [
        {
            "name": f"pool-{pool}",
            "endpoints": [
                {
                    "name": f"engine-{pool}-{index}",
                    "url": f"http://127.0.0.1:{1024 + pool * per_pool + index}",  # never asked
                    "models": [f"model-{pool}-{model}" for model in range(MODELS_PER_POOL)],
                    "weight": weight,
                    "region": f"region-{index % 3}",
                    "labels": {"tier": f"tier-{index % 4}"},
                }
                for index in range(per_pool)
            ],
        }
        for pool in range(1, POOL_COUNT)
    ]
    routes = [
        {
            "name": f"route-{index}",
            "match": {"path": f"/team-{index}/*"},
            "pool": f"pool-{index % (POOL_COUNT - 1) + 1}",
            "require": {"regions": ["region-0"]},
        }
        for index in range(route_count)
    ]
    busy = {**engines, "endpoints": [{**one, "weight": weight} for one in engines["endpoints"]]}
    return {**own, "pools": [busy, *pools], "routes": routes}


@dataclass(kw_only=True)
class Applied:
    """What some snapshots showed, one figure each."""

    apply_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)  # the longest of the worker's loop, in CPU time
    gap_ms: list[float] = field(default_factory=list)  # the worst while it was put in force
    quiet_gap_ms: list[float] = field(default_factory=list)  # the worst in as long a time before

    def note(self) -> str:
        """What the worst of each hides."""
        apply_ms, gap_ms = statistics.median(self.apply_ms), statistics.median(self.gap_ms)
        quiet_ms, quiet_ms_max = statistics.median(self.quiet_gap_ms), max(self.quiet_gap_ms)
        return (
            f"medians of {len(self.apply_ms)} snapshots: {apply_ms:.0f} ms to apply, gap {gap_ms:.1f} ms; "
            f"gap without one {quiet_ms:.1f} ms, at worst {quiet_ms_max:.1f} ms"
        )


def apply_many(stage: Stage, running: Running, config_path: Path, times: int, **size: int) -> Applied:
    """Puts `times` snapshots in force while one client asks without a pause. Raises: SliceFailed."""
    own = json.loads(config_path.read_text())
    admin = own["admin"]["address"]
    applied = Applied()
    for turn in range(times + 1):
        config_path.write_text(json.dumps(document(own, turn, **size)))
        answers: list[tuple[int, Any]] = []
        asking = threading.Thread(target=_reload, args=(admin, answers))
        with scenarios.open_clients(stage, running, 1, is_streaming=False) as peer:
            began_s = time.monotonic()
            asking.start()
            while asking.is_alive() and time.monotonic() - began_s < APPLY_SECONDS_MAX:
                peer.run(LOOK_SECONDS, records_latency=True)
            took_s = time.monotonic() - began_s
            asking.join()
            gap_us = max(peer.latencies_us(), default=0.0)
        with scenarios.open_clients(stage, running, 1, is_streaming=False) as peer:
            peer.run(took_s, records_latency=True)
            quiet_gap_us = max(peer.latencies_us(), default=0.0)
        if not answers or answers[0][0] != 200:
            raise SliceFailed(f"the snapshot was refused: {answers}")
        _, shown = _ask(admin, "GET", "/debug/config")
        if turn:  # The first also grows what the others find grown.
            applied.apply_ms.append(shown["applied_ms"])
            applied.step_ms.append(shown["longest_step_us"] / 1000)
            applied.gap_ms.append(gap_us / 1000)
            applied.quiet_gap_ms.append(quiet_gap_us / 1000)
    return applied


def _reload(admin: str, answers: list[tuple[int, Any]]) -> None:
    answers.append(_ask(admin, "POST", "/reload"))


def _ask(admin: str, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(admin, timeout=APPLY_SECONDS_MAX)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()

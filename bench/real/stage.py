"""What a run has beside its client: mock engines made of a fleet, and the routers before them.

The engines are those of the fleet's file: class, speed, KV cache, chunk and batch, from the same figures the
simulator takes. They all run in one native thread of this process. Each replica is a `fairlead serve` of its
own with one worker, told of the engines what the simulator tells its routers.

Invariant: routers and engines end with the run. Neighbours: bench/sim/fleets.py, bench/mock/fleet.py,
bench/demo.py (starts a router), live.py (plays on this).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import demo, measure
from bench.mock.fleet import EngineSpec
from bench.mock.fleet import Fleet as Engines
from bench.real.prompts import MODEL, SESSION_HEADER
from bench.sim import fleets
from bench.sim.fleets import EndpointGroup, Fleet
from router.schema.policies import KeyedPolicy, read_policy

CONNECTIONS_MAX = 4096
"""Of a router to one endpoint: more than any batch with its queue."""


def paced(fleet: Fleet, pace: float) -> Fleet:
    """With engines `pace` times as fast, no network between, and routers that tell each other nothing."""
    return msgspec.structs.replace(
        fleet,
        endpoints=tuple(
            msgspec.structs.replace(group, speed=group.speed * pace) for group in fleet.endpoints
        ),
        regions=dict.fromkeys(fleet.regions, 0.0),
        replicas=msgspec.structs.replace(fleet.replicas, gossip_ms=0.0),
        poll_ms=0.0,
    )


def engine_spec(group: EndpointGroup) -> EngineSpec:
    return EngineSpec(
        engine_class=group.engine_class,
        speed=group.speed,
        models=(MODEL,),
        kv_tokens=fleets.kv_tokens(group),
        chunk_tokens=group.chunk_tokens,
        sequences_max=group.sequences_max,
    )


def _endpoint(group: EndpointGroup, name: str, url: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "url": url,
        "name": name,
        "models": [MODEL],
        "weight": group.weight,
        "figures": msgspec.to_builtins(fleets.figures(group)),
    }
    if group.known:
        told["engine_class"] = group.engine_class
    if group.input_price or group.output_price:
        told["price"] = {
            "input_per_million_tokens": group.input_price,
            "output_per_million_tokens": group.output_price,
        }
    else:
        told["price"] = {"gpu_hour": fleets.price_per_h(group)}
    return told


def configuration(fleet: Fleet, urls: list[str], policy: str, folder: Path) -> dict[str, Any]:
    """Of one router, on ports that the kernel picks. Keyed policies go by the session, as in the simulator,
    unless the text says otherwise."""
    wanted = read_policy(policy)
    rule: dict[str, Any] = msgspec.to_builtins(wanted)
    if isinstance(wanted, KeyedPolicy) and ":key=" not in policy:
        rule |= {"key": "header", "header": SESSION_HEADER}
    names = fleet.endpoint_names()
    endpoints = [
        _endpoint(group, name, url) for group, name, url in zip(fleet.groups(), names, urls, strict=True)
    ]
    return {
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "runtime_dir": str(folder),
        "limits": {"upstream_connections_per_endpoint_max": CONNECTIONS_MAX},
        "pools": [{"name": "engines", "policy": rule, "endpoints": endpoints}],
        "routes": [{"name": "all", "expose_endpoint": True}],
    }


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Engines and routers that answer."""

    engines: Engines
    ports: list[int]
    router_pids: list[int]


@contextlib.asynccontextmanager
async def staged(fleet: Fleet, policy: str, folder: Path) -> AsyncIterator[Stage]:
    """Fresh engines and routers; gone at the end.

    Raises: click.ClickException when a router does not get ready.
    """
    ports: list[int] = []
    pids: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        engines = stack.enter_context(Engines(engine_spec(group) for group in fleet.groups()))
        for number in range(fleet.replicas.count):
            own = folder / f"router-{number}"
            own.mkdir()
            value = configuration(fleet, engines.urls, policy, own)
            path = own / "fairlead.yaml"
            path.write_text(json.dumps(value))  # JSON is YAML
            process = stack.enter_context(demo.router_process(["--config", str(path)], own))
            ports.append((await demo.wait_ready(own, process))[0])
            pids += [process.pid, *measure.children(process.pid)]
        yield Stage(engines=engines, ports=ports, router_pids=pids)

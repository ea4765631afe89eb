"""A canary through real workers: in force with the stable, kept by a worker that starts anew, taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from router.config import parse_config
from router.rollout import Canary
from router.schema.config import Config
from router.shared_state import watch_exit
from router.supervisor import Supervisor

USERS = [f"user-{index}" for index in range(24)]
TIMEOUT_S = 60.0


class Endpoint:
    """Answers every request with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0

    async def __aenter__(self) -> Endpoint:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                await reader.readexactly(length)
                name = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
        writer.close()


def config_of(folder: Path, endpoint: Endpoint) -> Config:
    return parse_config(
        json.dumps(
            {
                "listeners": [{"address": f"unix:{folder}/traffic"}],
                "admin": {"address": f"unix:{folder}/admin"},
                "workers": 1,
                "drain": {"propagation_ms": 0},
                "prefixes": {"table_bytes": 1 << 20},
                "pools": [
                    {
                        "name": "main",
                        "endpoints": [{"name": endpoint.name, "url": f"http://127.0.0.1:{endpoint.port}"}],
                    }
                ],
            }
        ),
        "canary.json",
        {},
    )


@contextlib.asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(config)
    supervisor.open_sockets()
    await supervisor.start()
    supervisor.announce()
    try:
        yield supervisor
    finally:

        async def nothing() -> None: ...

        await supervisor.drain(nothing)


async def ask(folder: Path, user: str) -> str:
    """Who answered."""
    body = json.dumps({"model": "m", "user": user}).encode()
    reader, writer = await asyncio.open_unix_connection(str(folder / "traffic"))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def ask_all(folder: Path) -> list[str]:
    return [await ask(folder, user) for user in USERS]


async def kill(pid: int) -> None:
    """Once it is gone, who connects waits for the next one."""
    gone = asyncio.Event()
    watch_exit(pid, gone.set)
    os.kill(pid, signal.SIGKILL)
    await gone.wait()


def counted(supervisor: Supervisor) -> dict[str, float]:
    """Completed requests by version."""
    page = supervisor.render_metrics().decode()
    return {
        sample.labels.get("version", ""): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "fairlead_route_requests_total"
    }


def test_a_canary_is_served_to_its_users_kept_over_a_workers_death_and_taken_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with Endpoint("old") as old, Endpoint("new") as new:
            stable, canary = config_of(tmp_path, old), config_of(tmp_path, new)
            async with serving(stable) as supervisor:
                assert set(await ask_all(tmp_path)) == {"old"}
                beside = Canary(config=canary, label=4, ratio=0.5)
                assert await supervisor.apply(stable, label=3, canary=beside) == ""
                first = await ask_all(tmp_path)
                assert set(first) == {"old", "new"}
                assert counted(supervisor) == {"": 24, "3": first.count("old"), "4": first.count("new")}

                await kill(supervisor.describe_workers()[0]["pid"])
                assert await ask_all(tmp_path) == first

                rows = [(row["name"], row.get("variant")) for row in supervisor.describe_endpoints()]
                assert rows == [("old", None), ("new", "canary")]
                shown = supervisor.describe_config()
                assert (shown["label"], shown["canary"]["label"], shown["canary"]["ratio"]) == (3, 4, 0.5)
                versions = {
                    (route.route, route.version): route.requests for route in supervisor.report().routes
                }
                assert versions[("default", 4)] == 2 * first.count("new")

                assert await supervisor.apply(canary, label=4) == ""
                assert set(await ask_all(tmp_path)) == {"new"}
                assert await supervisor.apply(stable, label=3) == ""
                assert set(await ask_all(tmp_path)) == {"old"}

    asyncio.run(asyncio.wait_for(story(), TIMEOUT_S))

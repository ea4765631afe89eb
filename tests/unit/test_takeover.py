"""The control socket alone: where it is, who is let in to take over, and whose file it leaves."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router import takeover, wire
from router.config import parse_config
from router.schema.config import Config
from router.takeover import ControlServer, TakeoverError

BOUND_S = 30.0


def configured(**more: Any) -> Config:
    pools = [{"name": "all", "endpoints": [{"url": "http://127.0.0.1:9000"}]}]
    return parse_config(json.dumps({"version": 1, "pools": pools, **more}))


# ---- where it is


def test_a_folder_that_cannot_be_used_is_said_to_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TakeoverError, match="cannot use the runtime folder"):
        takeover.control_path_of(str(tmp_path / "file"), "127.0.0.1:9090")


def test_a_router_is_found_by_the_admin_address_that_was_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    fixed, free = ({"address": f"127.0.0.1:{port}"} for port in (9090, 0))
    assert takeover.control_path(configured(admin=fixed), "127.0.0.1:9090").name == "127.0.0.1_9090.sock"
    assert takeover.control_path(configured(admin=free), "127.0.0.1:4321").name == "127.0.0.1_4321.sock"
    own = configured(admin=free, runtime_dir=str(tmp_path / "own"))
    assert takeover.control_path(own, "127.0.0.1:4321") == tmp_path / "own" / "127.0.0.1_0.sock"


def test_long_addresses_have_short_names_of_their_own(tmp_path: Path) -> None:
    names = {
        takeover.control_path_of(str(tmp_path), "unix:" + "/long" * 30 + str(number)).name
        for number in range(5)
    }
    assert len(names) == 5
    assert {len(name) for name in names} == {len(".sock") + 40}


# ---- who is let in


class Running:
    """A supervisor that may be taken over from, unless it says why not."""

    def __init__(self) -> None:
        self.refuses = ""
        self.handed_over = 0
        self.fds: list[int] = []

    async def reload(self) -> wire.ReloadAnswer:
        raise AssertionError("nobody asked")

    def upgrade_plan(self) -> wire.UpgradePlan:
        raise AssertionError("nobody asked")

    def offer_takeover(self) -> tuple[wire.TakeoverOffer, list[int]]:
        if self.refuses:
            raise TakeoverError(self.refuses)
        offer = wire.TakeoverOffer(
            pid=os.getpid(), sockets=[], column_count=1, columns_in_use=[], endpoints=b"", routes=b""
        )
        return offer, self.fds

    def hand_over(self) -> dict[int, int]:
        self.handed_over += 1
        return {0: 42}


def play(scene: Callable[[Path, Running, ControlServer], Awaitable[None]], folder: Path) -> None:
    async def run() -> None:
        path, running = folder / "control.sock", Running()
        server = ControlServer(path, running)
        await server.open(replaces=False)
        try:
            await asyncio.wait_for(scene(path, running, server), BOUND_S)
        finally:
            await server.close()

    asyncio.run(run())


def test_one_takes_over_at_a_time_and_one_that_leaves_makes_way(tmp_path: Path) -> None:
    async def scene(path: Path, running: Running, _server: ControlServer) -> None:
        first = await takeover.ask_takeover(path)
        with pytest.raises(TakeoverError, match="is taking over already"):
            await takeover.ask_takeover(path)
        first.close()
        while True:  # until it has noticed
            try:
                second = await takeover.ask_takeover(path)
            except TakeoverError:
                continue
            break
        assert running.handed_over == 0
        assert await second.take_over() == {0: 42}
        assert running.handed_over == 1
        second.close()

    play(scene, tmp_path)


def test_one_that_was_refused_may_come_again(tmp_path: Path) -> None:
    async def scene(path: Path, running: Running, _server: ControlServer) -> None:
        running.refuses = "not now"
        for _ in range(2):
            with pytest.raises(TakeoverError, match="not now"):
                await takeover.ask_takeover(path)
        running.refuses = ""
        (await takeover.ask_takeover(path)).close()

    play(scene, tmp_path)


def test_another_user_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.Channel, "peer_credentials", lambda _self: (1, os.getuid() + 1))

    async def scene(path: Path, running: Running, _server: ControlServer) -> None:
        with pytest.raises(TakeoverError, match="does not answer"):
            await takeover.ask_takeover(path)
        assert running.handed_over == 0

    play(scene, tmp_path)


def test_no_more_are_served_at_once_than_there_can_be_use_for(tmp_path: Path) -> None:
    async def scene(path: Path, _running: Running, _server: ControlServer) -> None:
        idle = [await takeover.connect(path) for _ in range(takeover.CONTROL_CLIENTS_MAX)]
        one_more = await takeover.connect(path)
        with pytest.raises(wire.ChannelClosedError):
            await one_more.receive()
        for channel in (*idle, one_more):
            channel.close()

    play(scene, tmp_path)


def test_what_was_handed_out_and_not_used_is_closed(tmp_path: Path) -> None:
    async def scene(path: Path, running: Running, _server: ControlServer) -> None:
        running.fds = [os.memfd_create("table")]
        before = len(os.listdir("/proc/self/fd"))
        predecessor = await takeover.ask_takeover(path)
        assert len(predecessor.table_fds) == 1
        predecessor.close()
        while len(os.listdir("/proc/self/fd")) > before:  # until the other end is closed, too
            await asyncio.sleep(0)
        os.close(running.fds[0])

    play(scene, tmp_path)


def test_the_socket_is_private_refused_to_a_second_router_and_left_to_a_successor(tmp_path: Path) -> None:
    async def scene(path: Path, _running: Running, server: ControlServer) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        other = ControlServer(path, Running())
        with pytest.raises(TakeoverError, match="another router answers at"):
            await other.open(replaces=False)
        await other.open(replaces=True)
        await server.close()
        (await takeover.ask_takeover(path)).close()
        await other.close()
        assert not path.exists()

    play(scene, tmp_path)

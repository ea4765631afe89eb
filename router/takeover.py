"""The control socket: reload by command, and one supervisor handing its sockets and tables to the next.

A unix socket in a private folder, named by the admin address; only processes of the same user are heard. A
takeover goes: the new supervisor asks (TakeoverRequest), gets the listening sockets, the shared tables and
the columns in use (TakeoverOffer), starts its workers on those very sockets, says TakeoverReady; only then
the old one drains (TakeoverAccepted). Invariant: until TakeoverReady the old supervisor has changed nothing,
so a new one that fails before costs nothing. Neighbours: supervisor.py (both ends), wire.py (the frames),
app.py (the commands).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from router import limits, wire
from router.runtime_folder import RuntimeFolderError, runtime_folder
from router.schema.config import Config

CONTROL_CLIENTS_MAX = 8  # commands and one successor; more at once is a mistake
SOCKET_NAME_CHARS_MAX = 40  # sun_path has 107 bytes, the folder needs most of them

logger = logging.getLogger("fairlead.supervisor")


class TakeoverError(Exception):
    """A takeover or command cannot be done; the message says why and what to do."""


class NobodyThereError(TakeoverError):
    """No router answers at the control socket."""


def control_path(config: Config, bound_admin_address: str) -> Path:
    """The control socket of a router: named by its configured admin address, so that its successor finds it.

    Routers that let the kernel choose the port share no name unless they have a runtime folder to themselves.
    """
    configured = config.admin.address
    is_fixed = config.runtime_dir is not None or not configured.endswith(":0")
    return control_path_of(config.runtime_dir, configured if is_fixed else bound_admin_address)


def control_path_of(runtime_dir: str | None, admin_address: str) -> Path:
    """The control socket that belongs to an admin address as the command line gives it."""
    name = re.sub(r"[^A-Za-z0-9.]", "_", admin_address)
    if len(name) > SOCKET_NAME_CHARS_MAX:
        name = hashlib.sha256(admin_address.encode()).hexdigest()[:SOCKET_NAME_CHARS_MAX]
    try:
        return runtime_folder(runtime_dir) / f"{name}.sock"
    except RuntimeFolderError as exc:
        raise TakeoverError(str(exc)) from exc


class Successor(Protocol):
    """What a supervisor does for those who come to its control socket."""

    async def reload(self) -> wire.ReloadAnswer: ...
    def offer_takeover(self) -> tuple[wire.TakeoverOffer, list[int]]: ...
    def hand_over(self) -> dict[int, int]: ...
    def upgrade_plan(self) -> wire.UpgradePlan: ...


class ControlServer:
    """Serves the control socket of one supervisor."""

    def __init__(self, path: Path, supervisor: Successor) -> None:
        self._path = path
        self._supervisor = supervisor
        self._sock: socket.socket | None = None
        self._identity: tuple[int, int] | None = (
            None  # of our socket file: a successor puts its own in its place
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._successor_pid: int | None = None
        self._upgraded: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open(self, *, replaces: bool) -> None:
        """Listens; the socket of a dead process, or of the predecessor it `replaces`, gives way in one step.

        Raises: TakeoverError.
        """
        if not replaces:
            with contextlib.suppress(NobodyThereError):
                (await connect(self._path)).close()
                raise TakeoverError(
                    f"another router answers at {self._path}; choose another admin address or runtime_dir, "
                    "or replace it with `fairlead upgrade`"
                )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        aside = self._path.with_suffix(f".{os.getpid()}")
        try:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()
            sock.bind(str(aside))
            aside.chmod(0o600)
            sock.listen(CONTROL_CLIENTS_MAX)
            info = aside.stat()
            aside.rename(self._path)
        except OSError as exc:
            sock.close()
            raise TakeoverError(f"cannot open the control socket {self._path}: {exc.strerror}") from exc
        self._sock = sock
        self._identity = (info.st_dev, info.st_ino)
        self._spawn(self._accept(sock))

    async def close(self) -> None:
        """Stops listening; the socket file goes unless a successor has put its own there."""
        if self._sock is None:
            return
        with contextlib.suppress(OSError):
            info = self._path.stat()
            if (info.st_dev, info.st_ino) == self._identity:
                self._path.unlink()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sock.close()
        self._sock = None

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(sock)
            if len(self._tasks) > CONTROL_CLIENTS_MAX:
                connection.close()
                continue
            self._spawn(self._serve(wire.Channel(connection)))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, channel: wire.Channel) -> None:
        try:
            pid, uid = channel.peer_credentials()
            if uid not in (os.getuid(), 0):
                logger.warning("control socket: process %d of user %d is not heard", pid, uid)
                return
            frame, _fds = await channel.receive()
            match frame:
                case wire.ReloadRequest():
                    channel.post(await self._supervisor.reload())
                case wire.TakeoverRequest():
                    await self._serve_takeover(channel, frame.pid)
                case wire.UpgradeRequest():
                    plan = self._supervisor.upgrade_plan()
                    channel.post(plan, [1, 2])
                    channel.post(wire.UpgradeDone(pid=await asyncio.shield(self._upgraded)))
                case _:
                    channel.post(wire.Refused(reason=f"{type(frame).__name__} is no request"))
            await channel.flushed()
        except wire.ChannelClosedError:
            pass  # Whoever asked has gone; it is told nothing.
        finally:
            channel.close()

    async def _serve_takeover(self, channel: wire.Channel, pid: int) -> None:
        if self._successor_pid is not None:
            channel.post(wire.Refused(reason=f"process {self._successor_pid} is taking over already"))
            return
        self._successor_pid = pid
        try:
            try:
                offer, fds = self._supervisor.offer_takeover()
            except TakeoverError as exc:
                self._successor_pid = None
                channel.post(wire.Refused(reason=str(exc)))
                return
            logger.info("process %d takes over: sockets handed out, still serving", pid)
            channel.post(offer, fds)
            async with asyncio.timeout(limits.TAKEOVER_TIMEOUT_MS / 1000):
                frame, _ = await channel.receive()
            if not isinstance(frame, wire.TakeoverReady):
                raise wire.ChannelClosedError(f"{type(frame).__name__} in place of TakeoverReady")
        except (wire.ChannelClosedError, TimeoutError) as exc:
            self._successor_pid = None
            logger.error(
                "process %d did not take over (%s); this one goes on serving", pid, str(exc) or "too slow"
            )
            return
        channel.post(wire.TakeoverAccepted(pid_by_column=self._supervisor.hand_over()))
        self._upgraded.set_result(pid)


class Predecessor:
    """The running supervisor, as the one that replaces it sees it."""

    def __init__(self, channel: wire.Channel, offer: wire.TakeoverOffer, fds: list[int]) -> None:
        self._channel = channel
        self.offer = offer
        self.sockets: dict[str, list[socket.socket]] = {}  # by configured address
        self.admin_sockets: list[socket.socket] = []
        count = len(offer.sockets)
        for entry, fd in zip(offer.sockets, fds[:count], strict=True):
            sock = socket.socket(fileno=fd)
            (self.admin_sockets if entry.is_admin else self.sockets.setdefault(entry.address, [])).append(
                sock
            )
        self.table_fds = fds[count:]

    async def take_over(self) -> dict[int, int]:
        """Tells it to drain; the processes that still write to columns of the shared tables, by column."""
        self._channel.post(wire.TakeoverReady())
        try:
            frame, _ = await self._channel.receive()
        except wire.ChannelClosedError as exc:
            raise TakeoverError("the running supervisor died during the takeover") from exc
        if not isinstance(frame, wire.TakeoverAccepted):
            raise TakeoverError(f"the running supervisor answered {type(frame).__name__}")
        return frame.pid_by_column

    def close(self) -> None:
        """Lets go of the connection and of sockets nobody has claimed."""
        self._channel.close()
        for sock in (*self.admin_sockets, *(sock for socks in self.sockets.values() for sock in socks)):
            sock.close()
        for fd in self.table_fds:
            os.close(fd)


async def connect(path: Path) -> wire.Channel:
    """A channel to the supervisor behind `path`. Raises: NobodyThereError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
    except OSError as exc:
        sock.close()
        raise NobodyThereError(
            f"no running router answers at {path} ({exc.strerror}); is its admin address the one given here?"
        ) from exc
    return wire.Channel(sock)


async def ask_takeover(path: Path) -> Predecessor:
    """Gets the running supervisor's sockets and tables. Raises: TakeoverError; nothing has changed then."""
    channel = await connect(path)
    try:
        channel.post(wire.TakeoverRequest(pid=os.getpid()))
        async with asyncio.timeout(limits.TAKEOVER_TIMEOUT_MS / 1000):
            frame, fds = await channel.receive()
    except (wire.ChannelClosedError, TimeoutError) as exc:
        channel.close()
        raise TakeoverError(f"the running supervisor does not answer ({str(exc) or 'timed out'})") from exc
    if not isinstance(frame, wire.TakeoverOffer):
        channel.close()
        raise TakeoverError(frame.reason if isinstance(frame, wire.Refused) else "unexpected answer")
    return Predecessor(channel, frame, fds)

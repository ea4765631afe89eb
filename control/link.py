"""Control's end of the link: routers come, are told the snapshot and signals, and say how they fare.

Each router has its own connection and its own sender, which always sends the newest snapshot: one that
reads slowly or never acks holds nobody up, and what it has not been sent grows to one snapshot and a bounded
buffer. Signals that do not fit are left out, since newer ones follow.

Invariant: whoever is heard has shown the token; nothing that a router sends is kept without a bound.
Neighbours: publish.py (what is sent), app.py (what becomes of reports), router/subscriber.py (the other end).
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import ssl
import time
from collections.abc import Callable

import msgspec

from control.unix_listener import unix_listener
from router import limits
from router.build_info import package_version
from router.schema import link
from router.schema.address import UnixAddress, parse_address
from router.schema.secret import Secret

logger = logging.getLogger("fairlead.control")

OnHello = Callable[["RouterLink"], None]
OnReport = Callable[["RouterLink", link.Report], None]
OnAck = Callable[["RouterLink", link.Ack], None]


class LinkClosedError(Exception):
    """A connection is of no use any more; the message says why."""


class RouterLink:
    """One connected router, as its control sees it."""

    def __init__(self, hello: link.Hello, writer: asyncio.StreamWriter, peer: str) -> None:
        self.hello = hello
        self.peer = peer
        self.connected_at = time.time()
        self.ack: link.Ack | None = None
        self.acked_s = 0.0
        self.report: link.Report | None = None
        self.reported_s = 0.0
        self.signals_left_out = 0
        self.kept = set(hello.kept)
        self._writer = writer
        self._wanted: link.SnapshotFrame | None = None
        self._sent_sequence = 0
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """The router's, the same after a restart."""
        return self.hello.router

    @property
    def sequence(self) -> int:
        """Of what is in force there, as far as is known."""
        applied = self.ack is not None and not self.ack.refusal
        return self.ack.sequence if self.ack is not None and applied else self.hello.sequence

    @property
    def refusal(self) -> str:
        """Why it did not take the last snapshot; empty when it did."""
        return "" if self.ack is None else self.ack.refusal

    def want(self, frame: link.SnapshotFrame) -> None:
        """Sends this snapshot; one that was waiting to be sent is forgotten."""
        self._wanted = frame
        self._changed.set()

    def tell(self, signals: tuple[link.Signal, ...]) -> None:
        """Sends signals, unless too much is unsent already."""
        if self._writer.transport.get_write_buffer_size() > limits.LINK_UNSENT_BYTES_MAX:
            self.signals_left_out += 1
            return
        if signals:
            self._writer.write(link.encode_frame(link.SignalBatch(signals=signals)))

    def refuse(self, reason: str) -> None:
        """Says why, and ends the connection."""
        self._writer.write(link.encode_frame(link.Refused(reason=reason)))
        self._writer.close()

    def taken(self, ack: link.Ack, now_s: float) -> None:
        """It has answered for a snapshot."""
        if ack.is_missing:
            self.kept.discard(ack.snapshot_id)
            self._sent_sequence = 0
            self._changed.set()
            return
        self.ack, self.acked_s = ack, now_s
        if not ack.refusal:
            self.kept.add(ack.snapshot_id)

    async def send_snapshots(self) -> None:
        """Keeps the router at the newest snapshot, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            frame = self._wanted
            if frame is None or frame.sequence == self._sent_sequence:
                continue
            if frame.snapshot_id in self.kept:
                frame = msgspec.structs.replace(frame, body=None)
            self._sent_sequence = frame.sequence
            self._writer.write(link.encode_frame(frame))
            await self._writer.drain()

    async def ping(self) -> None:
        """Shows the router that control lives, until cancelled."""
        for number in itertools.count():
            self._writer.write(link.encode_frame(link.Ping(number=number)))
            await self._writer.drain()
            await asyncio.sleep(limits.LINK_PING_INTERVAL_MS / 1000)


class LinkServer:
    """All connected routers."""

    def __init__(
        self,
        *,
        name: str,
        token: Secret | None = None,
        on_hello: OnHello = lambda _router: None,
        on_report: OnReport = lambda _router, _report: None,
        on_ack: OnAck = lambda _router, _ack: None,
        on_bye: OnHello = lambda _router: None,
    ) -> None:
        self._name = name
        self._token = token
        self._on_hello, self._on_report, self._on_ack, self._on_bye = on_hello, on_report, on_ack, on_bye
        self._routers: dict[str, RouterLink] = {}
        self._servers: list[asyncio.Server] = []
        self._snapshot: link.SnapshotFrame | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self.refused_count = 0
        self.addresses: list[str] = []

    @property
    def routers(self) -> list[RouterLink]:
        """Those connected, by name. Of one that is being upgraded there are two for a while."""
        return sorted(self._routers.values(), key=lambda router: (router.name, router.connected_at))

    async def listen(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        """Listens on `unix:/path` or `host:port`; a Unix socket is for this user alone. Raises: OSError."""
        place = parse_address(address)
        server: asyncio.Server
        if isinstance(place, UnixAddress):
            sock = unix_listener(place.path)
            server = await asyncio.start_unix_server(self._accept, sock=sock)
            self.addresses.append(address)
        else:
            server = await asyncio.start_server(self._accept, place.host, place.port, ssl=tls)
            port = server.sockets[0].getsockname()[1]
            self.addresses.append(f"{place.host}:{port}")
        self._servers.append(server)

    async def close(self) -> None:
        """Ends all connections; the routers go on with what they have."""
        for server in self._servers:
            server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def publish(self, frame: link.SnapshotFrame) -> None:
        """Sends a snapshot to all, and to whoever comes."""
        self._snapshot = frame
        for router in self._routers.values():
            router.want(frame)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername") or "unix")
        try:
            await self._talk(reader, writer, peer)
        except (LinkClosedError, OSError, EOFError, TimeoutError, ValueError) as exc:
            logger.info("router %s: %s", peer, exc or type(exc).__name__)
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        async with asyncio.timeout(limits.LINK_CONNECT_TIMEOUT_MS / 1000):
            hello = await _receive(reader)
        refusal = self._why_not(hello)
        if refusal:
            self.refused_count += 1
            writer.write(link.encode_frame(link.Refused(reason=refusal)))
            async with asyncio.timeout(1.0):
                await writer.drain()
            raise LinkClosedError(f"refused: {refusal}")
        assert isinstance(hello, link.Hello)
        welcome = link.Welcome(protocol=link.PROTOCOL, control=self._name, release=package_version())
        writer.write(link.encode_frame(welcome))
        router = RouterLink(msgspec.structs.replace(hello, token=""), writer, peer)
        before = self._routers.get(hello.instance)
        if before is not None:
            before.refuse("the same process has come again")
        self._routers[hello.instance] = router
        logger.info("router %s is connected, sequence %d is in force there", hello.router, hello.sequence)
        try:
            self._on_hello(router)
            if self._snapshot is not None:
                router.want(self._snapshot)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(router.send_snapshots())
                tasks.create_task(router.ping())
                tasks.create_task(self._listen_to(router, reader))
        except ExceptionGroup as group:
            first = group.exceptions[0]
            raise LinkClosedError(f"{type(first).__name__} {first}".strip()) from group
        finally:
            if self._routers.get(hello.instance) is router:
                del self._routers[hello.instance]
                self._on_bye(router)
                logger.info("router %s is gone", hello.router)

    def _why_not(self, hello: link.AnyFrame) -> str:
        if not isinstance(hello, link.Hello):
            return "the first frame must be Hello"
        if hello.protocol != link.PROTOCOL:
            return (
                f"it speaks protocol {hello.protocol}, control speaks {link.PROTOCOL}: upgrade the older one"
            )
        if self._token is not None and not hmac.compare_digest(
            hello.token.encode(), self._token.reveal().encode()
        ):
            return "the token is wrong: control.token there and link.token here must be the same"
        if len(self._routers) >= limits.LINK_ROUTERS_MAX and hello.instance not in self._routers:
            return f"{limits.LINK_ROUTERS_MAX} routers are connected already"
        return ""

    async def _listen_to(self, router: RouterLink, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(limits.LINK_SILENCE_MS / 1000):
                frame = await _receive(reader)
            match frame:
                case link.Ack():
                    router.taken(frame, time.monotonic())
                    self._on_ack(router, frame)
                case link.Report():
                    router.report, router.reported_s = frame, time.monotonic()
                    self._on_report(router, frame)
                case link.Pong():
                    pass
                case _:
                    raise LinkClosedError(f"{type(frame).__name__} says nothing to control")


async def _receive(reader: asyncio.StreamReader) -> link.AnyFrame:
    length = link.frame_length(await reader.readexactly(link.HEADER_BYTES))
    if length > limits.LINK_REPORT_BYTES_MAX:
        raise LinkClosedError(f"a frame of {length} bytes: at most {limits.LINK_REPORT_BYTES_MAX}")
    return link.decode_frame(await reader.readexactly(length))

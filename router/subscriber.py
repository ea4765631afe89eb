"""The router's end of the link to control: it connects out, takes snapshots and signals, and reports.

Nothing of traffic waits here. With control dead, hung or unreachable the last snapshot stays in force,
signals age out by the rules of the signal table, and the subscriber tries again, in growing, jittered pauses.

Invariant: one snapshot is put in force at a time, and an Ack says what became of it; of those that come
meanwhile only the last one counts, since each is whole. Neighbours: received_policy.py (what to believe),
supervisor.py (puts it in force), schema/link.py (the frames).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from router import limits
from router.build_info import package_version
from router.received_policy import Policy, ReceivedPolicies, SnapshotMissingError, SnapshotRefusedError
from router.schema import link
from router.schema.address import UnixAddress, parse_address
from router.schema.config import Config
from router.schema.control_link import ControlLink

logger = logging.getLogger("fairlead.subscriber")

Told = tuple[str, str, float, int]  # endpoint, signal, value, when in monotonic microseconds


class Subject(Protocol):
    """The router that a subscriber speaks for."""

    @property
    def own_config(self) -> Config:
        """What its file says."""

    async def put_in_force(self, policy: Policy) -> str:
        """Why it is not in force on every worker, or nothing."""

    def tell_signals(self, told: Iterable[Told]) -> None: ...

    def report(self) -> link.Report: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """How the link stands, for /debug and the metrics."""

    address: str
    is_connected: bool
    control: str  # who answered last
    since_s: float  # of the state, on the monotonic clock
    failure: str
    sequence: int
    snapshot_id: str
    refusal: str  # of the last snapshot that was refused, until one is taken


class LinkLostError(Exception):
    """The link is of no use any more; the message says why."""


class Subscriber:
    """Keeps one router in step with its control process."""

    def __init__(
        self,
        settings: ControlLink,
        name: str,
        received: ReceivedPolicies,
        subject: Subject,
        *,
        worker_count: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._name = name
        self._received = received
        self._subject = subject
        self._worker_count = worker_count
        self._sleep = sleep
        self._instance = secrets.token_hex(8)
        self._control = ""
        self._is_connected = False
        self._since_s = time.monotonic()
        self._failure = "not tried yet"
        self._refusal = ""

    def describe(self) -> LinkState:
        """How it stands."""
        return LinkState(
            address=self._settings.address,
            is_connected=self._is_connected,
            control=self._control,
            since_s=self._since_s,
            failure=self._failure,
            sequence=self._received.sequence,
            snapshot_id=self._received.snapshot_id,
            refusal=self._refusal,
        )

    async def run(self) -> None:
        """Connects and stays connected, until cancelled."""
        attempt = 0
        while True:
            try:
                await self._converse()
            except (LinkLostError, OSError, EOFError, TimeoutError, ValueError) as exc:
                was_connected = self._is_connected
                attempt = 0 if was_connected else attempt + 1
                failure = str(exc) or type(exc).__name__
                if was_connected or failure != self._failure:
                    logger.warning(
                        "control at %s: %s; sequence %d stays in force",
                        self._settings.address,
                        failure,
                        self._received.sequence,
                    )
                self._stands(is_connected=False, failure=failure)
            pause_ms = min(limits.LINK_BACKOFF_MIN_MS * 2 ** min(attempt, 10), limits.LINK_BACKOFF_MAX_MS)
            await self._sleep(random.uniform(pause_ms / 2, pause_ms) / 1000)  # noqa: S311 - spreads load

    # ---- one connection

    async def _converse(self) -> None:
        async with asyncio.timeout(limits.LINK_CONNECT_TIMEOUT_MS / 1000):
            reader, writer = await self._connect()
        try:
            async with asyncio.timeout(limits.LINK_CONNECT_TIMEOUT_MS / 1000):
                await self._greet(reader, writer)
            self._stands(is_connected=True, failure="")
            logger.info("control at %s: connected to %s", self._settings.address, self._control)
            async with asyncio.TaskGroup() as tasks:
                snapshots: asyncio.Queue[tuple[link.SnapshotFrame, float]] = asyncio.Queue(
                    limits.KEPT_SNAPSHOTS_MAX
                )
                tasks.create_task(self._read(reader, writer, snapshots))
                tasks.create_task(self._take(writer, snapshots))
                tasks.create_task(self._report(writer))
        except ExceptionGroup as group:
            raise LinkLostError(_first(group)) from group
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = parse_address(self._settings.address)
        if isinstance(address, UnixAddress):
            return await asyncio.open_unix_connection(address.path)
        tls = self._settings.tls
        if tls is None:
            return await asyncio.open_connection(address.host, address.port)
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
        name = tls.server_name or address.host
        return await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=name)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = self._settings.token
        hello = link.Hello(
            protocol=link.PROTOCOL,
            router=self._name,
            instance=self._instance,
            token="" if token is None else token.reveal(),
            region=self._settings.region,
            release=package_version(),
            worker_count=self._worker_count,
            sequence=self._received.sequence,
            snapshot_id=self._received.snapshot_id,
            kept=self._received.kept(),
        )
        await _send(writer, hello)
        answer = await _receive(reader)
        if isinstance(answer, link.Refused):
            raise LinkLostError(f"refused: {answer.reason}")
        if not isinstance(answer, link.Welcome):
            raise LinkLostError(f"answered Hello with {type(answer).__name__}")
        self._control = answer.control

    async def _read(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        snapshots: asyncio.Queue[tuple[link.SnapshotFrame, float]],
    ) -> None:
        while True:
            async with asyncio.timeout(limits.LINK_SILENCE_MS / 1000):
                frame = await _receive(reader)
            match frame:
                case link.SnapshotFrame():
                    await snapshots.put((frame, time.monotonic()))
                case link.SignalBatch(signals=signals):
                    self._tell(signals)
                case link.Ping(number=number):
                    await _send(writer, link.Pong(number=number))
                case link.Refused(reason=reason):
                    raise LinkLostError(f"refused: {reason}")
                case _:
                    logger.warning("control sent %s, which says nothing to a router", type(frame).__name__)

    def _tell(self, signals: tuple[link.Signal, ...]) -> None:
        now_us = time.monotonic_ns() // 1000
        self._subject.tell_signals(
            (signal.endpoint, signal.kind, signal.value, max(now_us - signal.age_ms * 1000, 0))
            for signal in signals[: limits.SIGNALS_PER_BATCH_MAX]
        )

    async def _take(
        self, writer: asyncio.StreamWriter, snapshots: asyncio.Queue[tuple[link.SnapshotFrame, float]]
    ) -> None:
        while True:
            frame, come_s = await snapshots.get()
            while not snapshots.empty():
                frame, come_s = snapshots.get_nowait()  # each is whole: only the last one counts
            await _send(writer, await self._ack(frame, come_s))

    async def _ack(self, frame: link.SnapshotFrame, come_s: float) -> link.Ack:
        refusal, is_missing = "", False
        if not self._received.is_in_force(frame):
            loop = asyncio.get_running_loop()
            try:
                own = self._subject.own_config
                policy = await loop.run_in_executor(None, self._received.take, frame, own)
                if frame.snapshot_id != self._received.snapshot_id:  # else control has only begun anew
                    refusal = await self._subject.put_in_force(policy)
            except SnapshotMissingError as exc:
                refusal, is_missing = str(exc), True
            except SnapshotRefusedError as exc:
                refusal = str(exc)
            apply_us = int((time.monotonic() - come_s) * 1e6)
            if not refusal:
                try:
                    await loop.run_in_executor(None, self._received.applied, frame)
                except OSError as exc:
                    logger.error("the last snapshot cannot be kept on disk: %s", exc)
                logger.info("sequence %d is in force, snapshot %.12s", frame.sequence, frame.snapshot_id)
            elif not is_missing:
                logger.error("snapshot %.12s refused: %s", frame.snapshot_id, refusal)
        else:
            apply_us = 0
        self._refusal = "" if is_missing else refusal
        return link.Ack(
            sequence=frame.sequence,
            snapshot_id=frame.snapshot_id,
            refusal=refusal,
            is_missing=is_missing,
            apply_us=apply_us,
        )

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await _send(writer, self._subject.report())
            await self._sleep(limits.REPORT_INTERVAL_MS / 1000)

    def _stands(self, *, is_connected: bool, failure: str) -> None:
        if is_connected != self._is_connected:
            self._since_s = time.monotonic()
        self._is_connected, self._failure = is_connected, failure


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """What the first of several failures says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if not isinstance(first, LinkLostError | OSError | EOFError | TimeoutError | ValueError):
        raise group  # a fault of ours is not control's
    if isinstance(first, TimeoutError):
        return f"silent for {limits.LINK_SILENCE_MS / 1000:g} s"
    return "closed the connection" if isinstance(first, EOFError) else str(first) or type(first).__name__


async def _send(writer: asyncio.StreamWriter, frame: link.AnyFrame) -> None:
    writer.write(link.encode_frame(frame))
    async with asyncio.timeout(limits.LINK_SILENCE_MS / 1000):
        await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> link.AnyFrame:
    length = link.frame_length(await reader.readexactly(link.HEADER_BYTES))
    if length > limits.LINK_FRAME_BYTES_MAX:
        raise LinkLostError(f"a frame of {length} bytes: at most {limits.LINK_FRAME_BYTES_MAX}")
    return link.decode_frame(await reader.readexactly(length))

"""One worker process: the native core under a uvloop, told what to do by the supervisor over one socket.

Started with exec (`python -m router.worker FD`), never fork: it inherits its listening sockets, the shared
tables and its end of the socket, and gets everything else in the first frame. Invariant: it obeys the
supervisor only (signals are ignored), and drains and exits when the supervisor is gone. Nothing here runs per
request. Neighbours: wire.py (the frames), supervisor.py (the other end), dispatch.py (what the core asks
Python), resolver.py, access_log.py, slowpath.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from router import wire
from router.access_log import AccessLog
from router.dispatch import Dispatcher
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.prefix import PrefixTable
from router.native.preparation import at_once
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable
from router.pieces import let_go, put_together
from router.resolver import Resolver
from router.snapshot import Tables
from router.steps import Stepper

if TYPE_CHECKING:
    from router._fastpath import Core
    from router.model_list import ModelList
    from router.slowpath import SlowPath

PULSE_S = 0.05  # timers run and log lines leave at least this often; 20 wakes a second cost 0.02 % of a core
HEARTBEAT_S = 1.0
RESOLVE_AT_START_S = 2.0  # then serve: names that have not resolved by then answer 502 until they do
# Of native/metrics.pxd, the three that Python writes.
COUNT_LOG_LINES_DROPPED = 14
COUNT_LOOP_LAG_US = 24
COUNT_RSS_BYTES = 25
PAGE_BYTES = resource.getpagesize()

CoreFactory = Callable[[wire.Start, LoadTable, MetricsTable, Dispatcher], "Core"]

logger = logging.getLogger("fairlead.worker")


def make_core(start: wire.Start, load: LoadTable, metrics: MetricsTable, hooks: Dispatcher) -> Core:
    """The native core: the only place that constructs it."""
    from router._fastpath import Core

    return Core(
        load_table=load,
        metrics=metrics,
        prefix_table=PrefixTable.attach(start.table_fds[2]),
        learner=Learner.attach(start.table_fds[3]),
        explained=ExplainRing.attach(start.table_fds[4]),
        residency=ResidencyTable.attach(start.table_fds[5]),
        sessions=SessionTable.attach(start.table_fds[6]),
        signals=SignalTable.attach(start.table_fds[7]),
        column=start.column,
        hooks=hooks,
        options=start.options,
    )


class _Prepared(NamedTuple):
    """What stands ready to be activated."""

    version: int
    drain_deadline_ms: int
    tables: Tables
    named_urls: list[str]
    snapshot: object  # the core's


class Worker:
    """A worker from its first frame to its exit."""

    def __init__(self, channel: wire.Channel, start: wire.Start, core_factory: CoreFactory) -> None:
        self._channel = channel
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._load = LoadTable.attach(start.table_fds[0])
        self._metrics = MetricsTable.attach(start.table_fds[1])
        self._core = core_factory(start, self._load, self._metrics, Dispatcher(self._adopt))
        self._resolver = Resolver(self._core.set_addresses)
        self._tables = at_once(put_together(start.tables))
        self._drain_deadline_ms = start.drain_deadline_ms
        self._stepper = Stepper()
        self._letting_go: asyncio.Task[None] | None = None  # of what the last snapshot left
        self._slow_path: SlowPath | None = None
        self._models: ModelList | None = None
        self._adopting: set[asyncio.Task[None]] = set()
        self._prepared: _Prepared | None = None
        self._log = self._open_log()
        self._log_dropped_count = 0
        self._finished = self._loop.create_future()
        self._drain_deadline: float | None = None
        self._idle_deadline = 0.0
        self._pulse_due = 0.0
        self._heartbeat_due = 0.0
        self._lag_s = 0.0

    async def run(self) -> None:
        """Serves until drained. Raises: ValueError, OSError when it cannot start."""
        plan = self._start.canary
        canary = at_once(put_together(plan.tables)) if plan is not None else None
        named = _named_urls(self._tables, canary)
        prepared = self._core.prepare(self._tables, canary, 0.0 if plan is None else plan.ratio)
        await self._resolver.prepare(named, RESOLVE_AT_START_S)
        self._core.activate(prepared)
        self._resolver.watch(named)
        self._resolver.start()
        for listener in self._start.listeners:
            self._core.add_listener(listener.fd, listener.listener_index, listener.tls)
            os.close(
                listener.fd
            )  # The core has its own duplicate; draining must be able to close the last one.
        self._loop.add_reader(self._core.fileno(), self._core.wake)
        self._pulse_due = self._heartbeat_due = self._loop.time()
        self._pulse()
        gc.collect()
        gc.freeze()  # What start-up made lives for ever; no collection needs to look at it again.
        self._channel.post(wire.Ready(pid=os.getpid()))
        obeying = asyncio.create_task(self._obey())
        await asyncio.wait([obeying, self._finished], return_when=asyncio.FIRST_COMPLETED)
        if obeying.done():
            obeying.result()  # A worker that no longer obeys must not be left running.
        await self._finished
        obeying.cancel()
        self._resolver.close()
        self._loop.remove_reader(self._core.fileno())
        self._flush_log()
        self._core.close()
        if self._log is not None and not self._log.close():
            logger.warning("access log: not everything was written before exit; its reader is stalled")

    async def _obey(self) -> None:
        try:
            while True:
                frame, _fds = await self._channel.receive()
                await self._on_frame(frame)
        except wire.ChannelClosedError:
            logger.warning("worker %d: the supervisor is gone; draining", self._start.worker_index)
            self._begin_drain(self._drain_deadline_ms, 0)

    async def _on_frame(self, frame: wire.AnyFrame) -> None:
        match frame:
            case wire.Prepare():
                refusal = await self._prepare(frame)
                self._channel.post(
                    wire.Prepared(
                        version=frame.version, refusal=refusal, longest_step_us=self._stepper.longest_us
                    )
                )
            case wire.Activate(version=version):
                self._activate(version)
            case wire.Abort():
                self._prepared = None
            case wire.Query():
                self._channel.post(wire.Answer(query_id=frame.query_id, rows=self._answer(frame.subject)))
            case wire.SetTls():
                self._set_tls(frame)
            case wire.RenewEndpointTls(endpoint=endpoint):
                self._renew_endpoint_tls(endpoint)
            case wire.ReopenLog():
                if self._log is not None:
                    self._log.reopen()
            case wire.Drain():
                self._begin_drain(frame.deadline_ms, frame.idle_grace_ms)
            case _:
                logger.error(
                    "worker %d: %s is no frame for a worker", self._start.worker_index, type(frame).__name__
                )

    async def _prepare(self, frame: wire.Prepare) -> str:
        """Builds a snapshot aside, in steps between which traffic goes on; why not, or nothing."""
        self._stepper = Stepper()
        self._core.set_staying(False)
        try:
            plan, canary = frame.canary, None
            tables = await self._stepper.take(put_together(frame.tables))
            if plan is not None:
                canary = await self._stepper.take(put_together(plan.tables))
            named = _named_urls(tables, canary)
            await self._resolver.prepare(named, RESOLVE_AT_START_S)
            ratio = 0.0 if plan is None else plan.ratio
            prepared = await self._stepper.take(self._core.preparing(tables, canary, ratio))
        except (ValueError, OSError) as exc:
            return str(exc) or type(exc).__name__
        finally:
            self._core.set_staying(True)
        self._prepared = _Prepared(frame.version, frame.drain_deadline_ms, tables, named, prepared)
        return ""

    def _activate(self, version: int) -> None:
        if self._prepared is None or self._prepared.version != version:
            logger.error("worker %d: version %d was never prepared", self._start.worker_index, version)
            return
        new, self._prepared = self._prepared, None
        with self._stepper.one():
            self._core.activate(new.snapshot)
            self._resolver.watch(new.named_urls)
        self._channel.post(wire.Activated(version=version, longest_step_us=self._stepper.longest_us))
        left = list(self._tables.endpoints)
        self._tables, self._drain_deadline_ms = new.tables, new.drain_deadline_ms
        self._letting_go = self._loop.create_task(self._stepper.take(let_go(left)))

    def _set_tls(self, frame: wire.SetTls) -> None:
        try:
            self._core.set_tls(frame.listener_index, frame.certificate, frame.key, frame.min_version)
        except (ValueError, OSError) as exc:
            logger.error(
                "listener %d: certificate %s not loaded (%s); the old one stays in use",
                frame.listener_index,
                frame.certificate,
                exc,
            )

    def _renew_endpoint_tls(self, endpoint: str) -> None:
        try:
            self._core.renew_endpoint_tls(endpoint)
        except ValueError as exc:
            logger.error("endpoint %s: %s; what was there stays in use", endpoint, exc)

    def _answer(self, subject: str) -> list[dict[str, Any]]:
        return self._core.debug_pools() if subject == "pools" else self._core.debug_endpoints()

    def _pulse(self) -> None:
        """The worker's own slow clock: core timers, log lines, heartbeat, drain."""
        now = self._loop.time()
        self._lag_s = max(self._lag_s, now - self._pulse_due)
        self._core.tick()
        self._flush_log()
        if now >= self._heartbeat_due:
            self._heartbeat_due = now + HEARTBEAT_S
            self._beat()
        if self._drain_deadline is not None:
            self._continue_drain(now)
        if not self._finished.done():
            self._pulse_due = self._loop.time() + PULSE_S
            self._loop.call_at(self._pulse_due, self._pulse)

    def _beat(self) -> None:
        rss_bytes = _rss_bytes()
        lag_us = int(self._lag_s * 1e6)
        self._lag_s = 0.0
        if self._log is not None:
            self._log_dropped_count += self._log.take_dropped()
        for counter, value in (
            (COUNT_LOOP_LAG_US, lag_us),
            (COUNT_RSS_BYTES, rss_bytes),
            (COUNT_LOG_LINES_DROPPED, self._log_dropped_count),
        ):
            self._metrics.set(self._start.column, counter, value)
        with contextlib.suppress(wire.ChannelClosedError):  # `_obey` sees it too and drains.
            self._channel.post(
                wire.Heartbeat(
                    open_exchanges=self._core.open_exchanges(),
                    open_connections=self._core.open_connections(),
                    loop_lag_us=lag_us,
                    rss_bytes=rss_bytes,
                    log_lines_dropped=self._log_dropped_count,
                )
            )

    def _open_log(self) -> AccessLog | None:
        options = self._start.access_log
        if not options.path:
            return None
        try:
            return AccessLog(options.path, options.buffer_bytes_max)
        except OSError as exc:
            raise ValueError(
                f"access_log.path: {options.path!r} cannot be written: {exc.strerror}; "
                "name a file that this user can write, or stdout"
            ) from exc

    def _flush_log(self) -> None:
        lines = self._core.take_log()
        if self._log is not None:
            self._log.write(lines)

    def _begin_drain(self, deadline_ms: int, idle_grace_ms: int) -> None:
        """May come again with a shorter deadline."""
        now = self._loop.time()
        if self._drain_deadline is None:
            self._core.wake()  # Takes in who is in the accept queue: closing the socket resets them.
            self._core.drain()
            self._drain_deadline = now + deadline_ms / 1000
            self._idle_deadline = now + idle_grace_ms / 1000
        self._drain_deadline = min(self._drain_deadline, now + deadline_ms / 1000)
        self._idle_deadline = min(self._idle_deadline, now + idle_grace_ms / 1000)
        self._continue_drain(now)

    def _continue_drain(self, now: float) -> None:
        if self._finished.done() or self._drain_deadline is None:
            return
        if now >= self._drain_deadline:
            open_count = self._core.open_exchanges()
            if open_count:
                logger.warning(
                    "worker %d: drain deadline passed, %d open exchanges are cut",
                    self._start.worker_index,
                    open_count,
                )
            self._core.abort_all()
            self._finished.set_result(None)
            return
        if self._adopting or (self._slow_path is not None and self._slow_path.open_count):
            return
        if self._core.open_connections() == 0:
            self._finished.set_result(None)
        elif self._core.open_exchanges() == 0 and now >= self._idle_deadline:
            # Each idle client had the grace to send one more request and be told `Connection: close`.
            self._core.close_idle()
            self._finished.set_result(None)

    def _adopt(self, fd: int, received: bytes, is_tls: bool, peer: str) -> None:
        task = self._loop.create_task(self._adopt_slowly(socket.socket(fileno=fd), received))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt_slowly(self, sock: socket.socket, received: bytes) -> None:
        if self._slow_path is None:
            # aiohttp takes 0.2 s to import and 20 MB: only a worker that needs it pays, and not on its loop.
            slow_path_type, model_list_type = await self._loop.run_in_executor(None, _import_slow_path)
            if self._slow_path is None:
                self._models = model_list_type(lambda: self._tables, self._load)
                self._slow_path = slow_path_type(self._models.names)
        await self._slow_path.adopt(sock, received)


def _import_slow_path() -> tuple[type[SlowPath], type[ModelList]]:
    from router.model_list import ModelList
    from router.slowpath import SlowPath

    return SlowPath, ModelList


def _named_urls(tables: Tables, canary: Tables | None) -> list[str]:
    endpoints = (*tables.endpoints, *(canary.endpoints if canary is not None else ()))
    return [endpoint.url for endpoint in endpoints if not endpoint.addresses]


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


def raise_file_limit() -> None:
    """RLIMIT_NOFILE up to the hard limit: a proxy needs two descriptors per exchange."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_up_logging() -> None:
    """One line each on stderr, with the process that says it; FAIRLEAD_LOG_LEVEL sets the level."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s",
        level=(os.environ.get("FAIRLEAD_LOG_LEVEL") or "INFO").upper(),
    )


async def _work(fd: int, core_factory: CoreFactory) -> int:
    channel = wire.Channel(socket.socket(fileno=fd))
    try:
        start, _fds = await channel.receive()
    except wire.ChannelClosedError:
        return 1
    if not isinstance(start, wire.Start):
        raise AssertionError(f"the first frame must be Start, not {type(start).__name__}")
    try:
        await Worker(channel, start, core_factory).run()
    except (ValueError, OSError) as exc:
        with contextlib.suppress(wire.ChannelClosedError):
            channel.post(wire.Failed(reason=str(exc) or type(exc).__name__))
            await channel.flushed()
        return 1
    finally:
        channel.close()
    return 0


def main(arguments: list[str] | None = None, core_factory: CoreFactory = make_core) -> int:
    """Runs a worker on the socket whose descriptor is the only argument; the exit status."""
    fd = int((arguments if arguments is not None else sys.argv[1:])[0])
    # Ctrl-C and `kill` reach the whole group: the supervisor decides what they mean and says it over the
    # socket.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(
        signal.SIGUSR2, all_threads=True
    )  # The supervisor asks before it kills a stuck worker.
    set_up_logging()
    raise_file_limit()
    return uvloop.run(_work(fd, core_factory))


if __name__ == "__main__":
    sys.exit(main())

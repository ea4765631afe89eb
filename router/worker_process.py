"""One worker as its supervisor sees it: started, watched, restarted with back-off, told things and asked
things.

Invariant: when a worker process has died, and only then, its column of the load table is cleared and its
metrics are folded, before another process gets the column. Neighbours: supervisor.py owns these, worker.py is
the other end of the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from router import limits, wire
from router.pieces import Pieces
from router.schema.config import AccessLog
from router.snapshot import CoreOptions

HEARTBEATS_MISSED_S = 10.0  # of ten; a loop that lags this long serves nobody
STACK_DUMP_S = 0.3  # for a stuck worker to write its Python stacks before SIGKILL
STEADY_S = 10.0  # a worker that lived this long has not failed at start: its next restart is immediate again
EXIT_S = 5.0  # from the end of its socket to its exit: flushing the access log takes one at most
QUERY_S = 2.0  # for debug pages; a busy loop answers within its lag

logger = logging.getLogger("fairlead.supervisor")


class WorkerState(enum.StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class Tables(Protocol):
    """What a worker inherits and what its death settles."""

    @property
    def table_fds(self) -> list[int]: ...
    def settle(self, column: int) -> None:
        """Clears the dead worker's load-table column and folds its metrics."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker that starts now must serve."""

    version: int
    options: CoreOptions
    access_log: AccessLog
    drain_deadline_ms: int
    tables: Pieces
    canary: wire.CanaryPlan | None
    listeners: list[wire.WorkerListener]


def worker_command() -> list[str]:
    """How a worker is started; its channel's descriptor is appended."""
    return [sys.executable, "-P", "-m", "router.worker"]


class WorkerProcess:
    """Keeps one worker running in its column until `drain` or `kill`."""

    def __init__(
        self,
        index: int,
        column: int,
        *,
        tables: Tables,
        plan: Callable[[int], Plan],
        command: Sequence[str],
        on_change: Callable[[], None],
    ) -> None:
        self.index = index
        self.column = column
        self.state = WorkerState.STARTING
        self.failure = ""  # why the last process could not serve
        self.restart_count = 0
        self.heartbeat: wire.Heartbeat | None = None
        self._tables = tables
        self._plan = plan
        self._command = command
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: wire.Channel | None = None
        self._started_at = 0.0
        self._heard_at = 0.0
        self._failures_in_row = 0
        self._stopping = False  # not to be restarted
        self._killed = False
        self._stop = asyncio.Event()  # ends the wait before a restart
        self._drain: wire.Drain | None = None
        self._waiting: dict[tuple[str, int], asyncio.Future[wire.AnyFrame]] = {}
        self._query_ids = itertools.count(1)
        self._task = self._loop.create_task(self._keep_running(), name=f"worker-{index}")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether a process is there that may still be told things."""
        return self._channel is not None and not self._channel.closed

    def drain(self, deadline_ms: int, idle_grace_ms: int) -> None:
        """Finish what is open and exit; not restarted. A later call may shorten the deadline."""
        self._stopping = True
        self._drain = wire.Drain(deadline_ms=deadline_ms, idle_grace_ms=idle_grace_ms)
        if self.state is not WorkerState.DEAD:
            self.state = WorkerState.DRAINING
        self.tell(self._drain)
        self._stop.set()

    def kill(self) -> None:
        """Ends it now; not restarted."""
        self._stopping = self._killed = True
        self._stop.set()
        if self._process is not None:
            _kill(self._process)

    def restart(self) -> None:
        """Kills the process that is there; another one takes its place."""
        if self._process is not None:
            _kill(self._process)

    async def ended(self) -> None:
        """Returns when it has stopped for good."""
        await asyncio.wait([self._task])

    def tell(self, frame: wire.AnyFrame) -> bool:
        """Sends a frame that wants no answer; whether there was anybody to send it to."""
        if self._channel is None:
            return False
        try:
            self._channel.post(frame)
        except wire.ChannelClosedError:
            return False
        return True

    async def prepare(self, frame: wire.Prepare) -> str:
        """Phase one of a reload: why this worker refuses, or nothing."""
        answer = await self._ask(frame, ("prepared", frame.version))
        if answer is None:
            return f"worker {self.index} died while it prepared the configuration"
        return answer.refusal if isinstance(answer, wire.Prepared) else ""

    async def activate(self, version: int) -> int:
        """Phase two: the longest that the new version kept the worker's loop, in microseconds of CPU time."""
        answer = await self._ask(wire.Activate(version=version), ("activated", version))
        return answer.longest_step_us if isinstance(answer, wire.Activated) else 0

    async def query(self, subject: str) -> list[dict[str, Any]]:
        """What the worker's core shows of itself; nothing when it is not there or too busy."""
        query_id = next(self._query_ids)
        try:
            async with asyncio.timeout(QUERY_S):
                answer = await self._ask(wire.Query(query_id=query_id, subject=subject), ("query", query_id))
        except TimeoutError:
            return []
        return answer.rows if isinstance(answer, wire.Answer) else []

    def watch(self, now: float) -> None:
        """Kills the process when it has not been heard of for too long; called once a second."""
        silence_max_s = (
            limits.WORKER_READY_TIMEOUT_MS / 1000
            if self.state is WorkerState.STARTING
            else HEARTBEATS_MISSED_S
        )
        if self._process is None or now - self._heard_at < silence_max_s:
            return
        logger.error(
            "worker %d (pid %d) has been silent for %.0f s; its stacks follow; it is killed and replaced",
            self.index,
            self._process.pid,
            now - self._heard_at,
        )
        self._heard_at = now
        process = self._process
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGUSR2)
        self._loop.call_later(STACK_DUMP_S, _kill, process)

    def describe(self, now: float) -> dict[str, Any]:
        """The row of /debug/workers."""
        beat = self.heartbeat
        return {
            "worker": self.index,
            "column": self.column,
            "pid": self.pid,
            "state": str(self.state),
            "uptime_s": round(now - self._started_at, 1) if self._process is not None else None,
            "heard_s_ago": round(now - self._heard_at, 1) if self._process is not None else None,
            "restart_count": self.restart_count,
            "failure": self.failure,
            "open_exchanges": beat.open_exchanges if beat else 0,
            "open_connections": beat.open_connections if beat else 0,
            "loop_lag_us": beat.loop_lag_us if beat else 0,
            "rss_bytes": beat.rss_bytes if beat else 0,
            "log_lines_dropped": beat.log_lines_dropped if beat else 0,
        }

    async def _keep_running(self) -> None:
        try:
            while not self._stopping:
                try:
                    ending = _describe_status(await self._run_once())
                except OSError as exc:
                    ending = f"no process could be started: {exc.strerror}"
                if self._stopping:
                    break
                lived_s = self._loop.time() - self._started_at
                self._failures_in_row = 1 if lived_s >= STEADY_S else self._failures_in_row + 1
                delay_s = restart_delay_s(self._failures_in_row)
                self.restart_count += 1
                logger.error(
                    "worker %d ended (%s)%s; restarting %s",
                    self.index,
                    ending,
                    f": {self.failure}" if self.failure else "",
                    f"in {delay_s:.1f} s" if delay_s else "now",
                )
                self._set_state(WorkerState.DEAD)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._stop.wait()
        finally:
            self._set_state(WorkerState.DEAD)

    async def _run_once(self) -> int:
        """Starts a process, listens to it until its end, settles what it left; its exit status."""
        plan = self._plan(self.index)
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            fds = [*self._tables.table_fds, *(entry.fd for entry in plan.listeners)]
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=sorted({*fds, theirs.fileno()}),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the supervisor, which drains.
                env=_environment(),
            )
            undo.pop_all()
        if self._killed:
            _kill(self._process)
        self._started_at = self._heard_at = self._loop.time()
        self.heartbeat = None
        self.failure = ""
        self._channel = wire.Channel(ours)
        self._set_state(WorkerState.DRAINING if self._stopping else WorkerState.STARTING)
        try:
            self._channel.post(
                wire.Start(
                    worker_index=self.index,
                    column=self.column,
                    listeners=plan.listeners,
                    table_fds=self._tables.table_fds,
                    version=plan.version,
                    options=plan.options,
                    access_log=plan.access_log,
                    drain_deadline_ms=plan.drain_deadline_ms,
                    tables=plan.tables,
                    canary=plan.canary,
                )
            )
            if self._drain is not None:
                self.tell(self._drain)
            while True:
                frame, _fds = await self._channel.receive()
                self._on_frame(frame)
        except wire.ChannelClosedError:
            pass
        finally:
            self._channel.close()
            self._channel = None
            self._set_state(WorkerState.DEAD)  # Or as good as: it serves nobody without its supervisor.
            for waiting in self._waiting.values():
                waiting.cancel()
            self._waiting.clear()
        status = await self._reap(self._process)
        self._process = None
        self._tables.settle(self.column)
        return status

    async def _reap(self, process: asyncio.subprocess.Process) -> int:
        try:
            async with asyncio.timeout(EXIT_S):
                return await process.wait()
        except TimeoutError:
            logger.error("worker %d (pid %d) does not exit; killed", self.index, process.pid)
            _kill(process)
            return await process.wait()

    def _on_frame(self, frame: wire.AnyFrame) -> None:
        self._heard_at = self._loop.time()
        match frame:
            case wire.Heartbeat():
                self.heartbeat = frame
            case wire.Ready():
                if not self._stopping:
                    self._set_state(WorkerState.READY)
            case wire.Failed(reason=reason):
                self.failure = reason
            case wire.Prepared(version=version):
                self._resolve(("prepared", version), frame)
            case wire.Activated(version=version):
                self._resolve(("activated", version), frame)
            case wire.Answer(query_id=query_id):
                self._resolve(("query", query_id), frame)
            case _:
                logger.error(
                    "worker %d sent %s, which is not a worker's to send", self.index, type(frame).__name__
                )

    async def _ask(self, frame: wire.AnyFrame, key: tuple[str, int]) -> wire.AnyFrame | None:
        """The answer to `frame`, or None when the worker dies first or is not there."""
        future: asyncio.Future[wire.AnyFrame] = self._loop.create_future()
        self._waiting[key] = future
        try:
            if not self.tell(frame):
                return None
            await asyncio.wait([future])
            return None if future.cancelled() else future.result()
        finally:
            self._waiting.pop(key, None)

    def _resolve(self, key: tuple[str, int], frame: wire.AnyFrame) -> None:
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_result(frame)

    def _set_state(self, state: WorkerState) -> None:
        self.state = state
        self._on_change()


def restart_delay_s(failures_in_row: int) -> float:
    """Immediate after the first failure, then from the smallest delay doubling to the largest."""
    if failures_in_row <= 1:
        return 0.0
    doubled = limits.RESTART_BACKOFF_MIN_MS << min(failures_in_row - 2, 20)
    return min(doubled, limits.RESTART_BACKOFF_MAX_MS) / 1000


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _describe_status(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def _environment() -> dict[str, str]:
    """Our own, so that `-m router.worker` finds the very package this supervisor runs from."""
    root = str(Path(__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    if root in sys.path and "site-packages" not in root:
        others.insert(0, root)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(others)} if others else dict(os.environ)

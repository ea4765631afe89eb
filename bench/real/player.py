"""The client: requests on time over kept-alive connections, and what became of each.

Open loop: a request leaves when the trace says so, whatever earlier ones do; one that follows another leaves
as long after the other's end as the trace says. Nothing is parsed but a head, the first event and the last
one, so that thousands of events a second cost little. Times are from a request's due time, not from its
sending: what the client is late by counts against everybody and is told beside the figures.

Invariant: an answer counts as done only with status 200, as many tokens as were asked of the engine, and its
last chunk; every other end is a failure with its reason. Neighbours: prompts.py (bytes), stage.py (routers).
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.real.prompts import request_bytes
from bench.sim.traces import Trace

TAIL_BYTES = 1024
"""Of an answer's end: the usage, which comes before the last event, lies in it."""
PATIENCE_S = 120.0
"""After the last request was due; what is open then has failed."""
HEAD_END = b"\r\n\r\n"
FIRST_EVENT = b"data: "
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]"
USAGE = re.compile(rb'"completion_tokens":(\d+),"prompt_tokens_details":\{"cached_tokens":(\d+)')
ENDPOINT = re.compile(rb"\r\nx-fairlead-endpoint: ([^\r]+)", re.IGNORECASE)


@dataclass(kw_only=True)
class Played:
    """Columns [request_count], times in us since the begin; 0 for what never came."""

    arrival_us: NDArray[np.int64]
    first_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    late_us: NDArray[np.int64]
    """By how much a request left after it was due."""
    cached_tokens: NDArray[np.int32]
    endpoint: list[str]
    failures: dict[int, str] = field(default_factory=dict)
    """Request to reason."""


class Player:
    """Plays a trace once. `ports` are the routers'; `router_of[index]` says whom a request asks."""

    def __init__(self, trace: Trace, ports: list[int], router_of: NDArray[np.int64]) -> None:
        self.trace = trace
        self._ports = ports
        self._router_of = router_of
        count = len(trace)
        arrival_us, first_us, end_us, late_us = (np.zeros(count, np.int64) for _ in range(4))
        self.played = Played(
            arrival_us=arrival_us,
            first_us=first_us,
            end_us=end_us,
            late_us=late_us,
            cached_tokens=np.zeros(count, np.int32),
            endpoint=[""] * count,
        )
        self._followers = {int(before): index for index, before in enumerate(trace.follows) if before >= 0}
        self._idle: list[list[_Connection]] = [[] for _ in ports]
        self._connections: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._open_count = count
        self._begun_ns = 0
        self._loop = asyncio.get_running_loop()
        self._all_ended = asyncio.Event()

    async def play(self) -> Played:
        """Returns when every request has ended, or when patience has."""
        self._begun_ns = time.monotonic_ns()
        for index, before in enumerate(self.trace.follows):
            if before < 0:
                self._plan(index, int(self.trace.arrival_us[index]))
        last_s = float(self.trace.arrival_us[self.trace.follows < 0].max(initial=0)) / 1e6
        try:
            async with asyncio.timeout(None) as patience:
                self._patience = patience
                self._wait_on(last_s)
                await self._all_ended.wait()
        except TimeoutError:
            for index in range(len(self.trace)):
                if not self.played.end_us[index]:
                    self.played.failures[index] = "no end"
        for connection in list(self._connections):
            connection.close()
        return self.played

    def now_us(self) -> int:
        return (time.monotonic_ns() - self._begun_ns) // 1000

    def _wait_on(self, last_s: float) -> None:
        """Patience counts from the last request that is known to come."""
        until = self._loop.time() + last_s - self.now_us() / 1e6 + PATIENCE_S
        if until > (self._patience.when() or 0.0):
            self._patience.reschedule(until)

    def _plan(self, index: int, due_us: int) -> None:
        self.played.arrival_us[index] = due_us
        self._loop.call_later(max(0.0, (due_us - self.now_us()) / 1e6), self._ask, index)

    def _ask(self, index: int) -> None:
        self.played.late_us[index] = max(0, self.now_us() - int(self.played.arrival_us[index]))
        router = int(self._router_of[index])
        idle = self._idle[router]
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                connection.ask(index)
                return
        task = self._loop.create_task(self._connect(index, router))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, index: int, router: int) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self, router), "127.0.0.1", self._ports[router]
            )
        except OSError as exc:
            self.ended(index, failure=f"connect: {exc.strerror or exc}")
            return
        self._connections.add(connection)
        connection.ask(index)

    def request(self, index: int, router: int) -> bytes:
        return request_bytes(self.trace, index, f"127.0.0.1:{self._ports[router]}")

    def ended(self, index: int, *, failure: str = "") -> None:
        """An answer has ended, well or not; whoever follows is planned."""
        end_us = max(1, self.now_us())
        self.played.end_us[index] = end_us
        if failure:
            self.played.failures[index] = failure
        follower = self._followers.get(index)
        if follower is not None:
            due_us = end_us + int(self.trace.arrival_us[follower])
            self._plan(follower, due_us)
            self._wait_on(due_us / 1e6)
        self._open_count -= 1
        if not self._open_count:
            self._all_ended.set()

    def rests(self, connection: _Connection) -> None:
        self._idle[connection.router].append(connection)

    def is_gone(self, connection: _Connection) -> None:
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One connection to a router, with at most one request out."""

    def __init__(self, player: Player, router: int) -> None:
        self.router = router
        self._player = player
        self._transport: asyncio.Transport | None = None
        self._index = -1
        self._has_head = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def ask(self, index: int) -> None:
        self._index, self._has_head, self._tail = index, False, b""
        if self._transport is not None:
            self._transport.write(self._player.request(index, self.router))

    def data_received(self, data: bytes) -> None:
        if self._index < 0:
            self._end("bytes that nobody asked for")
            return
        self._tail += data
        if not self._has_head and not self._take_head():
            return
        played = self._player.played
        if not played.first_us[self._index] and FIRST_EVENT in self._tail:
            played.first_us[self._index] = self._player.now_us()
        if self._tail.endswith(LAST_CHUNK) and DONE in self._tail:
            self._take_end()
        else:
            self._tail = self._tail[-TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._player.is_gone(self)
        if self._index >= 0:
            self._end(f"closed early: {exc}" if exc else "closed early")

    def _take_head(self) -> bool:
        head, end, rest = self._tail.partition(HEAD_END)
        if not end:
            return False
        self._has_head = True
        self._tail = rest
        if head[9:12] != b"200":
            self._end(f"status {head[9:12].decode(errors='replace')}")
            return False
        found = ENDPOINT.search(head)
        if found:
            self._player.played.endpoint[self._index] = found[1].decode(errors="replace")
        return True

    def _take_end(self) -> None:
        usage = USAGE.search(self._tail)
        wanted = int(self._player.trace.output_tokens[self._index])
        if usage is None or int(usage[1]) != wanted:
            self._end(f"{int(usage[1]) if usage else 'no'} tokens where {wanted} were due")
            return
        self._player.played.cached_tokens[self._index] = int(usage[2])
        index, self._index = self._index, -1
        self._player.rests(self)
        self._player.ended(index)

    def _end(self, failure: str) -> None:
        """Whatever else was to come on this connection is not wanted."""
        index, self._index = self._index, -1
        self.close()
        if index >= 0:
            self._player.ended(index, failure=failure)

"""Random clients against random faults: after every round nothing is held, lost, doubled or mixed up.

A round is a crowd of clients: streaming or not, small and large bodies, kept and pipelined connections,
readers that dawdle, clients that leave at any byte, requests that no parser takes; each request may carry a
fault for the engine that gets it. What one client does is drawn from the seed; how the crowd's events fall
together is not, so a failure names its seed and round.

FAIRLEAD_STRESS_S makes it longer, FAIRLEAD_STRESS_SEED repeats one.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.mock.fleet import EngineSpec, Fleet
from bench.native.replies import answer_text, prompt_seed
from tests.support.raw_peer import BOUND_S
from tests.support.router_process import Metrics, RouterProcess, one_pool, running_router

SECONDS = float(os.environ.get("FAIRLEAD_STRESS_S", "5"))
CLIENTS_PER_ROUND = 60
REQUESTS_PER_CLIENT_MAX = 5
KIB = 1 << 10
MIB = 1 << 20
RSS_GROWTH_BYTES_MAX = 24 * MIB  # after the first rounds: allocators keep some, a leak keeps on
# Timeouts that a fault runs into within a round, and that nothing else does.
TIMEOUTS = {
    "first_byte_ms": 500,
    "idle_ms": 500,
    "body_ms": 5000,
    "total_ms": 20_000,
    "write_stall_ms": 20_000,
}
# After these no answer of status 200 may look whole ...
CUTTING: tuple[str, ...] = ("reset:2", "close:2", "truncate:2", "bad-chunk:2", "hang-after:2", "long-length")
# ... after these it is whole, and right.
HARMLESS: tuple[str, ...] = (
    "surplus",
    "drip",
    "close-delimited",
    "http10",
    "no-keepalive",
    "storm:3",
    "slow:2",
)
# Another status, or a 200 with other content.
OTHERS: tuple[str, ...] = (
    "hang",
    "reset:0",
    "status:500",
    "status:429",
    "bad-head",
    "both-lengths",
    "error-event:1",
    "no-done",
    "short-length",
    "storm:100",
)
MALFORMED = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
)


class LeftEarly(Exception):
    """This client was drawn to go away here."""


@dataclass
class Tally:
    """What the clients of a round did and saw."""

    possible: int = 0  # requests of which the whole head may have reached the router
    certain: int = 0  # of those, answered with a status
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass
class Ask:
    """One request, and what its answer must be."""

    wire: bytes
    request_id: str
    tokens: int
    messages: bytes
    is_stream: bool
    fault: str

    @property
    def text(self) -> str:
        return answer_text(prompt_seed(self.messages), self.tokens)


def make_ask(rng: random.Random, name: str) -> Ask:
    is_stream = rng.random() < 0.5
    tokens = rng.choice((1, 2, 5, 30, 200))
    size = rng.choice((0, 0, 100, 3000, 60 * KIB, 700 * KIB, 2 * MIB) if rng.random() < 0.3 else (0, 100))
    messages = json.dumps([{"role": "user", "content": f"{name} " + "word " * (size // 5)}]).encode()
    body = b'{"model":"tiny","max_tokens":%d,"messages":%b%b}' % (
        tokens,
        messages,
        b',"stream":true' if is_stream else b"",
    )
    fault = ""
    if rng.random() < 0.35:
        fault = rng.choice([*CUTTING, *HARMLESS, *OTHERS])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\nx-request-id: {name}\r\n"
    head += "content-type: application/json\r\n" + (f"x-mock-fault: {fault}\r\n" if fault else "")
    if rng.random() < 0.3:
        pieces, at = [], 0
        while at < len(body):
            size = rng.choice((1, 7, 500, 70 * KIB))
            pieces.append(b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]))
            at += size if len(body) < 5000 else max(size, 500)
        body = b"".join(pieces) + b"0\r\n\r\n" if len(body) < 5000 else whole_chunks(body)
        head += "transfer-encoding: chunked\r\n\r\n"
    else:
        head += f"content-length: {len(body)}\r\n\r\n"
    return Ask(head.encode() + body, name, tokens, messages, is_stream, fault)


def whole_chunks(body: bytes) -> bytes:
    size = 30 * KIB
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Client:
    """One client of a round, all of whose choices are drawn from its own generator."""

    def __init__(self, address: tuple[str, int], name: str, rng: random.Random, tally: Tally) -> None:
        self._address = address
        self._name = name
        self._rng = rng
        self._tally = tally
        self._asked = 0

    async def run(self) -> None:
        sock = socket.socket()
        if self._rng.random() < 0.2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=4 * MIB)
        try:
            while self._asked < REQUESTS_PER_CLIENT_MAX and await self._converse(reader, writer):
                pass
        except LeftEarly:
            if self._rng.random() < 0.5:  # else in order, if nothing is left unread
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._tally.statuses["cut"] += 1
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request, or several at once; whether the connection can be used again."""
        rng = self._rng
        if rng.random() < 0.06:
            self._tally.possible += 1
            writer.write(rng.choice(MALFORMED))
            status, _, _ = await self._take_response(reader, None)
            self._tally.certain += 1
            if status < 400:
                self._tally.faults.append(f"{self._name}: nonsense was answered with {status}")
            return False
        asks = []
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            asks.append(make_ask(rng, f"{self._name}-{self._asked}"))
            self._asked += 1
        wire = b"".join(ask.wire for ask in asks)
        leaves = rng.random() < 0.2
        if leaves and rng.random() < 0.5:
            at = rng.randrange(len(wire))
            self._tally.possible += sum(1 for end in heads_ends(asks) if end <= at)
            writer.write(wire[:at])
            await writer.drain()
            raise LeftEarly
        self._tally.possible += len(asks)
        # While a large body goes out its answer may come already, as when an engine refuses it.
        sending = asyncio.ensure_future(self._send(writer, wire))
        try:
            for ask in asks:
                await self._check(reader, ask, self._rng.randrange(3000) if leaves else None)
                if self._closes:
                    return False
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
        return True

    async def _send(self, writer: asyncio.StreamWriter, wire: bytes) -> None:
        at = 0
        while at < len(wire):
            size = self._rng.choice((10, 1000, 64 * KIB, 64 * KIB, MIB))
            writer.write(wire[at : at + size])
            at += size
            if len(wire) < 10 * KIB or size > KIB:
                await writer.drain()
        await writer.drain()

    async def _check(self, reader: asyncio.StreamReader, ask: Ask, leave_after: int | None) -> None:
        status, fields, body = await self._take_response(reader, leave_after)
        self._tally.certain += 1
        self._tally.statuses[str(status)] += 1
        if fields.get("x-request-id") != ask.request_id:
            self._complain(ask, f"got the answer to {fields.get('x-request-id')}")
        if status != 200:
            if not ask.fault:
                self._complain(ask, f"got {status} {body[:200]!r}")
            return
        if ask.fault in CUTTING and (ask.is_stream or ask.fault != "hang-after:2"):
            if ask.tokens > 2:
                self._complain(ask, f"looks whole: {body[-200:]!r}")
        elif ask.fault in HARMLESS or not ask.fault:
            text = (
                stream_text(body) if ask.is_stream else json.loads(body)["choices"][0]["message"]["content"]
            )
            if text != ask.text:
                self._complain(ask, f"differs: {text[:100]!r} for {ask.text[:100]!r}")
            if ask.is_stream and not body.endswith(b"data: [DONE]\n\n"):
                self._complain(ask, f"does not end: {body[-100:]!r}")

    def _complain(self, ask: Ask, what: str) -> None:
        kind = "stream" if ask.is_stream else "whole"
        self._tally.faults.append(
            f"{ask.request_id} ({kind}, {ask.tokens} tokens, {ask.fault or 'well'}): {what}"
        )

    async def _take_response(
        self, reader: asyncio.StreamReader, leave_after: int | None
    ) -> tuple[int, dict[str, str], bytes]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._closes = fields.get("connection", "").lower() == "close"
        body = bytearray()
        dawdles = self._rng.random() < 0.1
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
                await self._pause(dawdles, body, leave_after)
            await reader.readexactly(2)
        else:
            left = int(fields["content-length"])
            while left:
                piece = await reader.read(min(left, 20 if dawdles and left < 2000 else MIB))
                if not piece:
                    raise ConnectionResetError
                body += piece
                left -= len(piece)
                await self._pause(dawdles, body, leave_after)
        return int(first.split()[1]), fields, bytes(body)

    async def _pause(self, dawdles: bool, body: bytearray, leave_after: int | None) -> None:
        if leave_after is not None and len(body) >= leave_after:
            raise LeftEarly
        if dawdles:
            await asyncio.sleep(self._rng.random() * 0.01)


def heads_ends(asks: list[Ask]) -> list[int]:
    """Where in the bytes of `asks` each head ends."""
    ends = []
    start = 0
    for ask in asks:
        ends.append(start + ask.wire.index(b"\r\n\r\n") + 4)
        start += len(ask.wire)
    return ends


def stream_text(body: bytes) -> str:
    text = []
    for event in body.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if data and data != b"[DONE]" and not data.startswith(b":"):
            choices = json.loads(data)["choices"]
            text.append(choices[0]["delta"].get("content") or "" if choices else "")
    return "".join(text)


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def run_round(router: RouterProcess, seed: str) -> Tally:
    tally = Tally()
    clients = [
        Client(router.address, f"{seed}-{index}", random.Random(f"{seed}-{index}"), tally)
        for index in range(CLIENTS_PER_ROUND)
    ]
    async with asyncio.timeout(2 * BOUND_S):
        await asyncio.gather(*(client.run() for client in clients))
    return tally


def assert_sound(fleet: Fleet, router: RouterProcess, before: Metrics, tally: Tally) -> Metrics:
    """What must hold after every round."""
    after = router.wait_settled()
    assert not tally.faults
    counted = after.requests_finished() - before.requests_finished()
    assert tally.certain <= counted <= tally.possible
    assert ("internal", "router") not in after.outcomes()
    assert after.sum("fairlead_connections_open") == 0
    idle = after.sum("fairlead_upstream_connections_idle")
    pools = router.debug_pools()
    assert (sum(row["open"] for row in pools), sum(row["idle"] for row in pools)) == (idle, idle)
    # What an engine still holds open is what the router holds open.
    engines_open = sum(fleet.stats(index)["connections_open"] for index in range(len(fleet.engines)))
    assert engines_open >= idle
    return after


def test_a_crowd_of_random_clients_and_faults_leaves_nothing_behind() -> None:
    seed = os.environ.get("FAIRLEAD_STRESS_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"FAIRLEAD_STRESS_SEED={seed}")
    specs = [EngineSpec(engine_class=kind, models=("tiny",)) for kind in ("instant", "instant", "fixed:1")]
    with Fleet(specs) as fleet:
        config = one_pool(fleet.urls, timeouts=TIMEOUTS)
        with running_router(config) as router:
            (pid,) = router.worker_pids()
            reading = router.metrics()
            sizes: list[int] = []
            total: Counter[str] = Counter()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline or len(sizes) < 3:
                tally = asyncio.run(run_round(router, f"{seed}-{len(sizes)}"))
                reading = assert_sound(fleet, router, reading, tally)
                total += tally.statuses
                sizes.append(rss_bytes(pid))
            assert router.worker_pids() == {pid}
            assert sizes[-1] - sizes[1] < RSS_GROWTH_BYTES_MAX, sizes
            assert total["200"] > 0
            assert total["cut"] > 0
            print(f"{len(sizes)} rounds, {dict(total)}, {reading.outcomes()}")

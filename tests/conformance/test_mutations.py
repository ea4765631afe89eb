"""Valid messages with a few octets changed: what the strict oracle makes of them is what must happen.

Each case is seeded by its number. Whatever a client sends, only whole and valid requests reach an upstream,
they are answered in order, and the connection ends or waits exactly where the oracle says. Whatever an
upstream answers, the client gets it whole, gets an error, or sees that it was cut. Nothing hangs, and the
worker outlives it all.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.conformance.harness import BOUND_S, Client, Conformance, Ended, Lane, Upstream
from tests.oracle import http1

CASES = 350
CASES_PER_TEST = 25
HEAD_BYTES_MAX = 32768
TARGET_BYTES_MAX = 8192

REQUESTS = (
    b"GET @x?y=z HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\n\r\n",
    b"POST @x HTTP/1.1\r\nHost: a.example\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\n"
    b"hello world",
    b"POST @x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 12\r\n\r\n",
    b"PUT @x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"POST http://b.example@x HTTP/1.1\r\nHost: b.example\r\nExpect: 100-continue\r\n"
    b"Content-Length: 2\r\n\r\nok",
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-A\r\nX-A: 1\r\n\r\n"
    b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 12\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nuntil close",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
)
PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"0",
    b"1",
    b"chunked",
    b",",
    b";",
    b"\xff",
    b"HTTP/1.1",
    b"\r\n\r\n",
    b"-",
    b"+",
)


def mutate(raw: bytes, chance: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.randrange(len(data))
        kind = chance.randrange(6)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del data[place : place + chance.choice((1, 1, 2, 5))]
        elif kind == 3:
            data[place:place] = chance.choice(PIECES)
        elif kind == 4:
            end = min(len(data), place + chance.choice((1, 4, 20)))
            data[place:place] = data[place:end]
        else:
            data[place : place + 1] = chance.choice(PIECES)
        if not data:
            break
    return bytes(data)


# ---- Requests


@dataclass
class Reading:
    """What the oracle makes of everything a client has sent."""

    methods: list[bytes] = field(default_factory=list)  # of the requests that get an answer, refused ones too
    bodies: list[bytes] = field(default_factory=list)  # of those that are whole and go on
    end: str = "waits"  # waits, refused, closed
    is_certain: bool = True


def read_requests(raw: bytes, lane_path: bytes) -> Reading:
    reading = Reading()
    while True:
        while raw.startswith(b"\r\n"):
            raw = raw[2:]
        if raw in (b"", b"\r"):
            return reading
        length = http1.find_head(raw, HEAD_BYTES_MAX)
        if length == 0:
            return reading
        facts = length if isinstance(length, str) else http1.parse_head(raw[:length], False, TARGET_BYTES_MAX)
        if isinstance(facts, str) or facts["method"] in (b"CONNECT", b"TRACE"):
            reading.methods.append(b"" if isinstance(facts, str) else facts["method"])  # type: ignore[arg-type]
            reading.end = "refused"
            return reading
        assert isinstance(length, int)
        raw = raw[length:]
        body, raw, verdict = read_body(facts, raw)
        if verdict == "more":
            return reading
        reading.methods.append(facts["method"])  # type: ignore[arg-type]
        if verdict == "bad":
            reading.end = "refused"
            return reading
        path: bytes = facts["path"]  # type: ignore[assignment]
        if not path.startswith(lane_path) or b"/models" in path or b"/deployments/" in path:
            reading.is_certain = False  # another pool, or a question of what the body is: not this test's
            return reading
        reading.bodies.append(body)
        if not facts["keep_alive"]:
            reading.end = "closed"
            return reading


def read_body(facts: dict[str, object], raw: bytes) -> tuple[bytes, bytes, str]:
    if facts["is_chunked"]:
        verdict, body, section, used = http1.decode_chunked(raw)
        if verdict == "end" and isinstance(http1.parse_trailer_section(section), str):
            verdict = "bad"
        return body, raw[used:], verdict
    length: int = facts["content_length"]  # type: ignore[assignment]
    length = max(0, length)  # -1: none
    if length > len(raw):
        return b"", b"", "bad" if length > 8 << 20 else "more"
    return raw[:length], raw[length:], "end"


class Responder:
    """Answers every whole request that reaches an address, in a thread of its own, and keeps what it saw."""

    def __init__(self, lane: Lane) -> None:
        self.seen: list[tuple[bytes, bytes]] = []  # request line and body
        self.faults: list[str] = []
        self._lane = lane
        self._end = socket.socket()  # stands for the end in the queue of arrivals
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while (sock := self._lane.arrivals.get()) is not self._end:
            upstream = self._lane.adopt(sock)
            threading.Thread(target=self._serve, args=(upstream,), daemon=True).start()

    def _serve(self, upstream: Upstream) -> None:
        try:
            while True:
                request = upstream.request()
                self.seen.append((request.start, request.body))
                is_head = request.start.startswith(b"HEAD ")
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if is_head else b"hi"))
        except Ended as ended:
            if ended.received:
                self.faults.append(f"cut: {ended.received!r}")
        except AssertionError as fault:
            if "sent its upstream nothing" not in str(fault):
                self.faults.append(str(fault))
        except OSError:
            pass

    def bodies(self, path: bytes) -> list[bytes]:
        """Of the requests for what is below `path`."""
        return [body for start, body in self.seen if path in start]

    def end(self) -> None:
        self._lane.arrivals.put(self._end)
        self._acceptor.join(BOUND_S)
        self._end.close()


@contextlib.contextmanager
def responding(lane: Lane) -> Iterator[Responder]:
    responder = Responder(lane)
    try:
        yield responder
    finally:
        responder.end()


@pytest.mark.parametrize("first", range(0, CASES, CASES_PER_TEST))
def test_mutated_requests_are_understood_as_the_oracle_does(
    conformance: Conformance, lane: Lane, first: int
) -> None:
    with responding(lane) as responder:
        for seed in range(first, first + CASES_PER_TEST):
            chance = random.Random(seed)
            path = lane.path + b"%d/" % seed
            whole = b"".join(chance.choice(REQUESTS) for _ in range(chance.choice((1, 1, 2, 3))))
            raw = mutate(whole.replace(b"@", path), chance)
            reading = read_requests(raw, path)
            if not reading.is_certain:
                continue
            client = lane.client()
            try:
                check_request(client, raw, reading, responder, path)
            except (AssertionError, Ended) as fault:
                raise AssertionError(f"seed {seed}: {raw!r}") from fault
            client.close()
        assert not responder.faults
    conformance.assert_alive()


def check_request(client: Client, raw: bytes, reading: Reading, responder: Responder, path: bytes) -> None:
    client.send(raw)
    statuses = []
    for method in reading.methods:
        answer = client.response("HEAD" if method == b"HEAD" else "GET", interim=[])
        statuses.append(answer.status)
    whole = len(reading.bodies)
    assert statuses[:whole] == [200] * whole, statuses
    assert responder.bodies(path) == reading.bodies
    if reading.end == "refused":
        assert 400 <= statuses[-1] < 600
    if reading.end == "waits":
        assert client.wait_read()
        # An invitation to go on is all that may come.
        assert client.buffer in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")
        assert not client.ended
        return
    client.half_close()
    assert client.rest()[0] == b""


# ---- Answers


def read_answer(raw: bytes) -> tuple[str, int, bytes]:
    """("whole", status, body), ("cut", status, what there is of the body) or ("bad", 0, b"")."""
    interim_count = 0
    while True:
        length = http1.find_head(raw, HEAD_BYTES_MAX)
        if length == 0:
            return "bad", 0, b""
        facts = length if isinstance(length, str) else http1.parse_head(raw[:length], True)
        if isinstance(facts, str) or interim_count > 16 or facts["status"] == 101:
            return "bad", 0, b""
        assert isinstance(length, int)
        raw = raw[length:]
        status: int = facts["status"]  # type: ignore[assignment]
        if status >= 200:
            break
        interim_count += 1
    if status in (204, 304):
        return "whole", status, b""
    if facts["is_chunked"]:
        verdict, body, section, _ = http1.decode_chunked(raw)
        if verdict == "end" and isinstance(http1.parse_trailer_section(section), str):
            verdict = "bad"
        return "whole" if verdict == "end" else "cut", status, body
    content_length: int = facts["content_length"]  # type: ignore[assignment]
    if content_length < 0:
        return "whole", status, raw
    return "whole" if len(raw) >= content_length else "cut", status, raw[:content_length]


@pytest.mark.parametrize("first", range(0, CASES, CASES_PER_TEST))
def test_mutated_answers_arrive_whole_or_as_an_error_or_visibly_cut(
    conformance: Conformance, lane: Lane, first: int
) -> None:
    for seed in range(first, first + CASES_PER_TEST):
        chance = random.Random(seed)
        raw = mutate(chance.choice(ANSWERS), chance)
        place = chance.randrange(len(raw) + 1)
        client = lane.client()
        client.send(lane.fill_in(b"GET @x HTTP/1.1\r\nHost: a\r\n\r\n"))
        upstream = lane.accept()
        upstream.request()
        upstream.send(raw[:place], raw[place:])
        upstream.half_close()
        try:
            check_answer(client, *read_answer(raw))
        except (AssertionError, Ended) as fault:
            raise AssertionError(f"seed {seed}: {raw[:place]!r} {raw[place:]!r}") from fault
        upstream.close()
        client.close()
    conformance.assert_alive()


def check_answer(client: Client, verdict: str, status: int, body: bytes) -> None:
    try:
        answer = client.response()
    except Ended as ended:
        assert verdict == "cut"
        assert ended.how == "reset"
        return
    if verdict == "whole":
        assert (answer.status, answer.body) == (status, body)
    else:
        assert answer.status == 502
        assert b'"type":"upstream_error"' in answer.body
    client.half_close()
    assert client.rest()[0] == b""

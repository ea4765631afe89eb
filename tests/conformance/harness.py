"""One real router between a raw client and a scripted upstream, both in the test's own hands.

Every case gets a `Lane`: a path prefix that the router sends to an address of the case's own (all of
127.0.0.0/8 is this machine, so one listening socket serves every lane and tells them apart by the address
that was dialled). The test thread plays client and upstream in turn; sockets buffer what the other is not
reading yet, so no case needs a thread.

Invariants: nothing sleeps; every wait ends after BOUND_S; `send` of several pieces waits until the router has
read each piece before it sends the next, so that a split point is really seen as one; what either side
receives is read by the strict oracle.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import http1
from tests.support.router_process import RouterProcess, running_router

BOUND_S = 10.0  # for any one wait: only a fault needs it
LANES = 200  # pools and routes are at most 256 each
DEFAULT_ADDRESS = "127.1.0.1"  # of the default pool

INET_DIAG = 4  # netlink family
SOCK_DIAG_BY_FAMILY = 20
ATTRIBUTE_INFO = 2  # INET_DIAG_INFO: a struct tcp_info
ASK_INFO = 1 << (ATTRIBUTE_INFO - 1)
BYTES_RECEIVED_PLACE = 128  # of tcpi_bytes_received in struct tcp_info
OPEN_STATES = (1, 4, 5, 8)  # established, or half closed by one side


class Ended(Exception):
    """The connection ended (`how`: eof or reset) before what was waited for had come."""

    def __init__(self, how: str, received: bytes) -> None:
        super().__init__(f"{how} after {received[-200:]!r}")
        self.how = how
        self.received = received


@dataclass(frozen=True)
class Message:
    """A request or response as the strict oracle reads it; `raw` is all of it, byte for byte."""

    raw: bytes
    start: bytes
    fields: tuple[tuple[str, bytes], ...]  # names in lower case
    body: bytes = b""
    trailers: tuple[tuple[str, bytes], ...] = ()
    framing: str = "none"  # none, length, chunked, close

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    def values(self, name: str) -> list[bytes]:
        return [value for field_name, value in self.fields if field_name == name]

    def value(self, name: str) -> bytes:
        (value,) = self.values(name)
        return value


class Wire:
    """One side's end of a connection with the router."""

    def __init__(self, sock: socket.socket, owner: str) -> None:
        self.sock = sock
        self.owner = owner
        self.buffer = b""
        self.ended = ""  # eof or reset, once seen
        self.sent_bytes = 0
        self.is_closed = False  # by us
        self.facts: dict[str, Any] = {}  # of the last head
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(BOUND_S)
        self._names = (sock.getpeername(), sock.getsockname())

    # ---- Sending

    def send(self, *pieces: bytes) -> None:
        """Each piece after the router has read the one before. A router that has closed is no error: a peer
        may speak into a closed connection.
        """
        for index, piece in enumerate(pieces):
            if index and not self.wait_read():
                return
            try:
                self.sock.sendall(piece)
                self.sent_bytes += len(piece)
            except (BrokenPipeError, ConnectionResetError):
                return

    def wait_read(self) -> bool:
        """Until the router has read everything that was sent; False when its end is gone."""
        deadline = time.monotonic() + BOUND_S
        while True:
            read = bytes_read(*self._names)
            if read is None:
                return False
            if read >= self.sent_bytes:
                return True
            assert time.monotonic() < deadline, f"the router does not read from its {self.owner}"
            select.select([], [], [], 0.0005)

    def half_close(self) -> None:
        with contextlib.suppress(OSError):  # a reset has come already
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.is_closed = True
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    # ---- Receiving

    def fill(self) -> bool:
        """Receives more; False when the connection has ended (`ended` says how)."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            self.ended = "reset"
            return False
        except TimeoutError:
            raise AssertionError(
                f"the router sent its {self.owner} nothing; so far: {self.buffer[-300:]!r}"
            ) from None
        if not data:
            self.ended = "eof"
            return False
        self.buffer += data
        return True

    def need(self) -> None:
        if not self.fill():
            raise Ended(self.ended, self.buffer)

    def rest(self) -> tuple[bytes, str]:
        """All bytes up to the end of the connection, and how it ended."""
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data, self.ended

    def take(self, size: int) -> bytes:
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def head(self, is_response: bool) -> tuple[dict[str, Any], bytes]:
        """The oracle's facts of the next head, and the head."""
        while True:
            length = http1.find_head(self.buffer, 1 << 20)
            assert not isinstance(length, str), (
                f"malformed head for the {self.owner}: {length} {self.buffer[:300]!r}"
            )
            if length:
                break
            self.need()
        head = self.take(length)
        facts = http1.parse_head(head, is_response, 1 << 16)
        assert not isinstance(facts, str), f"malformed head for the {self.owner}: {facts} {head!r}"
        self.facts = facts
        return facts, head

    def chunked(self) -> tuple[bytes, bytes, bytes]:
        """Body, trailer section and the raw bytes of a chunked body."""
        while True:
            verdict, body, trailers, length = http1.decode_chunked(self.buffer)
            assert verdict != "bad", f"malformed chunked body for the {self.owner}: {self.buffer!r}"
            if verdict == "end":
                return body, trailers, self.take(length)
            self.need()

    def message(self, facts: dict[str, Any], head: bytes, has_body: bool, to_end: bool) -> Message:
        fields = _lowered(facts["fields"])
        start = head.split(b"\r\n", 1)[0]
        if not has_body:
            return Message(head, start, fields)
        if facts["is_chunked"]:
            body, section, raw = self.chunked()
            trailers = http1.parse_trailer_section(section)
            assert not isinstance(trailers, str), f"malformed trailers for the {self.owner}: {section!r}"
            return Message(head + raw, start, fields, body, _lowered(trailers), "chunked")
        if facts["content_length"] >= 0:
            while len(self.buffer) < facts["content_length"]:
                self.need()
            body = self.take(facts["content_length"])
            return Message(head + body, start, fields, body, framing="length")
        if not to_end:
            return Message(head, start, fields)
        body, how = self.rest()
        if how != "eof":
            raise Ended(how, head + body)
        return Message(head + body, start, fields, body, framing="close")

    def is_quiet(self) -> bool:
        """Whether nothing has come and the connection is open as far as is known now."""
        return not self.buffer and not self.ended and not select.select([self.sock], [], [], 0)[0]


class Client(Wire):
    """The client's end."""

    def response(self, method: str = "GET", interim: list[int] | None = None) -> Message:
        """The next final response; statuses of interim ones before it are added to `interim`."""
        while True:
            facts, head = self.head(is_response=True)
            status = facts["status"]
            if status >= 200 or status == 101:
                break
            assert interim is not None, f"an interim response nobody expected: {head!r}"
            interim.append(status)
        has_body = method != "HEAD" and status not in (101, 204, 304)
        return self.message(facts, head, has_body, to_end=True)


class Upstream(Wire):
    """A scripted upstream's end of one connection the router made."""

    def request(self) -> Message:
        """The next request, whole."""
        facts, head = self.head(is_response=False)
        return self.message(facts, head, has_body=True, to_end=False)

    def request_head(self) -> Message:
        facts, head = self.head(is_response=False)
        return self.message(facts, head, has_body=False, to_end=False)


def octets(raw: bytes) -> tuple[bytes, ...]:
    """`raw` in pieces of one octet."""
    return tuple(raw[place : place + 1] for place in range(len(raw)))


def _lowered(fields: Sequence[http1.Field]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name.decode().lower(), value) for name, value, _, _ in fields)


@dataclass
class Lane:
    """A path prefix, and the connections the router makes for it."""

    number: int
    port: int
    router: RouterProcess
    arrivals: queue.SimpleQueue[socket.socket]
    wires: list[Wire] = field(default_factory=list)

    @property
    def path(self) -> bytes:
        return b"/lane%d/" % self.number

    @property
    def host(self) -> str:
        return f"127.2.0.{self.number}"

    @property
    def authority(self) -> bytes:
        """What the router says in Host."""
        return f"{self.host}:{self.port}".encode()

    def client(self) -> Client:
        client = Client(socket.create_connection(self.router.address, timeout=BOUND_S), "client")
        self.wires.append(client)
        return client

    def accept(self) -> Upstream:
        """The router's next connection to this lane's upstream."""
        try:
            sock = self.arrivals.get(timeout=BOUND_S)
        except queue.Empty:
            raise AssertionError("the router made no connection to the upstream") from None
        return self.adopt(sock)

    def adopt(self, sock: socket.socket) -> Upstream:
        upstream = Upstream(sock, "upstream")
        self.wires.append(upstream)
        return upstream

    def has_arrival(self) -> bool:
        return not self.arrivals.empty()

    def fill_in(self, raw: bytes) -> bytes:
        """`raw` with `@` in place of the lane's path written out."""
        return raw.replace(b"@", self.path)

    def close_all(self) -> None:
        """Closes every connection of the lane so far."""
        while self.wires:
            self.wires.pop().close()

    def end(self) -> None:
        self.close_all()
        with contextlib.suppress(queue.Empty):
            while True:
                self.arrivals.get_nowait().close()


class Conformance:
    """The router of a test session and the listening socket that all lanes share."""

    def __init__(self, **settings: Any) -> None:
        self._listener = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._arrivals: dict[str, queue.SimpleQueue[socket.socket]] = {}
        self._next_lane = 0
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        self.settings = settings
        self._pools: list[dict[str, Any]] = []
        self._routes: list[dict[str, Any]] = []
        self._closed = socket.socket()  # bound and not listening: connections are refused
        self._closed.bind(("127.0.0.1", 0))
        self.closed_port = self._closed.getsockname()[1]
        self.router: RouterProcess

    def add(self, pools: list[dict[str, Any]], routes: list[dict[str, Any]]) -> None:
        """Pools and routes beside those of the lanes; before the router is started."""
        self._pools += pools
        self._routes += routes

    def __enter__(self) -> Conformance:
        self.router = self._stack.enter_context(running_router(self.config()))
        (self.worker_pid,) = self.router.worker_pids()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._closed.close()
        self._thread.join(BOUND_S)

    def url(self, address: str) -> str:
        return f"http://{address}:{self.port}"

    def config(self) -> dict[str, Any]:
        lanes = [
            {
                "name": f"lane{number}",
                "endpoints": [{"url": self.url(f"127.2.0.{number}"), "models": [f"lane{number}"]}],
            }
            for number in range(1, LANES + 1)
        ]
        routes = [
            {"name": f"lane{number}", "match": {"path": f"/lane{number}/*"}, "pool": f"lane{number}"}
            for number in range(1, LANES + 1)
        ]
        default = {
            "name": "default",
            "default": True,
            "endpoints": [{"url": self.url(DEFAULT_ADDRESS), "models": ["default-model"]}],
        }
        return {
            **self.settings,
            "pools": [default, *self._pools, *lanes],
            "routes": [*self._routes, *routes],
        }

    def arrivals(self, address: str) -> queue.SimpleQueue[socket.socket]:
        return self._arrivals.setdefault(address, queue.SimpleQueue())

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.arrivals(sock.getsockname()[0]).put(sock)

    @contextlib.contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane nobody else uses meanwhile; afterwards the worker must still be the one it was."""
        number = self._next_lane % LANES + 1
        self._next_lane += 1
        lane = Lane(number, self.port, self.router, self.arrivals(f"127.2.0.{number}"))
        try:
            yield lane
        finally:
            lane.end()

    @contextlib.contextmanager
    def endpoint(self, address: str) -> Iterator[Lane]:
        """The connections to an address that is no lane's."""
        lane = Lane(0, self.port, self.router, self.arrivals(address))
        try:
            yield lane
        finally:
            lane.end()

    def assert_alive(self) -> None:
        """The worker is the process it was: nothing has crashed it."""
        assert self.router.worker_pids() == {self.worker_pid}, self.router.log()


_diagnosis = threading.local()


def bytes_read(router: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """Bytes the router has read from a connection, None when its end is gone; asked of sock_diag(7)."""
    if not hasattr(_diagnosis, "sock"):
        _diagnosis.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, INET_DIAG)
        _diagnosis.sock.settimeout(BOUND_S)
    sock: socket.socket = _diagnosis.sock
    name = struct.pack("!HH", router[1], ours[1])
    name += socket.inet_aton(router[0]).ljust(16, b"\0") + socket.inet_aton(ours[0]).ljust(16, b"\0")
    name += struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    asked = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, ASK_INFO, 0, 0xFFFFFFFF) + name
    sock.send(struct.pack("=IHHII", 16 + len(asked), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + asked)
    answer = sock.recv(8192)
    if struct.unpack_from("=H", answer, 4)[0] != SOCK_DIAG_BY_FAMILY:
        return None
    if answer[17] not in OPEN_STATES:
        return None
    waiting: int = struct.unpack_from("=I", answer, 16 + 56)[0]
    place = 16 + 72  # attributes follow inet_diag_msg
    while place < len(answer):
        length, kind = struct.unpack_from("=HH", answer, place)
        if kind == ATTRIBUTE_INFO:
            received: int = struct.unpack_from("=Q", answer, place + 4 + BYTES_RECEIVED_PLACE)[0]
            return received - waiting
        place += (length + 3) & ~3
    raise AssertionError("sock_diag gives no tcp_info")

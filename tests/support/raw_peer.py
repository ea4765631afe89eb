"""Clients and endpoints whose every byte the test decides: blocking sockets, no threads, one deadline for
any event.

`Peer` is one connection seen from either end; `Endpoint` listens where a router's endpoint should be and
gives the test each connection as a Peer. A test reads as the exchange goes: the client sends, the endpoint
receives, answers, and so on, and nothing happens in between.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

BOUND_S = 30.0  # for any one event: only a fault needs it


class Peer:
    """One connection; bytes that have come and were not asked for yet wait in `received`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(BOUND_S)
        self.sock = sock
        self.received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- Sending

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def send_response(self, body: bytes, status: str = "200 OK", **headers: str) -> None:
        """A whole response of known length; underscores in names of headers become hyphens."""
        self.send(response(body, status, **headers))

    def end_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Ends the connection so that the other end gets an error."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- Receiving

    def _more(self) -> bool:
        data = self.sock.recv(262144)
        self.received += data
        return bool(data)

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises: EOFError when the other end closes before."""
        while len(self.received) < size:
            if not self._more():
                raise EOFError(f"closed after {len(self.received)} of {size} bytes")
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def take_until(self, end: bytes) -> bytes:
        """Bytes up to and with `end`. Raises: EOFError when the other end closes before."""
        looked_at = 0
        while (at := self.received.find(end, max(0, looked_at - len(end)))) < 0:
            looked_at = len(self.received)
            if not self._more():
                raise EOFError(f"closed after {bytes(self.received[-200:])!r}, without {end!r}")
        return self.take(at + len(end))

    def take_head(self) -> tuple[str, dict[str, str]]:
        """First line, and the fields with their names in lower case."""
        first, *lines = self.take_until(b"\r\n\r\n").decode("latin-1").rstrip("\r\n").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return first, fields

    def take_chunk(self) -> bytes:
        """The next chunk; empty for the last one, whose trailers are skipped."""
        size = int(self.take_until(b"\r\n").split(b";")[0], 16)
        if size:
            data = self.take(size)
            assert self.take(2) == b"\r\n"
            return data
        while self.take_until(b"\r\n") != b"\r\n":
            pass
        return b""

    def take_body(self, fields: Mapping[str, str]) -> bytes:
        """The body that a head with these fields announces; to the connection's end when it has none."""
        if fields.get("transfer-encoding") == "chunked":
            body = bytearray()
            while chunk := self.take_chunk():
                body += chunk
            return bytes(body)
        if "content-length" in fields:
            return self.take(int(fields["content-length"]))
        while self._more():
            pass
        return self.take(len(self.received))

    def take_request(self) -> tuple[str, dict[str, str], bytes]:
        """As an endpoint: request line, fields, body."""
        line, fields = self.take_head()
        has_body = "content-length" in fields or "transfer-encoding" in fields
        return line, fields, self.take_body(fields) if has_body else b""

    def take_response(self) -> tuple[int, dict[str, str], bytes]:
        """As a client: status, fields, body. Raises: EOFError when it is cut short."""
        line, fields = self.take_head()
        return int(line.split()[1]), fields, self.take_body(fields)

    def wait_closed(self) -> str:
        """Waits for the other end to go: `end` or `reset`. What comes before it is thrown away."""
        try:
            while self.sock.recv(262144):
                pass
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return "reset"
        return "end"

    def is_quiet(self) -> bool:
        """Whether nothing has come: no byte, no end."""
        return not self.received and not select.select([self.sock], [], [], 0)[0]


class Endpoint:
    """A listening socket that plays an endpoint: `with Endpoint() as endpoint: endpoint.accept()`."""

    def __init__(self, backlog: int = 128, receive_bytes: int = 0) -> None:
        self.sock = socket.socket()
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(backlog)
        self.sock.settimeout(BOUND_S)
        self.port: int = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def accept(self) -> Peer:
        """The router's next connection."""
        return Peer(self.sock.accept()[0])

    def accept_after(self, client: Peer, data: bytes) -> Peer:
        """The connection that the router makes when `client` has sent `data`."""
        client.send(data)
        return self.accept()


def dial(address: tuple[str, int], *, receive_bytes: int = 0) -> Peer:
    """A client's connection; `receive_bytes` bounds what its kernel takes in without being asked, in segments
    as they are off loopback.
    """
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    sock.settimeout(BOUND_S)
    sock.connect(address)
    return Peer(sock)


def request(
    body: bytes = b"", method: str = "POST", path: str = "/v1/chat/completions", **headers: str
) -> bytes:
    """A whole request; underscores in names of headers become hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "host: router"]
    if body or method == "POST":
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat(stream: bool = False, model: str = "tiny", **fields: Any) -> bytes:
    """The body of a chat completion."""
    content = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.dumps({**content, "stream": True} if stream else content).encode()


def response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    if "content_type" not in headers:
        lines.append("content-type: application/json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

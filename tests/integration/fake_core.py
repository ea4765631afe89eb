"""A stand-in for the native core with the same door: a tiny HTTP/1.1 server on its own epoll, for tests of
the process layer.

    GET /who    who answered: {"pid", "column", "endpoints"}; keep-alive, `Connection: close` while draining
    GET /hold   a chunked answer that stays open until the client sends one more byte, or goes away
    GET /v1/*   handed over to Python

Faults are asked for by endpoint names in the configuration: `refuse-COLUMN` makes `prepare` fail in that
worker, `die-COLUMN` kills it there, `unstartable` makes it fail in any.
"""

import json
import os
import select
import signal
import socket
from collections.abc import Generator
from typing import Any


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.is_held = False


class FakeCore:
    """See the module."""

    def __init__(self, *, column: int, hooks: Any) -> None:
        self._column = column
        self._hooks = hooks
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[int, _Connection] = {}
        self._endpoint_names: list[str] = []
        self._draining = False
        self._log: list[bytes] = []
        self.addresses: dict[str, list[tuple[str, int]]] = {}
        self.tls: list[tuple[int, str]] = []

    def fileno(self) -> int:
        return self._epoll.fileno()

    def tick(self) -> int:
        return 1000

    def add_listener(self, fd: int, listener_index: int, tls: tuple[str, str, str] | None) -> None:
        sock = socket.socket(fileno=os.dup(fd))
        sock.setblocking(False)
        self._listeners[sock.fileno()] = sock
        if tls is not None:
            self.tls.append((listener_index, tls[0]))
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def stop_accepting(self) -> None:
        for sock in self._listeners.values():
            self._epoll.unregister(sock.fileno())
            sock.close()
        self._listeners.clear()

    def set_tls(self, listener_index: int, cert: str, key: str, min_version: str) -> None:
        self.tls.append((listener_index, cert))

    def prepare(self, tables: Any, _canary: Any = None, _canary_ratio: float = 0.0) -> object:
        names = [endpoint.name for endpoint in tables.endpoints]
        if "unstartable" in names:
            raise ValueError("endpoint unstartable: this core does not start")
        if f"refuse-{self._column}" in names:
            raise ValueError(f"column {self._column} refuses")
        if f"die-{self._column}" in names:
            os.kill(os.getpid(), signal.SIGKILL)
        return names

    def preparing(
        self, tables: Any, _canary: Any = None, _canary_ratio: float = 0.0
    ) -> Generator[None, None, object]:
        """In one step more than none."""
        yield None
        return self.prepare(tables)

    def set_staying(self, stays: bool) -> None:
        """It never stays."""

    def activate(self, prepared: Any) -> None:
        self._endpoint_names = prepared

    def set_addresses(self, endpoint_url: str, addresses: list[tuple[str, int]]) -> None:
        self.addresses[endpoint_url] = addresses

    def drain(self) -> None:
        self._draining = True
        self.stop_accepting()

    def close_idle(self) -> int:
        idle = [connection for connection in self._connections.values() if not connection.is_held]
        for connection in idle:
            self._close(connection)
        return len(idle)

    def open_exchanges(self) -> int:
        return sum(connection.is_held for connection in self._connections.values())

    def open_connections(self) -> int:
        return len(self._connections)

    def abort_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._close(connection)

    def take_log(self) -> bytes:
        lines, self._log = self._log, []
        return b"".join(lines)

    def debug_endpoints(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self._endpoint_names]

    def debug_pools(self) -> list[dict[str, Any]]:
        return [{"endpoint": name, "open": 0, "idle": 0} for name in self._endpoint_names]

    def close(self) -> None:
        self.stop_accepting()
        for connection in list(self._connections.values()):
            self._close(connection)
        self._epoll.close()

    def wake(self) -> None:
        for fd, _events in self._epoll.poll(0, 256):
            if fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd in self._connections:
                self._read(self._connections[fd])

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return  # Another worker was quicker.
        sock.setblocking(False)
        self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()]
        self._epoll.unregister(connection.sock.fileno())
        connection.sock.close()

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._close(connection)
            return
        if connection.is_held:
            connection.is_held = False
            connection.sock.sendall(b"4\r\ndone\r\n0\r\n\r\n")
            if self._draining:
                self._close(connection)
            return
        connection.received += data
        while b"\r\n\r\n" in connection.received:
            head, _, rest = connection.received.partition(b"\r\n\r\n")
            if not self._answer(connection, head):
                return
            connection.received = rest

    def _answer(self, connection: _Connection, head: bytes) -> bool:
        """Answers one request; whether the connection is still ours and open."""
        path = head.split(b" ")[1]
        self._log.append(json.dumps({"path": path.decode(), "column": self._column}).encode() + b"\n")
        if path.startswith(b"/v1/"):
            fd = os.dup(connection.sock.fileno())
            received = connection.received
            self._close(connection)
            self._hooks.hand_over(fd, received, False, "test")
            return False
        if path == b"/hold":
            connection.is_held = True
            connection.sock.sendall(
                b"HTTP/1.1 200 OK\r\nX-Pid: %d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"
                % os.getpid()
            )
            return True
        body = json.dumps(
            {"pid": os.getpid(), "column": self._column, "endpoints": self._endpoint_names}
        ).encode()
        close = b"Connection: close\r\n" if self._draining else b""
        connection.sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
            % (close, len(body), body)
        )
        if self._draining:
            self._close(connection)
            return False
        return True

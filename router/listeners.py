"""Listening sockets: bound once by the supervisor, one accept queue per worker and listener, never lost with
a worker.

Invariant: every socket here is listening, non-blocking and owned by the supervisor until `close`; a worker
gets a duplicate, so connections that wait in a dead worker's queue are still there for its replacement, or
for the next generation at a takeover. Addresses are `host:port`, `[v6]:port` or `unix:/path`. Neighbours:
supervisor.py shares them out, takeover.py passes them on.
"""

import errno
import os
import socket
import stat
from dataclasses import dataclass, field

from router import limits
from router.schema.address import TcpAddress, UnixAddress, parse_address


class ListenError(Exception):
    """An address cannot be listened on; the message says which, why and what to do."""


@dataclass
class Listener:
    """The sockets of one configured address."""

    address: str  # as configured: the key by which the next generation finds it
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def bound_address(self) -> str:
        """The address with the port the kernel chose when it was configured as 0."""
        return format_address(self.sockets[0])

    def share(self, worker_index: int, worker_count: int) -> list[socket.socket]:
        """Where worker `worker_index` accepts: every socket has a worker and every worker a socket."""
        if len(self.sockets) <= worker_count:
            return [self.sockets[worker_index % len(self.sockets)]]
        return self.sockets[worker_index::worker_count]

    def close(self) -> None:
        """Closes this process's copies; the queue lives on while another process holds one."""
        for sock in self.sockets:
            sock.close()
        self.sockets = []


def format_address(sock: socket.socket) -> str:
    """The socket's own address in the notation of the configuration."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def open_listener(address: str, queue_count: int, inherited: list[socket.socket] | None = None) -> Listener:
    """Listens on `address` with `queue_count` accept queues, the `inherited` ones first.

    A unix socket has one queue, shared. Inherited sockets bound without SO_REUSEPORT are shared likewise.
    Raises: ListenError.
    """
    listener = Listener(address, list(inherited or ()))
    target = parse_address(address)
    if isinstance(target, UnixAddress):
        if not listener.sockets:
            listener.sockets.append(_bind_unix(target.path))
        return listener
    family, sockaddr = _resolve(target)
    try:
        if listener.sockets:
            sockaddr = listener.sockets[0].getsockname()
            if not listener.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                return listener
        elif sockaddr[1] != 0:
            _refuse_occupied(address, family, sockaddr)
        while len(listener.sockets) < queue_count:
            listener.sockets.append(_bind_tcp(address, family, sockaddr))
            sockaddr = listener.sockets[0].getsockname()  # The others join the port the first one got.
    except ListenError:
        if not inherited:
            listener.close()
        raise
    return listener


def sockets_from_systemd() -> dict[str, list[socket.socket]]:
    """Listening sockets passed by socket activation (LISTEN_FDS), by address; the variables are consumed."""
    count = os.environ.pop("LISTEN_FDS", "")
    pid = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    found: dict[str, list[socket.socket]] = {}
    if not count.isdigit() or pid != str(os.getpid()):
        return found
    for fd in range(3, 3 + int(count)):  # SD_LISTEN_FDS_START is 3.
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sock.set_inheritable(False)
        found.setdefault(format_address(sock), []).append(sock)
    return found


def _resolve(target: TcpAddress) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise ListenError(f"cannot listen on {target}: the host name is unknown ({exc.strerror})") from exc
    family, _, _, _, sockaddr = found[0]
    return family, (str(sockaddr[0]), *sockaddr[1:])


def _refuse_occupied(address: str, family: socket.AddressFamily, sockaddr: tuple[str | int, ...]) -> None:
    # SO_REUSEPORT would let a second router of the same user share the port unnoticed; a bind without it
    # tells.
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(probe, address, family, sockaddr)


def _bind_tcp(address: str, family: socket.AddressFamily, sockaddr: tuple[str | int, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections inherit these, so that accepting one costs no further call.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.SOCKET_SEND_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits.SOCKET_RECEIVE_BUFFER_BYTES)
        _bind(sock, address, family, sockaddr)
        sock.listen(limits.LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {exc.strerror}") from exc
    except ListenError:
        sock.close()
        raise
    return sock


def _bind(
    sock: socket.socket, address: str, family: socket.AddressFamily, sockaddr: tuple[str | int, ...]
) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1
        )  # "[::]:80" beside "0.0.0.0:80" must work.
    try:
        sock.bind(sockaddr)
    except OSError as exc:
        advice = {
            errno.EADDRINUSE: "another process listens there; stop it, choose another port, "
            "or replace a running router with `fairlead upgrade`",
            errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(exc.errno or 0, "check the address")
        raise ListenError(f"cannot listen on {address}: {exc.strerror} ({advice})") from exc


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if _is_stale(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(limits.LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise ListenError(
            f"cannot listen on unix:{path}: {exc.strerror} (the path must be free, its folder writable)"
        ) from exc
    return sock


def _is_stale(path: str) -> bool:
    """Whether `path` is a socket that nobody listens on: what a killed process leaves behind."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False

"""Frames between the supervisor, its workers and the control socket, over unix stream sockets.

A frame is a little-endian header (`u32` payload length, `u32` number of file descriptors), then one tagged
msgspec Struct in msgpack; descriptors travel beside it as SCM_RIGHTS. Invariant: a channel never blocks its
loop and never holds more than `OUTGOING_BYTES_MAX` for a peer that does not read; past that it is broken and
closed. Neighbours: supervisor.py and worker.py (one channel per worker), takeover.py (the control socket).
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from typing import Any

import msgspec

from router.pieces import Pieces
from router.schema.config import AccessLog
from router.snapshot import CoreOptions

FRAME_BYTES_MAX = 32 << 20  # A snapshot of 1,000 endpoints is under 1 MiB; more than this is a broken peer.
OUTGOING_BYTES_MAX = 64 << 20  # Two frames of the largest size: a peer that reads nothing is cut after that.
DESCRIPTORS_PER_SEND = 200  # Linux refuses more than 253 (SCM_MAX_FD) in one sendmsg.
RECEIVE_BYTES = 65536

_HEADER = struct.Struct("<II")


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of every message; the class name is the tag on the wire."""


class WorkerListener(Frame, frozen=True, kw_only=True):
    """One accepting socket a worker owns."""

    fd: int
    listener_index: int
    tls: tuple[str, str, str] | None = None  # certificate path, key path, oldest version spoken


class CanaryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker builds beside the rest and gives to a share of the sessions."""

    ratio: float
    tables: Pieces


class Start(Frame, frozen=True, kw_only=True):
    """Supervisor → worker, first frame: everything a worker needs to serve."""

    worker_index: int
    column: int
    listeners: list[WorkerListener]
    table_fds: list[int]  # of shared_state.Tables, in its order
    version: int
    options: CoreOptions
    access_log: AccessLog
    drain_deadline_ms: int  # for when the supervisor is gone
    tables: Pieces
    canary: CanaryPlan | None = None


class Ready(Frame, frozen=True, kw_only=True):
    """Worker → supervisor: accepting."""

    pid: int


class Failed(Frame, frozen=True, kw_only=True):
    """Worker → supervisor: cannot serve, exits after this."""

    reason: str


class Heartbeat(Frame, frozen=True, kw_only=True):
    """Worker → supervisor, once a second: the loop runs."""

    open_exchanges: int
    open_connections: int
    loop_lag_us: int
    rss_bytes: int
    log_lines_dropped: int = 0


class Prepare(Frame, frozen=True, kw_only=True):
    """Supervisor → worker, phase one of another configuration: build its snapshot aside."""

    version: int
    drain_deadline_ms: int
    tables: Pieces
    canary: CanaryPlan | None = None


class Prepared(Frame, frozen=True, kw_only=True):
    """Worker → supervisor: the answer to Prepare; `refusal` is empty when the snapshot stands ready."""

    version: int
    refusal: str = ""
    longest_step_us: int = 0  # of CPU time, that its loop did nothing else


class Activate(Frame, frozen=True, kw_only=True):
    """Supervisor → worker, phase two: every worker has prepared this version, use it."""

    version: int


class Abort(Frame, frozen=True, kw_only=True):
    """Supervisor → worker, phase two instead of Activate: forget what was prepared."""

    version: int


class Activated(Frame, frozen=True, kw_only=True):
    """Worker → supervisor: requests from now on see this version."""

    version: int
    longest_step_us: int = 0  # of CPU time, the activation itself included


class SetTls(Frame, frozen=True, kw_only=True):
    """Supervisor → worker: the certificate files of a listener have changed and are a good pair."""

    listener_index: int
    certificate: str
    key: str
    min_version: str


class RenewEndpointTls(Frame, frozen=True, kw_only=True):
    """Supervisor → worker: files of an endpoint's TLS settings have changed and load."""

    endpoint: str


class Drain(Frame, frozen=True, kw_only=True):
    """Supervisor → worker: accept no more, finish what is open, cut it at the deadline, exit 0."""

    deadline_ms: int
    idle_grace_ms: int  # how long an idle keep-alive connection may still bring one last request


class ReopenLog(Frame, frozen=True, kw_only=True):
    """Supervisor → worker: the access log file was rotated."""


class Query(Frame, frozen=True, kw_only=True):
    """Supervisor → worker: what the native core shows of itself (`endpoints` or `pools`)."""

    query_id: int
    subject: str


class Answer(Frame, frozen=True, kw_only=True):
    """Worker → supervisor: the answer to a Query."""

    query_id: int
    rows: list[dict[str, Any]]


class ReloadRequest(Frame, frozen=True, kw_only=True):
    """Control client → supervisor."""


class ReloadAnswer(Frame, frozen=True, kw_only=True):
    """Supervisor → control client: `version` is the one in force now."""

    ok: bool
    message: str
    version: int = 0


class InheritedSocket(Frame, frozen=True, kw_only=True):
    """Names one of the listening sockets in a TakeoverOffer's descriptors, in order."""

    address: str  # as in the configuration that bound it
    is_admin: bool = False


class TakeoverRequest(Frame, frozen=True, kw_only=True):
    """New supervisor → old: give me your sockets and tables."""

    pid: int


class TakeoverOffer(Frame, frozen=True, kw_only=True):
    """Old supervisor → new. Descriptors: the sockets, then the tables as in Start."""

    pid: int
    sockets: list[InheritedSocket]
    column_count: int
    columns_in_use: list[int]
    endpoints: bytes  # shared_state.DirectoryState of the slots
    routes: bytes  # and of the route indexes


class TakeoverReady(Frame, frozen=True, kw_only=True):
    """New supervisor → old: my workers accept; drain."""


class TakeoverAccepted(Frame, frozen=True, kw_only=True):
    """Old supervisor → new: draining; these processes write their columns until they exit."""

    pid_by_column: dict[int, int]


class UpgradeRequest(Frame, frozen=True, kw_only=True):
    """`fairlead upgrade` → supervisor: how were you started? Tell me when a successor serves."""


class UpgradePlan(Frame, frozen=True, kw_only=True):
    """Supervisor → `fairlead upgrade`. Descriptors: stdout and stderr, for the new process."""

    pid: int
    arguments: list[str]
    working_directory: str


class UpgradeDone(Frame, frozen=True, kw_only=True):
    """Supervisor → `fairlead upgrade`: the process `pid` serves now."""

    pid: int


class Refused(Frame, frozen=True, kw_only=True):
    """Either side of the control socket: no, and why."""

    reason: str


AnyFrame = (
    Start
    | Ready
    | Failed
    | Heartbeat
    | Prepare
    | Prepared
    | Activate
    | Abort
    | Activated
    | SetTls
    | RenewEndpointTls
    | Drain
    | ReopenLog
    | Query
    | Answer
    | ReloadRequest
    | ReloadAnswer
    | TakeoverRequest
    | TakeoverOffer
    | TakeoverReady
    | TakeoverAccepted
    | UpgradeRequest
    | UpgradePlan
    | UpgradeDone
    | Refused
)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)


class ChannelClosedError(Exception):
    """The peer is gone, or what it sent is no frame."""


class Channel:
    """One end of a frame stream, owned by one event loop.

    Ownership: the channel closes its socket; descriptors received belong to whoever called `receive`.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._incoming_fds: list[int] = []
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._outgoing_bytes = 0
        self._writer_armed = False
        self._reading: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def peer_credentials(self) -> tuple[int, int]:
        """(pid, uid) of the process at the other end, as the kernel knows them."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _gid = struct.unpack("3i", raw)
        return pid, uid

    def post(self, frame: AnyFrame, fds: list[int] | None = None) -> None:
        """Queues one frame and sends what the socket takes now; the caller keeps its descriptors.

        Raises: ChannelClosedError when the peer is gone or reads nothing.
        """
        if self.closed:
            raise ChannelClosedError("channel is closed")
        payload = _encoder.encode(frame)
        duplicates = [os.dup(fd) for fd in fds or ()]
        view = memoryview(_HEADER.pack(len(payload), len(duplicates)) + payload)
        # Linux takes a bounded number of descriptors per call: extra batches ride on single bytes of the
        # header.
        while len(duplicates) > DESCRIPTORS_PER_SEND:
            self._outgoing.append((view[:1], duplicates[:DESCRIPTORS_PER_SEND]))
            view, duplicates = view[1:], duplicates[DESCRIPTORS_PER_SEND:]
        self._outgoing.append((view, duplicates))
        self._outgoing_bytes += _HEADER.size + len(payload)
        if self._outgoing_bytes > OUTGOING_BYTES_MAX:
            self.close()
            raise ChannelClosedError("the peer does not read")
        self._flush()

    async def receive(self) -> tuple[AnyFrame, list[int]]:
        """The next frame and the descriptors that came with it.

        Raises: ChannelClosedError at end of stream or on bytes that are no frame.
        """
        while True:
            taken = self._take()
            if taken is not None:
                return taken
            if self.closed:
                raise ChannelClosedError("channel is closed")
            try:
                data, fds, _flags, _address = socket.recv_fds(self._sock, RECEIVE_BYTES, DESCRIPTORS_PER_SEND)
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            except OSError as exc:
                self.close()
                raise ChannelClosedError(str(exc)) from exc
            for fd in fds:
                os.set_inheritable(fd, False)
            self._incoming_fds += fds
            if not data:
                self.close()
                raise ChannelClosedError("the peer closed")
            self._incoming += data

    def close(self) -> None:
        """Closes the socket and the descriptors waiting in either direction; may be repeated."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for waiting in (self._reading, self._drained):
            if waiting is not None:
                _resolve(waiting)
        for _view, fds in self._outgoing:
            _close_all(fds)
        self._outgoing.clear()
        _close_all(self._incoming_fds)
        self._incoming_fds = []
        self._sock.close()

    async def flushed(self) -> None:
        """Returns when the kernel has everything posted so far, or the channel is closed."""
        if self._outgoing and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained

    def _take(self) -> tuple[AnyFrame, list[int]] | None:
        if len(self._incoming) < _HEADER.size:
            return None
        length, fd_count = _HEADER.unpack_from(self._incoming)
        if length > FRAME_BYTES_MAX:
            self.close()
            raise ChannelClosedError(f"a frame of {length} bytes is over the bound")
        end = _HEADER.size + length
        if len(self._incoming) < end:
            return None
        if len(self._incoming_fds) < fd_count:
            self.close()
            raise ChannelClosedError("descriptors are missing")
        payload = bytes(self._incoming[_HEADER.size : end])
        del self._incoming[:end]
        fds, self._incoming_fds = self._incoming_fds[:fd_count], self._incoming_fds[fd_count:]
        try:
            return _decoder.decode(payload), fds
        except msgspec.MsgspecError as exc:
            _close_all(fds)
            self.close()
            raise ChannelClosedError(f"not a frame: {exc}") from exc

    async def _readable(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._reading = future
        self._loop.add_reader(self._sock.fileno(), _resolve, future)
        try:
            await future
        finally:
            self._reading = None
            if not self.closed:
                self._loop.remove_reader(self._sock.fileno())

    def _flush(self) -> None:
        while self._outgoing:
            view, fds = self._outgoing[0]
            try:
                sent = socket.send_fds(self._sock, [view], fds) if fds else self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                if not self._writer_armed:
                    self._writer_armed = True
                    self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self.close()  # Whoever waits in `receive` learns it there.
                return
            _close_all(fds)
            self._outgoing_bytes -= sent
            if sent == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (view[sent:], [])
        if self._writer_armed:
            self._writer_armed = False
            self._loop.remove_writer(self._sock.fileno())
        if self._drained is not None:
            _resolve(self._drained)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

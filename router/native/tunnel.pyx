"""Connections that stop being HTTP, or stop being ours: bytes pass both ways and nobody looks at them.

An upgraded connection (WebSocket) tunnels to its endpoint; a TLS connection that is handed to Python tunnels to a
socket pair, so that Python sees plain text while the native side keeps the TLS state. Back-pressure works as in a
relay: who cannot send pauses the other.
"""

from libc.stdint cimport uint8_t
from posix.uio cimport iovec
from posix.unistd cimport close
from router.native.buffer cimport buffer_bytes, buffer_release, buffer_size
from router.native.conn cimport CONN_BLOCKED, CONN_UPSTREAM, conn_t
from router.native.ending cimport client_gone, forget_downstream
from router.native.exchange cimport (
    DOWN_TUNNEL, EXCHANGE_TUNNEL, X_CLOSE_DOWNSTREAM, X_FINISHED, X_HEAD_SENT, X_UPLOAD_DONE, core_t, downstream_t,
    exchange_new, exchange_t,
)
from router.native.metrics cimport COUNT_HANDOVERS, COUNT_REQUESTS_IN_FLIGHT, metrics_add
from router.native.pool cimport upstream_t
from router.native.slab cimport slab_give, slab_take

cdef extern from "sys/socket.h" nogil:
    int socketpair(int family, int kind, int protocol, int* fds)
    enum: AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC


cdef void begin_tunnel(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data,
                       size_t size) noexcept nogil:
    cdef downstream_t* down = x.down
    cdef iovec pieces[2]
    pieces[0].iov_base = core.compose
    pieces[0].iov_len = head_length
    pieces[1].iov_base = <void*>data
    pieces[1].iov_len = size
    core.driver.send(&down.conn, pieces, 2)
    x.bytes_out += head_length + size
    x.flags |= X_HEAD_SENT
    x.state = EXCHANGE_TUNNEL
    down.phase = DOWN_TUNNEL
    if buffer_size(&down.inbox):         # sent before the 101 was seen: only now is it the other protocol's
        pass_through(core, x, &x.up.conn, &down.conn, buffer_bytes(&down.inbox), buffer_size(&down.inbox))
        buffer_release(&down.inbox)


cdef void pass_through(core_t* core, exchange_t* x, conn_t* target, conn_t* source, const uint8_t* data,
                       size_t size) noexcept nogil:
    cdef iovec piece
    piece.iov_base = <void*>data
    piece.iov_len = size
    x.last_byte_us = core.driver.now_us
    core.driver.send(target, &piece, 1)
    if target.flags & CONN_BLOCKED:
        core.driver.pause_reading(source)


cdef void hand_over(core_t* core, downstream_t* down, const uint8_t* data, size_t size) noexcept nogil:
    """The connection becomes Python's. One with TLS, or with an answer that the client has not taken yet, keeps its
    native end, and Python gets the plain text through a socket pair.
    """
    cdef int fds[2]
    cdef upstream_t* up
    cdef exchange_t* x
    metrics_add(&core.metrics, COUNT_HANDOVERS, 1)
    fds[0] = core.driver.release(&down.conn)
    if fds[0] >= 0:
        core.hooks.hand_over(core, down, fds[0], data, size)
        forget_downstream(core, down)
        return
    x = exchange_new(core, down, data, &core.head)
    up = <upstream_t*>slab_take(sizeof(upstream_t))
    if x == NULL or up == NULL or socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0:
        slab_give(up, sizeof(upstream_t))
        client_gone(core, down)
        return
    if core.driver.adopt(core.driver, &up.conn, fds[0], CONN_UPSTREAM, NULL) < 0:
        close(fds[1])
        slab_give(up, sizeof(upstream_t))
        client_gone(core, down)
        return
    up.exchange = x
    x.up = up
    x.flags |= X_UPLOAD_DONE | X_CLOSE_DOWNSTREAM | X_FINISHED      # booked by whoever answers, if at all
    metrics_add(&core.metrics, COUNT_REQUESTS_IN_FLIGHT, -1)
    x.state = EXCHANGE_TUNNEL
    x.last_byte_us = core.driver.now_us
    down.phase = DOWN_TUNNEL
    core.hooks.hand_over(core, down, fds[1], data, size)

"""The floor: a bare epoll relay that accepts, connects and moves bytes both ways, with no HTTP at all.

What no proxy on this kernel can go below: per message one wake, one recv and one send. A client's connection keeps its
own upstream connection from accept to close; upstreams are taken in turn. Nothing is measured here; `python -m
bench.peers.floor` runs it in a process of its own.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from bench.native.sockets cimport (
    EAGAIN, EINTR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL,
    close, epoll_create1, epoll_event, epoll_wait, errno, recv, send, socket_accept, socket_connect, socket_listen,
    watch)

cdef enum:
    EVENTS_PER_WAKE = 512
    ACCEPTS_PER_WAKE = 64
    UPSTREAMS_MAX = 16
    RELAY_BYTES = 65536

cdef struct end_t:                   # one socket of a pair
    int fd
    uint8_t is_dead
    uint8_t wants_write
    uint32_t held_bytes              # read from the other end, not yet taken by this one
    uint32_t held_sent_bytes
    char* held
    end_t* other
    end_t* next_dead

cdef struct relay_t:
    int epoll_fd
    end_t listener
    uint16_t upstreams[UPSTREAMS_MAX]
    uint32_t upstream_count
    uint32_t turn
    end_t* dead
    char buffer[RELAY_BYTES]


cdef void _bury(relay_t* self, end_t* end) noexcept nogil:
    if end.is_dead:
        return
    end.is_dead = 1
    close(end.fd)
    end.next_dead = self.dead
    self.dead = end


cdef void _close_pair(relay_t* self, end_t* end) noexcept nogil:
    _bury(self, end.other)
    _bury(self, end)


cdef void _free_dead(relay_t* self) noexcept nogil:
    cdef end_t* next_dead
    while self.dead != NULL:
        next_dead = self.dead.next_dead
        free(self.dead.held)
        free(self.dead)
        self.dead = next_dead


cdef void _watch_end(relay_t* self, end_t* end) noexcept nogil:
    """A full end is written to when it can be; its other end is not read until then."""
    watch(self.epoll_fd, EPOLL_CTL_MOD, end.fd,
          (EPOLLOUT if end.held_bytes else 0) | (0 if end.other.held_bytes else EPOLLIN), end)


cdef bint _hold(relay_t* self, end_t* end, const char* data, uint32_t size_bytes) noexcept nogil:
    if end.held == NULL:
        end.held = <char*>calloc(1, RELAY_BYTES)
        if end.held == NULL:
            return False
    memcpy(end.held, data, size_bytes)
    end.held_bytes = size_bytes
    end.held_sent_bytes = 0
    _watch_end(self, end)
    _watch_end(self, end.other)
    return True


cdef ssize_t _send_some(int fd, const char* data, size_t size_bytes) noexcept nogil:
    cdef ssize_t sent_bytes = send(fd, data, size_bytes, MSG_NOSIGNAL)
    if sent_bytes < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    return sent_bytes


cdef void _end_ready(relay_t* self, end_t* end, uint32_t events) noexcept nogil:
    cdef ssize_t size_bytes, sent_bytes
    if events & EPOLLOUT and end.held_bytes:
        sent_bytes = _send_some(end.fd, end.held + end.held_sent_bytes, end.held_bytes - end.held_sent_bytes)
        if sent_bytes < 0:
            _close_pair(self, end)
            return
        end.held_sent_bytes += <uint32_t>sent_bytes
        if end.held_sent_bytes == end.held_bytes:
            end.held_bytes = 0
            _watch_end(self, end)
            _watch_end(self, end.other)
    if not events & (EPOLLIN | EPOLLERR | EPOLLHUP) or end.other.held_bytes:
        return
    size_bytes = recv(end.fd, self.buffer, RELAY_BYTES, 0)
    if size_bytes < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if size_bytes <= 0:
        _close_pair(self, end)
        return
    sent_bytes = _send_some(end.other.fd, self.buffer, size_bytes)
    if sent_bytes < 0 or (sent_bytes < size_bytes and not _hold(
            self, end.other, self.buffer + sent_bytes, <uint32_t>(size_bytes - sent_bytes))):
        _close_pair(self, end)


cdef void _accept(relay_t* self) noexcept nogil:
    cdef end_t* near
    cdef end_t* far
    cdef int64_t error = 0
    cdef int fd, upstream_fd, _accepted
    for _accepted in range(ACCEPTS_PER_WAKE):
        fd = socket_accept(self.listener.fd)
        if fd < 0:
            return
        upstream_fd = socket_connect(self.upstreams[self.turn % self.upstream_count], &error)
        self.turn += 1
        if upstream_fd < 0:
            close(fd)
            continue
        near = <end_t*>calloc(1, sizeof(end_t))
        far = <end_t*>calloc(1, sizeof(end_t))
        if near == NULL or far == NULL:
            free(near)
            free(far)
            close(fd)
            close(upstream_fd)
            return
        near.fd, near.other = fd, far
        far.fd, far.other = upstream_fd, near
        watch(self.epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN, near)
        watch(self.epoll_fd, EPOLL_CTL_ADD, upstream_fd, EPOLLIN, far)


cdef void _serve(relay_t* self) noexcept nogil:
    cdef epoll_event events[EVENTS_PER_WAKE]
    cdef end_t* end
    cdef int ready_count, index
    while True:
        ready_count = epoll_wait(self.epoll_fd, events, EVENTS_PER_WAKE, -1)
        if ready_count < 0 and errno != EINTR:
            return
        for index in range(ready_count):
            end = <end_t*>events[index].data.ptr
            if end == &self.listener:
                _accept(self)
            elif not end.is_dead:
                _end_ready(self, end, events[index].events)
        _free_dead(self)


def serve(port: int, upstream_ports: list[int]) -> None:
    """Relays 127.0.0.1:port to the upstreams until the process is killed.

    Raises: OSError when the port cannot be listened on.
    """
    cdef relay_t* relay
    cdef int index
    if not 0 < len(upstream_ports) <= UPSTREAMS_MAX:
        raise ValueError(f"1 to {UPSTREAMS_MAX} upstreams")
    relay = <relay_t*>calloc(1, sizeof(relay_t))
    if relay == NULL:
        raise MemoryError
    relay.upstream_count = <uint32_t>len(upstream_ports)
    for index in range(<int>relay.upstream_count):
        relay.upstreams[index] = upstream_ports[index]
    relay.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    relay.listener.fd = socket_listen(port, 4096)
    if relay.listener.fd < 0 or relay.epoll_fd < 0:
        raise OSError(errno, "relay listener")
    watch(relay.epoll_fd, EPOLL_CTL_ADD, relay.listener.fd, EPOLLIN, &relay.listener)
    with nogil:
        _serve(relay)

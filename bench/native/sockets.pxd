"""Loopback sockets and the clock, shared by the bench's native programs; every call returns at once."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void* ptr
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int event_count_max, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_NOSIGNAL
    ssize_t recv(int fd, void* data, size_t size_bytes, int flags)
    ssize_t send(int fd, const void* data, size_t size_bytes, int flags)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<errno.h>" nogil:
    int errno, EAGAIN, EINTR, EINPROGRESS

cdef uint64_t clock_ns() noexcept nogil                               # CLOCK_MONOTONIC
cdef int socket_listen(uint16_t port, int backlog) noexcept nogil     # port 0: any; the descriptor, or -1
cdef int socket_port(int fd) noexcept nogil
cdef int socket_accept(int listener_fd) noexcept nogil                # non-blocking, no Nagle delay; -1: none waiting
cdef int socket_connect(uint16_t port, int64_t* error) noexcept nogil  # under way or done; -1 with the errno in `error`
cdef int socket_error(int fd) noexcept nogil                          # SO_ERROR: how a connect went
cdef void socket_reset_on_close(int fd) noexcept nogil                # close() frees the port at once, with a reset
cdef int timer_open() noexcept nogil                                  # a timerfd on CLOCK_MONOTONIC
cdef void timer_arm(int fd, uint64_t at_ns) noexcept nogil            # absolute; 0 disarms
cdef void timer_clear(int fd) noexcept nogil
cdef int watch(int epoll_fd, int operation, int fd, uint32_t events, void* owner) noexcept nogil

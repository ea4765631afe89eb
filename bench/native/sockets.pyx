"""Loopback sockets and the clock, shared by the bench's native programs.

Everything binds and connects to 127.0.0.1 only: a benchmark must not be able to load anything but its own machine. Used
by peer (clients and engines in one loop) and relay (the floor).
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_REUSEADDR, SO_ERROR, SO_LINGER
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    cdef struct linger_t "linger":
        int l_onoff
        int l_linger
    int c_socket "socket"(int domain, int kind, int protocol)
    int c_bind "bind"(int fd, const sockaddr* address, socklen_t size_bytes)
    int c_listen "listen"(int fd, int backlog)
    int c_connect "connect"(int fd, const sockaddr* address, socklen_t size_bytes)
    int c_accept4 "accept4"(int fd, sockaddr* address, socklen_t* size_bytes, int flags)
    int c_getsockname "getsockname"(int fd, sockaddr* address, socklen_t* size_bytes)
    int c_setsockopt "setsockopt"(int fd, int level, int option, const void* value, socklen_t size_bytes)
    int c_getsockopt "getsockopt"(int fd, int level, int option, void* value, socklen_t* size_bytes)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP
    uint32_t INADDR_LOOPBACK
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC
    cdef struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int clock_gettime(int clock, timespec* at)

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* old)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void* data, size_t size_bytes)


cdef uint64_t clock_ns() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return <uint64_t>at.tv_sec * 1000000000 + <uint64_t>at.tv_nsec


cdef void _loopback(sockaddr_in* address, uint16_t port) noexcept nogil:
    memset(address, 0, sizeof(sockaddr_in))
    address.sin_family = AF_INET
    address.sin_port = htons(port)
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK)


cdef void _set_flag(int fd, int level, int option) noexcept nogil:
    cdef int one = 1
    c_setsockopt(fd, level, option, &one, sizeof(int))


cdef int socket_listen(uint16_t port, int backlog) noexcept nogil:
    cdef sockaddr_in address
    cdef int fd = c_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -1
    _set_flag(fd, SOL_SOCKET, SO_REUSEADDR)
    _loopback(&address, port)
    if c_bind(fd, <sockaddr*>&address, sizeof(address)) != 0 or c_listen(fd, backlog) != 0:
        close(fd)
        return -1
    return fd


cdef int socket_port(int fd) noexcept nogil:
    cdef sockaddr_in address
    cdef socklen_t size_bytes = sizeof(address)
    if c_getsockname(fd, <sockaddr*>&address, &size_bytes) != 0:
        return -1
    return ntohs(address.sin_port)


cdef int socket_accept(int listener_fd) noexcept nogil:
    cdef int fd = c_accept4(listener_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd >= 0:
        _set_flag(fd, IPPROTO_TCP, TCP_NODELAY)
    return fd


cdef int socket_connect(uint16_t port, int64_t* error) noexcept nogil:
    cdef sockaddr_in address
    cdef int fd = c_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        error[0] = errno
        return -1
    _set_flag(fd, IPPROTO_TCP, TCP_NODELAY)
    _loopback(&address, port)
    if c_connect(fd, <sockaddr*>&address, sizeof(address)) != 0 and errno != EINPROGRESS:
        error[0] = errno
        close(fd)
        return -1
    return fd


cdef int socket_error(int fd) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size_bytes = sizeof(int)
    if c_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size_bytes) != 0:
        return errno
    return error


cdef void socket_reset_on_close(int fd) noexcept nogil:
    cdef linger_t linger
    linger.l_onoff = 1
    linger.l_linger = 0
    c_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger))


cdef int timer_open() noexcept nogil:
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)


cdef void timer_arm(int fd, uint64_t at_ns) noexcept nogil:
    cdef itimerspec value
    memset(&value, 0, sizeof(value))
    value.it_value.tv_sec = at_ns // 1000000000
    value.it_value.tv_nsec = at_ns % 1000000000
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &value, NULL)


cdef void timer_clear(int fd) noexcept nogil:
    cdef uint64_t expirations
    c_read(fd, &expirations, sizeof(expirations))


cdef int watch(int epoll_fd, int operation, int fd, uint32_t events, void* owner) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = owner
    return epoll_ctl(epoll_fd, operation, fd, &event)

"""The socket calls of Linux as the epoll driver makes them: declarations only."""

from libc.stdint cimport uint32_t
from posix.time cimport timespec
from posix.uio cimport iovec

cdef extern from "sys/socket.h" nogil:
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    struct linger:
        int l_onoff
        int l_linger
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    struct sockaddr:
        unsigned short sa_family
    int accept4(int fd, sockaddr* address, uint32_t* length, int flags)
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, uint32_t length)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int option, const void* value, uint32_t length)
    int getsockopt(int fd, int level, int option, void* value, uint32_t* length)
    enum: SHUT_WR, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_STREAM, MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR, SO_LINGER
    enum: SO_RCVBUF, SO_SNDBUF, AF_UNIX

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int count, int timeout_ms)
    enum: EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    enum: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, int* value)

cdef extern from "linux/sockios.h" nogil:
    enum: SIOCOUTQ

cdef extern from "sys/timerfd.h" nogil:
    struct itimerspec:
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* old)
    enum: TFD_NONBLOCK, TFD_CLOEXEC

cdef extern from "netinet/in.h" nogil:
    enum: IPPROTO_TCP

cdef extern from "netinet/tcp.h" nogil:
    struct tcp_info:
        uint32_t tcpi_rtt            # us
    enum: TCP_NODELAY, TCP_INFO

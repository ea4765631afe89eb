"""The epoll driver: moves the bytes of plain and TLS sockets for the sans-IO core.

One level-triggered epoll set; its fd is itself watched by the worker's event loop, which calls `driver_run` when
anything is ready. A plain read is one recv into a shared scratch block. What is sent is `sending`'s: whoever fills a
connection's `out` pauses the source, so it holds at most one read's worth and one message of the outbox.

Invariants: no event is told for a closed connection; memory is freed only after the batch in which it was closed,
since a later event of that batch may still name it; a send that fails tells nobody, the error is the socket's next
event, behind the data it still holds. Level-triggered on purpose: a short read needs no second recv to see EAGAIN.
"""

from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, EINPROGRESS, EINTR, EPROTO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

from router.native.buffer cimport buffer_release, buffer_size
from router.native.conn cimport (
    CONN_BLOCKED, CONN_BROKEN, CONN_CLOSED, CONN_CLOSE_WHEN_SENT, CONN_CONNECTING, CONN_DOWNSTREAM, CONN_HANDSHAKING,
    CONN_LISTENER, CONN_PAUSED, CONN_UPSTREAM, CONN_WANTS_WRITE, conn_t, driver_t,
)
from router.native.epoll_state cimport (
    DETACHED, OUTBOX_BYTES_MAX, OUTBOX_FULL_COUNT, TLS_RECORD_BYTES, epoll_driver_t, watch, watch_as_needed,
)
from router.native.sending cimport driver_send, drop_waiting, empty_outbox, flush, send_waiting
from router.native.sockets cimport (
    AF_UNIX, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    IPPROTO_TCP, SHUT_WR, SIOCOUTQ, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_ERROR, SO_LINGER,
    SO_RCVBUF, SO_SNDBUF, TCP_INFO, TCP_NODELAY, TFD_CLOEXEC, TFD_NONBLOCK, accept4, connect, epoll_create1,
    epoll_ctl, epoll_event, epoll_wait, getsockopt, ioctl, itimerspec, linger, recv, setsockopt, shutdown, sockaddr,
    socket, tcp_info, timerfd_create, timerfd_settime,
)
from router.native.tls cimport (
    TLS_CLOSED, TLS_WANTS_READ, TLS_WANTS_WRITE, tls_begin, tls_end, tls_end_sending, tls_handshake, tls_has_pending,
    tls_read,
)

cdef enum:
    UPSTREAM_KERNEL_BYTES = 262144   # each way: what the kernel holds while a client or the endpoint has stalled


cdef uint64_t monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef int driver_begin(epoll_driver_t* driver) noexcept nogil:
    cdef epoll_event event
    memset(driver, 0, sizeof(epoll_driver_t))
    driver.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    driver.stay_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.ptr = NULL            # no conn: the stay's end
    epoll_ctl(driver.epoll_fd, EPOLL_CTL_ADD, driver.stay_fd, &event)
    driver.scratch = <uint8_t*>malloc(DRIVER_READ_BYTES)
    driver.record = <uint8_t*>malloc(TLS_RECORD_BYTES)
    driver.outbox.bytes = <uint8_t*>malloc(OUTBOX_BYTES_MAX)
    driver.base.adopt = driver_adopt
    driver.base.release = driver_release
    driver.base.pause_accepting = driver_pause_accepting
    driver.base.connect = driver_connect
    driver.base.send = driver_send
    driver.base.unsent = driver_unsent
    driver.base.round_trip_us = driver_round_trip_us
    driver.base.pause_reading = driver_pause
    driver.base.resume_reading = driver_resume
    driver.base.close = driver_close
    driver.base.abort = driver_abort
    driver.base.close_when_sent = driver_close_when_sent
    driver.base.end_sending = driver_end_sending
    driver.base.now_us = monotonic_us()
    if driver.epoll_fd < 0 or driver.stay_fd < 0:
        return -1
    return -1 if driver.scratch == NULL or driver.record == NULL or driver.outbox.bytes == NULL else 0


cdef void driver_end(epoll_driver_t* driver) noexcept nogil:
    free_closed(driver)
    if driver.epoll_fd >= 0:
        close(driver.epoll_fd)
        close(driver.stay_fd)
    driver.epoll_fd = -1
    free(driver.scratch)
    free(driver.record)
    free(driver.outbox.bytes)
    driver.scratch = driver.record = driver.outbox.bytes = NULL


cdef int driver_adopt(driver_t* base, conn_t* conn, int fd, int kind, void* tls_context) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>base
    cdef epoll_event event
    cdef void* tls = NULL
    if tls_context != NULL:
        tls = tls_begin(tls_context, fd, True, NULL, False)
        if tls == NULL:
            close(fd)
            return -1
    conn.driver = base
    conn.fd = fd
    conn.kind = <uint8_t>kind
    conn.tls = tls
    if tls != NULL:
        conn.flags |= CONN_HANDSHAKING
    conn.events = EPOLLIN if kind == CONN_LISTENER else EPOLLIN | EPOLLRDHUP
    event.events = conn.events
    event.data.ptr = conn
    if epoll_ctl(driver.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        if tls != NULL:
            tls_end(tls, False)
        close(fd)
        return -1
    return 0


cdef int driver_connect(driver_t* base, conn_t* conn, const void* address, uint32_t address_length, void* tls_context,
                        const char* server_name) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>base
    cdef epoll_event event
    cdef int family = (<const sockaddr*>address).sa_family
    cdef int one = 1, kernel_bytes = UPSTREAM_KERNEL_BYTES
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -1
    if family != AF_UNIX:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kernel_bytes, sizeof(int))
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kernel_bytes, sizeof(int))
    if connect(fd, <const sockaddr*>address, address_length) < 0 and errno != EINPROGRESS:
        close(fd)
        return -1
    conn.driver = base
    conn.fd = fd
    conn.kind = CONN_UPSTREAM
    conn.flags = CONN_CONNECTING
    if tls_context != NULL:
        conn.tls = tls_begin(tls_context, fd, False, server_name, server_name != NULL)
        if conn.tls == NULL:
            close(fd)
            return -1
    conn.events = EPOLLOUT
    event.events = conn.events
    event.data.ptr = conn
    if epoll_ctl(driver.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        if conn.tls != NULL:
            tls_end(conn.tls, False)
        close(fd)
        return -1
    return 0


cdef size_t driver_round_trip_us(const conn_t* conn) noexcept nogil:
    # Between the kernels: a busy event loop, here or there, does not count. A Unix socket has none.
    cdef tcp_info info
    cdef uint32_t length = sizeof(info)
    return info.tcpi_rtt if getsockopt(conn.fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 else 0


cdef size_t driver_unsent(const conn_t* conn) noexcept nogil:
    cdef int held = 0
    ioctl(conn.fd, SIOCOUTQ, &held)
    return buffer_size(&conn.out) + held


cdef void driver_pause(conn_t* conn) noexcept nogil:
    if conn.flags & (CONN_PAUSED | CONN_CLOSED):
        return
    conn.flags |= CONN_PAUSED
    if not conn.flags & (CONN_CONNECTING | CONN_HANDSHAKING):
        watch_as_needed(conn)


cdef void driver_resume(conn_t* conn) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    if not conn.flags & CONN_PAUSED or conn.flags & CONN_CLOSED:
        return
    conn.flags &= ~CONN_PAUSED
    if conn.flags & (CONN_CONNECTING | CONN_HANDSHAKING):
        return
    watch_as_needed(conn)
    if conn.tls != NULL and not conn.is_queued and tls_has_pending(conn.tls):
        conn.is_queued = 1
        conn.next = driver.again
        driver.again = conn


cdef void retire(conn_t* conn, bint orderly) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    if conn.flags & CONN_CLOSED:
        return
    if conn.kind == CONN_UPSTREAM:
        drop_waiting(conn)           # nobody wants its answer any more
    else:
        send_waiting(conn)
    conn.flags |= CONN_CLOSED
    if conn.tls != NULL:
        tls_end(conn.tls, orderly and not conn.flags & (CONN_HANDSHAKING | CONN_CONNECTING | CONN_BROKEN))
        conn.tls = NULL
    close(conn.fd)                   # leaves the epoll set with it
    conn.fd = -1
    buffer_release(&conn.out)
    if not conn.is_queued:           # else it joins the list when the read-again list is walked
        conn.next = driver.closed
        driver.closed = conn


cdef void driver_close(conn_t* conn) noexcept nogil:
    retire(conn, True)


cdef void driver_abort(conn_t* conn) noexcept nogil:
    cdef linger option
    if conn.flags & CONN_CLOSED:
        return
    # Only a reset tells the peer that what it has is not all there is.
    option.l_onoff = 1
    option.l_linger = 0
    setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))
    retire(conn, False)


cdef void driver_close_when_sent(conn_t* conn) noexcept nogil:
    if conn.flags & CONN_CLOSED:
        return
    send_waiting(conn)
    if conn.flags & CONN_BLOCKED and not conn.flags & CONN_BROKEN:
        conn.flags |= CONN_CLOSE_WHEN_SENT
    else:
        conn.driver.on_eof(conn, 0)


cdef void driver_end_sending(conn_t* conn) noexcept nogil:
    send_waiting(conn)
    if conn.flags & CONN_BLOCKED:
        return                       # the owner asks again when that is sent
    if conn.tls != NULL:
        tls_end_sending(conn.tls)
    shutdown(conn.fd, SHUT_WR)


cdef int driver_release(conn_t* conn) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    cdef epoll_event event
    cdef int fd = conn.fd
    send_waiting(conn)
    if conn.tls != NULL or conn.flags & (CONN_CLOSED | CONN_BLOCKED):
        return -1
    epoll_ctl(driver.epoll_fd, EPOLL_CTL_DEL, fd, &event)
    conn.flags |= CONN_CLOSED
    conn.fd = -1
    buffer_release(&conn.out)
    if not conn.is_queued:
        conn.next = driver.closed
        driver.closed = conn
    return fd


cdef void driver_stop_accepting(epoll_driver_t* driver, conn_t* listener) noexcept nogil:
    watch(listener, DETACHED)


cdef void free_closed(epoll_driver_t* driver) noexcept nogil:
    cdef conn_t* conn = driver.closed
    cdef conn_t* following
    driver.closed = NULL
    while conn != NULL:
        following = conn.next
        driver.base.on_freed(conn)
        conn = following


cdef void accept_some(epoll_driver_t* driver, conn_t* listener) noexcept nogil:
    cdef uint8_t raw[128]
    cdef uint32_t length
    cdef int fd
    cdef int _turn
    if driver.base.is_full:
        driver_pause_accepting(listener)
        return
    for _turn in range(DRIVER_ACCEPTS_MAX):
        length = sizeof(raw)
        fd = accept4(listener.fd, <sockaddr*>raw, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            driver.base.on_accepted(&driver.base, listener, fd, raw, length)
            if listener.events & DETACHED:
                return
            continue
        if errno == ECONNABORTED or errno == EINTR or errno == EPROTO:
            continue
        if errno != EAGAIN:          # EMFILE, ENFILE, ENOBUFS, ENOMEM: the backlog keeps them meanwhile
            driver_pause_accepting(listener)
        return


cdef void driver_pause_accepting(conn_t* listener) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>listener.driver
    watch(listener, DETACHED)
    listener.next = driver.paused_listeners
    driver.paused_listeners = listener
    driver.accept_resume_us = driver.base.now_us + DRIVER_ACCEPT_PAUSE_US
    driver.accept_pause_count += 1


cdef void resume_accepting(epoll_driver_t* driver) noexcept nogil:
    cdef conn_t* listener = driver.paused_listeners
    driver.paused_listeners = NULL
    driver.accept_resume_us = 0
    while listener != NULL:
        if not listener.flags & CONN_CLOSED:
            watch(listener, EPOLLIN)
        listener = listener.next


cdef void establish(conn_t* conn) noexcept nogil:
    cdef int error = 0
    cdef uint32_t length = sizeof(int)
    cdef int result
    if conn.flags & CONN_CONNECTING:
        getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, &error, &length)
        if error:
            conn.driver.on_eof(conn, error)
            return
        conn.flags &= ~CONN_CONNECTING
        if conn.tls != NULL:
            conn.flags |= CONN_HANDSHAKING
    if conn.flags & CONN_HANDSHAKING:
        result = tls_handshake(conn.tls)
        if result == TLS_WANTS_READ:
            watch(conn, EPOLLIN | EPOLLRDHUP)
            return
        if result == TLS_WANTS_WRITE:
            watch(conn, EPOLLOUT)
            return
        if result < 0:
            conn.driver.on_eof(conn, EPROTO)
            return
        conn.flags &= ~CONN_HANDSHAKING
    watch_as_needed(conn)
    conn.driver.on_connected(conn)
    if conn.flags & CONN_CLOSED:
        return
    if buffer_size(&conn.out):
        flush(conn)
    if not conn.flags & (CONN_CLOSED | CONN_PAUSED) and conn.tls != NULL and tls_has_pending(conn.tls):
        read_some(conn)


cdef void read_some(conn_t* conn) noexcept nogil:
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    cdef int64_t size
    if conn.tls == NULL:
        size = recv(conn.fd, driver.scratch, DRIVER_READ_BYTES, 0)
        if size > 0:
            driver.base.on_data(conn, driver.scratch, size)
        elif size == 0:              # the error behind a failed send was told by that send
            driver.base.on_eof(conn, ECONNRESET if conn.flags & CONN_BROKEN else 0)
        elif errno != EAGAIN and errno != EINTR:
            driver.base.on_eof(conn, errno)
        return
    while True:
        size = tls_read(conn.tls, driver.scratch, DRIVER_READ_BYTES)
        if size > 0:
            driver.base.on_data(conn, driver.scratch, size)
            if conn.flags & (CONN_CLOSED | CONN_PAUSED) or not tls_has_pending(conn.tls):
                return
            continue
        if size == TLS_WANTS_WRITE:
            conn.flags |= CONN_WANTS_WRITE
            watch_as_needed(conn)
        elif size == TLS_CLOSED:
            driver.base.on_eof(conn, 0)
        elif size != TLS_WANTS_READ:
            driver.base.on_eof(conn, ECONNRESET)
        return


cdef void handle(conn_t* conn, uint32_t events) noexcept nogil:
    cdef int error = 0
    cdef uint32_t length = sizeof(int)
    if conn.flags & (CONN_CONNECTING | CONN_HANDSHAKING):
        establish(conn)
        return
    if events & EPOLLOUT:
        flush(conn)
        if conn.flags & CONN_CLOSED:
            return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) == 0:
        return
    if not conn.flags & CONN_PAUSED:
        read_some(conn)
        return
    if conn.kind == CONN_DOWNSTREAM:
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, &error, &length)
            conn.driver.on_eof(conn, error)
        return
    # A paused upstream that has ended: its last bytes are still to be read, and epoll would report the end for ever.
    if events & (EPOLLHUP | EPOLLERR):
        watch(conn, DETACHED)


cdef void driver_stay(epoll_driver_t* driver, uint32_t length_us) noexcept nogil:
    # One timer per stay: a time-out given to each epoll_wait would program the hardware's timer every time, which on
    # a virtual machine costs as much as a system call.
    cdef itimerspec when
    memset(&when, 0, sizeof(when))
    when.it_value.tv_nsec = length_us * 1000
    driver.stay_is_over = False
    timerfd_settime(driver.stay_fd, 0, &when, NULL)


cdef int driver_run(epoll_driver_t* driver, int timeout_ms) noexcept nogil:
    cdef epoll_event events[DRIVER_EVENTS_MAX]
    cdef conn_t* conn
    cdef int count
    cdef int index
    count = epoll_wait(driver.epoll_fd, events, DRIVER_EVENTS_MAX, timeout_ms)
    driver.base.now_us = monotonic_us()
    if driver.accept_resume_us and driver.base.now_us >= driver.accept_resume_us and not driver.base.is_full:
        resume_accepting(driver)
    driver.outbox.is_open = count > 1
    for index in range(count):
        if driver.outbox.count >= OUTBOX_FULL_COUNT:
            empty_outbox(&driver.outbox)
        conn = <conn_t*>events[index].data.ptr
        if conn == NULL:
            driver.stay_is_over = True
            continue
        if conn.flags & CONN_CLOSED:
            continue
        if index:
            driver.base.now_us = monotonic_us()
        if conn.kind == CONN_LISTENER:
            accept_some(driver, conn)
        else:
            handle(conn, events[index].events)
    while driver.again != NULL:
        conn = driver.again
        driver.again = conn.next
        conn.is_queued = 0
        if conn.flags & CONN_CLOSED:
            conn.next = driver.closed
            driver.closed = conn
        elif not conn.flags & CONN_PAUSED:
            read_some(conn)
    driver.outbox.is_open = False
    empty_outbox(&driver.outbox)
    free_closed(driver)
    return count - driver.stay_is_over if count > 0 else 0

"""A driver without sockets: a test says what arrives and sees what is sent.

It serves the same core through the same contract (conn.pxd) as the epoll driver, under a clock that the test sets, so
that every order of events, every split of bytes and every full send queue can be had at will and exactly again.
`ScriptDriver` is given to `Core(driver=...)`; connections are numbered in the order in which they came to be.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.fcntl cimport O_RDONLY, open
from posix.uio cimport iovec
from posix.unistd cimport close

from router.native.buffer cimport buffer_append, buffer_bytes, buffer_consume, buffer_release, buffer_size
from router.native.conn cimport (
    CONN_BLOCKED, CONN_CLOSE_WHEN_SENT, CONN_CLOSED, CONN_CONNECTING, CONN_PAUSED, CONN_UPSTREAM,
    conn_t, driver_t,
)

cdef extern from "netinet/in.h" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    enum: AF_INET


cdef int enter(script_driver_t* script, conn_t* conn, bint is_upstream) noexcept nogil:
    cdef script_conn_t* held
    if script.count >= SCRIPT_CONNS_MAX:
        return -1
    held = &script.conns[script.count]
    memset(held, 0, sizeof(script_conn_t))
    held.conn = conn
    held.window = -1
    held.is_upstream = is_upstream
    conn.driver = &script.base
    conn.fd = script.count
    script.count += 1
    return 0


cdef int script_adopt(driver_t* base, conn_t* conn, int fd, int kind, void* tls_context) noexcept nogil:
    conn.kind = <uint8_t>kind
    if fd >= 0:
        close(fd)                    # one end of a socket pair; what it is given can be seen here
    return enter(<script_driver_t*>base, conn, False)


cdef int script_connect(driver_t* base, conn_t* conn, const void* address, uint32_t address_length, void* tls_context,
                        const char* server_name) noexcept nogil:
    cdef script_driver_t* script = <script_driver_t*>base
    conn.kind = CONN_UPSTREAM
    conn.flags = CONN_CONNECTING
    if enter(script, conn, True) < 0:
        return -1
    script.conns[conn.fd].port_high = (<const uint8_t*>&(<const sockaddr_in*>address).sin_port)[0]
    script.conns[conn.fd].port_low = (<const uint8_t*>&(<const sockaddr_in*>address).sin_port)[1]
    return 0


cdef int script_send(conn_t* conn, iovec* pieces, int count) noexcept nogil:
    cdef script_conn_t* held = &(<script_driver_t*>conn.driver).conns[conn.fd]
    cdef bint waits
    cdef int index
    if conn.flags & CONN_CLOSED:
        return -1
    send_waiting(conn)
    waits = (<script_driver_t*>conn.driver).in_batch and not conn.flags & (CONN_BLOCKED | CONN_CONNECTING)
    for index in range(count):
        if waits:
            buffer_append(&held.waiting, <const uint8_t*>pieces[index].iov_base, pieces[index].iov_len)
        else:
            give(conn, <const uint8_t*>pieces[index].iov_base, pieces[index].iov_len)
    return 1 if conn.flags & CONN_BLOCKED else 0


cdef void give(conn_t* conn, const uint8_t* data, size_t size) noexcept nogil:
    cdef script_conn_t* held = &(<script_driver_t*>conn.driver).conns[conn.fd]
    cdef size_t taken = 0
    if not conn.flags & (CONN_BLOCKED | CONN_CONNECTING):
        taken = size
        if 0 <= held.window < <long>taken:
            taken = held.window
        if held.window >= 0:
            held.window -= taken
        buffer_append(&held.sent, data, taken)
    if taken < size:
        buffer_append(&conn.out, data + taken, size - taken)
        conn.flags |= CONN_BLOCKED


cdef void send_waiting(conn_t* conn) noexcept nogil:
    cdef script_conn_t* held = &(<script_driver_t*>conn.driver).conns[conn.fd]
    if buffer_size(&held.waiting):
        give(conn, buffer_bytes(&held.waiting), buffer_size(&held.waiting))
        buffer_release(&held.waiting)


cdef void flush(conn_t* conn) noexcept nogil:
    cdef script_conn_t* held = &(<script_driver_t*>conn.driver).conns[conn.fd]
    cdef size_t size = buffer_size(&conn.out)
    if conn.flags & (CONN_CONNECTING | CONN_CLOSED) or not conn.flags & CONN_BLOCKED:
        return
    if 0 <= held.window < <long>size:
        size = held.window
    if held.window >= 0:
        held.window -= size
    buffer_append(&held.sent, buffer_bytes(&conn.out), size)
    buffer_consume(&conn.out, size)
    if buffer_size(&conn.out):
        return
    conn.flags &= ~CONN_BLOCKED
    if conn.flags & CONN_CLOSE_WHEN_SENT:
        conn.driver.on_eof(conn, 0)
    else:
        conn.driver.on_drained(conn)


cdef void script_pause(conn_t* conn) noexcept nogil:
    conn.flags |= CONN_PAUSED


cdef void script_resume(conn_t* conn) noexcept nogil:
    conn.flags &= ~CONN_PAUSED


cdef void script_close(conn_t* conn) noexcept nogil:
    cdef script_driver_t* script = <script_driver_t*>conn.driver
    if conn.flags & CONN_CLOSED:
        return
    if conn.kind != CONN_UPSTREAM:
        send_waiting(conn)
    buffer_release(&script.conns[conn.fd].waiting)
    conn.flags |= CONN_CLOSED
    buffer_release(&conn.out)
    script.conns[conn.fd].was_closed = True
    script.conns[conn.fd].conn = NULL
    conn.next = script.closed
    script.closed = conn


cdef void script_abort(conn_t* conn) noexcept nogil:
    if not conn.flags & CONN_CLOSED:
        (<script_driver_t*>conn.driver).conns[conn.fd].was_aborted = True
    script_close(conn)


cdef int script_release(conn_t* conn) noexcept nogil:
    send_waiting(conn)
    if conn.flags & CONN_BLOCKED:
        return -1
    script_close(conn)
    return open(b"/dev/null", O_RDONLY)      # whoever takes a descriptor over closes it


cdef void script_close_when_sent(conn_t* conn) noexcept nogil:
    if not conn.flags & CONN_CLOSED:
        send_waiting(conn)
    if conn.flags & CONN_BLOCKED:
        conn.flags |= CONN_CLOSE_WHEN_SENT
    elif not conn.flags & CONN_CLOSED:
        conn.driver.on_eof(conn, 0)


cdef void script_end_sending(conn_t* conn) noexcept nogil:
    send_waiting(conn)
    if not conn.flags & CONN_BLOCKED:
        (<script_driver_t*>conn.driver).conns[conn.fd].sending_ended = True


cdef void ignore(conn_t* conn) noexcept nogil:
    pass


cdef size_t script_unsent(const conn_t* conn) noexcept nogil:
    return buffer_size(&conn.out)


cdef size_t script_round_trip_us(const conn_t* conn) noexcept nogil:
    return (<script_driver_t*>conn.driver).round_trip_us


cdef class ScriptDriver:
    """Connections by number; time in microseconds, set by `advance`."""

    def __cinit__(self, uint64_t now_us=1_000_000_000):
        memset(&self.script, 0, sizeof(script_driver_t))
        self.script.base.adopt = script_adopt
        self.script.base.release = script_release
        self.script.base.pause_accepting = ignore
        self.script.base.connect = script_connect
        self.script.base.send = script_send
        self.script.base.unsent = script_unsent
        self.script.base.round_trip_us = script_round_trip_us
        self.script.base.pause_reading = script_pause
        self.script.base.resume_reading = script_resume
        self.script.base.close = script_close
        self.script.base.abort = script_abort
        self.script.base.close_when_sent = script_close_when_sent
        self.script.base.end_sending = script_end_sending
        self.script.base.now_us = now_us

    def __dealloc__(self):
        cdef unsigned int index
        for index in range(self.script.count):
            buffer_release(&self.script.conns[index].waiting)
            buffer_release(&self.script.conns[index].sent)

    cdef script_conn_t* _at(self, int number) except NULL:
        if not 0 <= number < <int>self.script.count:
            raise IndexError(f"there is no connection {number}")
        return &self.script.conns[number]

    def settle(self):
        """Ends the batch, if no longer one was begun: what waits is sent, what was closed in it is freed."""
        cdef conn_t* conn
        cdef conn_t* following
        cdef unsigned int index
        if self.script.in_batch:
            return
        for index in range(self.script.count):
            conn = self.script.conns[index].conn
            if conn != NULL and buffer_size(&self.script.conns[index].waiting):
                send_waiting(conn)
                if conn.flags & CONN_BLOCKED:
                    conn.driver.on_blocked(conn)
        conn = self.script.closed
        self.script.closed = NULL
        while conn != NULL:
            following = conn.next
            self.script.base.on_freed(conn)
            conn = following

    def begin_batch(self):
        """What is sent from here on waits for `end_batch`, as with several events of one epoll_wait."""
        self.script.in_batch = True

    def end_batch(self):
        self.script.in_batch = False
        self.settle()

    def accept(self):
        """A client connects; its number."""
        cdef sockaddr_in address
        cdef conn_t listener
        memset(&listener, 0, sizeof(listener))
        memset(&address, 0, sizeof(address))
        address.sin_family = AF_INET
        address.sin_addr.s_addr = 0x0100007F
        listener.driver = &self.script.base
        self.script.base.on_accepted(&self.script.base, &listener, -1, &address, sizeof(address))
        self.settle()
        return self.script.count - 1

    def receive(self, int number, bytes data):
        """Bytes arrive from the peer; False when the core does not want any now (paused) or has let go."""
        cdef script_conn_t* held = self._at(number)
        if held.conn == NULL or held.conn.flags & (CONN_PAUSED | CONN_CONNECTING):
            return False
        self.script.base.on_data(held.conn, <const uint8_t*>data, len(data))
        self.settle()
        return True

    def establish(self, int number):
        """The connection the core asked for is there."""
        cdef script_conn_t* held = self._at(number)
        if held.conn == NULL or not held.conn.flags & CONN_CONNECTING:
            return False
        held.conn.flags &= ~CONN_CONNECTING
        self.script.base.on_connected(held.conn)
        if held.conn != NULL:
            flush(held.conn)
        self.settle()
        return True

    def end(self, int number, int error=0):
        """The peer has ended: 0 in order, else an errno."""
        cdef script_conn_t* held = self._at(number)
        if held.conn != NULL:
            self.script.base.on_eof(held.conn, error)
            self.settle()

    def set_round_trip(self, size_t length_us):
        """Of all connections from here on; 0: not known."""
        self.script.round_trip_us = length_us

    def set_window(self, int number, long size):
        """The peer takes `size` more bytes (-1: any number) and what waits moves up."""
        cdef script_conn_t* held = self._at(number)
        held.window = size
        if held.conn != NULL:
            flush(held.conn)
            self.settle()

    def take(self, int number) -> bytes:
        """What has been sent to the peer since the last look."""
        cdef script_conn_t* held = self._at(number)
        if buffer_size(&held.sent) == 0:
            return b""
        data = buffer_bytes(&held.sent)[:buffer_size(&held.sent)]
        buffer_release(&held.sent)
        return data

    def state(self, int number) -> dict:
        cdef script_conn_t* held = self._at(number)
        return {
            "open": held.conn != NULL, "closed": bool(held.was_closed), "aborted": bool(held.was_aborted),
            "ended": bool(held.sending_ended), "paused": held.conn != NULL and bool(held.conn.flags & CONN_PAUSED),
            "connecting": held.conn != NULL and bool(held.conn.flags & CONN_CONNECTING),
            "waiting_bytes": buffer_size(&held.conn.out) if held.conn != NULL else 0,
            "upstream": bool(held.is_upstream), "port": held.port_high * 256 + held.port_low,
        }

    def upstreams(self) -> list:
        """Numbers of the connections to endpoints that are open or wanted."""
        return [index for index in range(self.script.count)
                if self.script.conns[index].is_upstream and self.script.conns[index].conn != NULL]

    def advance(self, uint64_t length_us):
        """Moves the clock; the timers run at the Core's next `tick`."""
        self.script.base.now_us += length_us

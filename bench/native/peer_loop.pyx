"""Turns the bench's peer: clients and fixed-answer engines in one epoll loop, both sides of a proxy under measurement.

An engine answers every POST alike: with one fixed answer, or with a stream whose events leave in lockstep (the next
when all streams' last ones have arrived), at a pace, or not until told. A client holds every answer against what it
must be (reader); a client that met an error stays away, so that a broken proxy ends a run instead of looping in it. No
allocation but for a new connection; a connection closed in a batch of events is freed after it. Door for Python: peer.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from bench.native cimport tls
from bench.native.reader cimport (
    READ_BROKEN, READ_DONE, reader_at_end_of_stream, reader_feed, reader_is_whole, reader_reset)
from bench.native.sockets cimport (
    EAGAIN, EINTR, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, clock_ns, close,
    epoll_event, epoll_wait, errno, recv, send, socket_accept, socket_connect, socket_error, timer_arm, timer_clear,
    watch)

cdef enum:
    EVENTS_PER_WAKE = 512
    OPENING_MAX = 64                 # answers awaited by new connections at once: below every proxy's accept backlog
    TICKS_PER_WAKE = 1024            # paced events sent before sockets are looked at again


# -- connections -------------------------------------------------------------------------------------------------------

cdef conn_t* _conn_new(peer_t* self, int fd, int kind) noexcept nogil:
    cdef conn_t* conn = <conn_t*>calloc(1, sizeof(conn_t))
    if conn == NULL:
        close(fd)
        return NULL
    conn.fd = fd
    conn.kind = <uint8_t>kind
    return conn


cdef void _conn_bury(peer_t* self, conn_t* conn) noexcept nogil:
    """Closes now, frees after the batch: later events of the batch may still name it."""
    if conn.is_dead:
        return
    conn.is_dead = 1
    if conn.session != NULL:
        tls.tls_close(conn.session)
        conn.session = NULL
    close(conn.fd)
    conn.next_dead = self.dead
    self.dead = conn


cdef void free_dead(peer_t* self) noexcept nogil:
    cdef conn_t* next_dead
    while self.dead != NULL:
        next_dead = self.dead.next_dead
        free(self.dead)
        self.dead = next_dead


cdef ssize_t _conn_recv(peer_t* self, conn_t* conn) noexcept nogil:
    """Bytes read into the buffer; 0: closed; -2: none now; -1: failed."""
    cdef ssize_t size_bytes
    if conn.session != NULL:
        return tls.tls_recv(conn.session, self.buffer, RECV_BYTES)
    size_bytes = recv(conn.fd, self.buffer, RECV_BYTES, 0)
    if size_bytes >= 0:
        return size_bytes
    return -2 if errno == EAGAIN or errno == EINTR else -1


cdef int _conn_flush(peer_t* self, conn_t* conn) noexcept nogil:
    """Sends what is left; 0, or -1 when the connection failed."""
    cdef ssize_t sent_bytes
    cdef bint wants_write
    while conn.out_bytes:
        if conn.session != NULL:
            sent_bytes = tls.tls_send(conn.session, conn.out, conn.out_bytes)
        else:
            sent_bytes = send(conn.fd, conn.out, conn.out_bytes, MSG_NOSIGNAL)
            if sent_bytes < 0 and (errno == EAGAIN or errno == EINTR):
                sent_bytes = -2
        if sent_bytes == -2:
            break
        if sent_bytes < 0:
            return -1
        conn.out += sent_bytes
        conn.out_bytes -= <uint32_t>sent_bytes
    wants_write = conn.out_bytes != 0
    if wants_write != conn.wants_write:
        conn.wants_write = wants_write
        watch(self.epoll_fd, EPOLL_CTL_MOD, conn.fd, EPOLLIN | (EPOLLOUT if wants_write else 0), conn)
    return 0


cdef int _conn_send(peer_t* self, conn_t* conn, const char* data, uint32_t size_bytes) noexcept nogil:
    conn.out = data
    conn.out_bytes = size_bytes
    return _conn_flush(self, conn)


# -- engines -----------------------------------------------------------------------------------------------------------

cdef void _stream_forget(peer_t* self, conn_t* conn) noexcept nogil:
    if conn.is_stream:
        conn.is_stream = 0
        self.stream_count -= 1
        self.streams[conn.place] = self.streams[self.stream_count]
        self.streams[conn.place].place = conn.place


cdef void engine_gone(peer_t* self, conn_t* conn) noexcept nogil:
    _stream_forget(self, conn)
    _conn_bury(self, conn)


cdef void stream_end(peer_t* self, conn_t* conn) noexcept nogil:
    _stream_forget(self, conn)
    if conn.out_bytes:
        conn.owes_ending = 1
    elif _conn_send(self, conn, self.ending, self.ending_bytes) != 0:
        engine_gone(self, conn)


cdef void _stream_tick(peer_t* self, conn_t* conn) noexcept nogil:
    """The stream's next event, or its end."""
    if conn.out_bytes:                                            # the proxy is not reading: never pile up
        return
    if self.events_per_stream and conn.event_count >= self.events_per_stream:
        stream_end(self, conn)
        return
    conn.event_count += 1
    if _conn_send(self, conn, self.event, self.event_bytes) != 0:
        engine_gone(self, conn)


cdef void _lockstep(peer_t* self) noexcept nogil:
    cdef uint32_t index = self.stream_count
    self.arrived_count = 0
    while index > 0:                                              # downwards: a tick may take the stream out
        index -= 1
        _stream_tick(self, self.streams[index])


cdef void _paced_ticks(peer_t* self) noexcept nogil:
    """Sends what is due. Streams take turns a stride apart, so that no two events leave together."""
    cdef uint64_t now_ns = clock_ns()
    cdef int tick_count = 0
    while self.stream_count and self.due_ns <= now_ns and tick_count < TICKS_PER_WAKE:
        if now_ns - self.due_ns > self.interval_ns:
            self.slipped += 1
            self.due_ns = now_ns
        if self.stream_next >= self.stream_count:
            self.stream_next = 0
        _stream_tick(self, self.streams[self.stream_next])
        self.stream_next += 1
        tick_count += 1
        if self.stream_count:
            self.due_ns += self.interval_ns // self.stream_count
    if not self.stream_count:
        self.due_ns = now_ns + 1000000
    timer_arm(self.timer_fd, self.due_ns)


cdef int _engine_answer(peer_t* self, conn_t* conn) noexcept nogil:
    """A request is complete; 0, or -1 when the connection failed."""
    if conn.reader.is_get:                                        # health checks and model lists of other routers
        return _conn_send(self, conn, self.get_answer, self.get_answer_bytes)
    if conn.group != self.group:                                  # a proxy that has not noticed that its load is over
        return _conn_send(self, conn, self.answer, self.answer_bytes)
    self.engine_requests += 1
    if not reader_is_whole(&conn.reader):
        self.bodies_changed += 1
    if not self.is_streaming:
        return _conn_send(self, conn, self.answer, self.answer_bytes)
    if conn.is_stream or self.stream_count >= self.client_goal:
        return -1
    conn.is_stream = 1
    conn.event_count = 1
    conn.place = self.stream_count
    self.streams[self.stream_count] = conn
    self.stream_count += 1
    if _conn_send(self, conn, self.opening, self.opening_bytes) != 0:
        return -1
    if self.is_finishing:
        stream_end(self, conn)
    return 0


cdef void _engine_ready(peer_t* self, conn_t* conn, uint32_t events) noexcept nogil:
    cdef ssize_t size_bytes
    cdef size_t taken = 0
    if events & EPOLLOUT:
        if _conn_flush(self, conn) != 0:
            engine_gone(self, conn)
            return
        if conn.owes_ending and not conn.out_bytes:
            conn.owes_ending = 0
            stream_end(self, conn)
            if conn.is_dead:
                return
    if not events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        return
    size_bytes = _conn_recv(self, conn)
    if size_bytes == -2:
        return
    if size_bytes <= 0:
        engine_gone(self, conn)
        return
    while taken < <size_t>size_bytes:
        taken += reader_feed(&conn.reader, self.buffer + taken, size_bytes - taken)
        if conn.reader.phase == READ_BROKEN:
            self.errors[<int>ERROR_ENGINE] += 1
            self.error_total += 1
            engine_gone(self, conn)
            return
        if conn.reader.phase == READ_DONE:
            if _engine_answer(self, conn) != 0 or conn.is_dead or not conn.reader.keeps_alive:
                engine_gone(self, conn)
                return
            reader_reset(&conn.reader, False, &self.asked)


cdef void _engine_accept(peer_t* self, conn_t* listener) noexcept nogil:
    cdef conn_t* conn
    cdef int fd, _accepted
    for _accepted in range(OPENING_MAX):
        fd = socket_accept(listener.fd)
        if fd < 0:
            return
        conn = _conn_new(self, fd, KIND_ENGINE)
        if conn == NULL:
            return
        conn.group = listener.group
        reader_reset(&conn.reader, False, &self.asked)
        watch(self.epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN, conn)


# -- clients -----------------------------------------------------------------------------------------------------------

cdef void _client_opened(peer_t* self, conn_t* conn) noexcept nogil:
    if conn.is_opening:
        conn.is_opening = 0
        self.opening_count -= 1


cdef void client_forget(peer_t* self, conn_t* conn) noexcept nogil:
    _client_opened(self, conn)
    if conn.state == CLIENT_STREAMING:
        self.streaming_count -= 1
    if conn.state == CLIENT_RESTING:
        self.resting_count -= 1
    self.client_count -= 1
    self.clients[conn.place] = self.clients[self.client_count]
    self.clients[conn.place].place = conn.place
    _conn_bury(self, conn)


cdef void _client_failed(peer_t* self, conn_t* conn, int error) noexcept nogil:
    """Counts; the client does not come back, so that a broken proxy ends the run instead of looping in it."""
    self.errors[error] += 1
    self.error_total += 1
    self.client_goal -= 1
    if self.client_goal == 0:
        self.is_failed = 1
    client_forget(self, conn)


cdef int _client_connect(peer_t* self) noexcept nogil:
    cdef int64_t error = 0
    cdef conn_t* conn
    cdef int fd = socket_connect(self.port, &error)
    if fd < 0:
        return -1
    conn = _conn_new(self, fd, KIND_CLIENT)
    if conn == NULL:
        return -1
    conn.state = CLIENT_CONNECTING
    conn.place = self.client_count
    conn.wants_write = 1
    conn.is_opening = 1
    self.clients[self.client_count] = conn
    self.client_count += 1
    self.opening_count += 1
    watch(self.epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT, conn)
    return 0


cdef void _clients_open(peer_t* self) noexcept nogil:
    while self.client_count < self.client_goal and self.opening_count < OPENING_MAX:
        if _client_connect(self) != 0:
            self.errors[<int>ERROR_CONNECT] += 1
            self.error_total += 1
            self.client_goal -= 1
            if self.client_goal == 0:
                self.is_failed = 1
            return


cdef void _client_ask(peer_t* self, conn_t* conn) noexcept nogil:
    conn.state = CLIENT_WAITING
    conn.event_count = 0
    reader_reset(&conn.reader, True, &self.answered)
    conn.sent_ns = clock_ns()
    if _conn_send(self, conn, self.request, self.request_bytes) != 0:
        _client_failed(self, conn, ERROR_CLOSED)


cdef void _client_connected(peer_t* self, conn_t* conn) noexcept nogil:
    if conn.state == CLIENT_CONNECTING:
        if socket_error(conn.fd) != 0:
            _client_failed(self, conn, ERROR_CONNECT)
            return
        if not self.uses_tls:
            _client_ask(self, conn)
            return
        conn.session = tls.tls_open(conn.fd)
        conn.state = CLIENT_HANDSHAKE
        conn.wants_write = 0
        watch(self.epoll_fd, EPOLL_CTL_MOD, conn.fd, EPOLLIN, conn)
    cdef int done = tls.tls_handshake(conn.session) if conn.session != NULL else -1
    if done > 0:
        _client_ask(self, conn)
    elif done < 0:
        _client_failed(self, conn, ERROR_TLS)


cdef void _client_answered(peer_t* self, conn_t* conn) noexcept nogil:
    """An answer is complete, good or not."""
    cdef uint64_t latency_ns = clock_ns() - conn.sent_ns
    if conn.reader.status != 200:
        _client_failed(self, conn, ERROR_STATUS)
        return
    if self.is_verbatim and not reader_is_whole(&conn.reader):
        _client_failed(self, conn, ERROR_CONTENT)
        return
    self.requests += 1
    if self.is_streaming:
        self.streams_done += 1
    elif self.records_latency and self.latency_count < LATENCIES_MAX:
        self.latencies_ns[self.latency_count] = <uint32_t>latency_ns        # 4 s at most
        self.latency_count += 1
    if not conn.reader.keeps_alive:                               # it said so: a new connection takes this one's place
        self.reconnects += 1
        client_forget(self, conn)
        return
    if conn.state == CLIENT_STREAMING:
        self.streaming_count -= 1
    if self.asks_again:
        _client_ask(self, conn)
    else:
        conn.state = CLIENT_RESTING
        self.resting_count += 1


cdef bint _client_feed(peer_t* self, conn_t* conn, size_t size_bytes) noexcept nogil:
    """Takes in the buffer; False when the connection is over or has another request out."""
    cdef uint32_t event_count
    cdef size_t taken = reader_feed(&conn.reader, self.buffer, size_bytes)
    if conn.reader.head_new:
        conn.reader.head_new = 0
        _client_opened(self, conn)
        if self.is_streaming and conn.reader.status == 200:
            conn.state = CLIENT_STREAMING
            self.streaming_count += 1
    event_count = conn.reader.event_count
    if event_count != conn.event_count:
        self.events += event_count - conn.event_count
        self.arrived_count += event_count - conn.event_count
        conn.event_count = event_count
    if conn.reader.phase == READ_BROKEN:
        _client_failed(self, conn, ERROR_FRAMING)
        return False
    if self.is_verbatim and conn.reader.is_changed and conn.reader.status == 200:
        _client_failed(self, conn, ERROR_CONTENT)
        return False
    if conn.reader.phase == READ_DONE:
        if taken < size_bytes:
            _client_failed(self, conn, ERROR_EXCESS)
        else:
            _client_answered(self, conn)
        return False
    return True


cdef void _client_ready(peer_t* self, conn_t* conn, uint32_t events) noexcept nogil:
    cdef ssize_t size_bytes
    if conn.state < CLIENT_WAITING:
        _client_connected(self, conn)
        return
    if events & EPOLLOUT and _conn_flush(self, conn) != 0:
        _client_failed(self, conn, ERROR_CLOSED)
        return
    if not events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        return
    while True:
        size_bytes = _conn_recv(self, conn)
        if size_bytes == -2:
            return
        if conn.state == CLIENT_RESTING:                          # closed while idle, or bytes nobody asked for
            if size_bytes > 0:
                _client_failed(self, conn, ERROR_EXCESS)
            else:
                client_forget(self, conn)
                self.client_goal -= 1
            return
        if size_bytes == 0 and reader_at_end_of_stream(&conn.reader):
            _client_answered(self, conn)
            return
        if size_bytes <= 0:
            _client_failed(self, conn, ERROR_CLOSED)
            return
        if not _client_feed(self, conn, size_bytes):
            return
        if conn.session == NULL:                                  # epoll tells of what is left; TLS may hold some back
            return


# -- the loop ----------------------------------------------------------------------------------------------------------

cdef bint peer_reached(peer_t* self, goal_t* goal) noexcept nogil:
    return (self.is_failed
            or (goal.requests and self.requests >= goal.requests)
            or (goal.events and self.events >= goal.events)
            or (goal.streams >= 0 and <int64_t>self.streaming_count >= goal.streams)
            or (goal.engine_streams >= 0 and <int64_t>self.stream_count <= goal.engine_streams)
            or (goal.all_resting and self.resting_count >= self.client_goal))


cdef void peer_run(peer_t* self, uint64_t until_ns, goal_t* goal) noexcept nogil:
    cdef epoll_event events[EVENTS_PER_WAKE]
    cdef conn_t* conn
    cdef uint64_t now_ns
    cdef int ready_count, index
    if self.pace == PACE_TIMED:
        self.due_ns = clock_ns()
        timer_arm(self.timer_fd, self.due_ns)
    while not peer_reached(self, goal):
        now_ns = clock_ns()
        if now_ns >= until_ns:
            break
        _clients_open(self)
        ready_count = epoll_wait(self.epoll_fd, events, EVENTS_PER_WAKE, <int>((until_ns - now_ns) // 1000000 + 1))
        for index in range(ready_count):
            conn = <conn_t*>events[index].data.ptr
            if conn.is_dead:
                continue
            if conn.kind == KIND_CLIENT:
                _client_ready(self, conn, events[index].events)
            elif conn.kind == KIND_ENGINE:
                _engine_ready(self, conn, events[index].events)
            elif conn.kind == KIND_LISTENER:
                _engine_accept(self, conn)
            else:
                timer_clear(self.timer_fd)
                if self.pace == PACE_TIMED:
                    _paced_ticks(self)
        free_dead(self)
        if self.pace == PACE_LOCKSTEP and self.client_goal and self.arrived_count >= self.client_goal:
            _lockstep(self)
    timer_arm(self.timer_fd, 0)

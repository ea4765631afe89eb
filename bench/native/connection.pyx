"""One client connection of a mock engine: its socket, its buffers, and the one exchange it carries at a time.

Sockets are registered once, edge-triggered for both directions. Pipelined requests wait in the inbox; while one is
answered no more than PIPELINE_MAX bytes are read ahead, which is enough to see the client leave. Invariant:
`finish_exchange` runs exactly once for each exchange begun, whoever ends it, and gives the sequence back. A closed
connection is freed only after the batch of events in which it died.
"""

from bench.native.exposition cimport observe_e2e
from bench.native.out cimport out_free, out_reserve, out_t, out_take, out_text
from bench.native.request cimport dechunk, dechunk_t, parse_head
from bench.native.step cimport SEQUENCE_FINISHED, step_abort, step_release
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SOL_SOCKET
        SO_LINGER
    cdef struct linger:
        int l_onoff
        int l_linger
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    READ_MIN = 2048              # room for a small request
    READ_MAX = 262144            # at most asked for at once
    HEAD_MAX = 1048576           # uvicorn with httptools has none; a vLLM took every head a test sent
    BODY_MAX = 134217728
    PIPELINE_MAX = 65536


cdef conn_t* conn_open(engine_t* engine, int fd, uint64_t now_us) noexcept nogil:
    cdef conn_t* conn = <conn_t*> calloc(1, sizeof(conn_t))
    if conn == NULL:
        return NULL
    conn.source = SOURCE_CONNECTION
    conn.fd = fd
    conn.engine = engine
    conn.sequence = -1
    conn.active_us = now_us
    conn.next = engine.connections
    if conn.next != NULL:
        conn.next.previous = conn
    engine.connections = conn
    engine.telemetry.connections_accepted += 1
    engine.telemetry.connections_open += 1
    return conn


cdef void set_wake(conn_t* conn, uint64_t wake_us) noexcept nogil:
    if conn.wake_us == 0 and wake_us:
        conn.engine.timed_count += 1
    elif conn.wake_us and wake_us == 0:
        conn.engine.timed_count -= 1
    conn.wake_us = wake_us


cdef void finish_exchange(conn_t* conn, int outcome, uint64_t now_us) noexcept nogil:
    cdef engine_t* engine = conn.engine
    if conn.sequence >= 0:
        if engine.step.sequences[conn.sequence].state == SEQUENCE_FINISHED:
            step_release(&engine.step, conn.sequence)
        else:
            step_abort(&engine.step, conn.sequence)
        conn.sequence = -1
    engine.telemetry.in_flight -= 1
    engine.telemetry.events += conn.answer.event_count
    if outcome == OUTCOME_FINISHED:
        engine.telemetry.finished += 1
        engine.telemetry.finished_length += conn.answer.reached_max
        observe_e2e(&engine.telemetry, now_us - conn.begun_us)
    elif outcome == OUTCOME_ABORTED:
        engine.telemetry.aborted += 1
    else:
        engine.telemetry.faulted += 1
    conn.phase = PHASE_REQUEST
    conn.held = False
    conn.active_us = now_us


cdef void conn_close(conn_t* conn, bint with_reset) noexcept nogil:
    cdef linger hard
    cdef engine_t* engine = conn.engine
    cdef uint8_t[4096] unread
    if conn.fd < 0:
        return
    if conn.phase != PHASE_REQUEST:
        finish_exchange(conn, OUTCOME_ABORTED, conn.active_us)
    set_wake(conn, 0)
    if with_reset:
        hard.l_onoff = 1
        hard.l_linger = 0
        setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard))
    else:
        # Unread bytes would turn the close into a reset that can overtake the answer.
        while recv(conn.fd, unread, sizeof(unread), MSG_DONTWAIT) > 0:
            pass
    close(conn.fd)
    conn.fd = -1
    out_free(&conn.inbox)
    out_free(&conn.outbox)
    if conn.previous != NULL:
        conn.previous.next = conn.next
    else:
        engine.connections = conn.next
    if conn.next != NULL:
        conn.next.previous = conn.previous
    conn.next = engine.dead
    engine.dead = conn
    engine.telemetry.connections_open -= 1


cdef void conn_read(conn_t* conn, uint64_t now_us) noexcept nogil:
    """Read what is there, within bounds; sets at_end at the client's FIN, closes on an error."""
    cdef out_t* inbox = &conn.inbox
    cdef size_t room
    cdef ssize_t got
    conn.read_paused = False
    while True:
        if conn.phase != PHASE_REQUEST and inbox.size - inbox.taken > PIPELINE_MAX:
            conn.read_paused = True
            return
        room = READ_MIN
        if conn.wanted_size > inbox.size - inbox.taken + room:
            room = conn.wanted_size - (inbox.size - inbox.taken)
            if room > READ_MAX:
                room = READ_MAX
        out_reserve(inbox, room)
        room = inbox.capacity - inbox.size
        got = recv(conn.fd, inbox.data + inbox.size, room, MSG_DONTWAIT)
        if got > 0:
            inbox.size += got
            conn.active_us = now_us
            if <size_t> got < room and not conn.at_end:
                return                  # drained; what comes later is a new edge
        elif got == 0:
            conn.at_end = True
            return
        elif errno == EAGAIN:
            return
        elif errno != EINTR:
            conn_close(conn, False)
            return


cdef void refuse_message(conn_t* conn, const char* response) noexcept nogil:
    out_text(&conn.outbox, response)
    conn.closing = True


cdef int next_request(conn_t* conn, uint8_t** body, size_t* size, size_t* message_size) noexcept nogil:
    cdef out_t* inbox = &conn.inbox
    cdef uint8_t* data = inbox.data + inbox.taken
    cdef size_t held_bytes = inbox.size - inbox.taken
    cdef int64_t head_size
    cdef int framing
    if held_bytes == 0 or held_bytes < conn.wanted_size:
        return 0
    head_size = parse_head(data, held_bytes, &conn.request)
    if head_size < 0 or (head_size == 0 and held_bytes > HEAD_MAX):
        refuse_message(conn, b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                             b"connection: close\r\ncontent-length: 30\r\n\r\nInvalid HTTP request received.")
        return -1
    if head_size == 0:
        return 0
    body[0] = data + head_size
    if conn.request.chunked:
        framing = dechunk(&conn.dechunked, body[0], held_bytes - head_size)
        size[0] = conn.dechunked.written
        message_size[0] = head_size + conn.dechunked.read
        if framing < 0:
            refuse_message(conn, b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            return -1
    else:
        size[0] = <size_t> conn.request.content_length
        message_size[0] = head_size + size[0]
        framing = message_size[0] <= held_bytes
        conn.wanted_size = message_size[0]
    if size[0] > BODY_MAX:
        refuse_message(conn, b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return -1
    if conn.request.expects_continue and not conn.told_continue:
        conn.told_continue = True            # said even to a client that has not waited for it
        out_text(&conn.outbox, b"HTTP/1.1 100 Continue\r\n\r\n")
    if framing == 0:
        return 0
    conn.wanted_size = 0
    conn.told_continue = False
    memset(&conn.dechunked, 0, sizeof(dechunk_t))
    return 1


cdef void conn_flush(conn_t* conn, uint64_t now_us) noexcept nogil:
    """Write what the socket takes; closes when everything is out and it must, or when the client is gone."""
    cdef out_t* outbox = &conn.outbox
    cdef ssize_t sent
    cdef size_t size
    if conn.fd < 0 or (conn.wake_us and conn.drips):
        return
    while outbox.taken < outbox.size:
        size = 1 if conn.drips else outbox.size - outbox.taken
        sent = send(conn.fd, outbox.data + outbox.taken, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                conn_close(conn, False)
            return
        out_take(outbox, sent)
        if conn.drips and conn.drip_us and outbox.taken < outbox.size:
            set_wake(conn, now_us + conn.drip_us)
            return
    if conn.closing and conn.phase == PHASE_REQUEST:
        conn_close(conn, False)

"""What the epoll driver sends: at the end of a batch, at once, or when the peer's kernel has room again.

A short message of a batch of several events is copied to the outbox and given to the kernel when the batch is through.
The peers of a busy proxy fall asleep between two messages and are woken by the next, which costs the sender more than
the copy; of messages that leave one behind the other only the first wakes. It also keeps the code of a request in the
caches. A batch of one event, and a long message, is sent straight from where it lies.

Invariants: what a connection sends leaves in order; nothing is in the outbox between two batches, nor of a connection
that has been closed. Only what the kernel does not take is kept, in the connection's `out`.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from router.native.buffer cimport buffer_append, buffer_bytes, buffer_consume, buffer_release, buffer_size
from router.native.conn cimport (
    CONN_BLOCKED, CONN_BROKEN, CONN_CLOSED, CONN_CLOSE_WHEN_SENT, CONN_CONNECTING, CONN_DOWNSTREAM, CONN_HANDSHAKING,
    CONN_WANTS_WRITE, conn_t,
)
from router.native.epoll_state cimport (
    OUTBOX_BYTES_MAX, OUTBOX_COUNT_MAX, OUTBOX_MESSAGE_BYTES_MAX, TLS_RECORD_BYTES, epoll_driver_t, message_t, outbox_t,
    watch_as_needed,
)
from router.native.sockets cimport MSG_NOSIGNAL, msghdr, send, sendmsg
from router.native.tls cimport TLS_WANTS_READ, TLS_WANTS_WRITE, tls_write


cdef int driver_send(conn_t* conn, iovec* pieces, int count) noexcept nogil:
    cdef int index, held = 0
    if conn.flags & (CONN_BROKEN | CONN_CLOSED):
        return -1
    send_waiting(conn)
    if conn.flags & (CONN_BLOCKED | CONN_CONNECTING | CONN_HANDSHAKING):
        for index in range(count):
            held = hold(conn, <const uint8_t*>pieces[index].iov_base, pieces[index].iov_len)
        return held
    if put_in_outbox(&(<epoll_driver_t*>conn.driver).outbox, conn, pieces, count):
        return 0
    return transmit(conn, pieces, count)


cdef bint put_in_outbox(outbox_t* outbox, conn_t* conn, const iovec* pieces, int count) noexcept nogil:
    # The pieces, in one; False when there is no batch, no room, or too much to copy.
    cdef size_t size = 0
    cdef uint32_t offset = outbox.used
    cdef int index
    if not outbox.is_open or outbox.count == OUTBOX_COUNT_MAX:
        return False
    for index in range(count):
        size += pieces[index].iov_len
    if size > OUTBOX_MESSAGE_BYTES_MAX or size + offset > OUTBOX_BYTES_MAX:
        return False
    for index in range(count):
        memcpy(outbox.bytes + outbox.used, pieces[index].iov_base, pieces[index].iov_len)
        outbox.used += <uint32_t>pieces[index].iov_len
    outbox.messages[outbox.count].conn = conn
    outbox.messages[outbox.count].offset = offset
    outbox.messages[outbox.count].size = <uint32_t>size
    outbox.count += 1
    conn.outbox_place = <uint8_t>outbox.count
    return True


cdef void drop_waiting(conn_t* conn) noexcept nogil:
    if conn.outbox_place:
        (<epoll_driver_t*>conn.driver).outbox.messages[conn.outbox_place - 1].conn = NULL
        conn.outbox_place = 0


cdef void send_waiting(conn_t* conn) noexcept nogil:
    cdef outbox_t* outbox
    cdef message_t message
    if conn.outbox_place:
        outbox = &(<epoll_driver_t*>conn.driver).outbox
        message = outbox.messages[conn.outbox_place - 1]
        drop_waiting(conn)
        give(outbox, conn, &message)


cdef void empty_outbox(outbox_t* outbox) noexcept nogil:
    cdef conn_t* conn
    cdef uint32_t index
    for index in range(outbox.count):
        conn = outbox.messages[index].conn
        if conn == NULL:
            continue
        conn.outbox_place = 0
        if give(outbox, conn, &outbox.messages[index]) > 0:
            conn.driver.on_blocked(conn)
    outbox.count = outbox.used = 0


cdef int give(outbox_t* outbox, conn_t* conn, const message_t* message) noexcept nogil:
    cdef iovec piece
    piece.iov_base = outbox.bytes + message.offset
    piece.iov_len = message.size
    return transmit(conn, &piece, 1)


cdef int transmit(conn_t* conn, iovec* pieces, int count) noexcept nogil:
    cdef msghdr message
    cdef ssize_t taken
    cdef int index, held = 0
    if conn.tls != NULL:
        return send_records(conn, pieces, count)
    if count == 1:                   # the kernel has less to read than for sendmsg
        taken = send(conn.fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL)
    else:
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = count
        taken = sendmsg(conn.fd, &message, MSG_NOSIGNAL)
    if taken < 0 and errno != EAGAIN and errno != EINTR:
        conn.flags |= CONN_BROKEN
        return -1
    taken = max(taken, 0)
    for index in range(count):
        if <size_t>taken >= pieces[index].iov_len:
            taken -= pieces[index].iov_len
            continue
        held = hold(conn, <const uint8_t*>pieces[index].iov_base + taken, pieces[index].iov_len - taken)
        taken = 0
    return held


cdef int hold(conn_t* conn, const uint8_t* data, size_t size) noexcept nogil:
    if buffer_append(&conn.out, data, size) < 0:
        conn.flags |= CONN_BROKEN
        return -1
    if not conn.flags & CONN_BLOCKED:
        conn.flags |= CONN_BLOCKED
        if not conn.flags & (CONN_CONNECTING | CONN_HANDSHAKING):
            watch_as_needed(conn)
    return 1


cdef int send_records(conn_t* conn, iovec* pieces, int count) noexcept nogil:
    # Pieces are gathered so that a head and its body leave as one record.
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    cdef size_t filled = 0
    cdef size_t offset, room
    cdef int index
    cdef int held = 0
    for index in range(count):
        offset = 0
        while offset < pieces[index].iov_len:
            if held:
                return -1 if hold(conn, <const uint8_t*>pieces[index].iov_base + offset,
                                  pieces[index].iov_len - offset) < 0 else send_rest(conn, pieces, index + 1, count)
            room = TLS_RECORD_BYTES - filled
            if room > pieces[index].iov_len - offset:
                room = pieces[index].iov_len - offset
            memcpy(driver.record + filled, <const uint8_t*>pieces[index].iov_base + offset, room)
            filled += room
            offset += room
            if filled == TLS_RECORD_BYTES:
                held = send_record(conn, driver.record, filled)
                if held < 0:
                    return -1
                filled = 0
    if filled and not held:
        held = send_record(conn, driver.record, filled)
    return held


cdef int send_rest(conn_t* conn, iovec* pieces, int index, int count) noexcept nogil:
    while index < count:
        if hold(conn, <const uint8_t*>pieces[index].iov_base, pieces[index].iov_len) < 0:
            return -1
        index += 1
    return 1


cdef int send_record(conn_t* conn, const uint8_t* data, size_t size) noexcept nogil:
    cdef int64_t taken
    cdef size_t offset = 0
    while offset < size:
        taken = tls_write(conn.tls, data + offset, size - offset)
        if taken == TLS_WANTS_READ or taken == TLS_WANTS_WRITE:
            return hold(conn, data + offset, size - offset)
        if taken < 0:
            conn.flags |= CONN_BROKEN
            return -1
        offset += taken
    return 0


cdef void flush(conn_t* conn) noexcept nogil:
    cdef int64_t taken
    conn.flags &= ~CONN_WANTS_WRITE
    while buffer_size(&conn.out):
        if conn.tls != NULL:
            taken = tls_write(conn.tls, buffer_bytes(&conn.out), buffer_size(&conn.out))
            if taken == TLS_WANTS_READ or taken == TLS_WANTS_WRITE:
                return
        else:
            taken = send(conn.fd, buffer_bytes(&conn.out), buffer_size(&conn.out), MSG_NOSIGNAL)
            if taken < 0 and (errno == EAGAIN or errno == EINTR):
                return
        if taken < 0:
            conn.flags = (conn.flags | CONN_BROKEN) & ~CONN_BLOCKED
            buffer_release(&conn.out)
            watch_as_needed(conn)
            if conn.kind == CONN_DOWNSTREAM:
                conn.driver.on_eof(conn, ECONNRESET)
            return                   # an endpoint's answer may have come before its reset: read first, then its end
        buffer_consume(&conn.out, taken)
    if conn.flags & CONN_CLOSE_WHEN_SENT:
        conn.driver.on_eof(conn, 0)
        return
    if conn.flags & CONN_BLOCKED:
        conn.flags &= ~CONN_BLOCKED
        watch_as_needed(conn)
        conn.driver.on_drained(conn)

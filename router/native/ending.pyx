"""How exchanges and client connections end: finished, answered by the router itself, or cut so that the client can
see it.

`finish` is the only place where an exchange ends; everything else here leads to it. Invariants: what was cut short is
reset, never ended in order; a connection is forgotten once, and nothing reads it after that.
"""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from router.native.attempt cimport attempt_end
from router.native.buffer cimport buffer_release
from router.native.causes cimport (
    CAUSE_BAD_EXPECT, CAUSE_BAD_REQUEST, CAUSE_CLIENT_CLOSED, CAUSE_HEAD_TIMEOUT, CAUSE_HEAD_TOO_LARGE, CAUSE_NONE,
    CAUSE_TARGET_TOO_LONG,
    CAUSE_UNSUPPORTED_VERSION, CAUSE_UPSTREAM_4XX, CAUSE_UPSTREAM_5XX,
)
from router.native.conn cimport CONN_BLOCKED, CONN_CLOSED
from router.native.exchange cimport (
    DOWN_FLUSH, DOWN_IDLE, DOWN_LINGER, EXCHANGE_RELAYING, EXCHANGE_TUNNEL, X_CLOSE_DOWNSTREAM, X_FAULT, X_UPLOAD_DONE,
    core_t, downstream_t, exchange_deadline, exchange_free, exchange_new, exchange_record, exchange_t,
)
from router.native.http1 cimport (
    FIELD_COUNT, HTTP1_BAD_EXPECT, HTTP1_HEAD_TOO_LARGE, HTTP1_TARGET_TOO_LONG, HTTP1_TOO_MANY_FIELDS,
    HTTP1_UNSUPPORTED_VERSION, head_t, http1_error_text,
)
from router.native.loadtable cimport load_observe_outcome
from router.native.logline cimport log_exchange
from router.native.metrics cimport COUNT_CONNECTIONS_OPEN, COUNT_PROTOCOL_ERRORS_DOWNSTREAM, metrics_add
from router.native.sse cimport METER_SSE
from router.native.wheel cimport wheel_arm, wheel_cancel


cdef int passed_cause(uint16_t status) noexcept nogil:
    if status < 400:
        return CAUSE_NONE
    return CAUSE_UPSTREAM_5XX if status >= 500 else CAUSE_UPSTREAM_4XX


cdef void arm(core_t* core, downstream_t* down) noexcept nogil:
    # Only an earlier deadline touches the wheel; a later one is found when the timer fires.
    cdef int cause
    cdef uint64_t deadline = exchange_deadline(core, down, &cause)
    if down.timer.next == NULL or deadline < down.timer.due_us:
        wheel_arm(&core.wheel, &down.timer, deadline)


cdef void finish(core_t* core, exchange_t* x, int cause) noexcept nogil:
    """Books the exchange, frees it, and makes its connection ready for the next or closes it. Only here does an
    exchange end.
    """
    cdef downstream_t* down = x.down
    cdef bint closes = x.flags & X_CLOSE_DOWNSTREAM != 0
    cdef bint whole = x.flags & X_UPLOAD_DONE != 0
    if exchange_record(core, x, cause) and core.options.logs:
        log_exchange(core, x, cause)
    exchange_free(core, x)
    down.since_us = core.driver.now_us
    if down.conn.flags & CONN_CLOSED:
        return
    if down.conn.flags & CONN_BLOCKED:
        down.blocked_bytes = core.driver.unsent(&down.conn)
    if not closes:
        down.phase = DOWN_FLUSH if down.conn.flags & CONN_BLOCKED else DOWN_IDLE
        core.driver.resume_reading(&down.conn)
    elif whole:
        down.phase = DOWN_FLUSH
        core.driver.close_when_sent(&down.conn)
        if down.conn.flags & CONN_CLOSED:
            return
    else:
        # An immediate close would reset the connection and could take the answer with it.
        down.phase = DOWN_LINGER
        buffer_release(&down.inbox)
        core.driver.resume_reading(&down.conn)
        if not down.conn.flags & CONN_BLOCKED:
            core.driver.end_sending(&down.conn)
    arm(core, down)


cdef void answer_error(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil:
    """The router's own answer, in OpenAI's error shape. What an endpoint may still say to this exchange is dropped
    with its connection.
    """
    attempt_end(core, x, False)
    core.hooks.send_error(core, x, cause, detail)
    finish(core, x, cause)


cdef void answer_early(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil:
    if not x.flags & X_UPLOAD_DONE:
        x.flags |= X_CLOSE_DOWNSTREAM
    answer_error(core, x, cause, detail)


cdef void refuse(core_t* core, downstream_t* down, int error) noexcept nogil:
    """Answers a head that cannot be read, and closes: where the next message begins is not known."""
    cdef exchange_t* x
    cdef int cause = CAUSE_BAD_REQUEST
    metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_DOWNSTREAM, 1)
    x = exchange_new(core, down, NULL, blank_head(core))
    if x == NULL:
        close_downstream(core, down)
        return
    x.flags |= X_CLOSE_DOWNSTREAM
    if error == HTTP1_HEAD_TOO_LARGE or error == HTTP1_TOO_MANY_FIELDS:
        cause = CAUSE_HEAD_TOO_LARGE
    elif error == HTTP1_TARGET_TOO_LONG:
        cause = CAUSE_TARGET_TOO_LONG
    elif error == HTTP1_UNSUPPORTED_VERSION:
        cause = CAUSE_UNSUPPORTED_VERSION
    elif error == HTTP1_BAD_EXPECT:
        cause = CAUSE_BAD_EXPECT
    answer_error(core, x, cause, http1_error_text(error))


cdef void time_out_head(core_t* core, downstream_t* down) noexcept nogil:
    cdef exchange_t* x = exchange_new(core, down, NULL, blank_head(core))
    if x == NULL:
        close_downstream(core, down)
        return
    x.flags |= X_CLOSE_DOWNSTREAM
    answer_error(core, x, CAUSE_HEAD_TIMEOUT, b"")


cdef head_t* blank_head(core_t* core) noexcept nogil:
    cdef int index
    memset(&core.head, 0, sizeof(head_t))
    for index in range(FIELD_COUNT):
        core.head.known[index] = -1
    return &core.head


cdef void cut_short(core_t* core, exchange_t* x, int cause) noexcept nogil:
    """Bytes have gone out and no more will: a reset, which no client can take for a complete message."""
    cdef downstream_t* down = x.down
    if x.endpoint != NULL and core.options.counts_against_endpoint[cause]:
        load_observe_outcome(core.load, x.endpoint.slot, True, core.driver.now_us)
        x.flags |= X_FAULT
    attempt_end(core, x, False)
    core.driver.abort(&down.conn)
    finish(core, x, cause)
    forget_downstream(core, down)


cdef void close_downstream(core_t* core, downstream_t* down) noexcept nogil:
    core.driver.close(&down.conn)
    forget_downstream(core, down)


cdef void forget_downstream(core_t* core, downstream_t* down) noexcept nogil:
    # Idempotent: `core` is NULL once it has been forgotten.
    if down.core == NULL:
        return
    down.core = NULL
    wheel_cancel(&core.wheel, &down.timer)
    buffer_release(&down.inbox)
    if down.previous != NULL:
        down.previous.next = down.next
    else:
        core.connections = down.next
    if down.next != NULL:
        down.next.previous = down.previous
    core.connection_count -= 1
    core.driver.is_full = core.connection_count >= core.options.connections_max
    metrics_add(&core.metrics, COUNT_CONNECTIONS_OPEN, -1)


cdef inline bint has_all(const exchange_t* x) noexcept nogil:
    # SDKs hang up when they have read a stream's end event, often before its last chunk has come.
    return x.state == EXCHANGE_TUNNEL or (x.state == EXCHANGE_RELAYING and x.meter.mode == METER_SSE
                                          and x.meter.saw_done and not x.down.conn.flags & CONN_BLOCKED)


cdef void client_gone(core_t* core, downstream_t* down) noexcept nogil:
    """The client went away: its upstream is cancelled in the same event, whatever it was doing."""
    cdef exchange_t* x = down.exchange
    cdef int cause
    if x != NULL:
        cause = CAUSE_NONE if has_all(x) else CAUSE_CLIENT_CLOSED
        attempt_end(core, x, False)
        core.driver.close(&down.conn)
        finish(core, x, cause)
    close_downstream(core, down)

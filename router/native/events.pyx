"""What the driver and the clock tell, turned into steps of the request path.

Each function is one event: a connection accepted or established, bytes, an end, an emptied send queue, a timer. After
any event that may have ended an exchange, `go_on` takes the client's next pipelined request from its inbox.
"""

from libc.stdint cimport uint8_t, uint32_t
from posix.unistd cimport close
from router.native.attempt cimport attempt_end, upstream_drop
from router.native.buffer cimport buffer_append, buffer_bytes, buffer_consume, buffer_size
from router.native.causes cimport (
    CAUSE_BODY_TIMEOUT, CAUSE_CLIENT_STALLED, CAUSE_CONNECT_FAILED, CAUSE_HEAD_TIMEOUT, CAUSE_NONE,
    CAUSE_RESET_BEFORE_HEAD, CAUSE_TLS_FAILED, CAUSE_TLS_HANDSHAKE, CAUSE_TRUNCATED,
)
from router.native.conn cimport CONN_CLOSED, CONN_DOWNSTREAM, CONN_HANDSHAKING, CONN_UPSTREAM, conn_t, driver_t
from router.native.ending cimport (
    answer_early, arm, client_gone, close_downstream, cut_short, finish, passed_cause, time_out_head,
)
from router.native.exchange cimport (
    DOWN_BODY, DOWN_BUSY, DOWN_FLUSH, DOWN_IDLE, DOWN_LINGER, DOWN_TUNNEL, EXCHANGE_AWAITING, EXCHANGE_CONNECTING,
    EXCHANGE_RELAYING, EXCHANGE_TUNNEL, RELAY_DONE, X_UPLOAD_DONE, core_t, downstream_t, exchange_deadline,
    exchange_t,
)
from router.native.loadtable cimport load_readmit
from router.native.metrics cimport (
    COUNT_BYTES_FROM_CLIENTS, COUNT_CONNECTIONS_ACCEPTED, COUNT_CONNECTIONS_OPEN, COUNT_PROTOCOL_ERRORS_UPSTREAM,
    COUNT_TLS_FAILURES, COUNT_TLS_HANDSHAKES, metrics_add,
)
from router.native.peer cimport peer_is_trusted, peer_text
from router.native.pool cimport endpoint_t, pool_stale, upstream_t
from router.native.relay cimport relay_end
from router.native.signals cimport signals_round_trip
from router.native.wheel cimport timer_node_t, wheel_next_due
from router.native.path cimport advance, attempt_failed, await_client, relay, send_request, take_response
from router.native.slab cimport slab_give, slab_take
from router.native.tunnel cimport pass_through

cdef enum:
    SWEEP_US = 1000000               # idle upstream connections are looked at this often


# ---- What the driver tells

cdef void on_accepted(driver_t* driver, conn_t* listener, int fd, const void* address, uint32_t length) noexcept nogil:
    cdef core_t* core = <core_t*>driver.core
    cdef void* context = core.listener_tls[listener.tag]
    cdef downstream_t* down = <downstream_t*>slab_take(sizeof(downstream_t))
    if down == NULL:
        close(fd)
        return
    if driver.adopt(driver, &down.conn, fd, CONN_DOWNSTREAM, context) < 0:
        slab_give(down, sizeof(downstream_t))
        return
    down.core = core
    down.is_tls = context != NULL
    down.since_us = driver.now_us
    down.peer_length = peer_text(address, down.peer)
    down.is_trusted = peer_is_trusted(address, core.trusted, core.trusted_count)
    down.next = core.connections
    if core.connections != NULL:
        core.connections.previous = down
    core.connections = down
    core.connection_count += 1
    metrics_add(&core.metrics, COUNT_CONNECTIONS_ACCEPTED, 1)
    metrics_add(&core.metrics, COUNT_CONNECTIONS_OPEN, 1)
    arm(core, down)
    if core.connection_count >= core.options.connections_max:
        driver.is_full = True               # the backlog keeps the next ones; who is here is not hurt
        driver.pause_accepting(listener)


cdef void on_connected(conn_t* conn) noexcept nogil:
    cdef core_t* core = <core_t*>conn.driver.core
    cdef size_t round_trip_us
    cdef exchange_t* x
    cdef downstream_t* down
    if conn.kind == CONN_DOWNSTREAM:
        metrics_add(&core.metrics, COUNT_TLS_HANDSHAKES, 1)
        (<downstream_t*>conn).since_us = core.driver.now_us
        arm(core, <downstream_t*>conn)
        return
    x = <exchange_t*>(<upstream_t*>conn).exchange
    if x == NULL:
        upstream_drop(core, <upstream_t*>conn)
        return
    down = x.down
    load_readmit(core.load, x.endpoint.slot)
    round_trip_us = core.driver.round_trip_us(conn)
    if round_trip_us:
        signals_round_trip(core.signals, x.endpoint.slot, <uint32_t>round_trip_us, core.driver.now_us)
    send_request(core, x)
    go_on(core, down)


cdef void on_data(conn_t* conn, const uint8_t* data, size_t size) noexcept nogil:
    cdef core_t* core = <core_t*>conn.driver.core
    cdef exchange_t* x
    cdef downstream_t* down
    if conn.kind == CONN_DOWNSTREAM:
        downstream_received(core, <downstream_t*>conn, data, size)
        return
    x = <exchange_t*>(<upstream_t*>conn).exchange
    if x == NULL:                        # nothing was asked: it must not reach whoever comes next
        metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_UPSTREAM, 1)
        upstream_drop(core, <upstream_t*>conn)
        return
    down = x.down
    if x.state == EXCHANGE_RELAYING:
        relay(core, x, 0, data, size)
    elif x.state == EXCHANGE_TUNNEL:
        pass_through(core, x, &down.conn, conn, data, size)
    else:
        take_response(core, x, data, size)
    go_on(core, down)


cdef void downstream_received(core_t* core, downstream_t* down, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used = 0
    metrics_add(&core.metrics, COUNT_BYTES_FROM_CLIENTS, size)
    if down.phase == DOWN_LINGER:
        return
    if down.phase == DOWN_TUNNEL:
        pass_through(core, down.exchange, &down.exchange.up.conn, &down.conn, data, size)
        return
    if buffer_size(&down.inbox) == 0:
        used = advance(core, down, data, size)
    if used < size and not down.conn.flags & CONN_CLOSED and down.phase != DOWN_LINGER:
        if buffer_append(&down.inbox, data + used, size - used) < 0:
            client_gone(core, down)
            return
        if used == 0:
            go_on(core, down)
    if down.phase >= DOWN_BUSY and buffer_size(&down.inbox) > core.options.pipelined_bytes_max:
        core.driver.pause_reading(&down.conn)


cdef void go_on(core_t* core, downstream_t* down) noexcept nogil:
    """Takes what waits in the inbox, if the connection can take anything."""
    cdef size_t used
    if down.conn.flags & CONN_CLOSED or down.phase > DOWN_BODY or buffer_size(&down.inbox) == 0:
        return
    used = advance(core, down, buffer_bytes(&down.inbox), buffer_size(&down.inbox))
    if used and buffer_size(&down.inbox):
        buffer_consume(&down.inbox, used)


cdef void on_eof(conn_t* conn, int error) noexcept nogil:
    cdef core_t* core = <core_t*>conn.driver.core
    cdef upstream_t* up = <upstream_t*>conn
    cdef exchange_t* x
    cdef downstream_t* down
    if conn.kind == CONN_DOWNSTREAM:
        if conn.flags & CONN_HANDSHAKING:
            metrics_add(&core.metrics, COUNT_TLS_FAILURES, 1)
        client_gone(core, <downstream_t*>conn)
        return
    x = <exchange_t*>up.exchange
    if x == NULL:
        upstream_drop(core, up)
        return
    down = x.down
    if x.state == EXCHANGE_CONNECTING:
        attempt_failed(core, x, CAUSE_TLS_FAILED if conn.flags & CONN_HANDSHAKING else CAUSE_CONNECT_FAILED)
    elif x.state == EXCHANGE_AWAITING:
        attempt_failed(core, x, CAUSE_RESET_BEFORE_HEAD)
    elif x.state == EXCHANGE_TUNNEL:
        attempt_end(core, x, False)
        finish(core, x, CAUSE_NONE)
    elif error == 0 and relay_end(core, x) == RELAY_DONE:
        attempt_end(core, x, False)
        finish(core, x, passed_cause(x.status))
    else:
        cut_short(core, x, CAUSE_TRUNCATED)
    go_on(core, down)


cdef void on_blocked(conn_t* conn) noexcept nogil:
    """What `send` seemed to have taken was more than the kernel has room for: the same as had it said so."""
    cdef core_t* core = <core_t*>conn.driver.core
    cdef downstream_t* down = <downstream_t*>conn
    cdef exchange_t* x
    if conn.kind == CONN_UPSTREAM:
        x = <exchange_t*>(<upstream_t*>conn).exchange
        if x != NULL and (x.state == EXCHANGE_TUNNEL or not x.flags & X_UPLOAD_DONE):
            core.driver.pause_reading(&x.down.conn)
            arm(core, x.down)
        return
    x = down.exchange
    if x == NULL and down.phase == DOWN_IDLE:
        down.phase = DOWN_FLUSH
        down.since_us = core.driver.now_us
        down.blocked_bytes = core.driver.unsent(conn)
        arm(core, down)
    elif x != NULL and x.state == EXCHANGE_RELAYING:
        await_client(core, x)
    elif x != NULL and x.state == EXCHANGE_TUNNEL:
        core.driver.pause_reading(&x.up.conn)


cdef void on_drained(conn_t* conn) noexcept nogil:
    cdef core_t* core = <core_t*>conn.driver.core
    cdef exchange_t* x
    cdef downstream_t* down = <downstream_t*>conn
    if conn.kind == CONN_UPSTREAM:
        x = <exchange_t*>(<upstream_t*>conn).exchange
        if x != NULL:
            x.down.since_us = core.driver.now_us     # while it was paused nothing could be asked of it
            core.driver.resume_reading(&x.down.conn)
            arm(core, x.down)
        return
    x = down.exchange
    if x != NULL and x.up != NULL:
        x.last_byte_us = core.driver.now_us
        core.driver.resume_reading(&x.up.conn)
        arm(core, down)
    elif down.phase == DOWN_LINGER:
        core.driver.end_sending(conn)
    elif down.phase == DOWN_FLUSH:
        down.phase = DOWN_IDLE
        down.since_us = core.driver.now_us
        core.driver.resume_reading(conn)     # the next request may have filled the inbox meanwhile
        go_on(core, down)


cdef void on_freed(conn_t* conn) noexcept nogil:
    if conn.kind == CONN_DOWNSTREAM:
        slab_give(conn, sizeof(downstream_t))
    elif conn.kind == CONN_UPSTREAM:
        slab_give(conn, sizeof(upstream_t))
    else:
        slab_give(conn, sizeof(conn_t))      # a listener


# ---- What time tells

cdef void run_timers(core_t* core) noexcept nogil:
    cdef timer_node_t* timer
    cdef uint32_t index
    cdef upstream_t* stale
    cdef endpoint_t* endpoint
    while True:
        timer = wheel_next_due(&core.wheel, core.driver.now_us)
        if timer == NULL:
            break
        on_timer(core, downstream_of(timer))
    if core.driver.now_us - core.swept_us < SWEEP_US:
        return
    core.swept_us = core.driver.now_us
    for index in range(core.endpoint_count):
        endpoint = core.endpoints[index]
        while True:
            stale = pool_stale(endpoint, core.driver.now_us if endpoint.is_retired or core.draining
                               else core.driver.now_us - core.options.upstream_idle_us)
            if stale == NULL:
                break
            upstream_drop(core, stale)


cdef inline downstream_t* downstream_of(timer_node_t* timer) noexcept nogil:
    return <downstream_t*>(<uint8_t*>timer - sizeof(conn_t))


cdef void on_timer(core_t* core, downstream_t* down) noexcept nogil:
    cdef int cause = CAUSE_NONE
    cdef exchange_t* x = down.exchange
    if exchange_deadline(core, down, &cause) > core.driver.now_us:
        arm(core, down)
        return
    # What the kernel holds counts too: it calls a socket writable again only when much of its buffer is free.
    if cause == CAUSE_CLIENT_STALLED and core.driver.unsent(&down.conn) < down.blocked_bytes:
        down.blocked_bytes = core.driver.unsent(&down.conn)  # slow, not stalled
        down.since_us = core.driver.now_us
        arm(core, down)
        return
    if cause == CAUSE_HEAD_TIMEOUT:
        time_out_head(core, down)
    elif x == NULL:
        if cause == CAUSE_TLS_HANDSHAKE:
            metrics_add(&core.metrics, COUNT_TLS_FAILURES, 1)
        close_downstream(core, down)
    elif cause == CAUSE_BODY_TIMEOUT and not x.bytes_out:
        attempt_end(core, x, False)
        answer_early(core, x, cause, b"")
    elif cause == CAUSE_BODY_TIMEOUT or cause == CAUSE_CLIENT_STALLED or x.state == EXCHANGE_TUNNEL:
        cut_short(core, x, cause)
    else:
        attempt_failed(core, x, cause)
    go_on(core, down)


cdef void events_begin(core_t* core) noexcept nogil:
    core.driver.core = core
    core.driver.on_accepted = on_accepted
    core.driver.on_connected = on_connected
    core.driver.on_data = on_data
    core.driver.on_eof = on_eof
    core.driver.on_blocked = on_blocked
    core.driver.on_drained = on_drained
    core.driver.on_freed = on_freed

"""The request path, read top-down.

A request is taken from a client (`take_head`, `take_body`), routed (`route_exchange`), given to an endpoint
(`begin_attempt`, `send_request`), answered (`on_response_head`, `relay`) and finished (`finish`, in ending). What the
driver tells comes in through native/events. Python is asked, through core.hooks, only when something else happens.

Invariant: no Python object is touched from accept to finish on the common path. Functions here return after the
exchange may have ended; whoever calls them looks at `down.exchange` again and never at the exchange it had.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from posix.uio cimport iovec
from router.native.attempt cimport (
    ATTEMPT_CONNECTED, ATTEMPT_CONNECTING, affinity_key, attempt_begin, attempt_end, attempt_exclude,
    attempt_next_address, attempt_push_body, attempt_renew, attempt_send, attempt_target, person_key,
)
from router.native.body cimport BODY_HAS_MODEL, BODY_IN_DOUBT, BODY_NOT_OBJECT, body_scan_begin, body_scan_t
from router.native.buffer cimport buffer_append, buffer_bytes, buffer_consume, buffer_release, buffer_size, buffer_t
from router.native.causes cimport (
    CAUSE_BAD_REQUEST, CAUSE_BODY_TOO_LARGE, CAUSE_BUFFERS_FULL, CAUSE_CONNECT_FAILED, CAUSE_DNS_FAILED,
    CAUSE_ENDPOINTS_FULL, CAUSE_INTERNAL, CAUSE_METHOD_NOT_ALLOWED, CAUSE_MODEL_NOT_FOUND, CAUSE_NO_ENDPOINT,
    CAUSE_NO_ROUTE, CAUSE_NONE, CAUSE_REQUIREMENT_UNKNOWN, CAUSE_RESET_BEFORE_HEAD, CAUSE_TLS_TIMEOUT, CAUSE_TRUNCATED,
    CAUSE_UPSTREAM_MALFORMED,
)
from router.native.conn cimport CONN_BLOCKED, CONN_CLOSED, CONN_PAUSED
from router.native.decision cimport decision_first_token
from router.native.ending cimport (
    answer_early, answer_error, arm, close_downstream, cut_short, finish, passed_cause, refuse,
)
from router.native.exchange cimport (
    DOWN_BODY, DOWN_BUSY, DOWN_HEAD, DOWN_IDLE, EXCHANGE_AWAITING, EXCHANGE_RECEIVING, EXCHANGE_RELAYING,
    FACTS_MISSING, FACTS_UNREADABLE, RELAY_CHUNKED, RELAY_DONE, RELAY_LENGTH, RELAY_MORE, RELAY_NONE, RELAY_UNCHUNKED,
    RELAY_UNTIL_CLOSE, RELAY_UNTIL_CLOSE_RAW, UPLOAD_BAD, UPLOAD_DONE, UPLOAD_TOO_LARGE, X_BODY_DROPPED,
    X_CLOSE_DOWNSTREAM, X_CUT_THROUGH, X_FACTS_KNOWN, X_FAULT, X_HEAD, X_HEAD_SENT, X_HTTP10,
    X_MULTIPART, X_REQUEST_CHUNKED, X_RESPONSE_BEGAN, X_SAW_TTFT, X_STREAM, X_UPGRADE, X_UPLOAD_DONE,
    X_UPSTREAM_KEEPS, core_t, downstream_t,
    exchange_drop_request, exchange_model, exchange_new, exchange_path, exchange_set_model, exchange_t,
    exchange_take_canary,
)
from router.native.http1 cimport (
    FIELD_CONTENT_ENCODING, FIELD_CONTENT_TYPE, FIELD_ENDPOINT_LOAD_METRICS, FIELD_UPGRADE, FIELD_X_FAIRLEAD_REQUIRE,
    HTTP1_OK, METHOD_CONNECT, METHOD_GET, METHOD_HEAD, METHOD_TRACE, find_head_end, head_t, parse_request_head,
    parse_response_head, span_t,
)
from router.native.load_report cimport load_report_take
from router.native.loadtable cimport load_eject, load_observe_outcome, load_readmit
from router.native.metrics cimport (
    COUNT_PROTOCOL_ERRORS_DOWNSTREAM, COUNT_PROTOCOL_ERRORS_UPSTREAM, COUNT_RETRIES, COUNT_STALE_REPLACED,
    metrics_add,
)
from router.native.pool cimport endpoint_t, text_t, upstream_t
from router.native.relay cimport relay_feed
from router.native.rewrite cimport LENGTH_CHUNKED, LENGTH_NONE, compose_response_head
from router.native.routes cimport add_required, find_alias, find_target, match_route
from router.native.slab cimport slab_take
from router.native.sse cimport METER_JSON, METER_OFF, METER_SSE, sse_meter_begin
from router.native.tunnel cimport begin_tunnel, hand_over
from router.native.upload cimport upload_feed
from router.native.variant cimport variant_is_canary

cdef enum:
    CARRIAGE_RETURN = 13
    LINE_FEED = 10
    MULTIPART_SCAN_BYTES = 33554432  # limits.MULTIPART_SCAN_BYTES_MAX
    SLASH = 47
    QUESTION = 63

cdef extern from "string.h" nogil:
    void* memmem(const void* data, size_t size, const void* wanted, size_t wanted_size)


# ---- A request comes in

cdef size_t advance(core_t* core, downstream_t* down, const uint8_t* data, size_t size) noexcept nogil:
    """Takes as many of the client's bytes as the phase allows; the rest waits in its inbox."""
    cdef size_t used = 0
    cdef int64_t length
    while used < size and not down.conn.flags & CONN_CLOSED:
        if down.phase == DOWN_BODY:
            used += take_body(core, down.exchange, data + used, size - used)
            continue
        if down.phase > DOWN_HEAD:
            break
        if down.phase == DOWN_IDLE:
            if data[used] == CARRIAGE_RETURN or data[used] == LINE_FEED:
                # RFC 9112 2.2: an empty line before a request is ignored; only whole ones are.
                if size - used < 2 and data[used] == CARRIAGE_RETURN:
                    break
                if data[used] == CARRIAGE_RETURN and data[used + 1] == LINE_FEED:
                    used += 2
                    continue
            down.phase = DOWN_HEAD
            down.since_us = core.driver.now_us
            down.scanned = 0
        length = find_head_end(data + used, size - used, &down.scanned, core.options.head_bytes_max)
        if length == 0:
            arm(core, down)
            break
        down.scanned = 0
        if length < 0:
            refuse(core, down, <int>length)
            return size
        used += take_head(core, down, data + used, <size_t>length, size - used)
    return used


cdef size_t take_head(core_t* core, downstream_t* down, const uint8_t* data, size_t length,
                      size_t available) noexcept nogil:
    cdef head_t* head = &core.head
    cdef exchange_t* x
    cdef iovec piece
    cdef int error = parse_request_head(data, length, core.options.target_bytes_max, head)
    core.head_owner = NULL
    if error != HTTP1_OK:
        refuse(core, down, error)
        return length
    if (head.method == METHOD_GET or head.method == METHOD_HEAD) and is_model_list(data, head):
        hand_over(core, down, data, available)
        return available
    x = exchange_new(core, down, data, head)
    if x == NULL:
        close_downstream(core, down)
        return length
    down.since_us = core.driver.now_us
    if head.method == METHOD_CONNECT or head.method == METHOD_TRACE:
        x.flags |= X_CLOSE_DOWNSTREAM
        answer_error(core, x, CAUSE_METHOD_NOT_ALLOWED, b"")
        return length
    if head.method == METHOD_GET and not head.is_chunked and head.content_length <= 0 and wants_websocket(data, head):
        x.flags |= X_UPGRADE
    x.upload_remaining = head.content_length
    if head.is_chunked:
        x.flags |= X_REQUEST_CHUNKED
    elif head.content_length <= 0:
        x.flags |= X_UPLOAD_DONE
        down.phase = DOWN_BUSY
        route_exchange(core, x)
        return length
    elif <uint64_t>head.content_length > core.options.body_bytes_max:
        x.flags |= X_CLOSE_DOWNSTREAM
        answer_error(core, x, CAUSE_BODY_TOO_LARGE, b"")
        return length
    down.phase = DOWN_BODY
    if head.known[FIELD_CONTENT_TYPE] >= 0 \
            and starts_with(data, head.fields[head.known[FIELD_CONTENT_TYPE]].value, b"multipart/form-data"):
        x.flags |= X_MULTIPART
    else:
        x.scan = <body_scan_t*>slab_take(sizeof(body_scan_t))
        if x.scan != NULL:
            body_scan_begin(x.scan, core.prompt_block_bytes)
    if head.expects_continue and length == available:
        piece.iov_base = <void*>CONTINUE
        piece.iov_len = strlen(CONTINUE)
        core.driver.send(&down.conn, &piece, 1)
    arm(core, down)
    return length


cdef const char* CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


cdef bint starts_with(const uint8_t* data, span_t span, const char* prefix) noexcept nogil:
    # `prefix` is lower case.
    cdef size_t length = strlen(prefix)
    cdef size_t index
    if span.length < length:
        return False
    for index in range(length):
        if data[span.offset + index] | 0x20 != <uint8_t>prefix[index] | 0x20:
            return False
    return True


cdef bint wants_websocket(const uint8_t* data, const head_t* head) noexcept nogil:
    # No other protocol is let through: behind h2c (RFC 9113 3.1) requests would pass that nobody has looked at.
    cdef span_t protocol
    if not head.wants_upgrade:
        return False
    protocol = head.fields[head.known[FIELD_UPGRADE]].value
    return protocol.length == 9 and starts_with(data, protocol, b"websocket")


cdef bint is_model_list(const uint8_t* data, const head_t* head) noexcept nogil:
    cdef const uint8_t* path = data + head.path.offset
    cdef size_t length = head.path.length
    if length >= 10 and memcmp(path, b"/v1/models", 10) == 0:
        return length == 10 or path[10] == SLASH or path[10] == QUESTION
    return length >= 7 and memcmp(path, b"/models", 7) == 0 and (length == 7 or path[7] == QUESTION)


cdef bint path_may_name_model(const exchange_t* x) noexcept nogil:
    # /openai/deployments/NAME/..., /v2/models/NAME/...: the certain reading is Python's.
    cdef text_t path = exchange_path(x)
    return memmem(path.data, path.length, b"/deployments/", 13) != NULL \
        or memmem(path.data, path.length, b"/models/", 8) != NULL


cdef size_t take_body(core_t* core, exchange_t* x, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used = 0
    cdef int result
    cdef size_t before = buffer_size(&x.body)
    cdef downstream_t* down = x.down
    down.since_us = core.driver.now_us
    result = upload_feed(core, x, data, size, &used)
    if result < 0:
        x.flags |= X_CLOSE_DOWNSTREAM
        if x.flags & X_HEAD_SENT:
            cut_short(core, x, CAUSE_BAD_REQUEST)
        elif result == UPLOAD_BAD:
            metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_DOWNSTREAM, 1)
            answer_error(core, x, CAUSE_BAD_REQUEST, b"the chunked request body is malformed")
        else:
            answer_error(core, x, CAUSE_BODY_TOO_LARGE if result == UPLOAD_TOO_LARGE else CAUSE_BUFFERS_FULL, b"")
        return size
    if result == UPLOAD_DONE:
        down.phase = DOWN_BUSY
    if x.state == EXCHANGE_RECEIVING:
        if result == UPLOAD_DONE or (buffer_size(&x.body) > core.options.retry_buffer_bytes_max
                                     and facts_may_be_known(core, x, before)):
            route_exchange(core, x)
    elif x.state >= EXCHANGE_AWAITING:
        if attempt_push_body(core, x) < 0:
            x.flags |= X_CLOSE_DOWNSTREAM
            attempt_failed(core, x, CAUSE_BAD_REQUEST)
        elif x.up.conn.flags & CONN_BLOCKED and not x.flags & X_UPLOAD_DONE:
            core.driver.pause_reading(&down.conn)
    elif buffer_size(&x.body) > core.options.retry_buffer_bytes_max:
        core.driver.pause_reading(&down.conn)        # still connecting: the bound holds meanwhile
    return used


cdef bint facts_may_be_known(const core_t* core, exchange_t* x, size_t before) noexcept nogil:
    """Whether it is worth trying to pick an endpoint before the whole body is here; `before` it had so many bytes."""
    cdef size_t size = buffer_size(&x.body)
    if x.flags & X_MULTIPART:
        # A form is read by Python from its beginning: again only when twice as much of it is here.
        return before <= core.options.retry_buffer_bytes_max or size ^ before > before or size > MULTIPART_SCAN_BYTES
    return x.scan == NULL or x.scan.flags & BODY_NOT_OBJECT \
        or (x.scan.flags & BODY_HAS_MODEL and not x.scan.flags & BODY_IN_DOUBT)


# ---- It is given to an endpoint

cdef void route_exchange(core_t* core, exchange_t* x) noexcept nogil:
    cdef const uint8_t* raw = buffer_bytes(&x.head)
    cdef int result
    cdef bint in_doubt = x.scan != NULL and x.scan.flags & BODY_IN_DOUBT != 0
    # A model in the path outranks one in the body, as in the APIs that have one there.
    if (in_doubt or x.flags & X_MULTIPART or path_may_name_model(x)) and not x.flags & X_FACTS_KNOWN:
        result = core.hooks.read_facts(core, x, x.flags & X_UPLOAD_DONE != 0)
        if result == FACTS_UNREADABLE:
            return                       # it has been answered
        if result == FACTS_MISSING and x.flags & X_MULTIPART and buffer_size(&x.body) <= MULTIPART_SCAN_BYTES:
            return                       # a file comes before it: once more of the form is here
    if x.scan != NULL and not in_doubt and not x.flags & X_FACTS_KNOWN:
        if x.scan.flags & BODY_HAS_MODEL:
            exchange_set_model(x, x.scan.model, x.scan.model_length)
            x.model_offset = x.scan.model_offset
            x.model_length = x.scan.model_length
        if x.scan.stream:
            x.flags |= X_STREAM
    if core.head_owner != x:
        parse_request_head(raw, buffer_size(&x.head), buffer_size(&x.head), &core.head)
        core.head_owner = x
    find_way(core, x, raw)
    if x.snapshot.canary != NULL and variant_is_canary(person_key(x, raw), x.snapshot.canary_share):
        exchange_take_canary(x)          # the stable snapshot says whose it is, so that no canary chooses its people
        find_way(core, x, raw)
    if x.route == NULL:
        answer_early(core, x, CAUSE_NO_ROUTE, b"")
        return
    x.required = x.route.required
    if core.head.known[FIELD_X_FAIRLEAD_REQUIRE] >= 0 and not read_required(core, x, raw):
        answer_early(core, x, CAUSE_REQUIREMENT_UNKNOWN, b"")
        return
    if x.target == NULL:
        answer_early(core, x, CAUSE_MODEL_NOT_FOUND if exchange_model(x).length else CAUSE_NO_ROUTE, b"")
        return
    x.key = affinity_key(x, raw)
    begin_attempt(core, x)


cdef void find_way(core_t* core, exchange_t* x, const uint8_t* raw) noexcept nogil:
    """Its route, alias and target by the snapshot that it has; NULL where there is none."""
    cdef text_t model = exchange_model(x)
    x.alias, x.target = NULL, NULL
    x.route = match_route(x.snapshot, raw, &core.head, model)
    if x.route == NULL:
        return
    if x.snapshot.alias_count and model.length and not path_may_name_model(x):
        x.alias = find_alias(x.snapshot, model)      # in a path it could not be replaced
    x.target = attempt_target(x) if x.alias != NULL else find_target(x.snapshot, x.route, model)


cdef bint read_required(core_t* core, exchange_t* x, const uint8_t* raw) noexcept nogil:
    """What the client requires on top, from every field of that name; False when its route does not offer it."""
    cdef const head_t* head = &core.head
    cdef uint32_t index
    cdef text_t names
    for index in range(<uint32_t>head.known[FIELD_X_FAIRLEAD_REQUIRE], head.field_count):
        if head.fields[index].id == FIELD_X_FAIRLEAD_REQUIRE:
            names.data = raw + head.fields[index].value.offset
            names.length = head.fields[index].value.length
            if not add_required(x.route, names, &x.required):
                return False
    return True


cdef void begin_attempt(core_t* core, exchange_t* x) noexcept nogil:
    cdef int result = attempt_begin(core, x)
    if x.attempts > 1 and result <= 0:
        metrics_add(&core.metrics, COUNT_RETRIES, 1)
    if result == ATTEMPT_CONNECTED:
        send_request(core, x)
    elif result == ATTEMPT_CONNECTING:
        arm(core, x.down)
    else:
        attempt_failed(core, x, result)


cdef void send_request(core_t* core, exchange_t* x) noexcept nogil:
    cdef int cause = attempt_send(core, x)
    if cause != CAUSE_NONE:
        attempt_failed(core, x, cause)
        return
    if x.flags & X_CUT_THROUGH:
        if x.up.conn.flags & CONN_BLOCKED:
            core.driver.pause_reading(&x.down.conn)
        else:
            core.driver.resume_reading(&x.down.conn)
    arm(core, x.down)


# ---- The answer comes back

cdef void take_response(core_t* core, exchange_t* x, const uint8_t* data, size_t size) noexcept nogil:
    cdef upstream_t* up = x.up
    cdef head_t* head = &core.head
    cdef int64_t length
    cdef size_t used = 0
    cdef bint held = buffer_size(&up.inbox) != 0
    x.flags |= X_RESPONSE_BEGAN
    if held:
        if buffer_append(&up.inbox, data, size) < 0:
            attempt_failed(core, x, CAUSE_INTERNAL)
            return
        data = buffer_bytes(&up.inbox)
        size = buffer_size(&up.inbox)
    while True:
        length = find_head_end(data + used, size - used, &up.scanned, core.options.head_bytes_max)
        if length == 0:
            if held:
                buffer_consume(&up.inbox, used)
            else:
                buffer_append(&up.inbox, data + used, size - used)
            return
        up.scanned = 0
        core.head_owner = NULL
        if length < 0 or parse_response_head(data + used, <size_t>length, head) != HTTP1_OK \
                or (head.status == 101 and (not x.flags & X_UPGRADE or not wants_websocket(data + used, head))):
            malformed(core, x)
            return
        if head.status >= 200 or head.status == 101:
            break
        # Informational: the client is not kept waiting by them, and they are never the final response.
        used += length
        x.interim_count += 1
        if x.interim_count > core.options.interim_max:
            malformed(core, x)
            return
        if used == size:
            buffer_release(&up.inbox)
            return
    on_response_head(core, x, data + used, head, data + used + length, size - used - length)


cdef void on_response_head(core_t* core, exchange_t* x, const uint8_t* raw, head_t* head, const uint8_t* body,
                           size_t size) noexcept nogil:
    cdef int64_t framing = LENGTH_NONE
    cdef int64_t head_length
    cdef span_t report
    cdef buffer_t held
    x.status = head.status
    x.state = EXCHANGE_RELAYING
    x.last_byte_us = core.driver.now_us
    exchange_drop_request(core, x)
    buffer_release(&x.trailers)
    x.flags |= X_BODY_DROPPED
    if not x.flags & X_UPLOAD_DONE:
        # answered before the body was whole: what is left of it is not worth reading
        x.flags |= X_CLOSE_DOWNSTREAM
    load_observe_outcome(core.load, x.endpoint.slot, head.status >= 500, core.driver.now_us)
    if x.endpoint.load_report and head.known[FIELD_ENDPOINT_LOAD_METRICS] >= 0:
        report = head.fields[head.known[FIELD_ENDPOINT_LOAD_METRICS]].value
        load_report_take(core.signals, x.endpoint.slot, raw + report.offset, report.length, core.driver.now_us)
    if head.status < 500:
        load_readmit(core.load, x.endpoint.slot)
    else:
        x.flags |= X_FAULT
    if head.keep_alive and x.flags & X_UPLOAD_DONE:
        x.flags |= X_UPSTREAM_KEEPS
    if head.status == 101:
        decision_first_token(core.decider, &x.charge, core.driver.now_us)     # nothing is waited for any more
        x.mode = RELAY_UNTIL_CLOSE_RAW
        x.flags |= X_CLOSE_DOWNSTREAM
    elif x.flags & X_HEAD or head.status == 204 or head.status == 304:
        x.mode = RELAY_NONE
        framing = head.content_length if head.status != 204 else LENGTH_NONE
    elif head.is_chunked:
        x.mode = RELAY_UNCHUNKED if x.flags & X_HTTP10 else RELAY_CHUNKED
        framing = LENGTH_NONE if x.flags & X_HTTP10 else LENGTH_CHUNKED
    elif head.content_length >= 0:
        x.mode = RELAY_LENGTH
        x.relay_remaining = framing = head.content_length
    else:
        x.mode = RELAY_UNTIL_CLOSE_RAW if x.flags & X_HTTP10 else RELAY_UNTIL_CLOSE
        framing = LENGTH_NONE if x.flags & X_HTTP10 else LENGTH_CHUNKED
        x.flags &= ~X_UPSTREAM_KEEPS
    if x.mode == RELAY_UNCHUNKED or x.mode == RELAY_UNTIL_CLOSE_RAW:
        x.flags |= X_CLOSE_DOWNSTREAM
    if core.draining:
        x.flags |= X_CLOSE_DOWNSTREAM
    begin_meter(x, raw, head)
    head_length = compose_response_head(core, x, raw, head, framing, x.flags & X_CLOSE_DOWNSTREAM != 0)
    if head_length < 0:
        malformed(core, x)
        return
    # What the inbox held has been parsed in place; it must outlive the relaying of the body bytes behind the head.
    held = x.up.inbox
    memset(&x.up.inbox, 0, sizeof(buffer_t))
    if head.status == 101:
        begin_tunnel(core, x, <size_t>head_length, body, size)
    else:
        relay(core, x, <size_t>head_length, body, size)
    buffer_release(&held)


cdef void begin_meter(exchange_t* x, const uint8_t* raw, const head_t* head) noexcept nogil:
    cdef span_t kind
    cdef int mode = METER_OFF
    if head.known[FIELD_CONTENT_TYPE] >= 0 and head.known[FIELD_CONTENT_ENCODING] < 0:
        kind = head.fields[head.known[FIELD_CONTENT_TYPE]].value
        if starts_with(raw, kind, b"text/event-stream"):
            mode = METER_SSE
        elif starts_with(raw, kind, b"application/json"):
            mode = METER_JSON
    sse_meter_begin(&x.meter, mode)


cdef void relay(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used = 0
    cdef downstream_t* down = x.down
    cdef bint had_begun = x.flags & X_SAW_TTFT != 0
    cdef int result = relay_feed(core, x, head_length, data, size, &used)
    if result == RELAY_MORE:
        x.flags |= X_HEAD_SENT
        if not had_begun:
            arm(core, down)              # from here on the idle timeout holds, which may be the sooner one
        if down.conn.flags & CONN_BLOCKED:
            await_client(core, x)
    elif result == RELAY_DONE:
        if used < size:
            # Surplus bytes: this answer is whole, but nothing more on that connection can be believed.
            x.flags &= ~X_UPSTREAM_KEEPS
            metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_UPSTREAM, 1)
        attempt_end(core, x, x.flags & X_UPSTREAM_KEEPS != 0)
        finish(core, x, passed_cause(x.status))
    elif x.bytes_out:
        metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_UPSTREAM, 1)
        cut_short(core, x, CAUSE_TRUNCATED)
    else:
        malformed(core, x)


cdef void await_client(core_t* core, exchange_t* x) noexcept nogil:
    # Nothing more is read from the endpoint until the client has taken what is there.
    cdef downstream_t* down = x.down
    if not x.up.conn.flags & CONN_PAUSED:
        down.since_us = core.driver.now_us
        down.blocked_bytes = core.driver.unsent(&down.conn)
    core.driver.pause_reading(&x.up.conn)
    arm(core, down)


# ---- It does not go well

cdef void malformed(core_t* core, exchange_t* x) noexcept nogil:
    metrics_add(&core.metrics, COUNT_PROTOCOL_ERRORS_UPSTREAM, 1)
    attempt_failed(core, x, CAUSE_UPSTREAM_MALFORMED)


cdef void attempt_failed(core_t* core, exchange_t* x, int cause) noexcept nogil:
    """Another address, the same endpoint anew, another endpoint, or an error: in that order."""
    cdef endpoint_t* endpoint = x.endpoint
    cdef int result
    cdef bint again = False
    cdef bint was_reused = x.up != NULL and x.up.served_count > 0
    if x.bytes_out:
        cut_short(core, x, CAUSE_TRUNCATED if cause == CAUSE_RESET_BEFORE_HEAD else cause)
        return
    if cause == CAUSE_CONNECT_FAILED and x.up != NULL:
        result = attempt_next_address(core, x)
        if result == ATTEMPT_CONNECTING:
            return
    if cause == CAUSE_RESET_BEFORE_HEAD and was_reused and not x.flags & (X_RESPONSE_BEGAN | X_BODY_DROPPED):
        # The endpoint closed the idle connection while this request was on its way: its keep-alive, not its failure.
        metrics_add(&core.metrics, COUNT_STALE_REPLACED, 1)
        result = attempt_renew(core, x)
        if result == ATTEMPT_CONNECTING:
            arm(core, x.down)
        else:
            attempt_failed(core, x, result)
        return
    if endpoint != NULL and cause >= CAUSE_DNS_FAILED and core.options.counts_against_endpoint[cause]:
        x.flags |= X_FAULT
    attempt_end(core, x, False)
    if endpoint != NULL and cause >= CAUSE_DNS_FAILED:
        if core.options.counts_against_endpoint[cause]:
            load_observe_outcome(core.load, endpoint.slot, True, core.driver.now_us)
        if cause <= CAUSE_TLS_TIMEOUT:
            load_eject(core.load, endpoint.slot, core.driver.now_us, core.options.eject_base_us,
                       core.options.eject_max_us)
    if cause != CAUSE_NO_ENDPOINT and cause != CAUSE_ENDPOINTS_FULL:
        x.last_cause = cause
        again = core.hooks.may_go_on(core, x, cause)
        if again and attempt_exclude(x):
            x.flags &= ~X_RESPONSE_BEGAN
            x.interim_count = 0
            begin_attempt(core, x)
            return
    elif x.last_cause:
        cause = x.last_cause             # nobody else to try: what the last one said is the better answer
    answer_early(core, x, cause, b"")

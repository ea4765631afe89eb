"""One exchange: a client's request and its one final response, and everything it holds while it lasts.

It owns the in-flight charge, the held request, the labels and the snapshot it began with; `exchange_record` books its
end and `exchange_free` gives everything back. Invariants: charge and release pair up on every path (the charge knows
whether it is charged), and an exchange is recorded exactly once (a second record is a bug and is ignored by the flag).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from router.native.body cimport body_scan_t
from router.native.buffer cimport buffer_append, buffer_release, buffer_size
from router.native.causes cimport (
    CAUSE_BODY_TIMEOUT, CAUSE_CLIENT_STALLED, CAUSE_CONNECT_TIMEOUT, CAUSE_FIRST_BYTE_TIMEOUT, CAUSE_HEAD_TIMEOUT,
    CAUSE_IDLE_TIMEOUT, CAUSE_NONE, CAUSE_TLS_HANDSHAKE, CAUSE_TLS_TIMEOUT, CAUSE_TOTAL_TIMEOUT,
    CAUSE_WRITE_TIMEOUT,
)
from router.native.conn cimport CONN_BLOCKED, CONN_HANDSHAKING, CONN_PAUSED
from router.native.decision cimport decision_end
from router.native.hash cimport hash_bytes
from router.native.http1 cimport FIELD_X_FAIRLEAD_EXPLAIN, FIELD_X_REQUEST_ID, METHOD_HEAD, head_t, span_t
from router.native.learner cimport learner_decoded, learner_output, learner_prompt, learner_t
from router.native.loadtable cimport (
    CHARGE_NONE, ROW_IN_FLIGHT, ROW_KV_TOKENS, ROW_PENDING, load_observe_itl, load_sum,
)
from router.native.metrics cimport (
    COUNT_ALIAS_PLACE_1, COUNT_BYTES_TO_CLIENTS, COUNT_CACHED_TOKENS, COUNT_COMPLETION_TOKENS,
    COUNT_EVENTS, COUNT_PROMPT_TOKENS,
    COUNT_REQUESTS_IN_FLIGHT, COUNT_UNFINISHED_STREAMS, HISTOGRAM_ROUTE_E2E, ROUTE_CACHED_TOKENS,
    ROUTE_COMPLETION_TOKENS, ROUTE_COST_NANO, ROUTE_PROMPT_TOKENS, metrics_add, metrics_add_route,
    metrics_count_request, metrics_observe_us,
)
from router.native.octets cimport same_name
from router.native.pick cimport random_next
from router.native.pool cimport text_t
from router.native.routes cimport snapshot_t
from router.native.slab cimport slab_give, slab_take
from router.native.sse cimport METER_SSE

cdef enum:
    REQUEST_ID_BYTES_MAX = 128       # a longer or odd one from a client is replaced
    PATH_LABEL_BYTES_MAX = 256
    MADE_ID_BYTES = 32
    TUNNEL_IDLE_US = 3600000000      # a WebSocket may be quiet for long, but not for ever
    LINGER_US = 5000000              # how long an answered client may go on sending what nobody reads
    USAGE_TOKENS_MAX = 1 << 24       # of a usage object that is believed
    NO_ROUTE = 0xFFFF
    NO_SLOT = 0xFFFF


cdef double COST_NANO_MAX = 1e18         # a billion: what no exchange costs, and an integer can hold


cdef bint is_usable_id(const uint8_t* data, uint32_t length) noexcept nogil:
    cdef uint32_t index
    if length == 0 or length > REQUEST_ID_BYTES_MAX:
        return False
    for index in range(length):
        # Visible ASCII without quotes and backslashes, so that logs need no escaping.
        if data[index] <= 0x20 or data[index] >= 0x7F or data[index] == 0x22 or data[index] == 0x5C:
            return False
    return True


cdef bint says_yes(const uint8_t* buffer, span_t value) noexcept nogil:
    cdef const uint8_t* text = buffer + value.offset
    if value.length == 1:
        return text[0] != 48
    return not (value.length == 5 and same_name(text, b"false", 5))


cdef void write_hex(uint8_t* target, uint64_t value) noexcept nogil:
    cdef int index
    cdef uint8_t digit
    for index in range(16):
        digit = (value >> (60 - 4 * index)) & 15
        target[index] = 48 + digit if digit < 10 else 87 + digit


cdef exchange_t* exchange_new(core_t* core, downstream_t* down, const uint8_t* buffer,
                              const head_t* head) noexcept nogil:
    cdef exchange_t* x = <exchange_t*>slab_take(sizeof(exchange_t))
    cdef const uint8_t* given = NULL
    cdef uint32_t id_length = MADE_ID_BYTES
    cdef uint32_t path_length = 0
    cdef span_t span
    if x == NULL:
        return NULL
    if head.known[FIELD_X_REQUEST_ID] >= 0:
        span = head.fields[head.known[FIELD_X_REQUEST_ID]].value
        if is_usable_id(buffer + span.offset, span.length):
            given = buffer + span.offset
            id_length = span.length
    while path_length < head.path.length and path_length < PATH_LABEL_BYTES_MAX \
            and buffer[head.path.offset + path_length] != 63:
        path_length += 1
    x.labels_bytes = <uint16_t>(id_length + head.method_span.length + path_length)
    x.labels = <uint8_t*>slab_take(x.labels_bytes)
    if x.labels == NULL or buffer_append(&x.head, buffer, head.length_bytes) < 0:
        slab_give(x.labels, x.labels_bytes)
        slab_give(x, sizeof(exchange_t))
        return NULL
    if given != NULL:
        memcpy(x.labels, given, id_length)
    else:
        write_hex(x.labels, random_next(&core.random_state))
        write_hex(x.labels + 16, random_next(&core.random_state))
    if buffer != NULL:                   # NULL: the head could not be read, and memcpy takes no NULL even for nothing
        memcpy(x.labels + id_length, buffer + head.method_span.offset, head.method_span.length)
        memcpy(x.labels + id_length + head.method_span.length, buffer + head.path.offset, path_length)
    x.id_length = <uint8_t>id_length
    x.method_length = <uint8_t>head.method_span.length
    x.path_length = <uint16_t>path_length
    x.method = head.method
    x.down = down
    x.snapshot = core.snapshot
    x.snapshot.user_count += 1
    x.started_us = core.driver.now_us
    if head.method == METHOD_HEAD:
        x.flags |= X_HEAD
    if head.known[FIELD_X_FAIRLEAD_EXPLAIN] >= 0 \
            and says_yes(buffer, head.fields[head.known[FIELD_X_FAIRLEAD_EXPLAIN]].value):
        x.flags |= X_EXPLAIN
    if head.minor_version == 0:
        x.flags |= X_HTTP10
    if not head.keep_alive or core.draining:
        x.flags |= X_CLOSE_DOWNSTREAM
    down.exchange = x
    core.exchange_count += 1
    core.head_owner = x
    metrics_add(&core.metrics, COUNT_REQUESTS_IN_FLIGHT, 1)
    return x


cdef void exchange_take_canary(exchange_t* x) noexcept nogil:
    cdef snapshot_t* canary = x.snapshot.canary
    x.snapshot.user_count -= 1
    x.snapshot = canary
    x.snapshot.user_count += 1


cdef int exchange_set_model(exchange_t* x, const uint8_t* model, size_t length) noexcept nogil:
    cdef size_t before = x.id_length + x.method_length + x.path_length
    cdef uint8_t* grown = <uint8_t*>slab_take(before + length)
    if grown == NULL:
        return -1
    memcpy(grown, x.labels, before)
    memcpy(grown + before, model, length)
    slab_give(x.labels, x.labels_bytes)
    x.labels = grown
    x.labels_bytes = <uint16_t>(before + length)
    x.model_label_length = <uint16_t>length
    return 0


cdef text_t exchange_id(const exchange_t* x) noexcept nogil:
    cdef text_t text
    text.data = x.labels
    text.length = x.id_length
    return text


cdef text_t exchange_method(const exchange_t* x) noexcept nogil:
    cdef text_t text
    text.data = x.labels + x.id_length
    text.length = x.method_length
    return text


cdef text_t exchange_path(const exchange_t* x) noexcept nogil:
    cdef text_t text
    text.data = x.labels + x.id_length + x.method_length
    text.length = x.path_length
    return text


cdef text_t exchange_model(const exchange_t* x) noexcept nogil:
    cdef text_t text
    text.data = x.labels + x.id_length + x.method_length + x.path_length
    text.length = x.model_label_length
    return text


cdef uint64_t exchange_model_hash(const exchange_t* x) noexcept nogil:
    cdef text_t model
    if x.served != NULL:
        return x.served.hash
    model = exchange_model(x)
    return hash_bytes(model.data, model.length, 0)


cdef uint64_t exchange_output_key(const exchange_t* x, uint64_t model_hash) noexcept nogil:
    return model_hash + x.route.name_hash


cdef void exchange_release(core_t* core, exchange_t* x) noexcept nogil:
    cdef int64_t prompt_tokens = -1, cached_tokens = -1
    cdef bint failed = x.flags & X_FAULT != 0
    x.flags &= ~X_FAULT
    if x.charge.state == CHARGE_NONE:
        return
    if x.meter.has_usage:
        prompt_tokens, cached_tokens = x.meter.prompt_tokens, x.meter.cached_tokens
        if cached_tokens > prompt_tokens >= 0:       # Anthropic's input_tokens are those that were not cached
            prompt_tokens += cached_tokens
    decision_end(core.decider, &x.charge, failed, prompt_tokens, cached_tokens, core.driver.now_us)


cdef void learn(core_t* core, exchange_t* x) noexcept nogil:
    """What a whole answer says of answers like it: how long they are, how fast they decode, how large tokens are."""
    cdef learner_t* learner = core.decider.learner
    cdef uint32_t slot = x.endpoint.slot
    cdef int64_t output_tokens = 0
    cdef uint64_t in_flight, pending, gap_us
    if x.meter.has_usage and x.meter.completion_tokens > 0:
        output_tokens = x.meter.completion_tokens
    elif x.meter.mode == METER_SSE and x.meter.saw_done:
        output_tokens = x.meter.event_count          # engines send an event a token
    if output_tokens > USAGE_TOKENS_MAX:
        return
    if output_tokens > 0:
        learner_output(learner, exchange_output_key(x, exchange_model_hash(x)), <uint32_t>output_tokens)
    if x.meter.has_usage and 0 < x.meter.prompt_tokens <= USAGE_TOKENS_MAX and x.prompt_bytes:
        learner_prompt(learner, exchange_model_hash(x), x.prompt_bytes, <uint32_t>x.meter.prompt_tokens)
    if x.meter.mode == METER_SSE and output_tokens > 1 and x.last_byte_us > x.first_byte_us:
        gap_us = (x.last_byte_us - x.first_byte_us) // <uint64_t>(output_tokens - 1)
        in_flight, pending = load_sum(core.load, ROW_IN_FLIGHT, slot), load_sum(core.load, ROW_PENDING, slot)
        learner_decoded(
            learner, slot, <float>gap_us * <float>1e-6, <float>(in_flight - min(pending, in_flight)) + 1,
            <float>load_sum(core.load, ROW_KV_TOKENS, slot), <uint32_t>(output_tokens - 1), core.driver.now_us)


cdef void exchange_drop_request(core_t* core, exchange_t* x) noexcept nogil:
    x.flags |= X_BODY_DROPPED            # nothing is left to try another endpoint with
    core.buffered_bytes -= buffer_size(&x.body)
    buffer_release(&x.head)
    buffer_release(&x.body)
    if x.scan != NULL:
        slab_give(x.scan, sizeof(body_scan_t))
        x.scan = NULL
    if core.head_owner == x:
        core.head_owner = NULL


cdef void record_usage(core_t* core, exchange_t* x) noexcept nogil:
    cdef const learner_t* learner = core.decider.learner
    cdef uint64_t prompt_tokens = <uint64_t>max(x.meter.prompt_tokens, <int64_t>0)
    cdef uint64_t completion_tokens = <uint64_t>max(x.meter.completion_tokens, <int64_t>0)
    cdef uint64_t cached_tokens = <uint64_t>max(x.meter.cached_tokens, <int64_t>0)
    cdef double cost
    metrics_add(&core.metrics, COUNT_PROMPT_TOKENS, prompt_tokens)
    metrics_add(&core.metrics, COUNT_COMPLETION_TOKENS, completion_tokens)
    metrics_add(&core.metrics, COUNT_CACHED_TOKENS, cached_tokens)
    metrics_add_route(&core.metrics, x.route.index, ROUTE_PROMPT_TOKENS, prompt_tokens)
    metrics_add_route(&core.metrics, x.route.index, ROUTE_COMPLETION_TOKENS, completion_tokens)
    metrics_add_route(&core.metrics, x.route.index, ROUTE_CACHED_TOKENS, cached_tokens)
    cost = <double>min(prompt_tokens, <uint64_t>USAGE_TOKENS_MAX) * learner.input_price[x.endpoint.slot] \
        + <double>min(completion_tokens, <uint64_t>USAGE_TOKENS_MAX) * learner.output_price[x.endpoint.slot]
    metrics_add_route(&core.metrics, x.route.index, ROUTE_COST_NANO, <uint64_t>min(cost * 1e9, COST_NANO_MAX))


cdef bint exchange_record(core_t* core, exchange_t* x, int cause) noexcept nogil:
    cdef uint64_t now_us = core.driver.now_us
    cdef uint32_t route = NO_ROUTE
    cdef uint32_t slot = NO_SLOT
    if x.flags & X_FINISHED:
        return False
    x.flags |= X_FINISHED
    if x.route != NULL:
        route = x.route.index
        metrics_observe_us(&core.metrics, HISTOGRAM_ROUTE_E2E, route, now_us - x.started_us)
        metrics_add_route(&core.metrics, route, core.options.sides[cause], 1)
    if x.endpoint != NULL:
        slot = x.endpoint.slot
    metrics_count_request(&core.metrics, route, slot, cause)
    metrics_add(&core.metrics, COUNT_REQUESTS_IN_FLIGHT, -1)
    metrics_add(&core.metrics, COUNT_BYTES_TO_CLIENTS, x.bytes_out)
    if x.meter.event_count:
        metrics_add(&core.metrics, COUNT_EVENTS, x.meter.event_count)
        if x.meter.event_count > 1 and x.last_byte_us > x.first_byte_us:
            load_observe_itl(core.load, x.endpoint.slot,
                             <uint32_t>((x.last_byte_us - x.first_byte_us) // (x.meter.event_count - 1)), now_us)
        if x.meter.mode == METER_SSE and cause == CAUSE_NONE and not x.meter.saw_done:
            metrics_add(&core.metrics, COUNT_UNFINISHED_STREAMS, 1)
    if x.meter.has_usage:
        record_usage(core, x)
    if x.alias != NULL and x.served != NULL:
        metrics_add(&core.metrics, COUNT_ALIAS_PLACE_1 + <int>(x.served - &x.alias.models[0]), 1)
    if cause == CAUSE_NONE and x.endpoint != NULL and 200 <= x.status < 300:
        learn(core, x)
    core.finished_count += 1
    return True


cdef void exchange_free(core_t* core, exchange_t* x) noexcept nogil:
    exchange_release(core, x)
    exchange_drop_request(core, x)
    buffer_release(&x.trailers)
    x.snapshot.user_count -= 1
    if x.down != NULL and x.down.exchange == x:
        x.down.exchange = NULL
    core.exchange_count -= 1
    slab_give(x.labels, x.labels_bytes)
    slab_give(x, sizeof(exchange_t))


cdef inline uint64_t sooner(uint64_t deadline, int* cause, uint64_t since_us, uint64_t length_us,
                            int its_cause) noexcept nogil:
    if length_us and since_us + length_us < deadline:
        cause[0] = its_cause
        return since_us + length_us
    return deadline


cdef uint64_t exchange_deadline(const core_t* core, const downstream_t* down, int* cause) noexcept nogil:
    # The earliest moment at which something about this connection has taken too long, and what that would be.
    cdef exchange_t* x = down.exchange
    cdef uint64_t deadline = <uint64_t>-1
    cause[0] = CAUSE_NONE
    if down.conn.flags & CONN_HANDSHAKING:
        return sooner(deadline, cause, down.since_us, core.options.tls_us, CAUSE_TLS_HANDSHAKE)
    if down.phase == DOWN_IDLE:
        return sooner(deadline, cause, down.since_us, core.options.keep_alive_us, CAUSE_NONE)
    if down.phase == DOWN_HEAD:
        return sooner(deadline, cause, down.since_us, core.options.head_us, CAUSE_HEAD_TIMEOUT)
    if down.phase == DOWN_LINGER:
        return down.since_us + LINGER_US
    if down.phase == DOWN_FLUSH or x == NULL:
        return sooner(deadline, cause, down.since_us, core.options.keep_alive_us, CAUSE_CLIENT_STALLED)
    if down.phase == DOWN_TUNNEL:
        return sooner(deadline, cause, x.last_byte_us, TUNNEL_IDLE_US, CAUSE_IDLE_TIMEOUT)
    if x.route == NULL:
        return sooner(deadline, cause, down.since_us, core.snapshot.default_timeouts.body_us, CAUSE_BODY_TIMEOUT)
    deadline = sooner(deadline, cause, x.started_us, x.route.timeouts.total_us, CAUSE_TOTAL_TIMEOUT)
    if down.phase == DOWN_BODY and not down.conn.flags & CONN_PAUSED:
        deadline = sooner(deadline, cause, down.since_us, x.route.timeouts.body_us, CAUSE_BODY_TIMEOUT)
    if x.state == EXCHANGE_CONNECTING:
        if x.up != NULL and x.up.conn.flags & CONN_HANDSHAKING:
            return sooner(deadline, cause, x.sent_us, x.route.timeouts.connect_us + x.route.timeouts.tls_us,
                          CAUSE_TLS_TIMEOUT)
        return sooner(deadline, cause, x.sent_us, x.route.timeouts.connect_us, CAUSE_CONNECT_TIMEOUT)
    if x.state == EXCHANGE_AWAITING:
        if x.flags & X_UPLOAD_DONE:
            return sooner(deadline, cause, x.sent_us, x.route.timeouts.first_byte_us, CAUSE_FIRST_BYTE_TIMEOUT)
        if x.up.conn.flags & CONN_BLOCKED:
            return sooner(deadline, cause, down.since_us, x.route.timeouts.write_stall_us, CAUSE_WRITE_TIMEOUT)
        return deadline
    if x.state == EXCHANGE_RELAYING:
        if down.conn.flags & CONN_BLOCKED:
            return sooner(deadline, cause, down.since_us, x.route.timeouts.write_stall_us, CAUSE_CLIENT_STALLED)
        if not x.flags & X_SAW_TTFT:     # engines send the head of a stream at once and then queue and prefill
            return sooner(deadline, cause, x.sent_us, x.route.timeouts.first_byte_us, CAUSE_FIRST_BYTE_TIMEOUT)
        return sooner(deadline, cause, x.last_byte_us, x.route.timeouts.idle_us, CAUSE_IDLE_TIMEOUT)
    return deadline

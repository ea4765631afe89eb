"""The response body on its way to the client: every byte that an event brought leaves in the same event.

Chunked bodies pass as they are while the decoder follows them, so framing costs no copy; they are taken apart only
for HTTP/1.0 clients, and bodies that the upstream's end delimits are chunked so that a cut can be told from an end.
Trailers are held back, judged, and written anew. Invariants: nothing after a framing fault goes out; a message that
was cut short never gets its last chunk.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from router.native.buffer cimport buffer_append, buffer_bytes, buffer_release, buffer_size
from router.native.chunk cimport (
    CHUNK_DATA, CHUNK_END, CHUNK_LAST, CHUNK_NEED_MORE, CHUNK_TRAILER, chunk_next,
)
from router.native.exchange cimport (
    RELAY_BAD, RELAY_CHUNKED, RELAY_DONE, RELAY_LENGTH, RELAY_MORE, RELAY_NONE, RELAY_UNCHUNKED, RELAY_UNTIL_CLOSE,
    RELAY_UNTIL_CLOSE_RAW, X_IN_TRAILERS, X_SAW_TTFT, core_t, exchange_t,
)
from router.native.decision cimport decision_first_token, decision_whole_answer
from router.native.http1 cimport FIELD_HOP_BY_HOP, HTTP1_OK, head_t, parse_trailers
from router.native.loadtable cimport load_observe_ttft
from router.native.rewrite cimport write_chunk_size
from router.native.metrics cimport (
    HISTOGRAM_ENDPOINT_ITL, HISTOGRAM_ENDPOINT_TTFT, HISTOGRAM_ROUTE_ITL, HISTOGRAM_ROUTE_TTFT, metrics_observe_us,
)
from router.native.sse cimport METER_OFF, METER_SSE, sse_meter_feed

cdef enum:
    LINE_FEED = 10
    CARRIAGE_RETURN = 13
    PIECES_MAX = 34                  # of one send; a read with more chunks than that is sent in several


cdef struct batch_t:                 # pieces gathered for one send
    iovec pieces[36]
    int count
    size_t bytes


cdef inline void add(batch_t* batch, const void* data, size_t size) noexcept nogil:
    if size:
        batch.pieces[batch.count].iov_base = <void*>data
        batch.pieces[batch.count].iov_len = size
        batch.count += 1
        batch.bytes += size


cdef inline void send(exchange_t* x, batch_t* batch) noexcept nogil:
    if batch.count:
        x.bytes_out += batch.bytes
        x.down.conn.driver.send(&x.down.conn, batch.pieces, batch.count)
        batch.count = 0
        batch.bytes = 0


cdef void measure(core_t* core, exchange_t* x, const uint8_t* data, size_t size) noexcept nogil:
    # What the bytes of one read say about time and tokens.
    cdef uint64_t now_us = core.driver.now_us
    cdef uint64_t gap_us = now_us - x.last_byte_us
    cdef uint32_t events = 0
    if x.meter.mode != METER_OFF:
        events = sse_meter_feed(&x.meter, data, size)
    if not x.flags & X_SAW_TTFT:
        x.flags |= X_SAW_TTFT
        x.first_byte_us = x.last_byte_us = now_us
        metrics_observe_us(&core.metrics, HISTOGRAM_ROUTE_TTFT, x.route.index, now_us - x.started_us)
        metrics_observe_us(&core.metrics, HISTOGRAM_ENDPOINT_TTFT, x.endpoint.slot, now_us - x.sent_us)
        load_observe_ttft(core.load, x.endpoint.slot, <uint32_t>(now_us - x.sent_us), now_us)
        if x.status < 300:               # an error says nothing of prompts; the end of the attempt takes it back
            if x.meter.mode == METER_SSE:
                decision_first_token(core.decider, &x.charge, now_us)
            else:
                decision_whole_answer(
                    core.decider, &x.charge, x.meter.completion_tokens if x.meter.has_usage else -1, now_us)
    elif events and x.meter.mode == METER_SSE:
        metrics_observe_us(&core.metrics, HISTOGRAM_ROUTE_ITL, x.route.index, gap_us // events)
        metrics_observe_us(&core.metrics, HISTOGRAM_ENDPOINT_ITL, x.endpoint.slot, gap_us // events)
    x.last_byte_us = now_us


cdef int relay_chunks(core_t* core, exchange_t* x, batch_t* batch, const uint8_t* data, size_t size,
                      size_t* used) noexcept nogil:
    cdef size_t position = 0
    cdef size_t offset = 0
    cdef size_t length = 0
    cdef size_t start = 0                # data[start:passed] may go out as it is
    cdef size_t passed = 0
    cdef int event
    cdef uint8_t line[20]
    cdef bint as_is = x.mode == RELAY_CHUNKED
    # A size line that a read cut is held back, because it may be the last chunk's; it is written anew when its data
    # comes.
    cdef bint line_held = x.relay_chunk.line_bytes != 0
    while True:
        event = chunk_next(&x.relay_chunk, data, size, &position, &offset, &length)
        used[0] = position
        if event == CHUNK_DATA:
            measure(core, x, data + offset, length)
            if as_is:
                if line_held:
                    line_held = False
                    add(batch, line, write_chunk_size(line, length + x.relay_chunk.remaining_bytes))
                    start = offset
                passed = position
            else:
                add(batch, data + offset, length)
                if batch.count >= PIECES_MAX:
                    send(x, batch)
        elif event == CHUNK_NEED_MORE:
            if line_held and as_is and x.relay_chunk.line_bytes == 0 and not x.flags & X_IN_TRAILERS:
                add(batch, line, write_chunk_size(line, x.relay_chunk.remaining_bytes))
            elif as_is and not x.flags & X_IN_TRAILERS and x.relay_chunk.line_bytes < position:
                passed = position - x.relay_chunk.line_bytes
            break
        elif event == CHUNK_LAST:
            # The line end of the data before it goes out; the last chunk itself only when the message is whole.
            while not line_held and (data[passed] == CARRIAGE_RETURN or data[passed] == LINE_FEED):
                passed += 1
            x.flags |= X_IN_TRAILERS
        elif event == CHUNK_TRAILER:
            if buffer_append(&x.trailers, data + offset, length) < 0:
                return RELAY_BAD
        elif event == CHUNK_END:
            if not as_is:
                send(x, batch)
                return RELAY_DONE
            add(batch, data + start, passed - start)
            if buffer_size(&x.trailers):
                return relay_trailers(core, x, batch)
            add(batch, b"0\r\n\r\n", 5)
            send(x, batch)
            return RELAY_DONE
        else:
            return RELAY_BAD
    if as_is:
        add(batch, data + start, passed - start)
    send(x, batch)
    return RELAY_MORE


cdef int relay_trailers(core_t* core, exchange_t* x, batch_t* batch) noexcept nogil:
    cdef uint8_t* raw = buffer_bytes(&x.trailers)
    cdef head_t* trailers = &core.head
    cdef uint32_t index
    core.head_owner = NULL
    if parse_trailers(raw, buffer_size(&x.trailers), trailers) != HTTP1_OK:
        return RELAY_BAD
    add(batch, b"0\r\n", 3)
    for index in range(trailers.field_count):
        if trailers.fields[index].flags & FIELD_HOP_BY_HOP:
            continue
        if batch.count + 3 > PIECES_MAX:
            send(x, batch)
        add(batch, raw + trailers.fields[index].name.offset, trailers.fields[index].value.offset
            + trailers.fields[index].value.length - trailers.fields[index].name.offset)
        add(batch, b"\r\n", 2)
    add(batch, b"\r\n", 2)
    send(x, batch)
    buffer_release(&x.trailers)
    return RELAY_DONE


cdef int relay_feed(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data, size_t size,
                    size_t* used) noexcept nogil:
    cdef batch_t batch
    cdef uint8_t line[20]
    cdef size_t length
    batch.count = 0
    batch.bytes = 0
    used[0] = 0
    add(&batch, core.compose, head_length)
    if x.mode == RELAY_CHUNKED or x.mode == RELAY_UNCHUNKED:
        return relay_chunks(core, x, &batch, data, size, used)
    if x.mode == RELAY_LENGTH:
        length = size if <int64_t>size < x.relay_remaining else <size_t>x.relay_remaining
        if length:
            measure(core, x, data, length)
            add(&batch, data, length)
            x.relay_remaining -= length
            used[0] = length
        send(x, &batch)
        return RELAY_DONE if x.relay_remaining == 0 else RELAY_MORE
    if x.mode == RELAY_NONE:
        send(x, &batch)
        return RELAY_DONE
    if size:
        measure(core, x, data, size)
        used[0] = size
        if x.mode == RELAY_UNTIL_CLOSE:
            add(&batch, line, write_chunk_size(line, size))
            add(&batch, data, size)
            add(&batch, b"\r\n", 2)
        else:
            add(&batch, data, size)
    send(x, &batch)
    return RELAY_MORE


cdef int relay_end(core_t* core, exchange_t* x) noexcept nogil:
    cdef batch_t batch
    batch.count = 0
    batch.bytes = 0
    if x.mode == RELAY_UNTIL_CLOSE:
        add(&batch, b"0\r\n\r\n", 5)
        send(x, &batch)
        return RELAY_DONE
    if x.mode == RELAY_UNTIL_CLOSE_RAW:
        return RELAY_DONE
    return RELAY_BAD

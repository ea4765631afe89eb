"""The request body on its way in, and on to the endpoint.

Bodies are decoded (chunk framing taken off) into one contiguous buffer as they arrive and scanned in the same step.
Up to the retry buffer's size the whole is held until the response begins; a larger one is cut through once an
endpoint is picked, and what has been sent is dropped. Invariant: core.buffered_bytes is the sum of all held bodies.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp
from posix.uio cimport iovec

from router.native.body cimport body_scan_feed
from router.native.buffer cimport buffer_append, buffer_bytes, buffer_size, buffer_t
from router.native.chunk cimport (
    CHUNK_BAD, CHUNK_DATA, CHUNK_END, CHUNK_NEED_MORE, CHUNK_TRAILER, chunk_next,
)
from router.native.exchange cimport (
    EXCHANGE_RELAYING, UPLOAD_BAD, UPLOAD_DONE, UPLOAD_MORE, UPLOAD_NO_MEMORY, UPLOAD_TOO_LARGE, X_BODY_DROPPED,
    X_REQUEST_CHUNKED, X_REWRITTEN, X_UPLOAD_DONE, core_t, exchange_t,
)
from router.native.http1 cimport FIELD_HOP_BY_HOP, HTTP1_OK, field_t, head_t, parse_trailers
from router.native.pool cimport text_t


cdef int keep(core_t* core, exchange_t* x, const uint8_t* data, size_t size) noexcept nogil:
    x.body_received_bytes += size
    if x.body_received_bytes > core.options.body_bytes_max:
        return UPLOAD_TOO_LARGE
    if core.buffered_bytes + <int64_t>size > <int64_t>core.options.buffered_bytes_max \
            or buffer_append(&x.body, data, size) < 0:
        return UPLOAD_NO_MEMORY
    core.buffered_bytes += size
    if x.scan != NULL:
        body_scan_feed(x.scan, data, size)
    return UPLOAD_MORE


cdef int upload_feed(core_t* core, exchange_t* x, const uint8_t* data, size_t size, size_t* used) noexcept nogil:
    cdef size_t position = 0
    cdef size_t offset = 0
    cdef size_t length = 0
    cdef int event
    cdef int result
    used[0] = 0
    if not x.flags & X_REQUEST_CHUNKED:
        length = size if <int64_t>size < x.upload_remaining else <size_t>x.upload_remaining
        result = keep(core, x, data, length)
        x.upload_remaining -= length
        used[0] = length
        if result == UPLOAD_MORE and x.upload_remaining == 0:
            x.flags |= X_UPLOAD_DONE
            return UPLOAD_DONE
        return result
    while True:
        event = chunk_next(&x.upload_chunk, data, size, &position, &offset, &length)
        used[0] = position
        if event == CHUNK_DATA:
            result = keep(core, x, data + offset, length)
            if result != UPLOAD_MORE:
                return result
        elif event == CHUNK_TRAILER:
            # Once the answer has begun they are its: the endpoint does without those of a request it has answered.
            if x.state < EXCHANGE_RELAYING and buffer_append(&x.trailers, data + offset, length) < 0:
                return UPLOAD_NO_MEMORY
        elif event == CHUNK_END:
            if x.state < EXCHANGE_RELAYING and buffer_size(&x.trailers):
                core.head_owner = NULL
                if parse_trailers(buffer_bytes(&x.trailers), buffer_size(&x.trailers), &core.head) != HTTP1_OK:
                    return UPLOAD_BAD
            x.flags |= X_UPLOAD_DONE
            return UPLOAD_DONE
        elif event == CHUNK_NEED_MORE:
            return UPLOAD_MORE
        elif event == CHUNK_BAD:
            return UPLOAD_BAD


cdef text_t upload_name(const exchange_t* x, text_t model, bint in_json) noexcept nogil:
    cdef uint32_t index
    cdef text_t same
    if x.served != NULL:
        model = x.served.name
    for index in range(x.endpoint.rewrite_count):
        if x.endpoint.rewrites[index].name.length == model.length \
                and memcmp(x.endpoint.rewrites[index].name.data, model.data, model.length) == 0:
            return x.endpoint.rewrites[index].json_name if in_json else x.endpoint.rewrites[index].engine_name
    if x.served != NULL:
        return x.served.json_name if in_json else x.served.name
    same.data, same.length = NULL, 0
    return same


cdef int upload_pieces(exchange_t* x, iovec* pieces, int64_t* total) noexcept nogil:
    cdef uint8_t* body = buffer_bytes(&x.body)
    cdef size_t size = buffer_size(&x.body)
    cdef text_t model, name
    total[0] = size
    x.flags &= ~X_REWRITTEN
    name.length = 0
    if size == 0:
        return 0
    if x.model_length and x.model_offset + x.model_length <= size and not x.flags & X_BODY_DROPPED:
        model.data = body + x.model_offset
        model.length = x.model_length
        name = upload_name(x, model, True)
    if name.length == 0:
        pieces[0].iov_base = body
        pieces[0].iov_len = size
        return 1
    x.flags |= X_REWRITTEN
    pieces[0].iov_base = body
    pieces[0].iov_len = x.model_offset
    pieces[1].iov_base = <void*>name.data
    pieces[1].iov_len = name.length
    pieces[2].iov_base = body + x.model_offset + x.model_length
    pieces[2].iov_len = size - x.model_offset - x.model_length
    total[0] = size - x.model_length + name.length
    return 3


cdef int upload_ending(core_t* core, exchange_t* x, buffer_t* out) noexcept nogil:
    cdef uint8_t* raw = buffer_bytes(&x.trailers)
    cdef head_t* trailers = &core.head
    cdef field_t* field
    cdef uint32_t index
    cdef int failed = buffer_append(out, b"0\r\n", 3)
    if x.state < EXCHANGE_RELAYING and buffer_size(&x.trailers):
        core.head_owner = NULL
        if parse_trailers(raw, buffer_size(&x.trailers), trailers) != HTTP1_OK:
            return -1
        for index in range(trailers.field_count):
            field = &trailers.fields[index]
            if not field.flags & FIELD_HOP_BY_HOP:
                failed |= buffer_append(out, raw + field.name.offset,
                                        field.value.offset + field.value.length - field.name.offset)
                failed |= buffer_append(out, b"\r\n", 2)
    failed |= buffer_append(out, b"\r\n", 2)
    return -1 if failed else 0

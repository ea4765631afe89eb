"""Heads as they go on: hop-by-hop fields taken out, ours put in (RFC 9110 7.6).

Fields that pass are copied as they came, in their order; what the router says itself stands at the end: Via,
X-Forwarded-* (from a peer that is not trusted they are replaced), x-request-id, framing. A client's keys stop here
unless the endpoint is configured to see them.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from router.native.exchange cimport (
    COMPOSE_BYTES, X_HTTP10, X_UPGRADE, core_t, exchange_id, exchange_t,
)
from router.native.explain cimport explain_reason_text
from router.native.switching cimport switching_reason_text
from router.native.http1 cimport (
    FIELD_API_KEY, FIELD_AUTHORIZATION, FIELD_CONTENT_LENGTH, FIELD_ENDPOINT_LOAD_METRICS, FIELD_EXPECT,
    FIELD_FORWARDED, FIELD_HOP_BY_HOP, FIELD_HOST,
    FIELD_TRANSFER_ENCODING, FIELD_UPGRADE, FIELD_X_API_KEY, FIELD_X_FAIRLEAD_REQUIRE, FIELD_X_FORWARDED_FOR,
    FIELD_X_FORWARDED_HOST, FIELD_X_FORWARDED_PROTO, FIELD_X_REQUEST_ID, METHOD_OPTIONS, TARGET_ABSOLUTE,
    TARGET_ASTERISK, field_t, head_t,
    span_t,
)
from router.native.http_date cimport HTTP_DATE_BYTES, write_http_date
from router.native.octets cimport same_name
from router.native.pool cimport LOAD_REPORT_READ, endpoint_t, text_t

cdef enum:
    QUESTION = 63

cdef struct writer_t:
    uint8_t* bytes
    size_t length
    size_t limit                     # nothing is written past it; `length` beyond it means it did not fit


cdef inline void put(writer_t* out, const void* data, size_t size) noexcept nogil:
    if out.length + size <= out.limit:
        memcpy(out.bytes + out.length, data, size)
    out.length += size


cdef inline void put_span(writer_t* out, const uint8_t* buffer, span_t span) noexcept nogil:
    put(out, buffer + span.offset, span.length)


cdef inline void put_text(writer_t* out, text_t text) noexcept nogil:
    put(out, text.data, text.length)


cdef inline void put_field(writer_t* out, const uint8_t* buffer, const field_t* field) noexcept nogil:
    # Name, colon and value lie side by side in what was received.
    put(out, buffer + field.name.offset, field.value.offset + field.value.length - field.name.offset)
    put(out, b"\r\n", 2)


cdef void put_number(writer_t* out, int64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = 48 + value % 10
        value //= 10
        if value == 0:
            break
    put(out, digits + at, 20 - at)


cdef void put_framing(writer_t* out, int64_t body_length) noexcept nogil:
    if body_length >= 0:
        put(out, b"Content-Length: ", 16)
        put_number(out, body_length)
        put(out, b"\r\n", 2)
    elif body_length == LENGTH_CHUNKED:
        put(out, b"Transfer-Encoding: chunked\r\n", 28)


cdef bint is_client_key(const uint8_t* buffer, const field_t* field) noexcept nogil:
    if field.id == FIELD_AUTHORIZATION or field.id == FIELD_X_API_KEY or field.id == FIELD_API_KEY:
        return True
    # Google's clients; rare enough to need no id of its own.
    return field.name.length == 14 and same_name(buffer + field.name.offset, b"x-goog-api-key", 14)


cdef bint is_told_by_router(const uint8_t* buffer, const field_t* field) noexcept nogil:
    # Only the router says who answered, and why that one.
    if field.name.length == 19:
        return same_name(buffer + field.name.offset, b"x-fairlead-endpoint", 19)
    if field.name.length == 18:
        return same_name(buffer + field.name.offset, b"x-fairlead-session", 18)
    if field.name.length == 16:
        return same_name(buffer + field.name.offset, b"x-fairlead-model", 16)
    return field.name.length == 17 and same_name(buffer + field.name.offset, b"x-fairlead-reason", 17)


cdef bint is_report_format(const uint8_t* buffer, const field_t* field) noexcept nogil:
    return field.name.length == 28 and same_name(buffer + field.name.offset, b"endpoint-load-metrics-format", 28)


cdef void put_forwarded(writer_t* out, const exchange_t* x, const uint8_t* buffer, const head_t* head) noexcept nogil:
    cdef uint32_t index
    put(out, b"X-Forwarded-For: ", 17)
    if x.down.is_trusted:
        for index in range(head.field_count):
            if head.fields[index].id == FIELD_X_FORWARDED_FOR and head.fields[index].value.length:
                put_span(out, buffer, head.fields[index].value)
                put(out, b", ", 2)
    put(out, x.down.peer, x.down.peer_length)
    put(out, b"\r\n", 2)
    if not (x.down.is_trusted and head.known[FIELD_X_FORWARDED_PROTO] >= 0):
        if x.down.is_tls:
            put(out, b"X-Forwarded-Proto: https\r\n", 26)
        else:
            put(out, b"X-Forwarded-Proto: http\r\n", 25)
    if not (x.down.is_trusted and head.known[FIELD_X_FORWARDED_HOST] >= 0) and head.authority.length:
        put(out, b"X-Forwarded-Host: ", 18)
        put_span(out, buffer, head.authority)
        put(out, b"\r\n", 2)


cdef void put_target(writer_t* out, const uint8_t* buffer, const head_t* head,
                     const endpoint_t* endpoint) noexcept nogil:
    if head.form == TARGET_ASTERISK or (
            head.form == TARGET_ABSOLUTE and head.method == METHOD_OPTIONS
            and head.path.offset < head.authority.offset):
        put(out, b"*", 1)                # RFC 9112 3.2.4: absolute form without a path is how a proxy is asked for it
        return
    put_text(out, endpoint.path_prefix)
    if head.path.length and buffer[head.path.offset] == QUESTION:
        put(out, b"/", 1)                # http://host?query has an empty path
    put_span(out, buffer, head.path)


cdef inline void put_via(writer_t* out, const head_t* head) noexcept nogil:
    # RFC 9110 7.6.3: the version is that of the message received.
    if head.minor_version:
        put(out, b"Via: 1.1 fairlead\r\n", 19)
    else:
        put(out, b"Via: 1.0 fairlead\r\n", 19)


cdef void put_date(writer_t* out, const core_t* core) noexcept nogil:
    # RFC 9110 6.6.1: an answer without a date is given one where it is passed on.
    cdef uint8_t text[HTTP_DATE_BYTES]
    write_http_date(text, (core.driver.now_us + core.wall_offset_us) // 1000000)
    put(out, b"Date: ", 6)
    put(out, text, HTTP_DATE_BYTES)
    put(out, b"\r\n", 2)


cdef int64_t compose_request_head(core_t* core, const exchange_t* x, const uint8_t* buffer, const head_t* head,
                                  const endpoint_t* endpoint, int64_t body_length) noexcept nogil:
    cdef writer_t out
    cdef const field_t* field
    cdef uint32_t index
    cdef uint8_t id
    cdef bint asks = False               # the client, for a load report, in a format of its own
    out.bytes = core.compose
    out.length = 0
    out.limit = COMPOSE_BYTES
    put_span(&out, buffer, head.method_span)
    put(&out, b" ", 1)
    put_target(&out, buffer, head, endpoint)
    put(&out, b" HTTP/1.1\r\nHost: ", 17)
    put_text(&out, endpoint.authority)
    put(&out, b"\r\n", 2)
    for index in range(head.field_count):
        field = &head.fields[index]
        id = field.id
        if field.flags & FIELD_HOP_BY_HOP or id == FIELD_HOST or id == FIELD_CONTENT_LENGTH or id == FIELD_EXPECT \
                or id == FIELD_X_REQUEST_ID or id == FIELD_X_FORWARDED_FOR or id == FIELD_X_FAIRLEAD_REQUIRE:
            continue
        if not x.down.is_trusted \
                and (id == FIELD_X_FORWARDED_PROTO or id == FIELD_X_FORWARDED_HOST or id == FIELD_FORWARDED):
            continue
        if not endpoint.passes_client_key and is_client_key(buffer, field):
            continue
        if endpoint.load_report and is_report_format(buffer, field):
            if endpoint.load_report == LOAD_REPORT_READ:
                continue
            asks = True
        put_field(&out, buffer, field)
    if endpoint.load_report and not asks:
        put(&out, b"endpoint-load-metrics-format: TEXT\r\n", 36)
    put_text(&out, endpoint.key_line)
    put_via(&out, head)
    put_forwarded(&out, x, buffer, head)
    put(&out, b"x-request-id: ", 14)
    put_text(&out, exchange_id(x))
    put(&out, b"\r\n", 2)
    if x.flags & X_UPGRADE:
        put(&out, b"Connection: Upgrade\r\nUpgrade: ", 30)
        put_span(&out, buffer, head.fields[head.known[FIELD_UPGRADE]].value)
        put(&out, b"\r\n", 2)
    put_framing(&out, body_length)
    put(&out, b"\r\n", 2)
    return <int64_t>out.length if out.length <= out.limit else -1


cdef void put_model(writer_t* out, const exchange_t* x) noexcept nogil:
    # The configuration's name of it; one that a field cannot hold is left out.
    cdef text_t name = x.served.name if x.served != NULL else x.target.model
    cdef uint32_t index
    for index in range(name.length):
        if name.data[index] < 0x20 or name.data[index] == 0x7F:
            return
    if name.length:
        put(out, b"\r\nx-fairlead-model: ", 20)
        put_text(out, name)


cdef void put_ending(writer_t* out, const exchange_t* x, int64_t body_length, bint closes) noexcept nogil:
    put(out, b"x-request-id: ", 14)
    put_text(out, exchange_id(x))
    put(out, b"\r\n", 2)
    put_framing(out, body_length)
    if closes:
        put(out, b"Connection: close\r\n", 19)
    elif x.flags & X_HTTP10:
        put(out, b"Connection: keep-alive\r\n", 24)
    put(out, b"\r\n", 2)


cdef int64_t compose_response_head(core_t* core, const exchange_t* x, const uint8_t* buffer, const head_t* head,
                                   int64_t body_length, bint closes) noexcept nogil:
    cdef writer_t out
    cdef const field_t* field
    cdef uint32_t index
    cdef bint has_date = False
    out.bytes = core.compose
    out.length = 0
    out.limit = COMPOSE_BYTES
    put(&out, b"HTTP/1.1 ", 9)
    put_number(&out, head.status)
    put(&out, b" ", 1)
    put_span(&out, buffer, head.reason)
    put(&out, b"\r\n", 2)
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.flags & FIELD_HOP_BY_HOP or field.id == FIELD_CONTENT_LENGTH or field.id == FIELD_TRANSFER_ENCODING \
                or field.id == FIELD_X_REQUEST_ID:
            continue
        if x.route.exposes_endpoint and is_told_by_router(buffer, field):
            continue
        if field.id == FIELD_ENDPOINT_LOAD_METRICS and x.endpoint.load_report == LOAD_REPORT_READ:
            continue
        if field.name.length == 4 and same_name(buffer + field.name.offset, b"date", 4):
            has_date = True
        put_field(&out, buffer, field)
    if not has_date:
        put_date(&out, core)
    put_via(&out, head)
    if x.route.exposes_endpoint:
        put(&out, b"x-fairlead-endpoint: ", 21)
        put_text(&out, x.endpoint.name)
        put_model(&out, x)
        put(&out, b"\r\nx-fairlead-reason: ", 21)
        put_text(&out, explain_reason_text(x.reason))
        if x.switching:
            put(&out, b"\r\nx-fairlead-session: ", 22)
            put_text(&out, switching_reason_text(x.switching))
        put(&out, b"\r\n", 2)
    if head.status == 101:
        put(&out, b"Connection: Upgrade\r\nUpgrade: ", 30)
        put_span(&out, buffer, head.fields[head.known[FIELD_UPGRADE]].value)
        put(&out, b"\r\nx-request-id: ", 16)
        put_text(&out, exchange_id(x))
        put(&out, b"\r\n\r\n", 4)
    else:
        put_ending(&out, x, body_length, closes)
    return <int64_t>out.length if out.length <= out.limit else -1


cdef int write_chunk_size(uint8_t* line, uint64_t size) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef int shift = 60
    cdef int length = 0
    while shift > 0 and (size >> shift) & 15 == 0:
        shift -= 4
    while shift >= 0:
        line[length] = digits[(size >> shift) & 15]
        length += 1
        shift -= 4
    line[length] = 13
    line[length + 1] = 10
    return length + 2


cdef const char* reason_of(uint16_t status) noexcept nogil:
    if status == 400:
        return b"Bad Request"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 408:
        return b"Request Timeout"
    if status == 413:
        return b"Content Too Large"
    if status == 414:
        return b"URI Too Long"
    if status == 417:
        return b"Expectation Failed"
    if status == 429:
        return b"Too Many Requests"
    if status == 431:
        return b"Request Header Fields Too Large"
    if status == 502:
        return b"Bad Gateway"
    if status == 503:
        return b"Service Unavailable"
    if status == 504:
        return b"Gateway Timeout"
    if status == 505:
        return b"HTTP Version Not Supported"
    return b"Internal Server Error" if status >= 500 else b"Error"


cdef int64_t compose_local_head(core_t* core, const exchange_t* x, uint16_t status, const uint8_t* fields,
                                uint32_t fields_length,
                                int64_t body_length, bint closes) noexcept nogil:
    cdef writer_t out
    cdef const char* reason = reason_of(status)
    out.bytes = core.compose
    out.length = 0
    out.limit = COMPOSE_BYTES
    put(&out, b"HTTP/1.1 ", 9)
    put_number(&out, status)
    put(&out, b" ", 1)
    put(&out, reason, strlen(reason))
    put(&out, b"\r\nContent-Type: application/json\r\n", 34)
    put_date(&out, core)
    put(&out, fields, fields_length)
    put_ending(&out, x, body_length, closes)
    return <int64_t>out.length if out.length <= out.limit else -1

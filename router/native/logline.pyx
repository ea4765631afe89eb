"""Access-log lines, written as bytes by native code into a bounded buffer.

One JSON object per exchange; the worker hands the buffer to a writer thread (router/access_log.py). Invariant: a full
buffer drops the line and counts it; nothing here waits. Values that a client chose are escaped, never trusted.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from router.native.buffer cimport buffer_append, buffer_size
from router.native.causes cimport CAUSE_COUNT
from router.native.exchange cimport (
    X_STREAM, core_t, exchange_id, exchange_method, exchange_model, exchange_path, exchange_t,
)
from router.native.metrics cimport COUNT_LOG_LINES_DROPPED, metrics_add
from router.native.pool cimport text_t

cdef enum:
    LINE_BYTES_MAX = 4096            # labels are bounded to far less, six bytes for each byte escaped

cdef struct line_t:
    uint8_t bytes[4096]              # LINE_BYTES_MAX
    uint32_t length

cdef const char* cause_names[56]     # CAUSE_COUNT; set once by name_causes
cdef list kept_names = []            # what they point into


def name_causes(list names):
    """Sets the outcome's name for each cause number; the strings live as long as the process. Called once, by
    router._fastpath.
    """
    cdef int index
    cdef bytes encoded
    for index in range(min(len(names), CAUSE_COUNT)):
        encoded = names[index].encode()
        kept_names.append(encoded)
        cause_names[index] = encoded


cdef void put(line_t* line, const char* text) noexcept nogil:
    cdef size_t length = strlen(text)
    if line.length + length <= LINE_BYTES_MAX:
        memcpy(line.bytes + line.length, text, length)
        line.length += length


cdef void put_text(line_t* line, const uint8_t* data, uint32_t length) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef uint32_t index
    cdef uint8_t byte
    for index in range(length):
        if line.length + 8 > LINE_BYTES_MAX:
            return
        byte = data[index]
        if byte == 0x22 or byte == 0x5C:
            line.bytes[line.length] = 0x5C
            line.bytes[line.length + 1] = byte
            line.length += 2
        elif byte < 0x20 or byte >= 0x7F:
            # Bytes beyond ASCII are shown as Latin-1 escapes: the line stays valid JSON whatever came.
            memcpy(line.bytes + line.length, b"\\u00", 4)
            line.bytes[line.length + 4] = digits[byte >> 4]
            line.bytes[line.length + 5] = digits[byte & 15]
            line.length += 6
        else:
            line.bytes[line.length] = byte
            line.length += 1


cdef void put_number(line_t* line, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int count = 0
    if line.length + 20 > LINE_BYTES_MAX:
        return
    while True:
        digits[count] = 48 + value % 10
        value //= 10
        count += 1
        if value == 0:
            break
    while count:
        count -= 1
        line.bytes[line.length] = digits[count]
        line.length += 1


cdef void put_ms(line_t* line, uint64_t us) noexcept nogil:
    # Milliseconds with three decimals.
    put_number(line, us // 1000)
    put(line, b".")
    if line.length + 3 <= LINE_BYTES_MAX:
        line.bytes[line.length] = 48 + us // 100 % 10
        line.bytes[line.length + 1] = 48 + us // 10 % 10
        line.bytes[line.length + 2] = 48 + us % 10
        line.length += 3


cdef void put_field(line_t* line, const char* opening, text_t text) noexcept nogil:
    put(line, opening)
    put_text(line, text.data, text.length)
    put(line, b'"')


cdef void put_tokens(line_t* line, const char* opening, int64_t tokens) noexcept nogil:
    if tokens >= 0:
        put(line, opening)
        put_number(line, tokens)


cdef void log_exchange(core_t* core, const exchange_t* x, int cause) noexcept nogil:
    cdef line_t line
    cdef uint64_t now_us = core.driver.now_us
    cdef const char* name = cause_names[cause] if 0 <= cause < CAUSE_COUNT else NULL
    line.length = 0
    put(&line, b'{"ts":')
    put_ms(&line, (now_us + core.wall_offset_us) // 1000)       # seconds with three decimals
    put_field(&line, b',"request_id":"', exchange_id(x))
    put(&line, b',"client":"')
    put_text(&line, x.down.peer, x.down.peer_length)
    put_field(&line, b'","method":"', exchange_method(x))
    put_field(&line, b',"path":"', exchange_path(x))
    put(&line, b',"status":')
    put_number(&line, x.status)
    put_field(&line, b',"model":"', exchange_model(x))
    if x.served != NULL:
        put_field(&line, b',"model_served":"', x.served.name)
    if x.route != NULL:
        put_field(&line, b',"route":"', x.route.name)
    if x.snapshot.version:
        put(&line, b',"version":')
        put_number(&line, x.snapshot.version)
    if x.target != NULL:
        put_field(&line, b',"pool":"', x.target.pool_name)
    if x.endpoint != NULL:
        put_field(&line, b',"endpoint":"', x.endpoint.name)
    if x.flags & X_STREAM:
        put(&line, b',"stream":true')
    put(&line, b',"attempts":')
    put_number(&line, x.attempts)
    put(&line, b',"bytes_in":')
    put_number(&line, x.body_received_bytes)
    put(&line, b',"bytes_out":')
    put_number(&line, x.bytes_out)
    put(&line, b',"events":')
    put_number(&line, x.meter.event_count)
    put_tokens(&line, b',"prompt_tokens":', x.meter.prompt_tokens if x.meter.has_usage else -1)
    put_tokens(&line, b',"completion_tokens":', x.meter.completion_tokens if x.meter.has_usage else -1)
    put_tokens(&line, b',"cached_tokens":', x.meter.cached_tokens if x.meter.has_usage else -1)
    if x.first_byte_us:
        put(&line, b',"ttft_ms":')
        put_ms(&line, x.first_byte_us - x.started_us)
    put(&line, b',"total_ms":')
    put_ms(&line, now_us - x.started_us)
    put(&line, b',"outcome":"')
    if name != NULL:
        put(&line, name)
    put(&line, b'"}\n')
    if buffer_size(&core.log) + line.length > core.options.log_bytes_max \
            or buffer_append(&core.log, line.bytes, line.length) < 0:
        metrics_add(&core.metrics, COUNT_LOG_LINES_DROPPED, 1)

"""What a mock engine reads of a request: head, framing, and the few body fields that shape the answer. Tolerant."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t

cdef enum request_method:
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3

cdef enum load_report_format:
    REPORT_NONE = 0
    REPORT_JSON = 1
    REPORT_TEXT = 2

cdef struct span_t:                  # into the buffer that was scanned
    const uint8_t* data
    size_t size

cdef struct request_t:
    uint8_t method
    uint8_t minor_version
    uint8_t keep_alive
    uint8_t chunked
    uint8_t expects_continue
    uint8_t report_format
    uint8_t multipart
    uint8_t names_upgrade            # Connection: upgrade
    uint8_t offers_upgrade           # Upgrade to anything but WebSocket
    int64_t content_length           # 0 when there is none
    span_t path                      # without the query
    span_t fault                     # value of x-mock-fault
    int64_t answer_tokens            # of x-mock-tokens: how long the answer is to be; 0: the engine decides
    size_t head_size

cdef struct dechunk_t:               # zero-filled is the start state; offsets into the body
    size_t read
    size_t written
    size_t left                      # bytes of the current chunk still to come
    uint8_t state

cdef struct facts_t:
    span_t model                     # empty: not named
    span_t prompt                    # raw JSON of messages / prompt / input / ...; a multipart body as a whole
    int8_t stream                    # -1: not said
    uint8_t include_usage
    uint8_t base64                   # encoding_format
    uint8_t ignore_eos
    int64_t tokens_max               # -1: not said
    int32_t input_count              # elements of a list input, at least 1

# Size of the head, 0: not all here yet, -1: not HTTP/1.x.
cdef int64_t parse_head(const uint8_t* data, size_t size, request_t* request) noexcept nogil
# Undo the chunked coding in place: 1 all here (body is data[:written], message ends at `read`), 0 not yet, -1 bad.
cdef int dechunk(dechunk_t* state, uint8_t* data, size_t size) noexcept nogil
cdef bint scan_json(const uint8_t* data, size_t size, facts_t* facts) noexcept nogil      # False: not a JSON object
cdef void scan_multipart(const uint8_t* data, size_t size, facts_t* facts) noexcept nogil
cdef bint span_is(span_t span, const char* text) noexcept nogil

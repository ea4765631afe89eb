"""HTTP/1.1 message syntax by RFC 9112 and field syntax by RFC 9110, for both sides equally strict.

Heads are parsed whole: `find_head_end` says when a head is complete (and refuses bad line ends as soon as they
are seen), `parse_request_head` / `parse_response_head` then fill a `head_t` with spans into the same buffer.
Nothing here allocates, reads a clock or knows a connection. Chunked bodies: `chunk`.
"""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HTTP1_FIELDS_MAX = 128          # fields in one head; more is HTTP1_TOO_MANY_FIELDS
    HTTP1_TRAILERS_MAX = 32

# Why a message is refused. Zero is success; every refusal is negative so that sizes and refusals share an int64.
cdef enum http1_error:
    HTTP1_OK = 0
    HTTP1_BAD_LINE_END = -1          # bare CR, bare LF or NUL anywhere in a head
    HTTP1_BAD_REQUEST_LINE = -2      # not METHOD SP target SP HTTP-version, or HTTP/0.9
    HTTP1_BAD_METHOD = -3            # not a token, or longer than 32 bytes
    HTTP1_BAD_TARGET = -4            # controls, spaces, non-ASCII, fragment, a form the method does not allow
    HTTP1_BAD_VERSION = -5           # not HTTP/d.d
    HTTP1_UNSUPPORTED_VERSION = -6   # well-formed version that is not 1.0 or 1.1 -> 505
    HTTP1_BAD_FIELD_NAME = -7        # not a token, whitespace before the colon, no colon, empty
    HTTP1_BAD_FIELD_VALUE = -8       # controls other than HTAB; a Connection value that is no list of tokens
    HTTP1_OBS_FOLD = -9
    HTTP1_TOO_MANY_FIELDS = -10      # -> 431
    HTTP1_BAD_HOST = -11             # none in HTTP/1.1, more than one, or not a valid host[:port]
    HTTP1_BAD_LENGTH = -12           # Content-Length malformed, overflowing, or values that differ
    HTTP1_LENGTH_AND_CODING = -13    # both Content-Length and Transfer-Encoding
    HTTP1_BAD_CODING = -14           # Transfer-Encoding other than exactly one `chunked`, or with HTTP/1.0
    HTTP1_BAD_STATUS_LINE = -15
    HTTP1_BAD_CHUNK = -16            # chunk size, extension, data terminator
    HTTP1_BAD_TRAILER = -17
    HTTP1_TARGET_TOO_LONG = -18      # -> 414; the bound is an argument
    HTTP1_HEAD_TOO_LARGE = -19       # -> 431; the bound is an argument
    HTTP1_BAD_EXPECT = -20           # Expect other than 100-continue -> 417

cdef enum http1_method:
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_OPTIONS = 6
    METHOD_PATCH = 7
    METHOD_TRACE = 8
    METHOD_CONNECT = 9

# field_id: fields the router acts on. head_t.known[id] is the index of the field's first occurrence, or -1. (The enum
# has no name because Cython lets no named enum be an index.)
cdef enum:
    FIELD_OTHER = 0
    FIELD_HOST = 1
    FIELD_CONTENT_LENGTH = 2
    FIELD_TRANSFER_ENCODING = 3
    FIELD_CONNECTION = 4
    FIELD_KEEP_ALIVE = 5
    FIELD_PROXY_CONNECTION = 6
    FIELD_TE = 7
    FIELD_TRAILER = 8
    FIELD_UPGRADE = 9
    FIELD_EXPECT = 10
    FIELD_VIA = 11
    FIELD_AUTHORIZATION = 12
    FIELD_X_API_KEY = 13             # Anthropic clients' key
    FIELD_API_KEY = 14               # Azure clients' `api-key`
    FIELD_X_REQUEST_ID = 15
    FIELD_TRACEPARENT = 16
    FIELD_X_FORWARDED_FOR = 17
    FIELD_X_FORWARDED_PROTO = 18
    FIELD_X_FORWARDED_HOST = 19
    FIELD_FORWARDED = 20
    FIELD_CONTENT_TYPE = 21
    FIELD_CONTENT_ENCODING = 22
    FIELD_ENDPOINT_LOAD_METRICS = 23
    FIELD_RETRY_AFTER = 24
    FIELD_PROXY_AUTHENTICATE = 25
    FIELD_PROXY_AUTHORIZATION = 26
    FIELD_COOKIE = 27
    FIELD_X_SESSION_ID = 28
    FIELD_SEC_WEBSOCKET_KEY = 29
    FIELD_X_FAIRLEAD_EXPLAIN = 30
    FIELD_X_FAIRLEAD_REQUIRE = 31
    FIELD_COUNT = 32

cdef enum field_flag:
    # Connection, Keep-Alive, Proxy-Connection, TE, Trailer, Transfer-Encoding, Upgrade, Proxy-Authenticate,
    # Proxy-Authorization, or named by a Connection field (but for fields that none may take away, see http1.pyx)
    FIELD_HOP_BY_HOP = 1

cdef enum target_form:
    TARGET_ORIGIN = 0                # /path?query
    TARGET_ABSOLUTE = 1              # http://authority/path?query
    TARGET_AUTHORITY = 2             # CONNECT host:port
    TARGET_ASTERISK = 3              # OPTIONS *

cdef struct span_t:                  # into the buffer that was parsed
    uint32_t offset
    uint32_t length

cdef struct field_t:
    span_t name                      # as received, case kept
    span_t value                     # without leading and trailing whitespace
    uint8_t id                       # field_id
    uint8_t flags                    # field_flag

cdef struct head_t:
    uint32_t length_bytes            # of the whole head, its blank line included
    uint8_t is_response
    uint8_t method                   # http1_method (requests)
    uint8_t minor_version            # 0 or 1
    uint8_t form                     # target_form (requests)
    uint16_t status                  # responses
    uint8_t is_chunked
    uint8_t keep_alive               # by version and Connection: close / keep-alive
    uint8_t expects_continue         # Expect: 100-continue, HTTP/1.1 only
    uint8_t wants_upgrade            # Upgrade field present and named by Connection
    uint8_t has_transfer_encoding
    int64_t content_length           # -1: none. Equal repeated values (list or lines) are one value
    span_t method_span
    span_t target                    # as received
    # path?query: the target in origin form, "*" in asterisk form, empty in authority form, what follows the authority
    # in absolute form: "/" if nothing does; when it begins with "?" the sender puts "/" before it (RFC 9112 3.2.1)
    span_t path
    span_t authority                 # of an absolute or authority form target (no userinfo), else the Host value
    span_t reason                    # responses
    uint16_t field_count
    int16_t known[32]                # FIELD_COUNT
    field_t fields[128]              # HTTP1_FIELDS_MAX

# The length of the head that starts at buffer[0], its blank line included; 0 when more bytes are needed; a negative
# http1_error. `scanned` is 0 at first and carries over: bytes before it are not read again. Leading CRLFs must be
# skipped by the caller. Past the bound: HTTP1_HEAD_TOO_LARGE, or HTTP1_TARGET_TOO_LONG when the first line is longer.
cdef int64_t find_head_end(const uint8_t* buffer, size_t size, size_t* scanned, size_t head_bytes_max) noexcept nogil
# Fills `head` from the complete head in buffer[0:length_bytes]; HTTP1_OK or an http1_error.
cdef int parse_request_head(const uint8_t* buffer, size_t length_bytes, size_t target_bytes_max,
                            head_t* head) noexcept nogil
cdef int parse_response_head(const uint8_t* buffer, size_t length_bytes, head_t* head) noexcept nogil
# Parses the raw trailer section (field lines, with or without the final blank line) into head.fields; framing, routing
# and hop-by-hop fields (RFC 9110 6.5.1) get FIELD_HOP_BY_HOP so that the caller drops them.
cdef int parse_trailers(const uint8_t* buffer, size_t length_bytes, head_t* head) noexcept nogil
cdef const char* http1_error_text(int error) noexcept nogil      # a sentence for the error body: what is wrong

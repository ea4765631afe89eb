"""HTTP/1.1 heads by RFC 9112 (message syntax) and RFC 9110 (fields), for requests and responses equally strict.

Invariant: a head that is accepted has one reading. What two receivers could take differently (a line end, a length, a
coding, a host) is refused here, so that nothing a peer sends can mean one thing to us and another to the next hop.
Spans point into the caller's buffer; nothing is allocated, no clock is read, no connection is known. Neighbours:
`chunk` (bodies), `lines` (line ends), `authority` (hosts), `field_names` (fields known by name), `octets` (character
classes); the exchange acts on `head_t`.

How it works. `find_head_end` looks at every octet once, 64 at a time, and judges line ends alone: CR, LF and NUL are
the octets receivers disagree about most (RFC 9112 2.2), so they are refused before the head is even complete. The
parse then takes a list of where the lines end and works through them: because no line waits for the one before it to
be read, the processor overlaps them. Scans (token, target, text) stop at the first octet outside their class, and what
that octet must be is the whole grammar; a head ends in CRLF, which none of them crosses.

What the RFCs leave to the recipient, and what is done here:
- A request-target may hold any visible ASCII but "#". RFC 3986 allows fewer, but browsers send | ^ { } [ ] raw in
  queries, and none of them can end a request line.
- One SP between the parts of a start line, never more (RFC 9112 3: other whitespace MAY be taken, with a warning on
  smuggling). A status line may lack the SP before an absent reason: servers in the wild do, and there is only one
  reading.
- Transfer-Encoding is exactly `chunked` in any case (RFC 9112 6.1): no list, not even an empty member; none with
  HTTP/1.0.
- Content-Length may be repeated when all values are equal (RFC 9112 6.3); a member that is empty is malformed.
- A Connection field's options strip the fields they name (RFC 9110 7.6.1), but not those in PROTECTED_FIELDS: content
  and identity that the router or the endpoint decides on. Otherwise `Connection: x-forwarded-for` would let a client
  hide itself.
- Expect is read in HTTP/1.1 requests only (RFC 9110 10.1.1), Upgrade likewise (RFC 9110 7.8).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memset
from router.native.authority cimport authority_is_valid
from router.native.field_names cimport field_id_of
from router.native.lines cimport find_blank_line, index_lines, lines_t
from router.native.octets cimport (
    OCTET_DIGIT, OCTET_TOKEN, octet_is, same_name, skip_octets, skip_target, skip_text, skip_token,
)

cdef enum:
    HTAB = 9
    LF = 10
    CR = 13
    SP = 32
    METHOD_BYTES_MAX = 32            # the longest registered one, BASELINE-CONTROL, has 16
    CONNECTION_OPTIONS_MAX = 32      # each is compared with every field: bounds the work a head can ask for
    HOP_BY_HOP_FIELDS = (            # RFC 9110 7.6.1, and 11.7 for the two of the proxy
        1 << FIELD_CONNECTION | 1 << FIELD_KEEP_ALIVE | 1 << FIELD_PROXY_CONNECTION | 1 << FIELD_TE
        | 1 << FIELD_TRAILER | 1 << FIELD_TRANSFER_ENCODING | 1 << FIELD_UPGRADE | 1 << FIELD_PROXY_AUTHENTICATE
        | 1 << FIELD_PROXY_AUTHORIZATION
    )
    PROTECTED_FIELDS = (             # end to end whatever a Connection field says
        1 << FIELD_HOST | 1 << FIELD_CONTENT_LENGTH | 1 << FIELD_CONTENT_TYPE | 1 << FIELD_CONTENT_ENCODING
        | 1 << FIELD_EXPECT | 1 << FIELD_AUTHORIZATION | 1 << FIELD_X_API_KEY | 1 << FIELD_API_KEY | 1 << FIELD_VIA
        | 1 << FIELD_X_REQUEST_ID | 1 << FIELD_TRACEPARENT | 1 << FIELD_FORWARDED | 1 << FIELD_X_FORWARDED_FOR
        | 1 << FIELD_X_FORWARDED_PROTO | 1 << FIELD_X_FORWARDED_HOST
    )
    # RFC 9110 6.5.1: framing, routing, authentication, content format and request modifiers mean nothing in a
    # trailer. Of the fields known by name only a load report is sent there on purpose.
    TRAILER_FIELDS = 1 << FIELD_OTHER | 1 << FIELD_ENDPOINT_LOAD_METRICS


cdef int64_t find_head_end(const uint8_t* buffer, size_t size, size_t* scanned, size_t head_bytes_max) noexcept nogil:
    cdef size_t limit = size if size < head_bytes_max else head_bytes_max
    cdef int64_t end = find_blank_line(buffer, scanned[0], limit)
    if end != 0:
        return HTTP1_BAD_LINE_END if end < 0 else end
    scanned[0] = limit
    return HTTP1_OK if limit < head_bytes_max else head_over_bound(buffer, limit)


cdef int64_t head_over_bound(const uint8_t* buffer, size_t size) noexcept nogil:
    # RFC 9112 3: a target longer than we care to read is 414, other excess is 431 (RFC 6585 5).
    return HTTP1_HEAD_TOO_LARGE if memchr(buffer, LF, size) != NULL else HTTP1_TARGET_TOO_LONG


cdef int parse_request_head(const uint8_t* buffer, size_t length_bytes, size_t target_bytes_max,
                            head_t* head) noexcept nogil:
    cdef lines_t lines
    cdef size_t position, start, size
    cdef int error
    if not index_lines(buffer, length_bytes, &lines):
        return HTTP1_BAD_LINE_END
    head_begin(length_bytes, False, head)

    # RFC 9112 3: request-line = method SP request-target SP HTTP-version; 3.1: the method is a case-sensitive token.
    position = skip_token(buffer, 0, length_bytes)
    if buffer[position] == CR:
        return HTTP1_BAD_REQUEST_LINE
    if buffer[position] != SP or position == 0 or position > METHOD_BYTES_MAX:
        return HTTP1_BAD_METHOD
    span_set(&head.method_span, 0, position)
    head.method = method_of(buffer, position)

    # RFC 9112 3.2: no whitespace in a target; RFC 3986 3.5: a fragment is never sent.
    start = position + 1
    position = skip_target(buffer, start, length_bytes)
    size = position - start
    if buffer[position] == CR or (buffer[position] == SP and size == 0):
        return HTTP1_BAD_REQUEST_LINE                         # HTTP/0.9 has no version (RFC 9112 appendix C.1)
    if buffer[position] != SP:
        return HTTP1_BAD_TARGET
    if size > target_bytes_max:
        return HTTP1_TARGET_TOO_LONG
    span_set(&head.target, start, size)

    # RFC 9112 2.3: HTTP-version = "HTTP/" DIGIT "." DIGIT, case-sensitive, and nothing between it and CRLF.
    start = position + 1
    size = lines.ends[0] - start
    error = read_version(buffer + start, size, HTTP1_BAD_VERSION, head)
    if error != HTTP1_OK:
        return HTTP1_BAD_REQUEST_LINE if memchr(buffer + start, SP, size) != NULL else error
    error = read_target_form(buffer, head)
    if error != HTTP1_OK:
        return error

    error = parse_field_lines(buffer, &lines, head)
    if error != HTTP1_OK:
        return error
    # RFC 9112 3.2: 400 to any HTTP/1.1 request without a Host; more than one is refused where the second is met.
    if head.known[FIELD_HOST] < 0:
        if head.minor_version:
            return HTTP1_BAD_HOST
    elif head.authority.length == 0:
        # RFC 9112 3.2.2: the authority of an absolute-form target overrides Host.
        head.authority = head.fields[head.known[FIELD_HOST]].value
    if head.minor_version and head.known[FIELD_EXPECT] >= 0:
        return read_expect(buffer, head)
    return HTTP1_OK


cdef int parse_response_head(const uint8_t* buffer, size_t length_bytes, head_t* head) noexcept nogil:
    cdef lines_t lines
    cdef size_t position, end
    cdef int error
    if not index_lines(buffer, length_bytes, &lines):
        return HTTP1_BAD_LINE_END
    head_begin(length_bytes, True, head)
    # RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]
    end = lines.ends[0]
    if lines.has_controls and skip_text(buffer, 0, end) != end:
        return HTTP1_BAD_STATUS_LINE
    if end < 12 or buffer[8] != SP:
        return HTTP1_BAD_STATUS_LINE
    error = read_version(buffer, 8, HTTP1_BAD_STATUS_LINE, head)
    if error != HTTP1_OK:
        return error
    # RFC 9110 15: three digits; values outside 100..599 are invalid.
    if skip_octets(buffer, 9, 12, OCTET_DIGIT) != 12:
        return HTTP1_BAD_STATUS_LINE
    head.status = <uint16_t>((buffer[9] - 48) * 100 + (buffer[10] - 48) * 10 + (buffer[11] - 48))
    if head.status < 100 or head.status > 599:
        return HTTP1_BAD_STATUS_LINE
    position = 12
    if position < end:
        if buffer[position] != SP:
            return HTTP1_BAD_STATUS_LINE
        position += 1
    span_set(&head.reason, position, end - position)
    return parse_field_lines(buffer, &lines, head)


cdef int parse_trailers(const uint8_t* buffer, size_t length_bytes, head_t* head) noexcept nogil:
    cdef lines_t lines
    cdef size_t position = 0
    cdef uint32_t line
    cdef field_t* field
    head_begin(length_bytes, False, head)
    if length_bytes == 0:
        return HTTP1_OK
    if not index_lines(buffer, length_bytes, &lines):
        return HTTP1_BAD_TRAILER
    for line in range(lines.count):
        if lines.ends[line] == position:
            # The section's blank line, which the caller may have left out, is the last.
            return HTTP1_OK if position + 2 == length_bytes else HTTP1_BAD_TRAILER
        if head.field_count == HTTP1_TRAILERS_MAX:
            return HTTP1_TOO_MANY_FIELDS
        field = &head.fields[head.field_count]
        if read_field_line(buffer, length_bytes, position, lines.ends[line], lines.has_controls, field) != HTTP1_OK:
            return HTTP1_BAD_TRAILER
        if field.id != FIELD_OTHER and head.known[field.id] < 0:
            head.known[field.id] = head.field_count
        field.flags = 0 if 1 << field.id & TRAILER_FIELDS else FIELD_HOP_BY_HOP
        head.field_count += 1
        position = lines.ends[line] + 2
    return HTTP1_OK


cdef inline void head_begin(size_t length_bytes, bint is_response, head_t* head) noexcept nogil:
    memset(head, 0, sizeof(head_t) - sizeof(head.fields))
    memset(head.known, 0xFF, sizeof(head.known))
    head.length_bytes = <uint32_t>length_bytes
    head.is_response = is_response
    head.content_length = -1


cdef inline void span_set(span_t* span, size_t offset, size_t length) noexcept nogil:
    span.offset = <uint32_t>offset
    span.length = <uint32_t>length


cdef inline bint is_space(uint8_t octet) noexcept nogil:
    return octet == SP or octet == HTAB                       # RFC 9110 5.6.3: OWS


cdef int read_version(const uint8_t* text, size_t size, int malformed, head_t* head) noexcept nogil:
    if size != 8 or memcmp(text, b"HTTP/", 5) != 0 or text[6] != b".":
        return malformed
    if not octet_is(text[5], OCTET_DIGIT) or not octet_is(text[7], OCTET_DIGIT):
        return malformed
    if text[5] != b"1" or text[7] > b"1":
        return HTTP1_UNSUPPORTED_VERSION
    head.minor_version = text[7] - 48
    return HTTP1_OK


cdef inline uint8_t method_of(const uint8_t* text, size_t size) noexcept nogil:
    # RFC 9110 9.1: methods are case-sensitive: `get` is some other method.
    if size == 3:
        if memcmp(text, b"GET", 3) == 0:
            return METHOD_GET
        return METHOD_PUT if memcmp(text, b"PUT", 3) == 0 else METHOD_OTHER
    elif size == 4:
        if memcmp(text, b"POST", 4) == 0:
            return METHOD_POST
        return METHOD_HEAD if memcmp(text, b"HEAD", 4) == 0 else METHOD_OTHER
    elif size == 5:
        if memcmp(text, b"PATCH", 5) == 0:
            return METHOD_PATCH
        return METHOD_TRACE if memcmp(text, b"TRACE", 5) == 0 else METHOD_OTHER
    elif size == 6:
        return METHOD_DELETE if memcmp(text, b"DELETE", 6) == 0 else METHOD_OTHER
    elif size == 7:
        if memcmp(text, b"OPTIONS", 7) == 0:
            return METHOD_OPTIONS
        return METHOD_CONNECT if memcmp(text, b"CONNECT", 7) == 0 else METHOD_OTHER
    return METHOD_OTHER


cdef int read_target_form(const uint8_t* buffer, head_t* head) noexcept nogil:
    cdef size_t start = head.target.offset
    cdef size_t end = start + head.target.length
    cdef size_t position, scheme_bytes
    # RFC 9112 3.2.3: authority-form is CONNECT's, and CONNECT has no other.
    if head.method == METHOD_CONNECT:
        if not authority_is_valid(buffer + start, end - start, True):
            return HTTP1_BAD_TARGET
        head.form = TARGET_AUTHORITY
        head.authority = head.target
        span_set(&head.path, end, 0)
        return HTTP1_OK
    if buffer[start] == b"/":
        # RFC 9112 3.2.1: origin-form
        head.form = TARGET_ORIGIN
        head.path = head.target
        return HTTP1_OK
    if buffer[start] == b"*" and end - start == 1:
        # RFC 9112 3.2.4: asterisk-form is for OPTIONS alone.
        if head.method != METHOD_OPTIONS:
            return HTTP1_BAD_TARGET
        head.form = TARGET_ASTERISK
        head.path = head.target
        return HTTP1_OK
    # RFC 9112 3.2.2: absolute-form, with the schemes of RFC 9110 4.2 (case-insensitive) and a host that is not empty.
    if end - start > 7 and same_name(buffer + start, b"http", 4) and memcmp(buffer + start + 4, b"://", 3) == 0:
        scheme_bytes = 4
    elif end - start > 8 and same_name(buffer + start, b"https", 5) and memcmp(buffer + start + 5, b"://", 3) == 0:
        scheme_bytes = 5
    else:
        return HTTP1_BAD_TARGET
    start += scheme_bytes + 3
    position = start
    while position < end and buffer[position] != b"/" and buffer[position] != b"?":
        position += 1
    # RFC 9110 4.2.4: userinfo is an error; "@" is in no host.
    if not authority_is_valid(buffer + start, position - start, False):
        return HTTP1_BAD_TARGET
    head.form = TARGET_ABSOLUTE
    span_set(&head.authority, start, position - start)
    if position < end:
        span_set(&head.path, position, end - position)
    else:
        span_set(&head.path, start - 1, 1)                    # the scheme's last slash stands for the empty path
    return HTTP1_OK


cdef inline int read_field_line(const uint8_t* buffer, size_t length_bytes, size_t start, size_t end,
                                bint has_controls, field_t* field) noexcept nogil:
    # RFC 9112 5: field-line = field-name ":" OWS field-value OWS; 5.1: no whitespace between name and colon.
    cdef size_t at = skip_token(buffer, start, length_bytes)  # the line's CR stops it
    if buffer[at] != b":" or at == start:
        # RFC 9112 5.2: a line that begins with whitespace is obs-fold (2.2 on the one after the start line).
        return HTTP1_OBS_FOLD if is_space(buffer[start]) else HTTP1_BAD_FIELD_NAME
    span_set(&field.name, start, at - start)
    field.id = field_id_of(buffer + start, at - start)
    start = at + 1
    while start < end and is_space(buffer[start]):
        start += 1
    while end > start and is_space(buffer[end - 1]):
        end -= 1
    # RFC 9110 5.5: VCHAR, obs-text, SP and HTAB; the rest is "invalid and dangerous".
    if has_controls and skip_text(buffer, start, end) != end:
        return HTTP1_BAD_FIELD_VALUE
    span_set(&field.value, start, end - start)
    return HTTP1_OK


cdef int parse_field_lines(const uint8_t* buffer, lines_t* lines, head_t* head) noexcept nogil:
    cdef size_t position = lines.ends[0] + 2
    cdef uint32_t line = 1
    cdef field_t* field
    cdef const uint8_t* value
    cdef int error
    while True:
        if line == lines.count:
            return HTTP1_BAD_LINE_END                         # no blank line
        if lines.ends[line] == position:
            break
        if head.field_count == HTTP1_FIELDS_MAX:
            return HTTP1_TOO_MANY_FIELDS
        field = &head.fields[head.field_count]
        error = read_field_line(buffer, head.length_bytes, position, lines.ends[line], lines.has_controls, field)
        if error != HTTP1_OK:
            return error
        position = lines.ends[line] + 2
        line += 1
        field.flags = FIELD_HOP_BY_HOP if 1 << field.id & HOP_BY_HOP_FIELDS else 0
        if field.id != FIELD_OTHER:
            value = buffer + field.value.offset
            if field.id == FIELD_HOST:
                # RFC 9112 3.2: 400 for more than one Host, or an invalid one. Responses have no use for it.
                if not head.is_response and (head.known[FIELD_HOST] >= 0
                                             or not authority_is_valid(value, field.value.length, False)):
                    return HTTP1_BAD_HOST
            elif field.id == FIELD_CONTENT_LENGTH:
                if not read_content_length(value, field.value.length, &head.content_length):
                    return HTTP1_BAD_LENGTH
            elif field.id == FIELD_TRANSFER_ENCODING:
                # RFC 9112 6.1: one `chunked`, applied once; unknown codings and HTTP/1.0 are refused.
                if head.has_transfer_encoding or not head.minor_version or field.value.length != 7 \
                        or not same_name(value, b"chunked", 7):
                    return HTTP1_BAD_CODING
                head.has_transfer_encoding = True
                head.is_chunked = True
            if head.known[field.id] < 0:
                head.known[field.id] = head.field_count
        head.field_count += 1
    if position + 2 != head.length_bytes:
        return HTTP1_BAD_LINE_END
    # RFC 9112 6.1, 6.3: both together is request smuggling or response splitting until proven otherwise.
    if head.has_transfer_encoding and head.content_length >= 0:
        return HTTP1_LENGTH_AND_CODING
    return read_connection(buffer, head)


cdef bint read_content_length(const uint8_t* value, size_t size, int64_t* length) noexcept nogil:
    # RFC 9110 8.6: Content-Length = 1*DIGIT; a list of equal values is one value (RFC 9112 6.3).
    cdef int64_t number
    cdef size_t at = 0, start
    while True:
        start = at
        number = 0
        while at < size and octet_is(value[at], OCTET_DIGIT):
            # INT64_MAX ends in 7.
            if number > <int64_t>INT64_MAX // 10 or (number == <int64_t>INT64_MAX // 10 and value[at] > b"7"):
                return False
            number = number * 10 + (value[at] - 48)
            at += 1
        if at == start or (length[0] >= 0 and length[0] != number):
            return False
        length[0] = number
        while at < size and is_space(value[at]):
            at += 1
        if at == size:
            return True
        if value[at] != b",":
            return False
        at += 1
        while at < size and is_space(value[at]):
            at += 1


cdef int read_connection(const uint8_t* buffer, head_t* head) noexcept nogil:
    # RFC 9110 7.6.1: Connection = #connection-option, each a token. RFC 9112 9.3: HTTP/1.1 persists unless told to
    # close, HTTP/1.0 closes unless told to keep alive, and close wins.
    cdef const uint8_t* value
    cdef size_t at, start, size
    cdef uint32_t index, options = 0
    cdef bint closes = False, keeps = False, upgrades = False
    if head.known[FIELD_CONNECTION] >= 0:
        for index in range(<uint32_t>head.known[FIELD_CONNECTION], head.field_count):
            if head.fields[index].id != FIELD_CONNECTION:
                continue
            value = buffer + head.fields[index].value.offset
            size = head.fields[index].value.length
            at = 0
            while at < size:
                # RFC 9110 5.6.1.2: empty list members are ignored.
                if value[at] == b"," or is_space(value[at]):
                    at += 1
                    continue
                start = at
                at = skip_octets(value, at, size, OCTET_TOKEN)
                options += 1
                if at == start or options > CONNECTION_OPTIONS_MAX:
                    return HTTP1_BAD_FIELD_VALUE
                if at - start == 5 and same_name(value + start, b"close", 5):
                    closes = True
                elif at - start == 10 and same_name(value + start, b"keep-alive", 10):
                    keeps = True
                elif at - start == 7 and same_name(value + start, b"upgrade", 7):
                    upgrades = True
                else:
                    mark_named_fields(buffer, value + start, at - start, head)
                while at < size and is_space(value[at]):
                    at += 1
                if at < size and value[at] != b",":
                    return HTTP1_BAD_FIELD_VALUE
    head.keep_alive = not closes and (head.minor_version or keeps)
    # RFC 9110 7.8: an Upgrade in an HTTP/1.0 request is ignored.
    head.wants_upgrade = upgrades and head.minor_version and head.known[FIELD_UPGRADE] >= 0
    return HTTP1_OK


cdef void mark_named_fields(const uint8_t* buffer, const uint8_t* option, size_t size, head_t* head) noexcept nogil:
    cdef uint32_t index
    cdef field_t* field
    for index in range(head.field_count):
        field = &head.fields[index]
        if field.name.length == size and not 1 << field.id & PROTECTED_FIELDS \
                and same_token(buffer + field.name.offset, option, size):
            field.flags |= FIELD_HOP_BY_HOP


cdef int read_expect(const uint8_t* buffer, head_t* head) noexcept nogil:
    # RFC 9110 10.1.1: 100-continue, case-insensitive, is the only expectation there is.
    cdef uint32_t index
    for index in range(<uint32_t>head.known[FIELD_EXPECT], head.field_count):
        if head.fields[index].id == FIELD_EXPECT:
            if head.fields[index].value.length != 12 \
                    or not same_name(buffer + head.fields[index].value.offset, b"100-continue", 12):
                return HTTP1_BAD_EXPECT
    head.expects_continue = True
    return HTTP1_OK


cdef inline uint8_t lower(uint8_t octet) noexcept nogil:
    return octet | 0x20 if b"A" <= octet <= b"Z" else octet


cdef bint same_token(const uint8_t* left, const uint8_t* right, size_t size) noexcept nogil:
    cdef size_t at
    for at in range(size):
        if lower(left[at]) != lower(right[at]):
            return False
    return True


cdef const char* ERROR_TEXTS[21]     # by -error
ERROR_TEXTS[:] = [
    b"the message is malformed",     # for any other number
    b"a carriage return, line feed or NUL stands where none may",
    b"the request line is not a method, a target and an HTTP version with one space between them",
    b"the method is not a token of at most 32 bytes",
    b"the request target holds a byte it may not, or has a form that the method does not allow",
    b"the HTTP version is malformed",
    b"the HTTP version is neither 1.0 nor 1.1",
    b"a field line has no valid field name directly before a colon",
    b"a field value holds a control character, or a Connection field is not a list of tokens",
    b"a field line begins with whitespace",
    b"there are too many fields",
    b"there must be exactly one Host field with a valid host and port",
    b"Content-Length is not one decimal number",
    b"Content-Length and Transfer-Encoding exclude each other",
    b"Transfer-Encoding is not exactly one `chunked` in an HTTP/1.1 message",
    b"the status line is not an HTTP version, a status code from 100 to 599 and a reason",
    b"a chunk's size, extension or terminator is malformed",
    b"the trailer section is malformed",
    b"the request target is too long",
    b"the head is too large",
    b"Expect asks for something other than 100-continue",
]


cdef const char* http1_error_text(int error) noexcept nogil:
    return ERROR_TEXTS[-error if -20 <= error <= 0 else 0]


# The tests' door. An error is given by its name in http1_error, without the prefix.

ERROR_NAMES = (                      # by -error
    "OK", "BAD_LINE_END", "BAD_REQUEST_LINE", "BAD_METHOD", "BAD_TARGET", "BAD_VERSION", "UNSUPPORTED_VERSION",
    "BAD_FIELD_NAME", "BAD_FIELD_VALUE", "OBS_FOLD", "TOO_MANY_FIELDS", "BAD_HOST", "BAD_LENGTH", "LENGTH_AND_CODING",
    "BAD_CODING", "BAD_STATUS_LINE", "BAD_CHUNK", "BAD_TRAILER", "TARGET_TOO_LONG", "HEAD_TOO_LARGE", "BAD_EXPECT",
)


cdef bytes span_bytes(span_t span, bytes data):
    return data[span.offset:span.offset + span.length]


cdef dict head_facts(head_t* head, bytes data):
    cdef field_t* field
    fields = []
    for index in range(<int>head.field_count):
        field = &head.fields[index]
        is_hop_by_hop = bool(field.flags & FIELD_HOP_BY_HOP)
        fields.append((span_bytes(field.name, data), span_bytes(field.value, data), field.id, is_hop_by_hop))
    facts = {
        "length_bytes": head.length_bytes, "minor_version": head.minor_version, "is_chunked": bool(head.is_chunked),
        "keep_alive": bool(head.keep_alive), "wants_upgrade": bool(head.wants_upgrade), "fields": fields,
        "content_length": head.content_length,
        "known": {id: known for id, known in enumerate(head.known) if known >= 0},
    }
    if head.is_response:
        return facts | {"status": head.status, "reason": span_bytes(head.reason, data)}
    return facts | {
        "method": span_bytes(head.method_span, data), "method_id": head.method, "form": head.form,
        "target": span_bytes(head.target, data), "path": span_bytes(head.path, data),
        "authority": span_bytes(head.authority, data),
        "expects_continue": bool(head.expects_continue),
    }


def find_head(pieces: list[bytes], head_bytes_max: int = 65536) -> int | str:
    """The head's length, 0 for more needed or the error's name, after `pieces` arrived one by one in one buffer."""
    cdef size_t scanned = 0
    cdef int64_t length = 0
    cdef bytes buffer = b""
    for piece in pieces:
        buffer += piece                                       # an exact-size copy: a sanitizer sees any read past it
        length = find_head_end(<const uint8_t*>PyBytes_AS_STRING(buffer), PyBytes_GET_SIZE(buffer), &scanned,
                               <size_t>head_bytes_max)
        if length != 0:
            break
    return ERROR_NAMES[<object>-length] if length < 0 else length


def parse_head(data: bytes, is_response: bool, target_bytes_max: int = 8192) -> dict[str, object] | str:
    """What `data`, a whole head with nothing after it, says; or the error's name."""
    cdef head_t head
    cdef const uint8_t* octets = <const uint8_t*>PyBytes_AS_STRING(data)
    if is_response:
        error = parse_response_head(octets, PyBytes_GET_SIZE(data), &head)
    else:
        error = parse_request_head(octets, PyBytes_GET_SIZE(data), <size_t>target_bytes_max, &head)
    return ERROR_NAMES[<object>-error] if error else head_facts(&head, data)


def parse_trailer_section(data: bytes) -> list[tuple[bytes, bytes, int, bool]] | str:
    """(name, value, field id, is dropped) of each trailer field; or the error's name."""
    cdef head_t head
    error = parse_trailers(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
    return ERROR_NAMES[<object>-error] if error else head_facts(&head, data)["fields"]


def error_text(name: str) -> str:
    """The sentence that goes with an error's name."""
    return http1_error_text(-<int>ERROR_NAMES.index(name)).decode()


def parse_repeatedly(data: bytes, is_response: bool, rounds: int) -> int:
    """Finds the end of one head and parses it, `rounds` times without touching Python; the sum of the field counts."""
    cdef head_t head
    cdef const uint8_t* octets = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data), scanned
    cdef int64_t length, total = 0
    cdef bint response = is_response
    for _ in range(<int>rounds):
        scanned = 0
        length = find_head_end(octets, size, &scanned, 65536)
        if length <= 0:
            break
        if response:
            parse_response_head(octets, <size_t>length, &head)
        else:
            parse_request_head(octets, <size_t>length, 8192, &head)
        total += head.field_count
    return total

"""Chunked bodies, octet by octet: sizes, extensions, data, terminators and trailers, each as strict as the grammar.

Invariant: the events' data and the verdict do not depend on how the body was cut into pieces, and nothing is reported
complete (CHUNK_END) that did not end with a well-formed last chunk, trailer section and blank line. Neighbours:
`http1` parses the heads before a body and the trailer section after it; the exchange feeds what arrives and passes
the spans on.

The machine is a plain switch on `chunk_t.state`. Framing octets are few (about seven a chunk) and take one turn each;
data is skipped over in one step. Where receivers disagree is where requests are smuggled, so nothing is forgiven: no
bare LF, no space after a size, no sign, no 0x, and extensions are read by their grammar although nobody uses them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, uint8_t, uint64_t
from libc.string cimport memset
from router.native.octets cimport OCTET_DIGIT, OCTET_HEX, OCTET_TEXT, OCTET_TOKEN, octet_is

cdef enum:
    CR = 13
    LF = 10
    SIZE_DIGITS_MAX = 16             # 64 bits; RFC 9112 7.1: expect large sizes and prevent overflow

cdef enum chunk_state:
    AT_SIZE = 0
    IN_SIZE = 1
    AT_EXTENSION = 2                 # after ";"
    IN_EXTENSION_NAME = 3
    AFTER_EXTENSION_NAME = 4         # in whitespace before "=" or ";"
    AT_EXTENSION_VALUE = 5           # after "="
    IN_EXTENSION_VALUE = 6
    IN_QUOTES = 7
    AFTER_BACKSLASH = 8
    AFTER_QUOTES = 9
    BEFORE_EXTENSION = 10            # in whitespace that only ";" may follow
    AT_SIZE_LF = 11
    IN_DATA = 12
    AT_DATA_CR = 13
    AT_DATA_LF = 14
    AT_TRAILER = 15                  # at the start of a field line or of the blank line
    IN_TRAILER_NAME = 16
    IN_TRAILER_VALUE = 17
    AT_TRAILER_LF = 18
    AT_END_LF = 19
    ENDED = 20
    REFUSED = 21


cdef int chunk_next(chunk_t* chunk, const uint8_t* data, size_t size, size_t* position,
                    size_t* data_offset, size_t* data_length) noexcept nogil:
    cdef size_t at = position[0]
    cdef size_t start = at
    cdef int state = chunk.state
    data_offset[0] = at
    data_length[0] = 0
    if state == ENDED:
        return CHUNK_END
    if state == REFUSED:
        return CHUNK_BAD
    while at < size:
        if state == IN_DATA:
            data_offset[0] = at
            if chunk.remaining_bytes > size - at:
                data_length[0] = size - at
                chunk.remaining_bytes -= size - at
            else:
                data_length[0] = <size_t>chunk.remaining_bytes
                chunk.remaining_bytes = 0
                state = AT_DATA_CR
            chunk.state = <uint8_t>state
            position[0] = at + data_length[0]
            return CHUNK_DATA
        if state >= AT_TRAILER:
            # The blank line is no part of the section: what came before it is reported first.
            if state == AT_TRAILER and data[at] == CR and at > start:
                break
            state = next_trailer_state(chunk, state, data[at])
            at += 1
            if state == ENDED:
                chunk.state = ENDED
                position[0] = at
                return CHUNK_END
            if state == AT_END_LF:
                start = at
        else:
            state = next_framing_state(chunk, state, data[at])
            at += 1
            if state == AT_TRAILER:
                chunk.state = AT_TRAILER
                position[0] = at
                return CHUNK_LAST
        if state == REFUSED:
            chunk.state = REFUSED
            position[0] = at - 1
            return CHUNK_BAD
    chunk.state = <uint8_t>state
    position[0] = at
    if AT_TRAILER <= state <= AT_TRAILER_LF and at > start:
        data_offset[0] = start
        data_length[0] = at - start
        return CHUNK_TRAILER
    return CHUNK_NEED_MORE


cdef inline int next_framing_state(chunk_t* chunk, int state, uint8_t octet) noexcept nogil:
    # RFC 9112 7.1:   chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
    #         7.1.1:  chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
    cdef bint is_space = octet == 32 or octet == 9
    if state < AT_DATA_CR:
        chunk.line_bytes += 1
        if chunk.line_bytes > CHUNK_LINE_BYTES_MAX:
            return REFUSED
    if state == AT_SIZE or state == IN_SIZE:
        if octet_is(octet, OCTET_HEX):
            chunk.digits += 1
            chunk.remaining_bytes = chunk.remaining_bytes << 4 | hex_value(octet)
            # One bit less than fits, so that a size can meet signed lengths anywhere without turning negative.
            if chunk.digits > SIZE_DIGITS_MAX or chunk.remaining_bytes > <uint64_t>INT64_MAX:
                return REFUSED
            return IN_SIZE
        if state == AT_SIZE:
            return REFUSED
        return end_of_part(octet, is_space, BEFORE_EXTENSION)
    elif state == AT_SIZE_LF:
        if octet != LF:
            return REFUSED
        chunk.line_bytes = 0
        chunk.digits = 0
        return IN_DATA if chunk.remaining_bytes else AT_TRAILER
    elif state == AT_DATA_CR:
        return AT_DATA_LF if octet == CR else REFUSED
    elif state == AT_DATA_LF:
        return AT_SIZE if octet == LF else REFUSED
    elif state == AT_EXTENSION:
        if is_space:
            return AT_EXTENSION
        return IN_EXTENSION_NAME if octet_is(octet, OCTET_TOKEN) else REFUSED
    elif state == IN_EXTENSION_NAME:
        if octet_is(octet, OCTET_TOKEN):
            return IN_EXTENSION_NAME
        if octet == b"=":
            return AT_EXTENSION_VALUE
        return end_of_part(octet, is_space, AFTER_EXTENSION_NAME)
    elif state == AFTER_EXTENSION_NAME:
        if is_space:
            return AFTER_EXTENSION_NAME
        if octet == b"=":
            return AT_EXTENSION_VALUE
        return AT_EXTENSION if octet == b";" else REFUSED
    elif state == AT_EXTENSION_VALUE:
        if is_space:
            return AT_EXTENSION_VALUE
        if octet == b'"':
            return IN_QUOTES
        return IN_EXTENSION_VALUE if octet_is(octet, OCTET_TOKEN) else REFUSED
    elif state == IN_EXTENSION_VALUE:
        if octet_is(octet, OCTET_TOKEN):
            return IN_EXTENSION_VALUE
        return end_of_part(octet, is_space, BEFORE_EXTENSION)
    elif state == IN_QUOTES:
        # RFC 9110 5.6.4: qdtext and quoted-pair; a CR or LF ends no line in here and is no text either.
        if octet == b'"':
            return AFTER_QUOTES
        if octet == b"\\":
            return AFTER_BACKSLASH
        return IN_QUOTES if octet_is(octet, OCTET_TEXT) else REFUSED
    elif state == AFTER_BACKSLASH:
        return IN_QUOTES if octet_is(octet, OCTET_TEXT) else REFUSED
    elif state == AFTER_QUOTES:
        return end_of_part(octet, is_space, BEFORE_EXTENSION)
    elif state == BEFORE_EXTENSION:
        if is_space:
            return BEFORE_EXTENSION
        return AT_EXTENSION if octet == b";" else REFUSED
    return REFUSED


cdef inline int end_of_part(uint8_t octet, bint is_space, int state_after_space) noexcept nogil:
    # What may follow a size, an extension's name or its value. Whitespace before CRLF is not in the grammar.
    if octet == CR:
        return AT_SIZE_LF
    if octet == b";":
        return AT_EXTENSION
    return state_after_space if is_space else REFUSED


cdef inline uint64_t hex_value(uint8_t octet) noexcept nogil:
    return octet & 15 if octet_is(octet, OCTET_DIGIT) else (octet & 7) + 9


cdef inline int next_trailer_state(chunk_t* chunk, int state, uint8_t octet) noexcept nogil:
    # RFC 9112 7.1.2: trailer-section = *( field-line CRLF ), each field-line as in a head (RFC 9112 5, no obs-fold).
    if state == AT_END_LF:
        return ENDED if octet == LF else REFUSED
    if state == AT_TRAILER and octet == CR:
        return AT_END_LF
    chunk.trailer_bytes += 1
    if chunk.trailer_bytes > CHUNK_TRAILER_BYTES_MAX:
        return REFUSED
    if state == AT_TRAILER:
        return IN_TRAILER_NAME if octet_is(octet, OCTET_TOKEN) else REFUSED
    elif state == IN_TRAILER_NAME:
        if octet == b":":
            return IN_TRAILER_VALUE
        return IN_TRAILER_NAME if octet_is(octet, OCTET_TOKEN) else REFUSED
    elif state == IN_TRAILER_VALUE:
        if octet == CR:
            return AT_TRAILER_LF
        return IN_TRAILER_VALUE if octet_is(octet, OCTET_TEXT) else REFUSED
    elif state == AT_TRAILER_LF:
        return AT_TRAILER if octet == LF else REFUSED
    return REFUSED


# The tests' door.

def decode_chunked(pieces: list[bytes]) -> tuple[str, bytes, bytes, int]:
    """Verdict ("end", "more" or "bad"), data, raw trailer section and bytes consumed of a body given in `pieces`."""
    cdef chunk_t chunk
    cdef size_t position, offset, length
    cdef const uint8_t* octets
    cdef bytes piece
    cdef int event
    data = bytearray()
    trailers = bytearray()
    consumed = 0
    memset(&chunk, 0, sizeof(chunk_t))
    for piece in pieces:
        octets = <const uint8_t*>PyBytes_AS_STRING(piece)
        position = 0
        while True:
            event = chunk_next(&chunk, octets, PyBytes_GET_SIZE(piece), &position, &offset, &length)
            if event == CHUNK_DATA:
                data += piece[offset:offset + length]
            elif event == CHUNK_TRAILER:
                trailers += piece[offset:offset + length]
            elif event != CHUNK_LAST:
                break
        consumed += position
        if event == CHUNK_BAD or event == CHUNK_END:
            return "end" if event == CHUNK_END else "bad", bytes(data), bytes(trailers), consumed
    return "more", bytes(data), bytes(trailers), consumed


def decode_repeatedly(body: bytes, rounds: int) -> int:
    """Decodes one complete body `rounds` times without touching Python; the number of events seen."""
    cdef chunk_t chunk
    cdef size_t position, offset, length
    cdef size_t size = PyBytes_GET_SIZE(body)
    cdef const uint8_t* octets = <const uint8_t*>PyBytes_AS_STRING(body)
    cdef uint64_t events = 0
    cdef int event
    for _ in range(<int>rounds):
        memset(&chunk, 0, sizeof(chunk_t))
        position = 0
        event = CHUNK_DATA
        while event > CHUNK_NEED_MORE and event != CHUNK_END:
            event = chunk_next(&chunk, octets, size, &position, &offset, &length)
            events += 1
    return events

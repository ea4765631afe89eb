"""Whether `host[:port]` is one that RFC 3986 knows, judged octet by octet and without resolving anything.

Invariant: what is accepted holds no octet that could end a Host line, a URI's authority or a quoted string, so a host
may be copied into a head, a log line or a URI as it is. Neighbours: `http1` asks for Host fields and request-targets.

Decisions the RFCs leave open or that are easily missed:
- an empty host is refused: an http URI with one "MUST be rejected as invalid" (RFC 9110 4.2.1), and every request
  here has one;
- an empty port is the default port (RFC 9110 4.2.3: `example.com:` is valid), but not for CONNECT (RFC 9110 9.3.6);
- empty labels (`a..b`), underscores and dotted numbers that are no IPv4 address are reg-names (RFC 3986 3.2.2);
- IPv6 zones (RFC 6874) are refused: they mean something on the sender's machine only.
"""

from libc.stdint cimport uint8_t, uint32_t
from router.native.octets cimport OCTET_DIGIT, OCTET_HEX, OCTET_HOST, octet_is, skip_octets

cdef enum:
    PORT_MAX = 65535                 # 16 bits on the wire
    GROUPS_MAX = 8                   # 16-bit groups of an IPv6 address


cdef bint authority_is_valid(const uint8_t* text, size_t size, bint needs_port) noexcept nogil:
    cdef size_t position
    cdef uint32_t port = 0
    if size == 0:
        return False
    if text[0] == b"[":
        position = skip_octets(text, 1, size, OCTET_HOST)
        while position < size and text[position] == b":":
            position = skip_octets(text, position + 1, size, OCTET_HOST)
        if position == size or text[position] != b"]":
            return False
        if not ipv6_is_valid(text, 1, position) and not future_address_is_valid(text, 1, position):
            return False
        position += 1
    else:
        # RFC 3986 3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ); IPv4address is a subset of it.
        position = skip_octets(text, 0, size, OCTET_HOST)
        while position < size and text[position] == b"%":
            if size - position < 3 or not octet_is(text[position + 1], OCTET_HEX) \
                    or not octet_is(text[position + 2], OCTET_HEX):
                return False
            position = skip_octets(text, position + 3, size, OCTET_HOST)
        if position == 0:
            return False
    if position == size:
        return not needs_port
    if text[position] != b":":
        return False
    # RFC 3986 3.2.3: port = *DIGIT.
    position += 1
    if position == size:
        return not needs_port
    while position < size:
        if not octet_is(text[position], OCTET_DIGIT):
            return False
        port = port * 10 + (text[position] - 48)
        if port > PORT_MAX:
            return False
        position += 1
    return True


cdef bint ipv6_is_valid(const uint8_t* text, size_t position, size_t end) noexcept nogil:
    # RFC 3986 3.2.2 spells nine forms out; they are the same as: eight groups of 1 to 4 hex digits, or at most seven
    # with one "::" standing for those left out; a dotted IPv4 address may take the place of the last two.
    cdef uint32_t groups = 0
    cdef bint elided = False
    cdef size_t start
    if end - position >= 2 and text[position] == b":" and text[position + 1] == b":":
        elided = True
        position += 2
        if position == end:
            return True
    while True:
        start = position
        position = skip_octets(text, position, end, OCTET_HEX)
        if position < end and text[position] == b".":
            groups += 2
            if not ipv4_is_valid(text, start, end):
                return False
            break
        if position == start or position - start > 4:
            return False
        groups += 1
        if position == end:
            break
        if text[position] != b":":
            return False
        position += 1
        if position < end and text[position] == b":":
            if elided:
                return False
            elided = True
            position += 1
            if position == end:
                break
    return groups < GROUPS_MAX if elided else groups == GROUPS_MAX


cdef bint ipv4_is_valid(const uint8_t* text, size_t position, size_t end) noexcept nogil:
    # RFC 3986 3.2.2: four dec-octets, 0 to 255 without leading zeros.
    cdef uint32_t octet, turn
    cdef size_t start
    for turn in range(4):
        if turn:
            if position == end or text[position] != b".":
                return False
            position += 1
        start = position
        octet = 0
        while position < end and octet_is(text[position], OCTET_DIGIT):
            octet = octet * 10 + (text[position] - 48)
            position += 1
            if octet > 255 or (position - start > 1 and text[start] == b"0"):
                return False
        if position == start:
            return False
    return position == end


cdef bint future_address_is_valid(const uint8_t* text, size_t position, size_t end) noexcept nogil:
    # RFC 3986 3.2.2: IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
    cdef size_t start
    if position == end or (text[position] | 0x20) != b"v":
        return False
    start = position + 1
    position = skip_octets(text, start, end, OCTET_HEX)
    # The caller has seen that every octet up to the bracket is a host octet or a colon.
    return position > start and position < end - 1 and text[position] == b"."

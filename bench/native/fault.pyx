"""Faults a mock engine makes on demand, written KIND[:ARG][@RATE]: `reset:3@0.1` resets one stream in ten after 3
tokens.

An engine holds up to FAULTS_MAX of them; a request meets the first whose rate draws it, and a request's own `x-mock-
fault` header comes before these. KINDS is the one list: name, default argument, what it does.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport strtod
from libc.string cimport memchr, memcmp, memcpy, strlen

cdef struct kind_t:
    int kind
    const char* name
    double argument

KINDS = {
    "hang": "no byte of an answer, for ARG ms (0: for ever)",
    "hang-after": "nothing more after ARG tokens (or half of a whole body)",
    "reset": "TCP reset after ARG tokens (0: before the first byte)",
    "close": "end of connection after ARG tokens, without the last chunk",
    "truncate": "after ARG tokens a chunk that is shorter than it says, then end of connection",
    "bad-chunk": "after ARG tokens a chunk size that is no number",
    "error-event": "after ARG tokens an error event, then [DONE], in a 200 stream",
    "no-done": "a stream that ends well but without [DONE]",
    "status": "answer ARG (default 500); 429 and 503 with Retry-After",
    "bad-head": "a response head that is not HTTP",
    "both-lengths": "Content-Length and Transfer-Encoding at once",
    "short-length": "a Content-Length smaller than the body",
    "long-length": "a Content-Length larger than the body, then end of connection",
    "surplus": "a second response nobody asked for, right after the first",
    "storm": "ARG informational responses (100, 103) before the final one",
    "drip": "one byte a write, ARG ms apart (0: back to back)",
    "close-delimited": "a body that ends with the connection",
    "http10": "an HTTP/1.0 response",
    "no-keepalive": "Connection: close after each response",
    "silent-close": "end of connection after each stream, of which its head says nothing (llama.cpp)",
    "slow": "ARG times slower; at a rate below 1, only those requests (engines with a step model)",
    "flap": "well and 503 by turns, ARG ms for both",
    "sick": "/health answers ARG while requests are served",
    "idle-close": "connections idle for ARG ms are closed",
    "refuse": "no listening socket for ARG ms from now",
}

cdef kind_t[25] TABLE = [
    kind_t(FAULT_HANG, b"hang", 0), kind_t(FAULT_HANG_AFTER, b"hang-after", 1), kind_t(FAULT_RESET, b"reset", 1),
    kind_t(FAULT_CLOSE, b"close", 1), kind_t(FAULT_TRUNCATE, b"truncate", 1), kind_t(FAULT_BAD_CHUNK, b"bad-chunk", 1),
    kind_t(FAULT_ERROR_EVENT, b"error-event", 1), kind_t(FAULT_NO_DONE, b"no-done", 0),
    kind_t(FAULT_STATUS, b"status", 500), kind_t(FAULT_BAD_HEAD, b"bad-head", 0),
    kind_t(FAULT_BOTH_LENGTHS, b"both-lengths", 0), kind_t(FAULT_SHORT_LENGTH, b"short-length", 0),
    kind_t(FAULT_LONG_LENGTH, b"long-length", 0), kind_t(FAULT_SURPLUS, b"surplus", 0),
    kind_t(FAULT_STORM, b"storm", 100), kind_t(FAULT_DRIP, b"drip", 0),
    kind_t(FAULT_CLOSE_DELIMITED, b"close-delimited", 0), kind_t(FAULT_HTTP10, b"http10", 0),
    kind_t(FAULT_NO_KEEPALIVE, b"no-keepalive", 0), kind_t(FAULT_SILENT_CLOSE, b"silent-close", 0),
    kind_t(FAULT_SLOW, b"slow", 10), kind_t(FAULT_FLAP, b"flap", 2000), kind_t(FAULT_SICK, b"sick", 503),
    kind_t(FAULT_IDLE_CLOSE, b"idle-close", 1000),
    kind_t(FAULT_REFUSE, b"refuse", 1000),
]


cdef const char* fault_name(int kind) noexcept nogil:
    if 0 < kind < FAULT_KIND_COUNT:
        return TABLE[kind - 1].name
    return b"none"


cdef bint fault_parse(const uint8_t* text, size_t size, fault_t* fault) noexcept nogil:
    cdef char[64] copied                  # strtod wants a terminated string
    cdef char* end
    cdef char* colon
    cdef char* at_sign
    cdef size_t name_size
    cdef int place
    while size and (text[0] == 32 or text[0] == 9):
        text += 1
        size -= 1
    while size and (text[size - 1] == 32 or text[size - 1] == 9 or text[size - 1] == 13):
        size -= 1
    if size == 0 or size >= sizeof(copied):
        return False
    memcpy(copied, text, size)
    copied[size] = 0
    at_sign = <char*> memchr(copied, 64, size)
    fault.rate = 1
    if at_sign != NULL:
        fault.rate = strtod(at_sign + 1, &end)
        if end == at_sign + 1 or end[0] != 0:
            return False
        at_sign[0] = 0
    colon = <char*> memchr(copied, 58, strlen(copied))
    name_size = colon - copied if colon != NULL else strlen(copied)
    for place in range(25):
        if name_size == strlen(TABLE[place].name) and memcmp(copied, TABLE[place].name, name_size) == 0:
            fault.kind = <uint8_t> TABLE[place].kind
            fault.argument = TABLE[place].argument
            if colon != NULL:
                fault.argument = strtod(colon + 1, &end)
                return end != colon + 1 and end[0] == 0 and fault.argument >= 0
            return True
    return False


def parse_fault(str text):
    """Door for Python: (kind name, argument, rate). Raises: ValueError when it is not a fault."""
    cdef fault_t fault
    raw = text.encode()
    if not fault_parse(raw, len(raw), &fault):
        raise ValueError(f"not a fault: {text!r}; KIND[:ARG][@RATE] with KIND one of {', '.join(KINDS)}")
    return (<bytes> fault_name(fault.kind)).decode(), fault.argument, fault.rate

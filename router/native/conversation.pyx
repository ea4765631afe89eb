"""Finds the end of a conversation's first user message; see conversation.pxd.

A plain walk over an array of objects that json_skip takes the long strides of, once per request and only when the
policy wants a session. The scan of the body has found the array and hashed it, so the key costs a hash of less than one
block. Anything but an array of objects (a string, something that is no JSON) has no such end.
Neighbours: attempt.pyx asks; prompt.pyx has the hashes; tests/oracle/conversation.py is the slow, obvious reading.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from router.native.json_skip cimport json_skip_nested, json_skip_string, json_skip_t
from router.native.prompt cimport (
    PROMPT_BLOCK_BYTES_DEFAULT, prompt_begin, prompt_begin_ahead, prompt_chain_t, prompt_end_ahead, prompt_feed,
    prompt_feed_ahead, prompt_key_upto,
)

cdef enum:
    DEPTH_MAX = 128                  # BODY_DEPTH_MAX: the scan has looked already


cdef inline const uint8_t* _skip_space(const uint8_t* p, const uint8_t* end) noexcept nogil:
    while p < end and (p[0] == c" " or p[0] == c"\n" or p[0] == c"\r" or p[0] == c"\t"):
        p += 1
    return p


cdef inline const uint8_t* _skip_string(const uint8_t* begin, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """From its opening quote to after the closing one; NULL: not here."""
    cdef json_skip_t skip
    memset(&skip, 0, sizeof(skip))
    p = json_skip_string(&skip, begin, p + 1, end)
    return p if skip.has_ended else NULL


cdef inline const uint8_t* _skip_value(const uint8_t* begin, const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef json_skip_t skip
    if p[0] == c'"':
        return _skip_string(begin, p, end)
    if p[0] == c"{" or p[0] == c"[":
        memset(&skip, 0, sizeof(skip))
        skip.depth = 1
        p = json_skip_nested(&skip, begin, p + 1, end, DEPTH_MAX)
        return p if skip.has_ended else NULL
    while p < end and p[0] != c"," and p[0] != c"}":
        p += 1
    return p if p < end else NULL


cdef const uint8_t* _read_message(
    const uint8_t* begin, const uint8_t* p, const uint8_t* end, bint* is_user
) noexcept nogil:
    """From its opening brace to after the closing one; NULL: not here, or not an object."""
    cdef const uint8_t* key
    cdef const uint8_t* value
    cdef bint is_role
    is_user[0] = False
    p = _skip_space(p + 1, end)
    while p < end and p[0] != c"}":
        if p[0] == c",":
            p = _skip_space(p + 1, end)
        if p == end or p[0] != c'"':
            return NULL
        key = p + 1
        p = _skip_string(begin, p, end)
        if p == NULL:
            return NULL
        is_role = p - key == 5 and memcmp(key, b"role", 4) == 0
        p = _skip_space(p, end)
        if p == end or p[0] != c":":
            return NULL
        value = _skip_space(p + 1, end)
        if value == end:
            return NULL
        p = _skip_value(begin, value, end)
        if p == NULL:
            return NULL
        if is_role:
            is_user[0] = p - value == 6 and memcmp(value, b'"user"', 6) == 0
        p = _skip_space(p, end)
    return p + 1 if p < end else NULL


cdef size_t conversation_end(const uint8_t* messages, size_t size) noexcept nogil:
    cdef const uint8_t* end = messages + min(size, <size_t>CONVERSATION_BYTES_MAX)
    cdef const uint8_t* p = messages
    cdef bint is_user
    if size == 0 or p[0] != c"[":
        return 0
    while True:
        p = _skip_space(p + 1, end)          # over the bracket, or the comma
        if p == end:
            break
        if p[0] != c"{":
            return 0
        p = _read_message(messages, p, end, &is_user)
        if p == NULL:
            break
        if is_user:
            return <size_t>(p - messages)
        p = _skip_space(p, end)
        if p == end:
            break
        if p[0] != c",":
            return 0
    return CONVERSATION_BYTES_MAX if size >= CONVERSATION_BYTES_MAX else 0


cdef uint64_t conversation_key(const prompt_chain_t* chain, const uint8_t* messages, size_t size) noexcept nogil:
    cdef size_t end = conversation_end(messages, size)
    return prompt_key_upto(chain, messages, end) if end else 0


# --- the door: tests and micro-benchmarks run the very code that requests run -----------------------------------------

def find_end(bytes messages not None):
    """Bytes up to the end of the first user message; 0: there is none."""
    # An exact copy on the heap, so that the address sanitizer sees any read outside it.
    cdef size_t size = len(messages)
    cdef uint8_t* copy = <uint8_t*>malloc(size if size else 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>messages, size)
    found = conversation_end(copy, size)
    free(copy)
    return found


def find_key(bytes messages not None, bytes system=b""):
    """The conversation's key, as of a body with these messages and, beside them, this system prompt."""
    cdef prompt_chain_t chain
    prompt_begin(&chain, PROMPT_BLOCK_BYTES_DEFAULT)
    if system:
        prompt_begin_ahead(&chain, 1)
        prompt_feed_ahead(&chain, <const uint8_t*><const char*>system, len(system))
        prompt_end_ahead(&chain)
    prompt_feed(&chain, <const uint8_t*><const char*>messages, len(messages))
    return conversation_key(&chain, <const uint8_t*><const char*>messages, len(messages))

"""A byte buffer that grows and is drained from the front.

Invariant: taken <= size <= capacity. Memory is kept between messages (a connection reuses it) and given back only
when a large message has passed, so that ten thousand idle connections stay small. Running out of memory ends the
process: a mock that limps would be worse than none.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport abort, free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    CAPACITY_MIN = 512
    CAPACITY_KEPT = 65536          # above this an emptied buffer is freed
    CHUNK_HEAD_MAX = 10            # eight hex digits and CR LF

cdef const char* HEX = b"0123456789abcdef"


cdef void out_reserve(out_t* out, size_t more) noexcept nogil:
    cdef size_t capacity = out.capacity
    cdef void* data
    if out.size + more <= capacity:
        return
    if capacity < CAPACITY_MIN:
        capacity = CAPACITY_MIN
    while capacity < out.size + more:
        capacity *= 2
    data = realloc(out.data, capacity)
    if data == NULL:
        abort()
    out.data = <uint8_t*> data
    out.capacity = capacity


cdef void out_bytes(out_t* out, const void* data, size_t size) noexcept nogil:
    out_reserve(out, size)
    memcpy(out.data + out.size, data, size)
    out.size += size


cdef void out_int(out_t* out, int64_t value) noexcept nogil:
    cdef char digits[24]
    cdef int at = 24
    cdef uint64_t rest = <uint64_t> value if value >= 0 else <uint64_t> 0 - <uint64_t> value
    while True:
        at -= 1
        digits[at] = <char> (48 + rest % 10)
        rest = rest // 10
        if rest == 0:
            break
    if value < 0:
        at -= 1
        digits[at] = 45
    out_bytes(out, &digits[at], 24 - at)


cdef void out_hex(out_t* out, uint64_t value, int digits) noexcept nogil:
    cdef int place
    out_reserve(out, digits)
    for place in range(digits):
        out.data[out.size + place] = <uint8_t> HEX[(value >> (4 * (digits - 1 - place))) & 15]
    out.size += digits


cdef void out_float(out_t* out, double value) noexcept nogil:
    out_reserve(out, 32)
    out.size += snprintf(<char*> out.data + out.size, 32, b"%.9g", value)


cdef void out_take(out_t* out, size_t size) noexcept nogil:
    out.taken += size
    if out.taken < out.size:
        # Move the rest down only when that is cheap for what it frees.
        if out.taken > CAPACITY_KEPT and out.taken > out.size // 2:
            memmove(out.data, out.data + out.taken, out.size - out.taken)
            out.size -= out.taken
            out.taken = 0
        return
    out.size = 0
    out.taken = 0
    if out.capacity > CAPACITY_KEPT:
        out_free(out)


cdef void out_free(out_t* out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.size = out.taken = out.capacity = 0


cdef size_t out_chunk_begin(out_t* out) noexcept nogil:
    out_reserve(out, CHUNK_HEAD_MAX)
    out.size += CHUNK_HEAD_MAX
    return out.size


cdef void out_chunk_end(out_t* out, size_t mark) noexcept nogil:
    # The size is written without leading zeros, as engines write it, so the body moves down over the digits not used.
    cdef size_t body_size = out.size - mark
    cdef size_t start = mark - CHUNK_HEAD_MAX
    cdef int digits = 1
    while digits < 8 and body_size >> (4 * digits):
        digits += 1
    memmove(out.data + start + digits + 2, out.data + mark, body_size)
    out.size = start
    out_hex(out, body_size, digits)
    out_bytes(out, b"\r\n", 2)
    out.size += body_size
    out_bytes(out, b"\r\n", 2)

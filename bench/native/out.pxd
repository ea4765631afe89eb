"""A byte buffer that grows and is drained from the front: what a mock engine has received, or has still to send."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport strlen

cdef struct out_t:               # zero-filled is the empty buffer
    uint8_t* data
    size_t size                  # bytes put in
    size_t taken                 # bytes of these sent or consumed already
    size_t capacity

cdef void out_reserve(out_t* out, size_t more) noexcept nogil        # aborts the process when memory is out
cdef void out_bytes(out_t* out, const void* data, size_t size) noexcept nogil
cdef inline void out_text(out_t* out, const char* text) noexcept nogil:      # text ends with NUL
    out_bytes(out, text, strlen(text))       # here, so that the compiler counts the literals
cdef void out_int(out_t* out, int64_t value) noexcept nogil
cdef void out_hex(out_t* out, uint64_t value, int digits) noexcept nogil
cdef void out_float(out_t* out, double value) noexcept nogil
cdef void out_take(out_t* out, size_t size) noexcept nogil           # drop `size` bytes from the front
cdef void out_free(out_t* out) noexcept nogil

# One chunk of the chunked coding around what is put in between the two calls; `begin` returns the mark `end` wants.
cdef size_t out_chunk_begin(out_t* out) noexcept nogil
cdef void out_chunk_end(out_t* out, size_t mark) noexcept nogil

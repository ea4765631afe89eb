"""A growable byte queue: bytes are appended at the end and consumed from the start."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    BUFFER_BLOCK_BYTES = 4096        # what a first append takes; recycled through a bounded free list

cdef struct buffer_t:                # zero-filled is an empty buffer that owns nothing
    uint8_t* data
    size_t start                     # of the first byte not yet consumed
    size_t end                       # one past the last byte
    size_t capacity

cdef int buffer_append(buffer_t* buffer, const uint8_t* data, size_t size) noexcept nogil     # 0, or -1 without memory
# room for `size` more bytes at `end`
cdef int buffer_reserve(buffer_t* buffer, size_t size) noexcept nogil
# gives the memory back when it empties
cdef void buffer_consume(buffer_t* buffer, size_t size) noexcept nogil
cdef void buffer_release(buffer_t* buffer) noexcept nogil
cdef size_t buffer_size(const buffer_t* buffer) noexcept nogil
cdef uint8_t* buffer_bytes(const buffer_t* buffer) noexcept nogil

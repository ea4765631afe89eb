"""A fast 64-bit hash, the same in every process, run and machine: for affinity keys and tables, not for secrets.

Whole (`hash_bytes`) or in pieces (`hash_begin`, `hash_update`, `hash_finish`), with one result.
"""

from libc.stdint cimport uint8_t, uint64_t

cdef struct hash_stream_t:
    uint64_t size                    # bytes taken so far
    uint64_t lanes[4]
    uint8_t stripe[64]               # bytes that do not fill a stripe yet

cdef uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) noexcept nogil
cdef void hash_begin(hash_stream_t* stream, uint64_t seed) noexcept nogil
cdef void hash_update(hash_stream_t* stream, const uint8_t* data, size_t size) noexcept nogil
cdef uint64_t hash_finish(const hash_stream_t* stream) noexcept nogil

"""A sealed memfd mapped into this process: what the load table and the metrics table live in.

Invariant: a segment never changes size (sealed), so that a mapping of it can never fault. The creator's descriptor is
passed to other processes, which map the same bytes with `segment_attach`. What the bytes mean is the table's business.
"""

from libc.stdint cimport uint8_t

cdef class Segment:
    cdef readonly int fd             # owned; closed with the segment
    cdef readonly size_t size_bytes
    cdef uint8_t* base               # page-aligned, zero-filled at creation

cdef Segment segment_create(const char* name, size_t size_bytes)
cdef Segment segment_attach(int fd)  # duplicates the descriptor: the caller keeps its own

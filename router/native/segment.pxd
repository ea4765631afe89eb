"""A sealed memfd mapped into this process: what the load table and the metrics table live in.

Invariant: a segment never changes size (sealed), so that a mapping of it can never fault. The creator's descriptor is
passed to other processes, which map the same bytes with `segment_attach`. What the bytes mean is the table's business.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    SEGMENT_HEADER_BYTES = 4096      # a page: what follows a table's header starts page-aligned

cdef class Segment:
    cdef readonly int fd             # owned; closed with the segment
    cdef readonly size_t size_bytes
    cdef uint8_t* base               # page-aligned, zero-filled at creation

cdef Segment segment_create(const char* name, size_t size_bytes)
cdef Segment segment_attach(int fd)  # duplicates the descriptor: the caller keeps its own
# The same for a table whose header begins with `uint64_t magic; uint32_t layout_version`: ValueError when it is none.
cdef Segment segment_attach_table(int fd, uint64_t magic, uint32_t layout_version, str name)
# How much of it has been touched by anybody and takes memory; -1: not known.
cdef long long segment_used_bytes(Segment segment)
# Puts its pages, and those that are not there yet, into huge ones for all who have it mapped, where the kernel can
# (Linux 6.1; whatever is set for shared memory but `deny`). Takes about a millisecond for each MiB. Whether it did.
cdef bint segment_use_huge_pages(Segment segment)

"""A sealed memfd mapped into this process: what the tables that workers share live in.

Invariant: a segment never changes size (sealed), so that a mapping of it can never fault. The creator's descriptor is
passed to other processes, which map the same bytes with `segment_attach`. What the bytes mean is the table's business.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    SEGMENT_HEADER_BYTES = 4096      # a page: what follows a table's header starts page-aligned
    SLOT_COUNT_MAX = 65520           # of any table: 16 bits hold a slot or 0xFFFF for none, and cache lines are filled

cdef struct table_head_t:            # what the header of a table with slots begins with; of all, the first two
    uint64_t magic
    uint32_t layout_version
    uint32_t slot_count

cdef class Segment:
    cdef readonly int fd             # owned; closed with the segment
    cdef readonly size_t size_bytes
    cdef uint8_t* base               # page-aligned, zero-filled at creation

cdef Segment segment_create(const char* name, size_t size_bytes)
cdef Segment segment_attach(int fd)  # duplicates the descriptor: the caller keeps its own
# The same for a table: ValueError when it is none of this kind and layout.
cdef Segment segment_attach_table(int fd, uint64_t magic, uint32_t layout_version, str name)
# A table that is a header of `header_bytes` and a row for each slot. ValueError: more slots than a table may have, or,
# behind a descriptor, another size than its header says.
cdef Segment segment_create_rows(
    const char* name, uint64_t magic, uint32_t layout_version, uint32_t slot_count, size_t header_bytes,
    size_t row_bytes)
cdef Segment segment_attach_rows(
    int fd, uint64_t magic, uint32_t layout_version, size_t header_bytes, size_t row_bytes, str name)
cdef int segment_check_slot_count(uint32_t slot_count) except -1         # ValueError
cdef int segment_check_slot(int64_t slot, uint32_t slot_count) except -1    # IndexError
# How much of it has been touched by anybody and takes memory; -1: not known.
cdef long long segment_used_bytes(Segment segment)
# Puts its pages, and those that are not there yet, into huge ones for all who have it mapped, where the kernel can
# (Linux 6.1; whatever is set for shared memory but `deny`). Takes about a millisecond for each MiB. Whether it did.
cdef bint segment_use_huge_pages(Segment segment)

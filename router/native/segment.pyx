"""A sealed memfd mapped into this process: what the tables that workers share live in.

Pages are allocated by the kernel when first touched, so a table may be laid out for its bounds and cost only what is
used. A table puts a header with magic, layout version and sizes at the start, and attaching checks it. Neighbours:
loadtable, metrics, prefix, session, learner, residency and signals are such tables.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from router.native.atomic cimport load_u64, store_u64

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #ifndef F_ADD_SEALS
    #define F_ADD_SEALS 1033
    #define F_SEAL_SEAL 1
    #define F_SEAL_SHRINK 2
    #define F_SEAL_GROW 4
    #endif

    static int segment_open(const char *name, size_t size_bytes) {
        int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0) return -1;
        if (ftruncate(fd, (off_t)size_bytes) != 0
            || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
            close(fd);
            return -1;
        }
        return fd;
    }
    static int segment_duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }
    static long long segment_size(int fd) {
        struct stat facts;
        return fstat(fd, &facts) == 0 ? (long long)facts.st_size : -1;
    }
    #ifndef MADV_COLLAPSE
    #define MADV_COLLAPSE 25
    #endif
    #define HUGE_PAGE_BYTES ((size_t)2 << 20)
    /* Where a huge page could begin, for what is as large as one: room for one more is reserved, and given back. */
    static void *segment_map(int fd, size_t size_bytes) {
        int protection = PROT_READ | PROT_WRITE;
        size_t spare_bytes = size_bytes < HUGE_PAGE_BYTES ? 0 : HUGE_PAGE_BYTES;
        void *base;
        if (spare_bytes == 0) {
            base = mmap(0, size_bytes, protection, MAP_SHARED, fd, 0);
            return base == MAP_FAILED ? 0 : base;
        }
        char *room = mmap(0, size_bytes + spare_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (room == MAP_FAILED) return 0;
        char *aligned = (char *)(((uintptr_t)room + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1));
        char *end = aligned + ((size_bytes + 4095) & ~(size_t)4095);
        base = mmap(aligned, size_bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
        if (base == MAP_FAILED) {
            munmap(room, size_bytes + spare_bytes);
            return 0;
        }
        if (aligned > room) munmap(room, aligned - room);
        if (room + size_bytes + spare_bytes > end) munmap(end, room + size_bytes + spare_bytes - end);
        return base;
    }
    static int segment_collapse(void *base, size_t size_bytes) {
        return madvise(base, size_bytes & ~(HUGE_PAGE_BYTES - 1), MADV_COLLAPSE);
    }
    static long long segment_used(int fd) {
        struct stat facts;
        return fstat(fd, &facts) == 0 ? (long long)facts.st_blocks * 512 : -1;
    }
    """
    int segment_open(const char* name, size_t size_bytes) nogil
    int segment_duplicate(int fd) nogil
    long long segment_size(int fd) nogil
    void* segment_map(int fd, size_t size_bytes) nogil
    int segment_collapse(void* base, size_t size_bytes) nogil
    long long segment_used(int fd) nogil
    const size_t HUGE_PAGE_BYTES
    int munmap(void* base, size_t size_bytes) nogil
    int close(int fd) nogil


cdef class Segment:
    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
        if self.fd >= 0:
            close(self.fd)


cdef Segment segment_create(const char* name, size_t size_bytes):
    """A new zero-filled segment of exactly `size_bytes`. Raises: OSError."""
    cdef Segment segment = Segment.__new__(Segment)
    segment.fd = segment_open(name, size_bytes)
    if segment.fd < 0:
        PyErr_SetFromErrno(OSError)
    return _map(segment, size_bytes)


cdef Segment segment_attach(int fd):
    """The segment behind a descriptor made by another process. Raises: OSError; ValueError when it is empty."""
    cdef Segment segment = Segment.__new__(Segment)
    segment.fd = segment_duplicate(fd)
    if segment.fd < 0:
        PyErr_SetFromErrno(OSError)
    cdef long long size_bytes = segment_size(segment.fd)
    if size_bytes < 0:
        PyErr_SetFromErrno(OSError)
    if size_bytes == 0:
        raise ValueError(f"descriptor {fd} is no shared segment: it is empty")
    return _map(segment, <size_t>size_bytes)


cdef Segment segment_attach_table(int fd, uint64_t magic, uint32_t layout_version, str name):
    cdef Segment segment = segment_attach(fd)
    cdef const table_head_t* head = <const table_head_t*>segment.base
    if segment.size_bytes < SEGMENT_HEADER_BYTES:
        raise ValueError(f"descriptor {fd} is no {name}: {segment.size_bytes} bytes hold no header")
    if load_u64(&head.magic) != magic:
        raise ValueError(f"descriptor {fd} is no {name}: wrong magic {head.magic:#x}")
    if head.layout_version != layout_version:
        raise ValueError(f"{name} has layout {head.layout_version}, this build reads layout {layout_version}")
    return segment


cdef Segment segment_create_rows(
    const char* name, uint64_t magic, uint32_t layout_version, uint32_t slot_count, size_t header_bytes,
    size_t row_bytes
):
    segment_check_slot_count(slot_count)
    cdef Segment segment = segment_create(name, header_bytes + slot_count * row_bytes)
    cdef table_head_t* head = <table_head_t*>segment.base
    head.layout_version = layout_version
    head.slot_count = slot_count
    store_u64(&head.magic, magic)
    return segment


cdef Segment segment_attach_rows(
    int fd, uint64_t magic, uint32_t layout_version, size_t header_bytes, size_t row_bytes, str name
):
    cdef Segment segment = segment_attach_table(fd, magic, layout_version, name)
    cdef uint32_t slot_count = (<const table_head_t*>segment.base).slot_count
    if slot_count == 0 or segment.size_bytes != header_bytes + slot_count * row_bytes:
        raise ValueError(
            f"{name} header ({slot_count} slots) does not fit its segment of {segment.size_bytes} bytes")
    return segment


cdef int segment_check_slot_count(uint32_t slot_count) except -1:
    if not 1 <= slot_count <= SLOT_COUNT_MAX:
        raise ValueError(f"slot_count must be 1..{SLOT_COUNT_MAX}, not {slot_count}")
    return 0


cdef int segment_check_slot(int64_t slot, uint32_t slot_count) except -1:
    if not 0 <= slot < slot_count:
        raise IndexError(f"slot {slot} of {slot_count}")
    return 0


cdef long long segment_used_bytes(Segment segment):
    return segment_used(segment.fd)


cdef bint segment_use_huge_pages(Segment segment):
    return segment.size_bytes >= HUGE_PAGE_BYTES and segment_collapse(segment.base, segment.size_bytes) == 0


cdef Segment _map(Segment segment, size_t size_bytes):
    segment.base = <uint8_t*>segment_map(segment.fd, size_bytes)
    if segment.base == NULL:
        PyErr_SetFromErrno(OSError)
    segment.size_bytes = size_bytes
    return segment

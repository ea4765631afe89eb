"""A growable byte queue, for the bytes that could not be handled in place: partial heads, held bodies, what a slow
peer has not taken.

Invariant: an empty buffer owns no memory, so an idle connection costs its struct and nothing else. Blocks of the
common size come from a free list that is bounded; everything larger goes to malloc. One thread per process uses this
(the worker's).
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    FREE_BLOCKS_MAX = 256            # 1 MiB kept for reuse; more is returned to malloc

cdef struct block_t:
    block_t* next

cdef block_t* free_blocks = NULL
cdef int free_block_count = 0
cdef unsigned long long malloc_count = 0


cdef uint8_t* take_block() noexcept nogil:
    global free_blocks, free_block_count, malloc_count
    cdef block_t* block = free_blocks
    if block == NULL:
        malloc_count += 1
        return <uint8_t*>malloc(BUFFER_BLOCK_BYTES)
    free_blocks = block.next
    free_block_count -= 1
    return <uint8_t*>block


cdef void give_block(uint8_t* data, size_t capacity) noexcept nogil:
    global free_blocks, free_block_count
    if capacity != BUFFER_BLOCK_BYTES or free_block_count >= FREE_BLOCKS_MAX:
        free(data)
        return
    (<block_t*>data).next = free_blocks
    free_blocks = <block_t*>data
    free_block_count += 1


cdef void count_malloc() noexcept nogil:
    global malloc_count
    malloc_count += 1


cdef size_t buffer_size(const buffer_t* buffer) noexcept nogil:
    return buffer.end - buffer.start


cdef uint8_t* buffer_bytes(const buffer_t* buffer) noexcept nogil:
    return <uint8_t*>buffer.data + buffer.start


cdef int buffer_reserve(buffer_t* buffer, size_t size) noexcept nogil:
    cdef size_t held = buffer.end - buffer.start
    cdef size_t wanted
    cdef uint8_t* grown
    if buffer.capacity - buffer.end >= size and buffer.data != NULL:
        return 0
    if buffer.data == NULL and size <= BUFFER_BLOCK_BYTES:
        buffer.data = take_block()
        if buffer.data == NULL:
            return -1
        buffer.capacity = BUFFER_BLOCK_BYTES
        buffer.start = buffer.end = 0
        return 0
    if buffer.data != NULL and buffer.start != 0:
        memmove(buffer.data, buffer.data + buffer.start, held)
        buffer.start = 0
        buffer.end = held
        if buffer.capacity - held >= size:
            return 0
    wanted = buffer.capacity if buffer.capacity else BUFFER_BLOCK_BYTES
    while wanted - held < size:
        wanted *= 2
    count_malloc()
    if buffer.capacity == BUFFER_BLOCK_BYTES:
        # A recycled block must not be handed to realloc: it may still be one of the free list's.
        grown = <uint8_t*>malloc(wanted)
        if grown == NULL:
            return -1
        memcpy(grown, buffer.data, held)
        give_block(buffer.data, BUFFER_BLOCK_BYTES)
    else:
        grown = <uint8_t*>realloc(buffer.data, wanted)
        if grown == NULL:
            return -1
    buffer.data = grown
    buffer.capacity = wanted
    return 0


cdef int buffer_append(buffer_t* buffer, const uint8_t* data, size_t size) noexcept nogil:
    if size == 0:
        return 0
    if buffer_reserve(buffer, size) < 0:
        return -1
    memcpy(buffer.data + buffer.end, data, size)
    buffer.end += size
    return 0


cdef void buffer_consume(buffer_t* buffer, size_t size) noexcept nogil:
    buffer.start += size
    if buffer.start >= buffer.end:
        buffer_release(buffer)


cdef void buffer_release(buffer_t* buffer) noexcept nogil:
    if buffer.data != NULL:
        give_block(buffer.data, buffer.capacity)
    buffer.data = NULL
    buffer.start = buffer.end = buffer.capacity = 0


def append_and_consume(list steps):
    """Runs (b"bytes to append" | int to consume) steps on one buffer; returns what it holds after each. For tests."""
    cdef buffer_t buffer = buffer_t(data=NULL, start=0, end=0, capacity=0)
    cdef bytes piece
    seen = []
    for step in steps:
        if isinstance(step, bytes):
            piece = step
            buffer_append(&buffer, <const uint8_t*>piece, len(piece))
        else:
            buffer_consume(&buffer, min(<size_t>step, buffer_size(&buffer)))
        seen.append(buffer_bytes(&buffer)[:buffer_size(&buffer)] if buffer.data != NULL else b"")
    buffer_release(&buffer)
    return seen


def allocations() -> int:
    """How often memory had to come from malloc since the process began; messages of ordinary size need none once a
    worker is warm.
    """
    return malloc_count

"""Small blocks of memory for what every request needs, taken and given back without malloc.

A free list per 64-byte class; exchanges, connections, scans and labels come from here, so that a worker in a steady
state allocates nothing. Invariant: each list is bounded, what a burst leaves beyond that goes back to malloc. One
thread per process uses this.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef enum:
    CLASS_BYTES = 64
    CLASS_COUNT = 33                 # up to SLAB_BLOCK_BYTES_MAX
    FREE_BYTES_MAX = 1 << 20         # kept per class

cdef struct link_t:
    link_t* next

cdef struct class_t:
    link_t* first
    size_t count

cdef class_t classes[33]             # CLASS_COUNT
cdef unsigned long long malloc_count = 0


cdef void* slab_take(size_t size) noexcept nogil:
    global malloc_count
    cdef size_t index = (size + CLASS_BYTES - 1) // CLASS_BYTES
    cdef link_t* block
    if index >= CLASS_COUNT or classes[index].first == NULL:
        malloc_count += 1
        return calloc(1, index * CLASS_BYTES)
    block = classes[index].first
    classes[index].first = block.next
    classes[index].count -= 1
    memset(block, 0, size)
    return block


cdef void slab_give(void* block, size_t size) noexcept nogil:
    cdef size_t index = (size + CLASS_BYTES - 1) // CLASS_BYTES
    if block == NULL:
        return
    if index >= CLASS_COUNT or index == 0 or classes[index].count * index * CLASS_BYTES >= FREE_BYTES_MAX:
        free(block)
        return
    (<link_t*>block).next = classes[index].first
    classes[index].first = <link_t*>block
    classes[index].count += 1


def allocations() -> int:
    """How often a block had to come from malloc since the process began: the difference over a load shows that it
    allocates nothing.
    """
    return malloc_count

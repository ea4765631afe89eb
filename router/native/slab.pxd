"""Small blocks of memory for what every request needs, taken and given back without malloc."""

cdef enum:
    SLAB_BLOCK_BYTES_MAX = 2048      # a body scan, with the keys of its prompt, is the largest

cdef void* slab_take(size_t size) noexcept nogil              # zero-filled; NULL without memory
cdef void slab_give(void* block, size_t size) noexcept nogil  # `size` as it was taken

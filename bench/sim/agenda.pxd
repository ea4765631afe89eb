"""What happens when, in virtual time: a binary heap of events, earliest first; those of one time as they were added."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef struct event_t:
    uint64_t time_us
    uint64_t order                   # of being added: decides between equal times
    int32_t kind                     # the world's
    int32_t index                    # of what it is about
    uint32_t serial                  # of the matter: an event with an old one is void

cdef struct agenda_t:                # zero-filled is empty
    event_t* heap                    # heap[count]
    uint32_t count
    uint32_t capacity
    uint64_t order
    bint is_full                     # there was no memory for an event: the run is void

cdef void agenda_add(agenda_t* agenda, uint64_t time_us, int32_t kind, int32_t index, uint32_t serial) noexcept nogil
cdef bint agenda_take(agenda_t* agenda, event_t* event) noexcept nogil      # False: nothing left
cdef void agenda_free(agenda_t* agenda) noexcept nogil

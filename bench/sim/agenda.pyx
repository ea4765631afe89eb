"""The agenda of a simulation; see agenda.pxd.

Invariant: events come out by (time, order added), so that a run depends on nothing but what was added: not on
addresses, not on the heap's shape. Neighbour: world.pyx, which adds and takes.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset


cdef inline bint _before(const event_t* one, const event_t* other) noexcept nogil:
    return one.time_us < other.time_us or (one.time_us == other.time_us and one.order < other.order)


cdef bint _grow(agenda_t* agenda) noexcept nogil:
    cdef uint32_t capacity = agenda.capacity * 2 if agenda.capacity else 1024
    cdef void* heap = realloc(agenda.heap, capacity * sizeof(event_t))
    if heap == NULL:
        agenda.is_full = True
        return False
    agenda.heap = <event_t*>heap
    agenda.capacity = capacity
    return True


cdef void agenda_add(agenda_t* agenda, uint64_t time_us, int32_t kind, int32_t index, uint32_t serial) noexcept nogil:
    cdef event_t event
    cdef uint32_t at = agenda.count
    cdef uint32_t above
    if at == agenda.capacity and not _grow(agenda):
        return
    event.time_us, event.order, event.kind, event.index, event.serial = time_us, agenda.order, kind, index, serial
    agenda.order += 1
    agenda.count += 1
    while at > 0:
        above = (at - 1) >> 1
        if not _before(&event, &agenda.heap[above]):
            break
        agenda.heap[at] = agenda.heap[above]
        at = above
    agenda.heap[at] = event


cdef bint agenda_take(agenda_t* agenda, event_t* event) noexcept nogil:
    cdef uint32_t at = 0, below
    cdef event_t* last
    if agenda.count == 0:
        return False
    event[0] = agenda.heap[0]
    agenda.count -= 1
    last = &agenda.heap[agenda.count]
    while True:
        below = 2 * at + 1
        if below >= agenda.count:
            break
        if below + 1 < agenda.count and _before(&agenda.heap[below + 1], &agenda.heap[below]):
            below += 1
        if not _before(&agenda.heap[below], last):
            break
        agenda.heap[at] = agenda.heap[below]
        at = below
    agenda.heap[at] = last[0]
    return True


cdef void agenda_free(agenda_t* agenda) noexcept nogil:
    free(agenda.heap)
    memset(agenda, 0, sizeof(agenda_t))


def in_order(times_us):
    """The indices of `times_us` as the agenda hands them out: for tests."""
    cdef agenda_t agenda
    cdef event_t event
    memset(&agenda, 0, sizeof(agenda))
    for index, time_us in enumerate(times_us):
        agenda_add(&agenda, time_us, 0, index, 0)
    found = []
    while agenda_take(&agenda, &event):
        found.append(event.index)
    agenda_free(&agenda)
    return found

"""One coarse timer wheel for every timeout of a worker."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    WHEEL_SLOT_COUNT = 512
    WHEEL_TICK_US = 8192             # timeouts are late by at most one tick and never early

cdef struct timer_node_t:            # embedded in its owner; zero-filled is a timer that is not armed
    timer_node_t* next
    timer_node_t* prev
    uint64_t due_us

cdef struct wheel_t:
    timer_node_t slots[512]          # WHEEL_SLOT_COUNT list heads
    timer_node_t due                 # timers found due and not yet handed out
    uint64_t tick                    # ticks before this one have been visited
    uint32_t armed_count

cdef void wheel_begin(wheel_t* wheel, uint64_t now_us) noexcept nogil
cdef void wheel_arm(wheel_t* wheel, timer_node_t* timer, uint64_t due_us) noexcept nogil      # re-arms when armed
cdef void wheel_cancel(wheel_t* wheel, timer_node_t* timer) noexcept nogil
# disarmed and returned one by one; NULL: no more
cdef timer_node_t* wheel_next_due(wheel_t* wheel, uint64_t now_us) noexcept nogil
# until something could be due; -1: nothing armed
cdef int wheel_wait_ms(wheel_t* wheel, uint64_t now_us) noexcept nogil

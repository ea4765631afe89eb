"""A hashed timer wheel (Varghese and Lauck, scheme 6): arming and cancelling are O(1) list operations on nodes that
their owners embed.

Owners arm a timer once for the earliest deadline they could have and, when it fires, look whether the deadline has
moved and arm it again: activity on a stream then costs no timer operation at all. Invariant: a timer fires at most
once per arming, never early.
"""

from libc.stdint cimport uint64_t

cdef inline void unlink(timer_node_t* timer) noexcept nogil:
    timer.prev.next = timer.next
    timer.next.prev = timer.prev
    timer.next = NULL
    timer.prev = NULL


cdef inline void append(timer_node_t* head, timer_node_t* timer) noexcept nogil:
    timer.prev = head.prev
    timer.next = head
    head.prev.next = timer
    head.prev = timer


cdef void wheel_begin(wheel_t* wheel, uint64_t now_us) noexcept nogil:
    cdef int index
    for index in range(WHEEL_SLOT_COUNT):
        wheel.slots[index].next = wheel.slots[index].prev = &wheel.slots[index]
    wheel.due.next = wheel.due.prev = &wheel.due
    wheel.tick = now_us // WHEEL_TICK_US
    wheel.armed_count = 0


cdef void wheel_arm(wheel_t* wheel, timer_node_t* timer, uint64_t due_us) noexcept nogil:
    cdef uint64_t tick = due_us // WHEEL_TICK_US + 1
    if timer.next != NULL:
        unlink(timer)
    else:
        wheel.armed_count += 1
    timer.due_us = due_us
    if tick < wheel.tick:
        tick = wheel.tick
    append(&wheel.slots[tick % WHEEL_SLOT_COUNT], timer)


cdef void wheel_cancel(wheel_t* wheel, timer_node_t* timer) noexcept nogil:
    if timer.next == NULL:
        return
    unlink(timer)
    wheel.armed_count -= 1


cdef timer_node_t* wheel_next_due(wheel_t* wheel, uint64_t now_us) noexcept nogil:
    cdef uint64_t now_tick = now_us // WHEEL_TICK_US
    cdef timer_node_t* head
    cdef timer_node_t* timer
    cdef timer_node_t* following
    while wheel.due.next == &wheel.due:
        if wheel.tick > now_tick:
            return NULL
        if now_tick - wheel.tick >= WHEEL_SLOT_COUNT:
            wheel.tick = now_tick - WHEEL_SLOT_COUNT + 1       # asleep for a whole turn: each slot is visited once
        head = &wheel.slots[wheel.tick % WHEEL_SLOT_COUNT]
        timer = head.next
        while timer != head:
            following = timer.next
            if timer.due_us <= now_us:                         # the others share the slot but are due in a later turn
                unlink(timer)
                append(&wheel.due, timer)
            timer = following
        wheel.tick += 1
    timer = wheel.due.next
    unlink(timer)
    wheel.armed_count -= 1
    return timer


cdef int wheel_wait_ms(wheel_t* wheel, uint64_t now_us) noexcept nogil:
    cdef uint64_t tick
    cdef int index
    if wheel.due.next != &wheel.due:
        return 0
    if wheel.armed_count == 0:
        return -1
    for index in range(WHEEL_SLOT_COUNT):
        tick = wheel.tick + index
        if wheel.slots[tick % WHEEL_SLOT_COUNT].next != &wheel.slots[tick % WHEEL_SLOT_COUNT]:
            if tick * WHEEL_TICK_US <= now_us:
                return 0
            return <int>((tick * WHEEL_TICK_US - now_us) // 1000 + 1)
    return -1


cdef class TimerScript:
    """A wheel under a virtual clock, for tests: arm and cancel by number, advance, see what fired."""

    cdef wheel_t wheel
    cdef timer_node_t timers[1024]
    cdef uint64_t now_us

    def __cinit__(self, uint64_t now_us=0):
        cdef int index
        self.now_us = now_us
        wheel_begin(&self.wheel, now_us)
        for index in range(1024):
            self.timers[index].next = self.timers[index].prev = NULL

    def arm(self, int number, uint64_t due_us):
        wheel_arm(&self.wheel, &self.timers[number], due_us)

    def cancel(self, int number):
        wheel_cancel(&self.wheel, &self.timers[number])

    def advance(self, uint64_t now_us):
        """Moves the clock and returns the numbers that fired, in firing order."""
        cdef timer_node_t* timer
        fired = []
        self.now_us = now_us
        while True:
            timer = wheel_next_due(&self.wheel, now_us)
            if timer == NULL:
                return fired
            fired.append(<int>(timer - &self.timers[0]))

    def armed_count(self):
        return self.wheel.armed_count

    def wait_ms(self):
        return wheel_wait_ms(&self.wheel, self.now_us)

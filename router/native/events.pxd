"""What the driver and the clock tell, turned into steps of the request path."""

from router.native.exchange cimport core_t

cdef void events_begin(core_t* core) noexcept nogil          # binds the path to core.driver
cdef void run_timers(core_t* core) noexcept nogil            # what is due; call after each batch of events

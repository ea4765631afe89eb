"""The epoll driver: moves the bytes of plain and TLS sockets for the sans-IO core."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from router.native.conn cimport conn_t
from router.native.epoll_state cimport epoll_driver_t

cdef enum:
    DRIVER_EVENTS_MAX = 256          # handled per wake, so that no storm starves the Python loop
    DRIVER_READ_BYTES = 65536        # one recv; also the most that one event can leave in a slow peer's `out`
    DRIVER_ACCEPTS_MAX = 64          # per listener and wake
    DRIVER_ACCEPT_PAUSE_US = 100000  # after EMFILE and its like: no busy loop, existing connections live

cdef int driver_begin(epoll_driver_t* driver) noexcept nogil
cdef void driver_end(epoll_driver_t* driver) noexcept nogil
# From now on driver_run(driver, -1) returns, and stay_is_over is set, after `length_us` at the latest; 0 takes that
# back.
cdef void driver_stay(epoll_driver_t* driver, uint32_t length_us) noexcept nogil
# Handles what is ready within `timeout_ms` (-1: no bound); returns how many events that were.
cdef int driver_run(epoll_driver_t* driver, int timeout_ms) noexcept nogil
cdef void driver_stop_accepting(epoll_driver_t* driver, conn_t* listener) noexcept nogil
cdef uint64_t monotonic_us() noexcept nogil

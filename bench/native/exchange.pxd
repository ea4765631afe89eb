"""A mock engine's exchange: request in, answer out, and every fault on demand in between."""

from bench.native.connection cimport conn_t, engine_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef void exchange_event(conn_t* conn, uint32_t events, uint64_t now_us) noexcept nogil    # epoll said so
cdef void exchange_token(conn_t* conn, uint64_t now_us) noexcept nogil                     # the step model made one
cdef void exchange_wake(conn_t* conn, uint64_t now_us) noexcept nogil                      # wake_us has come
# Replace the faults of an engine by those of a list (commas or line ends); False, no change: one is malformed.
cdef bint engine_set_faults(engine_t* engine, const uint8_t* text, size_t size, uint64_t now_us) noexcept nogil

"""Access-log lines, written as bytes by native code into a bounded buffer."""

from libc.stdint cimport uint64_t
from router.native.exchange cimport core_t, exchange_t

cdef void log_exchange(core_t* core, const exchange_t* x, int cause) noexcept nogil

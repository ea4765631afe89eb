"""Connections that stop being HTTP, or stop being ours: bytes pass both ways and nobody looks at them."""

from libc.stdint cimport uint8_t
from router.native.conn cimport conn_t
from router.native.exchange cimport core_t, downstream_t, exchange_t

# After a 101: `head_length` bytes of core.compose and what followed the head go down; both sides are then a tunnel.
cdef void begin_tunnel(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data, size_t size) noexcept nogil
cdef void pass_through(core_t* core, exchange_t* x, conn_t* target, conn_t* source, const uint8_t* data,
                       size_t size) noexcept nogil
# The connection becomes Python's, with the bytes received so far.
cdef void hand_over(core_t* core, downstream_t* down, const uint8_t* data, size_t size) noexcept nogil

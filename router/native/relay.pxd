"""The response body on its way to the client."""

from libc.stdint cimport uint8_t
from router.native.exchange cimport core_t, exchange_t

# Relays body bytes from data[0:size], after `head_length` bytes of core.compose (the response head, on the first call).
# `used` says how many were this message's. Returns a relay_result.
cdef int relay_feed(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data, size_t size,
                    size_t* used) noexcept nogil
# The upstream has ended: RELAY_DONE when its end is the body's, RELAY_BAD when the message was cut short.
cdef int relay_end(core_t* core, exchange_t* x) noexcept nogil

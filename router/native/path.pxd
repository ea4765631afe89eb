"""The request path, read top-down: from a client's bytes to the end of the exchange."""

from libc.stdint cimport uint8_t
from router.native.exchange cimport core_t, downstream_t, exchange_t

# Takes as many of the client's bytes as the phase allows; returns how many. The rest waits in the inbox.
cdef size_t advance(core_t* core, downstream_t* down, const uint8_t* data, size_t size) noexcept nogil
# the connection is there
cdef void send_request(core_t* core, exchange_t* x) noexcept nogil
# bytes before the final head
cdef void take_response(core_t* core, exchange_t* x, const uint8_t* data, size_t size) noexcept nogil
cdef void relay(core_t* core, exchange_t* x, size_t head_length, const uint8_t* data, size_t size) noexcept nogil
# the client does not take what it is sent: its endpoint waits
cdef void await_client(core_t* core, exchange_t* x) noexcept nogil
cdef void attempt_failed(core_t* core, exchange_t* x, int cause) noexcept nogil

"""Who is on the other end: addresses as text, and whether they are trusted to say for whom they speak."""

from libc.stdint cimport uint8_t, uint32_t
from router.native.exchange cimport network_t

# into PEER_BYTES; its length
cdef uint8_t peer_text(const void* address, uint8_t* text) noexcept nogil
cdef bint peer_is_trusted(const void* address, const network_t* networks, uint32_t count) noexcept nogil
# ValueError
cdef int network_parse(object cidr, network_t* network) except -1

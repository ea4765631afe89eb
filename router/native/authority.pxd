"""The authority of a request: `host[:port]` as a Host field, an absolute-form target and CONNECT carry it."""

from libc.stdint cimport uint8_t

# Whether text[0:size] is uri-host [":" port] with a host that is not empty; userinfo is never part of it.
# A port, where there is one, is 0 to 65535; `needs_port` asks for one that is not empty (CONNECT).
cdef bint authority_is_valid(const uint8_t* text, size_t size, bint needs_port) noexcept nogil

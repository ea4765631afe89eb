"""Which of the fields that the router acts on a field name is."""

from libc.stdint cimport uint8_t

# http1's field_id, FIELD_OTHER when it is none of them. name[0:size] is a token.
cdef uint8_t field_id_of(const uint8_t* name, size_t size) noexcept nogil

"""What a JSON scalar says once all its bytes are there: whether a string is plain text, what an integer is worth."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

# Whether a string's bytes are UTF-8 (RFC 3629) without controls, which is what JSON may hold unescaped.
cdef bint json_is_plain_text(const uint8_t* text, uint32_t length) noexcept nogil
# The value of an integer of up to 18 digits; False when it is longer, has a fraction or an exponent, or is no number.
cdef bint json_integer(const uint8_t* text, uint32_t length, int64_t* value) noexcept nogil

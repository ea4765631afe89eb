"""The value of a Date field (RFC 9110 5.6.7), written without the C library's locale and time zone."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    HTTP_DATE_BYTES = 29             # "Sun, 06 Nov 1994 08:49:37 GMT"

cdef void write_http_date(uint8_t* text, uint64_t epoch_s) noexcept nogil    # text[HTTP_DATE_BYTES]

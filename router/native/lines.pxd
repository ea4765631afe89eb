"""Where the lines of a head end, found 64 octets at a time; CRLF is the only line end there is (RFC 9112 2.2)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    LINES_MAX = 130                  # of a head: start line, 128 fields, blank line

cdef struct lines_t:
    uint32_t count                   # stops growing at the first block that takes it past LINES_MAX
    bint has_controls                # other than CR, LF and HTAB, somewhere in the text
    uint32_t ends[194]               # LINES_MAX and a block of 64 more: where each line's CR is

# Where the first empty line of buffer[0:limit] ends, 0 when there is none yet, -1 when a NUL or a CR or LF outside CRLF
# stands before it. Octets before `position` have been judged by an earlier call.
cdef int64_t find_blank_line(const uint8_t* buffer, size_t position, size_t limit) noexcept nogil
# Lists the lines of a whole head; False when a CR or LF stands outside CRLF, or the last line does not end.
cdef bint index_lines(const uint8_t* buffer, size_t length_bytes, lines_t* lines) noexcept nogil

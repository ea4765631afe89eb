"""The chunked transfer coding by RFC 9112 7.1: a resumable machine that takes a body in any pieces and copies none of
it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CHUNK_LINE_BYTES_MAX = 4096      # a size line with its extension and CRLF; senders in the wild stay under 100
    CHUNK_TRAILER_BYTES_MAX = 8192   # a trailer section without its blank line; as much as a small head

cdef enum chunk_event:
    CHUNK_NEED_MORE = 0              # every byte consumed
    CHUNK_DATA = 1                   # data_offset, data_length say where in this feed
    CHUNK_LAST = 2                   # the zero-size line has just been consumed; trailers or the end follow
    CHUNK_TRAILER = 3                # data_offset, data_length: raw trailer-section bytes, checked octet by octet
    CHUNK_END = 4                    # the message is complete; bytes after `position` belong to the next one
    CHUNK_BAD = -1                   # and for ever: the place where the next message begins is lost

cdef struct chunk_t:                 # zero-filled is the start state
    uint64_t remaining_bytes         # of the current chunk's data; while its size line is read, the size so far
    uint32_t line_bytes              # of the current size line, bounded
    uint32_t trailer_bytes           # of the trailer section so far, bounded
    uint8_t state
    uint8_t digits                   # hex digits of the size read so far

# Advances `position` over data[position:size] and returns the next chunk_event.
cdef int chunk_next(chunk_t* chunk, const uint8_t* data, size_t size, size_t* position,
                    size_t* data_offset, size_t* data_length) noexcept nogil

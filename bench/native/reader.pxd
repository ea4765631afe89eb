"""Reads one HTTP/1.1 message as it arrives, holding its body against a template."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    HEAD_BYTES_MAX = 8192            # LiteLLM answers with about 3 KiB of head

cdef enum read_phase:
    READ_HEAD = 0
    READ_LENGTH                      # a body of known length
    READ_CHUNK_SIZE
    READ_CHUNK_DATA
    READ_CHUNK_END
    READ_TRAILER
    READ_TO_CLOSE
    READ_DONE
    READ_BROKEN                      # not HTTP/1.1 as this reader knows it

cdef struct template_t:              # what a body must be
    const char* body                 # one answer, or one event of a stream, repeated
    uint32_t body_bytes
    const char* last                 # what a stream ends with; NULL: the body comes exactly once
    uint32_t last_bytes

cdef struct reader_t:
    uint8_t phase
    uint8_t is_response
    uint8_t keeps_alive
    uint8_t is_get
    uint8_t newline_before           # the payload's last byte was a line feed
    uint8_t in_last                  # the payload has come to the template's `last`
    uint8_t is_changed               # the payload differs from the template
    uint8_t head_new                 # a head is complete that nobody has looked at
    uint32_t head_bytes
    uint32_t status
    uint32_t event_count             # blank lines seen in the payload: SSE events
    uint32_t place                   # in the template's current part
    uint64_t left_bytes              # of the body or chunk
    uint64_t payload_bytes
    template_t* template
    char head[HEAD_BYTES_MAX]

cdef void reader_reset(reader_t* self, bint is_response, template_t* template) noexcept nogil
cdef size_t reader_feed(reader_t* self, const char* data, size_t size_bytes) noexcept nogil  # bytes taken
cdef bint reader_at_end_of_stream(reader_t* self) noexcept nogil     # a connection's close here ends the message well
cdef bint reader_is_whole(reader_t* self) noexcept nogil             # done, and the payload is the template's, entire

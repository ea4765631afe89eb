"""Finds where a JSON string, array or object ends, 64 bytes in a step, without looking at what it holds.

Resumable at any byte; nothing outside [begin, end) is read. Brackets are counted, not matched: on valid JSON the end
is exact.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef struct json_skip_t:             # zero-filled is the start state of a string; of a nested value with depth 1
    uint32_t depth                   # open brackets of the value
    uint8_t in_string                # inside a string of an array or object
    uint8_t escape_pending           # the last byte was an escaping backslash
    uint8_t has_ended
    uint8_t is_too_deep              # depth has reached depth_max

# Both begin after the opening quote or bracket and return the place after the closing one, has_ended set, or `end`.
# `begin` is the start of the piece.
cdef const uint8_t* json_skip_string(
    json_skip_t* skip, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil
cdef const uint8_t* json_skip_nested(
    json_skip_t* skip, const uint8_t* begin, const uint8_t* p, const uint8_t* end, uint32_t depth_max
) noexcept nogil

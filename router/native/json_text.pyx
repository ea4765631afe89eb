"""Strings and integers of json_text.pxd.

Neighbours: body.pyx asks about the few values routing needs; tests/unit/test_body.py has the cases, by way of whole
bodies.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    INTEGER_DIGITS_MAX = 18          # always fits int64


cdef bint json_is_plain_text(const uint8_t* text, uint32_t length) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t follow
    cdef uint8_t unusual = 0
    cdef uint8_t c, low, high
    for i in range(length):
        unusual |= (text[i] < 0x20) | (text[i] >> 7)
    if not unusual:
        return True
    i = 0
    while i < length:
        c = text[i]
        i += 1
        if c < 0x20:
            return False
        if c < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= c <= 0xDF:
            follow = 1
        elif 0xE0 <= c <= 0xEF:
            follow = 2
            if c == 0xE0:
                low = 0xA0                                       # shorter forms exist
            elif c == 0xED:
                high = 0x9F                                      # surrogates
        elif 0xF0 <= c <= 0xF4:
            follow = 3
            if c == 0xF0:
                low = 0x90
            elif c == 0xF4:
                high = 0x8F                                      # over U+10FFFF
        else:
            return False
        for _ in range(follow):
            if i >= length or text[i] < low or text[i] > high:
                return False
            low = 0x80
            high = 0xBF
            i += 1
    return True


cdef bint json_integer(const uint8_t* text, uint32_t length, int64_t* value) noexcept nogil:
    cdef bint negative = length > 0 and text[0] == c"-"
    cdef uint32_t first = 1 if negative else 0
    cdef uint32_t i
    cdef int64_t size = 0
    if length - first == 0 or length - first > INTEGER_DIGITS_MAX or (text[first] == c"0" and length - first > 1):
        return False
    for i in range(first, length):
        if text[i] < c"0" or text[i] > c"9":
            return False
        size = size * 10 + (text[i] - c"0")
    value[0] = -size if negative else size
    return True

"""The value of a Date field (RFC 9110 5.6.7: IMF-fixdate), from seconds since 1970.

Invariant: no clock is read and nothing is kept; a few nanoseconds, spent only where a message has no date yet.
Neighbour: `rewrite`, which adds the field to answers that lack it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    DAY_S = 86400
    ERA_DAYS = 146097                # 400 years, after which the calendar repeats
    DAYS_BEFORE_1970 = 719468        # from 1 March of the year 0, where eras begin

cdef const char* DAY_NAMES = b"SunMonTueWedThuFriSat"
cdef const char* MONTH_NAMES = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef inline void put_two(uint8_t* text, uint32_t value) noexcept nogil:
    text[0] = 48 + value // 10
    text[1] = 48 + value % 10


cdef void write_http_date(uint8_t* text, uint64_t epoch_s) noexcept nogil:
    # Years are counted from March, so that the leap day is a year's last (H. Hinnant, chrono-compatible date
    # algorithms).
    cdef uint64_t days = epoch_s // DAY_S
    cdef uint32_t second = <uint32_t>(epoch_s % DAY_S)
    cdef uint64_t era = (days + DAYS_BEFORE_1970) // ERA_DAYS
    cdef uint32_t day_of_era = <uint32_t>((days + DAYS_BEFORE_1970) % ERA_DAYS)
    cdef uint32_t year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef uint32_t day = day_of_era - (365 * year + year // 4 - year // 100)
    cdef uint32_t month = (5 * day + 2) // 153
    day = day - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = <uint32_t>(year + era * 400 + (month <= 2))
    memcpy(text, b"Day, 00 Mon 0000 00:00:00 GMT", HTTP_DATE_BYTES)
    memcpy(text, DAY_NAMES + 3 * ((days + 4) % 7), 3)            # 1 January 1970 was a Thursday
    put_two(text + 5, day)
    memcpy(text + 8, MONTH_NAMES + 3 * (month - 1), 3)
    put_two(text + 12, year // 100 % 100)
    put_two(text + 14, year % 100)
    put_two(text + 17, second // 3600)
    put_two(text + 20, second // 60 % 60)
    put_two(text + 23, second % 60)


# The tests' door.

def http_date(epoch_s: int) -> bytes:
    cdef uint8_t text[HTTP_DATE_BYTES]
    write_http_date(text, epoch_s)
    return text[:HTTP_DATE_BYTES]

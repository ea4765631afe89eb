"""Reads load reports: `TEXT name=number, ...` or `JSON {"name": number, ...}` (ORCA, Open Request Cost Aggregation).

vLLM puts `num_requests_waiting` and `kv_cache_usage_perc` among its named metrics, Triton with TensorRT-LLM
`kv_cache_utilization`; in TEXT their names begin with `named_metrics.`, in JSON they stand in an object of that name.
Other names pass unread, as does the binary form. Invariant: a report counts as a whole or, if it is malformed, not at
all; no byte outside the text is read. Neighbours: path (has the field), signals (bounds and keeps the numbers).
"""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from router.native.json_skip cimport json_skip_nested, json_skip_string, json_skip_t
from router.native.octets cimport same_name
from router.native.signals cimport (
    SIGNAL_COUNT, SIGNAL_KV, SIGNAL_RUNNING, SIGNAL_UNREADABLE, SIGNAL_WAITING, SOURCE_HEADER, signal_table_t,
    signals_reject, signals_write,
)

cdef enum:
    DEPTH_MAX = 16                   # of what is skipped
    EXPONENT_MAX = 300
    QUOTE = 34
    COMMA = 44
    COLON = 58
    EQUALS = 61
    OPEN_BRACE = 123
    CLOSE_BRACE = 125
    OPEN_BRACKET = 91

cdef struct report_t:
    const uint8_t* at
    const uint8_t* end
    float values[6]                  # SIGNAL_COUNT
    uint8_t has[6]


cdef inline bint _names(const uint8_t* text, size_t size, const char* name, size_t name_size) noexcept nogil:
    return size == name_size and memcmp(text, name, name_size) == 0


cdef int _kind_of(const uint8_t* name, size_t size) noexcept nogil:
    """The signal of this name; -1: none."""
    if _names(name, size, b"num_requests_waiting", 20):
        return SIGNAL_WAITING
    if _names(name, size, b"num_requests_running", 20):
        return SIGNAL_RUNNING
    if _names(name, size, b"kv_cache_usage_perc", 19) or _names(name, size, b"kv_cache_utilization", 20):
        return SIGNAL_KV
    return -1


cdef inline void _skip_space(report_t* report) noexcept nogil:
    while report.at < report.end and (report.at[0] == 32 or report.at[0] == 9):
        report.at += 1


cdef inline bint _takes(report_t* report, uint8_t octet) noexcept nogil:
    _skip_space(report)
    if report.at < report.end and report.at[0] == octet:
        report.at += 1
        return True
    return False


cdef inline bint _takes_word(report_t* report, const char* word, size_t size) noexcept nogil:
    if <size_t>(report.end - report.at) >= size and same_name(report.at, word, size):
        report.at += size
        return True
    return False


cdef inline bint _is_digit(const report_t* report) noexcept nogil:
    return report.at < report.end and 48 <= report.at[0] <= 57


cdef bint _take_number(report_t* report, float* number) noexcept nogil:
    """A JSON number, or what Python's json writes for those that JSON has not; False: it is none."""
    cdef double value = 0, scale = 1
    cdef int exponent = 0, sign = 1
    cdef bint negative = report.at < report.end and report.at[0] == 45, has_digits = False
    if negative:
        report.at += 1
    if _takes_word(report, b"nan", 3):
        number[0] = NAN
        return True
    if _takes_word(report, b"infinity", 8) or _takes_word(report, b"inf", 3):
        number[0] = -INFINITY if negative else INFINITY
        return True
    while _is_digit(report):
        value = value * 10 + (report.at[0] - 48)
        has_digits = True
        report.at += 1
    if report.at < report.end and report.at[0] == 46:
        report.at += 1
        while _is_digit(report):
            scale *= 0.1
            value += (report.at[0] - 48) * scale
            has_digits = True
            report.at += 1
    if not has_digits:
        return False
    if report.at < report.end and report.at[0] | 32 == 101:
        report.at += 1
        if report.at < report.end and (report.at[0] == 43 or report.at[0] == 45):
            sign = -1 if report.at[0] == 45 else 1
            report.at += 1
        if not _is_digit(report):
            return False
        while _is_digit(report):
            exponent = min(exponent * 10 + (report.at[0] - 48), <int>EXPONENT_MAX)
            report.at += 1
        while exponent:
            value = value * 10 if sign > 0 else value / 10
            exponent -= 1
    number[0] = <float>(-value if negative else value)
    return True


cdef inline void _keep(report_t* report, int kind, float number) noexcept nogil:
    report.values[kind] = number
    report.has[kind] = True


cdef bint _read_text(report_t* report) noexcept nogil:
    cdef const uint8_t* name
    cdef size_t size
    cdef float number = 0
    cdef int kind
    while True:
        _skip_space(report)
        name = report.at
        while report.at < report.end and report.at[0] != EQUALS and report.at[0] != COMMA:
            report.at += 1
        size = report.at - name
        if size >= 14 and memcmp(name, b"named_metrics.", 14) == 0:
            name += 14
            size -= 14
        if size == 0 or not _takes(report, EQUALS):
            return False
        kind = _kind_of(name, size)
        _skip_space(report)
        if kind >= 0:
            if not _take_number(report, &number):
                return False
            _keep(report, kind, number)
        else:
            while report.at < report.end and report.at[0] != COMMA:
                report.at += 1
        _skip_space(report)
        if report.at == report.end:
            return True
        if not _takes(report, COMMA):
            return False


cdef bint _skip_value(report_t* report) noexcept nogil:
    cdef json_skip_t skip
    cdef const uint8_t* begin = report.at
    memset(&skip, 0, sizeof(skip))
    if report.at == report.end:
        return False
    if report.at[0] == QUOTE:
        report.at = json_skip_string(&skip, report.at + 1, report.at + 1, report.end)
        return skip.has_ended
    if report.at[0] == OPEN_BRACE or report.at[0] == OPEN_BRACKET:
        skip.depth = 1
        report.at = json_skip_nested(&skip, report.at + 1, report.at + 1, report.end, DEPTH_MAX)
        return skip.has_ended and not skip.is_too_deep
    while report.at < report.end and report.at[0] != COMMA and report.at[0] != CLOSE_BRACE:
        report.at += 1
    return report.at > begin


cdef bint _read_members(report_t* report, bint is_named) noexcept nogil:
    """The members of an object behind its brace; of the outer one, those of `named_metrics` as well."""
    cdef json_skip_t skip
    cdef const uint8_t* name
    cdef size_t size
    cdef float number = 0
    cdef int kind
    if _takes(report, CLOSE_BRACE):
        return True
    while True:
        if not _takes(report, QUOTE):
            return False
        name = report.at
        memset(&skip, 0, sizeof(skip))
        report.at = json_skip_string(&skip, report.at, report.at, report.end)
        if not skip.has_ended:
            return False
        size = report.at - name - 1
        if not _takes(report, COLON):
            return False
        _skip_space(report)
        kind = _kind_of(name, size)
        if kind >= 0:
            if not _take_number(report, &number):
                return False
            _keep(report, kind, number)
        elif not is_named and _names(name, size, b"named_metrics", 13):
            if not _takes(report, OPEN_BRACE) or not _read_members(report, True):
                return False
        elif not _skip_value(report):
            return False
        if _takes(report, CLOSE_BRACE):
            return True
        if not _takes(report, COMMA):
            return False


cdef bint _read(report_t* report, const uint8_t* text, size_t size) noexcept nogil:
    cdef bint is_whole = False
    cdef int kind
    cdef uint8_t found = 0
    memset(report, 0, sizeof(report_t))
    if size > LOAD_REPORT_BYTES_MAX or size < 5 or text[4] != 32:
        return False
    report.at = text + 5
    report.end = text + size
    if memcmp(text, b"TEXT", 4) == 0:
        is_whole = _read_text(report)
    elif memcmp(text, b"JSON", 4) == 0:
        is_whole = _takes(report, OPEN_BRACE) and _read_members(report, False)
        _skip_space(report)
    for kind in range(SIGNAL_COUNT):
        found |= report.has[kind]
    return is_whole and found and report.at == report.end


cdef void load_report_take(
    signal_table_t* table, uint32_t slot, const uint8_t* text, size_t size, uint64_t now_us
) noexcept nogil:
    cdef report_t report
    cdef int kind
    if not _read(&report, text, size):
        signals_reject(table, SOURCE_HEADER, SIGNAL_UNREADABLE)
        return
    for kind in range(SIGNAL_COUNT):
        if report.has[kind]:
            signals_write(table, slot, kind, report.values[kind], now_us, SOURCE_HEADER, now_us)


def read_report(bytes text):
    """(waiting, running, kv) as a report says them, None where it does not; None: it cannot be read. For tests."""
    cdef report_t report
    if not _read(&report, text, len(text)):
        return None
    return tuple([report.values[<int>kind] if report.has[<int>kind] else None
                  for kind in (SIGNAL_WAITING, SIGNAL_RUNNING, SIGNAL_KV)])

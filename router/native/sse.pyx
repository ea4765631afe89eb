"""The response meter: see sse.pxd for what it promises.

Two machines, one inside the other. The line machine splits the stream into fields and events (WHATWG HTML,
"Server-sent events", 9.2.5-6). The JSON machine sees the bytes of data lines only: it looks for the key "usage" (or
llama.cpp's "timings"), sixteen bytes in a step, and reads the integers of that object byte by byte as they pass.

Why a bare search finds the right key: inside a JSON string every quote has a backslash before it, so the bytes
`"usage"` with no backslash before their first quote are a whole string, and a colon after it makes it a key. Which
object it is a key of is not looked at: the streams met have it at the top (OpenAI, Anthropic message_delta), in
`response` (Responses) or in `message` (message_start). A key spelled with escapes is not found; no engine writes one.
Neighbours: tests/oracle/sse.py is the slow, obvious reading.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from * nogil:
    """
    #include <stdint.h>
    #define FL_LOOKAHEAD 18     /* 16 places, and the two bytes after each */

    #if defined(__SSE2__)
    #include <emmintrin.h>
    static inline __m128i fl_equal(__m128i bytes, char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); }
    static inline uint32_t fl_stops_at(const uint8_t* p, __m128i control_max) {
        __m128i first = _mm_loadu_si128((const __m128i*) p);
        __m128i second = _mm_loadu_si128((const __m128i*) (p + 1));
        __m128i third = _mm_loadu_si128((const __m128i*) (p + 2));
        __m128i us = _mm_and_si128(fl_equal(second, 'u'), fl_equal(third, 's'));
        __m128i ti = _mm_and_si128(fl_equal(second, 't'), fl_equal(third, 'i'));
        __m128i key = _mm_and_si128(fl_equal(first, '"'), _mm_or_si128(us, ti));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(first, control_max), first);
        return (uint32_t) _mm_movemask_epi8(_mm_or_si128(key, control));
    }
    #endif

    /* The first place at or after p that may begin one of the keys, or holds a byte <= control_max (CR and LF among
       them), or whose two following bytes are not both before `end`: such a place is for the byte machine. `begin` is
       where reading back is allowed from: the short rest is looked at together with bytes before it. */
    static inline const uint8_t* fl_find_stop(
        const uint8_t* begin, const uint8_t* p, const uint8_t* end, uint8_t control_max
    ) {
    #if defined(__SSE2__)
        __m128i bound = _mm_set1_epi8((char) control_max);
        for (; end - p >= FL_LOOKAHEAD; p += 16) {
            uint32_t mask = fl_stops_at(p, bound);
            if (mask) return p + __builtin_ctz(mask);
        }
        if (end - begin >= FL_LOOKAHEAD && end - p > 2) {
            const uint8_t* last = end - FL_LOOKAHEAD;
            uint32_t mask = fl_stops_at(last, bound) & ((uint32_t) 0xFFFF << (p - last)) & 0xFFFF;
            return mask ? last + __builtin_ctz(mask) : end - 2;
        }
    #else
        (void) begin;
        while (end - p > 2 && *p > control_max && *p != '"') p++;
    #endif
        return p;
    }
    """
    const uint8_t* fl_find_stop(const uint8_t* begin, const uint8_t* p, const uint8_t* end, uint8_t control_max)


cdef enum line_state:
    LINE_START = 0
    IN_FIELD_NAME = 1
    AFTER_COLON = 2                  # one space may follow; text says which field
    IN_DATA = 3
    IN_EVENT_NAME = 4
    IN_OTHER = 5                     # a comment, or a field nobody here reads

cdef enum json_state:
    SEEK = 0                         # for the quote that begins a key looked for
    SEEN_QUOTE = 1
    IN_USAGE_KEY = 2                 # `matched` bytes of "usage"
    IN_TIMINGS_KEY = 3
    AT_KEY_COLON = 4
    AT_OBJECT = 5                    # the key's value begins
    IN_OBJECT = 6                    # from here on inside the usage object
    IN_STRING = 7
    IN_STRING_ESCAPE = 8
    AFTER_STRING = 9                 # a colon makes it a key
    AT_VALUE = 10
    IN_NUMBER = 11

cdef enum usage_key:
    KEY_OTHER = 0
    KEY_PROMPT = 1
    KEY_COMPLETION = 2
    KEY_CACHED = 3
    KEY_DETAILS = 4                  # an object that may hold cached_tokens
    KEY_EVALUATED = 5                # llama.cpp: prompt tokens not found in its cache

cdef enum event_kind:
    EVENT_ORDINARY = 0
    EVENT_ERROR = 1
    EVENT_LAST = 2
    EVENT_FAILED = 3                 # error and last

cdef enum meter_flag:
    AFTER_CR = 1                     # a LF now belongs to the line end before it
    HAS_DATA = 2                     # the event has a data line
    IS_DONE_MARK = 4                 # its data begins with [DONE]
    IN_TIMINGS = 8                   # the object is llama.cpp's timings, not usage
    IN_DETAILS = 16
    HAS_EVALUATED = 32               # this timings object gave prompt_n
    USAGE_SEEN = 64                  # a usage object has spoken: timings are not asked any more

cdef enum:
    TEXT_BYTES = 24                  # sizeof sse_private_t.text; the longest key, cache_read_input_tokens, has 23
    TEXT_TOO_LONG = 255
    HEAD_BYTES = 10                  # {"error":x
    NUMBER_MAX = 99999999999999999   # 17 digits; more is no token count
    DEPTH_MAX = 250                  # a usage object this deep is not one
    CONTROL_MAX = 0x0D               # LF and CR, and a few that JSON never holds unescaped

cdef const char* USAGE_KEY = "usage\""
cdef const char* TIMINGS_KEY = "timings\""


cdef void sse_meter_begin(sse_meter_t* meter, int mode) noexcept nogil:
    memset(meter, 0, sizeof(sse_meter_t))
    meter.mode = <uint8_t> mode
    meter.prompt_tokens = -1
    meter.completion_tokens = -1
    meter.cached_tokens = -1


# --- the JSON machine -------------------------------------------------------------------------------------------------

cdef int name_usage_key(sse_private_t* state) noexcept nogil:
    cdef const uint8_t* text = state.text
    cdef uint32_t length = state.text_length
    if state.depth == 2:
        if state.flags & IN_DETAILS and length == 13 and memcmp(text, b"cached_tokens", 13) == 0:
            return KEY_CACHED
        return KEY_OTHER
    if state.depth != 1:
        return KEY_OTHER
    if state.flags & IN_TIMINGS:
        if length == 8 and memcmp(text, b"prompt_n", 8) == 0:
            return KEY_EVALUATED
        if length == 11 and memcmp(text, b"predicted_n", 11) == 0:
            return KEY_COMPLETION
        if length == 7 and memcmp(text, b"cache_n", 7) == 0:
            return KEY_CACHED
        return KEY_OTHER
    if length == 12 and memcmp(text, b"input_tokens", 12) == 0:
        return KEY_PROMPT
    if length == 13:
        if memcmp(text, b"prompt_tokens", 13) == 0:
            return KEY_PROMPT
        if memcmp(text, b"output_tokens", 13) == 0:
            return KEY_COMPLETION
    elif length == 17 and memcmp(text, b"completion_tokens", 17) == 0:
        return KEY_COMPLETION
    elif length == 20 and memcmp(text, b"input_tokens_details", 20) == 0:
        return KEY_DETAILS
    elif length == 21 and memcmp(text, b"prompt_tokens_details", 21) == 0:
        return KEY_DETAILS
    elif length == 23 and memcmp(text, b"cache_read_input_tokens", 23) == 0:
        return KEY_CACHED
    return KEY_OTHER


cdef void end_number(sse_meter_t* meter) noexcept nogil:
    cdef sse_private_t* state = &meter.private_state
    state.json_state = IN_OBJECT
    if state.key == KEY_OTHER or state.key == KEY_DETAILS:
        return
    if state.flags & IN_TIMINGS:
        if state.flags & USAGE_SEEN:
            return                                               # timings only stand in for what the API promises
    else:
        state.flags |= USAGE_SEEN
    if state.key == KEY_CACHED:
        meter.cached_tokens = state.number
    elif state.key == KEY_COMPLETION:
        meter.completion_tokens = state.number
    else:
        meter.prompt_tokens = state.number
        if state.key == KEY_EVALUATED:
            state.flags |= HAS_EVALUATED
    meter.has_usage = 1


cdef void end_object(sse_meter_t* meter) noexcept nogil:
    cdef sse_private_t* state = &meter.private_state
    state.json_state = SEEK
    # llama.cpp's prompt_n leaves out what its cache held; everyone else's prompt_tokens has it in.
    if state.flags & HAS_EVALUATED and meter.cached_tokens > 0:
        meter.prompt_tokens += meter.cached_tokens
    state.flags &= ~(IN_TIMINGS | IN_DETAILS | HAS_EVALUATED)


cdef inline bint is_space(uint8_t c) noexcept nogil:
    return c == c" " or c == c"\n" or c == c"\r" or c == c"\t"


cdef void step_in_object(sse_meter_t* meter, uint8_t c) noexcept nogil:
    """One byte inside the usage object, strings and digits left to the runs below."""
    cdef sse_private_t* state = &meter.private_state
    if state.json_state == IN_STRING:
        state.text_length = TEXT_TOO_LONG                        # a control
        return
    if state.json_state == IN_STRING_ESCAPE:
        state.json_state = IN_STRING
        return
    if state.json_state == IN_NUMBER:
        if c == c"." or c == c"e" or c == c"E" or c == c"+" or c == c"-":
            state.key = KEY_OTHER                                # not an integer
            return
        end_number(meter)
    elif state.json_state == AFTER_STRING:
        if is_space(c):
            return
        state.json_state = IN_OBJECT
        if c == c":":
            state.key = <uint8_t> name_usage_key(state)
            state.json_state = AT_VALUE
            return
    elif state.json_state == AT_VALUE:
        if is_space(c):
            return
        state.json_state = IN_OBJECT
        if c"0" <= c <= c"9":
            state.json_state = IN_NUMBER
            state.number = c - c"0"
            return
        if c == c"{" and state.key == KEY_DETAILS:
            state.flags |= IN_DETAILS
    # IN_OBJECT: between tokens
    if c == c'"':
        state.json_state = IN_STRING
        state.text_length = 0
    elif c == c"{" or c == c"[":
        state.depth += 1
        if state.depth == DEPTH_MAX:
            end_object(meter)
    elif c == c"}" or c == c"]":
        state.depth -= 1
        if state.depth == 0:
            end_object(meter)
        elif state.depth == 1:
            state.flags &= ~IN_DETAILS


cdef inline const uint8_t* read_string(sse_private_t* state, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Every string is kept as if it were a key; only a colon after it makes it one."""
    cdef const uint8_t* first = p
    while p < end and p[0] != c'"' and p[0] != c"\\" and p[0] >= c" ":
        p += 1
    if state.text_length + (p - first) > TEXT_BYTES:
        state.text_length = TEXT_TOO_LONG
    else:
        memcpy(state.text + state.text_length, first, <size_t> (p - first))
        state.text_length += <uint8_t> (p - first)
    if p == end or p[0] < c" ":
        return p                                                 # a control may be the line's end: the caller's
    if p[0] == c'"':
        state.json_state = AFTER_STRING
    else:
        state.text_length = TEXT_TOO_LONG
        state.json_state = IN_STRING_ESCAPE
    return p + 1


cdef inline const uint8_t* read_digits(sse_private_t* state, const uint8_t* p, const uint8_t* end) noexcept nogil:
    while p < end and c"0" <= p[0] <= c"9":
        state.number = state.number * 10 + (p[0] - c"0")
        if state.number > <int64_t> NUMBER_MAX:
            state.number = 0
            state.key = KEY_OTHER
        p += 1
    return p


cdef inline const uint8_t* read_object(
    sse_meter_t* meter, const uint8_t* p, const uint8_t* end, bint in_lines
) noexcept nogil:
    """Inside the usage object: to its end, the line's or the piece's."""
    cdef sse_private_t* state = &meter.private_state
    while p < end and state.json_state >= IN_OBJECT:
        if in_lines and (p[0] == c"\n" or p[0] == c"\r"):
            break
        if state.json_state == IN_STRING and p[0] >= c" ":
            p = read_string(state, p, end)
            continue
        if state.json_state == IN_NUMBER:
            p = read_digits(state, p, end)
            if p == end or (in_lines and (p[0] == c"\n" or p[0] == c"\r")):
                break
        step_in_object(meter, p[0])
        p += 1
    return p


cdef inline void step_in_key(sse_private_t* state, uint8_t c, const char* key, int length) noexcept nogil:
    if c == <uint8_t> key[state.matched]:
        state.matched += 1
        if state.matched == length:
            state.json_state = AT_KEY_COLON
    else:
        state.json_state = SEEN_QUOTE if c == c'"' else SEEK


cdef inline void step_json(sse_private_t* state, uint8_t c, uint8_t before) noexcept nogil:
    """One byte of data on the way to the object; `before` is the byte before it."""
    if state.json_state == SEEK:
        if c == c'"' and before != c"\\":
            state.json_state = SEEN_QUOTE
    elif state.json_state == SEEN_QUOTE:
        state.matched = 1
        if c == c"u":
            state.json_state = IN_USAGE_KEY
        elif c == c"t":
            state.json_state = IN_TIMINGS_KEY
        elif c != c'"':
            state.json_state = SEEK
    elif state.json_state == IN_USAGE_KEY:
        step_in_key(state, c, USAGE_KEY, 6)
    elif state.json_state == IN_TIMINGS_KEY:
        step_in_key(state, c, TIMINGS_KEY, 8)
    else:                                                        # AT_KEY_COLON or AT_OBJECT
        if is_space(c):
            return
        if state.json_state == AT_KEY_COLON and c == c":":
            state.json_state = AT_OBJECT
        elif state.json_state == AT_OBJECT and c == c"{":
            state.json_state = IN_OBJECT
            state.depth = 1
            state.flags &= ~(IN_TIMINGS | IN_DETAILS | HAS_EVALUATED)
            if state.matched == 8:
                state.flags |= IN_TIMINGS
        else:
            state.json_state = SEEN_QUOTE if c == c'"' else SEEK


cdef inline const uint8_t* read_json(
    sse_meter_t* meter, const uint8_t* begin, const uint8_t* p, const uint8_t* end, bint in_lines
) noexcept nogil:
    """Takes data up to the line's end (when the data is `in_lines`) or to `end`, and returns where it stopped."""
    cdef sse_private_t* state = &meter.private_state
    cdef uint8_t control_max = CONTROL_MAX if in_lines else 0
    cdef uint8_t c
    while p < end:
        if state.json_state == SEEK:
            p = fl_find_stop(begin, p, end, control_max)
            # vLLM and OpenAI put this into every event of a stream that will have a usage.
            if end - p >= 12 and memcmp(p, b'"usage":null', 12) == 0:
                p += 12
                continue
            if p == end:
                break
        elif state.json_state >= IN_OBJECT:
            p = read_object(meter, p, end, in_lines)
            if p == end:
                break
        c = p[0]
        if in_lines and (c == c"\n" or c == c"\r"):
            return p
        if state.json_state >= IN_OBJECT:
            continue
        step_json(state, c, (p - 1)[0] if p > begin else state.last_byte)
        p += 1
    return p


cdef void read_head(sse_meter_t* meter, const uint8_t* p, const uint8_t* end, bint in_lines) noexcept nogil:
    """Looks at how the data begins, without taking it: [DONE], or an object whose first key is "error"."""
    cdef sse_private_t* state = &meter.private_state
    cdef uint8_t c
    if state.head_length == 0 and end - p >= 3 and p[0] == c"{" and p[1] == c'"' and p[2] != c"e":
        state.head_length = HEAD_BYTES
        return
    while p < end and state.head_length < HEAD_BYTES:
        c = p[0]
        p += 1
        if in_lines and (c == c"\n" or c == c"\r"):
            return
        if is_space(c) and (state.head_length == 0 or state.head_length >= 8
                            or (state.head_length == 1 and state.head[0] == c"{")):
            continue
        state.head[state.head_length] = c
        state.head_length += 1
        if state.head_length == 6 and memcmp(state.head, b"[DONE]", 6) == 0:
            meter.saw_done = 1
            state.flags |= IS_DONE_MARK
            state.head_length = HEAD_BYTES
            return
        if state.head_length == HEAD_BYTES and memcmp(state.head, b'{"error":', 9) == 0 and c != c"n":
            meter.saw_error = 1                                  # an error that is null is none


# --- the line machine -------------------------------------------------------------------------------------------------

cdef void begin_field(sse_private_t* state) noexcept nogil:
    """The field's name is in `text`; what follows is its value."""
    if state.text_length == 4 and memcmp(state.text, b"data", 4) == 0:
        state.flags |= HAS_DATA
        state.line_state = IN_DATA
    elif state.text_length == 5 and memcmp(state.text, b"event", 5) == 0:
        state.line_state = IN_EVENT_NAME
    else:
        state.line_state = IN_OTHER
    state.text_length = 0


cdef int name_event(sse_private_t* state) noexcept nogil:
    cdef const uint8_t* text = state.text
    cdef uint32_t length = state.text_length
    if length == 5 and memcmp(text, b"error", 5) == 0:
        return EVENT_ERROR
    if length == 12 and memcmp(text, b"message_stop", 12) == 0:
        return EVENT_LAST
    if length == 15 and memcmp(text, b"response.failed", 15) == 0:
        return EVENT_FAILED
    if length == 18 and memcmp(text, b"response.completed", 18) == 0:
        return EVENT_LAST
    if length == 19 and memcmp(text, b"response.incomplete", 19) == 0:
        return EVENT_LAST
    return EVENT_ORDINARY


cdef inline void keep_text(sse_private_t* state, uint8_t c) noexcept nogil:
    if state.text_length < TEXT_BYTES:
        state.text[state.text_length] = c
        state.text_length += 1
    else:
        state.text_length = TEXT_TOO_LONG


cdef inline uint32_t end_event(sse_meter_t* meter) noexcept nogil:
    """A blank line: 1 when it ended an event that counts."""
    cdef sse_private_t* state = &meter.private_state
    cdef uint32_t counts = 0
    if state.flags & HAS_DATA:
        counts = 0 if state.flags & IS_DONE_MARK else 1
        if state.event_kind == EVENT_ERROR or state.event_kind == EVENT_FAILED:
            meter.saw_error = 1
        if state.event_kind == EVENT_LAST or state.event_kind == EVENT_FAILED:
            meter.saw_done = 1
    state.event_kind = EVENT_ORDINARY
    state.flags &= AFTER_CR | USAGE_SEEN
    state.head_length = 0
    state.json_state = SEEK
    meter.event_count += counts
    return counts


cdef inline uint32_t end_line(sse_meter_t* meter) noexcept nogil:
    cdef sse_private_t* state = &meter.private_state
    if state.line_state == LINE_START:
        return end_event(meter)
    if state.line_state == IN_FIELD_NAME or state.line_state == AFTER_COLON:
        begin_field(state)                                       # an empty value, with a colon or without
    if state.line_state == IN_DATA:
        # Lines of one event are joined by line feeds: white space between tokens, and never part of a string.
        if state.json_state == IN_STRING or state.json_state == IN_STRING_ESCAPE:
            state.json_state = SEEK
        elif state.json_state >= IN_OBJECT:
            step_in_object(meter, c"\n")
        elif state.json_state != SEEK:
            step_json(state, c"\n", c"\n")
    elif state.line_state == IN_EVENT_NAME:
        state.event_kind = <uint8_t> name_event(state)
    state.line_state = LINE_START
    return 0


cdef uint32_t feed_lines(sse_meter_t* meter, const uint8_t* data, const uint8_t* end) noexcept nogil:
    cdef sse_private_t* state = &meter.private_state
    cdef const uint8_t* p = data
    cdef uint32_t ended = 0
    cdef uint8_t c
    while p < end:
        if state.line_state == IN_DATA:
            if state.head_length < HEAD_BYTES:
                read_head(meter, p, end, True)
            p = read_json(meter, data, p, end, True)
            if p == end:
                break
        c = p[0]
        if c == c"\n" or c == c"\r":
            if c == c"\r" or not state.flags & AFTER_CR:
                ended += end_line(meter)
            if c == c"\r":
                state.flags |= AFTER_CR
            else:
                state.flags &= ~AFTER_CR
            p += 1
            continue
        state.flags &= ~AFTER_CR
        if state.line_state == LINE_START:
            if end - p >= 7 and memcmp(p, b"data:", 5) == 0:
                state.flags |= HAS_DATA
                state.line_state = IN_DATA
                p += 6 if p[5] == c" " else 5
                continue
            state.text_length = 0
            state.line_state = IN_FIELD_NAME
        if state.line_state == IN_FIELD_NAME:
            if c == c":":
                state.line_state = AFTER_COLON
            else:
                keep_text(state, c)
        elif state.line_state == AFTER_COLON:
            begin_field(state)
            if c != c" ":
                continue
        elif state.line_state == IN_EVENT_NAME:
            keep_text(state, c)
        p += 1
    return ended


cdef uint32_t sse_meter_feed(sse_meter_t* meter, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t ended = 0
    if size == 0 or meter.mode == METER_OFF:
        return 0
    if meter.mode == METER_SSE:
        ended = feed_lines(meter, data, data + size)
    else:
        if meter.private_state.head_length < HEAD_BYTES:
            read_head(meter, data, data + size, False)
        read_json(meter, data, data, data + size, False)
    meter.private_state.last_byte = data[size - 1]
    return ended


# --- the door: tests and micro-benchmarks run the very code that requests run -----------------------------------------

cdef class SseMeter:
    """One response body being metered; counts are None until a usage object gave them."""
    cdef sse_meter_t meter

    def __cinit__(self, int mode=METER_SSE):
        sse_meter_begin(&self.meter, mode)

    def feed(self, bytes piece not None):
        # An exact copy on the heap, so that the address sanitizer sees any read outside it.
        cdef size_t size = len(piece)
        cdef uint8_t* copy = <uint8_t*> malloc(size if size else 1)
        cdef uint32_t ended
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const char*> piece, size)
        ended = sse_meter_feed(&self.meter, copy, size)
        free(copy)
        return ended

    @property
    def event_count(self):
        return self.meter.event_count

    @property
    def saw_done(self):
        return bool(self.meter.saw_done)

    @property
    def saw_error(self):
        return bool(self.meter.saw_error)

    @property
    def has_usage(self):
        return bool(self.meter.has_usage)

    @property
    def prompt_tokens(self):
        return self.meter.prompt_tokens if self.meter.prompt_tokens >= 0 else None

    @property
    def completion_tokens(self):
        return self.meter.completion_tokens if self.meter.completion_tokens >= 0 else None

    @property
    def cached_tokens(self):
        return self.meter.cached_tokens if self.meter.cached_tokens >= 0 else None


MODE_OFF, MODE_SSE, MODE_JSON = METER_OFF, METER_SSE, METER_JSON


def meter_struct_bytes():
    """The size of one sse_meter_t: one lives in every open stream."""
    return sizeof(sse_meter_t)


def meter_repeatedly(int mode, bytes piece not None, int times):
    """Feeds `piece` `times` over to one meter and returns its event count; for benchmarks."""
    cdef sse_meter_t meter
    cdef const uint8_t* data = <const uint8_t*> <const char*> piece
    cdef size_t size = len(piece)
    with nogil:
        sse_meter_begin(&meter, mode)
        for _ in range(times):
            sse_meter_feed(&meter, data, size)
    return meter.event_count

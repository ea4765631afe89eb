"""The block scanner behind json_skip.pxd: bit masks instead of branches, so that the cost hardly depends on the text.

A block of 64 bytes becomes four masks (quotes, backslashes, opening and closing brackets); bit i is byte i. Quotes
that an odd run of backslashes precedes are dropped, the running parity of the others says which bytes are inside
strings, and brackets outside strings are counted with one instruction each (the method of Langdale and Lemire,
"Parsing gigabytes of JSON per second", 2019). Blocks inside a string that hold neither quote nor backslash, where
most of a prompt is, take half of that.
Neighbours: body.pyx asks; the oracle of both is tests/oracle/body.py.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>

    static inline __m128i fl_load16(const uint8_t* p) { return _mm_loadu_si128((const __m128i*) p); }
    static inline __m128i fl_equal(__m128i bytes, char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); }
    static inline __m128i fl_string_stops(__m128i bytes) {
        return _mm_or_si128(fl_equal(bytes, '"'), fl_equal(bytes, 92));
    }
    static inline uint64_t fl_bits(__m128i a, __m128i b, __m128i c, __m128i d) {
        return (uint64_t) (uint32_t) (_mm_movemask_epi8(a) | _mm_movemask_epi8(b) << 16)
            | (uint64_t) (uint32_t) (_mm_movemask_epi8(c) | _mm_movemask_epi8(d) << 16) << 32;
    }
    #endif

    /* Which of a block's 64 bytes are what: bit i is byte i. 92 is the backslash. */
    typedef struct { uint64_t quotes, backslashes, opens, closes; } fl_marks_t;

    /* Over whole blocks that hold neither quote nor backslash. */
    static inline const uint8_t* fl_skip_plain_blocks(const uint8_t* p, const uint8_t* end) {
    #if defined(__SSE2__)
        for (; end - p >= 64; p += 64) {
            __m128i ab = _mm_or_si128(fl_string_stops(fl_load16(p)), fl_string_stops(fl_load16(p + 16)));
            __m128i cd = _mm_or_si128(fl_string_stops(fl_load16(p + 32)), fl_string_stops(fl_load16(p + 48)));
            if (_mm_movemask_epi8(_mm_or_si128(ab, cd))) break;
        }
    #else
        while (end - p >= 64 && !memchr(p, '"', 64) && !memchr(p, 92, 64)) p += 64;
    #endif
        return p;
    }

    static inline void fl_mark_quotes(fl_marks_t* marks, const uint8_t* p) {
    #if defined(__SSE2__)
        __m128i a = fl_load16(p), b = fl_load16(p + 16), c = fl_load16(p + 32), d = fl_load16(p + 48);
        marks->quotes = fl_bits(fl_equal(a, '"'), fl_equal(b, '"'), fl_equal(c, '"'), fl_equal(d, '"'));
        marks->backslashes = fl_bits(fl_equal(a, 92), fl_equal(b, 92), fl_equal(c, 92), fl_equal(d, 92));
    #else
        marks->quotes = marks->backslashes = 0;
        for (int i = 0; i < 64; i++) {
            marks->quotes |= (uint64_t) (p[i] == '"') << i;
            marks->backslashes |= (uint64_t) (p[i] == 92) << i;
        }
    #endif
    }

    static inline void fl_mark_brackets(fl_marks_t* marks, const uint8_t* p) {   /* [ and ] are { and } without 0x20 */
    #if defined(__SSE2__)
        __m128i fold = _mm_set1_epi8(0x20);
        __m128i a = _mm_or_si128(fl_load16(p), fold), b = _mm_or_si128(fl_load16(p + 16), fold);
        __m128i c = _mm_or_si128(fl_load16(p + 32), fold), d = _mm_or_si128(fl_load16(p + 48), fold);
        marks->opens = fl_bits(fl_equal(a, '{'), fl_equal(b, '{'), fl_equal(c, '{'), fl_equal(d, '{'));
        marks->closes = fl_bits(fl_equal(a, '}'), fl_equal(b, '}'), fl_equal(c, '}'), fl_equal(d, '}'));
    #else
        marks->opens = marks->closes = 0;
        for (int i = 0; i < 64; i++) {
            marks->opens |= (uint64_t) ((p[i] | 0x20) == '{') << i;
            marks->closes |= (uint64_t) ((p[i] | 0x20) == '}') << i;
        }
    #endif
    }

    #define FL_EVEN_BITS UINT64_C(0x5555555555555555)
    static inline int fl_first_bit(uint64_t bits) { return __builtin_ctzll(bits); }
    static inline uint32_t fl_count_bits(uint64_t bits) { return (uint32_t) __builtin_popcountll(bits); }
    """
    ctypedef struct fl_marks_t:
        uint64_t quotes, backslashes, opens, closes
    const uint8_t* fl_skip_plain_blocks(const uint8_t* p, const uint8_t* end)
    void fl_mark_quotes(fl_marks_t* marks, const uint8_t* p)
    void fl_mark_brackets(fl_marks_t* marks, const uint8_t* p)
    const uint64_t EVEN_BITS "FL_EVEN_BITS"
    int fl_first_bit(uint64_t bits)
    uint32_t fl_count_bits(uint64_t bits)

cdef enum:
    BLOCK_BYTES = 64


cdef inline void mark_rest(fl_marks_t* marks, const uint8_t* begin, const uint8_t* p, size_t size) noexcept nogil:
    """The marks of a piece's last bytes, fewer than a block: read with those before them, or copied if too few."""
    cdef uint8_t[BLOCK_BYTES] padded
    cdef size_t before = BLOCK_BYTES - size
    if <size_t> (p - begin) < before:
        memset(padded, 0, BLOCK_BYTES)
        memcpy(padded, p, size)
        fl_mark_quotes(marks, padded)
        fl_mark_brackets(marks, padded)
        return
    fl_mark_quotes(marks, p - before)
    fl_mark_brackets(marks, p - before)
    marks.quotes >>= before
    marks.backslashes >>= before
    marks.opens >>= before
    marks.closes >>= before


cdef inline uint64_t escaped_bytes(uint64_t backslashes, size_t size, uint8_t* pending) noexcept nogil:
    """Which bytes of a block follow an escaping backslash; `pending` carries one over from block to block.

    The byte after a run of backslashes is escaped when the run's length is odd, that is when it starts at an even place
    and ends at an odd one or the reverse; adding a run's start to it carries a bit to its end (the paper's section
    3.1.1). No branch depends on the text.
    """
    cdef uint64_t carried = pending[0]
    cdef uint64_t runs = backslashes & ~carried
    cdef uint64_t starts = runs & ~(runs << 1)
    cdef uint64_t even_starts = runs + (starts & EVEN_BITS)
    cdef uint64_t odd_starts = runs + (starts & ~EVEN_BITS)
    cdef uint64_t escaped = (even_starts & ~runs & ~EVEN_BITS) | (odd_starts & ~runs & EVEN_BITS)
    if size == BLOCK_BYTES:
        pending[0] = odd_starts < runs                           # carried out of the block: an odd run up to its end
    else:
        pending[0] = escaped >> size & 1
    return escaped | carried


cdef inline uint64_t running_parity(uint64_t bits) noexcept nogil:
    """Bit i is the parity of bits 0 to i: of quotes, whether byte i is inside a string or its opening quote."""
    bits ^= bits << 1
    bits ^= bits << 2
    bits ^= bits << 4
    bits ^= bits << 8
    bits ^= bits << 16
    return bits ^ (bits << 32)


cdef const uint8_t* json_skip_nested(
    json_skip_t* skip, const uint8_t* begin, const uint8_t* p, const uint8_t* end, uint32_t depth_max
) noexcept nogil:
    """To just after the bracket that closes the value, or to `end`: 64 bytes in a step, whatever they hold."""
    cdef fl_marks_t marks
    cdef uint64_t strings, brackets
    cdef size_t size
    cdef bint in_string = skip.in_string
    cdef bint try_plain = True                                   # text without escapes tends to go on without them
    cdef int i
    marks.opens = marks.closes = 0
    while p < end:
        if in_string and try_plain and not skip.escape_pending:
            p = fl_skip_plain_blocks(p, end)
            if p == end:
                break
        size = <size_t> (end - p)
        if size >= BLOCK_BYTES:
            size = BLOCK_BYTES
            fl_mark_quotes(&marks, p)
        else:
            mark_rest(&marks, begin, p, size)
        try_plain = not marks.backslashes
        if marks.backslashes or skip.escape_pending:
            marks.quotes &= ~escaped_bytes(marks.backslashes, size, &skip.escape_pending)
        if in_string and not marks.quotes:
            p += size
            continue
        if size == BLOCK_BYTES:
            fl_mark_brackets(&marks, p)
        strings = running_parity(marks.quotes)
        if in_string:
            strings = ~strings
        in_string = strings >> 63
        marks.opens &= ~strings
        marks.closes &= ~strings
        if fl_count_bits(marks.closes) < skip.depth and skip.depth + fl_count_bits(marks.opens) < depth_max:
            skip.depth += fl_count_bits(marks.opens) - fl_count_bits(marks.closes)
            p += size
            continue
        brackets = marks.opens | marks.closes                    # near the end or the bound: one by one
        while brackets:
            i = fl_first_bit(brackets)
            if marks.opens >> i & 1:
                skip.depth += 1
                if skip.depth >= depth_max:
                    skip.is_too_deep = 1
            else:
                skip.depth -= 1
                if skip.depth == 0:
                    skip.escape_pending = 0
                    skip.has_ended = 1
                    return p + i + 1
            brackets &= brackets - 1
        p += size
    skip.in_string = in_string
    return end


cdef const uint8_t* json_skip_string(
    json_skip_t* skip, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """To just after the quote that closes the string, or to `end`."""
    cdef fl_marks_t marks
    cdef size_t size
    while p < end:
        if not skip.escape_pending:
            p = fl_skip_plain_blocks(p, end)
            if p == end:
                break
        size = <size_t> (end - p)
        if size >= BLOCK_BYTES:
            size = BLOCK_BYTES
            fl_mark_quotes(&marks, p)
        else:
            mark_rest(&marks, begin, p, size)
        marks.quotes &= ~escaped_bytes(marks.backslashes, size, &skip.escape_pending)
        if marks.quotes:
            skip.escape_pending = 0
            skip.has_ended = 1
            return p + fl_first_bit(marks.quotes) + 1
        p += size
    return end

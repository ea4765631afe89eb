"""The octet classes that HTTP's and URI's grammars are made of, and scans that judge sixteen octets at a time.

Invariant: a scan never reads at or past `end`, and the wide and the plain form of a scan give the same answer (a test
holds every octet at every distance from the end against the grammar). What is here is constant data and inline C, so
there is no module to import at run time. Neighbours: `http1` (heads), `chunk` (chunked bodies), `authority` (host and
port).
"""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSSE3__)
    #include <tmmintrin.h>
    #endif

    enum {
        OCTET_TOKEN = 1,    /* tchar, RFC 9110 5.6.2 */
        OCTET_HEX = 2,      /* HEXDIG in either case, RFC 5234 B.1 and RFC 9112 7.1 */
        OCTET_DIGIT = 4,
        OCTET_HOST = 8,     /* unreserved and sub-delims: a reg-name's octets but for %, RFC 3986 3.2.2 */
        OCTET_TARGET = 16,  /* VCHAR but for the fragment's #; see parse_request_head on why no narrower */
        OCTET_TEXT = 32     /* HTAB, SP, VCHAR, obs-text: field values and reason phrases, RFC 9110 5.5 */
    };

    static const uint8_t octet_classes[256] = {
        ['\\t'] = 32, [' '] = 32, [0x80 ... 0xff] = 32,
        ['0' ... '9'] = 1 | 2 | 4 | 8 | 16 | 32,
        ['A' ... 'F'] = 1 | 2 | 8 | 16 | 32, ['a' ... 'f'] = 1 | 2 | 8 | 16 | 32,
        ['G' ... 'Z'] = 1 | 8 | 16 | 32, ['g' ... 'z'] = 1 | 8 | 16 | 32,
        ['-'] = 1 | 8 | 16 | 32, ['.'] = 1 | 8 | 16 | 32, ['_'] = 1 | 8 | 16 | 32, ['~'] = 1 | 8 | 16 | 32,
        ['!'] = 1 | 8 | 16 | 32, ['$'] = 1 | 8 | 16 | 32, ['&'] = 1 | 8 | 16 | 32, ['\\''] = 1 | 8 | 16 | 32,
        ['*'] = 1 | 8 | 16 | 32, ['+'] = 1 | 8 | 16 | 32,
        ['('] = 8 | 16 | 32, [')'] = 8 | 16 | 32, [','] = 8 | 16 | 32, [';'] = 8 | 16 | 32, ['='] = 8 | 16 | 32,
        ['#'] = 1 | 32,
        ['%'] = 1 | 16 | 32, ['^'] = 1 | 16 | 32, ['`'] = 1 | 16 | 32, ['|'] = 1 | 16 | 32,
        ['"'] = 16 | 32, ['/'] = 16 | 32, [':'] = 16 | 32, ['<'] = 16 | 32, ['>'] = 16 | 32, ['?'] = 16 | 32,
        ['@'] = 16 | 32, ['['] = 16 | 32, ['\\\\'] = 16 | 32, [']'] = 16 | 32, ['{'] = 16 | 32, ['}'] = 16 | 32
    };

    static inline int octet_is(uint8_t octet, int classes) { return octet_classes[octet] & classes; }

    static inline size_t skip_octets(const uint8_t* octets, size_t position, size_t end, int classes) {
        while (position < end && (octet_classes[octets[position]] & classes)) position++;
        return position;
    }

    #if defined(__SSSE3__)
    /* Two lookups by nibble: bit h-2 of by_low[l] says whether octet 16*h+l is a tchar. */
    static inline size_t skip_token(const uint8_t* octets, size_t position, size_t end) {
        const __m128i by_low = _mm_setr_epi8(0x3a, 0x3f, 0x3e, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                             0x3e, 0x3e, 0x3d, 0x15, 0x34, 0x15, 0x3d, 0x1c);
        const __m128i by_high = _mm_setr_epi8(0, 0, 1, 2, 4, 8, 16, 32, 0, 0, 0, 0, 0, 0, 0, 0);
        const __m128i nibble = _mm_set1_epi8(0x0f);
        while (position + 16 <= end) {
            __m128i block = _mm_loadu_si128((const __m128i*)(octets + position));
            __m128i low = _mm_shuffle_epi8(by_low, _mm_and_si128(block, nibble));
            __m128i high = _mm_shuffle_epi8(by_high, _mm_and_si128(_mm_srli_epi16(block, 4), nibble));
            uint32_t others = (uint32_t)_mm_movemask_epi8(
                _mm_cmpeq_epi8(_mm_and_si128(low, high), _mm_setzero_si128()));
            if (others) return position + (size_t)__builtin_ctz(others);
            position += 16;
        }
        return skip_octets(octets, position, end, OCTET_TOKEN);
    }

    static inline size_t skip_text(const uint8_t* octets, size_t position, size_t end) {
        while (position + 16 <= end) {
            __m128i block = _mm_loadu_si128((const __m128i*)(octets + position));
            __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1f)), block);
            __m128i other = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('\\t')), low),
                                         _mm_cmpeq_epi8(block, _mm_set1_epi8(0x7f)));
            uint32_t others = (uint32_t)_mm_movemask_epi8(other);
            if (others) return position + (size_t)__builtin_ctz(others);
            position += 16;
        }
        return skip_octets(octets, position, end, OCTET_TEXT);
    }

    static inline size_t skip_target(const uint8_t* octets, size_t position, size_t end) {
        while (position + 16 <= end) {
            __m128i block = _mm_loadu_si128((const __m128i*)(octets + position));
            __m128i shifted = _mm_sub_epi8(block, _mm_set1_epi8(0x21));
            __m128i visible = _mm_cmpeq_epi8(_mm_min_epu8(shifted, _mm_set1_epi8(0x7e - 0x21)), shifted);
            uint32_t others = (uint32_t)_mm_movemask_epi8(
                _mm_andnot_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('#')), visible)) ^ 0xffffu;
            if (others) return position + (size_t)__builtin_ctz(others);
            position += 16;
        }
        return skip_octets(octets, position, end, OCTET_TARGET);
    }

    static inline uint32_t line_breaks_16(const uint8_t* octets) {
        __m128i block = _mm_loadu_si128((const __m128i*)octets);
        __m128i breaks = _mm_or_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('\\r')),
                                      _mm_cmpeq_epi8(block, _mm_set1_epi8('\\n')));
        return (uint32_t)_mm_movemask_epi8(_mm_or_si128(breaks, _mm_cmpeq_epi8(block, _mm_setzero_si128())));
    }
    #else
    static inline size_t skip_token(const uint8_t* octets, size_t position, size_t end) {
        return skip_octets(octets, position, end, OCTET_TOKEN);
    }
    static inline size_t skip_text(const uint8_t* octets, size_t position, size_t end) {
        return skip_octets(octets, position, end, OCTET_TEXT);
    }
    static inline size_t skip_target(const uint8_t* octets, size_t position, size_t end) {
        return skip_octets(octets, position, end, OCTET_TARGET);
    }
    #endif

    static inline uint32_t line_breaks(const uint8_t* octets, size_t size) {
        uint32_t mask = 0;
        size_t at;
    #if defined(__SSSE3__)
        if (size >= 16) return line_breaks_16(octets);
    #endif
        for (at = 0; at < size && at < 16; at++)
            mask |= (uint32_t)(octets[at] == '\\r' || octets[at] == '\\n' || octets[at] == 0) << at;
        return mask;
    }

    /* Setting bit 5 folds letters and, of what is neither control nor letter, only @[\\]^_ onto something else, none of
       which occurs in the names asked for: exact for any text that a scan above has passed. Eight octets at a time; the
       compiler knows `name` and `size` where this is called. */
    static inline int same_name(const uint8_t* text, const char* name, size_t size) {
        const uint64_t fold_8 = 0x2020202020202020u;
        const uint32_t fold_4 = 0x20202020u;
        uint64_t left_8, right_8;
        uint32_t left_4, right_4;
        size_t at;
        if (size >= 8) {
            for (at = 0; at < size; at += 8) {
                size_t place = at + 8 <= size ? at : size - 8;
                memcpy(&left_8, text + place, 8);
                memcpy(&right_8, name + place, 8);
                if ((left_8 | fold_8) != right_8) return 0;
            }
            return 1;
        }
        if (size >= 4) {
            memcpy(&left_4, text, 4);
            memcpy(&right_4, name, 4);
            if ((left_4 | fold_4) != right_4) return 0;
            memcpy(&left_4, text + size - 4, 4);
            memcpy(&right_4, name + size - 4, 4);
            return (left_4 | fold_4) == right_4;
        }
        for (at = 0; at < size; at++)
            if ((text[at] | 0x20) != (uint8_t)name[at]) return 0;
        return 1;
    }

    static inline uint32_t lowest_bit(uint32_t mask) { return (uint32_t)__builtin_ctz(mask); }
    """
    enum:
        OCTET_TOKEN
        OCTET_HEX
        OCTET_DIGIT
        OCTET_HOST
        OCTET_TARGET
        OCTET_TEXT
    bint octet_is(uint8_t octet, int classes) noexcept nogil
    # Each skip returns the first position in [position, end) whose octet is not of the class, or `end`.
    size_t skip_octets(const uint8_t* octets, size_t position, size_t end, int classes) noexcept nogil
    size_t skip_token(const uint8_t* octets, size_t position, size_t end) noexcept nogil
    size_t skip_text(const uint8_t* octets, size_t position, size_t end) noexcept nogil
    size_t skip_target(const uint8_t* octets, size_t position, size_t end) noexcept nogil
    # Whether text is `name` in any case; `name` is lower-case letters, digits and "-" only.
    bint same_name(const uint8_t* text, const char* name, size_t size) noexcept nogil
    # A bit for each CR, LF and NUL in the first min(size, 16) octets.
    uint32_t line_breaks(const uint8_t* octets, size_t size) noexcept nogil
    uint32_t lowest_bit(uint32_t mask) noexcept nogil           # mask != 0

"""The octet classes that HTTP's and URI's grammars are made of, and scans of many octets at a time.

Invariant: a scan never reads at or past `end`, and the wide and the plain form of a scan give the same answer (a test
holds every octet at every distance from the end against the grammar). What is here is constant data and inline C, so
there is no module to import at run time. Neighbours: `http1` (heads), `chunk` (chunked bodies), `authority` (host and
port).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

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

    static inline uint64_t join_masks(__m128i first, __m128i second, __m128i third, __m128i fourth) {
        return (uint64_t)(uint32_t)_mm_movemask_epi8(first) | (uint64_t)(uint32_t)_mm_movemask_epi8(second) << 16
            | (uint64_t)(uint32_t)_mm_movemask_epi8(third) << 32 | (uint64_t)(uint32_t)_mm_movemask_epi8(fourth) << 48;
    }

    static inline int line_masks_64(const uint8_t* octets, uint64_t* cr, uint64_t* lf) {
        __m128i block[4], is_cr[4], is_lf[4], is_other = _mm_setzero_si128();
        int turn;
        for (turn = 0; turn < 4; turn++) {
            block[turn] = _mm_loadu_si128((const __m128i*)(octets + 16 * turn));
            is_cr[turn] = _mm_cmpeq_epi8(block[turn], _mm_set1_epi8('\\r'));
            is_lf[turn] = _mm_cmpeq_epi8(block[turn], _mm_set1_epi8('\\n'));
            is_other = _mm_or_si128(is_other, _mm_cmpeq_epi8(block[turn], _mm_set1_epi8(0x7f)));
            is_other = _mm_or_si128(is_other, _mm_andnot_si128(
                _mm_or_si128(_mm_or_si128(is_cr[turn], is_lf[turn]), _mm_cmpeq_epi8(block[turn], _mm_set1_epi8('\\t'))),
                _mm_cmpeq_epi8(_mm_min_epu8(block[turn], _mm_set1_epi8(0x1f)), block[turn])));
        }
        *cr = join_masks(is_cr[0], is_cr[1], is_cr[2], is_cr[3]);
        *lf = join_masks(is_lf[0], is_lf[1], is_lf[2], is_lf[3]);
        return _mm_movemask_epi8(is_other) != 0;
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

    static inline int line_masks_64(const uint8_t* octets, uint64_t* cr, uint64_t* lf) {
        int at, has_controls = 0;
        *cr = *lf = 0;
        for (at = 0; at < 64; at++) {
            *cr |= (uint64_t)(octets[at] == '\\r') << at;
            *lf |= (uint64_t)(octets[at] == '\\n') << at;
            has_controls |= !(octet_classes[octets[at]] & OCTET_TEXT) && octets[at] != '\\r' && octets[at] != '\\n';
        }
        return has_controls;
    }
    #endif

    /* Near the end the last 64 octets are taken, those before `position` shifted out; a short text is padded. */
    static inline int line_masks(const uint8_t* octets, size_t position, size_t end, uint64_t* cr, uint64_t* lf) {
        uint8_t padded[64];
        size_t rest = end - position;
        int has_controls;
        if (rest >= 64) return line_masks_64(octets + position, cr, lf);
        if (end >= 64) {
            has_controls = line_masks_64(octets + end - 64, cr, lf);
            *cr >>= 64 - rest;
            *lf >>= 64 - rest;
            return has_controls;
        }
        memset(padded, ' ', sizeof padded);
        memcpy(padded, octets + position, rest);
        return line_masks_64(padded, cr, lf);
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

    static inline uint32_t lowest_bit(uint64_t mask) { return (uint32_t)__builtin_ctzll(mask); }
    static inline uint32_t count_bits(uint64_t mask) { return (uint32_t)__builtin_popcountll(mask); }
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
    # A bit for each CR and for each LF in the 64 octets from `position` < end, or those up to `end` if they are fewer.
    # Returns whether a control other than CR, LF and HTAB is among them (or in the 64 octets before the end).
    bint line_masks(const uint8_t* octets, size_t position, size_t end, uint64_t* cr, uint64_t* lf) noexcept nogil
    uint32_t lowest_bit(uint64_t mask) noexcept nogil           # mask != 0
    uint32_t count_bits(uint64_t mask) noexcept nogil

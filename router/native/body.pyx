"""The JSON body scanner: see body.pxd for what it promises.

A state machine over the top-level object only. Everything nested is skipped by counting brackets outside strings; inside
strings, where nearly all bytes of a prompt are, sixteen to sixty-four bytes are looked at in a step. Each byte is read once, so
the cost is linear in any split; there is no recursion and nothing is allocated.
Neighbours: router/body_facts.py reads what is in doubt here; tests/oracle/body.py is the slow, obvious reading.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    #if defined(__SSE2__)
    static inline __m128i fl_load16(const uint8_t* p) { return _mm_loadu_si128((const __m128i*) p); }
    static inline __m128i fl_equal(__m128i bytes, char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); }
    static inline __m128i fl_string_stops(__m128i bytes) { return _mm_or_si128(fl_equal(bytes, '"'), fl_equal(bytes, 92)); }
    static inline uint64_t fl_bits(__m128i a, __m128i b, __m128i c, __m128i d) {
        return (uint64_t) (uint32_t) (_mm_movemask_epi8(a) | _mm_movemask_epi8(b) << 16)
            | (uint64_t) (uint32_t) (_mm_movemask_epi8(c) | _mm_movemask_epi8(d) << 16) << 32;
    }
    #endif

    /* The first quote or backslash at or after p, or `end`. For keys and names: a few bytes, so sixteen at a time. The last,
       short step reads the 16 bytes before `end` again when the piece, which starts at `begin`, has as many. */
    static inline const uint8_t* fl_find_string_stop(const uint8_t* begin, const uint8_t* p, const uint8_t* end) {
    #if defined(__SSE2__)
        for (; end - p >= 16; p += 16) {
            uint32_t mask = (uint32_t) _mm_movemask_epi8(fl_string_stops(fl_load16(p)));
            if (mask) return p + __builtin_ctz(mask);
        }
        if (p < end && end - begin >= 16) {
            uint32_t mask = (uint32_t) _mm_movemask_epi8(fl_string_stops(fl_load16(end - 16)));
            mask &= ((uint32_t) 0xFFFF << (p - (end - 16))) & 0xFFFF;
            return mask ? end - 16 + __builtin_ctz(mask) : end;
        }
    #else
        (void) begin;
    #endif
        while (p < end && *p != '"' && *p != 92) p++;
        return p;
    }

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

    static inline fl_marks_t fl_mark_block(const uint8_t* p) {
        fl_marks_t marks;
    #if defined(__SSE2__)
        __m128i a = fl_load16(p), b = fl_load16(p + 16), c = fl_load16(p + 32), d = fl_load16(p + 48);
        __m128i fold = _mm_set1_epi8(0x20);                      /* [ and ] are { and } without this bit */
        marks.quotes = fl_bits(fl_equal(a, '"'), fl_equal(b, '"'), fl_equal(c, '"'), fl_equal(d, '"'));
        marks.backslashes = fl_bits(fl_equal(a, 92), fl_equal(b, 92), fl_equal(c, 92), fl_equal(d, 92));
        a = _mm_or_si128(a, fold); b = _mm_or_si128(b, fold); c = _mm_or_si128(c, fold); d = _mm_or_si128(d, fold);
        marks.opens = fl_bits(fl_equal(a, '{'), fl_equal(b, '{'), fl_equal(c, '{'), fl_equal(d, '{'));
        marks.closes = fl_bits(fl_equal(a, '}'), fl_equal(b, '}'), fl_equal(c, '}'), fl_equal(d, '}'));
    #else
        marks.quotes = marks.backslashes = marks.opens = marks.closes = 0;
        for (int i = 0; i < 64; i++) {
            marks.quotes |= (uint64_t) (p[i] == '"') << i;
            marks.backslashes |= (uint64_t) (p[i] == 92) << i;
            marks.opens |= (uint64_t) ((p[i] | 0x20) == '{') << i;
            marks.closes |= (uint64_t) ((p[i] | 0x20) == '}') << i;
        }
    #endif
        return marks;
    }

    #define FL_EVEN_BITS UINT64_C(0x5555555555555555)
    static inline int fl_first_bit(uint64_t bits) { return __builtin_ctzll(bits); }
    static inline uint32_t fl_count_bits(uint64_t bits) { return (uint32_t) __builtin_popcountll(bits); }

    /* Eight bytes as a little-endian number, from any address. */
    static inline uint64_t fl_read64(const uint8_t* p) {
        uint64_t word;
        memcpy(&word, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }

    /* Both halves of the 128-bit product, folded. */
    static inline uint64_t fl_fold_product(uint64_t a, uint64_t b) {
    #if defined(__SIZEOF_INT128__)
        unsigned __int128 product = (unsigned __int128) a * b;
        return (uint64_t) product ^ (uint64_t) (product >> 64);
    #else
        uint64_t ll = (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF), lh = (a & 0xFFFFFFFF) * (b >> 32);
        uint64_t hl = (a >> 32) * (b & 0xFFFFFFFF), hh = (a >> 32) * (b >> 32);
        uint64_t middle = (ll >> 32) + (lh & 0xFFFFFFFF) + (hl & 0xFFFFFFFF);
        return ((ll & 0xFFFFFFFF) | middle << 32) ^ (hh + (lh >> 32) + (hl >> 32) + (middle >> 32));
    #endif
    }
    """
    const uint8_t* fl_find_string_stop(const uint8_t* begin, const uint8_t* p, const uint8_t* end)
    ctypedef struct fl_marks_t:
        uint64_t quotes, backslashes, opens, closes
    const uint8_t* fl_skip_plain_blocks(const uint8_t* p, const uint8_t* end)
    fl_marks_t fl_mark_block(const uint8_t* p)
    const uint64_t EVEN_BITS "FL_EVEN_BITS"
    int fl_first_bit(uint64_t bits)
    uint32_t fl_count_bits(uint64_t bits)
    uint64_t fl_read64(const uint8_t* p)
    uint64_t fl_fold_product(uint64_t a, uint64_t b)


# --- the hash ---------------------------------------------------------------------------------------------------------
#
# A multiply-and-fold hash of the wyhash family (Wang Yi, "wyhash": the 128-bit product of two words, halves xored, mixes both
# words into all 64 bits), of our own construction so that it can be fed in pieces:
#   stripes   each full 64 bytes feed four independent lanes of 16 bytes (the multiplier's latency is hidden behind the others):
#             lane = rotl(lane, 29) ^ fold((word0 ^ K) * (word1 ^ lane)); the rotated lane keeps the past when a factor is zero
#   tail      the remaining 0 to 63 bytes go through one lane, 16 at a time, the last ones padded with zeros
#   finish    the length is mixed in, which tells padding from data
# The constants are the first 64-bit chunks of the fraction of pi: unrelated, nothing up our sleeve.

cdef enum:
    STRIPE_BYTES = 64

cdef extern from * nogil:
    """
    #define FL_K0 UINT64_C(0x243F6A8885A308D3)
    #define FL_K1 UINT64_C(0x13198A2E03707345)
    #define FL_K2 UINT64_C(0xA4093822299F31D1)
    #define FL_K3 UINT64_C(0x082EFA98EC4E6C89)
    """
    const uint64_t FL_K0, FL_K1, FL_K2, FL_K3


cdef inline uint64_t mix(uint64_t lane, uint64_t word0, uint64_t word1, uint64_t constant) noexcept nogil:
    return ((lane << 29) | (lane >> 35)) ^ fl_fold_product(word0 ^ constant, word1 ^ lane)


cdef inline void lanes_begin(uint64_t* lanes, uint64_t seed) noexcept nogil:
    lanes[0] = seed ^ FL_K0
    lanes[1] = seed ^ FL_K1
    lanes[2] = seed ^ FL_K2
    lanes[3] = seed ^ FL_K3


cdef inline void lanes_take_stripe(uint64_t* lanes, const uint8_t* p) noexcept nogil:
    lanes[0] = mix(lanes[0], fl_read64(p), fl_read64(p + 8), FL_K0)
    lanes[1] = mix(lanes[1], fl_read64(p + 16), fl_read64(p + 24), FL_K1)
    lanes[2] = mix(lanes[2], fl_read64(p + 32), fl_read64(p + 40), FL_K2)
    lanes[3] = mix(lanes[3], fl_read64(p + 48), fl_read64(p + 56), FL_K3)


cdef inline uint64_t lanes_finish(const uint64_t* lanes, const uint8_t* tail, size_t tail_bytes, uint64_t total_bytes) noexcept nogil:
    cdef uint64_t value = lanes[0]
    cdef uint8_t padded[16]
    if total_bytes >= STRIPE_BYTES:
        value = mix(mix(value, lanes[1], lanes[2], FL_K1), lanes[3], value, FL_K2)
    while tail_bytes >= 16:
        value = mix(value, fl_read64(tail), fl_read64(tail + 8), FL_K3)
        tail += 16
        tail_bytes -= 16
    if tail_bytes:
        memset(padded, 0, 16)
        memcpy(padded, tail, tail_bytes)
        value = mix(value, fl_read64(padded), fl_read64(padded + 8), FL_K3)
    value ^= total_bytes * FL_K1
    value = mix(value, value, FL_K0, FL_K2)
    return value ^ (value >> 32)


cdef uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) noexcept nogil:
    cdef uint64_t[4] lanes
    cdef size_t left = size
    lanes_begin(lanes, seed)
    while left >= STRIPE_BYTES:
        lanes_take_stripe(lanes, data)
        data += STRIPE_BYTES
        left -= STRIPE_BYTES
    return lanes_finish(lanes, data, left, size)


cdef void prompt_hash_update(body_private_t* state, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint32_t held = state.hashed_bytes % STRIPE_BYTES
    cdef uint32_t taken
    if state.hashed_bytes == 0:
        lanes_begin(state.lanes, 0)
    state.hashed_bytes += size
    if held:
        taken = min(size, <uint32_t> STRIPE_BYTES - held)
        memcpy(state.stripe + held, data, taken)
        if held + taken < STRIPE_BYTES:
            return
        lanes_take_stripe(state.lanes, state.stripe)
        data += taken
        size -= taken
    while size >= STRIPE_BYTES:
        lanes_take_stripe(state.lanes, data)
        data += STRIPE_BYTES
        size -= STRIPE_BYTES
    if size:
        memcpy(state.stripe, data, size)


# --- the scanner ------------------------------------------------------------------------------------------------------

cdef enum scan_state:
    AT_START = 0                     # white space before the object
    AT_FIRST_KEY = 1                 # a key or the end of an empty object
    AT_KEY = 2                       # after a comma: a key
    IN_KEY = 3
    AT_COLON = 4
    AT_VALUE = 5
    IN_CAPTURED_STRING = 6           # the model's or the user's
    IN_STRING = 7                    # any other top-level string
    IN_SCALAR = 8                    # number, true, false, null
    IN_NESTED = 9                    # inside an array or object, outside its strings
    IN_NESTED_STRING = 10
    AFTER_VALUE = 11                 # a comma or the end of the object
    AFTER_OBJECT = 12                # white space only
    LOST = 13                        # not JSON: nothing that follows can be trusted

# Numbered so that 1 << key is its bit in seen_keys, and so that every key from KEY_MESSAGES on names a prompt.
cdef enum wanted_key:
    KEY_OTHER = 0
    KEY_MODEL = 1
    KEY_USER = 2
    KEY_STREAM = 3
    KEY_MAX_TOKENS = 4
    KEY_MAX_COMPLETION_TOKENS = 5
    KEY_MAX_OUTPUT_TOKENS = 6
    KEY_MESSAGES = 7
    KEY_PROMPT = 8
    KEY_INPUT = 9
    KEY_INPUTS = 10
    KEY_TEXT = 11
    KEY_QUERY = 12

cdef enum:
    BLOCK_BYTES = 64                 # looked at in a step inside a value
    TEXT_BYTES = 24                  # sizeof body_private_t.text; the longest wanted key has 21 bytes
    TEXT_TOO_LONG = 0xFFFF
    INTEGER_DIGITS_MAX = 18          # always fits int64


cdef void body_scan_begin(body_scan_t* scan) noexcept nogil:
    # model and user are only read up to their lengths, so they need no clearing: 512 bytes saved on every request.
    memset(scan, 0, <size_t> (&scan.model[0] - <uint8_t*> scan))
    memset(&scan.private_state, 0, sizeof(body_private_t))
    scan.max_tokens = -1


cdef inline int name_key(const uint8_t* text, uint32_t length) noexcept nogil:
    if length == 4:
        if memcmp(text, b"user", 4) == 0:
            return KEY_USER
        if memcmp(text, b"text", 4) == 0:
            return KEY_TEXT
    elif length == 5:
        if memcmp(text, b"model", 5) == 0:
            return KEY_MODEL
        if memcmp(text, b"input", 5) == 0:
            return KEY_INPUT
        if memcmp(text, b"query", 5) == 0:
            return KEY_QUERY
    elif length == 6:
        if memcmp(text, b"stream", 6) == 0:
            return KEY_STREAM
        if memcmp(text, b"prompt", 6) == 0:
            return KEY_PROMPT
        if memcmp(text, b"inputs", 6) == 0:
            return KEY_INPUTS
    elif length == 8:
        if memcmp(text, b"messages", 8) == 0:
            return KEY_MESSAGES
    elif length == 10:
        if memcmp(text, b"max_tokens", 10) == 0:
            return KEY_MAX_TOKENS
    elif length == 17:
        if memcmp(text, b"max_output_tokens", 17) == 0:
            return KEY_MAX_OUTPUT_TOKENS
    elif length == 21:
        if memcmp(text, b"max_completion_tokens", 21) == 0:
            return KEY_MAX_COMPLETION_TOKENS
    return KEY_OTHER


cdef bint is_plain_text(const uint8_t* text, uint32_t length) noexcept nogil:
    """Whether the bytes are UTF-8 (RFC 3629) without controls, which is what a JSON string may hold unescaped."""
    cdef uint32_t i = 0
    cdef uint32_t follow, k
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
        for k in range(follow):
            if i >= length or text[i] < low or text[i] > high:
                return False
            low = 0x80
            high = 0xBF
            i += 1
    return True


cdef inline uint32_t bounded_text(size_t size) noexcept nogil:
    return <uint32_t> size if size <= TEXT_BYTES else TEXT_TOO_LONG


cdef inline void keep_text(body_private_t* state, const uint8_t* p, size_t size) noexcept nogil:
    # A key or scalar too long to be wanted is remembered as just that.
    if state.text_length == TEXT_TOO_LONG or state.text_length + size > TEXT_BYTES:
        state.text_length = TEXT_TOO_LONG
        return
    memcpy(state.text + state.text_length, p, size)
    state.text_length += <uint16_t> size


cdef inline void end_key(body_scan_t* scan, const uint8_t* text, uint32_t length) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef int key = name_key(text, length)
    state.state = AT_COLON
    state.key = <uint8_t> key
    if key == KEY_OTHER:
        return
    if state.seen_keys & (1 << key):
        scan.flags |= BODY_IN_DOUBT                              # parsers differ on which of two counts; the first stays here
        state.key = KEY_OTHER
    state.seen_keys |= <uint16_t> (1 << key)


cdef void end_captured_string(body_scan_t* scan) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    state.state = AFTER_VALUE
    if state.key == KEY_MODEL:
        if is_plain_text(scan.model, state.text_length):
            scan.model_length = state.text_length
            scan.flags |= BODY_HAS_MODEL
            return
    elif is_plain_text(scan.user, state.text_length):
        scan.user_length = state.text_length
        scan.flags |= BODY_HAS_USER
        return
    scan.flags |= BODY_IN_DOUBT


cdef void end_integer(body_scan_t* scan, const uint8_t* text, uint32_t length) noexcept nogil:
    cdef int64_t value = 0
    cdef bint negative = length > 0 and text[0] == c"-"
    cdef uint32_t first = 1 if negative else 0
    cdef uint32_t i
    if length - first == 0 or length - first > INTEGER_DIGITS_MAX or (text[first] == c"0" and length - first > 1):
        scan.flags |= BODY_IN_DOUBT
        return
    for i in range(first, length):
        if text[i] < c"0" or text[i] > c"9":
            scan.flags |= BODY_IN_DOUBT                          # a fraction, an exponent, or no number
            return
        value = value * 10 + (text[i] - c"0")
    if negative:
        value = -value
    if scan.flags & BODY_HAS_MAX_TOKENS and scan.max_tokens != value:
        scan.flags |= BODY_IN_DOUBT                              # two names for the bound, two bounds
        return
    scan.max_tokens = value
    scan.flags |= BODY_HAS_MAX_TOKENS


cdef void end_scalar(body_scan_t* scan, const uint8_t* text, uint32_t length) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    state.state = AFTER_VALUE
    if state.key == KEY_OTHER or state.key >= KEY_MESSAGES:
        return                                                   # a number or null is no prompt
    if length == 4 and memcmp(text, b"null", 4) == 0:
        return                                                   # as good as absent, in every engine
    if state.key == KEY_STREAM:
        if length == 4 and memcmp(text, b"true", 4) == 0:
            scan.stream = 1
            scan.flags |= BODY_HAS_STREAM
            return
        if length == 5 and memcmp(text, b"false", 5) == 0:
            scan.stream = 0
            scan.flags |= BODY_HAS_STREAM
            return
    elif KEY_MAX_TOKENS <= state.key <= KEY_MAX_OUTPUT_TOKENS and length != TEXT_TOO_LONG:
        end_integer(scan, text, length)
        return
    scan.flags |= BODY_IN_DOUBT


cdef inline void lose(body_scan_t* scan) noexcept nogil:
    scan.flags |= BODY_IN_DOUBT
    scan.private_state.state = LOST


cdef inline void begin_prompt(body_scan_t* scan, uint64_t offset) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    if state.key >= KEY_MESSAGES and not state.prompt_open and not scan.flags & BODY_HAS_PROMPT:
        state.prompt_open = 1
        scan.prompt_offset = offset


cdef void hash_prompt(body_scan_t* scan, const uint8_t* data, uint64_t upto, bint ended) noexcept nogil:
    """Takes the prompt's bytes of this piece, up to body offset `upto`, into its key; `data` is the piece's start."""
    cdef body_private_t* state = &scan.private_state
    cdef uint64_t first = scan.prompt_offset + state.hashed_bytes
    cdef uint64_t last = min(upto, scan.prompt_offset + <uint64_t> BODY_PROMPT_KEY_BYTES)
    cdef uint32_t size = <uint32_t> (last - first)
    cdef bint final
    if not scan.flags & BODY_HAS_PROMPT:
        final = ended or state.hashed_bytes + size == BODY_PROMPT_KEY_BYTES
        data += first - scan.position
        if final and state.hashed_bytes == 0:
            scan.prompt_key = hash_bytes(data, size, 0)
        else:
            prompt_hash_update(state, data, size)
            if final:
                scan.prompt_key = lanes_finish(
                    state.lanes, state.stripe, state.hashed_bytes % STRIPE_BYTES, state.hashed_bytes)
        if final:
            scan.flags |= BODY_HAS_PROMPT
    if ended:
        scan.prompt_length = upto - scan.prompt_offset
        state.prompt_open = 0


cdef inline const uint8_t* read_value_start(body_scan_t* scan, const uint8_t* p, uint64_t offset) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef uint8_t c = p[0]
    state.text_length = 0
    if c == c'"':
        if state.key == KEY_MODEL or state.key == KEY_USER:
            state.state = IN_CAPTURED_STRING
            if state.key == KEY_MODEL:
                scan.model_offset = offset + 1
            return p + 1
        state.state = IN_STRING
    elif c == c"{" or c == c"[":
        state.state = IN_NESTED
        state.depth = 1
    elif c == c"-" or c"0" <= c <= c"9" or c == c"t" or c == c"f" or c == c"n":
        state.state = IN_SCALAR
        return p
    else:
        lose(scan)
        return p + 1
    if state.key >= KEY_MESSAGES:
        begin_prompt(scan, offset)
    elif state.key != KEY_OTHER:
        scan.flags |= BODY_IN_DOUBT                              # a type that this key does not have
    return p + 1


cdef inline fl_marks_t mark_rest(const uint8_t* begin, const uint8_t* p, size_t size) noexcept nogil:
    """The marks of a piece's last bytes, fewer than a block: read with those before them, or copied when the piece is short."""
    cdef fl_marks_t marks
    cdef uint8_t[BLOCK_BYTES] padded
    cdef size_t before = BLOCK_BYTES - size
    if <size_t> (p - begin) < before:
        memset(padded, 0, BLOCK_BYTES)
        memcpy(padded, p, size)
        return fl_mark_block(padded)
    marks = fl_mark_block(p - before)
    marks.quotes >>= before
    marks.backslashes >>= before
    marks.opens >>= before
    marks.closes >>= before
    return marks


cdef inline uint64_t escaped_bytes(uint64_t backslashes, size_t size, uint8_t* pending) noexcept nogil:
    """Which bytes of a block follow an escaping backslash; `pending` carries one over from block to block.

    The byte after a run of backslashes is escaped when the run's length is odd, that is when it starts at an even place and ends
    at an odd one or the reverse; adding a run's start to it carries a bit to its end (Langdale and Lemire, "Parsing gigabytes of
    JSON per second", 2019, section 3.1.1). No branch depends on the text.
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
    """Bit i is the parity of bits 0 to i: with quotes, whether byte i is inside a string (its opening quote included)."""
    bits ^= bits << 1
    bits ^= bits << 2
    bits ^= bits << 4
    bits ^= bits << 8
    bits ^= bits << 16
    return bits ^ (bits << 32)


cdef inline const uint8_t* skip_nested(
    body_scan_t* scan, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """To just after the bracket that closes the value, or to `end`: 64 bytes in a step, whatever they hold."""
    cdef body_private_t* state = &scan.private_state
    cdef fl_marks_t marks
    cdef uint64_t strings, brackets
    cdef size_t size
    cdef bint in_string = state.state == IN_NESTED_STRING
    cdef int i
    while p < end:
        if in_string and not state.escape_pending:
            p = fl_skip_plain_blocks(p, end)
            if p == end:
                break
        size = <size_t> (end - p)
        if size >= BLOCK_BYTES:
            size = BLOCK_BYTES
            marks = fl_mark_block(p)
        else:
            marks = mark_rest(begin, p, size)
        if marks.backslashes or state.escape_pending:
            marks.quotes &= ~escaped_bytes(marks.backslashes, size, &state.escape_pending)
        strings = running_parity(marks.quotes)
        if in_string:
            strings = ~strings
        in_string = strings >> 63
        marks.opens &= ~strings
        marks.closes &= ~strings
        if fl_count_bits(marks.closes) < state.depth and state.depth + fl_count_bits(marks.opens) < BODY_DEPTH_MAX:
            state.depth += fl_count_bits(marks.opens) - fl_count_bits(marks.closes)
            p += size
            continue
        brackets = marks.opens | marks.closes                    # near the end or the bound: one by one
        while brackets:
            i = fl_first_bit(brackets)
            if marks.opens >> i & 1:
                state.depth += 1
                if state.depth >= BODY_DEPTH_MAX:
                    scan.flags |= BODY_IN_DOUBT
            else:
                state.depth -= 1
                if state.depth == 0:
                    state.escape_pending = 0
                    state.state = AFTER_VALUE
                    return p + i + 1
            brackets &= brackets - 1
        p += size
    state.state = IN_NESTED_STRING if in_string else IN_NESTED
    return end


cdef inline const uint8_t* skip_string(
    body_scan_t* scan, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """To just after the quote that closes the string, or to `end`."""
    cdef body_private_t* state = &scan.private_state
    cdef fl_marks_t marks
    cdef size_t size
    while p < end:
        if not state.escape_pending:
            p = fl_skip_plain_blocks(p, end)
            if p == end:
                break
        size = <size_t> (end - p)
        if size >= BLOCK_BYTES:
            size = BLOCK_BYTES
            marks = fl_mark_block(p)
        else:
            marks = mark_rest(begin, p, size)
        marks.quotes &= ~escaped_bytes(marks.backslashes, size, &state.escape_pending)
        if marks.quotes:
            state.escape_pending = 0
            state.state = AFTER_VALUE
            return p + fl_first_bit(marks.quotes) + 1
        p += size
    return end


cdef inline const uint8_t* capture_string(
    body_scan_t* scan, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef const uint8_t* stop = fl_find_string_stop(begin, p, end)
    cdef size_t size = <size_t> (stop - p)
    cdef size_t bound = BODY_USER_BYTES_MAX
    cdef uint8_t* target = &scan.user[0]
    if state.key == KEY_MODEL:
        bound = BODY_MODEL_BYTES_MAX
        target = &scan.model[0]
    if state.text_length + size > bound or (stop < end and stop[0] == c"\\"):
        scan.flags |= BODY_IN_DOUBT
        state.state = IN_STRING
        return p
    memcpy(target + state.text_length, p, size)
    state.text_length += <uint16_t> size
    if stop == end:
        return end
    end_captured_string(scan)
    return stop + 1


cdef inline const uint8_t* read_key(
    body_scan_t* scan, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef const uint8_t* stop
    if state.escape_pending:
        state.escape_pending = 0
        return p + 1
    stop = fl_find_string_stop(begin, p, end)
    if stop < end and stop[0] == c'"':
        if state.text_length == 0:
            end_key(scan, p, bounded_text(<size_t> (stop - p)))
        else:
            keep_text(state, p, <size_t> (stop - p))
            end_key(scan, state.text, state.text_length)
        return stop + 1
    keep_text(state, p, <size_t> (stop - p))
    if stop == end:
        return end
    scan.flags |= BODY_IN_DOUBT                                  # an escaped key may spell any of the wanted ones
    state.text_length = TEXT_TOO_LONG
    state.escape_pending = 1
    return stop + 1


cdef inline const uint8_t* read_scalar(body_scan_t* scan, const uint8_t* p, const uint8_t* end) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef const uint8_t* first = p
    cdef uint8_t c
    while p < end:
        c = p[0]
        if c == c"," or c == c"}" or c == c" " or c == c"\n" or c == c"\r" or c == c"\t":
            break
        if c == c'"' or c == c"{" or c == c"[" or c == c"]" or c == c":":
            lose(scan)
            return p
        p += 1
    if p < end and state.text_length == 0:
        end_scalar(scan, first, bounded_text(<size_t> (p - first)))
        return p
    keep_text(state, first, <size_t> (p - first))
    if p < end:
        end_scalar(scan, state.text, state.text_length)
    return p


cdef inline const uint8_t* step_to_value(body_scan_t* scan, const uint8_t* p, const uint8_t* end, uint64_t offset) noexcept nogil:
    """Over `: ` into the value, as nearly every body has it; whatever else comes is left to the loop."""
    cdef int skipped
    if end - p >= 3 and p[0] == c":":
        skipped = 2 if p[1] == c" " else 1
        if p[skipped] > c" ":
            return read_value_start(scan, p + skipped, offset + <uint64_t> skipped)
    return p


cdef inline const uint8_t* step_to_key(body_scan_t* scan, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Over `, "` into the next key, likewise."""
    cdef const uint8_t* quote = p
    if end - p >= 3 and p[0] == c",":
        quote += 2 if p[1] == c" " else 1
        if quote[0] == c'"':
            scan.private_state.state = IN_KEY
            scan.private_state.text_length = 0
            return quote + 1
    return p


cdef void body_scan_feed(body_scan_t* scan, const uint8_t* data, size_t size) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef const uint8_t* p = data
    cdef const uint8_t* end
    cdef uint8_t c
    if size == 0:
        return
    end = data + size
    while p < end:
        # States that take a run of bytes.
        if state.state == IN_KEY:
            p = read_key(scan, data, p, end)
            if state.state == AT_COLON:
                p = step_to_value(scan, p, end, scan.position + <uint64_t> (p - data))
            continue
        if IN_CAPTURED_STRING <= state.state <= IN_NESTED_STRING:
            if state.state == IN_SCALAR:
                p = read_scalar(scan, p, end)
            elif state.state == IN_CAPTURED_STRING:
                p = capture_string(scan, data, p, end)
            elif state.state == IN_STRING:
                p = skip_string(scan, data, p, end)
            else:
                p = skip_nested(scan, data, p, end)
            if state.state == AFTER_VALUE:
                if state.prompt_open:
                    hash_prompt(scan, data, scan.position + <uint64_t> (p - data), True)
                p = step_to_key(scan, p, end)
            continue
        if state.state == LOST:
            break
        # States that look at one byte, white space aside (RFC 8259 section 2).
        c = p[0]
        if c == c" " or c == c"\n" or c == c"\r" or c == c"\t":
            p += 1
            continue
        if state.state == AT_COLON:
            if c == c":":
                state.state = AT_VALUE
            else:
                lose(scan)
        elif state.state == AT_VALUE:
            p = read_value_start(scan, p, scan.position + <uint64_t> (p - data))
            continue
        elif state.state == AFTER_VALUE:
            if c == c",":
                state.state = AT_KEY
            elif c == c"}":
                state.state = AFTER_OBJECT
                scan.flags |= BODY_COMPLETE
            else:
                lose(scan)
        elif state.state == AT_KEY or state.state == AT_FIRST_KEY:
            if c == c'"':
                state.state = IN_KEY
                state.text_length = 0
            elif c == c"}" and state.state == AT_FIRST_KEY:
                state.state = AFTER_OBJECT
                scan.flags |= BODY_COMPLETE
            else:
                lose(scan)
        elif state.state == AT_START:
            if c == c"{":
                state.state = AT_FIRST_KEY
            else:
                scan.flags |= BODY_NOT_OBJECT
                lose(scan)
        else:                                                    # AFTER_OBJECT
            lose(scan)
        p += 1
    if state.prompt_open:
        hash_prompt(scan, data, scan.position + size, False)
    scan.position += size


# --- the door: tests and micro-benchmarks run the very code that requests run -----------------------------------------

cdef class BodyScan:
    """One body being scanned; facts are None until found."""
    cdef body_scan_t scan

    def __cinit__(self):
        memset(&self.scan, 0xA5, sizeof(body_scan_t))            # begin must not rely on what was there
        body_scan_begin(&self.scan)

    def feed(self, bytes piece not None):
        # An exact copy on the heap, so that the address sanitizer sees any read outside it.
        cdef size_t size = len(piece)
        cdef uint8_t* copy = <uint8_t*> malloc(size if size else 1)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const char*> piece, size)
        body_scan_feed(&self.scan, copy, size)
        free(copy)

    @property
    def position(self):
        return self.scan.position

    @property
    def in_doubt(self):
        return bool(self.scan.flags & BODY_IN_DOUBT)

    @property
    def is_complete(self):
        return bool(self.scan.flags & BODY_COMPLETE)

    @property
    def is_object(self):
        return not self.scan.flags & BODY_NOT_OBJECT

    @property
    def model(self):
        if not self.scan.flags & BODY_HAS_MODEL:
            return None
        return PyBytes_FromStringAndSize(<const char*> self.scan.model, self.scan.model_length)

    @property
    def model_offset(self):
        return self.scan.model_offset if self.scan.flags & BODY_HAS_MODEL else None

    @property
    def stream(self):
        return bool(self.scan.stream) if self.scan.flags & BODY_HAS_STREAM else None

    @property
    def max_tokens(self):
        return self.scan.max_tokens if self.scan.flags & BODY_HAS_MAX_TOKENS else None

    @property
    def user(self):
        if not self.scan.flags & BODY_HAS_USER:
            return None
        return PyBytes_FromStringAndSize(<const char*> self.scan.user, self.scan.user_length)

    @property
    def prompt_offset(self):
        return self.scan.prompt_offset if self.scan.flags & BODY_HAS_PROMPT else None

    @property
    def prompt_length(self):
        return self.scan.prompt_length if self.scan.flags & BODY_HAS_PROMPT else None

    @property
    def prompt_key(self):
        return self.scan.prompt_key if self.scan.flags & BODY_HAS_PROMPT else None


def hash_of(bytes data not None, uint64_t seed=0):
    """The 64-bit hash of `data` by hash_bytes."""
    return hash_bytes(<const uint8_t*> <const char*> data, len(data), seed)


def scan_struct_bytes():
    """The size of one body_scan_t."""
    return sizeof(body_scan_t)


def scan_repeatedly(bytes body not None, int times):
    """Scans `body` whole, `times` over, and returns the flags of the last time; for benchmarks."""
    cdef body_scan_t scan
    cdef const uint8_t* data = <const uint8_t*> <const char*> body
    cdef size_t size = len(body)
    cdef int i
    scan.flags = 0
    with nogil:
        for i in range(times):
            body_scan_begin(&scan)
            body_scan_feed(&scan, data, size)
    return scan.flags


def hash_repeatedly(bytes data not None, int times):
    """Hashes `data` `times` over, each seeded with the last; for benchmarks."""
    cdef const uint8_t* first = <const uint8_t*> <const char*> data
    cdef size_t size = len(data)
    cdef uint64_t value = 0
    cdef int i
    with nogil:
        for i in range(times):
            value = hash_bytes(first, size, value)
    return value

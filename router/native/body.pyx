"""The JSON body scanner: see body.pxd for what it promises.

A state machine over the top-level object only; what a value holds is skipped by json_skip.pyx, 64 bytes in a step.
Each byte is read once, so the cost is linear in any split; there is no recursion and nothing is allocated. The common
order of bytes (`"key": value, "key"`) is walked without going through the state of each byte: step_to_value,
step_to_key.
Neighbours: router/body_facts.py reads what is in doubt here; tests/oracle/body.py is the slow, obvious reading.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from router.native.hash cimport hash_finish
from router.native.json_skip cimport json_skip_nested, json_skip_string, json_skip_t
from router.native.json_text cimport json_integer, json_is_plain_text
from router.native.prompt cimport (
    PROMPT_BLOCK_BYTES_DEFAULT, PROMPT_KEYS_MAX, prompt_begin, prompt_begin_ahead, prompt_end_ahead, prompt_feed,
    prompt_feed_ahead, prompt_keys,
)

cdef extern from * nogil:
    """
    #include <stdint.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    static inline uint32_t fl_string_stops_at(const uint8_t* p) {
        __m128i bytes = _mm_loadu_si128((const __m128i*) p);
        __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
        __m128i backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(92));
        return (uint32_t) _mm_movemask_epi8(_mm_or_si128(quotes, backslashes));
    }
    #endif

    /* The first quote or backslash at or after p, or `end`. For keys and names: a few bytes, so sixteen at a time.
       The last, short step reads the 16 bytes before `end` again when the piece, which starts at `begin`, has them. */
    static inline const uint8_t* fl_find_string_stop(const uint8_t* begin, const uint8_t* p, const uint8_t* end) {
    #if defined(__SSE2__)
        for (; end - p >= 16; p += 16) {
            uint32_t mask = fl_string_stops_at(p);
            if (mask) return p + __builtin_ctz(mask);
        }
        if (p < end && end - begin >= 16) {
            uint32_t mask = fl_string_stops_at(end - 16);
            mask &= ((uint32_t) 0xFFFF << (p - (end - 16))) & 0xFFFF;
            return mask ? end - 16 + __builtin_ctz(mask) : end;
        }
    #else
        (void) begin;
    #endif
        while (p < end && *p != '"' && *p != 92) p++;
        return p;
    }
    """
    const uint8_t* fl_find_string_stop(const uint8_t* begin, const uint8_t* p, const uint8_t* end)


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
    IN_NESTED = 9                    # an array or object
    AFTER_VALUE = 10                 # a comma or the end of the object
    AFTER_OBJECT = 11                # white space only
    LOST = 12                        # not JSON: nothing that follows can be trusted

# Numbered so that 1 << key is its bit in seen_keys up to the last that names a prompt, which those from KEY_MESSAGES to
# KEY_QUERY do; those after it name what engines put before the prompt.
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
    KEY_SYSTEM = 13
    KEY_TOOLS = 14
    KEY_INSTRUCTIONS = 15
    KEY_FUNCTIONS = 16
    KEY_CACHE_SALT = 17

# Whose bytes go to the prompt chain: the top-level value's that is being read.
cdef enum:
    FED_NOWHERE = 0
    FED_PROMPT = 1
    FED_AHEAD = 2

cdef enum:
    TEXT_BYTES = 24                  # sizeof body_private_t.text; the longest wanted key has 21 bytes
    TEXT_TOO_LONG = 0xFFFF


cdef void body_scan_begin(body_scan_t* scan, uint32_t block_bytes) noexcept nogil:
    # model and user are only read up to their lengths, so they need no clearing: 512 bytes saved on every request.
    memset(scan, 0, <size_t> (&scan.model[0] - <uint8_t*> scan))
    memset(&scan.private_state, 0, sizeof(body_private_t))
    scan.max_tokens = -1
    prompt_begin(&scan.chain, block_bytes)


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
        if memcmp(text, b"tools", 5) == 0:
            return KEY_TOOLS
    elif length == 6:
        if memcmp(text, b"stream", 6) == 0:
            return KEY_STREAM
        if memcmp(text, b"prompt", 6) == 0:
            return KEY_PROMPT
        if memcmp(text, b"inputs", 6) == 0:
            return KEY_INPUTS
        if memcmp(text, b"system", 6) == 0:
            return KEY_SYSTEM
    elif length == 8:
        if memcmp(text, b"messages", 8) == 0:
            return KEY_MESSAGES
    elif length == 9:
        if memcmp(text, b"functions", 9) == 0:
            return KEY_FUNCTIONS
    elif length == 10:
        if memcmp(text, b"max_tokens", 10) == 0:
            return KEY_MAX_TOKENS
        if memcmp(text, b"cache_salt", 10) == 0:
            return KEY_CACHE_SALT
    elif length == 12:
        if memcmp(text, b"instructions", 12) == 0:
            return KEY_INSTRUCTIONS
    elif length == 17:
        if memcmp(text, b"max_output_tokens", 17) == 0:
            return KEY_MAX_OUTPUT_TOKENS
    elif length == 21:
        if memcmp(text, b"max_completion_tokens", 21) == 0:
            return KEY_MAX_COMPLETION_TOKENS
    return KEY_OTHER


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
    if key == KEY_OTHER or key > KEY_QUERY:
        return
    if state.seen_keys & (1 << key):
        scan.flags |= BODY_IN_DOUBT                              # parsers differ on which counts; the first stays here
        state.key = KEY_OTHER
    state.seen_keys |= <uint16_t> (1 << key)


cdef void end_captured_string(body_scan_t* scan) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    state.state = AFTER_VALUE
    if state.key == KEY_MODEL:
        if json_is_plain_text(scan.model, state.text_length):
            scan.model_length = state.text_length
            scan.flags |= BODY_HAS_MODEL
            return
    elif json_is_plain_text(scan.user, state.text_length):
        scan.user_length = state.text_length
        scan.flags |= BODY_HAS_USER
        return
    scan.flags |= BODY_IN_DOUBT


cdef void end_integer(body_scan_t* scan, const uint8_t* text, uint32_t length) noexcept nogil:
    cdef int64_t value = 0
    if not json_integer(text, length, &value):
        scan.flags |= BODY_IN_DOUBT
        return
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


cdef inline void begin_feeding(body_scan_t* scan, uint64_t offset) noexcept nogil:
    """The current value, which begins at body offset `offset`, goes to the prompt chain if it belongs there."""
    cdef body_private_t* state = &scan.private_state
    if state.key > KEY_QUERY:
        state.fed = FED_AHEAD
        state.fed_offset = offset
        prompt_begin_ahead(&scan.chain, state.key)
    elif not scan.flags & BODY_HAS_PROMPT:
        state.fed = FED_PROMPT
        state.fed_offset = offset
        scan.prompt_offset = offset


cdef void feed_prompt(body_scan_t* scan, const uint8_t* data, size_t size, bint ended) noexcept nogil:
    cdef size_t taken
    if not scan.flags & BODY_HAS_PROMPT:
        taken = <size_t> min(<uint64_t> size, BODY_PROMPT_KEY_BYTES - scan.chain.size_bytes)
        prompt_feed(&scan.chain, data, taken)
        data += taken
        size -= taken
        if ended or scan.chain.size_bytes == BODY_PROMPT_KEY_BYTES:
            scan.prompt_key = hash_finish(&scan.chain.running)
            scan.flags |= BODY_HAS_PROMPT
    prompt_feed(&scan.chain, data, size)
    if ended:
        scan.prompt_length = scan.chain.size_bytes


cdef void feed_chain(body_scan_t* scan, const uint8_t* data, uint64_t upto, bint ended) noexcept nogil:
    """Takes the value's bytes of this piece, up to body offset `upto`, into the chain; `data` is the piece's start."""
    cdef body_private_t* state = &scan.private_state
    cdef uint64_t first = max(state.fed_offset, scan.position)
    cdef size_t size = <size_t> (upto - first)
    data += first - scan.position
    if state.fed == FED_PROMPT:
        feed_prompt(scan, data, size, ended)
    else:
        prompt_feed_ahead(&scan.chain, data, size)
        if ended:
            prompt_end_ahead(&scan.chain)
    if ended:
        state.fed = FED_NOWHERE


cdef inline const uint8_t* read_value_start(body_scan_t* scan, const uint8_t* p, uint64_t offset) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    cdef uint8_t c = p[0]
    state.text_length = 0
    memset(&state.skip, 0, sizeof(json_skip_t))
    if c == c'"':
        if state.key == KEY_MODEL or state.key == KEY_USER:
            state.state = IN_CAPTURED_STRING
            if state.key == KEY_MODEL:
                scan.model_offset = offset + 1
            return p + 1
        state.state = IN_STRING
    elif c == c"{" or c == c"[":
        state.state = IN_NESTED
        state.skip.depth = 1
    elif c == c"-" or c"0" <= c <= c"9" or c == c"t" or c == c"f" or c == c"n":
        state.state = IN_SCALAR
        return p
    else:
        lose(scan)
        return p + 1
    if state.key >= KEY_MESSAGES:
        begin_feeding(scan, offset)
    elif state.key != KEY_OTHER:
        scan.flags |= BODY_IN_DOUBT                              # a type that this key does not have
    return p + 1


cdef inline const uint8_t* skip_value(
    body_scan_t* scan, const uint8_t* begin, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    cdef body_private_t* state = &scan.private_state
    if state.state == IN_STRING:
        p = json_skip_string(&state.skip, begin, p, end)
    else:
        p = json_skip_nested(&state.skip, begin, p, end, BODY_DEPTH_MAX)
        if state.skip.is_too_deep:
            scan.flags |= BODY_IN_DOUBT
    if state.skip.has_ended:
        state.state = AFTER_VALUE
    return p


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
    if state.skip.escape_pending:
        state.skip.escape_pending = 0
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
    state.skip.escape_pending = 1
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


cdef inline const uint8_t* step_to_value(
    body_scan_t* scan, const uint8_t* p, const uint8_t* end, uint64_t offset
) noexcept nogil:
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
        if IN_CAPTURED_STRING <= state.state <= IN_NESTED:
            if state.state == IN_SCALAR:
                p = read_scalar(scan, p, end)
            elif state.state == IN_CAPTURED_STRING:
                p = capture_string(scan, data, p, end)
            else:
                p = skip_value(scan, data, p, end)
            if state.state == AFTER_VALUE:
                if state.fed:
                    feed_chain(scan, data, scan.position + <uint64_t> (p - data), True)
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
    if state.fed:
        feed_chain(scan, data, scan.position + size, False)
    scan.position += size


# --- the door: tests and micro-benchmarks run the very code that requests run -----------------------------------------

cdef class BodyScan:
    """One body being scanned; facts are None until found."""
    cdef body_scan_t scan

    def __cinit__(self):
        memset(&self.scan, 0xA5, sizeof(body_scan_t))            # begin must not rely on what was there
        body_scan_begin(&self.scan, PROMPT_BLOCK_BYTES_DEFAULT)

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

    def prompt_keys(self, uint64_t model_hash=0):
        """(key, end in bytes) of each boundary passed: see prompt.pxd."""
        cdef uint64_t[PROMPT_KEYS_MAX] keys
        cdef uint32_t[PROMPT_KEYS_MAX] ends
        cdef uint32_t count = prompt_keys(&self.scan.chain, model_hash, keys, ends)
        return [(keys[index], ends[index]) for index in range(count)]


def scan_struct_bytes():
    """The size of one body_scan_t."""
    return sizeof(body_scan_t)


def scan_repeatedly(bytes body not None, int times):
    """Scans `body` whole, `times` over, and returns the flags of the last time; for benchmarks."""
    cdef body_scan_t scan
    cdef const uint8_t* data = <const uint8_t*> <const char*> body
    cdef size_t size = len(body)
    scan.flags = 0
    with nogil:
        for _ in range(times):
            body_scan_begin(&scan, PROMPT_BLOCK_BYTES_DEFAULT)
            body_scan_feed(&scan, data, size)
    return scan.flags

"""What a mock engine reads of a request: head, framing, and the few body fields that shape the answer.

Tolerant on purpose: an engine's server takes what a strict proxy must refuse, and a test of the proxy must see what
came through. JSON is walked, not validated: brackets, strings and the members of the top object must add up, no more.
Everything is a span into the caller's buffer; nothing allocates.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memchr, memcmp, memmove, memset, strlen

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char* left, const char* right, size_t size)

cdef extern from *:
    """
    #include <stddef.h>
    void *memmem(const void *haystack, size_t haystack_size, const void *needle, size_t needle_size);  /* GNU */
    """
    void* memmem(const void* haystack, size_t haystack_size, const void* needle, size_t needle_size) nogil

cdef enum:
    DEPTH_MAX = 256                  # nesting a mock walks into


cdef bint span_is(span_t span, const char* text) noexcept nogil:
    return span.size == strlen(text) and memcmp(span.data, text, span.size) == 0


cdef inline bint name_is(span_t span, const char* name, size_t size) noexcept nogil:
    return span.size == size and strncasecmp(<const char*> span.data, name, size) == 0


cdef bint contains_word(span_t value, const char* word) noexcept nogil:
    cdef size_t size = strlen(word)
    cdef size_t at = 0
    while at + size <= value.size:
        if strncasecmp(<const char*> value.data + at, word, size) == 0:
            return True
        at += 1
    return False


cdef int64_t decimal(const uint8_t* data, size_t size) noexcept nogil:
    """The leading decimal digits, at most 15 of them; -1 when there are none."""
    cdef int64_t value = 0
    cdef size_t at = 0
    while at < size and at < 15 and 48 <= data[at] <= 57:
        value = value * 10 + data[at] - 48
        at += 1
    return value if at else -1


# --- head and framing ---------------------------------------------------------------------------------------------

cdef void note_field(request_t* request, span_t name, span_t value) noexcept nogil:
    if name_is(name, b"content-length", 14):
        request.content_length = decimal(value.data, value.size)
        if request.content_length < 0:
            request.content_length = 0
    elif name_is(name, b"transfer-encoding", 17):
        request.chunked = contains_word(value, b"chunked")
    elif name_is(name, b"connection", 10):
        if contains_word(value, b"close"):
            request.keep_alive = False
        elif contains_word(value, b"keep-alive"):
            request.keep_alive = True
        request.names_upgrade = contains_word(value, b"upgrade")
    elif name_is(name, b"content-type", 12):
        request.multipart = contains_word(value, b"multipart/form-data")
    elif name_is(name, b"expect", 6):
        request.expects_continue = contains_word(value, b"100-continue")
    elif name_is(name, b"upgrade", 7):
        request.offers_upgrade = not contains_word(value, b"websocket")
    elif name_is(name, b"x-mock-fault", 12):
        request.fault = value
    elif name_is(name, b"x-mock-tokens", 13):
        request.answer_tokens = decimal(value.data, value.size)
    elif name_is(name, b"endpoint-load-metrics-format", 28):
        if contains_word(value, b"json"):
            request.report_format = REPORT_JSON
        elif contains_word(value, b"text"):
            request.report_format = REPORT_TEXT


cdef int parse_request_line(request_t* request, const uint8_t* line, size_t size) noexcept nogil:
    cdef const uint8_t* target = <const uint8_t*> memchr(line, 32, size)
    cdef const uint8_t* version
    cdef const uint8_t* query
    cdef size_t method_size
    if target == NULL:
        return -1
    method_size = target - line
    target += 1
    version = <const uint8_t*> memchr(target, 32, line + size - target)
    if version == NULL or line + size - version != 9 or memcmp(version, b" HTTP/1.", 8) != 0:
        return -1
    request.minor_version = version[8] - 48
    request.keep_alive = request.minor_version >= 1
    if method_size == 4 and memcmp(line, b"POST", 4) == 0:
        request.method = METHOD_POST
    elif method_size == 3 and memcmp(line, b"GET", 3) == 0:
        request.method = METHOD_GET
    elif method_size == 4 and memcmp(line, b"HEAD", 4) == 0:
        request.method = METHOD_HEAD
    if version - target > 7 and memcmp(target, b"http://", 7) == 0:      # absolute form
        target = <const uint8_t*> memchr(target + 7, 47, version - target - 7)
        if target == NULL:
            return -1
    query = <const uint8_t*> memchr(target, 63, version - target)
    request.path.data = target
    request.path.size = (query if query != NULL else version) - target
    return 0


cdef int64_t parse_head(const uint8_t* data, size_t size, request_t* request) noexcept nogil:
    cdef const uint8_t* end = <const uint8_t*> memmem(data, size, b"\r\n\r\n", 4)
    cdef const uint8_t* line = data
    cdef const uint8_t* line_end
    cdef const uint8_t* colon
    cdef span_t name
    cdef span_t value
    if end == NULL:
        return 0
    memset(request, 0, sizeof(request_t))
    request.head_size = end + 4 - data
    line_end = <const uint8_t*> memchr(line, 13, end + 1 - line)
    if parse_request_line(request, line, line_end - line) < 0:
        return -1
    while line_end < end:
        line = line_end + 2
        line_end = <const uint8_t*> memchr(line, 13, end + 1 - line)
        if line_end == NULL:
            return -1
        colon = <const uint8_t*> memchr(line, 58, line_end - line)
        if colon == NULL:
            return -1
        name.data = line
        name.size = colon - line
        value.data = colon + 1
        value.size = line_end - colon - 1
        while value.size and value.data[0] == 32:
            value.data += 1
            value.size -= 1
        note_field(request, name, value)
    return <int64_t> request.head_size


cdef int dechunk(dechunk_t* state, uint8_t* data, size_t size) noexcept nogil:
    # States: 0 size line, 1 data, 2 CR LF after data, 3 trailers.
    cdef const uint8_t* end
    cdef size_t part
    cdef size_t at
    cdef uint8_t digit
    while True:
        if state.state == 1:
            part = size - state.read
            if part > state.left:
                part = state.left
            if part and state.written != state.read:
                memmove(data + state.written, data + state.read, part)
            state.read += part
            state.written += part
            state.left -= part
            if state.left:
                return 0
            state.state = 2
        if state.state == 2:
            if size - state.read < 2:
                return 0
            if data[state.read] != 13:
                return -1
            state.read += 2
            state.state = 0
        end = <const uint8_t*> memchr(data + state.read, 10, size - state.read)
        if end == NULL:
            return 0
        if state.state == 3:
            part = end - (data + state.read)
            state.read += part + 1
            if part <= 1:                     # the empty line
                return 1
            continue
        state.left = 0
        at = state.read
        while True:
            digit = data[at]
            if 48 <= digit <= 57:
                state.left = state.left * 16 + digit - 48
            elif 97 <= (digit | 32) <= 102:
                state.left = state.left * 16 + (digit | 32) - 87
            else:
                break
            at += 1
        if at == state.read or at - state.read > 8:
            return -1
        state.read = end + 1 - data
        state.state = 1 if state.left else 3


# --- JSON body ----------------------------------------------------------------------------------------------------

cdef inline size_t skip_space(const uint8_t* data, size_t at, size_t size) noexcept nogil:
    while at < size and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


cdef size_t skip_string(const uint8_t* data, size_t at, size_t size) noexcept nogil:
    """`at` is the opening quote; the offset after the closing one, or 0 when the string does not end."""
    cdef const uint8_t* quote
    cdef const uint8_t* back
    at += 1
    while True:
        quote = <const uint8_t*> memchr(data + at, 34, size - at)
        if quote == NULL:
            return 0
        back = quote
        while back > data + at and (back - 1)[0] == 92:
            back -= 1
        at = quote + 1 - data
        if (quote - back) % 2 == 0:           # an odd run of backslashes escapes the quote
            return at


cdef size_t skip_value(const uint8_t* data, size_t at, size_t size, int32_t* elements) noexcept nogil:
    """The offset after the value at `at`, or 0; `elements` gets the commas at the value's own level plus one."""
    cdef uint8_t[DEPTH_MAX] closers
    cdef int depth = 0
    cdef size_t start = at
    cdef uint8_t here
    elements[0] = 1
    if at >= size:
        return 0
    here = data[at]
    if here == 34:
        return skip_string(data, at, size)
    if here != 123 and here != 91:
        while at < size and data[at] not in b",}] \r\n\t\"{[:":
            at += 1
        return at if at > start else 0
    while at < size:
        here = data[at]
        if here == 34:
            at = skip_string(data, at, size)
            if at == 0:
                return 0
            continue
        if here == 123 or here == 91:
            if depth == DEPTH_MAX:
                return 0
            closers[depth] = here + 2         # { } and [ ] are two apart in ASCII
            depth += 1
        elif here == 125 or here == 93:
            depth -= 1
            if closers[depth] != here:
                return 0
            if depth == 0:
                return at + 1
        elif here == 44 and depth == 1:
            elements[0] += 1
        at += 1
    return 0


cdef inline bint is_true(const uint8_t* data, size_t at, size_t size) noexcept nogil:
    return size - at >= 4 and memcmp(data + at, b"true", 4) == 0


cdef void note_nested(facts_t* facts, span_t key, span_t value) noexcept nogil:
    """Members one level down that matter: usage in streams, Ollama's and SGLang's token limits."""
    cdef const uint8_t* found
    cdef size_t at
    if span_is(key, b"stream_options"):
        found = <const uint8_t*> memmem(value.data, value.size, b"\"include_usage\"", 15)
        if found != NULL:
            facts.include_usage = memmem(found, value.data + value.size - found, b"true", 4) != NULL
        return
    if span_is(key, b"options"):
        found = <const uint8_t*> memmem(value.data, value.size, b"\"num_predict\"", 13)
    else:
        found = <const uint8_t*> memmem(value.data, value.size, b"\"max_new_tokens\"", 16)
    if found != NULL:
        found = <const uint8_t*> memchr(found, 58, value.data + value.size - found)
        if found != NULL:
            at = skip_space(value.data, found + 1 - value.data, value.size)
            facts.tokens_max = decimal(value.data + at, value.size - at)


cdef void note_member(facts_t* facts, span_t key, span_t value, int32_t elements) noexcept nogil:
    cdef uint8_t first = value.data[0]
    if span_is(key, b"model"):
        if first == 34:
            facts.model.data = value.data + 1
            facts.model.size = value.size - 2
    elif span_is(key, b"stream"):
        facts.stream = is_true(value.data, 0, value.size)
    elif (span_is(key, b"max_tokens") or span_is(key, b"max_completion_tokens")
          or span_is(key, b"max_output_tokens")):
        facts.tokens_max = decimal(value.data, value.size)
    elif (span_is(key, b"messages") or span_is(key, b"prompt") or span_is(key, b"input") or span_is(key, b"inputs")
          or span_is(key, b"text") or span_is(key, b"documents") or span_is(key, b"text_2")):
        if value.size > facts.prompt.size:
            facts.prompt = value
        if first == 91:
            # A list of numbers is one tokenized prompt.
            first = value.data[skip_space(value.data, 1, value.size)]
            facts.input_count = elements if first == 34 or first == 123 or first == 91 else 1
    elif span_is(key, b"encoding_format"):
        facts.base64 = value.size == 8 and memcmp(value.data, b"\"base64\"", 8) == 0
    elif span_is(key, b"ignore_eos"):
        facts.ignore_eos = is_true(value.data, 0, value.size)
    elif span_is(key, b"stream_options") or span_is(key, b"options") or span_is(key, b"sampling_params"):
        note_nested(facts, key, value)


cdef bint scan_json(const uint8_t* data, size_t size, facts_t* facts) noexcept nogil:
    cdef size_t at = skip_space(data, 0, size)
    cdef size_t end
    cdef int32_t elements
    cdef span_t key
    cdef span_t value
    memset(facts, 0, sizeof(facts_t))
    facts.stream = -1
    facts.tokens_max = -1
    facts.input_count = 1
    if at >= size or data[at] != 123:
        return False
    at = skip_space(data, at + 1, size)
    if at < size and data[at] == 125:
        return skip_space(data, at + 1, size) == size
    while at < size and data[at] == 34:
        end = skip_string(data, at, size)
        if end == 0:
            return False
        key.data = data + at + 1
        key.size = end - at - 2
        at = skip_space(data, end, size)
        if at >= size or data[at] != 58:
            return False
        at = skip_space(data, at + 1, size)
        end = skip_value(data, at, size, &elements)
        if end == 0:
            return False
        value.data = data + at
        value.size = end - at
        note_member(facts, key, value, elements)
        at = skip_space(data, end, size)
        if at >= size:
            return False
        if data[at] == 125:
            return skip_space(data, at + 1, size) == size
        if data[at] != 44:
            return False
        at = skip_space(data, at + 1, size)
    return False


cdef void scan_multipart(const uint8_t* data, size_t size, facts_t* facts) noexcept nogil:
    cdef const uint8_t* found = <const uint8_t*> memmem(data, size, b"name=\"model\"", 12)
    cdef const uint8_t* end
    memset(facts, 0, sizeof(facts_t))
    facts.stream = 0
    facts.tokens_max = -1
    facts.input_count = 1
    facts.prompt.data = data
    facts.prompt.size = size
    if found == NULL:
        return
    found = <const uint8_t*> memmem(found, data + size - found, b"\r\n\r\n", 4)
    if found == NULL:
        return
    found += 4
    end = <const uint8_t*> memchr(found, 13, data + size - found)
    if end != NULL:
        facts.model.data = found
        facts.model.size = end - found


def request_facts(bytes body):
    """Door for tests: the fields a mock reads of a JSON body, or None when it is not a JSON object."""
    cdef facts_t facts
    if not scan_json(body, len(body), &facts):
        return None
    return {
        "model": (<const char*> facts.model.data)[:facts.model.size] if facts.model.size else b"",
        "prompt": (<const char*> facts.prompt.data)[:facts.prompt.size] if facts.prompt.size else b"",
        "stream": facts.stream,
        "tokens_max": facts.tokens_max,
        "include_usage": bool(facts.include_usage),
        "input_count": facts.input_count,
    }

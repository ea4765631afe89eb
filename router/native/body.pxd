"""The few facts routing needs from a JSON request body, found while its bytes arrive and without building a tree.

Resumable: `body_scan_feed` may be given the body in any pieces. The scanner does not validate JSON; where its reading
could differ from a real parser's (escapes in a wanted key or value, a wanted key twice, nesting over the bound, not
an object) it says `in_doubt`, and the caller asks msgspec (router/body_facts.py) when the whole body is there.
Invariant: a fact that is flagged and not in doubt is what a JSON parser would say, once BODY_COMPLETE is set too.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.hash cimport hash_bytes
from router.native.json_skip cimport json_skip_t
from router.native.prompt cimport prompt_chain_t

cdef enum:
    BODY_MODEL_BYTES_MAX = 256
    BODY_USER_BYTES_MAX = 256
    BODY_PROMPT_KEY_BYTES = 1024     # bytes of the prompt that the prompt-prefix key covers
    BODY_DEPTH_MAX = 128             # nesting, the top-level object included; no engine's schema comes near

cdef enum body_flag:
    BODY_HAS_MODEL = 1
    BODY_HAS_STREAM = 2
    BODY_HAS_MAX_TOKENS = 4
    BODY_HAS_USER = 8
    BODY_HAS_PROMPT = 16             # prompt_key is final: the value has ended or BODY_PROMPT_KEY_BYTES of it are here
    BODY_IN_DOUBT = 32               # ask msgspec
    BODY_COMPLETE = 64               # the top-level object has closed
    BODY_NOT_OBJECT = 128            # the first non-space byte is not '{' (in doubt as well)

cdef struct body_private_t:          # the scanner's own
    uint64_t fed_offset              # where the value that goes to the prompt chain begins
    json_skip_t skip                 # inside the current top-level value; its escape_pending also inside a key
    uint16_t seen_keys               # bit per wanted key
    uint16_t text_length             # bytes in `text`, or of the model or user so far
    uint8_t text[24]                 # a key, number or literal that may continue in the next piece
    uint8_t state
    uint8_t key
    uint8_t fed                      # what the value being read is to the prompt chain

cdef struct body_scan_t:             # zero-filled is the start state
    uint64_t position                # bytes consumed so far, of the whole body
    uint32_t flags                   # body_flag
    uint8_t stream                   # value of top-level "stream"
    int64_t max_tokens               # of "max_tokens" / "max_completion_tokens" / "max_output_tokens"; see its flag
    uint64_t model_offset            # of the model string's content (inside the quotes) in the whole body
    uint32_t model_length
    uint32_t user_length
    uint64_t prompt_offset           # where the first value of "messages", "prompt", "input(s)", "text", "query" begins
    uint64_t prompt_length           # 0 until that value has ended
    uint64_t prompt_key              # 64-bit hash of the value's first BODY_PROMPT_KEY_BYTES bytes (or all of it)
    uint8_t model[256]               # when flagged: UTF-8 without quotes, backslashes, controls: JSON as it is
    uint8_t user[256]                # likewise
    body_private_t private_state
    prompt_chain_t chain             # of the prompt, and of "tools", "system" and the like before it; not when in doubt

cdef void body_scan_begin(body_scan_t* scan, uint32_t block_bytes) noexcept nogil
cdef void body_scan_feed(body_scan_t* scan, const uint8_t* data, size_t size) noexcept nogil

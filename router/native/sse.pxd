"""What a response body says about itself, counted as it passes, without copying it: server-sent events, tokens, usage.

Fed the decoded body (no chunk framing) in any pieces. In SSE mode it counts events and finds the `usage` object of
OpenAI and Anthropic streams and llama.cpp's timings; in JSON mode only the usage object is looked for.
Invariant: the counts depend on the bytes alone, never on how they were split; state is bounded and lives in the
struct.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum meter_mode:
    METER_OFF = 0                    # a content coding, or a type that holds nothing to count
    METER_SSE = 1
    METER_JSON = 2

cdef struct sse_private_t:           # the meter's own
    int64_t number                   # integer being read
    uint8_t text[24]                 # event name, or key inside a usage object, that may continue in the next piece
    uint8_t head[10]                 # how the event's data begins, white space outside the first key left out
    uint8_t head_length
    uint8_t text_length
    uint8_t line_state
    uint8_t json_state
    uint8_t matched                  # bytes matched of the key being looked for
    uint8_t depth                    # open brackets inside the usage object, its own included
    uint8_t key
    uint8_t event_kind               # what the event's name means
    uint8_t flags
    uint8_t last_byte                # of the previous piece

cdef struct sse_meter_t:             # zero-filled, mode set, is the start state
    uint8_t mode
    uint8_t saw_done                 # `data: [DONE]`, Anthropic's `message_stop`, the last event of a Responses stream
    uint8_t saw_error                # an `error` event, or an object whose first key is "error" with a value but null
    uint8_t has_usage                # at least one count below was read
    uint32_t event_count             # events with data, [DONE] not counted
    int64_t prompt_tokens            # -1 until a usage object said so (input_tokens in Anthropic / Responses)
    int64_t completion_tokens        # -1 likewise (output_tokens); the last usage object wins field by field
    int64_t cached_tokens            # prompt_ or input_tokens_details.cached_tokens, cache_read_input_tokens
    sse_private_t private_state

cdef void sse_meter_begin(sse_meter_t* meter, int mode) noexcept nogil
# Returns by how much event_count grew: the events that ended inside `data`.
cdef uint32_t sse_meter_feed(sse_meter_t* meter, const uint8_t* data, size_t size) noexcept nogil

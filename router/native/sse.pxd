"""What a response body says about itself, counted while it passes and without copying it: server-sent events, tokens, usage.

Fed the decoded body (no chunk framing) in any pieces. In SSE mode it counts events and finds the `usage` object of OpenAI and
Anthropic streams and llama.cpp's timings; in JSON mode only the usage object is looked for.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum meter_mode:
    METER_OFF = 0                    # a content coding, or a type that holds nothing to count
    METER_SSE = 1
    METER_JSON = 2

cdef struct sse_meter_t:             # zero-filled, mode set, is the start state
    uint8_t mode
    uint8_t saw_done                 # `data: [DONE]`, or an Anthropic `message_stop` event
    uint8_t saw_error                # an `error` event, or a data object whose first key is "error"
    uint8_t has_usage
    uint32_t event_count             # events with data, [DONE] not counted
    int64_t prompt_tokens            # -1 until a usage object said so (input_tokens in Anthropic / Responses)
    int64_t completion_tokens        # -1 likewise (output_tokens); the last usage object wins field by field
    int64_t cached_tokens            # prompt_tokens_details.cached_tokens, input_tokens_details.cached_tokens, cache_read_input_tokens
    uint8_t private_state[256]

cdef void sse_meter_begin(sse_meter_t* meter, int mode) noexcept nogil
# Returns how many events ended inside `data`.
cdef uint32_t sse_meter_feed(sse_meter_t* meter, const uint8_t* data, size_t size) noexcept nogil

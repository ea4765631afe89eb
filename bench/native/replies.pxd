"""Response bodies of a mock engine: whole JSON, or a stream event by event, in each dialect it speaks."""

from bench.native.out cimport out_t
from bench.native.request cimport span_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef enum:
    EMBEDDING_FLOATS = 16
    PREFIX_BYTES = 512

cdef enum api_kind:
    API_NONE = 0
    API_CHAT = 1                 # OpenAI chat completions
    API_COMPLETIONS = 2
    API_RESPONSES = 3
    API_MESSAGES = 4             # Anthropic
    API_OLLAMA = 5               # Ollama chat, newline-delimited JSON
    API_GENERATE = 6             # SGLang's native path
    API_EMBEDDINGS = 7           # from here on nothing is generated: the answer is there when the prompt is computed
    API_RERANK = 8
    API_SCORE = 9
    API_TRANSCRIPTION = 10
    API_TOKENIZE = 11

cdef struct answer_t:
    uint8_t api
    uint8_t stream
    uint8_t chunked              # stream events as chunks, each its own; else bare
    uint8_t include_usage
    uint8_t base64
    uint8_t reached_max          # ended by the token limit, not by the model
    uint64_t seed                # of the prompt: the words follow from it
    uint64_t id_high
    uint64_t id_low
    int64_t created_s
    const char* model            # the engine's, safe inside JSON
    int32_t prompt_tokens
    int32_t cached_tokens
    int32_t completion_tokens
    int32_t input_count
    int32_t event_count          # written so far
    int32_t prefix_size
    uint8_t[PREFIX_BYTES] prefix     # of every token event

cdef void reply_whole(out_t* out, const answer_t* answer) noexcept nogil
cdef void reply_stream_begin(out_t* out, answer_t* answer) noexcept nogil
cdef void reply_stream_token(out_t* out, answer_t* answer, int32_t index) noexcept nogil
cdef void reply_stream_end(out_t* out, answer_t* answer, bint with_done) noexcept nogil
cdef void reply_stream_error(out_t* out, answer_t* answer) noexcept nogil
cdef void reply_error(out_t* out, int status, const char* kind, const char* message) noexcept nogil
cdef void reply_unknown_model(out_t* out, span_t model) noexcept nogil
cdef const char* stream_content_type(int api) noexcept nogil
cdef uint64_t seed_of(const uint8_t* data, size_t size) noexcept nogil      # of a prompt
cdef uint64_t mix(uint64_t word) noexcept nogil

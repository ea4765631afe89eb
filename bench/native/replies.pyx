"""Response bodies of a mock engine: whole JSON, or a stream event by event, in each dialect it speaks.

The answer's words follow from the prompt's seed alone, so a test knows them without a model (`answer_text`). In a
stream each event is one HTTP chunk, as ASGI servers send them. What does not change between a stream's token events
is written once, into `answer_t.prefix`. Shapes: OpenAI and Anthropic API references, vLLM, SGLang and Ollama servers.
"""

from bench.native.out cimport out_bytes, out_chunk_begin, out_chunk_end, out_float, out_hex, out_int, out_t, out_text
from bench.native.request cimport span_t
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

cdef (const char*)[64] WORDS = [
    b"the", b"a", b"river", b"light", b"moves", b"under", b"stone", b"quiet", b"morning", b"opens", b"with",
    b"small", b"birds", b"over", b"green", b"hills", b"and", b"then", b"wind", b"turns", b"slowly", b"through",
    b"old", b"trees", b"where", b"water", b"keeps", b"time", b"for", b"every", b"road", b"that", b"leads",
    b"home", b"after", b"rain", b"clear", b"sky", b"above", b"long", b"fields", b"carry", b"warm", b"dust",
    b"into", b"summer", b"while", b"distant", b"bells", b"answer", b"each", b"other", b"across", b"valley",
    b"until", b"night", b"brings", b"stars", b"back", b"to", b"their", b"places", b"again", b"softly",
]
cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef uint64_t mix(uint64_t word) noexcept nogil:
    # SplitMix64 (Steele, Lea, Flood 2014): one step from a counter to a random word.
    word += 0x9E3779B97F4A7C15ULL
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL
    return word ^ (word >> 31)


cdef uint64_t seed_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t seed = size
    cdef uint64_t word
    cdef size_t at = 0
    while at + 8 <= size:
        memcpy(&word, data + at, 8)
        seed = (seed ^ word) * 0xFF51AFD7ED558CCDULL      # MurmurHash3's finalizer, word by word
        seed ^= seed >> 32
        at += 8
    while at < size:
        seed = (seed ^ data[at]) * 0xFF51AFD7ED558CCDULL
        at += 1
    return mix(seed)


cdef void out_word(out_t* out, uint64_t seed, int32_t index) noexcept nogil:
    if index:
        out_bytes(out, b" ", 1)
    out_text(out, WORDS[mix(seed + <uint64_t> index) & 63])


cdef void out_words(out_t* out, const answer_t* answer) noexcept nogil:
    cdef int32_t index
    for index in range(answer.completion_tokens):
        out_word(out, answer.seed, index)


cdef void out_id(out_t* out, const char* prefix, const answer_t* answer) noexcept nogil:
    out_text(out, prefix)
    out_hex(out, answer.id_high, 16)
    out_hex(out, answer.id_low, 16)


# --- pieces several dialects share --------------------------------------------------------------------------------

cdef void out_openai_usage(out_t* out, const answer_t* answer) noexcept nogil:
    cdef int32_t completion_tokens = answer.completion_tokens if answer.api < API_EMBEDDINGS else 0
    out_text(out, b"{\"prompt_tokens\":")
    out_int(out, answer.prompt_tokens)
    out_text(out, b",\"total_tokens\":")
    out_int(out, answer.prompt_tokens + completion_tokens)
    out_text(out, b",\"completion_tokens\":")
    out_int(out, completion_tokens)
    out_text(out, b",\"prompt_tokens_details\":{\"cached_tokens\":")
    out_int(out, answer.cached_tokens)
    out_text(out, b"}}")


cdef void out_message_usage(out_t* out, const answer_t* answer, int32_t output_tokens) noexcept nogil:
    out_text(out, b"{\"input_tokens\":")
    out_int(out, answer.prompt_tokens)
    out_text(out, b",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":")
    out_int(out, answer.cached_tokens)
    out_text(out, b",\"output_tokens\":")
    out_int(out, output_tokens)
    out_text(out, b"}")


cdef void out_head(out_t* out, const char* id_prefix, const char* object_name, const answer_t* answer) noexcept nogil:
    """`{"id":...,"object":...,"created":...,"model":...` as all of OpenAI's objects begin."""
    out_text(out, b"{\"id\":\"")
    out_id(out, id_prefix, answer)
    out_text(out, b"\",\"object\":\"")
    out_text(out, object_name)
    out_text(out, b"\",\"created\":")
    out_int(out, answer.created_s)
    out_text(out, b",\"model\":\"")
    out_text(out, answer.model)
    out_text(out, b"\"")


cdef const char* finish_reason(const answer_t* answer) noexcept nogil:
    if answer.api == API_MESSAGES:
        return b"max_tokens" if answer.reached_max else b"end_turn"
    return b"length" if answer.reached_max else b"stop"


cdef void out_base64(out_t* out, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t at
    cdef uint64_t group
    cdef int place
    cdef size_t present
    for at in range(0, size, 3):
        present = size - at if size - at < 3 else 3
        group = <uint64_t> data[at] << 16
        if present > 1:
            group |= <uint64_t> data[at + 1] << 8
        if present > 2:
            group |= data[at + 2]
        for place in range(4):
            if place <= <int> present:
                out_bytes(out, &BASE64[(group >> (18 - 6 * place)) & 63], 1)
            else:
                out_bytes(out, b"=", 1)


cdef void out_embedding(out_t* out, const answer_t* answer, int32_t input_index) noexcept nogil:
    cdef float[EMBEDDING_FLOATS] values
    cdef int place
    for place in range(EMBEDDING_FLOATS):
        values[place] = <float> (<double> (mix(answer.seed + input_index * 1000003 + place) >> 40) / (1 << 24) - 0.5)
    if answer.base64:
        out_text(out, b"\"")
        out_base64(out, <uint8_t*> values, sizeof(values))
        out_text(out, b"\"")
        return
    for place in range(EMBEDDING_FLOATS):
        out_text(out, b"," if place else b"[")
        out_float(out, values[place])
    out_text(out, b"]")


# --- whole bodies -------------------------------------------------------------------------------------------------

cdef void whole_list(out_t* out, const answer_t* answer) noexcept nogil:
    """Embeddings, rerank and score: one entry for each input."""
    cdef int32_t index
    cdef int32_t entries = answer.input_count
    if answer.api == API_EMBEDDINGS:
        out_head(out, b"embd-", b"list", answer)
        out_text(out, b",\"data\":[")
    elif answer.api == API_SCORE:
        out_head(out, b"score-", b"list", answer)
        out_text(out, b",\"data\":[")
    else:
        out_text(out, b"{\"id\":\"")
        out_id(out, b"rerank-", answer)
        out_text(out, b"\",\"model\":\"")
        out_text(out, answer.model)
        out_text(out, b"\",\"results\":[")
    for index in range(entries):
        out_text(out, b",{\"index\":" if index else b"{\"index\":")
        out_int(out, index)
        if answer.api == API_EMBEDDINGS:
            out_text(out, b",\"object\":\"embedding\",\"embedding\":")
            out_embedding(out, answer, index)
        elif answer.api == API_SCORE:
            out_text(out, b",\"object\":\"score\",\"score\":")
            out_float(out, <double> (mix(answer.seed + index) >> 40) / (1 << 24))
        else:
            out_text(out, b",\"relevance_score\":")
            out_float(out, 1.0 / (2 + index))           # best first, as the API wants it
        out_text(out, b"}")
    out_text(out, b"],\"usage\":")
    out_openai_usage(out, answer)
    out_text(out, b"}")


cdef void out_response_object(out_t* out, const answer_t* answer, bint completed) noexcept nogil:
    out_text(out, b"{\"id\":\"")
    out_id(out, b"resp_", answer)
    out_text(out, b"\",\"object\":\"response\",\"created_at\":")
    out_int(out, answer.created_s)
    out_text(out, b",\"status\":\"")
    out_text(out, b"completed" if completed else b"in_progress")
    out_text(out, b"\",\"model\":\"")
    out_text(out, answer.model)
    out_text(out, b"\",\"error\":null,\"incomplete_details\":null,\"instructions\":null,\"metadata\":{},"
                  b"\"parallel_tool_calls\":true,\"temperature\":1.0,\"tool_choice\":\"auto\",\"tools\":[],"
                  b"\"top_p\":1.0,\"output\":[")
    if completed:
        out_response_item(out, answer, True)
    out_text(out, b"],\"usage\":")
    if completed:
        out_text(out, b"{\"input_tokens\":")
        out_int(out, answer.prompt_tokens)
        out_text(out, b",\"input_tokens_details\":{\"cached_tokens\":")
        out_int(out, answer.cached_tokens)
        out_text(out, b"},\"output_tokens\":")
        out_int(out, answer.completion_tokens)
        out_text(out, b",\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":")
        out_int(out, answer.prompt_tokens + answer.completion_tokens)
        out_text(out, b"}}")
    else:
        out_text(out, b"null}")


cdef void out_response_part(out_t* out, const answer_t* answer, bint completed) noexcept nogil:
    out_text(out, b"{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"")
    if completed:
        out_words(out, answer)
    out_text(out, b"\"}")


cdef void out_response_item(out_t* out, const answer_t* answer, bint completed) noexcept nogil:
    out_text(out, b"{\"type\":\"message\",\"role\":\"assistant\",\"id\":\"")
    out_id(out, b"msg_", answer)
    if completed:
        out_text(out, b"\",\"status\":\"completed\",\"content\":[")
        out_response_part(out, answer, True)
        out_text(out, b"]}")
    else:
        out_text(out, b"\",\"status\":\"in_progress\",\"content\":[]}")


cdef void reply_whole(out_t* out, const answer_t* answer) noexcept nogil:
    cdef int32_t index
    if answer.api == API_CHAT:
        out_head(out, b"chatcmpl-", b"chat.completion", answer)
        out_text(out, b",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"")
        out_words(out, answer)
        out_text(out, b"\",\"refusal\":null,\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"")
        out_text(out, finish_reason(answer))
        out_text(out, b"\",\"stop_reason\":null}],\"usage\":")
        out_openai_usage(out, answer)
        out_text(out, b"}")
    elif answer.api == API_COMPLETIONS:
        out_head(out, b"cmpl-", b"text_completion", answer)
        out_text(out, b",\"choices\":[{\"index\":0,\"text\":\"")
        out_words(out, answer)
        out_text(out, b"\",\"logprobs\":null,\"finish_reason\":\"")
        out_text(out, finish_reason(answer))
        out_text(out, b"\",\"stop_reason\":null}],\"usage\":")
        out_openai_usage(out, answer)
        out_text(out, b"}")
    elif answer.api == API_RESPONSES:
        out_response_object(out, answer, True)
    elif answer.api == API_MESSAGES:
        out_text(out, b"{\"id\":\"")
        out_id(out, b"msg_", answer)
        out_text(out, b"\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"")
        out_text(out, answer.model)
        out_text(out, b"\",\"content\":[{\"type\":\"text\",\"text\":\"")
        out_words(out, answer)
        out_text(out, b"\"}],\"stop_reason\":\"")
        out_text(out, finish_reason(answer))
        out_text(out, b"\",\"stop_sequence\":null,\"usage\":")
        out_message_usage(out, answer, answer.completion_tokens)
        out_text(out, b"}")
    elif answer.api == API_OLLAMA:
        out_ollama_line(out, answer, -1)
    elif answer.api == API_GENERATE:
        out_text(out, b"{\"text\":\"")
        out_words(out, answer)
        out_generate_meta(out, answer, answer.completion_tokens)
    elif answer.api == API_TRANSCRIPTION:
        out_text(out, b"{\"text\":\"")
        out_words(out, answer)
        out_text(out, b"\"}")
    elif answer.api == API_TOKENIZE:
        out_text(out, b"{\"count\":")
        out_int(out, answer.prompt_tokens)
        out_text(out, b",\"max_model_len\":131072,\"tokens\":[")
        for index in range(answer.prompt_tokens):
            if index:
                out_text(out, b",")
            out_int(out, mix(answer.seed + <uint64_t> index) % 128256)       # Llama 3's vocabulary
        out_text(out, b"]}")
    else:
        whole_list(out, answer)


# --- streams ------------------------------------------------------------------------------------------------------

cdef size_t event_begin(out_t* out, answer_t* answer, const char* name) noexcept nogil:
    cdef size_t mark = out_chunk_begin(out) if answer.chunked else 0
    if name != NULL:
        out_text(out, b"event: ")
        out_text(out, name)
        out_text(out, b"\n")
    if answer.api != API_OLLAMA:
        out_bytes(out, b"data: ", 6)
    return mark


cdef void event_end(out_t* out, answer_t* answer, size_t mark) noexcept nogil:
    if answer.api == API_OLLAMA:
        out_bytes(out, b"\n", 1)
    else:
        out_bytes(out, b"\n\n", 2)
    if answer.chunked:
        out_chunk_end(out, mark)
    answer.event_count += 1


cdef void bare_event(out_t* out, answer_t* answer, const char* name, const char* text) noexcept nogil:
    cdef size_t mark = event_begin(out, answer, name)
    out_text(out, text)
    event_end(out, answer, mark)


cdef size_t response_event_begin(out_t* out, answer_t* answer, const char* name) noexcept nogil:
    """The Responses API numbers its events and repeats their name in the data."""
    cdef size_t mark = event_begin(out, answer, name)
    out_text(out, b"{\"type\":\"")
    out_text(out, name)
    out_text(out, b"\",\"sequence_number\":")
    out_int(out, answer.event_count)
    return mark


cdef void response_place(out_t* out, answer_t* answer) noexcept nogil:
    out_text(out, b",\"item_id\":\"")
    out_id(out, b"msg_", answer)
    out_text(out, b"\",\"output_index\":0,\"content_index\":0")


cdef void out_ollama_line(out_t* out, const answer_t* answer, int32_t index) noexcept nogil:
    """One line of Ollama's stream: token `index`; completion_tokens: the last line; -1: the whole answer as one."""
    cdef bint done = index < 0 or index == answer.completion_tokens
    out_text(out, b"{\"model\":\"")
    out_text(out, answer.model)
    out_text(out, b"\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"")
    if index < 0:
        out_words(out, answer)
    elif not done:
        out_word(out, answer.seed, index)
    if not done:
        out_text(out, b"\"},\"done\":false}")
        return
    out_text(out, b"\"},\"done\":true,\"done_reason\":\"")
    out_text(out, finish_reason(answer))
    out_text(out, b"\",\"prompt_eval_count\":")
    out_int(out, answer.prompt_tokens)
    out_text(out, b",\"eval_count\":")
    out_int(out, answer.completion_tokens)
    out_text(out, b"}")


cdef void out_generate_meta(out_t* out, const answer_t* answer, int32_t tokens) noexcept nogil:
    out_text(out, b"\",\"meta_info\":{\"id\":\"")
    out_id(out, b"", answer)
    out_text(out, b"\",\"prompt_tokens\":")
    out_int(out, answer.prompt_tokens)
    out_text(out, b",\"completion_tokens\":")
    out_int(out, tokens)
    out_text(out, b",\"cached_tokens\":")
    out_int(out, answer.cached_tokens)
    out_text(out, b",\"finish_reason\":")
    if tokens < answer.completion_tokens:
        out_text(out, b"null}}")
    else:
        out_text(out, b"{\"type\":\"")
        out_text(out, finish_reason(answer))
        out_text(out, b"\"}}}")


cdef const char* stream_content_type(int api) noexcept nogil:
    return b"application/x-ndjson" if api == API_OLLAMA else b"text/event-stream; charset=utf-8"


cdef void write_prefix(answer_t* answer) noexcept nogil:
    cdef const char* id_prefix = b"chatcmpl-" if answer.api == API_CHAT else b"cmpl-"
    cdef const char* object_name = b"chat.completion.chunk" if answer.api == API_CHAT else b"text_completion"
    answer.prefix_size = snprintf(
        <char*> answer.prefix, PREFIX_BYTES,
        b"data: {\"id\":\"%s%016llx%016llx\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\",\"choices\":[",
        id_prefix, <unsigned long long> answer.id_high, <unsigned long long> answer.id_low, object_name,
        <long long> answer.created_s, answer.model)


cdef void reply_stream_begin(out_t* out, answer_t* answer) noexcept nogil:
    """What comes before the first token, written together with it."""
    cdef size_t mark
    if answer.api == API_CHAT or answer.api == API_COMPLETIONS:
        write_prefix(answer)
        if answer.api == API_CHAT:
            mark = out_chunk_begin(out) if answer.chunked else 0
            out_bytes(out, answer.prefix, answer.prefix_size)
            out_text(out, b"{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                          b"\"finish_reason\":null}]}")
            event_end(out, answer, mark)
    elif answer.api == API_MESSAGES:
        mark = event_begin(out, answer, b"message_start")
        out_text(out, b"{\"type\":\"message_start\",\"message\":{\"id\":\"")
        out_id(out, b"msg_", answer)
        out_text(out, b"\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"")
        out_text(out, answer.model)
        out_text(out, b"\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":")
        out_message_usage(out, answer, 0)
        out_text(out, b"}}")
        event_end(out, answer, mark)
        bare_event(out, answer, b"content_block_start", b"{\"type\":\"content_block_start\",\"index\":0,"
                                                        b"\"content_block\":{\"type\":\"text\",\"text\":\"\"}}")
        bare_event(out, answer, b"ping", b"{\"type\":\"ping\"}")
    elif answer.api == API_RESPONSES:
        mark = response_event_begin(out, answer, b"response.created")
        out_text(out, b",\"response\":")
        out_response_object(out, answer, False)
        out_text(out, b"}")
        event_end(out, answer, mark)
        mark = response_event_begin(out, answer, b"response.output_item.added")
        out_text(out, b",\"output_index\":0,\"item\":")
        out_response_item(out, answer, False)
        out_text(out, b"}")
        event_end(out, answer, mark)
        mark = response_event_begin(out, answer, b"response.content_part.added")
        response_place(out, answer)
        out_text(out, b",\"part\":")
        out_response_part(out, answer, False)
        out_text(out, b"}")
        event_end(out, answer, mark)


cdef void reply_stream_token(out_t* out, answer_t* answer, int32_t index) noexcept nogil:
    cdef bint last = index + 1 == answer.completion_tokens
    cdef size_t mark
    if answer.api == API_CHAT or answer.api == API_COMPLETIONS:
        mark = out_chunk_begin(out) if answer.chunked else 0
        out_bytes(out, answer.prefix, answer.prefix_size)
        if answer.api == API_CHAT:
            out_text(out, b"{\"index\":0,\"delta\":{\"content\":\"")
            out_word(out, answer.seed, index)
            out_text(out, b"\"},\"logprobs\":null,\"finish_reason\":")
        else:
            out_text(out, b"{\"index\":0,\"text\":\"")
            out_word(out, answer.seed, index)
            out_text(out, b"\",\"logprobs\":null,\"finish_reason\":")
        if last:
            out_text(out, b"\"")
            out_text(out, finish_reason(answer))
            out_text(out, b"\",\"stop_reason\":null}]}")
        else:
            out_text(out, b"null}]}")
        event_end(out, answer, mark)
        return
    if answer.api == API_MESSAGES:
        mark = event_begin(out, answer, b"content_block_delta")
        out_text(out, b"{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"")
        out_word(out, answer.seed, index)
        out_text(out, b"\"}}")
    elif answer.api == API_RESPONSES:
        mark = response_event_begin(out, answer, b"response.output_text.delta")
        response_place(out, answer)
        out_text(out, b",\"logprobs\":[],\"delta\":\"")
        out_word(out, answer.seed, index)
        out_text(out, b"\"}")
    elif answer.api == API_OLLAMA:
        mark = event_begin(out, answer, NULL)
        out_ollama_line(out, answer, index)
    else:
        mark = event_begin(out, answer, NULL)
        out_text(out, b"{\"text\":\"")
        out_word(out, answer.seed, index)
        out_generate_meta(out, answer, index + 1)
    event_end(out, answer, mark)


cdef void reply_stream_end(out_t* out, answer_t* answer, bint with_done) noexcept nogil:
    cdef size_t mark
    if answer.api == API_MESSAGES:
        bare_event(out, answer, b"content_block_stop", b"{\"type\":\"content_block_stop\",\"index\":0}")
        mark = event_begin(out, answer, b"message_delta")
        out_text(out, b"{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"")
        out_text(out, finish_reason(answer))
        out_text(out, b"\",\"stop_sequence\":null},\"usage\":")
        out_message_usage(out, answer, answer.completion_tokens)
        out_text(out, b"}")
        event_end(out, answer, mark)
        if with_done:
            bare_event(out, answer, b"message_stop", b"{\"type\":\"message_stop\"}")
    elif answer.api == API_RESPONSES:
        mark = response_event_begin(out, answer, b"response.output_text.done")
        response_place(out, answer)
        out_text(out, b",\"logprobs\":[],\"text\":\"")
        out_words(out, answer)
        out_text(out, b"\"}")
        event_end(out, answer, mark)
        mark = response_event_begin(out, answer, b"response.content_part.done")
        response_place(out, answer)
        out_text(out, b",\"part\":")
        out_response_part(out, answer, True)
        out_text(out, b"}")
        event_end(out, answer, mark)
        mark = response_event_begin(out, answer, b"response.output_item.done")
        out_text(out, b",\"output_index\":0,\"item\":")
        out_response_item(out, answer, True)
        out_text(out, b"}")
        event_end(out, answer, mark)
        if with_done:
            mark = response_event_begin(out, answer, b"response.completed")
            out_text(out, b",\"response\":")
            out_response_object(out, answer, True)
            out_text(out, b"}")
            event_end(out, answer, mark)
    elif answer.api == API_OLLAMA:
        if with_done:
            mark = event_begin(out, answer, NULL)
            out_ollama_line(out, answer, answer.completion_tokens)
            event_end(out, answer, mark)
    else:
        if answer.include_usage and answer.api != API_GENERATE:
            mark = out_chunk_begin(out) if answer.chunked else 0
            out_bytes(out, answer.prefix, answer.prefix_size)
            out_text(out, b"],\"usage\":")
            out_openai_usage(out, answer)
            out_text(out, b"}")
            event_end(out, answer, mark)
        if with_done:
            bare_event(out, answer, NULL, b"[DONE]")


cdef void reply_stream_error(out_t* out, answer_t* answer) noexcept nogil:
    """An engine that fails in mid-stream says so inside the 200 it has begun, then ends the stream well."""
    if answer.api == API_MESSAGES:
        bare_event(out, answer, b"error", b"{\"type\":\"error\",\"error\":{\"type\":\"api_error\","
                                          b"\"message\":\"EngineCore encountered an issue.\"}}")
        return
    if answer.api == API_OLLAMA:
        bare_event(out, answer, NULL, b"{\"error\":\"EngineCore encountered an issue.\"}")
        return
    bare_event(out, answer, NULL, b"{\"error\":{\"message\":\"EngineCore encountered an issue.\","
                                  b"\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}")
    bare_event(out, answer, NULL, b"[DONE]")


# --- errors -------------------------------------------------------------------------------------------------------

cdef void reply_error(out_t* out, int status, const char* kind, const char* message) noexcept nogil:
    out_text(out, b"{\"error\":{\"message\":\"")
    out_text(out, message)
    out_text(out, b"\",\"type\":\"")
    out_text(out, kind)
    out_text(out, b"\",\"param\":null,\"code\":")
    out_int(out, status)
    out_text(out, b"}}")


cdef void reply_unknown_model(out_t* out, span_t model) noexcept nogil:
    out_text(out, b"{\"error\":{\"message\":\"The model `")
    out_bytes(out, model.data, model.size)
    out_text(out, b"` does not exist.\",\"type\":\"NotFoundError\",\"param\":\"model\",\"code\":404}}")


# --- door for tests -----------------------------------------------------------------------------------------------

def prompt_seed(bytes prompt_json):
    """The seed of a prompt, given as the raw JSON of its messages / prompt / input."""
    return seed_of(prompt_json, len(prompt_json))


def answer_text(seed, int tokens):
    """The text an engine answers with to a prompt of this seed."""
    cdef uint64_t start = seed
    return " ".join([WORDS[mix(start + <uint64_t> index) & 63].decode() for index in range(tokens)])

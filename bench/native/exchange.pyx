"""A mock engine's exchange, read top-down: event, request, route, inference, answer; and every fault on demand.

A request is answered at once when its path generates nothing or the engine has no step model; else it is submitted,
and each step that gives it a token calls `exchange_token`. `deliver` is the one place that writes what is ready: a
stream's events as they come, a whole body when all is there. Faults that depend on how much was said are sprung
there, at `fault_is_due`.
"""

from bench.native.connection cimport (
    OUTBOX_MAX, OUTCOME_FAULTED, OUTCOME_FINISHED, PHASE_ANSWER, PHASE_REQUEST, PHASE_STUCK, conn_close,
    conn_flush, conn_is_open, conn_read, conn_t, engine_t, finish_exchange, next_request, set_wake,
)
from bench.native.exposition cimport observe_itl, observe_ttft, telemetry_t, write_metrics, write_stats
from bench.native.fault cimport (
    FAULT_BAD_CHUNK, FAULT_BAD_HEAD, FAULT_BOTH_LENGTHS, FAULT_CLOSE, FAULT_CLOSE_DELIMITED, FAULT_DRIP,
    FAULT_ERROR_EVENT, FAULT_FLAP, FAULT_HANG, FAULT_HANG_AFTER, FAULT_HTTP10, FAULT_IDLE_CLOSE, FAULT_LONG_LENGTH,
    FAULT_NO_DONE, FAULT_NONE, FAULT_REFUSE, FAULT_RESET, FAULT_SHORT_LENGTH, FAULT_SICK, FAULT_SILENT_CLOSE,
    FAULT_SLOW, FAULT_STATUS, FAULT_STORM, FAULT_SURPLUS, FAULT_TRUNCATE, FAULTS_MAX, fault_name, fault_parse, fault_t,
)
from bench.native.heads cimport (
    FRAME_BOTH, FRAME_CHUNKED, FRAME_CLOSE, FRAME_LENGTH, respond, respond_error, write_head, write_surplus,
)
from bench.native.out cimport out_bytes, out_chunk_begin, out_chunk_end, out_free, out_int, out_t, out_take, out_text
from bench.native.replies cimport (
    API_CHAT, API_COMPLETIONS, API_EMBEDDINGS, API_GENERATE, API_MESSAGES, API_NONE, API_OLLAMA, API_RERANK,
    API_RESPONSES, API_SCORE, API_TOKENIZE, API_TRANSCRIPTION, answer_t, mix, reply_stream_begin, reply_stream_end,
    reply_stream_error, reply_stream_token, reply_unknown_model, reply_whole, seed_of, stream_content_type,
)
from bench.native.request cimport (
    METHOD_POST, facts_t, scan_json, scan_multipart, span_is, span_t,
)
from bench.native.step cimport BLOCK_TOKENS, hash_prompt_blocks, step_submit
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SHUT_RD
    int shutdown(int fd, int how)

cdef enum:
    OUTPUT_TOKENS_DEFAULT = 64       # of a request that names no limit to an engine with no natural length
    OUTPUT_TOKENS_MAX = 1048576
    BYTES_PER_TOKEN = 4              # of raw JSON text, close to what BPE makes of English
    AUDIO_BYTES_PER_TOKEN = 640      # 16 kHz 16-bit audio at 50 tokens a second, as Whisper has it

cdef struct path_t:
    const char* path
    int api

cdef path_t[17] INFERENCE_PATHS = [
    path_t(b"/v1/chat/completions", API_CHAT), path_t(b"/v1/completions", API_COMPLETIONS),
    path_t(b"/v1/embeddings", API_EMBEDDINGS), path_t(b"/v1/responses", API_RESPONSES),
    path_t(b"/v1/messages", API_MESSAGES), path_t(b"/v1/rerank", API_RERANK), path_t(b"/rerank", API_RERANK),
    path_t(b"/v2/rerank", API_RERANK), path_t(b"/score", API_SCORE), path_t(b"/v1/score", API_SCORE),
    path_t(b"/tokenize", API_TOKENIZE), path_t(b"/generate", API_GENERATE), path_t(b"/api/chat", API_OLLAMA),
    path_t(b"/v1/audio/transcriptions", API_TRANSCRIPTION), path_t(b"/v1/audio/translations", API_TRANSCRIPTION),
    path_t(b"/v1/tokenize", API_TOKENIZE), path_t(b"/api/generate", API_OLLAMA),
]


# --- faults -------------------------------------------------------------------------------------------------------

cdef double draw(engine_t* engine) noexcept nogil:
    engine.random += 1
    return <double> (mix(engine.random) >> 11) / (1ULL << 53)


cdef bint choose_fault(conn_t* conn) noexcept nogil:
    """The fault this exchange meets, into conn.fault; False: its own header is malformed."""
    cdef engine_t* engine = conn.engine
    cdef int32_t place
    cdef fault_t* fault
    conn.fault.kind = FAULT_NONE
    if conn.request.fault.size:
        return fault_parse(conn.request.fault.data, conn.request.fault.size, &conn.fault)
    for place in range(engine.fault_count):
        fault = &engine.faults[place]
        if fault.kind >= FAULT_FLAP or (fault.kind == FAULT_SLOW and fault.rate >= 1):
            continue                         # the engine's as a whole, see engine_set_faults
        if fault.rate >= 1 or draw(engine) < fault.rate:
            conn.fault = fault[0]
            break
    return True


cdef bint engine_set_faults(engine_t* engine, const uint8_t* text, size_t size, uint64_t now_us) noexcept nogil:
    cdef fault_t[FAULTS_MAX] faults
    cdef int32_t count = 0
    cdef int32_t place
    cdef size_t start = 0
    cdef size_t end
    while start < size:
        end = start
        while end < size and text[end] != 44 and text[end] != 10:
            end += 1
        if end > start:
            if count == FAULTS_MAX or not fault_parse(text + start, end - start, &faults[count]):
                return False
            count += 1
        start = end + 1
    engine.fault_count = count
    engine.slow_factor = 1
    engine.flap_us = 0
    engine.sick_status = 0
    engine.idle_close_us = 0
    for place in range(count):
        engine.faults[place] = faults[place]
        if faults[place].kind == FAULT_SLOW and faults[place].rate >= 1 and faults[place].argument > 0:
            engine.slow_factor = faults[place].argument
        elif faults[place].kind == FAULT_FLAP:
            engine.flap_us = faults[place].argument * 500
        elif faults[place].kind == FAULT_SICK:
            engine.sick_status = <int> faults[place].argument
        elif faults[place].kind == FAULT_IDLE_CLOSE:
            engine.idle_close_us = <uint64_t> (faults[place].argument * 1000)
        elif faults[place].kind == FAULT_REFUSE:
            engine.refused_until_us = now_us + <uint64_t> (faults[place].argument * 1000)
            shutdown(engine.listen_fd, SHUT_RD)         # the port stays ours; the loop listens again in time
    return True


cdef inline bint is_down(const engine_t* engine, uint64_t now_us) noexcept nogil:
    return engine.flap_us > 0 and (<uint64_t> (now_us / engine.flap_us)) % 2 == 1


cdef inline bint fault_is_due(const conn_t* conn) noexcept nogil:
    cdef int32_t after = <int32_t> conn.fault.argument
    if conn.fault.kind < FAULT_HANG_AFTER or conn.fault.kind > FAULT_ERROR_EVENT:
        return False
    if after > conn.answer.completion_tokens:
        after = conn.answer.completion_tokens
    return conn.written_tokens >= after


cdef void spring_fault(conn_t* conn, uint64_t now_us) noexcept nogil:
    """What has been written goes out first; then the answer ends the way the fault says."""
    cdef int kind = conn.fault.kind
    if kind == FAULT_HANG_AFTER:
        conn.phase = PHASE_STUCK
        conn_flush(conn, now_us)
        return
    if kind == FAULT_TRUNCATE:
        out_text(&conn.outbox, b"40\r\ndata: {\"id\":\"trunc")
    elif kind == FAULT_BAD_CHUNK:
        out_text(&conn.outbox, b"zz\r\ndata: {\"id\":\"bad\"}\n\n\r\n")
    elif kind == FAULT_ERROR_EVENT:
        reply_stream_error(&conn.outbox, &conn.answer)
        if conn.answer.chunked:
            out_text(&conn.outbox, b"0\r\n\r\n")
    conn.closing = conn.closing or kind != FAULT_ERROR_EVENT
    if kind == FAULT_RESET:
        conn_flush(conn, now_us)
        if conn_is_open(conn):
            finish_exchange(conn, OUTCOME_FAULTED, now_us)
            conn_close(conn, True)
        return
    finish_exchange(conn, OUTCOME_FAULTED, now_us)
    conn_flush(conn, now_us)


# --- answers ------------------------------------------------------------------------------------------------------

cdef void begin_stream(conn_t* conn) noexcept nogil:
    cdef int kind = conn.fault.kind
    cdef int framing = FRAME_CHUNKED
    cdef int64_t length = 0
    if kind == FAULT_CLOSE_DELIMITED or kind == FAULT_HTTP10:
        framing = FRAME_CLOSE
    elif kind == FAULT_BOTH_LENGTHS:
        framing = FRAME_BOTH
        length = 64
    elif kind == FAULT_SHORT_LENGTH:
        framing = FRAME_LENGTH
        length = 64                          # less than one event
    elif kind == FAULT_LONG_LENGTH:
        framing = FRAME_LENGTH
        length = 1 << 30
        conn.closing = True
    conn.answer.chunked = framing == FRAME_CHUNKED or framing == FRAME_BOTH
    write_head(conn, 200, stream_content_type(conn.answer.api), framing, length)
    conn.head_written = True


cdef void deliver_stream(conn_t* conn, uint64_t now_us) noexcept nogil:
    cdef answer_t* answer = &conn.answer
    cdef out_t* outbox = &conn.outbox
    if not conn.head_written:
        begin_stream(conn)
    while True:
        if fault_is_due(conn):
            spring_fault(conn, now_us)
            return
        if conn.written_tokens == conn.ready_tokens:
            break
        if outbox.size - outbox.taken > OUTBOX_MAX:
            conn_flush(conn, now_us)
            if not conn_is_open(conn) or outbox.taken < outbox.size:
                return                       # goes on when the socket has room again
        if conn.written_tokens == 0:
            reply_stream_begin(outbox, answer)
        reply_stream_token(outbox, answer, conn.written_tokens)
        conn.written_tokens += 1
    if conn.written_tokens == answer.completion_tokens:
        reply_stream_end(outbox, answer, conn.fault.kind != FAULT_NO_DONE)
        if answer.chunked:
            out_bytes(outbox, b"0\r\n\r\n", 5)
        if conn.fault.kind == FAULT_SURPLUS:
            write_surplus(outbox)
        conn.closing = conn.closing or conn.fault.kind == FAULT_SILENT_CLOSE
        finish_exchange(conn, OUTCOME_FINISHED if conn.fault.kind == FAULT_NONE else OUTCOME_FAULTED, now_us)
    conn_flush(conn, now_us)


cdef void deliver_whole(conn_t* conn, uint64_t now_us) noexcept nogil:
    cdef out_t body
    cdef out_t* outbox = &conn.outbox
    cdef int kind = conn.fault.kind
    cdef int framing = FRAME_LENGTH
    cdef int64_t length
    cdef size_t written
    cdef size_t mark
    if conn.ready_tokens < conn.answer.completion_tokens:
        return
    memset(&body, 0, sizeof(body))
    reply_whole(&body, &conn.answer)
    length = <int64_t> body.size
    written = body.size
    if kind == FAULT_CLOSE_DELIMITED or kind == FAULT_HTTP10:
        framing = FRAME_CLOSE
    elif kind == FAULT_TRUNCATE or kind == FAULT_BAD_CHUNK:
        framing = FRAME_CHUNKED
    elif kind == FAULT_BOTH_LENGTHS:
        framing = FRAME_BOTH
    elif kind == FAULT_SHORT_LENGTH:
        length //= 2
    elif kind == FAULT_LONG_LENGTH:
        length += 1000
    if FAULT_HANG_AFTER <= kind <= FAULT_BAD_CHUNK:
        written //= 2
    write_head(conn, 200, b"application/json", framing, length)
    if framing == FRAME_CHUNKED or framing == FRAME_BOTH:
        mark = out_chunk_begin(outbox)
        out_bytes(outbox, body.data, written)
        out_chunk_end(outbox, mark)
    else:
        out_bytes(outbox, body.data, written)
    out_free(&body)
    if FAULT_HANG_AFTER <= kind <= FAULT_BAD_CHUNK:
        spring_fault(conn, now_us)
        return
    if framing == FRAME_BOTH:
        out_text(outbox, b"0\r\n\r\n")
    elif kind == FAULT_LONG_LENGTH:
        conn.closing = True
    elif kind == FAULT_SURPLUS:
        write_surplus(outbox)
    finish_exchange(conn, OUTCOME_FINISHED if kind == FAULT_NONE else OUTCOME_FAULTED, now_us)
    conn_flush(conn, now_us)


cdef void deliver(conn_t* conn, uint64_t now_us) noexcept nogil:
    if conn.held or conn.phase != PHASE_ANSWER or not conn_is_open(conn):
        return
    if conn.answer.stream:
        deliver_stream(conn, now_us)
    else:
        deliver_whole(conn, now_us)


cdef void count_tokens(conn_t* conn, int32_t tokens, uint64_t now_us) noexcept nogil:
    """The model has made so many more tokens, of which it made the first after the whole prompt."""
    cdef telemetry_t* telemetry = &conn.engine.telemetry
    if conn.ready_tokens == 0:
        telemetry.prompt_tokens += conn.answer.prompt_tokens
        observe_ttft(telemetry, now_us - conn.begun_us)
    else:
        observe_itl(telemetry, now_us - conn.last_token_us)
    if conn.answer.api < API_EMBEDDINGS:
        telemetry.generation_tokens += tokens
    conn.ready_tokens += tokens
    conn.last_token_us = now_us


cdef void exchange_token(conn_t* conn, uint64_t now_us) noexcept nogil:
    if conn.phase == PHASE_STUCK:
        return
    if conn.ready_tokens == 0:
        conn.answer.cached_tokens = conn.engine.step.sequences[conn.sequence].cached_tokens
    count_tokens(conn, 1, now_us)
    deliver(conn, now_us)
    serve_requests(conn, now_us)


cdef void exchange_wake(conn_t* conn, uint64_t now_us) noexcept nogil:
    set_wake(conn, 0)
    if conn.held:
        conn.held = False
        deliver(conn, now_us)
    else:
        conn_flush(conn, now_us)             # the next byte of a drip
    serve_requests(conn, now_us)


# --- inference requests -------------------------------------------------------------------------------------------

cdef int32_t output_tokens(const engine_t* engine, int64_t told, const facts_t* facts, uint64_t seed,
                           bint* reached_max) noexcept nogil:
    """How long the answer will be: as long as asked, or its natural length (`told` has it) when that is shorter."""
    cdef int64_t tokens = facts.tokens_max if facts.tokens_max > 0 else OUTPUT_TOKENS_DEFAULT
    cdef int64_t natural = told if told > 0 else 0
    reached_max[0] = facts.tokens_max > 0
    if natural == 0 and engine.answer_tokens and not facts.ignore_eos:
        natural = engine.answer_tokens            # half to one and a half of it
        natural = natural // 2 + <int64_t> (mix(seed ^ 1) % <uint64_t> (natural + 1))
        if natural < 1:
            natural = 1
    if natural and (natural < tokens or facts.tokens_max <= 0):
        reached_max[0] = False
        tokens = natural
    return <int32_t> (tokens if tokens < OUTPUT_TOKENS_MAX else OUTPUT_TOKENS_MAX)


cdef const char* served_model(const engine_t* engine, span_t named) noexcept nogil:
    """The engine's own name for the model asked for, its first one when none is; NULL: not served here."""
    cdef int32_t place
    if named.size == 0:
        return <const char*> engine.models[0].data
    for place in range(engine.model_count):
        if named.size == engine.models[place].size and memcmp(named.data, engine.models[place].data, named.size) == 0:
            return <const char*> engine.models[place].data
    return NULL


cdef bint submit(conn_t* conn, const facts_t* facts) noexcept nogil:
    """Queue the exchange in the step model; False: it does not fit."""
    cdef engine_t* engine = conn.engine
    cdef int32_t hash_max = <int32_t> (facts.prompt.size // (BLOCK_TOKENS * BYTES_PER_TOKEN))
    cdef uint64_t* hashes = NULL
    cdef int32_t hash_count = 0
    if hash_max and conn.answer.api != API_TRANSCRIPTION:
        hashes = <uint64_t*> malloc(hash_max * sizeof(uint64_t))
        if hashes != NULL:
            hash_count = hash_prompt_blocks(facts.prompt.data, facts.prompt.size, hashes, hash_max)
    conn.sequence = step_submit(&engine.step, conn.answer.prompt_tokens, conn.answer.completion_tokens, hashes,
                                hash_count, conn)
    free(hashes)
    if conn.sequence < 0:
        return False
    if conn.fault.kind == FAULT_SLOW and conn.fault.argument > 1:
        engine.step.sequences[conn.sequence].stride = <uint32_t> conn.fault.argument
    engine.work_arrived = True
    return True


cdef void begin_answer(conn_t* conn, int api, const char* model, const facts_t* facts, uint64_t now_us) noexcept nogil:
    cdef engine_t* engine = conn.engine
    cdef answer_t* answer = &conn.answer
    cdef bint reached_max = False
    cdef size_t prompt_bytes_per_token = AUDIO_BYTES_PER_TOKEN if api == API_TRANSCRIPTION else BYTES_PER_TOKEN
    engine.answer_count += 1
    answer.api = <uint8_t> api
    answer.stream = api < API_EMBEDDINGS and (facts.stream == 1 or (facts.stream < 0 and api == API_OLLAMA))
    answer.include_usage = facts.include_usage
    answer.base64 = facts.base64
    answer.seed = seed_of(facts.prompt.data, facts.prompt.size)
    answer.id_high = mix(engine.random ^ engine.port)
    answer.id_low = engine.answer_count
    answer.created_s = engine.now_s[0]
    answer.model = model
    answer.prompt_tokens = <int32_t> (facts.prompt.size // prompt_bytes_per_token) + 1
    answer.cached_tokens = 0
    answer.input_count = facts.input_count
    answer.event_count = 0
    answer.completion_tokens = 1
    if api < API_EMBEDDINGS:
        answer.completion_tokens = output_tokens(engine, conn.request.answer_tokens, facts, answer.seed, &reached_max)
    answer.reached_max = reached_max
    conn.begun_us = now_us
    conn.head_written = False
    conn.ready_tokens = conn.written_tokens = 0
    conn.sequence = -1


cdef void begin_inference(conn_t* conn, int api, uint8_t* body, size_t size, uint64_t now_us) noexcept nogil:
    cdef engine_t* engine = conn.engine
    cdef facts_t facts
    cdef const char* model
    cdef out_t refusal
    cdef int32_t storm
    memset(&refusal, 0, sizeof(refusal))
    engine.telemetry.requests += 1
    if not choose_fault(conn):
        engine.telemetry.refused += 1
        conn.fault.kind = FAULT_NONE
        respond_error(conn, 400, b"BadRequestError", b"x-mock-fault is not a fault this engine knows")
        return
    if conn.request.names_upgrade and conn.request.offers_upgrade:
        # uvicorn leaves the bytes after such a head to the protocol that was offered: the request has no body.
        engine.telemetry.refused += 1
        respond_error(conn, 400, b"Bad Request", b"1 validation error: body: Field required")
        return
    if is_down(engine, now_us):
        engine.telemetry.refused += 1
        respond_error(conn, 503, b"ServiceUnavailableError", b"The engine is down.")
        return
    if conn.request.multipart:
        scan_multipart(body, size, &facts)
    elif not scan_json(body, size, &facts):
        engine.telemetry.refused += 1
        respond_error(conn, 400, b"Bad Request", b"1 validation error: the request body is not a JSON object")
        return
    model = served_model(engine, facts.model)
    if model == NULL:
        engine.telemetry.refused += 1
        reply_unknown_model(&refusal, facts.model)
        respond(conn, 404, b"application/json", &refusal)
        return
    if conn.fault.kind == FAULT_STATUS:
        engine.telemetry.faulted += 1
        respond_error(conn, <int> conn.fault.argument, b"InternalServerError", b"A fault on demand.")
        return
    begin_answer(conn, api, model, &facts, now_us)
    if engine.stepped and api != API_TOKENIZE and not submit(conn, &facts):
        engine.telemetry.refused += 1
        respond_error(conn, 400, b"BadRequestError", b"The prompt and the answer asked for exceed this model's maximum "
                                                     b"context length. Please reduce the length of the input prompt.")
        return
    engine.telemetry.in_flight += 1
    conn.phase = PHASE_ANSWER
    conn.drips = conn.fault.kind == FAULT_DRIP
    conn.drip_us = <uint64_t> (conn.fault.argument * 1000)
    if conn.sequence < 0:
        count_tokens(conn, conn.answer.completion_tokens, now_us)
    if conn.fault.kind == FAULT_HANG:
        conn.held = True
        if conn.fault.argument > 0:
            set_wake(conn, now_us + <uint64_t> (conn.fault.argument * 1000))
    elif conn.fault.kind == FAULT_BAD_HEAD:
        out_text(&conn.outbox, b"HTP/9 two hundred\r\n\x01\x02 garbage\r\n\r\n")
        conn.closing = True
        finish_exchange(conn, OUTCOME_FAULTED, now_us)
    elif (conn.fault.kind == FAULT_RESET or conn.fault.kind == FAULT_CLOSE) and conn.fault.argument == 0:
        spring_fault(conn, now_us)
    elif conn.fault.kind == FAULT_STORM:
        for storm in range(<int32_t> conn.fault.argument):
            out_text(&conn.outbox, b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n" if storm % 2
                     else b"HTTP/1.1 100 Continue\r\n\r\n")
    deliver(conn, now_us)


# --- routes -------------------------------------------------------------------------------------------------------

cdef void write_models(out_t* body, const engine_t* engine) noexcept nogil:
    cdef int32_t place
    out_text(body, b"{\"object\":\"list\",\"data\":[")
    for place in range(engine.model_count):
        out_text(body, b",{\"id\":\"" if place else b"{\"id\":\"")
        out_text(body, <const char*> engine.models[place].data)
        out_text(body, b"\",\"object\":\"model\",\"created\":")
        out_int(body, engine.now_s[0])
        out_text(body, b",\"owned_by\":\"vllm\",\"root\":\"")
        out_text(body, <const char*> engine.models[0].data)
        out_text(body, b"\",\"parent\":null,\"max_model_len\":131072,\"permission\":[]}")
    out_text(body, b"]}")


cdef void write_faults(out_t* body, const engine_t* engine) noexcept nogil:
    cdef int32_t place
    out_text(body, b"{\"faults\":[")
    for place in range(engine.fault_count):
        out_text(body, b",\"" if place else b"\"")
        out_text(body, fault_name(engine.faults[place].kind))
        out_text(body, b"\"")
    out_text(body, b"]}")


cdef int inference_api(span_t path) noexcept nogil:
    cdef int place
    for place in range(17):
        if span_is(path, INFERENCE_PATHS[place].path):
            return INFERENCE_PATHS[place].api
    return API_NONE


cdef void serve_plain(conn_t* conn, uint8_t* body, size_t size, uint64_t now_us) noexcept nogil:
    """Every path that generates nothing: health, metrics, models, and the mock's own."""
    cdef engine_t* engine = conn.engine
    cdef span_t path = conn.request.path
    cdef const char* content_type = b"application/json"
    cdef int status = 200
    cdef out_t answer
    memset(&answer, 0, sizeof(answer))
    conn.fault.kind = FAULT_NONE
    if span_is(path, b"/health") or span_is(path, b"/ping"):
        status = engine.sick_status if engine.sick_status else (503 if is_down(engine, now_us) else 200)
    elif span_is(path, b"/v1/models"):
        write_models(&answer, engine)
    elif span_is(path, b"/metrics"):
        content_type = b"text/plain; version=1.0.0; charset=utf-8"
        write_metrics(&answer, &engine.telemetry, &engine.step, <const char*> engine.models[0].data)
    elif span_is(path, b"/version"):
        out_text(&answer, b"{\"version\":\"0.11.0\"}")
    elif span_is(path, b"/_mock/stats"):
        write_stats(&answer, &engine.telemetry, &engine.step)
    elif span_is(path, b"/_mock/fault"):
        if conn.request.method == METHOD_POST and not engine_set_faults(engine, body, size, now_us):
            respond_error(conn, 400, b"BadRequestError", b"Not a fault: KIND[:ARG][@RATE], several with commas.")
            return
        write_faults(&answer, engine)
    elif span_is(path, b"/_mock/echo"):
        # The request as it arrived: what a proxy made of it.
        content_type = b"text/plain; charset=utf-8"
        out_bytes(&answer, body - conn.request.head_size, conn.request.head_size)
        out_bytes(&answer, body, size)
    elif inference_api(path) != API_NONE:
        out_text(&answer, b"{\"detail\":\"Method Not Allowed\"}")
        status = 405
    else:
        out_text(&answer, b"{\"detail\":\"Not Found\"}")
        status = 404
    respond(conn, status, content_type, &answer)


cdef void serve_requests(conn_t* conn, uint64_t now_us) noexcept nogil:
    """Begin every whole request that waits in the inbox, one after the other; then write what is to be written."""
    cdef uint8_t* body
    cdef size_t size
    cdef size_t message_size
    cdef int api
    while conn_is_open(conn) and conn.phase == PHASE_REQUEST and not conn.closing:
        if conn.outbox.size - conn.outbox.taken > OUTBOX_MAX:
            break
        if next_request(conn, &body, &size, &message_size) <= 0:
            break
        if conn.outbox.taken == conn.outbox.size:
            conn.drips = False               # the last request's fault
        api = inference_api(conn.request.path) if conn.request.method == METHOD_POST else API_NONE
        if api != API_NONE:
            begin_inference(conn, api, body, size, now_us)
        else:
            serve_plain(conn, body, size, now_us)
        if not conn_is_open(conn):
            return
        out_take(&conn.inbox, message_size)
    conn_flush(conn, now_us)


cdef void exchange_event(conn_t* conn, uint32_t events, uint64_t now_us) noexcept nogil:
    if not conn_is_open(conn):
        return
    if events & (EPOLLERR | EPOLLHUP):
        conn_close(conn, False)
        return
    if events & EPOLLRDHUP:
        conn.at_end = True
    if events & (EPOLLIN | EPOLLRDHUP):
        conn_read(conn, now_us)
    if events & EPOLLOUT:
        deliver(conn, now_us)                # a slow reader has room again
    serve_requests(conn, now_us)
    while conn_is_open(conn) and conn.read_paused and conn.phase == PHASE_REQUEST and not conn.closing:
        conn_read(conn, now_us)
        serve_requests(conn, now_us)
    if conn.at_end and conn_is_open(conn):
        conn_close(conn, False)              # as ASGI servers do: who half-closes has left

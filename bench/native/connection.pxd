"""One client connection of a mock engine: its socket, its buffers, and the exchange it carries."""

from bench.native.exposition cimport telemetry_t
from bench.native.fault cimport FAULTS_MAX, fault_t
from bench.native.out cimport out_t
from bench.native.replies cimport answer_t
from bench.native.request cimport dechunk_t, request_t, span_t
from bench.native.step cimport step_model_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef enum:
    MODELS_MAX = 16
    OUTBOX_MAX = 262144          # bytes a client may leave unread before the engine stops writing events for it

cdef enum event_source:          # first byte of everything an epoll event points at
    SOURCE_WAKE = 0
    SOURCE_TIMER = 1
    SOURCE_LISTENER = 2
    SOURCE_CONNECTION = 3

cdef enum conn_phase:
    PHASE_REQUEST = 0            # reading one, or idle
    PHASE_ANSWER = 1             # an inference request is under way
    PHASE_STUCK = 2              # hung by a fault: only the client's leaving ends it

cdef enum outcome:
    OUTCOME_FINISHED = 0
    OUTCOME_ABORTED = 1
    OUTCOME_FAULTED = 2

cdef struct engine_t:            # one listening address with its own model state
    uint8_t source
    int listen_fd
    int port
    uint8_t stepped              # has a step model; else every answer is there at once
    uint8_t manual               # steps only when told to
    uint8_t stepping             # a step is under way until step_due_us
    uint8_t work_arrived         # something was submitted: a step may have to begin
    double speed
    double slow_factor           # set by a fault; 1: none
    double flap_us               # half a period of a flapping engine, 0: steady
    int sick_status              # what /health says, 0: well
    uint64_t idle_close_us
    uint64_t refused_until_us    # not listening until then
    uint64_t step_due_us
    uint64_t random
    uint64_t answer_count
    int32_t answer_tokens        # natural length of an answer; 0: as long as the limit allows
    int32_t model_count
    span_t[MODELS_MAX] models    # zero-terminated, owned by the Python object
    fault_t[FAULTS_MAX] faults
    int32_t fault_count
    const char* date             # value of the date header, the loop's
    int64_t* now_s               # wall clock, the loop's
    step_model_t step
    telemetry_t telemetry
    conn_t* connections
    conn_t* dead                 # closed in this batch, freed after it
    int32_t timed_count          # connections with a wake_us

cdef struct conn_t:
    uint8_t source
    uint8_t phase
    uint8_t closing              # close when the outbox is empty
    uint8_t read_paused          # more may be in the socket than was read
    uint8_t told_continue
    uint8_t at_end               # the client has sent its FIN
    uint8_t head_written
    uint8_t held                 # by a fault: answer later
    uint8_t drips                # one byte a write, drip_us apart
    int fd
    engine_t* engine
    conn_t* previous
    conn_t* next
    out_t inbox                  # `taken` bytes of it belong to requests already served
    out_t outbox
    size_t wanted_size           # of the request being read, 0: not known yet
    request_t request
    dechunk_t dechunked
    answer_t answer
    fault_t fault
    int32_t sequence             # in the step model, or -1
    int32_t ready_tokens         # made by the model
    int32_t written_tokens       # of these written
    uint64_t begun_us
    uint64_t last_token_us
    uint64_t active_us           # last read or end of an answer
    uint64_t wake_us             # 0: no timer
    uint64_t drip_us

cdef conn_t* conn_open(engine_t* engine, int fd, uint64_t now_us) noexcept nogil
cdef void conn_read(conn_t* conn, uint64_t now_us) noexcept nogil
# 1: a whole request is at the front of the inbox (body[0] .. size[0]); 0: not yet; -1: answered with an error, closing.
cdef int next_request(conn_t* conn, uint8_t** body, size_t* size, size_t* message_size) noexcept nogil
cdef void conn_flush(conn_t* conn, uint64_t now_us) noexcept nogil                  # may close
cdef void conn_close(conn_t* conn, bint with_reset) noexcept nogil                  # ends an open exchange as aborted
cdef void set_wake(conn_t* conn, uint64_t wake_us) noexcept nogil
cdef void finish_exchange(conn_t* conn, int outcome, uint64_t now_us) noexcept nogil
cdef inline bint conn_is_open(const conn_t* conn) noexcept nogil:
    return conn.fd >= 0

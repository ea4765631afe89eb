"""One exchange: a client's request and its one final response, and everything it holds while it lasts."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.body cimport body_scan_t
from router.native.buffer cimport buffer_t
from router.native.chunk cimport chunk_t
from router.native.conn cimport conn_t, driver_t
from router.native.explain cimport column_t
from router.native.http1 cimport head_t
from router.native.loadtable cimport charge_t, load_table_t
from router.native.metrics cimport metrics_t
from router.native.pick cimport decider_t
from router.native.pool cimport endpoint_t, text_t, upstream_t
from router.native.routes cimport alias_model_t, alias_t, route_t, snapshot_t, target_t
from router.native.signals cimport signal_table_t
from router.native.sse cimport sse_meter_t
from router.native.wheel cimport timer_node_t, wheel_t

cdef enum:
    COMPOSE_BYTES = 131072           # a rewritten head: twice the largest head, and what we add
    PEER_BYTES = 46                  # INET6_ADDRSTRLEN

cdef enum downstream_phase:
    DOWN_IDLE = 0                    # between requests
    DOWN_HEAD = 1                    # part of a head has come
    DOWN_BODY = 2                    # the request body is arriving
    DOWN_BUSY = 3                    # the request is whole; its answer is not
    DOWN_FLUSH = 4                   # the answer is whole but not yet taken by the kernel
    DOWN_LINGER = 5                  # answered and ours is shut; what still comes is thrown away
    DOWN_TUNNEL = 6                  # bytes both ways, no messages

cdef enum exchange_state:
    EXCHANGE_RECEIVING = 0           # nothing picked yet
    EXCHANGE_CONNECTING = 1
    EXCHANGE_AWAITING = 2            # request handed over, no response head yet
    EXCHANGE_RELAYING = 3
    EXCHANGE_TUNNEL = 4

cdef enum relay_mode:
    RELAY_NONE = 0                   # no response body
    RELAY_LENGTH = 1
    RELAY_CHUNKED = 2                # chunks pass as they are
    RELAY_UNCHUNKED = 3              # for an HTTP/1.0 client: the connection's end delimits
    RELAY_UNTIL_CLOSE = 4            # the upstream's end delimits; re-chunked
    RELAY_UNTIL_CLOSE_RAW = 5        # the same for an HTTP/1.0 client

cdef enum relay_result:
    RELAY_MORE = 0
    RELAY_DONE = 1
    RELAY_BAD = -1

cdef enum upload_result:
    UPLOAD_MORE = 0
    UPLOAD_DONE = 1
    UPLOAD_BAD = -1
    UPLOAD_TOO_LARGE = -2
    UPLOAD_NO_MEMORY = -3

cdef enum exchange_flag:
    X_FAULT = 1                      # the attempt failed by its endpoint's fault
    X_CLOSE_DOWNSTREAM = 2           # the client's connection ends with this answer
    X_HTTP10 = 4
    X_HEAD = 8
    X_REQUEST_CHUNKED = 16
    X_UPLOAD_DONE = 32               # the whole request body has been received
    X_CUT_THROUGH = 64               # the body goes upstream as it comes
    X_BODY_DROPPED = 128             # part of the body is gone: no other attempt
    X_MULTIPART = 256
    X_UPGRADE = 512
    X_STREAM = 1024                  # the body asked for a stream
    X_HEAD_SENT = 2048               # the response head has gone downstream
    X_UPSTREAM_KEEPS = 8192          # the response allows the connection to be used again
    X_SAW_TTFT = 16384
    X_REWRITTEN = 32768              # the model's name in the body is replaced
    X_IN_TRAILERS = 65536
    X_FACTS_KNOWN = 131072
    X_RESPONSE_BEGAN = 262144        # a byte of a response has come
    X_FINISHED = 524288
    X_EXPLAIN = 1048576              # its decisions are recorded

cdef enum facts_result:
    FACTS_KNOWN = 1
    FACTS_MISSING = 0                # more of the body may tell
    FACTS_UNREADABLE = -1            # the client has been told

ctypedef void (*send_error_fn)(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil
ctypedef bint (*may_go_on_fn)(core_t* core, exchange_t* x, int cause) noexcept nogil
ctypedef int (*read_facts_fn)(core_t* core, exchange_t* x, bint complete) noexcept nogil
ctypedef int (*rewrite_body_fn)(core_t* core, exchange_t* x, text_t engine_name, buffer_t* out) noexcept nogil
ctypedef void (*hand_over_fn)(core_t* core, downstream_t* down, int fd, const uint8_t* data, size_t size) noexcept nogil

cdef struct hooks_t:                 # where the path leaves native code; each takes the GIL (router/_fastpath.pyx)
    send_error_fn send_error
    may_go_on_fn may_go_on
    read_facts_fn read_facts
    rewrite_body_fn rewrite_body     # the body with another model's name, where the scan does not know the place
    hand_over_fn hand_over

cdef struct options_t:               # bounds and switches, fixed for the life of the worker
    uint32_t head_bytes_max
    uint32_t target_bytes_max
    uint64_t body_bytes_max
    uint64_t retry_buffer_bytes_max
    uint64_t buffered_bytes_max
    uint32_t pipelined_bytes_max
    uint32_t connections_max
    uint32_t interim_max
    uint64_t head_us
    uint64_t tls_us
    uint64_t keep_alive_us
    uint64_t upstream_idle_us
    uint64_t eject_base_us
    uint64_t eject_max_us
    uint32_t log_bytes_max
    uint8_t logs
    uint8_t counts_against_endpoint[56]     # by cause, from the table in router/errors.py
    uint8_t sides[56]                       # route_counter by cause, likewise

cdef struct network_t:               # CIDR whose X-Forwarded-* are believed
    uint8_t bytes[16]                # IPv4 as v4-mapped
    uint32_t bits

cdef struct core_t:                  # a worker's native state; its door is router._fastpath.Core
    driver_t* driver
    wheel_t wheel
    decider_t* decider
    load_table_t* load               # the decider's
    signal_table_t* signals
    metrics_t metrics
    column_t explained               # decisions that were to be recorded
    uint32_t prompt_block_bytes      # of the first blocks that a prompt's beginning is known by
    uint32_t column
    snapshot_t* snapshot             # stable; the canary is beside it
    options_t options
    uint64_t random_state
    uint64_t wall_offset_us          # wall clock - monotonic
    downstream_t* connections        # all, doubly linked
    endpoint_t** endpoints           # all that have connections, for the idle sweep
    uint32_t endpoint_count
    uint64_t swept_us
    uint32_t connection_count
    uint32_t exchange_count
    uint64_t finished_count
    int64_t buffered_bytes           # request bodies held
    void* listener_tls[16]           # SSL_CTX* by listener index; NULL: plain
    conn_t* listeners[256]           # several of one listener after a takeover by fewer workers
    uint32_t listener_count
    network_t trusted[64]
    uint32_t trusted_count
    uint8_t draining
    uint8_t accepting_paused
    head_t head                      # scratch: the head that was parsed last
    exchange_t* head_owner           # whose request head that is, NULL: nobody's
    uint8_t* compose                 # scratch, COMPOSE_BYTES: a head being written
    uint64_t block_keys[8][97]       # scratch: ALIAS_MODELS_MAX by PROMPT_KEYS_MAX, of the prompt being picked for
    uint32_t block_tokens[8][97]
    buffer_t log                     # finished access-log lines
    hooks_t hooks
    void* door                       # the Core object

cdef struct downstream_t:
    conn_t conn                      # first: a conn_t* is a downstream_t*
    timer_node_t timer               # second: see downstream_of
    core_t* core
    exchange_t* exchange
    downstream_t* next
    downstream_t* previous
    buffer_t inbox                   # bytes received and not parsed yet: part of a head, pipelined requests
    size_t scanned                   # how far find_head_end has looked
    uint64_t since_us                # when the current phase began, or last went on
    size_t blocked_bytes             # in conn.out when the client was last seen to take some
    uint8_t phase
    uint8_t is_tls
    uint8_t is_trusted               # its X-Forwarded-* are believed
    uint8_t peer_length
    uint8_t peer[46]                 # the address as text

cdef enum:
    EXCHANGE_TRIED_MAX = 4           # more than limits.ATTEMPTS_PER_EXCHANGE_MAX

cdef struct exchange_t:
    downstream_t* down
    upstream_t* up
    snapshot_t* snapshot             # stable or canary, as it was when the head came; see exchange_take_canary
    route_t* route
    target_t* target                 # of an alias: that of the model whose turn it is
    const alias_t* alias             # NULL: the model was asked for by its own name
    const alias_model_t* served      # of the alias: whom the attempt is for; NULL: as asked for
    endpoint_t* endpoint
    body_scan_t* scan                # until the pick
    buffer_t head                    # the raw request head, until the response begins
    buffer_t body                    # the decoded body, until the response begins (or passed on, when cut through)
    buffer_t trailers                # of the message that is passing now
    uint64_t body_received_bytes
    uint64_t started_us              # head complete
    uint64_t sent_us                 # request handed to the kernel (or connecting since)
    uint64_t first_byte_us
    uint64_t last_byte_us
    uint64_t bytes_out
    int64_t upload_remaining         # Content-Length bytes to come
    int64_t relay_remaining
    chunk_t upload_chunk
    chunk_t relay_chunk
    sse_meter_t meter
    charge_t charge                  # of the attempt
    uint16_t tried[4]                # slots of endpoints that failed it: EXCHANGE_TRIED_MAX
    uint64_t required                # features an endpoint must have
    uint64_t key                     # of the hash policies
    uint64_t model_offset            # of the model string in the body, for rewriting
    uint32_t model_length
    uint32_t prompt_bytes            # of the whole prompt; 0: not known
    uint32_t flags                   # exchange_flag
    uint32_t position                # of the endpoint in target.candidates
    uint16_t status
    uint8_t state
    uint8_t mode                     # relay_mode
    uint8_t attempts
    uint8_t tried_count
    uint8_t interim_count
    uint8_t method
    uint8_t last_cause               # of the attempt before
    uint8_t reason                   # explain_reason, where the route shows it or it is recorded
    uint8_t switching                # switch_reason of the last attempt
    # Labels, in one block behind `labels`.
    uint8_t* labels
    uint16_t labels_bytes
    uint8_t id_length
    uint16_t path_length
    uint16_t model_label_length
    uint8_t method_length

cdef exchange_t* exchange_new(core_t* core, downstream_t* down, const uint8_t* buffer,
                              const head_t* head) noexcept nogil
# From here on it is the canary's that stands beside its snapshot; before it is routed for good.
cdef void exchange_take_canary(exchange_t* x) noexcept nogil
cdef void exchange_free(core_t* core, exchange_t* x) noexcept nogil
# ends the attempt's charge
cdef void exchange_release(core_t* core, exchange_t* x) noexcept nogil
# head, body and scan are not needed any more
cdef void exchange_drop_request(core_t* core, exchange_t* x) noexcept nogil
cdef bint exchange_record(core_t* core, exchange_t* x, int cause) noexcept nogil            # False: it had been
cdef int exchange_set_model(exchange_t* x, const uint8_t* model, size_t length) noexcept nogil
cdef text_t exchange_id(const exchange_t* x) noexcept nogil
cdef text_t exchange_method(const exchange_t* x) noexcept nogil
cdef text_t exchange_path(const exchange_t* x) noexcept nogil
cdef text_t exchange_model(const exchange_t* x) noexcept nogil
cdef uint64_t exchange_model_hash(const exchange_t* x) noexcept nogil          # of the model that answers
# Whose answers are as long as this model's here.
cdef uint64_t exchange_output_key(const exchange_t* x, uint64_t model_hash) noexcept nogil
cdef uint64_t exchange_deadline(const core_t* core, const downstream_t* down, int* cause) noexcept nogil

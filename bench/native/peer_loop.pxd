"""The state of the bench's peer: clients and fixed-answer engines in one epoll loop (peer_loop turns it, peer is its
door).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from bench.native.reader cimport reader_t, template_t

cdef enum:
    RECV_BYTES = 65536
    ENGINES_MAX = 64                 # of all groups together
    LATENCIES_MAX = 1 << 20

cdef enum conn_kind:
    KIND_LISTENER = 0
    KIND_TIMER
    KIND_CLIENT
    KIND_ENGINE

cdef enum client_state:
    CLIENT_CONNECTING = 0
    CLIENT_HANDSHAKE
    CLIENT_WAITING                   # a request is out, no head has come
    CLIENT_STREAMING                 # the head of a stream has come
    CLIENT_RESTING                   # answered, nothing more to ask

cdef enum pace_kind:
    PACE_HELD = 0                    # one event with the head, then none until told
    PACE_LOCKSTEP
    PACE_TIMED

cdef enum error_kind:
    ERROR_CONNECT = 0
    ERROR_TLS
    ERROR_CLOSED                     # the proxy closed before the answer was complete
    ERROR_FRAMING
    ERROR_STATUS
    ERROR_CONTENT
    ERROR_EXCESS                     # bytes after the answer
    ERROR_ENGINE                     # a request that an engine could not read
    ERROR_KINDS

cdef struct conn_t:
    int fd
    uint8_t kind
    uint8_t state                    # client_state
    uint8_t is_stream                # engine: a stream is being sent
    uint8_t wants_write
    uint8_t group                    # engine: whose listener accepted it
    uint8_t is_dead
    uint8_t owes_ending              # engine: the stream ends when what is held back has left
    uint8_t is_opening               # no head has ever come
    uint32_t place                   # in clients[] or streams[]
    uint32_t event_count             # engine: sent of this stream; client: arrived of this answer
    uint32_t out_bytes               # left to send, from `out`
    const char* out
    uint64_t sent_ns
    void* session                    # TLS, or NULL
    conn_t* next_dead
    reader_t reader

cdef struct peer_t:
    int epoll_fd
    int timer_fd
    conn_t timer
    conn_t listeners[ENGINES_MAX]
    int engine_count
    uint8_t group                    # of the proxy under load; requests to other engines do not count
    # what the clients do
    uint16_t port
    uint8_t uses_tls
    uint8_t is_streaming             # every POST is answered by a stream
    uint8_t asks_again               # a new request after each answer
    uint8_t is_verbatim              # the proxy may not change payload
    uint8_t records_latency
    uint8_t is_finishing             # streams end as soon as they are asked for
    uint8_t is_failed                # too many errors to go on
    uint32_t client_count
    uint32_t client_goal
    uint32_t opening_count
    uint32_t resting_count
    uint32_t streaming_count         # clients that have a stream's head
    conn_t** clients
    # what the engines do
    uint8_t pace
    uint32_t arrived_count           # events arrived since the last lockstep
    uint32_t stream_count
    uint32_t stream_next             # whose turn a paced event is
    uint32_t events_per_stream       # 0: no end until told
    uint64_t interval_ns
    uint64_t due_ns
    conn_t** streams
    # fixed messages
    const char* request
    uint32_t request_bytes
    const char* answer
    uint32_t answer_bytes
    const char* get_answer
    uint32_t get_answer_bytes
    const char* opening              # a stream's head and first event
    uint32_t opening_bytes
    const char* event
    uint32_t event_bytes
    const char* ending
    uint32_t ending_bytes
    template_t asked
    template_t answered
    # counts
    uint64_t requests
    uint64_t events
    uint64_t streams_done
    uint64_t bodies_changed
    uint64_t reconnects
    uint64_t engine_requests
    uint64_t slipped                 # paced events a whole interval late: the generator did not keep up
    uint64_t errors[ERROR_KINDS]
    uint64_t error_total
    uint32_t latency_count
    uint32_t* latencies_ns
    conn_t* dead
    char buffer[RECV_BYTES]

cdef struct goal_t:                  # 0 or -1: no such goal
    uint64_t requests
    uint64_t events
    int64_t streams                  # clients that have a stream open
    int64_t engine_streams
    bint all_resting                 # every client that is left has its answer

cdef bint peer_reached(peer_t* self, goal_t* goal) noexcept nogil
cdef void peer_run(peer_t* self, uint64_t until_ns, goal_t* goal) noexcept nogil     # until a goal or the time
cdef void client_forget(peer_t* self, conn_t* conn) noexcept nogil                   # closes it, whatever its state
cdef void stream_end(peer_t* self, conn_t* conn) noexcept nogil                      # ends it in good order
cdef void engine_gone(peer_t* self, conn_t* conn) noexcept nogil                     # closes it, stream or not
cdef void free_dead(peer_t* self) noexcept nogil                                     # between batches only

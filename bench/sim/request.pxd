"""One simulated request: what was asked (from the trace) and what became of it (the world's)."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from router.native.loadtable cimport charge_t

cdef enum request_state:
    REQUEST_COMING = 0
    REQUEST_SENT = 1                 # on its way to an engine, waiting or computed there
    REQUEST_STREAMING = 2            # the router has seen the first token
    REQUEST_DONE = 3
    REQUEST_FAILED = 4               # for good

cdef enum failure:
    FAILURE_NONE = 0
    FAILURE_REFUSED = 1              # connection refused
    FAILURE_CONNECT_TIMEOUT = 2
    FAILURE_RESET = 3
    FAILURE_TIMEOUT = 4              # no first byte, or none after it
    FAILURE_ERROR = 5                # the engine's own answer, 503
    FAILURE_TOO_LARGE = 6            # for this engine; asking another is up to the client
    FAILURE_NOBODY = 7               # no endpoint to ask

cdef enum:
    ATTEMPTS_MAX = 3
    NO_SEQUENCE = -1                 # not at the engine: on its way there, or finished
    PARKED = -2                      # at the engine, its model is not loaded

cdef struct request_t:
    charge_t charge                  # must not move: requests are one array for the whole run
    uint64_t arrival_us              # when it comes
    uint64_t wait_us                 # of one that follows another: how long after the other's end it comes
    uint64_t session                 # affinity key; 0: none
    uint64_t picked_us               # of the last attempt
    uint64_t first_us                # at the router
    uint64_t end_us
    const uint64_t* blocks           # blocks[block_count]: what the engine's cache goes by, of prompt and answer
    const uint64_t* keys             # keys[key_count]: what the router goes by
    request_t* untold                # next of those whose claims the other routers do not know yet
    request_t* parked                # next of those that wait for their model at an engine
    uint32_t index
    uint32_t serial                  # of the attempt: counts up
    int32_t block_count
    int32_t key_count
    int32_t prompt_tokens
    int32_t output_tokens
    int32_t cached_tokens            # of the prompt, as the engine had them
    int32_t follower                 # index of the request that comes after its end, or -1
    int32_t sequence                 # at the engine, or NO_SEQUENCE or PARKED
    int32_t endpoint                 # of the last attempt, or -1
    int32_t tried[3]                 # endpoints of attempts that failed, of ATTEMPTS_MAX
    uint32_t asked                   # index of the name that the trace has
    uint32_t model                   # that answers, or is to, of the last attempt
    uint32_t replica                 # which router decides
    uint8_t state                    # request_state
    uint8_t failure                  # of the last attempt
    uint8_t attempt_count
    bint is_untold

"""Counters and log-linear histograms in shared memory, a column per worker, summed by whoever renders them.

A worker touches only its own column: plain adds, no atomics, no Python. Series are bounded: requests are counted in a
fixed open-addressed table keyed by (route, endpoint slot, outcome); what does not fit goes to one `overflow` cell.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum metric_counter:            # per worker
    COUNT_CONNECTIONS_ACCEPTED = 0
    COUNT_CONNECTIONS_OPEN = 1       # gauge
    COUNT_UPSTREAM_CONNECTS = 2
    COUNT_UPSTREAM_REUSES = 3
    COUNT_UPSTREAM_OPEN = 4          # gauge
    COUNT_UPSTREAM_IDLE = 5          # gauge
    COUNT_STALE_REPLACED = 6
    COUNT_RETRIES = 7
    COUNT_BYTES_FROM_CLIENTS = 8
    COUNT_BYTES_TO_CLIENTS = 9
    COUNT_PROMPT_TOKENS = 10
    COUNT_COMPLETION_TOKENS = 11
    COUNT_CACHED_TOKENS = 12
    COUNT_EVENTS = 13
    COUNT_LOG_LINES_DROPPED = 14
    COUNT_HANDOVERS = 15
    COUNT_REQUESTS_IN_FLIGHT = 16    # gauge
    COUNT_PROTOCOL_ERRORS_DOWNSTREAM = 17
    COUNT_PROTOCOL_ERRORS_UPSTREAM = 18
    COUNT_BODY_FACTS_SLOW = 19       # bodies that msgspec had to read
    COUNT_UNFINISHED_STREAMS = 20    # streams that ended cleanly without [DONE]
    COUNT_PICKS_FAILED = 21
    COUNT_ACCEPT_PAUSES = 22
    COUNT_BUFFERED_BYTES = 23        # gauge: request bodies held
    COUNT_LOOP_LAG_US = 24           # gauge: last seen
    COUNT_RSS_BYTES = 25             # gauge
    COUNT_TLS_HANDSHAKES = 26
    COUNT_TLS_FAILURES = 27
    COUNT_SESSION_NEW = 28       # decisions of sessions, by switch_reason; in the order of switching.pxd
    COUNT_SESSION_STAYED = 29
    COUNT_SESSION_QUEUE = 30
    COUNT_SESSION_CACHE = 31
    COUNT_SESSION_LOAD = 32
    COUNT_SESSION_HEALTH = 33
    COUNT_SESSION_COST = 34
    COUNT_SESSION_TARGET = 35
    COUNT_SESSION_HEADROOM = 36
    COUNT_SESSION_TIE = 37
    COUNT_SESSION_MODEL = 38
    COUNT_ALIAS_PLACE_1 = 39         # requests for an alias by the place of the model that was asked last: 39 to 46
    COUNT_VIEWS_PARTIAL = 47         # gauge: 1 while this worker knows that it does not know of others' requests
    METRIC_COUNTER_COUNT = 48

cdef enum histogram_kind:
    HISTOGRAM_ROUTE_TTFT = 0         # index: route, as a policy's version has it
    HISTOGRAM_ROUTE_E2E = 1
    HISTOGRAM_ROUTE_ROUTER_TIME = 2  # router-added: head complete -> request handed to the kernel
    HISTOGRAM_ROUTE_ITL = 3
    HISTOGRAM_ENDPOINT_TTFT = 4      # index: load-table slot
    HISTOGRAM_ENDPOINT_ITL = 5
    HISTOGRAM_KIND_COUNT = 6

cdef enum route_counter:             # per worker and route; never too many, as series of requests may be
    ROUTE_COMPLETED = 0              # requests by whose side they ended on: as router.errors.Side, and who refused
    ROUTE_DOWNSTREAM = 1
    ROUTE_UPSTREAM = 2
    ROUTE_POLICY = 3
    ROUTE_ROUTER = 4
    ROUTE_REFUSED = 5                # by the endpoint with a 4xx: the caller's fault, or a wrong key's
    ROUTE_PROMPT_TOKENS = 6
    ROUTE_COMPLETION_TOKENS = 7
    ROUTE_CACHED_TOKENS = 8
    ROUTE_COST_NANO = 9              # of the currency that prices are in, 1e-9
    ROUTE_COUNTER_COUNT = 10

cdef struct metrics_t:               # process-local view of one worker's column
    uint8_t* base
    uint64_t* counters
    void* private_view               # the segment's header: sizes

cdef void metrics_add(metrics_t* metrics, int counter, int64_t amount) noexcept nogil
cdef void metrics_set(metrics_t* metrics, int counter, int64_t value) noexcept nogil
cdef void metrics_add_route(metrics_t* metrics, uint32_t route, int counter, uint64_t amount) noexcept nogil
cdef void metrics_observe_us(metrics_t* metrics, int kind, uint32_t index, uint64_t value_us) noexcept nogil
# slot 0xFFFF: no endpoint was picked; route 0xFFFF: none matched
cdef void metrics_count_request(metrics_t* metrics, uint32_t route, uint32_t slot, uint32_t outcome) noexcept nogil

cdef class MetricsTable:
    cdef readonly int fd
    cdef readonly uint32_t column_count
    cdef uint8_t* base
    cdef size_t size_bytes
    cdef object _mapping
    cdef metrics_t column(self, uint32_t index)      # for the worker that owns it; marks the column as written

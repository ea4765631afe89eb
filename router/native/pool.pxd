"""Endpoints and the keep-alive connections to them, as one worker holds them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.buffer cimport buffer_t
from router.native.conn cimport conn_t
from router.native.tls cimport TlsContext

cdef enum:
    ENDPOINT_ADDRESSES_MAX = 8
    ADDRESS_BYTES = 112              # sockaddr_in, _in6 and _un all fit

cdef enum load_report_use:           # of the load reports that an engine adds to its answers; as in router/snapshot.py
    LOAD_REPORT_UNTOUCHED = 0        # neither asked for nor read
    LOAD_REPORT_READ = 1             # asked for, read, and taken out
    LOAD_REPORT_SHOW = 2             # asked for, read, and passed on

cdef struct text_t:                  # bytes owned by a snapshot or an Endpoint; not zero-terminated
    const uint8_t* data
    uint32_t length

cdef struct address_t:
    uint8_t bytes[112]               # ADDRESS_BYTES: a sockaddr
    uint32_t length

cdef struct rewrite_t:               # the client's model name -> the engine's
    text_t name
    text_t engine_name
    text_t json_name                 # engine_name as it stands in JSON, without quotes

cdef struct endpoint_t:
    uint32_t slot                    # in the load table
    float weight
    uint64_t identity                # stable hash, for rendezvous and rings
    text_t name
    text_t authority                 # Host value
    text_t path_prefix               # put before every path; no trailing slash
    text_t key_line                  # "Authorization: Bearer ...\r\n", or empty
    uint8_t passes_client_key
    uint8_t load_report              # load_report_use
    uint8_t is_retired               # left the configuration; no new attempt
    uint8_t address_count
    uint8_t address_turn             # where the next connect begins
    void* tls_context                # SSL_CTX*, NULL for plain
    const char* server_name          # SNI and the name that is verified; zero-terminated
    address_t addresses[8]           # ENDPOINT_ADDRESSES_MAX
    uint32_t rewrite_count
    rewrite_t* rewrites
    uint32_t in_flight_max           # all workers together; 0: no bound
    uint32_t connections_max
    uint32_t idle_max
    uint32_t open_count              # connections, idle ones included
    uint32_t idle_count
    upstream_t* idle_first           # most recently used
    upstream_t* idle_last

cdef enum upstream_state:
    UPSTREAM_CONNECTING = 0
    UPSTREAM_BUSY = 1
    UPSTREAM_IDLE = 2

cdef struct upstream_t:
    conn_t conn                      # first: a conn_t* is an upstream_t*
    endpoint_t* endpoint
    void* exchange                   # exchange_t*, NULL when idle
    upstream_t* idle_next
    upstream_t* idle_previous
    uint64_t idle_since_us
    buffer_t inbox                   # a partial response head
    size_t scanned
    uint32_t served_count            # exchanges before the current one
    uint8_t state
    uint8_t addresses_tried
    uint8_t address_index

# most recently used, or NULL
cdef upstream_t* pool_take_idle(endpoint_t* endpoint) noexcept nogil
cdef void pool_put_idle(endpoint_t* endpoint, upstream_t* upstream, uint64_t now_us) noexcept nogil
cdef void pool_remove_idle(endpoint_t* endpoint, upstream_t* upstream) noexcept nogil
# least recently used if idle since before then
cdef upstream_t* pool_stale(endpoint_t* endpoint, uint64_t idle_before_us) noexcept nogil

cdef class Endpoint:
    cdef endpoint_t endpoint
    cdef readonly str identity
    cdef readonly str name
    cdef readonly str url
    cdef list _kept
    cdef object _tls
    cdef object _tls_tables
    cdef renew_tls(self)
    cdef take_context(self, TlsContext context)
    cpdef set_addresses(self, list addresses)
    cdef text_t keep(self, bytes data)

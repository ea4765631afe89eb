"""A snapshot as native tables: routes, pools, and which endpoints of a pool serve a model."""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.http1 cimport head_t
from router.native.pick cimport candidate_set_t, policy_t
from router.native.pool cimport endpoint_t, text_t

cdef enum key_source:
    KEY_NONE = 0
    KEY_HEADER = 1
    KEY_USER = 2
    KEY_PROMPT = 3

cdef enum:
    ROUTE_HEADERS_MAX = 8
    ANY_POOL = 0xFFFF

cdef struct timeouts_t:              # microseconds; 0 switches one off
    uint64_t connect_us
    uint64_t tls_us
    uint64_t body_us                 # between two reads of a request body
    uint64_t first_byte_us           # request sent -> response head
    uint64_t idle_us                 # between two reads of a response
    uint64_t write_stall_us          # a client takes nothing of what waits for it
    uint64_t total_us

cdef struct route_policy_t:
    policy_t pick
    int key_source
    text_t key_header

cdef struct target_t:                # the endpoints of a pool that serve a model
    candidate_set_t candidates
    endpoint_t** endpoints           # parallel to candidates.slots
    route_policy_t* policy           # the pool's
    text_t model                     # as configured; empty when any model goes
    text_t pool_name

cdef struct header_match_t:
    text_t name
    text_t value                     # glob

cdef struct route_t:
    text_t name
    uint16_t index                   # in the metrics
    uint16_t pool                    # ANY_POOL: by model
    uint8_t exposes_endpoint         # x-fairlead-endpoint goes to the client
    float ttft_target_s              # 0: none
    uint8_t has_policy
    uint8_t header_count
    text_t host                      # globs; empty: any
    text_t path
    text_t model
    header_match_t headers[8]        # ROUTE_HEADERS_MAX
    timeouts_t timeouts
    route_policy_t policy

cdef struct model_entry_t:
    uint64_t hash
    text_t model
    uint16_t pool
    target_t* target

cdef struct snapshot_t:
    uint32_t user_count              # exchanges that look at it
    timeouts_t default_timeouts      # before a route is known
    uint32_t route_count
    route_t* routes
    uint32_t entry_mask              # model_entry_t table size - 1
    model_entry_t* entries
    uint32_t pool_count
    route_policy_t* policies
    target_t** any_model             # any_model[pool_count]: endpoints of the pool that serve any model; NULL: none
    target_t** whole                 # whole[pool_count]: all endpoints of the pool, for requests that name no model
    target_t* any_model_of_all       # over all pools
    target_t* default_whole          # the default pool's
    uint32_t target_count
    target_t* targets

# The first route whose every condition holds, or NULL. `buffer` is what `head` was parsed from; `model` may be empty.
cdef route_t* match_route(snapshot_t* snapshot, const uint8_t* buffer, const head_t* head, text_t model) noexcept nogil
# The endpoints for `model` on `route`; NULL when the model is not served there.
cdef target_t* find_target(snapshot_t* snapshot, const route_t* route, text_t model) noexcept nogil
cdef bint glob_matches(text_t pattern, text_t text, bint ignore_case) noexcept nogil

cdef class Snapshot:
    cdef snapshot_t snapshot
    cdef readonly list endpoints     # list[Endpoint], kept alive
    cdef list _kept
    cdef text_t keep(self, bytes data)
    cdef target_t* make_target(
        self, object pool, int pool_index, list members, str name, set kinds, tuple entries) except NULL
    cdef void put_entry(self, int pool, target_t* target) noexcept

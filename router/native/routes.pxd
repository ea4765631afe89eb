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
    ROUTE_MAY_REQUIRE_MAX = 16
    ALIAS_MODELS_MAX = 8
    ANY_POOL = 0xFFFF
    ALIAS_POOL = 0xFFFE              # in place of a pool: entries that are aliases

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

cdef struct alias_model_t:
    text_t name
    text_t json_name                 # as it stands in JSON, without quotes
    uint64_t hash
    float quality_s

cdef struct alias_t:                 # a name that several models may answer for
    text_t name
    uint32_t model_count
    alias_model_t models[8]          # ALIAS_MODELS_MAX; the best first

cdef struct may_require_t:
    text_t name
    uint64_t required

cdef struct header_match_t:
    text_t name
    text_t value                     # glob

cdef struct route_t:
    text_t name
    uint64_t name_hash               # the same in every version, as the index is not
    uint16_t index                   # in the metrics: of this route in this version
    uint16_t pool                    # ANY_POOL: by model
    uint8_t exposes_endpoint         # x-fairlead-endpoint goes to the client
    float ttft_target_s              # 0: none
    float cost_weight_s              # of pick_request_t
    uint64_t required                # of pick_request_t
    uint8_t may_require_count
    may_require_t may_require[16]    # ROUTE_MAY_REQUIRE_MAX: what requests may add, by name
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
    alias_t* alias                   # of ALIAS_POOL

cdef struct snapshot_t:
    uint32_t user_count              # exchanges that look at it
    uint32_t version                 # of the policy, for who reads logs; 0: of a file
    snapshot_t* canary               # what a share of the sessions gets instead; NULL: nothing
    uint64_t canary_share            # of CANARY_SHARE_WHOLE
    uint64_t explain_threshold       # of 2^64: the share of requests that are recorded unasked
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
    uint32_t alias_count
    alias_t* aliases

# The first route whose every condition holds, or NULL. `buffer` is what `head` was parsed from; `model` may be empty.
cdef route_t* match_route(snapshot_t* snapshot, const uint8_t* buffer, const head_t* head, text_t model) noexcept nogil
# The endpoints for `model` on `route`; NULL when the model is not served there.
cdef target_t* find_target(snapshot_t* snapshot, const route_t* route, text_t model) noexcept nogil
# What `model` is an alias of; NULL: it is none.
cdef alias_t* find_alias(snapshot_t* snapshot, text_t model) noexcept nogil
# The bits that `names` (a list with commas) adds to what the route requires, or'ed into `required`; False when the
# route offers one of them to nobody.
cdef bint add_required(const route_t* route, text_t names, uint64_t* required) noexcept nogil
# Of the bits in `required`, those that no candidate has; all of them when there is none that has them together.
cdef uint64_t unmet_bits(const candidate_set_t* candidates, uint64_t required) noexcept nogil
cdef bint glob_matches(text_t pattern, text_t text, bint ignore_case) noexcept nogil

cdef class Snapshot:
    cdef snapshot_t snapshot
    cdef readonly Snapshot canary    # kept alive
    cdef readonly list endpoints     # list[Endpoint], kept alive
    cdef readonly tuple conditions   # texts of the bits in features
    cdef readonly tuple models       # known names: of all pools, then of each
    cdef set route_kinds             # policies of routes, which any pool must be ready for
    cdef list _kept
    cdef text_t keep(self, bytes data)
    cdef int reserve(self, tables, uint32_t name_count) except -1
    cdef target_t* make_target(self, object pool, int pool_index, uint32_t count, str name) except NULL
    cdef int fill_target(self, target_t* target, list members, int start, str name, tuple entries) except -1
    cdef void put_entry(self, int pool, text_t model, target_t* target, alias_t* alias) noexcept

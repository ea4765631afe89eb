"""One interface for every policy that picks an endpoint: `pick_endpoint(decider, policy, candidates, request)`.

A policy sees the candidates (slots of the load table, with weights), the request, and what the decider knows of the
endpoints; it returns the position of the winner in the candidate array, or -1 when none is eligible. It allocates
nothing. What picks of any kind are made of is in `candidates` and named here again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.candidates cimport (
    MAGLEV_ENTRIES, SHAPE_EQUAL_WEIGHTS, SHAPE_IN_A_ROW, candidate_set_build_maglev, candidate_set_build_ring,
    candidate_set_free, candidate_set_t, hash_pair, pick_request_t, random_next
)
from router.native.learner cimport learner_t
from router.native.loadtable cimport LoadTable, load_table_t
from router.native.prefix cimport prefix_table_t
from router.native.view cimport view_t

cdef enum policy_kind:
    POLICY_P2C = 0                   # least in-flight of two random choices (in_flight / weight)
    POLICY_ROUND_ROBIN = 1
    POLICY_RENDEZVOUS = 2            # weighted rendezvous hashing of the key
    POLICY_BOUNDED_RING = 3          # consistent-hash ring with bounded load
    POLICY_LEAST_IN_FLIGHT = 4       # full scan
    POLICY_RANDOM = 5                # uniform
    POLICY_WEIGHTED = 6              # random by weight
    POLICY_RING = 7                  # consistent-hash ring
    POLICY_MAGLEV = 8
    POLICY_PEAK_EWMA = 9             # from here on: policies that weigh every candidate by a view
    POLICY_PREQUAL = 10
    POLICY_SMG_CACHE_AWARE = 11
    POLICY_LOADAWARE = 12
    POLICY_LLMD = 13
    POLICY_STICKY = 14
    POLICY_DYNAMO = 15
    POLICY_LMETRIC = 16
    POLICY_SMETRIC = 17
    POLICY_MOONCAKE = 18
    POLICY_FIVE_AXIS = 19
    POLICY_COUNT = 20

cdef enum:
    KNOBS_MAX = 16                   # numbers a policy is set with; their order is in router/schema/policies.py

cdef struct policy_t:
    int kind                         # policy_kind
    float knobs[16]                  # KNOBS_MAX

cdef struct decider_t:               # one per worker (or replica): everything a decision reads and writes
    load_table_t* load
    prefix_table_t* prefix           # NULL: no prefix is known
    learner_t* learner
    uint32_t column
    view_t view
    void* memory                     # what policies remember between picks: policy_memory.pxd; NULL: nothing

# The position of the winner. Ejected candidates win only when no other is left, excluded ones never; -1 when every
# candidate is excluded. Policies from POLICY_PEAK_EWMA on leave decider.view filled for this request, and pick of two
# (p2c) where there are more candidates than the view has room for.
cdef int pick_endpoint(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil

cdef class CandidateSet:             # for tests and tools
    cdef candidate_set_t candidates
    cdef int _check(self, LoadTable table) except -1

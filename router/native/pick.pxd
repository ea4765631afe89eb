"""One interface for every policy that picks an endpoint: `pick_endpoint(decider, policy, candidates, request)`.

A policy sees the candidates (slots of the load table, with weights), the request, and what the decider knows of the
endpoints; it returns the position of the winner in the candidate array, or -1 when none is eligible. It allocates
nothing. What picks are made of is in `candidates` and `policy` and named here again.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport (
    MAGLEV_ENTRIES, SHAPE_EQUAL_WEIGHTS, SHAPE_IN_A_ROW, candidate_set_build_maglev, candidate_set_build_ring,
    candidate_set_free, candidate_set_reserve_features, candidate_set_reserve_loads, candidate_set_t, hash_pair,
    is_anybody_well, pick_request_t, random_next
)
from router.native.loadtable cimport LoadTable
from router.native.policy cimport (
    KNOBS_MAX, POLICY_BOUNDED_RING, POLICY_COUNT, POLICY_DYNAMO, POLICY_FIVE_AXIS, POLICY_LEAST_IN_FLIGHT, POLICY_LLMD,
    POLICY_LMETRIC, POLICY_LOADAWARE, POLICY_MAGLEV, POLICY_MOONCAKE, POLICY_P2C, POLICY_PEAK_EWMA, POLICY_PREQUAL,
    POLICY_RANDOM, POLICY_RENDEZVOUS, POLICY_RING, POLICY_ROUND_ROBIN, POLICY_SMETRIC, POLICY_SMG_CACHE_AWARE,
    POLICY_STICKY, POLICY_WEIGHTED, decider_t, policy_t
)

# The position of the winner. Ejected candidates win only when no other is left, excluded ones never; -1 when every
# candidate is excluded. Policies from POLICY_PEAK_EWMA on leave decider.view filled for this request, and pick of two
# (p2c) where there are more candidates than the view has room for.
cdef int pick_endpoint(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil

cdef class CandidateSet:             # for tests and tools
    cdef candidate_set_t candidates
    cdef int _check(self, LoadTable table) except -1

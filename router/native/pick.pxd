"""One interface for every policy that picks an endpoint: `pick_endpoint(policy, request) -> candidate index`.

A policy sees the candidates (slots of the load table, with weights), the request's key and a random word; it reads the
load table and returns the position of the winner in the candidate array, or -1 when none is eligible. It allocates
nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.loadtable cimport load_table_t

cdef enum policy_kind:
    POLICY_P2C = 0                   # least in-flight of two random choices (in_flight / weight)
    POLICY_ROUND_ROBIN = 1
    POLICY_RENDEZVOUS = 2            # weighted rendezvous hashing of the key
    POLICY_BOUNDED_RING = 3          # consistent-hash ring with bounded load
    POLICY_LEAST_IN_FLIGHT = 4       # full scan
    POLICY_RANDOM = 5

cdef struct candidate_set_t:       # built aside from zeroes, read-only while requests use it (but for `turn`, `shape`)
    uint32_t count
    uint32_t* slots                  # slots[count] in the load table; this and the arrays below come from malloc
    float* weights                   # weights[count], > 0
    uint64_t* identities             # identities[count]: stable hash of the endpoint, for rendezvous and rings
    uint64_t* ring_points            # sorted; bounded_ring only, else NULL
    uint32_t* ring_owners            # candidate position of each point
    uint32_t ring_count
    double weight_total              # of all candidates; set by candidate_set_build_ring
    uint32_t turn                    # round robin's place
    uint32_t shape                   # found by the first pick: slots in a row, equal weights

cdef struct pick_request_t:
    uint64_t key                     # hash of the affinity key; 0: none (hash policies then use `random`)
    uint64_t random                  # a random word, given by the caller
    uint64_t now_us
    uint64_t excluded[4]             # bit per candidate position < 256: already tried
    float load_factor                # bounded_ring: 1.25 means at most 1.25x the mean

# The position of the winner. Ejected candidates win only when no other is left, excluded ones never; -1 when every
# candidate is excluded.
cdef int pick_endpoint(
    int policy, load_table_t* table, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil
# Allocates the ring; 0, or -1 when there is no memory.
cdef int candidate_set_build_ring(candidate_set_t* candidates, uint32_t points_per_weight) noexcept nogil
cdef void candidate_set_free(candidate_set_t* candidates) noexcept nogil     # frees the arrays
cdef uint64_t random_next(uint64_t* state) noexcept nogil                    # a wyrand step

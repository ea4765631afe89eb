"""Who may be picked: a set of candidates, the request that asks, and which of them are out.

The lowest of the modules that make a pick; `pick` names all of this again, so that most need to know only that one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from router.native.loadtable cimport load_table_t

cdef extern from *:
    """
    #ifndef FAIRLEAD_RANDOM
    #define FAIRLEAD_RANDOM
    /* wyrand, from Wang Yi's wyhash (public domain): a counter through one folded multiplication. */
    static inline uint64_t multiply_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    static inline uint64_t random_next(uint64_t* state) {
        *state += 0xA0761D6478BD642Full;
        return multiply_fold(*state, *state ^ 0xE7037ED1A0B428DBull);
    }
    /* Lemire: 32 random bits to 0..count - 1 by a multiplication in place of a division. */
    static inline uint32_t random_scale(uint64_t random32, uint32_t count) {
        return (uint32_t)(random32 * count >> 32);
    }
    /* As expressions, so that loops of them become vector instructions; a NaN on the left loses. */
    static inline float float_max(float a, float b) { return a > b ? a : b; }
    static inline float float_min(float a, float b) { return a < b ? a : b; }
    #endif
    """
    uint64_t multiply_fold(uint64_t a, uint64_t b) noexcept nogil
    uint64_t random_next(uint64_t* state) noexcept nogil                     # a wyrand step
    uint32_t random_scale(uint64_t random32, uint32_t count) noexcept nogil
    float float_max(float a, float b) noexcept nogil
    float float_min(float a, float b) noexcept nogil

cdef enum:
    CHECK_EXCLUDED = 1
    CHECK_EJECTED = 2
    CHECK_REQUIRED = 4
    SHAPE_KNOWN = 1
    SHAPE_IN_A_ROW = 2               # slots[i] == slots[0] + i, as a pool's mostly are
    SHAPE_EQUAL_WEIGHTS = 4
    MAGLEV_ENTRIES = 65537           # Envoy's table: prime, and 100 times as large as all but the largest pools

cdef struct candidate_set_t:         # built aside from zeroes, then read-only (but for `turn` and `shape`)
    uint32_t count
    uint32_t* slots                  # slots[count] in the load table; this and the arrays below come from malloc
    float* weights                   # weights[count], > 0
    uint64_t* identities             # identities[count]: stable hash of the endpoint, for rendezvous and rings
    uint64_t* ring_points            # sorted; ring policies only, else NULL
    uint32_t* ring_owners            # candidate position of each point
    uint32_t* ring_index             # ring_index[b]: the first point whose upper bits are b or more
    uint32_t ring_count
    uint32_t ring_shift              # 64 - number of those bits
    uint16_t* maglev                 # position by key, MAGLEV_ENTRIES; maglev only, else NULL
    float* load_s                    # load_s[count]: seconds that loading the model takes there; NULL: it is there
    uint32_t* models_max             # models_max[count]: held at once there; 0: the model takes no place. With load_s
    double ejected_ratio_max         # with more of those who may answer ejected, ejections are ignored; 0: with all
    uint64_t* features               # features[count]: a bit for each condition it meets; NULL: nobody meets any
    double weight_total              # of all candidates; set by candidate_set_build_ring
    float share                      # 1 / count, and
    uint32_t turn                    # round robin's place
    uint32_t shape                   # found by the first pick: slots in a row, equal weights

cdef struct pick_request_t:
    uint64_t key                     # hash of the affinity key (session); 0: none (hash policies then use `random`)
    uint64_t random                  # a random word, given by the caller
    uint64_t model                   # hash of the name it is configured under; 0: none
    uint64_t now_us
    const uint64_t* excluded         # a bit for each slot of the load table: tried, or full; NULL: nobody is
    uint64_t required                # bits that a candidate's features must have, also when all else is ejected
    uint32_t prompt_tokens           # estimate; 0: not a request with a prompt
    uint32_t output_tokens           # expected
    uint32_t block_count
    const uint64_t* blocks           # blocks[block_count]: key of the prompt up to each boundary (prompt.pxd)
    const uint32_t* block_tokens     # tokens of the prompt up to each boundary
    float ttft_target_s              # 0: none
    float cost_weight_s              # seconds that one unit of currency is worth; 0: as the policy says, below 0: none
    float quality_s                  # what an answer by these candidates' model is worse than the best one's; >= 0
    uint8_t is_trial                 # the pick may be one of several for the same request: nothing is remembered

cdef inline void exclude_slot(uint64_t* excluded, uint32_t slot) noexcept nogil:
    excluded[slot >> 6] |= <uint64_t>1 << (slot & 63)

# For callers from Python: sets request.excluded; what is returned has to outlive it. Raises: IndexError.
cdef object exclude_positions(pick_request_t* request, const candidate_set_t* candidates, positions)
cdef uint64_t hash_pair(uint64_t a, uint64_t b) noexcept nogil
# Allocates the ring; 0, or -1 when there is no memory.
cdef int candidate_set_build_ring(candidate_set_t* candidates, uint32_t points_per_weight) noexcept nogil
# Allocates the Maglev table; 0, or -1 when there is no memory or there are more candidates than positions have numbers.
cdef int candidate_set_build_maglev(candidate_set_t* candidates) noexcept nogil
# Allocates load_s and models_max, all 0; 0, or -1 when there is no memory.
cdef int candidate_set_reserve_loads(candidate_set_t* candidates) noexcept nogil
# Allocates features, all 0; 0, or -1 when there is no memory.
cdef int candidate_set_reserve_features(candidate_set_t* candidates) noexcept nogil
cdef void candidate_set_free(candidate_set_t* candidates) noexcept nogil     # frees the arrays
cdef uint32_t candidate_set_shape(candidate_set_t* candidates) noexcept nogil

# CHECK_ bits that a pick must look at: 0 when nobody can be out. From two reads, unless somebody is ejected.
cdef int candidate_checks(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request) noexcept nogil
cdef bint is_eligible(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request, int checks, uint32_t position
) noexcept nogil
# Whether somebody may be picked who is not ejected.
cdef bint is_anybody_well(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request) noexcept nogil
# refused[i]: 0 for who may be picked, else INFINITY. With everybody left ejected the ejected ones may.
cdef void candidates_refused(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request, float* refused) noexcept nogil
# row[i] of start .. start + size, as float32.
cdef void read_row(
    load_table_t* load, int row, const candidate_set_t* candidates, uint32_t start, uint32_t size, float* sums
) noexcept nogil
# `wanted` or fewer distinct positions with refused == 0, uniformly; returns how many. 0: everybody is refused.
cdef uint32_t draw_positions(
    const float* refused, uint32_t count, uint32_t wanted, uint64_t* state, uint32_t* positions) noexcept nogil
# The index of the lowest of bits[size], size > 0, a random one of equals, and how many are equal. Reads to the next
# multiple of 16.
cdef uint32_t lowest_of_bits(const uint32_t* bits, uint32_t size, uint64_t* state, uint32_t* ties) noexcept nogil
# The least and the greatest of those that are not refused; +inf and -inf when all are.
cdef void range_of(
    const float* values, const float* refused, uint32_t count, float* least, float* greatest) noexcept nogil
# The position of the least score + refused, a random one of equals; NaN loses; -1 when everybody is refused.
cdef int least_score(const float* score, const float* refused, uint32_t count, uint64_t random) noexcept nogil

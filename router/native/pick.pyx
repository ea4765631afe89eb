"""Every policy that picks an endpoint, behind one call.

A pick is made among eligible candidates: not excluded (tried by this exchange already) and not ejected. The usual case,
nobody excluded or ejected, is known from two reads and checks nobody. When no candidate is eligible the pick is made
once more among the ejected ones: with everything down, trying beats refusing (Envoy calls it panic), and the ejections
may be of our own making.

In-flight counts are read from the shared table at every pick, so they include what every other worker picked until now.
Loads compare as in_flight / weight in float32. Neighbours: loadtable (counts, ejections), the snapshot that builds
candidate sets, the exchange that asks and then charges.
"""

from libc.math cimport ceil, log1p
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from router.native.loadtable cimport (
    LoadTable, load_ejections_end_us, load_in_flight, load_in_flight_many, load_in_flight_row, load_is_ejected,
    load_table_t
)

cdef extern from *:
    """
    static inline uint64_t multiply_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    uint64_t multiply_fold(uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    CHECK_EXCLUDED = 1
    CHECK_EJECTED = 2
    SHAPE_KNOWN = 1
    SHAPE_IN_A_ROW = 2               # slots[i] == slots[0] + i, as a pool's mostly are
    SHAPE_EQUAL_WEIGHTS = 4
    EXCLUDABLE_COUNT = 256           # pick_request_t.excluded has a bit for so many positions
    SCAN_COUNT_MAX = 16              # up to so many candidates a scan is cheaper than drawing again and again
    DRAWS_MAX = 8                    # with half of many candidates ineligible, 1 pick in 256 comes to the scan
    REFUSED_MAX = 4                  # ineligible winners after which the rest of the block is asked at once
    CHUNK_COUNT = 16
    BLOCK_COUNT = 1024               # in-flight counts read at a time, on the stack
    RING_POINTS_MAX = 1 << 20        # 12 MiB; more points a candidate than that buys no evenness

cdef uint32_t NOBODY = 0xFFFFFFFF                # above every load's bits
cdef float REMAINDER_MAX = 0.99999994            # the float32 below 1: ln(0) has no place in a comparison
cdef uint64_t WYRAND_STEP = 0xA0761D6478BD642F
cdef uint64_t WYRAND_XOR = 0xE7037ED1A0B428DB
cdef uint64_t HASH_FOLD = 0x9E3779B97F4A7C15     # 2^64 / golden ratio: bits without a pattern


cdef uint64_t random_next(uint64_t* state) noexcept nogil:
    # wyrand, from Wang Yi's wyhash (public domain): a counter through one folded multiplication.
    state[0] += WYRAND_STEP
    return multiply_fold(state[0], state[0] ^ WYRAND_XOR)


cdef inline uint64_t _hash_pair(uint64_t a, uint64_t b) noexcept nogil:
    # Two folds: after one, three equally spaced identities would still have dependent scores.
    return multiply_fold(multiply_fold(a ^ WYRAND_STEP, b ^ WYRAND_XOR), HASH_FOLD)


cdef inline uint32_t _scale(uint64_t random32, uint32_t count) noexcept nogil:
    return <uint32_t>(random32 * count >> 32)        # Lemire: a multiplication in place of a division


cdef inline bint _is_eligible(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks, uint32_t position
) noexcept nogil:
    if checks & CHECK_EXCLUDED and position < EXCLUDABLE_COUNT:
        if request.excluded[position >> 6] >> (position & 63) & 1:
            return False
    return not (checks & CHECK_EJECTED and load_is_ejected(table, candidates.slots[position], request.now_us))


cdef int pick_endpoint(
    int policy, load_table_t* table, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    cdef int checks = 0
    if candidates.count == 0:
        return -1
    if not candidates.shape:
        candidates.shape = _shape(candidates)
    if request.excluded[0] | request.excluded[1] | request.excluded[2] | request.excluded[3]:
        checks |= CHECK_EXCLUDED
    if request.now_us < load_ejections_end_us(table):
        checks |= CHECK_EJECTED
    cdef int position = _pick(policy, table, candidates, request, checks)
    if position < 0 and checks & CHECK_EJECTED:
        position = _pick(policy, table, candidates, request, checks & ~CHECK_EJECTED)
    return position


cdef uint32_t _shape(candidate_set_t* candidates) noexcept nogil:
    cdef uint32_t position, jumps = 0, differing = 0
    for position in range(candidates.count):
        jumps |= candidates.slots[position] ^ (candidates.slots[0] + position)
        differing |= candidates.weights[position] != candidates.weights[0]
    return SHAPE_KNOWN | (0 if jumps else SHAPE_IN_A_ROW) | (0 if differing else SHAPE_EQUAL_WEIGHTS)


cdef inline void _read_in_flight(
    load_table_t* table, candidate_set_t* candidates, uint32_t start, uint32_t size, uint32_t* in_flight
) noexcept nogil:
    if candidates.shape & SHAPE_IN_A_ROW:
        load_in_flight_row(table, candidates.slots[start], size, in_flight)
    else:
        load_in_flight_many(table, candidates.slots + start, size, in_flight)


cdef int _pick(
    int policy, load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    if policy == POLICY_P2C:
        return _pick_of_two(table, candidates, request, checks)
    if policy == POLICY_ROUND_ROBIN:
        return _pick_in_turn(table, candidates, request, checks)
    if policy == POLICY_LEAST_IN_FLIGHT:
        return _pick_least(table, candidates, request, checks)
    if policy == POLICY_RANDOM:      # weighted: the rendezvous of a key that never comes again
        return _pick_rendezvous(table, candidates, request, checks, request.random)
    cdef uint64_t key = request.key if request.key else request.random
    if policy == POLICY_BOUNDED_RING and candidates.ring_points != NULL:
        return _pick_on_ring(table, candidates, request, checks, key)
    return _pick_rendezvous(table, candidates, request, checks, key)


# --- two random choices ---------------------------------------------------------------------------------------------
# Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 2001): the better of two uniform
# choices. The random word's upper half gives the first, its bits 1..31 the second among the others, bit 0 breaks ties.

cdef int _pick_of_two(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    cdef uint32_t[2] pair
    cdef float[2] load
    cdef uint32_t count = candidates.count
    cdef uint32_t found
    if not checks:
        if count == 1:
            return 0
        pair[0] = _scale(request.random >> 32, count)
        pair[1] = <uint32_t>(<uint64_t>(<uint32_t>request.random >> 1) * (count - 1) >> 31)
        pair[1] += pair[1] >= pair[0]
    else:
        found = _draw_two(table, candidates, request, checks, pair)
        if found < 2:
            return <int>pair[0] if found else -1
    # in_flight / weight, both sides times both weights; without branches, which would be missed half the time.
    load[0] = <float><int>load_in_flight(table, candidates.slots[pair[0]]) * candidates.weights[pair[1]]
    load[1] = <float><int>load_in_flight(table, candidates.slots[pair[1]]) * candidates.weights[pair[0]]
    return <int>pair[(load[1] < load[0]) | ((load[1] == load[0]) & (request.random & 1))]


cdef uint32_t _draw_two(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks, uint32_t* pair
) noexcept nogil:
    """Two distinct eligible candidates, uniformly; returns how many there are, at most 2."""
    cdef uint64_t state = request.random
    cdef uint32_t count = candidates.count
    cdef uint32_t found = 0, draw, _attempt, position
    if count > SCAN_COUNT_MAX:
        for _attempt in range(2 * DRAWS_MAX):
            position = _scale(random_next(&state) >> 32, count)
            if found == 1 and position == pair[0]:
                continue
            if _is_eligible(table, candidates, request, checks, position):
                pair[found] = position
                found += 1
                if found == 2:
                    return 2
    found = 0
    for position in range(count):    # a reservoir of two: Vitter, "Random Sampling with a Reservoir" (1985), R
        if _is_eligible(table, candidates, request, checks, position):
            found += 1
            if found <= 2:
                pair[found - 1] = position
            else:
                draw = _scale(random_next(&state) >> 32, found)
                if draw < 2:
                    pair[draw] = position
    return 2 if found > 2 else found


# --- in turn, least -------------------------------------------------------------------------------------------------

cdef int _pick_in_turn(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    # The next turn begins behind the winner: the one behind a skipped candidate does not get its share on top.
    cdef uint32_t count = candidates.count
    cdef uint32_t _step, position = candidates.turn
    for _step in range(count):
        if position >= count:
            position = 0
        if _is_eligible(table, candidates, request, checks, position):
            candidates.turn = position + 1
            return <int>position
        position += 1
    return -1


cdef int _pick_least(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    cdef uint32_t[BLOCK_COUNT] bits
    cdef float* loads = <float*>bits
    cdef float* weights
    cdef uint64_t state = request.random
    cdef uint32_t best_bits = NOBODY, ties = 0, ties_total = 0, start = 0, size, index
    cdef int best = -1, lowest
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        _read_in_flight(table, candidates, start, size, bits)
        if not candidates.shape & SHAPE_EQUAL_WEIGHTS:       # else counts compare as they are
            weights = candidates.weights + start
            for index in range(size):
                loads[index] = <float><int>bits[index] / weights[index]
        lowest = _lowest_eligible(table, candidates, request, checks, start, size, bits, &state, &ties)
        if size == candidates.count:
            return lowest
        if lowest >= 0 and bits[lowest] <= best_bits:
            if bits[lowest] < best_bits:
                ties_total = 0
            ties_total += ties
            best_bits = bits[lowest]
            if _scale(random_next(&state) >> 32, ties_total) < ties:     # else the winner so far stays
                best = <int>start + lowest
        start += size
    return best


cdef int _lowest_eligible(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks,
    uint32_t start, uint32_t size, uint32_t* bits, uint64_t* state, uint32_t* ties
) noexcept nogil:
    """The index of the lowest of bits[size], a random one of equals; -1 when nobody in the block is eligible.

    The bits are counts, or those of non-negative float32 numbers, which order like integers: these loops vectorise.
    Eligibility is asked of winners only, until a few were refused.
    """
    cdef uint32_t refused = 0, index, lowest, nth, tie_count, chunk, chunk_end
    while True:
        lowest = NOBODY
        for index in range(size):
            lowest = bits[index] if bits[index] < lowest else lowest
        if lowest == NOBODY:
            return -1
        tie_count = 0
        for index in range(size):
            tie_count += bits[index] == lowest
        ties[0] = tie_count
        nth = 0 if tie_count == 1 else _scale(random_next(state) >> 32, tie_count)
        chunk_end = 0
        while True:                  # whole chunks are counted at once; what lies behind `size` comes after every tie
            chunk = 0
            for index in range(<uint32_t>CHUNK_COUNT):
                chunk += bits[chunk_end + index] == lowest
            if nth < chunk:
                break
            nth -= chunk
            chunk_end += CHUNK_COUNT
        index = chunk_end
        while True:
            if bits[index] == lowest:
                if nth == 0:
                    break
                nth -= 1
            index += 1
        if not checks or _is_eligible(table, candidates, request, checks, start + index):
            return <int>index
        bits[index] = NOBODY
        refused += 1
        if refused == REFUSED_MAX:
            for index in range(size):
                if not _is_eligible(table, candidates, request, checks, start + index):
                    bits[index] = NOBODY


# --- by key ---------------------------------------------------------------------------------------------------------

cdef inline float _remainder(uint32_t low, uint32_t high) noexcept nogil:
    """1 - u from a 64-bit pair of key and identity, in 32-bit steps that vectorise (constants: Wellons' lowbias32)."""
    cdef float remainder
    low ^= low >> 16
    low *= <uint32_t>0x7FEB352D
    low = (low ^ (low >> 15)) + high
    low ^= low >> 16
    low *= <uint32_t>0x846CA68B
    low ^= low >> 15
    low *= <uint32_t>0x7FEB352D
    low ^= low >> 16
    remainder = (<float><int>(low >> 1) + <float>0.5) * <float>(1.0 / 2147483648.0)
    return remainder if remainder < REMAINDER_MAX else REMAINDER_MAX


cdef int _pick_rendezvous(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks, uint64_t key
) noexcept nogil:
    # Weighted rendezvous: argmax of -w / ln(u), u = hash(key, identity) in (0, 1), (Schindelhauer, Schomaker,
    # "Weighted Distributed Hash Tables", SPAA 2005), here as argmin of -ln(u) / w. Removing one moves but its keys.
    # -ln(u) >= 1 - u, so the candidate of the lowest (1 - u) / w is the winner where weights are equal, and elsewhere
    # sets a bound that leaves few logarithms to compute.
    cdef uint32_t[BLOCK_COUNT] bits
    cdef float* bounds = <float*>bits
    cdef uint64_t mixed_key = multiply_fold(key ^ WYRAND_XOR, HASH_FOLD)
    cdef uint32_t key_low = <uint32_t>mixed_key, key_high = <uint32_t>(mixed_key >> 32)
    cdef uint64_t identity, state = key
    cdef double cost, best_cost = 1e300
    cdef uint32_t start = 0, size, index, ties = 0
    cdef bint differing = not candidates.shape & SHAPE_EQUAL_WEIGHTS
    cdef float* weights
    cdef uint64_t* identities
    cdef int best = -1, lowest
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        weights = candidates.weights + start
        identities = candidates.identities + start
        for index in range(size):
            identity = identities[index]
            bounds[index] = _remainder(<uint32_t>identity ^ key_low, <uint32_t>(identity >> 32) ^ key_high)
        if differing:
            for index in range(size):
                bounds[index] = bounds[index] / weights[index]
        lowest = _lowest_eligible(table, candidates, request, checks, start, size, bits, &state, &ties)
        if lowest >= 0:
            if not differing and size == candidates.count:
                return lowest
            cost = -log1p(-<double>bounds[lowest] * (weights[lowest] if differing else 1.0)) / weights[lowest]
            if cost < best_cost:
                best_cost = cost
                best = <int>start + lowest
        if differing:
            for index in range(size):
                if bounds[index] <= best_cost and bits[index] != NOBODY:
                    cost = -log1p(-<double>bounds[index] * weights[index]) / weights[index]
                    if cost < best_cost and _is_eligible(table, candidates, request, checks, start + index):
                        best_cost = cost
                        best = <int>(start + index)
        start += size
    return best


cdef int _pick_on_ring(
    load_table_t* table, candidate_set_t* candidates, pick_request_t* request, int checks, uint64_t key
) noexcept nogil:
    # Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, arXiv 1608.01350), weighted: from the
    # key's place walk on to the first owner under its share of (1 + epsilon) times the load with this request,
    #   capacity = ceil(load_factor * (total_in_flight + 1) * weight / weight_total)
    # over eligible candidates. Capacities sum to more than the total, so somebody is under his.
    cdef uint32_t[BLOCK_COUNT] in_flight
    cdef uint64_t total = 0
    cdef double weight_total = 0.0, load_factor = request.load_factor, scale
    cdef uint32_t start = 0, size, index, _step, owner, place
    cdef int first_eligible = -1
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        _read_in_flight(table, candidates, start, size, in_flight)
        if checks:
            for index in range(size):
                if _is_eligible(table, candidates, request, checks, start + index):
                    total += in_flight[index]
                    weight_total += candidates.weights[start + index]
        else:
            for index in range(size):
                total += in_flight[index]
        start += size
    if not checks:
        weight_total = candidates.weight_total
    if not load_factor >= 1.0:       # below 1 nobody might be under his share
        load_factor = 1.0
    scale = load_factor * <double>(total + 1) / weight_total
    place = _ring_place(candidates, multiply_fold(key ^ WYRAND_XOR, HASH_FOLD))
    for _step in range(candidates.ring_count):
        owner = candidates.ring_owners[place]
        if _is_eligible(table, candidates, request, checks, owner):
            if first_eligible < 0:
                first_eligible = <int>owner
            if load_in_flight(table, candidates.slots[owner]) < ceil(scale * candidates.weights[owner]):
                return <int>owner
        place += 1
        if place == candidates.ring_count:
            place = 0
    return first_eligible            # other workers filled everybody up while we walked


cdef uint32_t _ring_place(candidate_set_t* candidates, uint64_t key) noexcept nogil:
    """The index of the first point at or after `key`, 0 behind the last."""
    cdef uint64_t* points = candidates.ring_points
    cdef uint32_t low = 0, size = candidates.ring_count, half
    while size > 1:
        half = size >> 1
        low += half if points[low + half - 1] < key else 0       # a conditional move: a branch would miss half the time
        size -= half
    low += points[low] < key
    return low if low < candidates.ring_count else 0


# --- candidate sets -------------------------------------------------------------------------------------------------

cdef struct ring_point_t:
    uint64_t point
    uint64_t identity
    uint32_t owner


cdef int _compare_points(const void* a, const void* b) noexcept nogil:
    cdef const ring_point_t* first = <const ring_point_t*>a
    cdef const ring_point_t* second = <const ring_point_t*>b
    if first.point != second.point:
        return 1 if first.point > second.point else -1
    return (first.identity > second.identity) - (first.identity < second.identity)


cdef int candidate_set_build_ring(candidate_set_t* candidates, uint32_t points_per_weight) noexcept nogil:
    cdef double scale = points_per_weight
    cdef uint32_t position, index, point_count, total = 0
    cdef ring_point_t* ring
    candidates.weight_total = 0.0
    for position in range(candidates.count):
        candidates.weight_total += candidates.weights[position]
    if scale * candidates.weight_total > RING_POINTS_MAX:
        scale = RING_POINTS_MAX / candidates.weight_total
    for position in range(candidates.count):
        total += _point_count(scale, candidates.weights[position])
    ring = <ring_point_t*>malloc((total + 1) * sizeof(ring_point_t))
    free(candidates.ring_points)
    free(candidates.ring_owners)
    candidates.ring_count = 0
    candidates.ring_points = <uint64_t*>malloc((total + 1) * sizeof(uint64_t))
    candidates.ring_owners = <uint32_t*>malloc((total + 1) * sizeof(uint32_t))
    if ring == NULL or candidates.ring_points == NULL or candidates.ring_owners == NULL:
        free(ring)
        free(candidates.ring_points)
        free(candidates.ring_owners)
        candidates.ring_points = NULL
        candidates.ring_owners = NULL
        return -1
    total = 0
    for position in range(candidates.count):
        point_count = _point_count(scale, candidates.weights[position])
        for index in range(point_count):
            ring[total].point = _hash_pair(candidates.identities[position], index)
            ring[total].identity = candidates.identities[position]
            ring[total].owner = position
            total += 1
    qsort(ring, total, sizeof(ring_point_t), _compare_points)
    for index in range(total):
        candidates.ring_points[index] = ring[index].point
        candidates.ring_owners[index] = ring[index].owner
    candidates.ring_count = total
    free(ring)
    return 0


cdef inline uint32_t _point_count(double scale, float weight) noexcept nogil:
    cdef double points = scale * weight + 0.5
    return <uint32_t>points if points >= 1.0 else 1


cdef void candidate_set_free(candidate_set_t* candidates) noexcept nogil:
    free(candidates.slots)
    free(candidates.weights)
    free(candidates.identities)
    free(candidates.ring_points)
    free(candidates.ring_owners)
    memset(candidates, 0, sizeof(candidate_set_t))


# --- the door -------------------------------------------------------------------------------------------------------

cdef class CandidateSet:
    """Candidates for tests and benches; the snapshot builds the same struct for requests."""

    cdef candidate_set_t candidates

    def __cinit__(self, slots, weights=None, identities=None, uint32_t points_per_weight=0):
        cdef uint32_t count = len(slots)
        cdef uint32_t position
        if weights is None:
            weights = [1.0] * count
        if identities is None:
            identities = [int(slot) + 1 for slot in slots]
        if not count == len(weights) == len(identities):
            raise ValueError("slots, weights and identities must be equally many")
        if count and not min(weights) > 0:
            raise ValueError("weights must be above 0")
        self.candidates.count = count
        self.candidates.slots = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
        self.candidates.weights = <float*>calloc(count + 1, sizeof(float))
        self.candidates.identities = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
        if not (self.candidates.slots and self.candidates.weights and self.candidates.identities):
            raise MemoryError
        for position in range(count):
            self.candidates.slots[position] = slots[position]
            self.candidates.weights[position] = weights[position]
            self.candidates.identities[position] = identities[position]
        if points_per_weight and candidate_set_build_ring(&self.candidates, points_per_weight):
            raise MemoryError

    def __dealloc__(self):
        candidate_set_free(&self.candidates)

    def __len__(self):
        return self.candidates.count

    def ring(self):
        return [
            (self.candidates.ring_points[index], self.candidates.ring_owners[index])
            for index in range(self.candidates.ring_count)
        ]

    def pick(
        self, int policy, LoadTable table not None, *, uint64_t random=0, uint64_t key=0, uint64_t now_us=0,
        excluded=(), float load_factor=1.25
    ):
        cdef pick_request_t request
        self._check(table)
        memset(&request, 0, sizeof(request))
        request.key = key
        request.random = random
        request.now_us = now_us
        request.load_factor = load_factor
        for position in excluded:
            if not 0 <= position < EXCLUDABLE_COUNT:
                raise ValueError(f"only positions below {EXCLUDABLE_COUNT} can be excluded, not {position}")
            request.excluded[position >> 6] |= <uint64_t>1 << <int>(position & 63)
        return pick_endpoint(policy, &table.table, &self.candidates, &request)

    def bench_loop(self, int policy, LoadTable table not None, uint64_t pick_count, uint64_t now_us=0):
        cdef pick_request_t request
        cdef timespec start, end
        cdef uint64_t _index, state = 1
        cdef int64_t winners = 0
        self._check(table)
        memset(&request, 0, sizeof(request))
        request.load_factor = 1.25
        request.now_us = now_us
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &start)
            for _index in range(pick_count):
                request.random = random_next(&state)
                request.key = request.random
                winners += pick_endpoint(policy, &table.table, &self.candidates, &request)
            clock_gettime(CLOCK_MONOTONIC, &end)
        if winners < 0:
            raise ValueError("there was nobody to pick")
        return ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / (pick_count or 1)

    cdef int _check(self, LoadTable table) except -1:
        cdef uint32_t position
        for position in range(self.candidates.count):
            if self.candidates.slots[position] >= table.table.slot_count:
                raise IndexError(f"slot {self.candidates.slots[position]} of {table.table.slot_count}")
        return 0


def random_words(uint64_t seed, uint32_t count):
    """The `count` words that `random_next` gives from `seed`: what a pick sees when it draws again."""
    return [random_next(&seed) for _ in range(count)]

"""Who may be picked, and the choices that policies share: draws, ties, rings.

A pick is made among eligible candidates: not excluded (tried by this exchange already, or full), not ejected, and with
all the features that are required. The usual case, nobody excluded or ejected and nothing required, is known from three
reads and checks nobody. When no candidate is eligible the pick is made once more among the ejected ones: with
everything down, trying beats refusing (Envoy calls it panic), and the ejections may be of our own making. A pool may
have a share of its own from which on it panics. What is required stays required: a rule on where data may go does not
fall with the endpoints that keep it.

Invariant: a candidate set is built aside and never changes while requests use it, but for round robin's place and what
the first pick finds of its shape. Neighbours: loadtable (counts, ejections), pick and the policy modules (which choose
by what is here), routes (which builds the sets of a snapshot).
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset
from router.native.loadtable cimport (
    load_ejections_end_us, load_is_ejected, load_row, load_row_many, load_table_t
)

from array import array

cdef extern from *:
    """
    #include <math.h>
    #include <string.h>
    /* Bits that order as the sums do: numbers below zero turned round, NaN like infinity. The lowest of them. */
    static uint32_t fl_order(const float* __restrict score, const float* __restrict refused, uint32_t* __restrict bits,
                             uint32_t count) {
        uint32_t lowest = UINT32_MAX;
        for (uint32_t i = 0; i < count; i++) {
            float sum = score[i] + refused[i];
            uint32_t word;
            memcpy(&word, &sum, 4);
            uint32_t turned = word ^ ((uint32_t)((int32_t)word >> 31) | 0x80000000u);
            turned = (int32_t)(word & 0x7FFFFFFFu) > 0x7F800000 ? 0xFF800000u : turned;
            bits[i] = turned;
            lowest = turned < lowest ? turned : lowest;
        }
        return lowest;
    }
    static uint32_t fl_lowest(const uint32_t* bits, uint32_t count) {
        uint32_t lowest = UINT32_MAX;
        for (uint32_t i = 0; i < count; i++)
            lowest = bits[i] < lowest ? bits[i] : lowest;
        return lowest;
    }
    static uint32_t fl_count(const uint32_t* bits, uint32_t count, uint32_t wanted) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < count; i++)
            found += bits[i] == wanted;
        return found;
    }
    /* One AND a candidate. */
    static void fl_refuse(const uint64_t* __restrict features, uint64_t required, float* __restrict refused,
                          uint32_t count) {
        for (uint32_t i = 0; i < count; i++)
            refused[i] = required & ~features[i] ? INFINITY : 0.0f;
    }
    static void fl_range(const float* __restrict values, const float* __restrict refused, uint32_t count,
                         float* least, float* greatest) {
        float low[16], high[16];
        uint32_t i = 0;
        for (int j = 0; j < 16; j++) {
            low[j] = INFINITY;
            high[j] = -INFINITY;
        }
        for (; i + 16 <= count; i += 16)
            for (int j = 0; j < 16; j++) {
                low[j] = float_min(values[i + j] + refused[i + j], low[j]);
                high[j] = float_max(values[i + j] - refused[i + j], high[j]);
            }
        for (int j = 0; i + j < count; j++) {
            low[j] = float_min(values[i + j] + refused[i + j], low[j]);
            high[j] = float_max(values[i + j] - refused[i + j], high[j]);
        }
        for (int j = 1; j < 16; j++) {
            low[0] = float_min(low[j], low[0]);
            high[0] = float_max(high[j], high[0]);
        }
        *least = low[0];
        *greatest = high[0];
    }
    """
    uint32_t fl_order(const float* score, const float* refused, uint32_t* bits, uint32_t count) noexcept nogil
    uint32_t fl_lowest(const uint32_t* bits, uint32_t count) noexcept nogil
    uint32_t fl_count(const uint32_t* bits, uint32_t count, uint32_t wanted) noexcept nogil
    void fl_refuse(const uint64_t* features, uint64_t required, float* refused, uint32_t count) noexcept nogil
    void fl_range(
        const float* values, const float* refused, uint32_t count, float* least, float* greatest) noexcept nogil

cdef enum:
    DRAWS_PER_WANTED = 8             # with half of many candidates ineligible, 1 draw of two in 256 comes to the scan
    SCAN_COUNT_MAX = 16              # up to so many candidates a scan is cheaper than drawing again and again
    CHUNK_COUNT = 16
    BLOCK_COUNT = 1024               # scores looked at at a time, on the stack
    RING_POINTS_MAX = 1 << 20        # 12 MiB; more points a candidate than that buys no evenness
    MAGLEV_CANDIDATES_MAX = 32768    # half the table: with more, weights could not be told apart

cdef uint32_t NOBODY = 0xFF800000                # the ordered bits of infinity: nobody is below or at it
cdef uint64_t WYRAND_STEP = 0xA0761D6478BD642F
cdef uint64_t WYRAND_XOR = 0xE7037ED1A0B428DB
cdef uint64_t HASH_FOLD = 0x9E3779B97F4A7C15     # 2^64 / golden ratio: bits without a pattern


cdef uint64_t hash_pair(uint64_t a, uint64_t b) noexcept nogil:
    # Two folds: after one, three equally spaced identities would still have dependent scores.
    return multiply_fold(multiply_fold(a ^ WYRAND_STEP, b ^ WYRAND_XOR), HASH_FOLD)


# --- eligibility ----------------------------------------------------------------------------------------------------

cdef bint _is_panic(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request, int checks
) noexcept nogil:
    cdef uint32_t position, count = 0, ejected_count = 0
    for position in range(candidates.count):
        if is_eligible(load, candidates, request, checks & CHECK_REQUIRED, position):
            count += 1
            ejected_count += load_is_ejected(load, candidates.slots[position], request.now_us)
    # As a quotient: 29 / 100 is the same double as 0.29, while 0.29 * 100 is less than 29.
    return count != 0 and <double>ejected_count / <double>count > candidates.ejected_ratio_max


cdef int candidate_checks(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request
) noexcept nogil:
    cdef int checks = 0
    if request.excluded != NULL:
        checks |= CHECK_EXCLUDED
    if request.required:
        checks |= CHECK_REQUIRED
    if request.now_us < load_ejections_end_us(load) \
            and not (candidates.ejected_ratio_max > 0 and _is_panic(load, candidates, request, checks)):
        checks |= CHECK_EJECTED
    return checks


cdef bint is_eligible(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request, int checks, uint32_t position
) noexcept nogil:
    cdef uint32_t slot = candidates.slots[position]
    if checks & CHECK_EXCLUDED and request.excluded[slot >> 6] >> (slot & 63) & 1:
        return False
    if checks & CHECK_REQUIRED:
        if candidates.features == NULL or request.required & ~candidates.features[position]:
            return False
    return not (checks & CHECK_EJECTED and load_is_ejected(load, slot, request.now_us))


cdef object exclude_positions(pick_request_t* request, const candidate_set_t* candidates, positions):
    cdef uint32_t index, slot_count = 0
    cdef uint64_t[::1] words
    if not positions:
        return None
    for index in range(candidates.count):
        slot_count = max(slot_count, candidates.slots[index] + 1)
    words = array("Q", bytes(((slot_count >> 6) + 1) * sizeof(uint64_t)))
    for position in positions:
        if not 0 <= position < candidates.count:
            raise IndexError(f"position {position} of {candidates.count}")
        exclude_slot(&words[0], candidates.slots[position])
    request.excluded = &words[0]
    return words


cdef bint is_anybody_well(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request
) noexcept nogil:
    cdef int checks = candidate_checks(load, candidates, request)
    cdef uint32_t position
    if not checks:
        return candidates.count != 0
    for position in range(candidates.count):
        if is_eligible(load, candidates, request, checks, position):
            return True
    return False


cdef void candidates_refused(
    load_table_t* load, const candidate_set_t* candidates, const pick_request_t* request, float* refused
) noexcept nogil:
    cdef int checks = candidate_checks(load, candidates, request)
    cdef uint32_t position, left = 0
    if not checks:
        memset(refused, 0, candidates.count * sizeof(float))
        return
    if checks == CHECK_REQUIRED and candidates.features != NULL:
        fl_refuse(candidates.features, request.required, refused, candidates.count)
        return
    while True:
        for position in range(candidates.count):
            if is_eligible(load, candidates, request, checks, position):
                refused[position] = 0.0
                left += 1
            else:
                refused[position] = INFINITY
        if left or not checks & CHECK_EJECTED:
            return
        checks &= ~CHECK_EJECTED


cdef uint32_t candidate_set_shape(candidate_set_t* candidates) noexcept nogil:
    cdef uint32_t position, jumps = 0, differing = 0
    if candidates.shape or candidates.count == 0:
        return candidates.shape
    for position in range(candidates.count):
        jumps |= candidates.slots[position] ^ (candidates.slots[0] + position)
        differing |= candidates.weights[position] != candidates.weights[0]
    candidates.share = <float>1 / <float>candidates.count
    candidates.shape = SHAPE_KNOWN | (0 if jumps else SHAPE_IN_A_ROW) | (0 if differing else SHAPE_EQUAL_WEIGHTS)
    return candidates.shape


cdef void read_row(
    load_table_t* load, int row, const candidate_set_t* candidates, uint32_t start, uint32_t size, float* sums
) noexcept nogil:
    if candidates.shape & SHAPE_IN_A_ROW:
        load_row(load, row, candidates.slots[start], size, sums)
    else:
        load_row_many(load, row, candidates.slots + start, size, sums)


# --- draws and ties -------------------------------------------------------------------------------------------------

cdef inline bint _is_among(uint32_t position, const uint32_t* positions, uint32_t count) noexcept nogil:
    cdef uint32_t index
    for index in range(count):
        if positions[index] == position:
            return True
    return False


cdef uint32_t draw_positions(
    const float* refused, uint32_t count, uint32_t wanted, uint64_t* state, uint32_t* positions
) noexcept nogil:
    cdef uint32_t found = 0, draw, _attempt, position
    if count > SCAN_COUNT_MAX and count > 2 * wanted:
        for _attempt in range(DRAWS_PER_WANTED * wanted):
            position = random_scale(random_next(state) >> 32, count)
            if refused[position] == 0.0 and not _is_among(position, positions, found):
                positions[found] = position
                found += 1
                if found == wanted:
                    return wanted
    found = 0
    for position in range(count):    # a reservoir: Vitter, "Random Sampling with a Reservoir" (1985), R
        if refused[position] == 0.0:
            found += 1
            if found <= wanted:
                positions[found - 1] = position
            else:
                draw = random_scale(random_next(state) >> 32, found)
                if draw < wanted:
                    positions[draw] = position
    return min(found, wanted)


cdef uint32_t _nth_of(
    const uint32_t* bits, uint32_t lowest, uint32_t size, uint64_t* state, uint32_t* ties
) noexcept nogil:
    # Whole chunks are counted at once; what lies behind `size` comes after every tie.
    cdef uint32_t index, nth, chunk, chunk_end = 0
    ties[0] = fl_count(bits, size, lowest)
    nth = 0 if ties[0] == 1 else random_scale(random_next(state) >> 32, ties[0])
    while True:
        chunk = fl_count(bits + chunk_end, CHUNK_COUNT, lowest)
        if nth < chunk:
            break
        nth -= chunk
        chunk_end += CHUNK_COUNT
    index = chunk_end
    while True:
        if bits[index] == lowest:
            if nth == 0:
                return index
            nth -= 1
        index += 1


cdef uint32_t lowest_of_bits(const uint32_t* bits, uint32_t size, uint64_t* state, uint32_t* ties) noexcept nogil:
    return _nth_of(bits, fl_lowest(bits, size), size, state, ties)


cdef void range_of(
    const float* values, const float* refused, uint32_t count, float* least, float* greatest
) noexcept nogil:
    fl_range(values, refused, count, least, greatest)


cdef int least_score(const float* score, const float* refused, uint32_t count, uint64_t random) noexcept nogil:
    cdef uint32_t[BLOCK_COUNT] bits
    cdef uint64_t state = random
    cdef uint32_t best_bits = NOBODY, ties = 0, ties_total = 0, start = 0, size, lowest, index
    cdef int best = -1
    while start < count:
        size = min(count - start, <uint32_t>BLOCK_COUNT)
        lowest = fl_order(score + start, refused + start, bits, size)
        if lowest < NOBODY and lowest <= best_bits:
            index = _nth_of(bits, lowest, size, &state, &ties)
            if lowest < best_bits:
                ties_total = 0
            ties_total += ties
            best_bits = lowest
            # A later block wins with the share of its ties; the first always, without a draw.
            if best < 0 or ties_total == ties or random_scale(random_next(&state) >> 32, ties_total) < ties:
                best = <int>(start + index)
        start += size
    return best


# --- rings ----------------------------------------------------------------------------------------------------------

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


cdef inline uint32_t _point_count(double scale, float weight) noexcept nogil:
    cdef double points = scale * weight + 0.5
    return <uint32_t>points if points >= 1.0 else 1


cdef void _free_ring(candidate_set_t* candidates) noexcept nogil:
    free(candidates.ring_points)
    free(candidates.ring_owners)
    free(candidates.ring_index)
    candidates.ring_points = NULL
    candidates.ring_owners = NULL
    candidates.ring_index = NULL
    candidates.ring_count = 0


cdef int candidate_set_build_ring(candidate_set_t* candidates, uint32_t points_per_weight) noexcept nogil:
    cdef double scale = points_per_weight
    cdef uint32_t position, index, point_count, bits = 1, total = 0
    cdef ring_point_t* ring
    candidates.weight_total = 0.0
    for position in range(candidates.count):
        candidates.weight_total += candidates.weights[position]
    if scale * candidates.weight_total > RING_POINTS_MAX:
        scale = RING_POINTS_MAX / candidates.weight_total
    for position in range(candidates.count):
        total += _point_count(scale, candidates.weights[position])
    while <uint64_t>1 << bits < total:
        bits += 1
    _free_ring(candidates)
    ring = <ring_point_t*>malloc((total + 1) * sizeof(ring_point_t))
    candidates.ring_points = <uint64_t*>malloc((total + 1) * sizeof(uint64_t))
    candidates.ring_owners = <uint32_t*>malloc((total + 1) * sizeof(uint32_t))
    candidates.ring_index = <uint32_t*>malloc(((<size_t>1 << bits) + 1) * sizeof(uint32_t))
    if ring == NULL or candidates.ring_points == NULL or candidates.ring_owners == NULL \
            or candidates.ring_index == NULL:
        free(ring)
        _free_ring(candidates)
        return -1
    total = 0
    for position in range(candidates.count):
        point_count = _point_count(scale, candidates.weights[position])
        for index in range(point_count):
            ring[total].point = hash_pair(candidates.identities[position], index)
            ring[total].identity = candidates.identities[position]
            ring[total].owner = position
            total += 1
    qsort(ring, total, sizeof(ring_point_t), _compare_points)
    for index in range(total):
        candidates.ring_points[index] = ring[index].point
        candidates.ring_owners[index] = ring[index].owner
    free(ring)
    candidates.ring_count = total
    candidates.ring_shift = 64 - bits
    index = 0
    for position in range(<uint32_t>1 << bits):
        while index < total and candidates.ring_points[index] >> candidates.ring_shift < position:
            index += 1
        candidates.ring_index[position] = index
    return 0


# --- Maglev ---------------------------------------------------------------------------------------------------------
# Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), 3.4: every candidate fills
# the entries of its own permutation of the table in turn; with weights, a candidate whose turns are more than its
# share waits (as Envoy does). Candidates take turns by identity: the order they are listed in does not matter.

cdef struct maglev_turn_t:
    uint64_t identity
    uint32_t position
    uint32_t next                    # entry
    uint32_t skip
    double due                       # when its next turn is, in rounds


cdef int _compare_turns(const void* a, const void* b) noexcept nogil:
    cdef const maglev_turn_t* first = <const maglev_turn_t*>a
    cdef const maglev_turn_t* second = <const maglev_turn_t*>b
    return (first.identity > second.identity) - (first.identity < second.identity)


cdef int candidate_set_build_maglev(candidate_set_t* candidates) noexcept nogil:
    cdef uint32_t count = candidates.count, position, filled = 0, round_count = 0
    cdef float weight_max = 0.0
    cdef maglev_turn_t* turns
    cdef maglev_turn_t* turn
    if count > MAGLEV_CANDIDATES_MAX:
        return -1
    free(candidates.maglev)
    turns = <maglev_turn_t*>malloc((count + 1) * sizeof(maglev_turn_t))
    candidates.maglev = <uint16_t*>malloc(MAGLEV_ENTRIES * sizeof(uint16_t))
    if turns == NULL or candidates.maglev == NULL:
        free(turns)
        free(candidates.maglev)
        candidates.maglev = NULL
        return -1
    for position in range(<uint32_t>MAGLEV_ENTRIES):
        candidates.maglev[position] = 0xFFFF
    for position in range(count):
        turn = &turns[position]
        turn.identity = candidates.identities[position]
        turn.position = position
        turn.next = <uint32_t>(hash_pair(turn.identity, 0) % MAGLEV_ENTRIES)
        turn.skip = <uint32_t>(hash_pair(turn.identity, 1) % (MAGLEV_ENTRIES - 1)) + 1
        turn.due = 0.0
        if candidates.weights[position] > weight_max:
            weight_max = candidates.weights[position]
    qsort(turns, count, sizeof(maglev_turn_t), _compare_turns)
    while count and filled < MAGLEV_ENTRIES:
        for position in range(count):
            turn = &turns[position]
            if turn.due > round_count:
                continue
            turn.due += weight_max / candidates.weights[turn.position]
            while candidates.maglev[turn.next] != 0xFFFF:
                turn.next = (turn.next + turn.skip) % MAGLEV_ENTRIES
            candidates.maglev[turn.next] = <uint16_t>turn.position
            filled += 1
            if filled == MAGLEV_ENTRIES:
                break
        round_count += 1
    free(turns)
    return 0


cdef int candidate_set_reserve_loads(candidate_set_t* candidates) noexcept nogil:
    if candidates.load_s == NULL:
        candidates.load_s = <float*>calloc(candidates.count + 1, sizeof(float))
    if candidates.models_max == NULL:
        candidates.models_max = <uint32_t*>calloc(candidates.count + 1, sizeof(uint32_t))
    return 0 if candidates.load_s != NULL and candidates.models_max != NULL else -1


cdef int candidate_set_reserve_features(candidate_set_t* candidates) noexcept nogil:
    if candidates.features == NULL:
        candidates.features = <uint64_t*>calloc(candidates.count + 1, sizeof(uint64_t))
    return 0 if candidates.features != NULL else -1


cdef void candidate_set_free(candidate_set_t* candidates) noexcept nogil:
    free(candidates.slots)
    free(candidates.weights)
    free(candidates.identities)
    free(candidates.load_s)
    free(candidates.models_max)
    free(candidates.features)
    _free_ring(candidates)
    free(candidates.maglev)
    memset(candidates, 0, sizeof(candidate_set_t))

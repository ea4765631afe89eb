"""Policies that look at how much each endpoint has to do: round robin, random, two choices, least in flight, and the
two that also look at how long its requests have been taking: peak EWMA and Prequal's hot-cold rule.

In-flight counts are read from the shared table at every pick, so they include what every other worker picked until now.
Loads compare as in_flight / weight in float32; peak EWMA and Prequal know no weights.

Invariant: nothing here writes but round robin's place and the view's score. Neighbours: candidates (draws, ties,
eligibility), policy_memory (latencies), pick (which calls these).
"""

from libc.math cimport INFINITY, ceilf
from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport (
    SHAPE_EQUAL_WEIGHTS, candidate_set_t, draw_positions, is_eligible, least_score, lowest_of_bits, pick_request_t,
    random_next, random_scale, read_row
)
from router.native.loadtable cimport ROW_IN_FLIGHT, load_in_flight, load_table_t
from router.native.policy cimport (
    PEAK_EWMA_DECAY_MS, PEAK_EWMA_FIRST_GUESS_MS, PREQUAL_POOL, PREQUAL_Q_RIF, decider_t, policy_t
)
from router.native.policy_memory cimport (
    policy_memory_t, remembered_latency_s, remembered_peak_s
)
from router.native.view cimport view_t

cdef enum:
    SCAN_COUNT_MAX = 16              # up to so many candidates a scan is cheaper than drawing again and again
    DRAWS_MAX = 8                    # with half of many candidates ineligible, 1 pick in 256 comes to the scan
    REFUSED_MAX = 4                  # ineligible winners after which the rest of the block is asked at once
    BLOCK_COUNT = 1024               # in-flight counts read at a time, on the stack
    CHUNK_COUNT = 16
    POOL_MAX = 64                    # the most that knob `pool` of prequal may be

cdef uint32_t NOBODY = 0xFFFFFFFF                # above every load's bits
cdef float HOT = 1e6                             # above every latency in seconds: hot comes after cold


# --- two random choices ---------------------------------------------------------------------------------------------
# Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 2001): the better of two uniform
# choices. The random word's upper half gives the first, its bits 1..31 the second among the others, bit 0 breaks ties.

cdef int pick_of_two(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    cdef uint32_t[2] pair
    cdef float[2] loads
    cdef uint32_t count = candidates.count
    cdef uint32_t found
    if not checks:
        if count == 1:
            return 0
        pair[0] = random_scale(request.random >> 32, count)
        pair[1] = <uint32_t>(<uint64_t>(<uint32_t>request.random >> 1) * (count - 1) >> 31)
        pair[1] += pair[1] >= pair[0]
    else:
        found = _draw(load, candidates, request, checks, 2, pair)
        if found < 2:
            return <int>pair[0] if found else -1
    # in_flight / weight, both sides times both weights; without branches, which would be missed half the time.
    loads[0] = <float><int>load_in_flight(load, candidates.slots[pair[0]]) * candidates.weights[pair[1]]
    loads[1] = <float><int>load_in_flight(load, candidates.slots[pair[1]]) * candidates.weights[pair[0]]
    return <int>pair[(loads[1] < loads[0]) | ((loads[1] == loads[0]) & (request.random & 1))]


cdef uint32_t _draw(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, uint32_t wanted,
    uint32_t* pair
) noexcept nogil:
    """`wanted` (1 or 2) distinct eligible candidates, uniformly; returns how many there are, at most `wanted`."""
    cdef uint64_t state = request.random
    cdef uint32_t count = candidates.count
    cdef uint32_t found = 0, draw, _attempt, position
    if count > SCAN_COUNT_MAX:
        for _attempt in range(wanted * DRAWS_MAX):
            position = random_scale(random_next(&state) >> 32, count)
            if found == 1 and position == pair[0]:
                continue
            if is_eligible(load, candidates, request, checks, position):
                pair[found] = position
                found += 1
                if found == wanted:
                    return wanted
    found = 0
    for position in range(count):    # a reservoir: Vitter, "Random Sampling with a Reservoir" (1985), R
        if is_eligible(load, candidates, request, checks, position):
            found += 1
            if found <= wanted:
                pair[found - 1] = position
            else:
                draw = random_scale(random_next(&state) >> 32, found)
                if draw < wanted:
                    pair[draw] = position
    return wanted if found > wanted else found


# --- any, in turn, least --------------------------------------------------------------------------------------------

cdef int pick_random(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    cdef uint32_t[1] position
    if not checks:
        return <int>random_scale(request.random >> 32, candidates.count)
    return <int>position[0] if _draw(load, candidates, request, checks, 1, position) else -1


cdef int pick_in_turn(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    # The next turn begins behind the winner: the one behind a skipped candidate does not get its share on top.
    cdef uint32_t count = candidates.count
    cdef uint32_t _step, position = candidates.turn
    for _step in range(count):
        if position >= count:
            position = 0
        if not checks or is_eligible(load, candidates, request, checks, position):
            candidates.turn = position + 1
            return <int>position
        position += 1
    return -1


cdef int pick_least_in_flight(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    # The bits of non-negative float32 numbers order like integers.
    cdef float[BLOCK_COUNT] loads
    cdef uint32_t* bits = <uint32_t*>loads
    cdef float* weights
    cdef uint64_t state = request.random
    cdef uint32_t best_bits = NOBODY, ties = 0, ties_total = 0, start = 0, size, index
    cdef int best = -1, lowest
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        read_row(load, ROW_IN_FLIGHT, candidates, start, size, loads)
        if not candidates.shape & SHAPE_EQUAL_WEIGHTS:       # else counts compare as they are
            weights = candidates.weights + start
            for index in range(size):
                loads[index] = loads[index] / weights[index]
        lowest = _lowest_eligible(load, candidates, request, checks, start, size, bits, &state, &ties)
        if size == candidates.count:
            return lowest
        if lowest >= 0 and bits[lowest] <= best_bits:
            if bits[lowest] < best_bits:
                ties_total = 0
            ties_total += ties
            best_bits = bits[lowest]
            if random_scale(random_next(&state) >> 32, ties_total) < ties:     # else the winner so far stays
                best = <int>start + lowest
        start += size
    return best


cdef int _lowest_eligible(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks,
    uint32_t start, uint32_t size, uint32_t* bits, uint64_t* state, uint32_t* ties
) noexcept nogil:
    """The index of the lowest of bits[size], a random one of equals; -1 when nobody in the block is eligible.

    Eligibility is asked of winners only, until a few were refused.
    """
    cdef uint32_t refused = 0, index
    while True:
        index = lowest_of_bits(bits, size, state, ties)
        if bits[index] == NOBODY:
            return -1
        if not checks or is_eligible(load, candidates, request, checks, start + index):
            return <int>index
        bits[index] = NOBODY
        refused += 1
        if refused == REFUSED_MAX:
            for index in range(size):
                if not is_eligible(load, candidates, request, checks, start + index):
                    bits[index] = NOBODY


# --- peak EWMA ------------------------------------------------------------------------------------------------------

cdef int pick_peak_ewma(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # Two random choices by load = cost * (pending + 1), the cost being a peak EWMA of the time to first byte (Finagle
    # PeakEwma, tower peak_ewma); pending are those without a first token, as Linkerd counts streams. The cost decays
    # while nothing comes; an endpoint never heard of has the first guess, from when it was first looked at.
    cdef view_t* view = &decider.view
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef float decay_s = max(policy.knobs[PEAK_EWMA_DECAY_MS], <float>1e-3) * <float>1e-3
    cdef float guess_s = policy.knobs[PEAK_EWMA_FIRST_GUESS_MS] * <float>1e-3
    cdef uint32_t[2] pair
    cdef uint64_t state = request.random
    cdef uint32_t index, position
    cdef uint32_t found = draw_positions(view.refused, candidates.count, 2, &state, pair)
    for position in range(candidates.count):
        view.score[position] = INFINITY
    for index in range(found):
        position = pair[index]
        view.score[position] = (view.pending[position] + 1) * remembered_peak_s(
            memory, candidates.slots[position], guess_s, decay_s, request.now_us)
    if found < 2:
        return <int>pair[0] if found else -1
    if view.score[pair[0]] == view.score[pair[1]]:
        return <int>pair[request.random & 1]
    return <int>pair[view.score[pair[1]] < view.score[pair[0]]]


# --- Prequal --------------------------------------------------------------------------------------------------------

cdef int pick_prequal(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # The hot-cold lexicographic rule (Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance",
    # NSDI 2024, arXiv 2312.10172): of a sample, those whose requests in flight exceed its quantile are hot; the cold
    # one of least latency wins. Latency: the median of recent times to first token at about as many in flight.
    # Exact local counts stand for the original's probes.
    cdef view_t* view = &decider.view
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef uint32_t[POOL_MAX] pool
    cdef float[POOL_MAX] sorted_rif
    cdef uint64_t state = request.random
    cdef uint32_t wanted = <uint32_t>min(max(policy.knobs[PREQUAL_POOL], <float>1.0), <float>POOL_MAX)
    cdef uint32_t index, place, position, found
    cdef float rif, theta
    found = draw_positions(view.refused, candidates.count, wanted, &state, pool)
    if found == 0:
        return -1
    for index in range(found):       # insertion sort
        rif = view.in_flight[pool[index]]
        place = index
        while place > 0 and sorted_rif[place - 1] > rif:
            sorted_rif[place] = sorted_rif[place - 1]
            place -= 1
        sorted_rif[place] = rif
    place = <uint32_t>max(ceilf(policy.knobs[PREQUAL_Q_RIF] * <float>found), <float>1.0) - 1
    theta = sorted_rif[min(place, found - 1)]
    for position in range(candidates.count):
        view.score[position] = INFINITY
    for index in range(found):
        position = pool[index]
        rif = view.in_flight[position]
        if rif <= theta:
            view.score[position] = remembered_latency_s(memory, candidates.slots[position], rif)
        else:
            view.score[position] = HOT + rif
    return least_score(view.score, view.refused, candidates.count, random_next(&state))

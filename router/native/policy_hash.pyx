"""Policies that send the same key to the same endpoint: rendezvous, ring, ring with bounded loads, Maglev.

Invariant: with nobody excluded or ejected a key's endpoint depends on the candidates' identities and weights alone, not
on their order, on the worker or on the replica; and an endpoint that goes moves only its own keys (Maglev: a few
others', too). Only the bounded ring looks at load.

Neighbours: candidates (rings and tables, built with the set), pick (which calls these), the configuration's `key`
(what the key is a hash of).
"""

from libc.math cimport ceil, log1p
from libc.stdint cimport int32_t, uint32_t, uint64_t
from router.native.candidates cimport (
    MAGLEV_ENTRIES, SHAPE_EQUAL_WEIGHTS, candidate_set_t, is_eligible, multiply_fold, pick_request_t, random_scale,
    read_row
)
from router.native.loadtable cimport ROW_IN_FLIGHT, load_in_flight, load_table_t

cdef enum:
    BLOCK_COUNT = 1024               # hashes made at a time, on the stack
    CHUNK_COUNT = 16
    MAGLEV_PROBES = 16               # entries tried for a key whose own one is out; then a rendezvous

cdef uint32_t NOBODY = 0xFFFFFFFF                # above every hash
cdef float REMAINDER_MAX = 0.99999994            # the float32 below 1: ln(0) has no place in a comparison
cdef uint64_t WYRAND_XOR = 0xE7037ED1A0B428DB
cdef uint64_t HASH_FOLD = 0x9E3779B97F4A7C15     # 2^64 / golden ratio: bits without a pattern


cdef inline uint64_t _key_of(const pick_request_t* request) noexcept nogil:
    return request.key if request.key else request.random


# --- rendezvous -----------------------------------------------------------------------------------------------------
# Weighted rendezvous: argmax of -w / ln(u), u = hash(key, identity) in (0, 1), (Schindelhauer, Schomaker, "Weighted
# Distributed Hash Tables", SPAA 2005), here as argmin of -ln(u) / w. Removing one moves but its keys. Of 1 - u, 31 bits
# are made in 32-bit steps that vectorise (constants: Wellons' lowbias32).

cdef inline uint32_t _mix(uint32_t low, uint32_t high) noexcept nogil:
    # Two multiplications: a product's upper bits, which decide, depend on all of both halves.
    low ^= low >> 16
    low *= <uint32_t>0x7FEB352D
    low = (low ^ (low >> 15)) + high
    low ^= low >> 16
    low *= <uint32_t>0x846CA68B
    return low >> 1


cdef inline float _remainder(uint32_t mixed) noexcept nogil:
    cdef float remainder = (<float><int32_t>mixed + <float>0.5) * <float>(1.0 / 2147483648.0)
    return remainder if remainder < REMAINDER_MAX else REMAINDER_MAX


cdef inline uint32_t _mix_many(
    const uint32_t* words, uint32_t size, uint64_t mixed_key, uint32_t* mixed
) noexcept nogil:
    cdef uint32_t key_low = <uint32_t>mixed_key, key_high = <uint32_t>(mixed_key >> 32), lowest = NOBODY, index
    for index in range(size):        # an identity's two halves lie beside each other; both orders of them do
        mixed[index] = _mix(words[2 * index] ^ key_low, words[2 * index + 1] ^ key_high)
        lowest = mixed[index] if mixed[index] < lowest else lowest
    return lowest


cdef inline uint32_t _find(const uint32_t* mixed, uint32_t wanted) noexcept nogil:
    cdef uint32_t chunk, chunk_end = 0, index
    while True:
        chunk = 0
        for index in range(<uint32_t>CHUNK_COUNT):
            chunk |= mixed[chunk_end + index] == wanted
        if chunk:
            break
        chunk_end += CHUNK_COUNT
    while mixed[chunk_end] != wanted:
        chunk_end += 1
    return chunk_end


cdef int pick_rendezvous(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, uint64_t key
) noexcept nogil:
    # -ln(u) grows with 1 - u: with equal weights the lowest 1 - u wins and no logarithm is needed.
    cdef uint32_t[BLOCK_COUNT + CHUNK_COUNT] mixed
    cdef uint64_t mixed_key = multiply_fold(key ^ WYRAND_XOR, HASH_FOLD)
    cdef uint32_t best_mixed = NOBODY, lowest, start = 0, size, index
    cdef int best = -1
    if not candidates.shape & SHAPE_EQUAL_WEIGHTS:
        return _pick_weighted(load, candidates, request, checks, mixed_key)
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        lowest = _mix_many(<uint32_t*>(candidates.identities + start), size, mixed_key, mixed)
        if checks:
            lowest = NOBODY
            for index in range(size):
                if mixed[index] < lowest and is_eligible(load, candidates, request, checks, start + index):
                    lowest = mixed[index]
        if lowest < best_mixed:
            best_mixed = lowest
            index = _find(mixed, lowest)
            # Of two that mix to the same 31 bits (1 in 2^31) the first may be out.
            while checks and not is_eligible(load, candidates, request, checks, start + index):
                index += 1 + _find(mixed + index + 1, lowest)
            best = <int>(start + index)
        start += size
    return best


cdef int _pick_weighted(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, uint64_t mixed_key
) noexcept nogil:
    # -ln(u) >= 1 - u, so (1 - u) / w sets a bound that leaves few logarithms to compute.
    cdef uint32_t[BLOCK_COUNT + CHUNK_COUNT] mixed
    cdef float[BLOCK_COUNT] bounds
    cdef uint32_t start = 0, size, index
    cdef float best_cost = <float>3e38, cost
    cdef float* weights
    cdef int best = -1
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        weights = candidates.weights + start
        _mix_many(<uint32_t*>(candidates.identities + start), size, mixed_key, mixed)
        for index in range(size):
            bounds[index] = _remainder(mixed[index]) / weights[index]
        for index in range(size):
            if bounds[index] < best_cost:
                cost = <float>(-log1p(-<double>_remainder(mixed[index])) / weights[index])
                if cost < best_cost and is_eligible(load, candidates, request, checks, start + index):
                    best_cost = cost
                    best = <int>(start + index)
        start += size
    return best


# --- ring -----------------------------------------------------------------------------------------------------------

cdef inline uint32_t _place(const candidate_set_t* candidates, uint64_t key) noexcept nogil:
    """The index of the first point at or after the key's place, 0 behind the last."""
    cdef uint64_t place = multiply_fold(key ^ WYRAND_XOR, HASH_FOLD)
    cdef uint32_t index = candidates.ring_index[place >> candidates.ring_shift]
    while index < candidates.ring_count and candidates.ring_points[index] < place:
        index += 1
    return index if index < candidates.ring_count else 0


cdef int pick_on_ring(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    # Karger et al., "Consistent Hashing and Random Trees" (STOC 1997): the first owner at or after the key's place.
    cdef uint32_t _step, place, owner
    if candidates.ring_points == NULL:
        return pick_rendezvous(load, candidates, request, checks, _key_of(request))
    place = _place(candidates, _key_of(request))
    if not checks:
        return <int>candidates.ring_owners[place]
    for _step in range(candidates.ring_count):
        owner = candidates.ring_owners[place]
        if is_eligible(load, candidates, request, checks, owner):
            return <int>owner
        place += 1
        if place == candidates.ring_count:
            place = 0
    return -1


cdef int pick_on_bounded_ring(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, float load_factor
) noexcept nogil:
    # Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, arXiv 1608.01350), weighted: from the
    # key's place walk on to the first owner under its share of (1 + epsilon) times the load with this request,
    #   capacity = ceil(load_factor * (total_in_flight + 1) * weight / weight_total)
    # over eligible candidates. Capacities sum to more than the total, so somebody is under his.
    cdef float[BLOCK_COUNT] in_flight
    cdef uint32_t total = 0
    cdef double weight_total = 0.0, scale
    cdef uint32_t start = 0, size, index, _step, owner, place
    cdef int first_eligible = -1
    if candidates.ring_points == NULL:
        return pick_rendezvous(load, candidates, request, checks, _key_of(request))
    while start < candidates.count:
        size = min(candidates.count - start, <uint32_t>BLOCK_COUNT)
        read_row(load, ROW_IN_FLIGHT, candidates, start, size, in_flight)
        if checks:
            for index in range(size):
                if is_eligible(load, candidates, request, checks, start + index):
                    total += <uint32_t><int32_t>in_flight[index]
                    weight_total += candidates.weights[start + index]
        else:
            for index in range(size):
                total += <uint32_t><int32_t>in_flight[index]
        start += size
    if not checks:
        weight_total = candidates.weight_total
    if not load_factor >= 1.0:       # below 1 nobody might be under his share
        load_factor = 1.0
    scale = <double>load_factor * (<double>total + 1.0) / weight_total
    place = _place(candidates, _key_of(request))
    for _step in range(candidates.ring_count):
        owner = candidates.ring_owners[place]
        if not checks or is_eligible(load, candidates, request, checks, owner):
            if first_eligible < 0:
                first_eligible = <int>owner
            if load_in_flight(load, candidates.slots[owner]) < ceil(scale * candidates.weights[owner]):
                return <int>owner
        place += 1
        if place == candidates.ring_count:
            place = 0
    return first_eligible            # other workers filled everybody up while we walked


# --- Maglev ---------------------------------------------------------------------------------------------------------

cdef int pick_maglev(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    # The key's entry. When its owner is out the key is hashed again, so that what an endpoint leaves behind is spread
    # over all others.
    cdef uint64_t key = _key_of(request), place
    cdef uint32_t _probe, owner
    if candidates.maglev == NULL:
        return pick_rendezvous(load, candidates, request, checks, key)
    place = multiply_fold(key ^ WYRAND_XOR, HASH_FOLD)
    for _probe in range(<uint32_t>MAGLEV_PROBES):
        owner = candidates.maglev[random_scale(place >> 32, MAGLEV_ENTRIES)]
        if not checks or is_eligible(load, candidates, request, checks, owner):
            return <int>owner
        place = multiply_fold(place ^ WYRAND_XOR, HASH_FOLD)
    return pick_rendezvous(load, candidates, request, checks, key)

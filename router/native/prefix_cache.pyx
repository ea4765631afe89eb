"""What the prefix table knows of each endpoint's cache: its size, its clock, how far to trust it, what evicting costs.

The clock counts the tokens that an endpoint has been given uncached, as a share of its cache: a claim is as old as the
clock has moved since. Where an engine says that it had less cached than was believed, it has taken in more.
Eviction. What a prompt takes of a full cache drives something out, and that is worth what will be asked for again: the
share of tokens taken that had been claimed about one cache ago (AGED_MIN to AGED_MAX), over the last fill. A claim that
is too old to count is still there to tell that. Squared, so that the few that any traffic asks for late are as good as
none.
Neighbours: prefix (the claims, which are stamped by these clocks), decision (reports), policy_five_axis (the price).
"""

from libc.stdint cimport uint32_t, uint64_t

from router.native.atomic cimport add_u64, load_f32, load_u32, store_f32, store_u32

cdef enum:
    CAPACITY_DEFAULT_TOKENS = 1 << 19    # 40 GB of KV at 80 KB a token: a GPU of 80 GB with an 8B or (two) a 70B model
    CAPACITY_SHIFT = 40              # CAPACITY_UNITS << UNIT_SHIFT as a shift
    UNCACHED_TOKENS_MAX = 1 << 22    # of one insert; shifted by CAPACITY_SHIFT they fit 64 bits
    REPORTED_TOKENS_MIN = 64         # engines cache blocks of 16 to 64: fewer tokens expected say nothing

cdef float EVICTION_PRIOR = 0.1      # of a cache, taken and not asked for again: what little is known says little
cdef float TRUST_MIN = 0.05          # an endpoint that never reports hits is still tried first by its own sessions
cdef float TRUST_WEIGHT = 0.0625     # of a report above the trust: the last 16 or so count
# Of one below it. A cache that is full forgets what it could keep with less to do: who believes it less sends sessions
# elsewhere, and fills the next one. An engine without a prefix cache is found out within some hundred reports.
cdef float DISTRUST_WEIGHT = 0.00390625


cdef inline uint64_t _capacity(const prefix_table_t* table, uint32_t slot) noexcept nogil:
    cdef uint32_t capacity = load_u32(&table.capacity_tokens[slot])
    return capacity if capacity else <uint32_t> CAPACITY_DEFAULT_TOKENS


cdef uint64_t cache_give(prefix_table_t* table, uint32_t slot, uint32_t uncached_tokens) noexcept nogil:
    """The slot's clock by so many tokens; a prompt larger than the cache leaves nothing else: more is no older."""
    cdef uint64_t moved = min(uncached_tokens, <uint32_t> UNCACHED_TOKENS_MAX)
    moved = min((moved << CAPACITY_SHIFT) // _capacity(table, slot), <uint64_t> (AGE_MAX + 1) << UNIT_SHIFT)
    return add_u64(&table.clocks[slot], moved) + moved


cdef void cache_weigh_eviction(
    prefix_table_t* table, uint32_t slot, float aged_tokens, float taken_tokens
) noexcept nogil:
    cdef float capacity = <float> _capacity(table, slot)
    cdef float kept = 1 - min(taken_tokens / capacity, <float> 1)
    cdef float ratio
    aged_tokens += load_f32(&table.aged_tokens[slot]) * kept
    taken_tokens += load_f32(&table.taken_tokens[slot]) * kept
    store_f32(&table.aged_tokens[slot], aged_tokens)
    store_f32(&table.taken_tokens[slot], taken_tokens)
    ratio = min(aged_tokens / (taken_tokens + EVICTION_PRIOR * capacity), <float> 1)
    store_f32(&table.eviction[slot], ratio * ratio)


cdef void prefix_reported(
    prefix_table_t* table, uint32_t slot, uint32_t expected_tokens, uint32_t reported_tokens, uint32_t missed_tokens
) noexcept nogil:
    cdef float trust = load_f32(&table.trust[slot])
    cdef float ratio = 1
    if missed_tokens:
        cache_give(table, slot, missed_tokens)
    if expected_tokens < REPORTED_TOKENS_MIN:
        return
    if reported_tokens < expected_tokens:                        # more is what the engine itself has generated
        ratio = <float> reported_tokens / <float> expected_tokens
    trust += (ratio - trust) * (TRUST_WEIGHT if ratio > trust else DISTRUST_WEIGHT)
    store_f32(&table.trust[slot], max(trust, TRUST_MIN))


cdef void prefix_forget(prefix_table_t* table, uint32_t slot) noexcept nogil:
    add_u64(&table.clocks[slot], <uint64_t> (AGE_MAX + 1) << UNIT_SHIFT)
    store_f32(&table.trust[slot], 1)
    store_f32(&table.aged_tokens[slot], 0)
    store_f32(&table.taken_tokens[slot], 0)
    store_f32(&table.eviction[slot], 0)


cdef void prefix_set_capacity(prefix_table_t* table, uint32_t slot, uint32_t capacity_tokens) noexcept nogil:
    store_u32(&table.capacity_tokens[slot], capacity_tokens)

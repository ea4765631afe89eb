"""An endpoint's own cache as the prefix table sees it: clock, trust, size, and what it costs to drive something out.

The lower part of the prefix table: its struct, and what is done with its arrays of one element per endpoint.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:                           # ages, in units of 1 / CAPACITY_UNITS of a cache
    CAPACITY_UNITS = 256
    UNIT_SHIFT = 32                  # of a clock: fractions of a unit below
    AGE_MAX = 320                    # 1.25 caches: a claim older than that does not count
    AGED_MIN = 160                   # from here to AGED_MAX a claim is about as old as those that are evicted
    AGED_MAX = 480

cdef struct prefix_table_t:          # process-local view of the shared segment
    uint8_t* base
    size_t size_bytes
    void* marks                      # marks_t[bucket_count]: what a search reads of a bucket
    void* entries                    # entry_t[bucket_count * PREFIX_WAYS], 64 bytes each, aligned
    uint32_t bucket_count
    uint32_t slot_count
    uint64_t* clocks                 # clocks[slot]: uncached tokens given to it, in 2^-40 of its cache
    float* trust                     # trust[slot]: reported / expected cached tokens, EWMA, 0.05..1
    float* aged_tokens               # aged_tokens[slot]: asked for again at about the age at which it evicts them
    float* taken_tokens              # taken_tokens[slot]: uncached, over the same last fill or so of its cache
    float* eviction                  # eviction[slot]: (aged / taken)^2, 0..1
    uint32_t* capacity_tokens        # capacity_tokens[slot]: KV tokens of its cache; 0: not known
    float* found                     # found[slot_count], scratch of this process: all 0 between calls

# The slot is given so many tokens that are new to it: its clock, which moves by them.
cdef uint64_t cache_give(prefix_table_t* table, uint32_t slot, uint32_t uncached_tokens) noexcept nogil
# It was given `taken_tokens` that are new to it, with `aged_tokens` claimed there about one cache ago among them.
cdef void cache_weigh_eviction(
    prefix_table_t* table, uint32_t slot, float aged_tokens, float taken_tokens) noexcept nogil
# The engine said how many prompt tokens it had cached, where `expected_tokens` (before trust) were expected, and that
# it computed `missed_tokens` more than the slot's clock was moved by.
cdef void prefix_reported(
    prefix_table_t* table, uint32_t slot, uint32_t expected_tokens, uint32_t reported_tokens, uint32_t missed_tokens
) noexcept nogil
# An endpoint (re)joins cold: nothing that was claimed before counts, and it is trusted again.
cdef void prefix_forget(prefix_table_t* table, uint32_t slot) noexcept nogil
# How large its cache is; 0: not known. What was claimed before stays, with its age as a share of the cache.
cdef void prefix_set_capacity(prefix_table_t* table, uint32_t slot, uint32_t capacity_tokens) noexcept nogil

"""Which endpoints should hold which beginning of a prompt in their KV cache, in memory shared by all workers.

A key stands for everything up to a boundary of the prompt (see prompt.pxd), so a prompt is a chain of keys. An entry
is one cache line: a key and the endpoints that were given it, each with how far that endpoint's own cache clock had
come. An endpoint's clock counts the uncached tokens it has been given, as a share of its cache: an entry older than the
cache is large has been evicted there (least recently used). Guesses by design: every word is read and written whole,
but a race may lose or misplace a claim, which costs a cache hit and never correctness; engines' own figures correct
them (`trust`).
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.prefix_cache cimport prefix_table_t

cdef enum:
    PREFIX_OWNERS_MAX = 12           # a block given to more endpoints than that is taken to be everywhere
    PREFIX_WAYS = 4                  # entries a key may be in; the least recently touched one is replaced
    PREFIX_DEPTH_MAX = 512           # keys of one chain that are looked at

# hit_tokens[i]: tokens of the prompt that slots[i] should have cached, times its trust; `tokens[d]` is how many tokens
# the prompt has up to keys[d], growing. slots[i] < slot_count, in any order. No allocation.
cdef void prefix_match(
    prefix_table_t* table, const uint64_t* keys, const uint32_t* tokens, uint32_t depth, const uint32_t* slots,
    uint32_t count, float* hit_tokens) noexcept nogil
# The same in two steps, so that what a search reads first is on its way into the cache while the caller does something
# else. `spreads` has room for `depth` or PREFIX_DEPTH_MAX elements, whichever is less.
cdef void prefix_approach(
    const prefix_table_t* table, const uint64_t* keys, uint32_t depth, uint64_t* spreads) noexcept nogil
cdef void prefix_match_approached(
    prefix_table_t* table, const uint64_t* keys, const uint64_t* spreads, const uint32_t* tokens, uint32_t depth,
    const uint32_t* slots, uint32_t count, float* hit_tokens) noexcept nogil
# The prompt goes to `slot`: its keys are claimed there, and the slot's clock moves by the tokens that are new to it.
cdef void prefix_insert(
    prefix_table_t* table, const uint64_t* keys, const uint32_t* tokens, uint32_t depth, uint32_t slot,
    uint32_t uncached_tokens, uint64_t now_us) noexcept nogil

cdef class PrefixTable:
    cdef prefix_table_t table
    cdef object _mapping
    cdef readonly int fd             # owned by the table; pass it on, do not close it

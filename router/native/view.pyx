"""What a policy that weighs every candidate reads, as float32 arrays in the order of the candidate set.

Invariant: everything in a filled view is finite but `refused`, up to the next multiple of 16 of the candidates, so that
policies compute in whole vectors and need no tail. `queued_s` is the work queued at an endpoint less what its engine
has had time for: while its oldest pending prompt is prefilled, the queue melts. Neighbours: loadtable (the accounts),
prefix (cached tokens), candidates (who is out), decision (which charges what was read here).
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from router.native.candidates cimport SHAPE_IN_A_ROW, candidate_set_shape, candidates_refused
from router.native.learner cimport learner_refresh
from router.native.loadtable cimport load_read, load_read_t
from router.native.prefix cimport PREFIX_DEPTH_MAX, prefix_approach, prefix_match_approached
from router.native.wide cimport FL_WIDE  # no-cython-lint: used in C

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)

cdef extern from * nogil:
    """
    #include <stdint.h>
    static inline float fl_not_below(float value, float least) { return value > least ? value : least; }
    /* The last token is computed in any case. */
    FL_WIDE static void fl_uncached(float prompt_tokens, float* __restrict hits, float* __restrict uncached,
                            uint32_t count) {
        for (uint32_t i = 0; i < count; i++) {
            hits[i] = hits[i] < prompt_tokens ? hits[i] : prompt_tokens;
            uncached[i] = fl_not_below(prompt_tokens - hits[i], 1.0f);
        }
    }
    """
    void fl_uncached(float prompt_tokens, float* hits, float* uncached, uint32_t count)

cdef enum:
    WIDTH = 16                       # float32 of a cache line; every vector unit divides it
    ARRAYS = 10                      # besides scratch
    STAGGER_BYTES = 576              # 9 lines between arrays: with a power of two all would share a set of the cache
    CAPACITY_MAX = 1 << 20


cdef int view_reserve(view_t* view, uint32_t capacity) noexcept nogil:
    cdef void* memory = NULL
    cdef size_t stride
    cdef uint8_t* at
    cdef float** array = &view.in_flight
    cdef int index
    capacity = (min(capacity, <uint32_t>CAPACITY_MAX) + WIDTH - 1) // WIDTH * WIDTH
    if capacity <= view.capacity:
        return 0
    stride = capacity * sizeof(float) + STAGGER_BYTES
    if posix_memalign(&memory, 64, stride * (ARRAYS + VIEW_SCRATCH_COUNT)) != 0:
        return -1
    memset(memory, 0, stride * (ARRAYS + VIEW_SCRATCH_COUNT))
    free(view.memory)
    view.memory = memory
    at = <uint8_t*>memory
    for index in range(ARRAYS):          # in the order of the struct
        array[index] = <float*>(at + index * stride)
    for index in range(VIEW_SCRATCH_COUNT):
        view.scratch[index] = <float*>(at + (ARRAYS + index) * stride)
    view.capacity = capacity
    view.count = 0
    return 0


cdef void view_free(view_t* view) noexcept nogil:
    free(view.memory)
    memset(view, 0, sizeof(view_t))


cdef void view_fill(
    view_t* view, load_table_t* load, prefix_table_t* prefix, learner_t* learner, candidate_set_t* candidates,
    pick_request_t* request
) noexcept nogil:
    cdef uint64_t[PREFIX_DEPTH_MAX] spreads
    cdef uint32_t count = candidates.count
    if view.count or count > view.capacity or count == 0:
        return
    view.count = count
    if prefix != NULL:                   # first, for its misses take longest
        prefix_approach(prefix, request.blocks, request.block_count, spreads)
    if learner != NULL:
        learner_refresh(learner, load, request.now_us)
    _read_accounts(view, load, candidates, request.now_us)
    _read_prefix(view, prefix, candidates, request, spreads)
    candidates_refused(load, candidates, request, view.refused)
    _pad(view)


cdef inline void _read_accounts(
    view_t* view, load_table_t* load, candidate_set_t* candidates, uint64_t now_us
) noexcept nogil:
    cdef load_read_t read
    cdef bint in_a_row = candidate_set_shape(candidates) & SHAPE_IN_A_ROW != 0
    read.in_flight, read.pending, read.decoding = view.in_flight, view.pending, view.decoding
    read.queued_tokens, read.queued_s, read.kv_tokens = view.queued_tokens, view.queued_s, view.kv_tokens
    read.progress_us = view.score                    # nobody's until the policy writes it
    load_read(load, NULL if in_a_row else candidates.slots, candidates.slots[0], candidates.count, now_us, &read)


cdef inline void _read_prefix(
    view_t* view, prefix_table_t* prefix, candidate_set_t* candidates, const pick_request_t* request,
    const uint64_t* spreads
) noexcept nogil:
    cdef uint32_t count = candidates.count
    cdef float* hit_tokens = view.hit_tokens
    if prefix != NULL and request.block_count:
        prefix_match_approached(prefix, request.blocks, spreads, request.block_tokens, request.block_count,
                                candidates.slots, count, hit_tokens)
    else:
        memset(hit_tokens, 0, count * sizeof(float))
    fl_uncached(<float>request.prompt_tokens, hit_tokens, view.uncached_tokens, count)


cdef inline void _pad(view_t* view) noexcept nogil:
    cdef uint32_t position
    cdef uint32_t end = (view.count + WIDTH - 1) // WIDTH * WIDTH
    for position in range(view.count, end):
        view.in_flight[position] = view.pending[position] = view.decoding[position] = 0
        view.queued_tokens[position] = view.queued_s[position] = view.kv_tokens[position] = 0
        view.hit_tokens[position] = view.score[position] = 0
        view.uncached_tokens[position] = 1
        view.refused[position] = INFINITY

"""What a policy that weighs every candidate reads: the accounts of all of them as float32 arrays, one element per
candidate in the order of the candidate set. Filled anew for each pick from the load table and the prefix table; no
allocation.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.learner cimport learner_t
from router.native.loadtable cimport load_table_t
from router.native.prefix cimport prefix_table_t

cdef enum:
    VIEW_SCRATCH_COUNT = 24

cdef struct view_t:                  # arrays of `capacity`, 64-byte aligned
    uint32_t count                   # elements from here to the next multiple of 16 are finite and refused
    uint32_t capacity
    float* in_flight
    float* pending                   # of these not yet at their first token
    float* decoding                  # in_flight - pending
    float* queued_tokens             # uncached tokens not yet prefilled
    float* queued_s                  # the same as work there, less what its engine has done of the head by now
    float* kv_tokens
    float* hit_tokens                # of this prompt, believed cached there
    float* uncached_tokens           # prompt_tokens - hit_tokens, at least 1
    float* refused                   # 0, or INFINITY: excluded, ejected, not allowed
    float* score                     # the policy's, lower is better
    float* scratch[24]               # VIEW_SCRATCH_COUNT
    const uint32_t* slots            # for which pick it is filled: its candidates, NULL when it was charged since, ...
    uint64_t random
    uint64_t now_us
    uint64_t excluded[4]
    uint32_t prompt_tokens
    void* memory                     # that the arrays lie in

# 0, or -1 when there is no memory. A zero-filled view may be reserved at once and freed at any time.
cdef int view_reserve(view_t* view, uint32_t capacity) noexcept nogil
cdef void view_free(view_t* view) noexcept nogil
cdef bint view_is_for(
    const view_t* view, const candidate_set_t* candidates, const pick_request_t* request) noexcept nogil
# At most `capacity` candidates. Refreshes the learner (NULL: there is none). Does nothing when it is filled for this
# very pick already.
cdef void view_fill(
    view_t* view, load_table_t* load, prefix_table_t* prefix, learner_t* learner, candidate_set_t* candidates,
    pick_request_t* request) noexcept nogil

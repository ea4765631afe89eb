"""What a policy that weighs every candidate reads: the accounts of all of them as float32 arrays, one element per
candidate in the order of the candidate set. Filled anew for each pick from the load table and the prefix table; no
allocation. It belongs to one decision: emptied when its pick begins, filled by whoever needs it first, and emptied
again by the charge, which changes what it says.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.learner cimport learner_t
from router.native.loadtable cimport load_table_t
from router.native.prefix cimport prefix_table_t

cdef enum:
    VIEW_SCRATCH_COUNT = 27

cdef struct view_t:                  # arrays of `capacity`, 64-byte aligned
    uint32_t count                   # 0: empty. Elements from here to the next multiple of 16 are finite and refused
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
    float* scratch[27]               # VIEW_SCRATCH_COUNT
    void* memory                     # that the arrays lie in

# 0, or -1 when there is no memory. A zero-filled view may be reserved at once and freed at any time.
cdef int view_reserve(view_t* view, uint32_t capacity) noexcept nogil
cdef void view_free(view_t* view) noexcept nogil
# At most `capacity` candidates, else it stays empty. Refreshes the learner (NULL: there is none). Does nothing when it
# is filled already.
cdef void view_fill(
    view_t* view, load_table_t* load, prefix_table_t* prefix, learner_t* learner, candidate_set_t* candidates,
    pick_request_t* request) noexcept nogil

"""Why a session stayed where it was, or went elsewhere: one token for each decision of one."""

from libc.stdint cimport uint32_t
from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.policy cimport decider_t, policy_t
from router.native.pool cimport text_t

cdef enum switch_reason:             # texts in switching.pyx; counters in metrics.pxd are in this order
    SWITCH_NONE = 0                  # no session asks, or the policy remembers none
    SWITCH_NEW = 1                   # it has been nowhere that is remembered
    SWITCH_STAYED = 2
    SWITCH_QUEUE = 3                 # it went, for what its last endpoint is worse at most of all: waiting,
    SWITCH_CACHE = 4                 # computing what is not cached,
    SWITCH_LOAD = 5                  # loading the model,
    SWITCH_HEALTH = 6                # failing, or not to be picked: ejected, already tried, full, gone
    SWITCH_COST = 7
    SWITCH_TARGET = 8                # missing the target
    SWITCH_HEADROOM = 9              # disturbing others, length of its steps, KV and power
    SWITCH_TIE = 10                  # nothing: as good, and sessions are free to go
    SWITCH_MODEL = 11                # another model of the alias answers
    SWITCH_REASON_COUNT = 12

# Right after the pick of `position`, before it is charged; the request is the pick's.
cdef int switching_reason_of(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t position) noexcept nogil
cdef text_t switching_reason_text(int reason) noexcept nogil

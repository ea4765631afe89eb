"""The score over five axes: time to first token, cost, model affinity, capacity and power headroom, proximity and
health, all in seconds, so that every weight has a meaning and every decision can be told as a list of terms.
"""

from libc.stdint cimport uint32_t
from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.policy cimport decider_t, policy_t

cdef enum:                           # order in router/schema/policies.py
    KNOB_BETA = 0                    # externality: of what a prefill delays each answer there
    KNOB_GAMMA = 1                   # decode slot: of the time the answer will take among others
    KNOB_KAPPA = 2                   # prefix duplication: for each time that a cached token will be asked for again
    KNOB_BAND_RATIO = 3              # scores this near to the least are as good
    KNOB_BAND_MS = 4
    KNOB_COST_WEIGHT = 5             # seconds that a unit of currency is worth, unless the request says
    KNOB_BARRIER_S = 6               # a full KV cache
    KNOB_ERROR_S = 7                 # what a failed attempt costs
    KNOB_RATIO_MODE = 8              # ratios in place of times: 1 always, 0 while the view is partial, -1 never
    KNOB_SLO_PENALTY = 9             # seconds for each second by which the target would be missed
    KNOB_SWITCH_MS = 10              # what it costs that a session goes elsewhere; 0: it is free to go
    KNOB_SESSION_S = 11              # how long a session is remembered after its last request
    KNOB_ETA = 12                    # eviction: of what is driven out, for each request that would wait for it again
    KNOB_POWER_S = 13                # a power limit that is reached
    KNOB_PHI = 14                    # externality: of what a prefill delays whoever comes after it

cdef enum:
    TERM_COUNT = 14

cdef struct terms_t:                 # of one candidate, seconds; their sum is its score
    float queue
    float load
    float prefill
    float residual
    float proximity
    float externality
    float decode
    float duplication
    float eviction
    float cost
    float headroom
    float health
    float switching
    float quality

cdef inline bint five_axis_has_ratios(const decider_t* decider, const policy_t* policy) noexcept nogil:
    return policy.knobs[KNOB_RATIO_MODE] > 0 \
        or (policy.knobs[KNOB_RATIO_MODE] == 0 and decider.learner != NULL and decider.learner.hearing.is_partial)

# Fills view.score and returns the winner's position, -1: nobody is eligible.
cdef int pick_five_axis(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
# What the score of `position` is made of; right after a pick, while the view is that pick's.
cdef void five_axis_terms(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t position, terms_t* terms) noexcept nogil

"""Which of several models answers, and where: the pick for an alias."""

from libc.stdint cimport uint32_t
from router.native.pick cimport candidate_set_t, decider_t, pick_request_t, policy_t
from router.native.pool cimport text_t

cdef struct choice_t:                # a model that may answer
    candidate_set_t* candidates      # who serves it
    const policy_t* policy
    pick_request_t request           # what is asked, in this model's tokens and keys; quality_s is its cost
    text_t model                     # its name; empty where no alias was asked for

# The choice that wins, with the winner's position among its candidates; -1 when nobody can be picked. `choices` are in
# order of preference, at least one. Where every policy is five_axis and there is a prompt, the least of score and
# quality_s wins; else the first with somebody to pick. Ejected endpoints win only when no choice has another.
# Afterwards decider.view is the winning choice's, as pick_endpoint leaves it.
cdef int pick_choice(decider_t* decider, choice_t* choices, uint32_t count, int* position) noexcept nogil
# Whether the choices are compared by their scores.
cdef bint choices_are_weighed(const decider_t* decider, const choice_t* choices, uint32_t count) noexcept nogil

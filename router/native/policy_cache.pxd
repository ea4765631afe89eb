"""Policies that know what a prompt costs where: cached prefixes against load, each as its original weighs them.

All read the view, which is filled, write its score and return the position of the least; -1: nobody is eligible.
"""

from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.policy cimport decider_t, policy_t

cdef int pick_smg_cache_aware(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_loadaware(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_llmd(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_sticky(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_dynamo(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_lmetric(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_smetric(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_mooncake(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil

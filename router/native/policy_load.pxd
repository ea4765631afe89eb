"""Policies that look at how much each endpoint has to do: how many requests, and how long they have been taking."""

from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.loadtable cimport load_table_t
from router.native.policy cimport decider_t, policy_t

# `checks`: CHECK_ bits of what must be looked at. -1: nobody is eligible under them.
cdef int pick_of_two(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil
cdef int pick_in_turn(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil
cdef int pick_random(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil
cdef int pick_least_in_flight(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil
# These read the view, which is filled, and write its score.
cdef int pick_peak_ewma(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil
cdef int pick_prequal(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request) noexcept nogil

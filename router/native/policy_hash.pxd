"""Policies that send the same key to the same endpoint. Without a key they go by the request's random word."""

from libc.stdint cimport uint64_t
from router.native.candidates cimport candidate_set_t, pick_request_t
from router.native.loadtable cimport load_table_t

# `checks`: CHECK_ bits of what must be looked at. -1: nobody is eligible under them.
cdef int pick_rendezvous(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, uint64_t key) noexcept nogil
# The ring's and the Maglev table's must have been built; else they are a rendezvous.
cdef int pick_on_ring(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil
cdef int pick_on_bounded_ring(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks, float load_factor
) noexcept nogil
cdef int pick_maglev(
    load_table_t* load, candidate_set_t* candidates, pick_request_t* request, int checks) noexcept nogil

"""A snapshot built aside, with what activating it takes."""

from libc.stdint cimport uint32_t
from router.native.learner cimport Learner, engine_figures_t
from router.native.prefix cimport prefix_table_t
from router.native.routes cimport Snapshot

cdef struct slot_figures_t:          # what is believed of the endpoint in a slot, until more is learnt
    uint32_t slot
    engine_figures_t figures

cdef class Preparation:
    cdef object __weakref__
    cdef readonly Snapshot snapshot
    cdef readonly dict endpoints     # identity -> Endpoint
    cdef readonly dict by_url        # URL -> list[Endpoint]
    cdef readonly set kinds          # of policies
    cdef readonly uint32_t candidate_count_max
    cdef readonly uint32_t prompt_block_bytes
    cdef uint32_t slot_count         # of the shared tables
    cdef slot_figures_t* figures
    cdef uint32_t figure_count
    cdef add_figures(self, entry)
    cdef void set_figures(self, Learner learner, prefix_table_t* prefix) noexcept

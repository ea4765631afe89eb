"""A decision from its beginning to its end: the pick and its charge in one step, the first token, the end.

The proxy and the simulator call exactly this. Time comes in as `now_us`; nothing here reads a clock.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from router.native.learner cimport Learner
from router.native.loadtable cimport LoadTable, charge_t
from router.native.pick cimport candidate_set_t, decider_t, pick_request_t
from router.native.policy_memory cimport policy_memory_t
from router.native.prefix cimport PrefixTable
from router.native.residency cimport ResidencyTable
from router.native.session cimport SessionTable

# What a pick (pick_endpoint) chose is charged: accounts, prefix claims, where the session is, and the prediction that
# the first token will be compared with. A charge already held is released first.
cdef void decision_charge(
    decider_t* decider, candidate_set_t* candidates, uint32_t position, const pick_request_t* request,
    charge_t* charge) noexcept nogil
# The first token has come. Once; later calls change nothing.
cdef void decision_first_token(decider_t* decider, charge_t* charge, uint64_t now_us) noexcept nogil
# The same for a whole answer that was no stream: its first token came as much earlier as the others took.
# `output_tokens`: as reported; -1: not.
cdef void decision_whole_answer(
    decider_t* decider, charge_t* charge, int64_t output_tokens, uint64_t now_us) noexcept nogil
# The attempt is over, however. `failed`: by the endpoint's fault. `cached_tokens`: of the prompt, as the engine
# reported; -1: it did not. `prompt_tokens` likewise. Releases the charge; idempotent.
cdef void decision_end(
    decider_t* decider, charge_t* charge, bint failed, int64_t prompt_tokens, int64_t cached_tokens, uint64_t now_us
) noexcept nogil

cdef class Decider:                  # owns a decider_t over its tables; see decision.pyi
    cdef decider_t decider
    cdef readonly LoadTable load
    cdef readonly PrefixTable prefix
    cdef readonly Learner learner
    cdef readonly ResidencyTable residency
    cdef readonly SessionTable sessions
    cdef policy_memory_t* _memory
    cdef set _held                   # decisions that Python made and has not ended

cdef class Decision:                 # a charge that stays where it is; for tests and tools
    cdef charge_t charge
    cdef readonly int position
    cdef int switching               # switch_reason

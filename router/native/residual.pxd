"""How many times slower than its class an endpoint is just now: one word that all workers share.

The word is (float32 factor, ms of its stamp); 0 means that nothing was learnt, and the factor is 1. What exceeds 1
decays by itself, so that an endpoint nobody uses is tried again.
"""

from libc.stdint cimport uint64_t

cdef enum:
    RATIO_MAX = 20                   # of measured to predicted, as far as anything is learnt; the least is 1 / 20

cdef float residual_age_s(uint64_t word, uint64_t now_us) noexcept nogil
# The factor now.
cdef float residual_now(uint64_t word, uint64_t now_us) noexcept nogil
# One sample: measured over predicted.
cdef void residual_learn(uint64_t* word, float ratio, uint64_t now_us) noexcept nogil
# The same of a time that was expected, factor included, to be `expected_s`; `slack_s` of delay would have other
# reasons.
cdef void residual_learn_time(
    uint64_t* word, float ratio, float measured_s, float expected_s, float slack_s, uint64_t now_us) noexcept nogil
# How many times slower the machine is, by the factors of its first tokens and of its steps: 1 unless both say so.
cdef float residual_slowness(float first_token, float step) noexcept nogil

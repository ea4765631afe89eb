"""How many times slower than its class an endpoint is just now; see residual.pxd.

The factor's distance from 1 decays with RESIDUAL_TAU_S: if slow spells end at that rate, what is left is the slowness
to expect. A long prompt has more to lose by it than a short one, so it is a short one that finds out first.

A sample moves the factor's logarithm by RESIDUAL_WEIGHT, and nearly all the way when it surprises by a factor that the
class's own errors do not reach: an engine that was made ten times slower is so from one moment to the next, and each
sample spent on averaging is a request that waits ten times too long. What may have another reason does not surprise: a
step that was running, or a cache that no longer held what was believed to be in it. Invariant: the factor lies within
1 / RATIO_MAX..RATIO_MAX whatever comes in. Neighbours: learner (feeds and reads it).
"""

from libc.math cimport expf, logf
from libc.stdint cimport uint32_t, uint64_t
from router.native.atomic cimport load_u64, swap_u64, word_pack, word_value

cdef enum:
    AHEAD_MS_MAX = 10000             # workers read their clocks within moments of each other

cdef float RESIDUAL_WEIGHT = 0.15
cdef float RESIDUAL_TAU_S = 20.0
cdef float BY_LOAD = 9.0             # three times its class's time, of either, is what load alone does
cdef float SURPRISE = 3.7            # ln(4)^4: where a class learns nothing any more, a sample counts for half


cdef inline float _clamp(float value, float low, float high) noexcept nogil:
    # NaN compares false with everything: it becomes `low`.
    return high if value > high else value if value > low else low


cdef inline uint32_t _stamp_ms(uint64_t now_us) noexcept nogil:
    return <uint32_t>(now_us // 1000)


cdef float residual_age_s(uint64_t word, uint64_t now_us) noexcept nogil:
    # Stamps wrap after 49 days; a little ahead is another worker's clock, which was read later.
    cdef uint32_t age_ms = _stamp_ms(now_us) - <uint32_t>word
    return 0.0 if age_ms > <uint32_t>0 - AHEAD_MS_MAX else age_ms * <float>0.001


cdef float residual_now(uint64_t word, uint64_t now_us) noexcept nogil:
    if word == 0:
        return 1.0
    return 1 + (word_value(word) - 1) * expf(-residual_age_s(word, now_us) / RESIDUAL_TAU_S)


cdef void residual_learn(uint64_t* word, float ratio, uint64_t now_us) noexcept nogil:
    _learn(word, ratio, RESIDUAL_WEIGHT, now_us)


cdef void _learn(uint64_t* word, float ratio, float weight, uint64_t now_us) noexcept nogil:
    cdef uint64_t seen
    cdef float known, wanted = logf(_clamp(ratio, <float>1 / RATIO_MAX, RATIO_MAX))
    while True:
        seen = load_u64(word)
        known = logf(residual_now(seen, now_us))
        known += (wanted - known) * weight
        if swap_u64(word, seen, word_pack(expf(known), _stamp_ms(now_us) | 1)):   # a word of 0 means: nothing learnt
            return


cdef void residual_learn_time(
    uint64_t* word, float ratio, float measured_s, float expected_s, float slack_s, uint64_t now_us
) noexcept nogil:
    cdef float known = residual_now(load_u64(word), now_us)
    cdef float surprise = logf((measured_s + slack_s) / (expected_s + slack_s)), weight = RESIDUAL_WEIGHT
    if surprise > 0 or known > 1:        # that one is faster than its class is never news
        surprise *= surprise
        surprise *= surprise
        weight = max(weight, surprise / (surprise + SURPRISE))
    if weight > RESIDUAL_WEIGHT and measured_s < expected_s:
        ratio = max(ratio, <float>1.0)   # it is as its class again, not better
    _learn(word, ratio, weight, now_us)


cdef float residual_slowness(float first_token, float step) noexcept nogil:
    # A first token is late for a full cache, too, and a stream for prefills beside it. One that is ten times too slow
    # has both; what is beyond load is their product's excess.
    return _clamp(first_token * step / BY_LOAD, 1, RATIO_MAX)

"""Why a session stayed where it was, or went elsewhere.

Whoever stays, or is new, is told at once; for one that goes the terms of the score are asked for at both ends, and the
one that speaks most against the old is the reason. Neighbours: policy_five_axis (weighs the switch, has the terms),
session (remembers), attempt (asks at every decision of a session), explain (records it).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport strlen
from router.native.pick cimport POLICY_FIVE_AXIS
from router.native.policy_five_axis cimport five_axis_terms, terms_t

SWITCH_REASONS = (
    "", "new", "stayed", "queue", "cache", "load", "health", "cost", "target", "headroom", "tie", "model",
)


cdef text_t switching_reason_text(int reason) noexcept nogil:
    cdef const char* texts[12]           # SWITCH_REASON_COUNT
    cdef text_t text
    texts[0], texts[1], texts[2], texts[3] = b"", b"new", b"stayed", b"queue"
    texts[4], texts[5], texts[6], texts[7] = b"cache", b"load", b"health", b"cost"
    texts[8], texts[9], texts[10], texts[11] = b"target", b"headroom", b"tie", b"model"
    text.data = <const uint8_t*>texts[reason]
    text.length = <uint32_t>strlen(texts[reason])
    return text


cdef inline void _weigh(float home, float winner, int reason, float* most, int* found) noexcept nogil:
    if home - winner > most[0]:
        most[0] = home - winner
        found[0] = reason


cdef int _reason_to_go(const terms_t* home, const terms_t* winner, bint has_target) noexcept nogil:
    cdef float most = 0
    cdef int found = SWITCH_TIE
    _weigh(home.queue + home.proximity, winner.queue + winner.proximity, SWITCH_QUEUE, &most, &found)
    # With a target, what is expected beyond it is in the residual's place, and outweighs it.
    _weigh(home.residual, winner.residual, SWITCH_TARGET if has_target else SWITCH_QUEUE, &most, &found)
    _weigh(home.prefill + home.duplication + home.eviction, winner.prefill + winner.duplication + winner.eviction,
           SWITCH_CACHE, &most, &found)
    _weigh(home.load, winner.load, SWITCH_LOAD, &most, &found)
    _weigh(home.health, winner.health, SWITCH_HEALTH, &most, &found)
    _weigh(home.cost, winner.cost, SWITCH_COST, &most, &found)
    _weigh(home.externality + home.decode + home.headroom, winner.externality + winner.decode + winner.headroom,
           SWITCH_HEADROOM, &most, &found)
    return found


cdef int switching_reason_of(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t position
) noexcept nogil:
    cdef terms_t home, winner
    if decider.session.key == 0 or policy.kind != POLICY_FIVE_AXIS:
        return SWITCH_NONE
    if not decider.session.is_known:
        return SWITCH_NEW
    if decider.session.home == <int>position:
        return SWITCH_STAYED
    if decider.session.is_of_other_model:
        return SWITCH_MODEL
    if decider.session.home < 0 or decider.view.refused[decider.session.home] != 0:
        return SWITCH_HEALTH
    five_axis_terms(decider, policy, candidates, request, <uint32_t>decider.session.home, &home)
    five_axis_terms(decider, policy, candidates, request, position, &winner)
    return _reason_to_go(&home, &winner, request.ttft_target_s > 0)

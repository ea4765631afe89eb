"""Which of several models answers, and where: the pick for an alias.

Each model has its own candidates, and its own view of the request: a tokenizer's idea of the prompt's length, keys of
what is cached for this model and no other, an expected length of the answer, a load. So each is picked from by itself,
and the winners are compared: by score and what the model costs in quality, both in seconds. The same endpoint may be
a candidate of several models. Policies without a score in seconds cannot weigh a model's quality against its queue;
for them the first model that has somebody to pick answers.

Invariant: one decision is remembered, whatever number of models was asked (`is_trial`), and one model makes no
difference to a plain pick. Neighbours: pick (one model's endpoints), attempt (which asks, and charges the winner).
"""

from libc.math cimport INFINITY, isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from router.native.candidates cimport exclude_positions
from router.native.decision cimport Decider
from router.native.pick cimport (
    KNOBS_MAX, POLICY_FIVE_AXIS, candidate_set_free, candidate_set_reserve_features, is_anybody_well, pick_endpoint,
)
from router.native.segment cimport segment_check_slot

cdef enum:
    CHOICES_MAX = 8                  # ALIAS_MODELS_MAX of routes.pxd


cdef bint choices_are_weighed(const decider_t* decider, const choice_t* choices, uint32_t count) noexcept nogil:
    cdef uint32_t index
    if decider.learner == NULL:
        return False
    for index in range(count):
        if choices[index].policy.kind != POLICY_FIVE_AXIS or choices[index].request.prompt_tokens == 0 \
                or choices[index].candidates.count > decider.view.capacity:
            return False
    return True


cdef inline float _score(const decider_t* decider, const choice_t* choice, int position) noexcept nogil:
    if decider.view.count == 0 or not isfinite(decider.view.score[position]):
        return INFINITY                  # it comes after those that have one
    return decider.view.score[position] + choice.request.quality_s


cdef int _pick_weighed(
    decider_t* decider, choice_t* choices, uint32_t count, bint in_panic, int* position
) noexcept nogil:
    cdef float least = INFINITY, score
    cdef uint32_t index
    cdef int best = -1, found
    for index in range(count):
        if not in_panic and not is_anybody_well(decider.load, choices[index].candidates, &choices[index].request):
            continue
        choices[index].request.is_trial = 1
        found = pick_endpoint(decider, choices[index].policy, choices[index].candidates, &choices[index].request)
        choices[index].request.is_trial = 0
        if found < 0:
            continue
        score = _score(decider, &choices[index], found)
        if best < 0 or score < least:    # of equals the one that is preferred
            best, least = <int>index, score
    if best >= 0:                        # once more: this one counts, and leaves its view behind
        position[0] = pick_endpoint(decider, choices[best].policy, choices[best].candidates, &choices[best].request)
    return best


cdef int _pick_first(
    decider_t* decider, choice_t* choices, uint32_t count, bint in_panic, int* position
) noexcept nogil:
    cdef uint32_t index
    for index in range(count):
        if in_panic or is_anybody_well(decider.load, choices[index].candidates, &choices[index].request):
            position[0] = pick_endpoint(
                decider, choices[index].policy, choices[index].candidates, &choices[index].request)
            if position[0] >= 0:
                return <int>index
    return -1


cdef int pick_choice(decider_t* decider, choice_t* choices, uint32_t count, int* position) noexcept nogil:
    cdef int best
    cdef bint in_panic, is_weighed
    if count == 1:
        position[0] = pick_endpoint(decider, choices[0].policy, choices[0].candidates, &choices[0].request)
        return 0 if position[0] >= 0 else -1
    is_weighed = choices_are_weighed(decider, choices, count)
    for in_panic in range(2):
        if is_weighed:
            best = _pick_weighed(decider, choices, count, in_panic, position)
        else:
            best = _pick_first(decider, choices, count, in_panic, position)
        if best >= 0:
            return best
    return -1


# --- the door -------------------------------------------------------------------------------------------------------

def choose(
    Decider decider not None, int kind, models, *, knobs=(), uint64_t random=0, uint64_t now_us=1,
    uint32_t prompt_tokens=0, uint64_t required=0,
):
    """(model, position, score of each model or None) for `models` of (slots, excluded positions, features, quality in
    seconds). For tests.
    """
    cdef choice_t[CHOICES_MAX] choices
    cdef policy_t policy
    cdef candidate_set_t* candidates
    cdef candidate_set_t[CHOICES_MAX] sets
    cdef uint32_t index, count = <uint32_t>len(models)
    cdef int best, position = -1, place
    if not 1 <= count <= CHOICES_MAX:
        raise ValueError(f"{count} models")
    memset(&policy, 0, sizeof(policy))
    memset(choices, 0, sizeof(choices))
    memset(sets, 0, sizeof(sets))
    policy.kind = kind
    held = []                            # what the requests point to
    for index, knob in enumerate(knobs[:<int>KNOBS_MAX]):
        policy.knobs[index] = knob
    try:
        for index, (slots, excluded, features, quality_s) in enumerate(models):
            candidates = &sets[index]
            candidates.count = <uint32_t>len(slots)
            candidates.slots = <uint32_t*>calloc(candidates.count + 1, sizeof(uint32_t))
            candidates.weights = <float*>calloc(candidates.count + 1, sizeof(float))
            candidates.identities = <uint64_t*>calloc(candidates.count + 1, sizeof(uint64_t))
            if candidates.slots == NULL or candidates.weights == NULL or candidates.identities == NULL \
                    or candidate_set_reserve_features(candidates) < 0:
                raise MemoryError
            for place, (slot, bits) in enumerate(zip(slots, features, strict=True)):
                segment_check_slot(slot, decider.decider.load.slot_count)
                candidates.slots[place] = candidates.identities[place] = slot
                candidates.weights[place] = 1
                candidates.features[place] = bits
            choices[index].candidates, choices[index].policy = candidates, &policy
            held.append(exclude_positions(&choices[index].request, candidates, excluded))
            choices[index].request.random, choices[index].request.now_us = random, now_us
            choices[index].request.prompt_tokens, choices[index].request.required = prompt_tokens, required
            choices[index].request.quality_s = quality_s
        best = pick_choice(&decider.decider, choices, count, &position)
        scores = []
        for index in range(count):
            choices[index].request.is_trial = 1
            place = pick_endpoint(&decider.decider, &policy, choices[index].candidates, &choices[index].request)
            scores.append(_score(&decider.decider, &choices[index], place) if place >= 0 else None)
        return best, position, scores
    finally:
        decider.decider.view.count = 0
        for index in range(count):
            candidate_set_free(&sets[index])

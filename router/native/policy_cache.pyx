"""Policies that know what a prompt costs where: cached prefixes against load, each as its original weighs them.

Every one has the same rights: exact local counts and the same prefix view; only llmd sees its queue and KV figures as
old as its original's polls are. None knows that endpoints differ but mooncake, whose original calibrates each class.
None divides by weights. Loops run over whole arrays in float32 without branches where they can; a request without a
prompt (prompt_tokens 0) hits nothing anywhere and is placed by load.

What engines report corrects the view's hits by a factor for each endpoint (trust), and factors are never quite equal.
An argmin over idle endpoints would send whatever is cached everywhere to the most trusted one: no original does that,
for theirs count whole blocks. So here hits have the mean factor of all candidates, and are whole tokens.

Invariant: nothing here writes but the view's score and scratch and llmd's polled copies. Neighbours: view (what is
read), policy_memory (rates, polls), router/schema/policies.py (the knobs and where each formula is from).
"""

from libc.math cimport INFINITY, expf
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from router.native.candidates cimport (
    candidate_set_t, float_max, least_score, pick_request_t, random_next, range_of
)
from router.native.learner cimport learner_t
from router.native.policy cimport (
    DYNAMO_BLOCK_TOKENS, DYNAMO_CREDIT_DECAY, DYNAMO_OVERLAP_CREDIT, DYNAMO_PREFILL_SCALE, DYNAMO_REQUEST_WEIGHT,
    DYNAMO_TEMPERATURE, LLMD_KV_WEIGHT, LLMD_POLL_MS, LLMD_PREFIX_WEIGHT, LLMD_QUEUE_WEIGHT, LMETRIC_QUEUE_WEIGHT,
    LOADAWARE_BETA, SMETRIC_HIT_RATIO, SMETRIC_SLACK, SMETRIC_TTFT_S, SMETRIC_TTFT_S_PER_1K,
    SMG_CACHE_AWARE_BALANCE_ABS, SMG_CACHE_AWARE_BALANCE_REL, SMG_CACHE_AWARE_CACHE_THRESHOLD, STICKY_AFFINITY_RATIO,
    STICKY_SATURATED_TOKENS, decider_t, policy_t
)
from router.native.policy_memory cimport policy_memory_t, remembered_poll, remembered_rate
from router.native.view cimport view_t

cdef enum:                           # of view.scratch; 0 and 1 are each policy's own
    SCRATCH_HITS = 2
    SCRATCH_UNCACHED = 3
    SCRATCH_TRUST = 4


cdef inline float _inverse_prompt(const pick_request_t* request) noexcept nogil:
    """1 / prompt_tokens; 0 without a prompt, so that ratios of it are 0."""
    return 1 / <float>request.prompt_tokens if request.prompt_tokens else <float>0


cdef extern from *:
    """
    #include <math.h>
    static void fl_even_hits(const float* __restrict hit_tokens, const float* __restrict trust, float mean,
                             float prompt, float* __restrict hits, float* __restrict uncached, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) {
            float found = rintf(hit_tokens[i] / float_max(trust[i], 0.01f));
            hits[i] = rintf(float_min(found, prompt) * mean);
            uncached[i] = float_max(prompt - hits[i], 1.0f);
        }
    }
    """
    void fl_even_hits(const float* hit_tokens, const float* trust, float mean, float prompt, float* hits,
                      float* uncached, uint32_t count) noexcept nogil


cdef inline void _even_hits(
    const decider_t* decider, const candidate_set_t* candidates, const pick_request_t* request, const float** hits,
    const float** uncached
) noexcept nogil:
    """hits[count] and uncached[count], every endpoint's hits trusted alike; without a prefix table the view's own."""
    cdef const view_t* view = &decider.view
    cdef const float* trust
    cdef float* gathered = view.scratch[SCRATCH_TRUST]
    cdef float total = 0
    cdef uint32_t position, count = view.count
    hits[0] = view.hit_tokens
    uncached[0] = view.uncached_tokens
    if decider.prefix == NULL or request.block_count == 0:
        return
    trust = decider.prefix.trust
    for position in range(count):
        gathered[position] = trust[candidates.slots[position]]
        total += gathered[position]
    fl_even_hits(
        view.hit_tokens, gathered, total / <float>count, <float>request.prompt_tokens, view.scratch[SCRATCH_HITS],
        view.scratch[SCRATCH_UNCACHED], count)
    hits[0] = view.scratch[SCRATCH_HITS]
    uncached[0] = view.scratch[SCRATCH_UNCACHED]


cdef inline int _least(view_t* view, const pick_request_t* request) noexcept nogil:
    return least_score(view.score, view.refused, view.count, request.random)


# --- two modes: smg -------------------------------------------------------------------------------------------------

cdef int pick_smg_cache_aware(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # Out of balance (max - min > abs and max > rel * min): the least loaded. Else the longest match when it is more
    # than cache_threshold of the prompt, else the least loaded.
    cdef view_t* view = &decider.view
    cdef float* score = view.score
    cdef const float* source = view.in_flight
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef float least, most, hit_least, hit_most, sign = 1
    cdef uint32_t position, count = view.count
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    range_of(view.in_flight, view.refused, count, &least, &most)
    range_of(hit_tokens, view.refused, count, &hit_least, &hit_most)
    if not (most - least > policy.knobs[SMG_CACHE_AWARE_BALANCE_ABS]
            and most > policy.knobs[SMG_CACHE_AWARE_BALANCE_REL] * least) \
            and hit_most * _inverse_prompt(request) > policy.knobs[SMG_CACHE_AWARE_CACHE_THRESHOLD]:
        source = hit_tokens
        sign = -1
    for position in range(count):
        score[position] = sign * source[position]
    return _least(view, request)


# --- ratios: production-stack's loadaware ---------------------------------------------------------------------------

cdef int pick_loadaware(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # argmax of matched / prompt - beta * (load - mean) / max(1, mean), the load being requests in flight.
    cdef view_t* view = &decider.view
    cdef float* score = view.score
    cdef const float* in_flight = view.in_flight
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef const float* refused = view.refused
    cdef float inverse_prompt = _inverse_prompt(request), mean = 0, beta
    cdef int64_t total = 0
    cdef uint32_t position, count = view.count, eligible_count = 0
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(count):
        total += <int32_t>in_flight[position] if refused[position] == 0 else 0
        eligible_count += refused[position] == 0
    if eligible_count:
        mean = <float>(<double>total / eligible_count)
    beta = policy.knobs[LOADAWARE_BETA] / float_max(mean, 1)
    for position in range(count):
        score[position] = beta * (in_flight[position] - mean) - hit_tokens[position] * inverse_prompt
    return _least(view, request)


# --- a weighted sum of polled figures: llm-d ------------------------------------------------------------------------

cdef int pick_llmd(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # argmax of 3 * prefix + 2 * queue + 2 * kv, each in 0..1: matched share of the prompt, (max - waiting) / (max -
    # min) over the candidates (1 when all are equal), 1 - KV use. Waiting requests and KV use come from polls.
    cdef view_t* view = &decider.view
    cdef learner_t* learner = decider.learner
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef float* waiting = view.scratch[0]
    cdef float* kv_ratio = view.scratch[1]
    cdef float prefix_weight = policy.knobs[LLMD_PREFIX_WEIGHT] * _inverse_prompt(request)
    cdef float queue_weight = policy.knobs[LLMD_QUEUE_WEIGHT], kv_weight = policy.knobs[LLMD_KV_WEIGHT]
    cdef float least, most, kv
    cdef uint64_t age_us = <uint64_t>(policy.knobs[LLMD_POLL_MS] * 1000)
    cdef uint32_t position
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(view.count):
        waiting[position] = view.pending[position]
        kv = 0 if learner == NULL else view.kv_tokens[position] * learner.inverse_kv[candidates.slots[position]]
        kv_ratio[position] = kv if kv < 1 else 1
    if memory != NULL and age_us:
        for position in range(view.count):
            remembered_poll(
                memory, candidates.slots[position], age_us, request.now_us, &waiting[position], &kv_ratio[position])
    range_of(waiting, view.refused, view.count, &least, &most)
    queue_weight = queue_weight / (most - least) if most > least else <float>0
    for position in range(view.count):
        view.score[position] = queue_weight * (waiting[position] - least if queue_weight > 0 else 0) \
            + kv_weight * kv_ratio[position] - prefix_weight * hit_tokens[position]
    return _least(view, request)


# --- sticky until saturated: llm-d's later default ------------------------------------------------------------------

cdef int pick_sticky(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # Those that hold 0.80 of the prompt or more, unless the least queue among them exceeds the least of the others by
    # more than `saturated_tokens` (then all): the least queued + own uncached tokens.
    cdef view_t* view = &decider.view
    cdef float wanted_tokens = policy.knobs[STICKY_AFFINITY_RATIO] * <float>request.prompt_tokens
    cdef float* score = view.score
    cdef float* holder_queue = view.scratch[0]
    cdef float* other_queue = view.scratch[1]
    cdef const float* queued = view.queued_tokens
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef float least_sticky, least_other, most
    cdef bint keeps = False
    cdef uint32_t position, count = view.count
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(count):
        score[position] = queued[position] + uncached[position]
    if request.prompt_tokens:
        for position in range(count):
            if hit_tokens[position] >= wanted_tokens:
                holder_queue[position] = queued[position]
                other_queue[position] = INFINITY
            else:
                holder_queue[position] = INFINITY
                other_queue[position] = queued[position]
        range_of(holder_queue, view.refused, count, &least_sticky, &most)
        range_of(other_queue, view.refused, count, &least_other, &most)
        keeps = least_sticky < <float>INFINITY \
            and not least_sticky - least_other > policy.knobs[STICKY_SATURATED_TOKENS]
    if keeps:
        for position in range(count):
            if hit_tokens[position] < wanted_tokens:
                score[position] = INFINITY
    return _least(view, request)


# --- blocks of prefill and blocks of decode: Dynamo -----------------------------------------------------------------

cdef int pick_dynamo(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # scale * max(0, blocks queued and asked - credit * blocks cached) + blocks in KV + weight * requests; the credit
    # decays by 1 / (1 + decay * (queued - least queued) / asked). Temperature 0: the least; else softmax(-cost / T) of
    # costs normalised to their range.
    cdef view_t* view = &decider.view
    cdef float inverse_block = 1 / max(policy.knobs[DYNAMO_BLOCK_TOKENS], <float>1)
    cdef float asked = max(<float>request.prompt_tokens, <float>1)
    cdef float credit = policy.knobs[DYNAMO_OVERLAP_CREDIT], decay = policy.knobs[DYNAMO_CREDIT_DECAY] / asked
    cdef float scale = policy.knobs[DYNAMO_PREFILL_SCALE] * inverse_block
    cdef float request_weight = policy.knobs[DYNAMO_REQUEST_WEIGHT]
    cdef float* score = view.score
    cdef const float* queued = view.queued_tokens
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef const float* kv_tokens = view.kv_tokens
    cdef const float* in_flight = view.in_flight
    cdef float least, most
    cdef uint32_t position, count = view.count
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    range_of(queued, view.refused, count, &least, &most)
    if not least < <float>INFINITY:
        least = 0
    for position in range(count):
        score[position] = scale * float_max(
            queued[position] + asked
            - credit * hit_tokens[position] / (1 + decay * float_max(queued[position] - least, 0)), 0
        ) + inverse_block * kv_tokens[position] + request_weight * in_flight[position]
    if policy.knobs[DYNAMO_TEMPERATURE] > 0:
        return _softmax(view, policy.knobs[DYNAMO_TEMPERATURE], request.random)
    return _least(view, request)


cdef int _softmax(view_t* view, float temperature, uint64_t random) noexcept nogil:
    cdef float* odds = view.scratch[0]
    cdef float least, most, scale
    cdef double total = 0, drawn, sum = 0
    cdef uint32_t position
    cdef int last = -1
    range_of(view.score, view.refused, view.count, &least, &most)
    scale = 1 / (temperature * (most - least)) if most > least else <float>0
    for position in range(view.count):
        odds[position] = 0
        if view.refused[position] == 0:
            odds[position] = expf((least - view.score[position]) * scale)
            total += odds[position]
    drawn = <double>(random_next(&random) >> 11) * (1.0 / 9007199254740992.0) * total      # 2^53
    for position in range(view.count):
        if view.refused[position] == 0:
            last = <int>position
            sum += odds[position]
            if drawn < sum:
                break
    return last


# --- a product: LMetric ---------------------------------------------------------------------------------------------

cdef int pick_lmetric(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # (queued + new uncached tokens) * (requests in flight + 1): work by how many wait for it.
    cdef view_t* view = &decider.view
    cdef float* score = view.score
    cdef const float* queued = view.queued_tokens
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef const float* in_flight = view.in_flight
    cdef float queue_weight = policy.knobs[LMETRIC_QUEUE_WEIGHT]
    cdef uint32_t position, count = view.count
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(count):
        score[position] = (queue_weight * queued[position] + uncached[position]) * (in_flight[position] + 1)
    return _least(view, request)


# --- the holder while it meets the target: SMetric ------------------------------------------------------------------

cdef int pick_smetric(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # The holder of the longest match, of equals the least queued, when that match is more than hit_ratio of the
    # prompt and it meets the target or nobody does; else the least (queued + own) * in flight. Who meets it:
    # (queued + own) / rate <= slack * (ttft_s + per_1k * prompt / 1000); unknown rates do.
    cdef view_t* view = &decider.view
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef float* work = view.scratch[0]
    cdef float target_s = policy.knobs[SMETRIC_SLACK] * (
        policy.knobs[SMETRIC_TTFT_S] + policy.knobs[SMETRIC_TTFT_S_PER_1K] * <float>1e-3 * <float>request.prompt_tokens)
    cdef float hit_least, hit_most, least_work = INFINITY, rate
    cdef bint anybody_meets = False, holder_meets = False, meets
    cdef float* score = view.score
    cdef const float* queued = view.queued_tokens
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef const float* in_flight = view.in_flight
    cdef uint32_t position, count = view.count
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(count):
        work[position] = queued[position] + uncached[position]
        score[position] = (queued[position] + uncached[position]) * in_flight[position]
    range_of(hit_tokens, view.refused, count, &hit_least, &hit_most)
    if not hit_most > policy.knobs[SMETRIC_HIT_RATIO] * <float>request.prompt_tokens or not hit_most > 0:
        return _least(view, request)
    for position in range(view.count):
        if view.refused[position] != 0:
            continue
        rate = remembered_rate(memory, candidates.slots[position])
        meets = not rate > 0 or work[position] <= target_s * rate
        anybody_meets = anybody_meets or meets
        if hit_tokens[position] == hit_most:
            if work[position] < least_work:
                least_work = work[position]
                holder_meets = meets
            elif work[position] == least_work:
                holder_meets = holder_meets or meets
    if holder_meets or not anybody_meets:
        for position in range(view.count):
            view.score[position] = work[position] if hit_tokens[position] == hit_most else <float>INFINITY
    return _least(view, request)


# --- predicted time: Mooncake ---------------------------------------------------------------------------------------

cdef int pick_mooncake(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    # argmin of queue time + prefill time (Algorithm 1, without transfers of KV), both as the class is calibrated:
    #   token_s * n + pair_s * n * (l - n / 2)   for n uncached of l tokens.
    # Without a learner work is counted in tokens.
    cdef view_t* view = &decider.view
    cdef learner_t* learner = decider.learner
    cdef const float* hit_tokens
    cdef const float* uncached
    cdef float prompt = <float>request.prompt_tokens, new
    cdef uint32_t position, slot
    _even_hits(decider, candidates, request, &hit_tokens, &uncached)
    for position in range(view.count):
        new = uncached[position]
        if learner == NULL:
            view.score[position] = view.queued_tokens[position] + new
        else:
            slot = candidates.slots[position]
            view.score[position] = view.queued_s[position] + new * (
                learner.token_s[slot] + learner.pair_s[slot] * float_max(prompt - <float>0.5 * new, 0))
    return _least(view, request)

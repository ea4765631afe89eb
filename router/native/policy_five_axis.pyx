"""The score of every candidate in one pass, and the choice among the best.

For a prompt of l tokens of which n are not cached at the candidate, with E[out] tokens expected back:

    w    = (token_s n + pair_s n (l - n / 2)) ramp             prefill work there
    ttft = max(0.3 (Wq + w) + t0, theta . [1, Wq, w, D]) r + rtt + load
    step = (max(floor_s, base_s + token_s A) + context_s kv) r'     a decode step with this stream in it
    S    = ttft + beta min(2 pressure, 1) w A + gamma E[out] step + kappa w
         + cost (price_in n + price_out E[out] + price_s (w + E[out] share))
         + barrier_s b + error_s e                              and infinity for who may not be picked

where A requests are in flight, D of them decoding, Wq seconds of prefill are queued, and load seconds pass until the
model is in memory there; pressure is the running share of queue in what the picked ones wait for. With a target for the
first token its predicted 95 % quantile is held under it by a soft penalty, and the time itself no longer counts: any
endpoint that keeps the promise is good enough. Within a band above the least score the choice is by rendezvous hashing
of the session, or random. Neighbours: view (accounts), residency (loads), learner (figures), explain (asks for the
terms).
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport SHAPE_IN_A_ROW, candidate_set_t, multiply_fold, pick_request_t, random_next
from router.native.learner cimport learner_refresh, learner_t
from router.native.policy cimport decider_t, policy_t
from router.native.residency cimport residency_wait_s, residency_waits
from router.native.view cimport view_fill, view_t

cdef enum:
    ROW_COUNT = 21                   # of coefficients_t; the view has scratch for so many, and for waits behind them
    WIDTH = 16                       # candidates are scored in whole blocks of so many
    TARGET_TTFT_PERCENT = 1          # with a target, what is left of the TTFT term: enough to break ties

cdef float RUNNING_WEIGHT = 0.02     # of one request in the running means: about the last fifty count
cdef float PRESSURE_GAIN = 2.0        # from a pressure of a half on, the externality counts in full
cdef float PRESSURE_S = 0.05         # of queue that are no pressure: one step of an engine
cdef float QUEUE_SHARE_MIN = 0.3     # of queued and own work, that a predicted TTFT never goes below; as in learner
cdef uint64_t RANK_FOLD = 0x9E3779B97F4A7C15     # 2^64 / golden ratio: bits without a pattern


cdef struct coefficients_t:          # rows of the learner for these candidates
    const float* token_s
    const float* pair_s
    const float* floor_s
    const float* base_s
    const float* context_s
    const float* input_price
    const float* output_price
    const float* second_price
    const float* residual
    const float* step_residual
    const float* theta0_s
    const float* theta1
    const float* theta2
    const float* theta3_s
    const float* bias_s
    const float* barrier
    const float* error
    const float* ramp
    const float* quantile
    const float* share_s
    const float* speed


cdef inline const float* _row(
    const float* column, const candidate_set_t* candidates, bint in_a_row, float* scratch
) noexcept nogil:
    cdef uint32_t position
    if in_a_row:
        return column + candidates.slots[0]
    for position in range(candidates.count):
        scratch[position] = column[candidates.slots[position]]
    return scratch


cdef void _coefficients(
    const learner_t* learner, const candidate_set_t* candidates, view_t* view, coefficients_t* rows
) noexcept nogil:
    cdef bint in_a_row = candidates.shape & SHAPE_IN_A_ROW != 0
    cdef const float** row = &rows.token_s
    cdef const float* columns[21]    # ROW_COUNT
    cdef int index
    columns[0], columns[1], columns[2] = learner.token_s, learner.pair_s, learner.floor_s
    columns[3], columns[4], columns[5] = learner.base_s, learner.context_s, learner.input_price
    columns[6], columns[7], columns[8] = learner.output_price, learner.second_price, learner.residual
    columns[9], columns[10], columns[11] = learner.step_residual, learner.theta0_s, learner.theta1
    columns[12], columns[13], columns[14] = learner.theta2, learner.theta3_s, learner.bias_s
    columns[15], columns[16], columns[17] = learner.barrier, learner.error, learner.ramp
    columns[18], columns[19], columns[20] = learner.quantile, learner.share_s, learner.speed
    for index in range(ROW_COUNT):
        row[index] = _row(columns[index], candidates, in_a_row, view.scratch[index])


cdef inline bint _loads(const decider_t* decider, const candidate_set_t* candidates) noexcept nogil:
    return candidates.load_s != NULL and decider.residency != NULL


cdef void _read_loads(
    const decider_t* decider, const candidate_set_t* candidates, view_t* view, const pick_request_t* request,
    coefficients_t* rows
) noexcept nogil:
    # A round trip and a load both come on top of a first token, so the score's loop is the same for those that load.
    cdef float* load_s = view.scratch[ROW_COUNT]
    cdef float* bias_s = view.scratch[ROW_COUNT + 1]
    cdef uint32_t i
    residency_waits(decider.residency, candidates.slots, candidates.count, request.model, candidates.load_s,
                    candidates.models_max, request.now_us, load_s)
    for i in range(candidates.count):
        bias_s[i] = rows.bias_s[i] + load_s[i]
    for i in range(candidates.count, (candidates.count + WIDTH - 1) // WIDTH * WIDTH):
        load_s[i] = bias_s[i] = 0
    rows.bias_s = bias_s


cdef void _score_times(
    const policy_t* policy, const coefficients_t* c, view_t* view, const pick_request_t* request, float kappa,
    float externality
) noexcept nogil:
    cdef float prompt = request.prompt_tokens, output = request.output_tokens
    cdef float beta = policy.knobs[KNOB_BETA] * externality, gamma = policy.knobs[KNOB_GAMMA] * output
    cdef float barrier_s = policy.knobs[KNOB_BARRIER_S], error_s = policy.knobs[KNOB_ERROR_S]
    cdef float cost = request.cost_weight_s if request.cost_weight_s > 0 else policy.knobs[KNOB_COST_WEIGHT]
    cdef float target = request.ttft_target_s
    cdef float penalty = policy.knobs[KNOB_SLO_PENALTY] if target > 0 else 0.0
    cdef float ttft_weight = TARGET_TTFT_PERCENT * <float>0.01 if target > 0 else 1.0
    cdef float uncached, work, queued, ttft, step, late
    cdef uint32_t i
    for i in range((view.count + WIDTH - 1) // WIDTH * WIDTH):
        uncached = view.uncached_tokens[i]
        work = (c.token_s[i] * uncached + c.pair_s[i] * uncached * (prompt - <float>0.5 * uncached)) * c.ramp[i]
        queued = view.queued_s[i]
        ttft = max(QUEUE_SHARE_MIN * (queued + work) + c.theta0_s[i],
                   c.theta0_s[i] + c.theta1[i] * queued + c.theta2[i] * work + c.theta3_s[i] * view.decoding[i])
        ttft = ttft * c.residual[i] + c.bias_s[i]
        step = (max(c.floor_s[i], c.base_s[i] + c.token_s[i] * (view.in_flight[i] + 1))
                + c.context_s[i] * (view.kv_tokens[i] + prompt)) * c.step_residual[i]
        late = max(<float>0, ttft * c.quantile[i] - target)
        view.score[i] = ttft * ttft_weight + late * penalty \
            + beta * work * view.in_flight[i] * c.ramp[i] + gamma * step + kappa * work \
            + cost * (c.input_price[i] * prompt + c.output_price[i] * output
                      + c.second_price[i] * (work + output * c.share_s[i])) \
            + barrier_s * c.barrier[i] + error_s * c.error[i] + view.refused[i]


cdef void _score_ratios(const coefficients_t* c, view_t* view) noexcept nogil:
    # LMetric's product, in time of this endpoint: what is left when the other replicas' share of the load is not known.
    cdef uint32_t i
    for i in range((view.count + WIDTH - 1) // WIDTH * WIDTH):
        view.score[i] = (view.queued_tokens[i] + view.uncached_tokens[i]) * (view.in_flight[i] + 1) \
            * c.token_s[i] * c.residual[i] + view.refused[i]


cdef void _add_loads(view_t* view) noexcept nogil:
    cdef const float* load_s = view.scratch[ROW_COUNT]
    cdef uint32_t i
    for i in range((view.count + WIDTH - 1) // WIDTH * WIDTH):
        view.score[i] += load_s[i]


cdef int _choose(
    const policy_t* policy, candidate_set_t* candidates, const view_t* view, const pick_request_t* request
) noexcept nogil:
    cdef float least = INFINITY, limit
    cdef uint64_t rank, best_rank = 0, random = request.random
    cdef uint32_t i
    cdef int winner = -1
    for i in range(view.count):
        least = min(least, view.score[i])
    if not least < INFINITY:
        return -1
    limit = least + least * policy.knobs[KNOB_BAND_RATIO] + policy.knobs[KNOB_BAND_MS] * <float>0.001
    for i in range(view.count):
        if view.score[i] <= limit:
            if request.key:          # two folds: after one, equally spaced identities still have dependent ranks
                rank = multiply_fold(multiply_fold(request.key ^ RANK_FOLD, ~candidates.identities[i]), RANK_FOLD)
            else:
                rank = random_next(&random)
            if winner < 0 or rank > best_rank:
                winner = <int>i
                best_rank = rank
    return winner


cdef inline float _kappa(const policy_t* policy, const learner_t* learner) noexcept nogil:
    return policy.knobs[KNOB_KAPPA] if policy.knobs[KNOB_KAPPA] >= 0 else learner.hit_ratio


cdef inline float _externality(const learner_t* learner) noexcept nogil:
    # While the best endpoint has nobody waiting, there is room for everyone, and a prefill disturbs no promise.
    return min(learner.pressure * PRESSURE_GAIN, <float>1.0)


cdef inline void _remember(
    learner_t* learner, const view_t* view, const coefficients_t* rows, const pick_request_t* request, int winner
) noexcept nogil:
    # Sums, not ratios: the refresh divides them.
    cdef float queued = view.queued_s[winner]
    cdef float waited = queued + rows.token_s[winner] * view.uncached_tokens[winner] + PRESSURE_S
    learner.prompt_mean += (<float>request.prompt_tokens - learner.prompt_mean) * RUNNING_WEIGHT
    learner.hit_mean += (view.hit_tokens[winner] - learner.hit_mean) * RUNNING_WEIGHT
    learner.queued_mean_s += (queued - learner.queued_mean_s) * RUNNING_WEIGHT
    learner.waited_mean_s += (waited - learner.waited_mean_s) * RUNNING_WEIGHT


cdef int pick_five_axis(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    cdef view_t* view = &decider.view
    cdef learner_t* learner = decider.learner
    cdef coefficients_t rows
    cdef int winner
    learner_refresh(learner, decider.load, request.now_us)
    view_fill(view, decider.load, decider.prefix, learner, candidates, request)
    _coefficients(learner, candidates, view, &rows)
    if _loads(decider, candidates):
        _read_loads(decider, candidates, view, request, &rows)
    if policy.knobs[KNOB_RATIO_MODE] > 0:
        _score_ratios(&rows, view)
        if _loads(decider, candidates):
            _add_loads(view)
    else:
        _score_times(policy, &rows, view, request, _kappa(policy, learner), _externality(learner))
    winner = _choose(policy, candidates, view, request)
    if winner >= 0 and request.prompt_tokens:
        _remember(learner, view, &rows, request, winner)
    return winner


cdef void five_axis_terms(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t position, terms_t* terms
) noexcept nogil:
    cdef const learner_t* learner = decider.learner
    cdef const view_t* view = &decider.view
    cdef uint32_t slot = candidates.slots[position]
    cdef float prompt = request.prompt_tokens, output = request.output_tokens
    cdef float uncached = view.uncached_tokens[position], queued = view.queued_s[position]
    cdef float cost = request.cost_weight_s if request.cost_weight_s > 0 else policy.knobs[KNOB_COST_WEIGHT]
    cdef float work = (learner.token_s[slot] * uncached + learner.pair_s[slot] * uncached
                       * (prompt - <float>0.5 * uncached)) * learner.ramp[slot]
    cdef float ttft = max(
        QUEUE_SHARE_MIN * (queued + work) + learner.theta0_s[slot],
        learner.theta0_s[slot] + learner.theta1[slot] * queued + learner.theta2[slot] * work
        + learner.theta3_s[slot] * view.decoding[position])
    cdef float step = learner.step_residual[slot] * (
        max(learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot] * (view.in_flight[position] + 1))
        + learner.context_s[slot] * (view.kv_tokens[position] + prompt))
    cdef float load = residency_wait_s(
        decider.residency, slot, request.model, candidates.load_s[position], candidates.models_max[position],
        request.now_us) if _loads(decider, candidates) else 0.0
    cdef float late = max(<float>0, (ttft * learner.residual[slot] + learner.bias_s[slot] + load)
                          * learner.quantile[slot] - request.ttft_target_s) if request.ttft_target_s > 0 else 0.0
    cdef float weight = TARGET_TTFT_PERCENT * <float>0.01 if request.ttft_target_s > 0 else 1.0
    terms.prefill = min(work * learner.theta2[slot], ttft) * weight
    terms.queue = ttft * weight - terms.prefill
    terms.load = load * weight
    terms.residual = ttft * weight * (learner.residual[slot] - 1) + late * policy.knobs[KNOB_SLO_PENALTY]
    terms.proximity = learner.bias_s[slot] * weight
    terms.externality = policy.knobs[KNOB_BETA] * _externality(learner) * work * view.in_flight[position] * learner.ramp[slot]
    terms.decode = policy.knobs[KNOB_GAMMA] * output * step
    terms.duplication = _kappa(policy, learner) * work
    terms.cost = cost * (learner.input_price[slot] * prompt + learner.output_price[slot] * output
                         + learner.second_price[slot] * (work + output * learner.share_s[slot]))
    terms.headroom = policy.knobs[KNOB_BARRIER_S] * learner.barrier[slot]
    terms.health = policy.knobs[KNOB_ERROR_S] * learner.error[slot]

"""The score of every candidate in one pass, and the choice among the best.

For a prompt of l tokens of which n are not cached at the candidate, with E[out] tokens expected back:

    w    = (token_s n + pair_s n (l - n / 2)) ramp             prefill work there
    ttft = max(0.3 (Wq + w) + t0, theta . [1, Wq, w, D]) r + rtt + load
    step = max(floor_s, base_s + token_s A) + context_s kv          a decode step with this stream in it
    idle = max(floor_s, base_s + token_s) + context_s l             the same with nobody else there
    S    = ttft + beta delay w A s + gamma E[out] (step s - 2/3 idle)
         + kappa again mean n + eta evicted mean min(n, usual) A
         + cost (price_in n + price_out E[out] + price_s (w + E[out] share))
         + barrier_s b + power_s p + error_s e                  and infinity for who may not be picked
         + switch_s                                             but where the session was last

where A requests are in flight, D of them decoding, Wq seconds of prefill are queued, and load seconds pass until the
model is in memory there; s is how many times slower the machine is (residual); delay is what a second lost to an
answer there counts against one of waiting for a first token, each relative to what it delays: the mean wait by mean
wait and answer, none without queues. Room in a cache is priced alike everywhere, or the fastest endpoints would draw
everybody's sessions until none finds its own: by mean, a token's prefill in the mean of the candidates; again, how
often what is cached is asked for once more (h / (1 - h) of the running hit ratio); evicted, how surely what this
prompt drives out there would have been (prefix), and of a prompt longer than usual (the running mean) no more counts,
or that term alone would place it. Of a decode step what others add counts in full, what the machine takes by itself
by a third: slow is not crowded. With a target for the first token its predicted 95 % quantile is held under it by a
soft penalty, and the time itself no longer counts: any endpoint that keeps the promise is good enough. Within a band
above the least score the choice is where the session was last, else by rendezvous hashing of the session, or random.
Neighbours: view (accounts), residency (loads), session (where it was), learner (figures), explain (asks for the
terms).
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from router.native.candidates cimport SHAPE_IN_A_ROW, candidate_set_t, multiply_fold, pick_request_t, random_next
from router.native.learner cimport learner_t
from router.native.policy cimport decider_t, policy_t
from router.native.residency cimport residency_wait_s, residency_waits
from router.native.session cimport session_find, session_prefetch, session_t
from router.native.view cimport view_fill, view_t
from router.native.wide cimport FL_WIDE  # no-cython-lint: used in C

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    /* In C because a compiler has to be told that the arrays lie apart before it scores several candidates in one step.
       `rows` is coefficients_t, in its order; `accounts` as _score_times lists them. */
    static inline float fl_greater(float a, float b) { return a > b ? a : b; }
    static inline float fl_least_of(float a, float b) { return a < b ? a : b; }
    FL_WIDE static float fl_sum(const float* __restrict row, uint32_t count) {
        float sums[16] = {0}, sum = 0;
        uint32_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (int j = 0; j < 16; j++)
                sums[j] += row[i + j];
        for (; i < count; i++)
            sum += row[i];
        for (int j = 0; j < 16; j++)
            sum += sums[j];
        return sum;
    }
    FL_WIDE static void fl_score(
            const float* const* rows, const float* const* accounts, float* __restrict score, uint32_t count,
            float prompt, float beta, float phi, float gamma, float crowd, float idle_share, float copy_s,
            float evict_s, float evicted_max, float queue_share, float barrier_s, float power_s, float error_s) {
        const float *__restrict token_s = rows[0], *__restrict pair_s = rows[1], *__restrict floor_s = rows[2];
        const float *__restrict base_s = rows[3], *__restrict context_s = rows[4], *__restrict residual = rows[8];
        const float *__restrict theta0_s = rows[9], *__restrict theta1 = rows[10], *__restrict theta2 = rows[11];
        const float *__restrict theta3_s = rows[12], *__restrict bias_s = rows[13], *__restrict barrier = rows[14];
        const float *__restrict error = rows[15], *__restrict ramp = rows[16], *__restrict evicted = rows[19];
        const float *__restrict slowness = rows[20], *__restrict power_barrier = rows[21];
        const float *__restrict uncached = accounts[0], *__restrict queued_s = accounts[1];
        const float *__restrict decoding = accounts[2], *__restrict in_flight = accounts[3];
        const float *__restrict kv_tokens = accounts[4], *__restrict refused = accounts[5];
        float *__restrict ttft_s = (float*)accounts[6], *__restrict work_s = (float*)accounts[7];
        #pragma GCC ivdep
        for (uint32_t i = 0; i < count; i++) {
            float n = uncached[i];
            float work = (token_s[i] * n + pair_s[i] * n * (prompt - 0.5f * n)) * ramp[i];
            float least = queue_share * (queued_s[i] + work) + theta0_s[i];
            float fitted = theta0_s[i] + theta1[i] * queued_s[i] + theta2[i] * work + theta3_s[i] * decoding[i];
            float ttft = fl_greater(least, fitted) * residual[i] + bias_s[i];
            float idle = fl_greater(floor_s[i], base_s[i] + token_s[i]) + context_s[i] * prompt;
            float step = fl_greater(floor_s[i], base_s[i] + token_s[i] * (in_flight[i] + 1.0f))
                          + context_s[i] * (kv_tokens[i] + prompt);
            ttft_s[i] = ttft;
            work_s[i] = work;
            score[i] = ttft + work * (beta * in_flight[i] * ramp[i] * slowness[i] + phi * queued_s[i] * residual[i])
                       + gamma * (crowd * (step * slowness[i] - idle) + idle_share * idle)
                       + copy_s * n + evict_s * evicted[i] * fl_least_of(n, evicted_max) * in_flight[i]
                       + barrier_s * barrier[i] + power_s * power_barrier[i] + error_s * error[i] + refused[i];
        }
    }
    /* What only some requests ask for, on top: money, and a target in place of the time itself. */
    FL_WIDE static void fl_score_cost(
            const float* const* rows, const float* __restrict work_s, float* __restrict score, uint32_t count,
            float cost, float prompt, float output) {
        const float *__restrict input_price = rows[5], *__restrict output_price = rows[6];
        const float *__restrict second_price = rows[7], *__restrict share_s = rows[18];
        #pragma GCC ivdep
        for (uint32_t i = 0; i < count; i++)
            score[i] += cost * (input_price[i] * prompt + output_price[i] * output
                                + second_price[i] * (work_s[i] + output * share_s[i]));
    }
    FL_WIDE static void fl_score_target(
            const float* const* rows, const float* __restrict ttft_s, float* __restrict score, uint32_t count,
            float target_s, float penalty, float ttft_weight) {
        const float *__restrict quantile = rows[17];
        #pragma GCC ivdep
        for (uint32_t i = 0; i < count; i++)
            score[i] += penalty * fl_greater(0.0f, ttft_s[i] * quantile[i] - target_s)
                        - (1.0f - ttft_weight) * ttft_s[i];
    }
    /* Floats that are not negative compare as their bits do, and integers have a minimum in vectors. */
    FL_WIDE static int32_t fl_least_bits(const float* __restrict score, uint32_t count) {
        int32_t least = 0x7F800000;
        for (uint32_t i = 0; i < count; i++) {
            int32_t bits;
            memcpy(&bits, &score[i], 4);
            least = bits < least ? bits : least;
        }
        return least;
    }
    /* The least of all, and of each block: few blocks have one that is near it, and only those are looked into. */
    #define FL_CHOICE_BLOCK 64
    static float fl_least(const float* score, float* blocks, uint32_t count) {
        int32_t least = 0x7F800000;
        float value;
        for (uint32_t start = 0; start < count; start += FL_CHOICE_BLOCK) {
            uint32_t left = count - start;
            int32_t bits = fl_least_bits(score + start, left < FL_CHOICE_BLOCK ? left : FL_CHOICE_BLOCK);
            memcpy(&blocks[start / FL_CHOICE_BLOCK], &bits, 4);
            least = bits < least ? bits : least;
        }
        memcpy(&value, &least, 4);
        return value;
    }
    """
    const uint32_t CHOICE_BLOCK "FL_CHOICE_BLOCK"
    void fl_score(const float** rows, const float** accounts, float* score, uint32_t count, float prompt, float beta,
                  float phi, float gamma, float crowd, float idle_share, float copy_s, float evict_s, float evicted_max,
                  float queue_share, float barrier_s, float power_s, float error_s)
    float fl_sum(const float* row, uint32_t count)
    void fl_score_cost(const float** rows, const float* work_s, float* score, uint32_t count, float cost, float prompt,
                       float output)
    void fl_score_target(const float** rows, const float* ttft_s, float* score, uint32_t count, float target_s,
                         float penalty, float ttft_weight)
    float fl_least(const float* score, float* blocks, uint32_t count)

cdef enum:
    COEFFICIENT_COUNT = 22           # rows of coefficients_t, and the first of the view's scratch
    HARM_SCRATCH = 22                # what a load costs others
    BIAS_SCRATCH = 23                # the way there, and the load
    TTFT_SCRATCH = 24
    WORK_SCRATCH = 25
    CHOICE_SCRATCH = 26
    WIDTH = 16                       # candidates are scored in whole blocks of so many
    TARGET_TTFT_PERCENT = 1          # with a target, what is left of the TTFT term: enough to break ties

cdef float RUNNING_WEIGHT = 0.02     # of one request in the running means: about the last fifty count
cdef float PRESSURE_S = 0.05         # of queue that are no pressure: one step of an engine
cdef float QUEUE_SHARE_MIN = 0.3     # of queued and own work, that a predicted TTFT never goes below; as in learner
# Of a step with nobody else there, what counts in the decode term: in full, streams crowd the fastest endpoints until
# their caches overflow, while others stand empty; with none of it, light traffic goes to slow machines for nothing.
cdef float IDLE_SHARE = 1.0 / 3.0
cdef uint64_t RANK_FOLD = 0x9E3779B97F4A7C15     # 2^64 / golden ratio: bits without a pattern


cdef struct coefficients_t:          # rows of the learner for these candidates, but for the last
    const float* token_s
    const float* pair_s
    const float* floor_s
    const float* base_s
    const float* context_s
    const float* input_price
    const float* output_price
    const float* second_price
    const float* residual
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
    const float* evicted             # the prefix table's
    const float* slowness
    const float* power_barrier


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
    const decider_t* decider, const candidate_set_t* candidates, view_t* view, coefficients_t* rows
) noexcept nogil:
    cdef const learner_t* learner = decider.learner
    cdef bint in_a_row = candidates.shape & SHAPE_IN_A_ROW != 0
    cdef const float** row = &rows.token_s
    cdef const float* columns[22]    # COEFFICIENT_COUNT
    cdef int index
    columns[0], columns[1], columns[2] = learner.token_s, learner.pair_s, learner.floor_s
    columns[3], columns[4], columns[5] = learner.base_s, learner.context_s, learner.input_price
    columns[6], columns[7], columns[8] = learner.output_price, learner.second_price, learner.residual
    columns[9], columns[10], columns[11] = learner.theta0_s, learner.theta1, learner.theta2
    columns[12], columns[13], columns[14] = learner.theta3_s, learner.bias_s, learner.barrier
    columns[15], columns[16], columns[17] = learner.error, learner.ramp, learner.quantile
    columns[18] = learner.share_s
    columns[19] = learner.share_s if decider.prefix == NULL else decider.prefix.eviction     # unless nothing is evicted
    columns[20], columns[21] = learner.slowness, learner.power_barrier
    for index in range(COEFFICIENT_COUNT):
        row[index] = _row(columns[index], candidates, in_a_row, view.scratch[index])


cdef inline bint _loads(const decider_t* decider, const candidate_set_t* candidates) noexcept nogil:
    return candidates.load_s != NULL and decider.residency != NULL


cdef void _read_loads(
    const decider_t* decider, const candidate_set_t* candidates, view_t* view, const pick_request_t* request,
    coefficients_t* rows
) noexcept nogil:
    # A round trip and a load both come on top of a first token, so the score's loop is the same for those that load.
    cdef float* bias_s = view.scratch[BIAS_SCRATCH]
    cdef uint32_t i
    residency_waits(decider.residency, candidates.slots, candidates.count, request.model, candidates.load_s,
                    candidates.models_max, request.now_us, bias_s, view.scratch[HARM_SCRATCH])
    for i in range(candidates.count):
        bias_s[i] += rows.bias_s[i]
    for i in range(candidates.count, (candidates.count + WIDTH - 1) // WIDTH * WIDTH):
        bias_s[i] = 0
    rows.bias_s = bias_s


cdef void _add_harms(view_t* view) noexcept nogil:
    cdef const float* harm_s = view.scratch[HARM_SCRATCH]
    cdef uint32_t i
    for i in range(view.count):
        view.score[i] += harm_s[i]


cdef void _score_times(
    const policy_t* policy, const learner_t* learner, coefficients_t* c, view_t* view, const pick_request_t* request,
    float copy_s, float evict_s
) noexcept nogil:
    cdef const float** rows = &c.token_s
    cdef const float* accounts[8]
    cdef float prompt = request.prompt_tokens, output = request.output_tokens
    cdef float cost = _cost_weight(policy, request)
    cdef uint32_t count = (view.count + WIDTH - 1) // WIDTH * WIDTH
    accounts[0], accounts[1], accounts[2] = view.uncached_tokens, view.queued_s, view.decoding
    accounts[3], accounts[4], accounts[5] = view.in_flight, view.kv_tokens, view.refused
    accounts[6], accounts[7] = view.scratch[TTFT_SCRATCH], view.scratch[WORK_SCRATCH]
    fl_score(rows, accounts, view.score, count, prompt, policy.knobs[KNOB_BETA] * learner.delay_weight,
             policy.knobs[KNOB_PHI] * learner.behind_weight, policy.knobs[KNOB_GAMMA] * output, learner.crowd_weight,
             IDLE_SHARE, copy_s, evict_s, learner.prompt_mean, QUEUE_SHARE_MIN, policy.knobs[KNOB_BARRIER_S],
             policy.knobs[KNOB_POWER_S], policy.knobs[KNOB_ERROR_S])
    if cost > 0:
        fl_score_cost(rows, accounts[7], view.score, count, cost, prompt, output)
    if request.ttft_target_s > 0:
        fl_score_target(rows, accounts[6], view.score, count, request.ttft_target_s, policy.knobs[KNOB_SLO_PENALTY],
                        TARGET_TTFT_PERCENT * <float>0.01)


cdef void _score_ratios(const coefficients_t* c, view_t* view, const float* way_s) noexcept nogil:
    # LMetric's product, in time of this endpoint: what is left when the other replicas' share of the load is not known.
    cdef uint32_t i
    for i in range((view.count + WIDTH - 1) // WIDTH * WIDTH):
        view.score[i] = (view.queued_tokens[i] + view.uncached_tokens[i]) * (view.in_flight[i] + 1) \
            * c.token_s[i] * c.residual[i] + view.refused[i]
    if c.bias_s != way_s:
        for i in range(view.count):
            view.score[i] += c.bias_s[i] - way_s[i]      # the load


cdef inline void _begin_session(
    decider_t* decider, const policy_t* policy, const pick_request_t* request
) noexcept nogil:
    cdef session_t* session = &decider.session
    session.is_known = session.is_of_other_model = False
    session.home = -1
    session.key = request.key if decider.sessions != NULL and policy.knobs[KNOB_SESSION_S] > 0 else 0
    if session.key:
        session_prefetch(decider.sessions, session.key)


cdef void _find_home(
    decider_t* decider, const policy_t* policy, const candidate_set_t* candidates, const pick_request_t* request
) noexcept nogil:
    cdef session_t* session = &decider.session
    cdef const uint32_t* slots = candidates.slots
    cdef uint32_t position, slot
    session.is_known = session_find(
        decider.sessions, session.key, policy.knobs[KNOB_SESSION_S], request.now_us, &session.last)
    session.is_of_other_model = session.is_known and session.last.model != (request.model & 0xFFFF)
    if not session.is_known or session.is_of_other_model:
        return
    slot = session.last.slot
    if candidates.shape & SHAPE_IN_A_ROW:
        position = slot - slots[0]       # wraps round for a slot before them
        if position < candidates.count:
            session.home = <int>position
        return
    for position in range(candidates.count):
        if slots[position] == slot:
            session.home = <int>position
            return


cdef inline float _switch_s(const decider_t* decider, const policy_t* policy) noexcept nogil:
    """What going elsewhere costs; 0 when there is nowhere to go away from."""
    if decider.session.is_of_other_model:
        return policy.knobs[KNOB_SWITCH_MS] * <float>0.001
    if decider.session.home < 0 or decider.view.refused[decider.session.home] != 0:
        return 0
    return policy.knobs[KNOB_SWITCH_MS] * <float>0.001


cdef void _add_switching(view_t* view, int home, float switch_s) noexcept nogil:
    # Scores compare as bits, so they stay above 0: everybody else's is raised. home -1: everybody's.
    cdef float* score = view.score
    cdef float kept = score[home] if home >= 0 else 0
    cdef uint32_t i
    for i in range(view.count):
        score[i] += switch_s
    if home >= 0:
        score[home] = kept


cdef int _choose(
    const policy_t* policy, candidate_set_t* candidates, const view_t* view, const pick_request_t* request, int home
) noexcept nogil:
    cdef const float* blocks = view.scratch[CHOICE_SCRATCH]
    cdef float least = fl_least(view.score, view.scratch[CHOICE_SCRATCH], view.count), limit
    cdef uint64_t rank, best_rank = 0, random = request.random
    cdef uint32_t block, start, i
    cdef int winner = -1
    if not least < INFINITY:
        return -1
    limit = least + least * policy.knobs[KNOB_BAND_RATIO] + policy.knobs[KNOB_BAND_MS] * <float>0.001
    if home >= 0 and view.score[home] <= limit:
        return home                  # nothing is gained elsewhere
    for block in range((view.count + CHOICE_BLOCK - 1) // CHOICE_BLOCK):
        if blocks[block] > limit:
            continue
        start = block * CHOICE_BLOCK
        for i in range(start, min(start + CHOICE_BLOCK, view.count)):
            if view.score[i] <= limit:
                if request.key:      # two folds: after one, equally spaced identities still have dependent ranks
                    rank = multiply_fold(multiply_fold(request.key ^ RANK_FOLD, ~candidates.identities[i]), RANK_FOLD)
                else:
                    rank = random_next(&random)
                if winner < 0 or rank > best_rank:
                    winner = <int>i
                    best_rank = rank
    return winner


cdef inline float _cost_weight(const policy_t* policy, const pick_request_t* request) noexcept nogil:
    return policy.knobs[KNOB_COST_WEIGHT] if request.cost_weight_s == 0 else max(request.cost_weight_s, <float>0)


cdef inline float _copy_s(const policy_t* policy, const learner_t* learner, float mean_s) noexcept nogil:
    return policy.knobs[KNOB_KAPPA] * learner.again * mean_s


cdef inline float _evict_s(const policy_t* policy, const decider_t* decider, float mean_s) noexcept nogil:
    return policy.knobs[KNOB_ETA] * mean_s if decider.prefix != NULL else 0


cdef inline float _mean_s(const coefficients_t* rows, const candidate_set_t* candidates) noexcept nogil:
    return fl_sum(rows.token_s, candidates.count) * candidates.share


cdef inline void _remember(
    learner_t* learner, const view_t* view, const coefficients_t* rows, const pick_request_t* request, int winner
) noexcept nogil:
    # Sums, not ratios: the refresh divides them.
    cdef float queued = view.queued_s[winner]
    cdef float waited = queued + rows.token_s[winner] * view.uncached_tokens[winner] + PRESSURE_S
    cdef float step = max(
        rows.floor_s[winner], rows.base_s[winner] + rows.token_s[winner] * (view.in_flight[winner] + 1)) \
        + rows.context_s[winner] * (view.kv_tokens[winner] + request.prompt_tokens)
    learner.prompt_mean += (<float>request.prompt_tokens - learner.prompt_mean) * RUNNING_WEIGHT
    learner.hit_mean += (view.hit_tokens[winner] - learner.hit_mean) * RUNNING_WEIGHT
    learner.queued_mean_s += (queued - learner.queued_mean_s) * RUNNING_WEIGHT
    learner.waited_mean_s += (waited - learner.waited_mean_s) * RUNNING_WEIGHT
    learner.answer_mean_s += (request.output_tokens * step - learner.answer_mean_s) * RUNNING_WEIGHT


cdef int pick_five_axis(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    cdef view_t* view = &decider.view
    cdef learner_t* learner = decider.learner
    cdef coefficients_t rows
    cdef const float* way_s
    cdef float switch_s = 0
    cdef float mean_s
    cdef int winner
    _begin_session(decider, policy, request)
    view_fill(view, decider.load, decider.prefix, learner, candidates, request)
    _coefficients(decider, candidates, view, &rows)
    way_s = rows.bias_s
    if _loads(decider, candidates):
        _read_loads(decider, candidates, view, request, &rows)
    if five_axis_has_ratios(decider, policy):
        _score_ratios(&rows, view, way_s)
    else:
        mean_s = _mean_s(&rows, candidates)
        _score_times(policy, learner, &rows, view, request, _copy_s(policy, learner, mean_s),
                     _evict_s(policy, decider, mean_s))
    if _loads(decider, candidates):
        _add_harms(view)
    if decider.session.key:
        _find_home(decider, policy, candidates, request)
        switch_s = _switch_s(decider, policy)
        if switch_s > 0:
            _add_switching(view, decider.session.home, switch_s)
    winner = _choose(policy, candidates, view, request, decider.session.home if switch_s > 0 else -1)
    if winner >= 0 and request.prompt_tokens and not request.is_trial:
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
    cdef float cost = _cost_weight(policy, request)
    cdef float work = (learner.token_s[slot] * uncached + learner.pair_s[slot] * uncached
                       * (prompt - <float>0.5 * uncached)) * learner.ramp[slot]
    cdef float ttft = max(
        QUEUE_SHARE_MIN * (queued + work) + learner.theta0_s[slot],
        learner.theta0_s[slot] + learner.theta1[slot] * queued + learner.theta2[slot] * work
        + learner.theta3_s[slot] * view.decoding[position])
    cdef float step = max(
        learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot] * (view.in_flight[position] + 1)) \
        + learner.context_s[slot] * (view.kv_tokens[position] + prompt)
    cdef float idle = max(learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot]) \
        + learner.context_s[slot] * prompt
    cdef float harm = 0
    cdef float mean_s = 0
    cdef uint32_t other
    cdef float load = residency_wait_s(
        decider.residency, slot, request.model, candidates.load_s[position], candidates.models_max[position],
        request.now_us, &harm) if _loads(decider, candidates) else 0.0
    cdef float late = max(<float>0, (ttft * learner.residual[slot] + learner.bias_s[slot] + load)
                          * learner.quantile[slot] - request.ttft_target_s) if request.ttft_target_s > 0 else 0.0
    cdef float weight = TARGET_TTFT_PERCENT * <float>0.01 if request.ttft_target_s > 0 else 1.0
    for other in range(candidates.count):
        mean_s += learner.token_s[candidates.slots[other]] * candidates.share
    terms.prefill = min(work * learner.theta2[slot], ttft) * weight
    terms.queue = (ttft + learner.others_s[slot]) * weight - terms.prefill
    terms.load = load * weight
    terms.residual = ttft * weight * (learner.residual[slot] - 1) + late * policy.knobs[KNOB_SLO_PENALTY]
    terms.proximity = (learner.bias_s[slot] - learner.others_s[slot]) * weight
    terms.externality = harm + work * (
        policy.knobs[KNOB_BETA] * learner.delay_weight * view.in_flight[position] * learner.ramp[slot]
        * learner.slowness[slot]
        + policy.knobs[KNOB_PHI] * learner.behind_weight * queued * learner.residual[slot])
    terms.decode = policy.knobs[KNOB_GAMMA] * output * (
        learner.crowd_weight * (step * learner.slowness[slot] - idle) + IDLE_SHARE * idle)
    terms.duplication = _copy_s(policy, learner, mean_s) * uncached
    terms.eviction = 0
    if decider.prefix != NULL:
        terms.eviction = _evict_s(policy, decider, mean_s) * decider.prefix.eviction[slot] \
            * min(uncached, learner.prompt_mean) * view.in_flight[position]
    terms.cost = cost * (learner.input_price[slot] * prompt + learner.output_price[slot] * output
                         + learner.second_price[slot] * (work + output * learner.share_s[slot]))
    terms.headroom = policy.knobs[KNOB_BARRIER_S] * learner.barrier[slot] \
        + policy.knobs[KNOB_POWER_S] * learner.power_barrier[slot]
    terms.health = policy.knobs[KNOB_ERROR_S] * learner.error[slot]
    terms.switching = _switch_s(decider, policy) if decider.session.home != <int>position else 0
    terms.quality = request.quality_s

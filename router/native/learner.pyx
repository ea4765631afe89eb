"""What each endpoint's engine is like, learnt while it serves; see learner.pxd for what is predicted from it.

Three layers, each for what the one before cannot know. The configured figures of the engine's class give work in
seconds. Recursive least squares per class (theta over [1, Wq, w, D]) learn how queued work, own work and decoding
streams turn into TTFT. A residual per endpoint, measured over predicted, catches what is particular to one machine now,
and decays by itself (residual).

Everything learnt is in one segment shared by the workers. A class is updated under a try-lock: who finds it taken skips
his sample. Single words are replaced by compare-and-swap. Invariant: what comes in is clamped to finite bounds, so that
nothing that a pick reads is NaN, infinite or negative. Neighbours: decision (feeds it), signals, view and policies.
"""

from libc.math cimport expf, fabs, logf, sqrtf
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from router.native.atomic cimport word_pack, word_value
from router.native.loadtable cimport (
    ROW_KV_TOKENS, LoadTable, charge_t, load_oldest, load_row, load_table_t, load_view, load_view_t,
)
from router.native.residual cimport (
    RATIO_MAX, residual_age_s, residual_learn, residual_learn_time, residual_now, residual_slowness,
)
from router.native.segment cimport (
    Segment, segment_attach_rows, segment_check_slot, segment_create_rows, table_head_t,
)
from router.native.signals cimport SignalTable, others_t, signals_judge, signals_others_send, signals_weigh, told_t

cdef extern from "stdlib.h" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from *:
    """
    static inline uint64_t word_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline int word_swap(uint64_t *p, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(p, &seen, wanted, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    static inline void word_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline int class_try_lock(uint64_t *p, uint64_t now_us, uint64_t stale_us) {
        uint64_t seen = __atomic_load_n(p, __ATOMIC_RELAXED);
        if (seen != 0 && now_us - seen < stale_us) return 0;
        return __atomic_compare_exchange_n(p, &seen, now_us ? now_us : 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    static inline void class_unlock(uint64_t *p) { __atomic_store_n(p, 0, __ATOMIC_RELEASE); }
    """
    uint64_t word_load(const uint64_t* p) noexcept nogil
    bint word_swap(uint64_t* p, uint64_t seen, uint64_t wanted) noexcept nogil
    void word_store(uint64_t* p, uint64_t v) noexcept nogil
    bint class_try_lock(uint64_t* p, uint64_t now_us, uint64_t stale_us) noexcept nogil
    void class_unlock(uint64_t* p) noexcept nogil

cdef enum:
    FEATURES = 4                     # [1, queued_s, work_s, decoding]
    ARRAY_COUNT = 25
    ALIGNMENT = 64
    LAYOUT_VERSION = 3
    LOCK_STALE_US = 1000000          # a worker was killed inside an update
    OUTPUT_SAMPLES_MAX = 64          # a running mean covers about the last so many
    OUTPUT_DEFAULT_TOKENS = 256
    OUTPUT_TOKENS_MAX = 1 << 20
    PROMPT_TOKENS_MAX = 1 << 22

cdef uint64_t MAGIC = 0x314E524C4C4644   # "DFLLRN1"
cdef float FORGETTING = 0.999        # of the least squares, per sample: the last thousand count
cdef double COVARIANCE_MAX = 1e7
cdef float FIT_RATIO_MAX = 4.0       # beyond it the endpoint is off, not the class: for the residual alone
cdef float STEP_TOKENS = 2048.0      # of a step that runs when a request comes: chunks are as long in engines' defaults
cdef float ERROR_TAU_S = 10.0        # the window of the load table's estimates
cdef float OVERDUE_RATIO_MIN = 2.0   # an overdue first token is news from so many times its prediction on
cdef float SIGMA_WEIGHT = 0.02
cdef float Z_95 = 1.645              # of the normal distribution
cdef float QUEUE_SHARE_MIN = 0.3     # of queued and own work, that a prediction never goes below
cdef float PREDICTED_S_MIN = 0.001
cdef float TTFT_S_MAX = 600.0
cdef float KNEE = 0.8                # of KV or power in use, from where on the barrier grows
cdef float FULL = 0.98
cdef float PRESSURE_GAIN = 2.0       # delays count in full from as much queue as own work on, and not at all without
cdef float WAITED_S_MIN = 0.05        # what each wait is counted longer by: only the first picks are nearer to 0
# The more of a wait is for others, the more of what they add to a decode step counts: a stream that lasts longer holds
# its place longer, and somebody is waiting for it.
cdef float PRESSURE_ON_DECODE = 2.0
cdef float ANSWER_PRIOR_S = 5.0      # of decoding, before the first picks: 256 tokens, 20 ms each
cdef float MISS_PRIOR = 0.02         # of prompt tokens, more than are missed: again stays within 50
cdef float RAMP_S = 30.0
cdef float RAMP_SHARE_MIN = 0.1
cdef float BYTES_PER_TOKEN = 4.0     # English prose in the tokenisers of today's models, JSON included

cdef struct class_t:
    uint64_t lock
    uint64_t sample_count
    double theta[4]
    double covariance[16]
    float variance                   # of ln(measured / predicted), residual taken out
    uint8_t padding[12]

cdef struct slot_t:                  # a cache line; words are (float32, stamp or count)
    uint64_t residual                # r, ms
    uint64_t step_residual
    uint64_t joined_ms
    uint8_t padding[40]

cdef struct shared_t:
    table_head_t head
    uint8_t padding[48]
    class_t classes[256]             # CLASSES_MAX
    uint64_t outputs[1024]           # OUTPUT_KEYS: (mean, samples)
    uint64_t prompts[256]            # MODEL_KEYS: (bytes per token, samples)


cdef inline shared_t* _shared(const learner_t* learner) noexcept nogil:
    return <shared_t*>learner.shared


cdef inline slot_t* _slot(const learner_t* learner, uint32_t slot) noexcept nogil:
    return <slot_t*>(<uint8_t*>learner.shared + sizeof(shared_t)) + slot


cdef inline float _clamp(float value, float low, float high) noexcept nogil:
    # NaN compares false with everything: it becomes `low`.
    return high if value > high else value if value > low else low


cdef inline uint32_t _stamp_ms(uint64_t now_us) noexcept nogil:
    return <uint32_t>(now_us // 1000)


# --- what is known of an endpoint ----------------------------------------------------------------------------------

cdef void learner_set_figures(learner_t* learner, uint32_t slot, const engine_figures_t* figures) noexcept nogil:
    cdef engine_figures_t* kept = &learner.figures[slot]
    cdef bint is_known = kept.token_s > 0        # as below, once it has been set
    kept[0] = figures[0]
    kept.engine_class = figures.engine_class % CLASSES_MAX
    kept.token_s = _clamp(figures.token_s, 1e-7, 1.0)
    kept.pair_s = _clamp(figures.pair_s, 0.0, 1e-3)
    kept.floor_s = _clamp(figures.floor_s, 0.0, 10.0)
    kept.base_s = _clamp(figures.base_s, 0.0, 10.0)
    kept.context_s = _clamp(figures.context_s, 0.0, 1e-2)
    kept.rtt_s = _clamp(figures.rtt_s, 0.0, 60.0)
    learner.token_s[slot] = kept.token_s
    learner.pair_s[slot] = kept.pair_s
    learner.floor_s[slot] = kept.floor_s
    learner.base_s[slot] = kept.base_s
    learner.context_s[slot] = kept.context_s
    learner.inverse_kv[slot] = 1 / figures.kv_capacity_tokens if figures.kv_capacity_tokens >= 1 else 0.0
    learner.input_price[slot] = _clamp(figures.input_price, 0.0, 1e6)
    learner.output_price[slot] = _clamp(figures.output_price, 0.0, 1e6)
    learner.second_price[slot] = _clamp(figures.second_price, 0.0, 1e6)
    learner.refreshed_us = 0
    if not is_known:
        learner.known[learner.known_count] = slot
        learner.known_count += 1


cdef void learner_joined(learner_t* learner, uint32_t slot, uint64_t now_us) noexcept nogil:
    cdef slot_t* kept = _slot(learner, slot)
    word_store(&kept.residual, 0)
    word_store(&kept.step_residual, 0)
    word_store(&kept.joined_ms, now_us // 1000)
    learner.refreshed_us = 0


# --- the arrays that picks read --------------------------------------------------------------------------------------

cdef inline float _barrier(float share) noexcept nogil:
    # x / (1 - x) above the knee, less its value there: 0 below, 45 when full.
    if share <= KNEE:
        return 0.0
    share = min(share, FULL)
    return share / (1 - share) - KNEE / (1 - KNEE)


cdef void learner_refresh(learner_t* learner, load_table_t* load, uint64_t now_us) noexcept nogil:
    cdef uint32_t index
    cdef float hit_ratio
    if learner.refreshed_us and now_us - learner.refreshed_us < REFRESH_US:
        return
    learner.refreshed_us = now_us
    hit_ratio = min(learner.hit_mean / max(learner.prompt_mean, <float>1), <float>1)
    learner.again = hit_ratio / (MISS_PRIOR + 1 - hit_ratio)
    # Either counts relative to what it delays: waits in first tokens, prefills in answers. None while nobody queues.
    learner.delay_weight = min(PRESSURE_GAIN * learner.queued_mean_s, learner.waited_mean_s) \
        / max(learner.waited_mean_s + learner.answer_mean_s, PREDICTED_S_MIN)
    learner.behind_weight = 1 / max(learner.waited_mean_s, WAITED_S_MIN)
    learner.crowd_weight = 1 + PRESSURE_ON_DECODE * min(learner.queued_mean_s * learner.behind_weight, <float>1)
    for index in range(learner.known_count):
        _refresh_slot(learner, load, learner.known[index], now_us)
    signals_judge(&learner.hearing, now_us)


cdef void _refresh_slot(learner_t* learner, load_table_t* load, uint32_t slot, uint64_t now_us) noexcept nogil:
    cdef slot_t* kept = _slot(learner, slot)
    cdef engine_figures_t* figures = &learner.figures[slot]
    cdef class_t* engine_class = &_shared(learner).classes[figures.engine_class]
    cdef load_view_t view
    cdef uint64_t joined_ms
    cdef float overdue, kv_tokens, streams
    cdef charge_t* oldest
    learner.theta0_s[slot] = <float>engine_class.theta[0]
    learner.theta1[slot] = <float>engine_class.theta[1]
    learner.theta2[slot] = <float>engine_class.theta[2]
    learner.theta3_s[slot] = <float>engine_class.theta[3]
    learner.sigma[slot] = sqrtf(engine_class.variance)
    learner.quantile[slot] = expf(Z_95 * learner.sigma[slot])
    learner.residual[slot] = residual_now(word_load(&kept.residual), now_us)
    learner.step_residual[slot] = residual_now(word_load(&kept.step_residual), now_us)
    learner.slowness[slot] = residual_slowness(learner.residual[slot], learner.step_residual[slot])
    if load == NULL:
        return
    # Silence is not speed: a first token that is overdue says as much as one that came that late.
    oldest = load_oldest(load, slot)
    if oldest != NULL and oldest.predicted_s > 0 and now_us > oldest.begun_us:
        overdue = (now_us - oldest.begun_us) * <float>1e-6 / max(oldest.predicted_s, <float>0.05)
        if overdue > OVERDUE_RATIO_MIN and overdue > learner.residual[slot]:
            learner.residual[slot] = min(overdue, RATIO_MAX)
    load_view(load, slot, &view)
    # Failures are forgotten where nothing is sent, too: who is avoided for them can show nothing better.
    learner.error[slot] = _clamp(view.error_ratio, 0.0, 1.0) \
        * expf(-residual_age_s(view.error_stamp_ms, now_us) / ERROR_TAU_S)
    load_row(load, ROW_KV_TOKENS, slot, 1, &kv_tokens)
    streams = <float>(view.in_flight - min(view.pending, view.in_flight)) + 1
    learner.share_s[slot] = learner.step_residual[slot] / streams * (
        max(learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot] * streams)
        + learner.context_s[slot] * kv_tokens)
    learner.barrier[slot] = _barrier(kv_tokens * learner.inverse_kv[slot])
    learner.power_barrier[slot] = 0
    learner.bias_s[slot] = figures.rtt_s
    if learner.signals != NULL:
        _refresh_told(learner, slot, &view, now_us)
    joined_ms = word_load(&kept.joined_ms)
    learner.ramp[slot] = 1.0
    if joined_ms and now_us // 1000 - joined_ms < RAMP_S * 1000:
        learner.ramp[slot] = 1 / max(RAMP_SHARE_MIN, (now_us // 1000 - joined_ms) * <float>0.001 / RAMP_S)


cdef inline void _refresh_told(
    learner_t* learner, uint32_t slot, const load_view_t* view, uint64_t now_us
) noexcept nogil:
    # What others say only ever makes an endpoint look worse than this router's own accounts do; but for the distance.
    cdef told_t told
    cdef float work_s
    signals_weigh(learner.signals, slot, <float>view.in_flight, <float>view.pending, &learner.others[slot],
                  &learner.hearing, now_us, &told)
    learner.barrier[slot] = max(learner.barrier[slot], told.kv_weight * _barrier(told.kv))
    learner.power_barrier[slot] = told.power_weight * _barrier(told.power)
    learner.error[slot] = max(learner.error[slot], told.sickness)
    # The requests of others are taken to be like those that came here.
    work_s = learner.token_s[slot] * max(learner.prompt_mean - learner.hit_mean, <float>0)
    learner.others_s[slot] = _clamp(
        learner.theta1[slot] * told.others_waiting * work_s + learner.theta3_s[slot] * told.others_running,
        0.0, TTFT_S_MAX)
    learner.bias_s[slot] = (learner.bias_s[slot] if told.rtt_s < 0 else told.rtt_s) + learner.others_s[slot]


cdef float learner_predict(const learner_t* learner, uint32_t slot, float queued_s, float work_s, float decoding) \
        noexcept nogil:
    cdef const double* theta = _shared(learner).classes[learner.figures[slot].engine_class].theta
    cdef float least = QUEUE_SHARE_MIN * (queued_s + work_s) + <float>theta[0]
    cdef float fitted = <float>(theta[0] + theta[1] * queued_s + theta[2] * work_s + theta[3] * decoding)
    return _clamp(max(least, fitted), PREDICTED_S_MIN, TTFT_S_MAX)


cdef float learner_work(const learner_t* learner, uint32_t slot, float prompt_tokens, float uncached_tokens) \
        noexcept nogil:
    return learner.token_s[slot] * uncached_tokens \
        + learner.pair_s[slot] * uncached_tokens * (prompt_tokens - <float>0.5 * uncached_tokens)


# --- what comes back -------------------------------------------------------------------------------------------------

cdef void learner_first_token(learner_t* learner, const charge_t* charge, float ttft_s, uint64_t now_us) noexcept nogil:
    cdef slot_t* kept = _slot(learner, charge.slot)
    cdef class_t* engine_class = &_shared(learner).classes[learner.figures[charge.slot].engine_class]
    cdef float predicted_s, measured_s, ratio, known, spread, slack_s
    if not charge.predicted_s > 0:
        return
    # The way there is no fault of the engine; what others are said to have there now need not have been so at the pick.
    measured_s = _clamp(ttft_s - learner.bias_s[charge.slot] + learner.others_s[charge.slot], PREDICTED_S_MIN,
                        TTFT_S_MAX)
    predicted_s = learner_predict(learner, charge.slot, charge.queued_s, charge.work_s, charge.decoding)
    ratio = _clamp(measured_s / predicted_s, <float>1 / RATIO_MAX, RATIO_MAX)
    known = residual_now(word_load(&kept.residual), now_us)
    spread = logf(ratio / known)
    # What the cache was believed to hold it may not have held, and all that would be prefilled.
    slack_s = STEP_TOKENS * learner.token_s[charge.slot] + max(
        learner_work(learner, charge.slot, charge.prompt_tokens, charge.prompt_tokens) - charge.work_s, <float>0)
    if signals_others_send(&learner.hearing):
        slack_s = TTFT_S_MAX                 # it may have waited for requests that are not in the accounts
    residual_learn_time(&kept.residual, ratio, measured_s, predicted_s * known, slack_s, now_us)
    if not class_try_lock(&engine_class.lock, now_us, LOCK_STALE_US):
        return
    engine_class.variance += (_clamp(spread * spread, 0.0, 9.0) - engine_class.variance) * SIGMA_WEIGHT
    if 1 / FIT_RATIO_MAX < ratio < FIT_RATIO_MAX:
        _fit(engine_class, charge, measured_s, predicted_s)
    class_unlock(&engine_class.lock)


cdef void _fit(class_t* engine_class, const charge_t* charge, float measured_s, float predicted_s) noexcept nogil:
    # One step of weighted recursive least squares; the weight makes errors relative, so that a few long prompts do not
    # outvote many short ones.
    cdef double x[FEATURES]
    cdef double gain[FEATURES]
    cdef double scale = 1.0 / max(<double>predicted_s, 0.05)
    cdef double denominator = FORGETTING, error, value
    cdef int row, column
    x[0] = scale
    x[1] = _clamp(charge.queued_s, 0.0, TTFT_S_MAX) * scale
    x[2] = _clamp(charge.work_s, 0.0, TTFT_S_MAX) * scale
    x[3] = _clamp(charge.decoding, 0.0, 4096.0) * scale
    error = measured_s * scale
    for row in range(FEATURES):
        gain[row] = 0.0
        for column in range(FEATURES):
            gain[row] += engine_class.covariance[row * FEATURES + column] * x[column]
        denominator += x[row] * gain[row]
        error -= engine_class.theta[row] * x[row]
    if not denominator > 1e-12:
        _reset_class(engine_class)
        return
    for row in range(FEATURES):
        engine_class.theta[row] += gain[row] / denominator * error
    for row in range(FEATURES):
        for column in range(row, FEATURES):
            value = (engine_class.covariance[row * FEATURES + column] - gain[row] * gain[column] / denominator) \
                / FORGETTING
            value = min(max(value, -COVARIANCE_MAX), COVARIANCE_MAX)
            engine_class.covariance[row * FEATURES + column] = engine_class.covariance[column * FEATURES + row] = value
    engine_class.theta[0] = min(max(engine_class.theta[0], 0.0), 5.0)
    engine_class.theta[1] = min(max(engine_class.theta[1], 0.1), 5.0)
    engine_class.theta[2] = min(max(engine_class.theta[2], 0.1), 5.0)
    engine_class.theta[3] = min(max(engine_class.theta[3], 0.0), 0.1)
    engine_class.sample_count += 1
    for row in range(FEATURES):
        if not (fabs(engine_class.theta[row]) < 1e3 and engine_class.covariance[row * FEATURES + row] > 0):
            _reset_class(engine_class)
            return


cdef void _reset_class(class_t* engine_class) noexcept nogil:
    # Routing begins where the formula is work in seconds plus 20 ms, and 0.3 ms for each stream that is disturbed.
    memset(engine_class.covariance, 0, sizeof(engine_class.covariance))
    engine_class.theta[0] = 0.02
    engine_class.theta[1] = 1.0
    engine_class.theta[2] = 1.0
    engine_class.theta[3] = 0.0003
    engine_class.covariance[0] = 0.01
    engine_class.covariance[5] = 0.1
    engine_class.covariance[10] = 0.1
    engine_class.covariance[15] = 1e-6
    engine_class.variance = 0.1
    engine_class.sample_count = 0


cdef void learner_failed(
    learner_t* learner, const charge_t* charge, float elapsed_s, float timeout_s, uint64_t now_us
) noexcept nogil:
    cdef float predicted_s, counted_s
    if not charge.predicted_s > 0:
        return
    predicted_s = learner_predict(learner, charge.slot, charge.queued_s, charge.work_s, charge.decoding)
    counted_s = _clamp(max(elapsed_s, timeout_s * <float>0.25), predicted_s, TTFT_S_MAX)
    residual_learn(&_slot(learner, charge.slot).residual, max(counted_s / predicted_s, <float>1), now_us)


cdef void learner_decoded(
    learner_t* learner, uint32_t slot, float gap_s, float streams, float kv_tokens, uint32_t token_count,
    uint64_t now_us
) noexcept nogil:
    cdef float step_s
    cdef uint64_t* word
    if token_count == 0 or not gap_s > 0:
        return
    step_s = max(learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot] * streams) \
        + learner.context_s[slot] * kv_tokens
    if step_s > 0:
        # A prefill beside the steps makes them three times as long, and says nothing of the machine.
        word = &_slot(learner, slot).step_residual
        residual_learn_time(word, gap_s / step_s, gap_s, step_s * residual_now(word_load(word), now_us), step_s, now_us)


cdef void _learn_mean(uint64_t* word, float sample) noexcept nogil:
    cdef uint64_t seen
    cdef uint32_t count
    cdef float mean
    while True:
        seen = word_load(word)
        count = min(<uint32_t>seen + 1, <uint32_t>OUTPUT_SAMPLES_MAX)
        mean = word_value(seen)
        if word_swap(word, seen, word_pack(mean + (sample - mean) / count, count)):
            return


cdef void learner_output(learner_t* learner, uint64_t output_key, uint32_t output_tokens) noexcept nogil:
    _learn_mean(&_shared(learner).outputs[output_key % OUTPUT_KEYS],
                <float>min(output_tokens, <uint32_t>OUTPUT_TOKENS_MAX))


cdef uint32_t learner_expected_output(learner_t* learner, uint64_t output_key, int64_t output_tokens_max) \
        noexcept nogil:
    cdef uint64_t word = word_load(&_shared(learner).outputs[output_key % OUTPUT_KEYS])
    cdef uint32_t expected = <uint32_t>word_value(word) if word else OUTPUT_DEFAULT_TOKENS
    if 0 <= output_tokens_max < expected:
        expected = <uint32_t>output_tokens_max
    return max(expected, <uint32_t>1)


cdef void learner_prompt(learner_t* learner, uint64_t model_hash, uint64_t prompt_bytes, uint32_t prompt_tokens) \
        noexcept nogil:
    if prompt_tokens and prompt_bytes:
        _learn_mean(&_shared(learner).prompts[model_hash % MODEL_KEYS],
                    _clamp(<float>prompt_bytes / prompt_tokens, 0.5, 64.0))


cdef uint32_t learner_prompt_tokens(learner_t* learner, uint64_t model_hash, uint64_t prompt_bytes) noexcept nogil:
    cdef uint64_t word = word_load(&_shared(learner).prompts[model_hash % MODEL_KEYS])
    cdef float ratio = word_value(word) if word else BYTES_PER_TOKEN
    if prompt_bytes == 0:
        return 0
    return <uint32_t>_clamp(<float>prompt_bytes / ratio, 1.0, PROMPT_TOKENS_MAX)


# --- the door --------------------------------------------------------------------------------------------------------

cdef int read_figures(engine_figures_t* native, figures) except -1:
    native.engine_class = figures.engine_class
    native.token_s, native.pair_s = figures.token_s, figures.pair_s
    native.floor_s, native.base_s, native.context_s = figures.floor_s, figures.base_s, figures.context_s
    native.kv_capacity_tokens = figures.kv_capacity_tokens
    native.input_price, native.output_price = figures.input_price, figures.output_price
    native.second_price = figures.second_price
    native.rtt_s = figures.rtt_s
    return 0


cdef class Learner:
    """What one router learns of its endpoints; see learner.pyi for the Python side."""

    @staticmethod
    def create(uint32_t slot_count):
        cdef uint32_t index
        cdef Segment segment = segment_create_rows(
            b"fairlead-learner", MAGIC, LAYOUT_VERSION, slot_count, sizeof(shared_t), sizeof(slot_t))
        for index in range(CLASSES_MAX):
            _reset_class(&(<shared_t*>segment.base).classes[index])
        return _open(segment)

    @staticmethod
    def attach(int fd):
        return _open(segment_attach_rows(
            fd, MAGIC, LAYOUT_VERSION, sizeof(shared_t), sizeof(slot_t), "learner's table"))

    def __dealloc__(self):
        free(self._arrays)
        free(self.learner.known)
        free(self.learner.figures)
        free(self.learner.others)

    @property
    def slot_count(self):
        return self.learner.slot_count

    def set_figures(self, uint32_t slot, figures):
        cdef engine_figures_t native
        _check(self, slot)
        read_figures(&native, figures)
        learner_set_figures(&self.learner, slot, &native)

    def joined(self, uint32_t slot, uint64_t now_us):
        _check(self, slot)
        learner_joined(&self.learner, slot, now_us)

    def listen(self, SignalTable signals not None):
        if signals.table.slot_count < self.learner.slot_count:
            raise ValueError(f"the signals must have {self.learner.slot_count} slots")
        self.signals = signals
        self.learner.signals = &signals.table

    def first_token(self, uint32_t slot, float ttft_s, uint64_t now_us, *, float queued_s, float work_s,
                    float decoding=0, uint32_t prompt_tokens=0):
        cdef charge_t charge
        _check(self, slot)
        memset(&charge, 0, sizeof(charge))
        charge.slot = slot
        charge.queued_s, charge.work_s, charge.decoding = queued_s, work_s, decoding
        charge.prompt_tokens = prompt_tokens
        charge.predicted_s = learner_predict(&self.learner, slot, queued_s, work_s, decoding)
        learner_first_token(&self.learner, &charge, ttft_s, now_us)

    def failed(self, uint32_t slot, float elapsed_s, float timeout_s, uint64_t now_us, *, float work_s):
        cdef charge_t charge
        _check(self, slot)
        memset(&charge, 0, sizeof(charge))
        charge.slot, charge.work_s = slot, work_s
        charge.predicted_s = learner_predict(&self.learner, slot, 0, work_s, 0)
        learner_failed(&self.learner, &charge, elapsed_s, timeout_s, now_us)

    def decoded(self, uint32_t slot, float gap_s, float streams, float kv_tokens, uint32_t token_count,
                uint64_t now_us):
        _check(self, slot)
        learner_decoded(&self.learner, slot, gap_s, streams, kv_tokens, token_count, now_us)

    def output(self, uint64_t output_key, uint32_t output_tokens):
        learner_output(&self.learner, output_key, output_tokens)

    def expected_output(self, uint64_t output_key, int64_t output_tokens_max=-1):
        return learner_expected_output(&self.learner, output_key, output_tokens_max)

    def prompt(self, uint64_t model_hash, uint64_t prompt_bytes, uint32_t prompt_tokens):
        learner_prompt(&self.learner, model_hash, prompt_bytes, prompt_tokens)

    def prompt_tokens(self, uint64_t model_hash, uint64_t prompt_bytes):
        return learner_prompt_tokens(&self.learner, model_hash, prompt_bytes)

    def predict(self, uint32_t slot, float queued_s, float work_s, float decoding=0):
        _check(self, slot)
        return learner_predict(&self.learner, slot, queued_s, work_s, decoding)

    def work(self, uint32_t slot, float prompt_tokens, float uncached_tokens):
        _check(self, slot)
        return learner_work(&self.learner, slot, prompt_tokens, uncached_tokens)

    def view(self, uint32_t slot, uint64_t now_us, LoadTable load=None):
        _check(self, slot)
        self.learner.refreshed_us = 0
        learner_refresh(&self.learner, &load.table if load is not None else NULL, now_us)
        return {
            "residual": self.learner.residual[slot], "step_residual": self.learner.step_residual[slot],
            "others_s": self.learner.others_s[slot], "is_partial": bool(self.learner.hearing.is_partial),
            "theta": [self.learner.theta0_s[slot], self.learner.theta1[slot], self.learner.theta2[slot],
                      self.learner.theta3_s[slot]],
            "sigma": self.learner.sigma[slot], "bias_s": self.learner.bias_s[slot],
            "barrier": self.learner.barrier[slot], "power_barrier": self.learner.power_barrier[slot],
            "error": self.learner.error[slot], "ramp": self.learner.ramp[slot],
            "share_s": self.learner.share_s[slot], "slowness": self.learner.slowness[slot],
        }


cdef int _check(Learner self, uint32_t slot) except -1:
    return segment_check_slot(slot, self.learner.slot_count)


cdef Learner _open(Segment segment):
    cdef Learner self = Learner.__new__(Learner)
    cdef learner_t* learner = &self.learner
    cdef uint32_t slot_count = (<shared_t*>segment.base).head.slot_count
    cdef size_t stride = (slot_count + 31) // 16 * 16  # of whole cache lines
    cdef float** arrays[ARRAY_COUNT]
    cdef float* base
    cdef uint32_t index, slot
    self._mapping = segment
    self.fd = segment.fd
    learner.slot_count = slot_count
    learner.answer_mean_s = ANSWER_PRIOR_S
    learner.crowd_weight = 1
    learner.shared = segment.base
    learner.shared_bytes = segment.size_bytes
    self._arrays = aligned_alloc(ALIGNMENT, ARRAY_COUNT * stride * sizeof(float))
    learner.known = <uint32_t*>aligned_alloc(ALIGNMENT, stride * sizeof(uint32_t))
    learner.figures = <engine_figures_t*>aligned_alloc(ALIGNMENT, stride * sizeof(engine_figures_t))
    learner.others = <others_t*>calloc(stride, sizeof(others_t))
    if self._arrays == NULL or learner.known == NULL or learner.figures == NULL or learner.others == NULL:
        raise MemoryError
    base = <float*>self._arrays
    memset(base, 0, ARRAY_COUNT * stride * sizeof(float))
    memset(learner.figures, 0, stride * sizeof(engine_figures_t))
    arrays[:] = [
        &learner.token_s, &learner.pair_s, &learner.floor_s, &learner.base_s, &learner.context_s, &learner.inverse_kv,
        &learner.input_price, &learner.output_price, &learner.second_price, &learner.residual,
        &learner.step_residual, &learner.theta0_s, &learner.theta1, &learner.theta2, &learner.theta3_s,
        &learner.sigma, &learner.bias_s, &learner.others_s, &learner.barrier, &learner.error, &learner.ramp,
        &learner.quantile, &learner.share_s, &learner.slowness, &learner.power_barrier,
    ]
    for index in range(ARRAY_COUNT):
        arrays[index][0] = base + index * stride
    for slot in range(<uint32_t>stride):
        learner.token_s[slot] = 1e-4
        learner.residual[slot] = learner.step_residual[slot] = learner.ramp[slot] = learner.quantile[slot] = 1.0
        learner.slowness[slot] = 1.0
        learner.theta0_s[slot] = 0.02
        learner.theta1[slot] = learner.theta2[slot] = 1.0
    return self

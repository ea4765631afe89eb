"""What each endpoint's engine is like: how long a prompt will take there, how long a step, what it costs.

Learnt from first tokens and ends of streams, shared by all workers; read by picks as arrays of float32, one element
per slot. TTFT is predicted as

    max(0.3 (Wq + w) + t0, theta . [1, Wq, w, D]) * r + rtt

with theta per engine class (recursive least squares) and r per endpoint (a residual that decays to 1). All inputs are
clamped when they come in; nothing read here is ever NaN.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from router.native.loadtable cimport charge_t, load_table_t
from router.native.signals cimport SignalTable, hearing_t, others_t, signal_table_t

cdef enum:
    CLASSES_MAX = 256
    OUTPUT_KEYS = 1024               # (route, tenant, model) hashed into so many running means
    MODEL_KEYS = 256                 # models hashed into so many bytes-per-token ratios
    REFRESH_US = 10000               # how old the arrays may be at a pick

cdef struct engine_figures_t:        # of one endpoint, from the configuration; see learner.pyi for the defaults
    uint16_t engine_class            # endpoints of one class learn together
    float token_s                    # prefill, per uncached token
    float pair_s                     # prefill, per pair of tokens (attention)
    float floor_s                    # a decode step, at least
    float base_s
    float context_s                  # a decode step, per token in KV
    float kv_capacity_tokens         # 0: not known
    float input_price                # per token
    float output_price
    float second_price               # of the machine
    float rtt_s                      # until measured

cdef struct learner_t:               # arrays by slot, 64-byte aligned; those from `residual` on change at a refresh
    uint32_t slot_count
    uint32_t known_count
    uint32_t* known                  # slots that have figures
    uint64_t refreshed_us
    engine_figures_t* figures
    float* token_s
    float* pair_s
    float* floor_s                   # of a decode step: max(floor, base + token * streams) + context * kv
    float* base_s
    float* context_s
    float* inverse_kv                # 1 / kv_capacity_tokens; 0: not known
    float* input_price
    float* output_price
    float* second_price
    float* residual                  # r, now
    float* step_residual             # the same for decode steps
    float* theta0_s                  # the class's theta: constant, per queued s, per own s, per decoding stream
    float* theta1
    float* theta2
    float* theta3_s
    float* sigma                     # standard deviation of ln(ttft / predicted)
    float* bias_s                    # the way there, and what others have queued there
    float* others_s                  # the latter alone
    float* barrier                   # how near KV is to full: 0 below the knee, growing steeply
    float* power_barrier             # the same of its power
    float* error                     # share of attempts that failed lately
    float* ramp                      # 1 when warm, up to 10 just after joining
    float* quantile                  # what a prediction is multiplied with for its 95 % quantile
    float* share_s                   # of a decode step's length, what one more stream would have to pay for
    float* slowness                  # of the machine, by first tokens and steps alike: 1 unless both are far off
    # This process's own running means over picks, and what the refresh makes of them.
    float prompt_mean
    float hit_mean
    float queued_mean_s
    float waited_mean_s
    float answer_mean_s              # decoding it, with nobody's prefill in between
    float again                      # times that a token cached lately is asked for once more: hits by misses
    float delay_weight               # of a second's delay to an answer, against one of waiting for a first token
    float behind_weight              # per second: of a queue, for whoever comes after its next prefill
    float crowd_weight               # of what others add to a decode step
    signal_table_t* signals          # NULL: nobody tells anything
    others_t* others                 # others[slot_count]
    hearing_t hearing
    void* shared                     # shared_t, in the segment
    size_t shared_bytes

cdef void learner_set_figures(learner_t* learner, uint32_t slot, const engine_figures_t* figures) noexcept nogil
# An endpoint has (re)joined: it starts slowly, and what was learnt of it alone is forgotten.
cdef void learner_joined(learner_t* learner, uint32_t slot, uint64_t now_us) noexcept nogil
# Recomputes the arrays when they are older than REFRESH_US.
cdef void learner_refresh(learner_t* learner, load_table_t* load, uint64_t now_us) noexcept nogil
# TTFT without residual and rtt, for one slot: what a charge's predicted_s is.
cdef float learner_predict(const learner_t* learner, uint32_t slot, float queued_s, float work_s, float decoding) \
    noexcept nogil
# Prefill work in seconds of `uncached` of `prompt` tokens.
cdef float learner_work(const learner_t* learner, uint32_t slot, float prompt_tokens, float uncached_tokens) \
    noexcept nogil
# A first token came `ttft_s` after the charge began.
cdef void learner_first_token(learner_t* learner, const charge_t* charge, float ttft_s, uint64_t now_us) noexcept nogil
# The attempt failed after `elapsed_s`: slow, however fast it failed (`timeout_s`: what it might have taken).
cdef void learner_failed(
    learner_t* learner, const charge_t* charge, float elapsed_s, float timeout_s, uint64_t now_us) noexcept nogil
# `token_count` tokens came `gap_s` apart while `streams` decoded there with `kv_tokens` in KV.
cdef void learner_decoded(
    learner_t* learner, uint32_t slot, float gap_s, float streams, float kv_tokens, uint32_t token_count,
    uint64_t now_us) noexcept nogil
# Running mean of output tokens under a key, and of bytes per prompt token of a model; both clamp.
cdef void learner_output(learner_t* learner, uint64_t output_key, uint32_t output_tokens) noexcept nogil
cdef uint32_t learner_expected_output(learner_t* learner, uint64_t output_key, int64_t output_tokens_max) noexcept nogil
cdef void learner_prompt(learner_t* learner, uint64_t model_hash, uint64_t prompt_bytes, uint32_t prompt_tokens) \
    noexcept nogil
cdef uint32_t learner_prompt_tokens(learner_t* learner, uint64_t model_hash, uint64_t prompt_bytes) noexcept nogil

# from a FigureTables (router/schema/engines.py)
cdef int read_figures(engine_figures_t* native, figures) except -1

cdef class Learner:
    cdef learner_t learner
    cdef readonly SignalTable signals
    cdef object _mapping
    cdef void* _arrays
    cdef readonly int fd             # owned by the learner; pass it on, do not close it

"""Why an endpoint was picked: one token for every decision that asks, and whole decisions in a ring of shared memory.

A worker writes a column of its own; everybody may read all of them at any time and never sees half a record (each has a
sequence number that is odd while it is written). Nothing here is done for a decision that nobody wants explained.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from router.native.choice cimport choice_t
from router.native.pick cimport decider_t
from router.native.policy_five_axis cimport terms_t
from router.native.pool cimport text_t

cdef enum:
    EXPLAIN_RECORDS_MAX = 1024       # of a column, as in router/limits.py; the oldest gives way
    EXPLAIN_ID_BYTES = 128           # a longer request id is cut, here and where it is looked for
    EXPLAIN_SHOWN_COUNT = 4          # the winner and three runners-up
    EXPLAIN_MODEL_BYTES = 64         # of a model's name; a longer one is cut

cdef enum explain_reason:            # the first that holds; texts in explain.pyx
    REASON_NONE = 0                  # nobody asked
    REASON_RETRY = 1                 # an endpoint before this one failed
    REASON_PANIC = 2                 # every endpoint was ejected
    REASON_ONLY = 3                  # nobody else could be picked
    REASON_POLICY = 4                # another policy than five_axis, or its ratios: the policy's own rule
    REASON_SESSION = 5               # as good as others; the session goes here, or stays for what leaving would cost
    REASON_TIE = 6                   # as good as others; drawn
    REASON_CACHED = 7                # without cached prefixes another would have won
    REASON_FASTEST = 8               # the least predicted time to first token
    REASON_CHEAPER = 9               # what it is better at than the fastest: cost,
    REASON_HEADROOM = 10             # room: streams and prompts that it disturbs less, KV and power,
    REASON_HEALTHIER = 11            # attempts that failed less often
    REASON_LOADED = 12               # with the model in memory everywhere another would have won
    REASON_MODEL = 13                # a model that stands before it in the alias would have taken longer, or has nobody

cdef struct shown_t:                 # a candidate as the decision saw it
    uint32_t slot
    uint32_t in_flight
    float score                      # of a policy that gives scores; lower is better
    float queued_s
    float hit_tokens
    terms_t terms                    # five_axis only: what the score is the sum of
    uint8_t model_length             # 0: no alias was asked for
    uint8_t model[64]                # EXPLAIN_MODEL_BYTES: whom it would serve

cdef struct record_t:
    uint64_t sequence                # odd: being written
    uint64_t wall_us                 # Unix time
    uint32_t prompt_tokens
    uint32_t output_tokens
    uint32_t candidate_count
    uint32_t eligible_count
    uint16_t route                   # index in the metrics
    uint8_t policy                   # policy_kind
    uint8_t reason                   # explain_reason
    uint8_t attempt                  # 1: the first
    uint8_t shown_count
    uint8_t id_length
    uint8_t has_session
    uint8_t switching                # switch_reason: why the session stayed or went
    uint8_t has_scores
    uint8_t has_terms
    uint32_t session_tokens          # of the session's last prompt, where it is remembered
    uint8_t id[128]                  # EXPLAIN_ID_BYTES
    shown_t shown[4]                 # EXPLAIN_SHOWN_COUNT; the winner, then by score (without scores: by requests)

cdef struct column_t:                # of one worker, in the segment
    uint64_t* written_count          # ever; the next record goes to its remainder
    record_t* records                # records[EXPLAIN_RECORDS_MAX]

cdef struct explained_t:             # what the pick itself does not know
    text_t id
    uint64_t wall_us
    uint16_t route
    uint8_t attempt
    uint8_t reason
    uint8_t switching

# Whether a share of all decisions, `threshold` of 2^64, has this one among them; 0: none.
cdef inline bint explain_is_sampled(uint64_t threshold, uint64_t random) noexcept nogil:
    return threshold != 0 and random * 0x9E3779B97F4A7C15ULL <= threshold

# Both right after the pick of `position` of the choice `chosen`, before it is charged; the requests are the pick's,
# unchanged.
cdef int explain_reason_of(
    decider_t* decider, choice_t* choices, uint32_t chosen, uint32_t position, uint8_t attempt) noexcept nogil
cdef void explain_record(
    const column_t* column, decider_t* decider, choice_t* choices, uint32_t count, uint32_t chosen, uint32_t position,
    const explained_t* explained) noexcept nogil
cdef text_t explain_reason_text(int reason) noexcept nogil

cdef class ExplainRing:
    cdef readonly int fd             # owned by the ring; pass it on, do not close it
    cdef readonly uint32_t column_count
    cdef object _mapping
    cdef uint8_t* base
    cdef column_t column(self, uint32_t index) except *        # for the worker that owns it

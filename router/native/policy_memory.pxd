"""What policies remember between picks, per endpoint and per process: what they last polled, how long answers took.

Bounded: a fixed record for each slot of the load table. Only policies that the configuration names read it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from router.native.loadtable cimport charge_t
from router.native.policy cimport decider_t

cdef enum:
    RATE_WINDOW = 64                 # smetric: rates its p90 is taken of
    RATE_COUNT_MIN = 8               # smetric: before so many are known, every endpoint meets the target
    RIF_BUCKETS = 12                 # prequal: 0, 1, 2-3, 4-7, ... 1,024 and more in flight
    RIF_LATENCIES = 5                # prequal: latencies kept of each, for their median

cdef struct slot_memory_t:
    uint64_t polled_us               # llmd: when the two below were read; 0: never
    float polled_pending
    float polled_kv_ratio
    uint64_t peak_us                 # peak_ewma: when the cost was last changed; 0: never looked at
    float peak_s
    float rate                       # smetric: p90 of `rates`, 0: not known
    uint32_t rate_count              # ever
    uint32_t rate_seen               # rate_count when `rate` was worked out
    float[64] rates                  # RATE_WINDOW; tokens per second to the first token
    uint32_t[12] latency_counts      # RIF_BUCKETS; ever
    float[60] latencies_s            # the last RIF_LATENCIES of each bucket

cdef struct policy_memory_t:
    uint32_t slot_count
    float decay_s                    # of peak_ewma, as its last pick was set
    slot_memory_t* slots             # slots[slot_count]

# All zero; NULL when there is no memory.
cdef policy_memory_t* policy_memory_create(uint32_t slot_count) noexcept nogil
cdef void policy_memory_free(policy_memory_t* memory) noexcept nogil
# An endpoint has (re)joined: nothing that was known before counts.
cdef void policy_memory_forget(policy_memory_t* memory, uint32_t slot) noexcept nogil

# To be told of each attempt, while its charge still says what it was: only when decider.memory is not NULL.
cdef void policy_observe_first_token(
    decider_t* decider, const charge_t* charge, float ttft_s, uint64_t now_us) noexcept nogil
# `failed`: by the endpoint's fault. The charge has not been released yet.
cdef void policy_observe_end(decider_t* decider, const charge_t* charge, bint failed, uint64_t now_us) noexcept nogil

# All of these take memory == NULL for one that knows nothing.
cdef float remembered_peak_s(
    policy_memory_t* memory, uint32_t slot, float guess_s, float decay_s, uint64_t now_us) noexcept nogil
# The median latency at the nearest number in flight; 0: none known.
cdef float remembered_latency_s(policy_memory_t* memory, uint32_t slot, float in_flight) noexcept nogil
# tokens per second; 0: not known.
cdef float remembered_rate(policy_memory_t* memory, uint32_t slot) noexcept nogil
# `pending` and `kv_ratio` become what was polled at most `age_us` ago.
cdef void remembered_poll(
    policy_memory_t* memory, uint32_t slot, uint64_t age_us, uint64_t now_us, float* pending, float* kv_ratio
) noexcept nogil

cdef class PolicyMemory:             # owns one; for tests and deciders
    cdef policy_memory_t* memory
    cdef void _prepare(self, decider_t* decider, charge_t* charge, uint32_t slot, uint32_t in_flight) noexcept

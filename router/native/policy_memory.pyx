"""What policies remember between picks, per endpoint: polled copies, peak-EWMA costs, latencies by load, rates.

Each process remembers what its own attempts showed it, as the originals do (none of them shares these between
replicas). Everything is clamped when it comes in: times are finite and above zero, so that nothing a policy reads is
NaN. Invariant: the memory's size is fixed when it is made; the oldest sample of a full window goes.

Neighbours: decision (which tells of first tokens and ends), policy_load and policy_cache (which read).
"""

from libc.math cimport expf
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from router.native.loadtable cimport CHARGE_DECODING, CHARGE_PENDING, charge_t, load_in_flight

cdef enum:
    NTH_MAX = 6                      # from above, the 90th percentile of 64

cdef float TIME_S_MIN = 1e-6
cdef float TIME_S_MAX = 86400.0      # no attempt lasts a day
cdef float DECAY_S_DEFAULT = 10.0    # before any peak_ewma pick said otherwise
cdef float RATE_QUANTILE = 0.9       # the least queued prompts are the fastest; the maximum would be one outlier
cdef float FAILED_FACTOR = 2.0       # prequal: a failure counts as so many times the worst latency known
cdef float FAILED_S_MIN = 1.0


cdef policy_memory_t* policy_memory_create(uint32_t slot_count) noexcept nogil:
    cdef policy_memory_t* memory = <policy_memory_t*>calloc(1, sizeof(policy_memory_t))
    if memory == NULL:
        return NULL
    memory.slots = <slot_memory_t*>calloc(slot_count + 1, sizeof(slot_memory_t))
    memory.slot_count = slot_count
    memory.decay_s = DECAY_S_DEFAULT
    if memory.slots == NULL:
        free(memory)
        return NULL
    return memory


cdef void policy_memory_free(policy_memory_t* memory) noexcept nogil:
    if memory != NULL:
        free(memory.slots)
    free(memory)


cdef void policy_memory_forget(policy_memory_t* memory, uint32_t slot) noexcept nogil:
    if slot < memory.slot_count:
        memset(&memory.slots[slot], 0, sizeof(slot_memory_t))


cdef inline slot_memory_t* _slot(policy_memory_t* memory, uint32_t slot) noexcept nogil:
    return NULL if memory == NULL or slot >= memory.slot_count else &memory.slots[slot]


cdef inline float _clamped(float time_s) noexcept nogil:
    if not time_s >= TIME_S_MIN:     # NaN comes here, too
        return TIME_S_MIN
    return time_s if time_s < TIME_S_MAX else TIME_S_MAX


cdef float _nth_greatest(const float* samples, uint32_t count, uint32_t nth) noexcept nogil:
    cdef float[NTH_MAX + 1] greatest
    cdef uint32_t index, place, kept = 0
    for index in range(count):       # insertion into those that count
        if kept > nth and not samples[index] > greatest[nth]:
            continue
        place = kept if kept <= nth else nth
        kept = place + 1 if kept <= nth else kept
        while place > 0 and greatest[place - 1] < samples[index]:
            greatest[place] = greatest[place - 1]
            place -= 1
        greatest[place] = samples[index]
    return greatest[nth]


# --- peak EWMA: tower's RttEstimate ---------------------------------------------------------------------------------

cdef inline float _decayed(const slot_memory_t* slot, float decay_s, uint64_t now_us) noexcept nogil:
    if now_us <= slot.peak_us:       # another clock, or the same instant
        return slot.peak_s
    return slot.peak_s * expf(-<float>(now_us - slot.peak_us) * <float>1e-6 / decay_s)


cdef float remembered_peak_s(
    policy_memory_t* memory, uint32_t slot_index, float guess_s, float decay_s, uint64_t now_us
) noexcept nogil:
    cdef slot_memory_t* slot = _slot(memory, slot_index)
    if slot == NULL:
        return guess_s
    memory.decay_s = decay_s
    if slot.peak_us == 0:
        slot.peak_us = now_us if now_us else 1
        slot.peak_s = guess_s
    return _decayed(slot, decay_s, now_us)


cdef void _observe_peak(slot_memory_t* slot, float latency_s, float decay_s, uint64_t now_us) noexcept nogil:
    cdef float decayed_s
    if slot.peak_us == 0 or latency_s > slot.peak_s:         # a peak is believed at once
        slot.peak_s = latency_s
    else:                            # peak * w + latency * (1 - w)
        decayed_s = _decayed(slot, decay_s, now_us)
        slot.peak_s = decayed_s + latency_s * (1 - (decayed_s / slot.peak_s if slot.peak_s > 0 else 0))
    if now_us > slot.peak_us:
        slot.peak_us = now_us


# --- Prequal: latency at a number in flight -------------------------------------------------------------------------

cdef inline uint32_t _bucket(float in_flight) noexcept nogil:
    cdef uint32_t count = <uint32_t>in_flight if in_flight >= 1 else 0
    cdef uint32_t bucket = 0
    while count and bucket < RIF_BUCKETS - 1:
        count >>= 1
        bucket += 1
    return bucket


cdef inline float _median_s(const slot_memory_t* slot, uint32_t bucket) noexcept nogil:
    cdef uint32_t count = min(slot.latency_counts[bucket], <uint32_t>RIF_LATENCIES)
    return _nth_greatest(&slot.latencies_s[bucket * RIF_LATENCIES], count, count // 2)


cdef float remembered_latency_s(policy_memory_t* memory, uint32_t slot_index, float in_flight) noexcept nogil:
    cdef slot_memory_t* slot = _slot(memory, slot_index)
    cdef uint32_t bucket, distance
    if slot == NULL:
        return 0.0
    bucket = _bucket(in_flight)
    for distance in range(<uint32_t>RIF_BUCKETS):
        if distance <= bucket and slot.latency_counts[bucket - distance]:
            return _median_s(slot, bucket - distance)
        if bucket + distance < RIF_BUCKETS and slot.latency_counts[bucket + distance]:
            return _median_s(slot, bucket + distance)
    return 0.0


cdef void _observe_latency(slot_memory_t* slot, float in_flight, float latency_s) noexcept nogil:
    cdef uint32_t bucket = _bucket(in_flight)
    slot.latencies_s[bucket * RIF_LATENCIES + slot.latency_counts[bucket] % RIF_LATENCIES] = latency_s
    slot.latency_counts[bucket] += 1
    if slot.latency_counts[bucket] == <uint32_t>0xFFFFFFFF:
        slot.latency_counts[bucket] = RIF_LATENCIES


# --- smetric: rates -------------------------------------------------------------------------------------------------

cdef float remembered_rate(policy_memory_t* memory, uint32_t slot_index) noexcept nogil:
    # Worked out when it is asked for: only smetric does, and not for every first token.
    cdef slot_memory_t* slot = _slot(memory, slot_index)
    cdef uint32_t count
    if slot == NULL:
        return 0.0
    if slot.rate_seen != slot.rate_count:
        slot.rate_seen = slot.rate_count
        count = min(slot.rate_count, <uint32_t>RATE_WINDOW)
        if count >= RATE_COUNT_MIN:
            slot.rate = _nth_greatest(
                slot.rates, count, count - 1 - <uint32_t>(RATE_QUANTILE * <float>(count - 1) + <float>0.5))
    return slot.rate


cdef void _observe_rate(slot_memory_t* slot, float rate) noexcept nogil:
    slot.rates[slot.rate_count % RATE_WINDOW] = rate
    slot.rate_count += 1
    if slot.rate_count == <uint32_t>0xFFFFFFFF:
        slot.rate_count = RATE_WINDOW


# --- llmd: what a poll gave -----------------------------------------------------------------------------------------

cdef void remembered_poll(
    policy_memory_t* memory, uint32_t slot_index, uint64_t age_us, uint64_t now_us, float* pending, float* kv_ratio
) noexcept nogil:
    cdef slot_memory_t* slot = _slot(memory, slot_index)
    if slot == NULL or age_us == 0:
        return
    if slot.polled_us == 0 or now_us >= slot.polled_us + age_us or now_us < slot.polled_us:
        slot.polled_us = now_us if now_us else 1
        slot.polled_pending = pending[0]
        slot.polled_kv_ratio = kv_ratio[0]
    pending[0] = slot.polled_pending
    kv_ratio[0] = slot.polled_kv_ratio


# --- what came of an attempt ----------------------------------------------------------------------------------------

cdef inline float _in_flight(decider_t* decider, const charge_t* charge) noexcept nogil:
    # Prequal asks for the number at arrival; a charge does not say it, so it is the number now, without this one.
    cdef uint32_t in_flight
    if decider.load == NULL:
        return charge.decoding
    in_flight = load_in_flight(decider.load, charge.slot)
    return <float>in_flight - 1 if in_flight else 0


cdef void policy_observe_first_token(
    decider_t* decider, const charge_t* charge, float ttft_s, uint64_t now_us
) noexcept nogil:
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef slot_memory_t* slot = _slot(memory, charge.slot)
    if slot == NULL:
        return
    ttft_s = _clamped(ttft_s)
    _observe_peak(slot, ttft_s, memory.decay_s, now_us)
    _observe_latency(slot, _in_flight(decider, charge), ttft_s)
    if charge.uncached_tokens > 0:
        _observe_rate(slot, <float>charge.uncached_tokens / ttft_s)


cdef void policy_observe_end(decider_t* decider, const charge_t* charge, bint failed, uint64_t now_us) noexcept nogil:
    # An attempt that ended before its first token. Finagle and tower take its time like any other, which makes a fast
    # failure look good; Prequal's authors warn of such sinkholes, and it gets a latency that repels.
    cdef policy_memory_t* memory = <policy_memory_t*>decider.memory
    cdef slot_memory_t* slot = _slot(memory, charge.slot)
    cdef float elapsed_s, worst_s = FAILED_S_MIN
    cdef uint32_t index
    if slot == NULL or charge.state == CHARGE_DECODING:
        return
    elapsed_s = _clamped(<float>(now_us - charge.begun_us) * <float>1e-6 if now_us > charge.begun_us else 0)
    _observe_peak(slot, elapsed_s, memory.decay_s, now_us)
    if failed:
        worst_s = max(worst_s, elapsed_s)
        for index in range(<uint32_t>(RIF_BUCKETS * RIF_LATENCIES)):
            if slot.latencies_s[index] > worst_s:
                worst_s = slot.latencies_s[index]
        _observe_latency(slot, _in_flight(decider, charge), _clamped(FAILED_FACTOR * worst_s))


# --- the door -------------------------------------------------------------------------------------------------------

cdef class PolicyMemory:
    """See policy_memory.pyi."""

    def __cinit__(self, uint32_t slot_count):
        self.memory = policy_memory_create(slot_count)
        if self.memory == NULL:
            raise MemoryError

    def __dealloc__(self):
        policy_memory_free(self.memory)
        self.memory = NULL

    def first_token(
        self, uint32_t slot, float ttft_s, uint64_t now_us, uint32_t uncached_tokens=0, uint32_t in_flight=0
    ):
        cdef decider_t decider
        cdef charge_t charge
        self._prepare(&decider, &charge, slot, in_flight)
        charge.uncached_tokens = uncached_tokens
        policy_observe_first_token(&decider, &charge, ttft_s, now_us)

    def ended_early(self, uint32_t slot, uint64_t begun_us, uint64_t now_us, bint failed, uint32_t in_flight=0):
        cdef decider_t decider
        cdef charge_t charge
        self._prepare(&decider, &charge, slot, in_flight)
        charge.begun_us = begun_us
        policy_observe_end(&decider, &charge, failed, now_us)

    def forget(self, uint32_t slot):
        policy_memory_forget(self.memory, slot)

    def peak_s(self, uint32_t slot, float guess_s, float decay_s, uint64_t now_us):
        return remembered_peak_s(self.memory, slot, guess_s, decay_s, now_us)

    def latency_s(self, uint32_t slot, float in_flight):
        return remembered_latency_s(self.memory, slot, in_flight)

    def rate(self, uint32_t slot):
        return remembered_rate(self.memory, slot)

    cdef void _prepare(self, decider_t* decider, charge_t* charge, uint32_t slot, uint32_t in_flight) noexcept:
        memset(decider, 0, sizeof(decider_t))
        memset(charge, 0, sizeof(charge_t))
        decider.memory = self.memory
        charge.slot = slot
        charge.state = CHARGE_PENDING
        charge.decoding = <float>in_flight

"""What others say of an endpoint: queues, caches, power, distance, health; see signals.pxd.

How much a signal is worth falls with its age, to nothing: no signal is better than an old one. A share in use (KV,
power) and health count in proportion to what is left of their time. Queues go stale fastest, since they are told in
requests and every request of this router's own changes them: what an engine says beyond this router's accounts is what
others have there, and it decays with QUEUE_TAU_S. So accounts are only ever raised, and what this router sent since is
not counted twice. A distance stays until it is measured again: not looking at it does not change it.

Invariant: whatever is written, what is read is finite, not negative and within its bound. Neighbours: load_report
(writes what answers carry), events (round trips), learner (reads, at its refresh), shared_state (lets others write).
"""

from libc.math cimport expf
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from router.native.atomic cimport add_u64, load_u64, store_u64, swap_u64
from router.native.segment cimport (
    SEGMENT_HEADER_BYTES, Segment, segment_attach_rows, segment_check_slot, segment_create_rows, table_head_t,
)

cdef extern from *:
    """
    static inline uint64_t signal_pack(float value, uint64_t stamp_ms, uint64_t source) {
        uint32_t bits;
        __builtin_memcpy(&bits, &value, 4);      /* no sign: 31 bits, of which the upper 24 are kept, rounded */
        return ((uint64_t)((bits + 64) >> 7) << 40) | (stamp_ms << 2) | source;
    }
    static inline float signal_value(uint64_t word) {
        uint32_t bits = (uint32_t)(word >> 40) << 7;
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
    """
    uint64_t signal_pack(float value, uint64_t stamp_ms, uint64_t source) noexcept nogil
    float signal_value(uint64_t word) noexcept nogil

cdef enum:
    LAYOUT_VERSION = 1
    ROW_WORDS = 8                    # a cache line
    SILENT_US_MIN = 2000000          # twice as long as a queue counts: one word too late is no silence
    AHEAD_US_MAX = 10000             # a worker reads the clock once for each event: another's may be ahead

cdef uint64_t MAGIC = 0x3147495344454C46     # "FLEDSIG1"
cdef uint64_t STAMP_MS_MAX = (<uint64_t>1 << 38) - 1     # 8.7 years of uptime
cdef float TOLERATED = 1.25          # of a bound: draw goes past its limit for moments; beyond it is another unit
cdef float REQUESTS_MAX = 1e6
cdef float RTT_S_MAX = 60.0
cdef float RTT_WEIGHT = 0.0625       # of a round trip longer than the one known: 16 of them and it is believed by half
cdef float QUEUE_TAU_S = 0.2         # of what others have there: a prefill or two
cdef float QUEUE_STALE_S = 1.0
cdef uint64_t SILENT_US_MAX = <uint64_t>3600 * 1000000   # that others send may be over, too
cdef float OTHERS_RATIO_MIN = 0.3    # with fewer requests of others, what this router knows is most of what there is
cdef float OTHERS_WEIGHT = 0.02      # of one refresh: half a second's
cdef float KV_STALE_S = 5.0          # answers of some length later the cache holds something else
cdef float POWER_STALE_S = 5.0
cdef float HEALTH_STALE_S = 10.0     # several intervals of a probe

STAMP_US_MAX = 2 ** 63

SIGNALS = ("waiting", "running", "kv", "power", "rtt_s", "health")
SOURCES = ("local", "header", "poll", "control")
VERDICTS = (
    "taken", "clamped", "not_a_number", "negative", "too_large", "from_the_future", "out_of_order", "unreadable",
)

cdef size_t ROW_BYTES = ROW_WORDS * sizeof(uint64_t)

cdef struct header_t:
    table_head_t head
    uint8_t padding[48]
    uint64_t counts[32]              # counts[source * SIGNAL_VERDICT_COUNT + verdict]


cdef inline uint64_t _stamp_ms(uint64_t word) noexcept nogil:
    return word >> 2 & STAMP_MS_MAX


cdef inline float _age_s(uint64_t word, uint64_t now_us) noexcept nogil:
    cdef uint64_t stamp_us = _stamp_ms(word) * 1000
    return <float>(now_us - stamp_us) * <float>1e-6 if now_us > stamp_us else 0


cdef inline float _bound(int kind) noexcept nogil:
    if kind == SIGNAL_WAITING or kind == SIGNAL_RUNNING:
        return REQUESTS_MAX
    return RTT_S_MAX if kind == SIGNAL_RTT else 1.0


cdef void signals_reject(signal_table_t* table, int source, int verdict) noexcept nogil:
    add_u64(&(<header_t*>table.base).counts[source * SIGNAL_VERDICT_COUNT + verdict], 1)


cdef int signals_write(
    signal_table_t* table, uint32_t slot, int kind, float value, uint64_t stamp_us, int source, uint64_t now_us
) noexcept nogil:
    cdef uint64_t* word = &table.words[<size_t>slot * ROW_WORDS + kind]
    cdef uint64_t stamp_ms, seen
    cdef float bound = _bound(kind)
    cdef int verdict = SIGNAL_TAKEN
    if value != value:
        verdict = SIGNAL_NOT_A_NUMBER
    elif value < 0:
        verdict = SIGNAL_NEGATIVE
    elif value > bound * TOLERATED:
        verdict = SIGNAL_TOO_LARGE
    elif stamp_us > now_us + AHEAD_US_MAX:
        verdict = SIGNAL_FROM_THE_FUTURE
    elif value > bound:
        value = bound
        verdict = SIGNAL_CLAMPED
    if verdict <= SIGNAL_CLAMPED:
        stamp_ms = min(max(min(stamp_us, now_us) // 1000, <uint64_t>1), STAMP_MS_MAX)    # a word of 0: never told
        while True:
            seen = load_u64(word)
            if stamp_ms < _stamp_ms(seen):
                verdict = SIGNAL_OUT_OF_ORDER
                break
            if swap_u64(word, seen, signal_pack(value + <float>0, stamp_ms, <uint64_t>source)):      # + 0: not -0
                break
    if verdict != SIGNAL_TAKEN:
        signals_reject(table, source, verdict)
    return verdict


cdef void signals_round_trip(signal_table_t* table, uint32_t slot, uint32_t rtt_us, uint64_t now_us) noexcept nogil:
    # A handshake can only be held up, never hurried, so the least of them is the distance.
    cdef uint64_t seen = load_u64(&table.words[<size_t>slot * ROW_WORDS + SIGNAL_RTT])
    cdef float rtt_s = <float>rtt_us * <float>1e-6, known_s = signal_value(seen)
    if seen and rtt_s > known_s:
        rtt_s = known_s + (rtt_s - known_s) * RTT_WEIGHT
    signals_write(table, slot, SIGNAL_RTT, rtt_s, now_us, SOURCE_LOCAL, now_us)


cdef bint signals_read(
    const signal_table_t* table, uint32_t slot, int kind, uint64_t now_us, float* value, uint64_t* age_us, int* source
) noexcept nogil:
    cdef uint64_t word = load_u64(&table.words[<size_t>slot * ROW_WORDS + kind])
    cdef uint64_t stamp_us = _stamp_ms(word) * 1000
    if word == 0:
        return False
    value[0] = signal_value(word)
    age_us[0] = now_us - stamp_us if now_us > stamp_us else 0
    source[0] = <int>(word & 3)
    return True


cdef inline float _weight(uint64_t word, float stale_s, uint64_t now_us) noexcept nogil:
    return max(1 - _age_s(word, now_us) / stale_s, <float>0) if word else 0


cdef inline void _weigh_queue(
    uint64_t waiting_word, uint64_t running_word, float in_flight, float pending, others_t* others,
    hearing_t* hearing, uint64_t now_us, told_t* told
) noexcept nogil:
    cdef float waiting, running, age_s = QUEUE_STALE_S
    if waiting_word:
        age_s = _age_s(waiting_word, now_us)
    if running_word:
        age_s = min(age_s, _age_s(running_word, now_us))
    if age_s >= QUEUE_STALE_S:
        return
    if waiting_word != others.waiting_word or running_word != others.running_word:
        # News. What there is beyond this router's own is counted once, and from then on only forgotten.
        waiting = signal_value(waiting_word) if _weight(waiting_word, QUEUE_STALE_S, now_us) > 0 else 0
        running = signal_value(running_word) if _weight(running_word, QUEUE_STALE_S, now_us) > 0 else 0
        others.waiting_word, others.running_word = waiting_word, running_word
        others.waiting = max(waiting - pending, <float>0)
        # Who is being prefilled is in the batch already, and pending here: totals are compared.
        others.running = max(waiting + running - in_flight - others.waiting, <float>0)
    hearing.told_us = now_us
    hearing.others += others.waiting + others.running
    hearing.own += in_flight
    told.others_waiting = others.waiting * expf(-age_s / QUEUE_TAU_S)
    told.others_running = others.running * expf(-age_s / QUEUE_TAU_S)


cdef void signals_weigh(
    const signal_table_t* table, uint32_t slot, float in_flight, float pending, others_t* others, hearing_t* hearing,
    uint64_t now_us, told_t* told
) noexcept nogil:
    cdef const uint64_t* row = &table.words[<size_t>slot * ROW_WORDS]
    cdef uint64_t waiting = load_u64(row + SIGNAL_WAITING), running = load_u64(row + SIGNAL_RUNNING)
    cdef uint64_t word
    memset(told, 0, sizeof(told_t))
    if waiting | running:
        _weigh_queue(waiting, running, in_flight, pending, others, hearing, now_us, told)
    word = load_u64(row + SIGNAL_KV)
    told.kv, told.kv_weight = signal_value(word), _weight(word, KV_STALE_S, now_us)
    word = load_u64(row + SIGNAL_POWER)
    told.power, told.power_weight = signal_value(word), _weight(word, POWER_STALE_S, now_us)
    word = load_u64(row + SIGNAL_HEALTH)
    told.sickness = (1 - signal_value(word)) * _weight(word, HEALTH_STALE_S, now_us)
    word = load_u64(row + SIGNAL_RTT)
    told.rtt_s = signal_value(word) if word else -1


cdef void signals_judge(hearing_t* hearing, uint64_t now_us) noexcept nogil:
    # While queues are told, times are right, others' requests included. When they no longer are, what others send is
    # not known, but that they send is; until that, too, is too old to be known.
    cdef uint64_t silent_us = now_us - hearing.told_us if now_us > hearing.told_us else 0
    if hearing.others + hearing.own > 0:
        hearing.others_ratio += (hearing.others / (hearing.others + hearing.own) - hearing.others_ratio) * OTHERS_WEIGHT
    hearing.others = hearing.own = 0
    hearing.is_partial = hearing.told_us and SILENT_US_MIN < silent_us < SILENT_US_MAX and signals_others_send(hearing)


cdef bint signals_others_send(const hearing_t* hearing) noexcept nogil:
    return hearing.others_ratio > OTHERS_RATIO_MIN


cdef void signals_forget(signal_table_t* table, uint32_t slot) noexcept nogil:
    cdef int kind
    for kind in range(SIGNAL_COUNT):
        store_u64(&table.words[<size_t>slot * ROW_WORDS + kind], 0)


# --- the door --------------------------------------------------------------------------------------------------------

cdef class SignalTable:
    """The signals of all endpoints; see signals.pyi for the Python side."""

    @staticmethod
    def create(uint32_t slot_count):
        return _open(segment_create_rows(
            b"fairlead-signals", MAGIC, LAYOUT_VERSION, slot_count, SEGMENT_HEADER_BYTES, ROW_BYTES))

    @staticmethod
    def attach(int fd):
        return _open(segment_attach_rows(
            fd, MAGIC, LAYOUT_VERSION, SEGMENT_HEADER_BYTES, ROW_BYTES, "signal table"))

    @property
    def slot_count(self):
        return self.table.slot_count

    def push(self, batch, uint64_t now_us):
        rows = [
            (slot, _place(SIGNALS, kind, "signal"), float(value), min(max(int(stamp_us), 0), STAMP_US_MAX),
             _place(SOURCES, source, "source"))
            for slot, kind, value, stamp_us, source in batch
        ]
        for slot, _kind, _value, _stamp_us, _source in rows:
            _check(self, slot)
        return [
            VERDICTS[signals_write(&self.table, slot, kind, value, stamp_us, source, now_us)]
            for slot, kind, value, stamp_us, source in rows
        ]

    def round_trip(self, uint32_t slot, uint32_t rtt_us, uint64_t now_us):
        _check(self, slot)
        signals_round_trip(&self.table, slot, rtt_us, now_us)

    def read(self, uint32_t slot, uint64_t now_us):
        cdef float value = 0
        cdef uint64_t age_us = 0
        cdef int source = 0
        _check(self, slot)
        found = {}
        for kind, name in enumerate(SIGNALS):
            if signals_read(&self.table, slot, kind, now_us, &value, &age_us, &source):
                found[name] = (value, age_us, SOURCES[source])
        return found

    def weigh(self, uint32_t slot, uint64_t now_us, *, float in_flight=0, float pending=0):
        cdef others_t others
        cdef hearing_t hearing
        cdef told_t told
        _check(self, slot)
        memset(&others, 0, sizeof(others))
        memset(&hearing, 0, sizeof(hearing))
        signals_weigh(&self.table, slot, in_flight, pending, &others, &hearing, now_us, &told)
        return told

    def rejected(self):
        cdef const header_t* header = <const header_t*>self.table.base
        return {
            (name, verdict): load_u64(&header.counts[source * SIGNAL_VERDICT_COUNT + place])
            for source, name in enumerate(SOURCES) for place, verdict in enumerate(VERDICTS) if place
        }

    def forget(self, uint32_t slot):
        _check(self, slot)
        signals_forget(&self.table, slot)


def _place(names, name, what):
    if name not in names:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(names)}")
    return names.index(name)


cdef int _check(SignalTable self, slot) except -1:
    return segment_check_slot(slot, self.table.slot_count)


cdef SignalTable _open(Segment segment):
    cdef SignalTable self = SignalTable.__new__(SignalTable)
    self._mapping = segment
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.slot_count = (<table_head_t*>segment.base).slot_count
    self.table.words = <uint64_t*>(segment.base + SEGMENT_HEADER_BYTES)
    return self

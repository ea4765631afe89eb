"""In-flight counts and latency estimates per endpoint, in memory shared by all workers and the supervisor.

Layout of the segment: a header page, then cells[column][slot] (a worker's column is whole cache lines that nobody else
writes), then two cache lines per slot: one with what picks read (the ejection word), one with what attempts write.
Invariant: the in-flight count of a slot is the sum of its cells over the active columns, and every cell has one writer:
the worker that owns the column, or the supervisor once that worker is dead. So a charge is a plain store, is seen by
the next pick of any other worker, and a worker killed at any instruction leaks nothing: `clear_column` settles its
share.

Estimates are 64-bit words, (float32 value, uint32 stamp in ms), replaced by compare-and-swap. With tau = EWMA_TAU_US,
    w = 1 - exp(-max(now - stamp, 1 ms) / tau),   value += (sample - value) * w
so the estimate covers the last tau or the last tau / 1 ms samples, whichever is less; the floor of 1 ms keeps samples
that fall into one millisecond from counting for nothing. The first sample is the value. The error ratio starts at 0 and
one outcome moves it by at most ERROR_WEIGHT_MAX, so that one failure after a quiet hour does not read as a dead
endpoint.
"""

from libc.math cimport expm1f
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from router.native.segment cimport Segment, segment_attach, segment_create

cdef extern from *:
    """
    static inline uint32_t load_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void store_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void add_u64(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
    static inline void or_u64(uint64_t *p, uint64_t v) { __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }
    static inline void and_u64(uint64_t *p, uint64_t v) { __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }
    static inline int swap_u64(uint64_t *p, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(p, &seen, wanted, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline int lowest_bit(uint64_t word) { return __builtin_ctzll(word); }
    static inline uint64_t pack_estimate(float value, uint32_t stamp_ms) {
        uint32_t bits;
        __builtin_memcpy(&bits, &value, 4);
        return ((uint64_t)bits << 32) | stamp_ms;
    }
    static inline float estimate_value(uint64_t word) {
        uint32_t bits = (uint32_t)(word >> 32);
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
    """
    uint32_t load_u32(const uint32_t* p) noexcept nogil
    void store_u32(uint32_t* p, uint32_t v) noexcept nogil
    uint64_t load_u64(const uint64_t* p) noexcept nogil
    void store_u64(uint64_t* p, uint64_t v) noexcept nogil
    void add_u64(uint64_t* p, uint64_t v) noexcept nogil
    void or_u64(uint64_t* p, uint64_t v) noexcept nogil
    void and_u64(uint64_t* p, uint64_t v) noexcept nogil
    bint swap_u64(uint64_t* p, uint64_t seen, uint64_t wanted) noexcept nogil
    int lowest_bit(uint64_t word) noexcept nogil
    uint64_t pack_estimate(float value, uint32_t stamp_ms) noexcept nogil
    float estimate_value(uint64_t word) noexcept nogil

cdef enum:
    LAYOUT_VERSION = 1
    HEADER_BYTES = 4096              # a page: cells start page-aligned
    LINE_BYTES = 64
    SLOTS_PER_LINE = 16              # LINE_BYTES / sizeof(cell)
    ACTIVE_WORDS = 4
    COLUMN_COUNT_MAX = 256           # 64 * ACTIVE_WORDS: two generations of 128 workers
    SLOT_COUNT_MAX = 65535           # metrics keep slot 0xFFFF for "no endpoint"
    EWMA_TAU_US = 10_000_000         # 10 s: the window Finagle's and Linkerd's latency balancers use
    EWMA_STEP_US_MIN = 1000          # the stamp's resolution
    UNTIL_SHIFT = 16                 # ejection word: until_us << 16 | failures; 48 bits of us are 8.9 years of uptime
    FAILURES_MAX = 0xFFFF

cdef uint64_t MAGIC = 0x3144414F4C4C4644  # "DFLLOAD1"
cdef float ERROR_WEIGHT_MAX = 0.125

cdef struct header_t:
    uint64_t magic
    uint32_t layout_version
    uint32_t slot_count
    uint32_t column_count
    uint32_t slot_shared_bytes
    uint64_t size_bytes
    uint8_t padding_constant[32]     # the words below change; those above are read at attach only
    uint64_t active[4]               # ACTIVE_WORDS; bit per column that has been charged since it was last cleared
    uint64_t ejections_end_us        # the latest ejected_until_us of any slot; only grows
    uint8_t padding_active[24]
    uint64_t underflows              # releases without a charge: a bug somewhere, counted instead of spread

cdef struct slot_shared_t:
    uint64_t ejection                # read by picks: a line of its own
    uint8_t padding_ejection[56]
    uint64_t ttft                    # estimate words
    uint64_t itl
    uint64_t error
    uint64_t attempts
    uint8_t padding_estimates[32]


cdef inline header_t* _header(load_table_t* table) noexcept nogil:
    return <header_t*>table.base


cdef inline slot_shared_t* _shared(load_table_t* table, uint32_t slot) noexcept nogil:
    return <slot_shared_t*>table.shared + slot


cdef inline uint32_t* _cell(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil:
    return table.cells + <size_t>column * table.slot_count + slot


# --- charges ---------------------------------------------------------------------------------------------------------

cdef void load_charge(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil:
    cdef uint64_t* active = &_header(table).active[column >> 6]
    cdef uint64_t bit = <uint64_t>1 << (column & 63)
    if not load_u64(active) & bit:   # before the cell, so that no reader can miss a charge for good
        or_u64(active, bit)
    cdef uint32_t* cell = _cell(table, column, slot)
    store_u32(cell, load_u32(cell) + 1)
    add_u64(&_shared(table, slot).attempts, 1)


cdef void load_release(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil:
    cdef uint32_t* cell = _cell(table, column, slot)
    cdef uint32_t in_flight = load_u32(cell)
    if in_flight == 0:
        add_u64(&_header(table).underflows, 1)
        return
    store_u32(cell, in_flight - 1)


cdef inline uint32_t _in_flight(load_table_t* table, uint32_t word_count, uint32_t slot) noexcept nogil:
    cdef uint32_t word_index, in_flight = 0
    cdef uint64_t active
    for word_index in range(word_count):
        active = load_u64(&_header(table).active[word_index])
        while active:
            in_flight += load_u32(_cell(table, (word_index << 6) + <uint32_t>lowest_bit(active), slot))
            active &= active - 1
    return in_flight


cdef uint32_t load_in_flight(load_table_t* table, uint32_t slot) noexcept nogil:
    return _in_flight(table, (table.column_count + 63) >> 6, slot)


cdef void load_in_flight_many(
    load_table_t* table, const uint32_t* slots, uint32_t count, uint32_t* in_flight
) noexcept nogil:
    cdef uint32_t word_count = (table.column_count + 63) >> 6
    cdef uint32_t index
    for index in range(count):
        in_flight[index] = _in_flight(table, word_count, slots[index])


cdef void load_in_flight_row(load_table_t* table, uint32_t slot, uint32_t count, uint32_t* in_flight) noexcept nogil:
    # Column by column and by plain loads of whole aligned words, which vectorise where atomic ones do not.
    cdef uint32_t word_count = (table.column_count + 63) >> 6
    cdef uint32_t index, word_index
    cdef uint64_t active
    cdef const uint32_t* cells
    cdef bint is_first = True
    for word_index in range(word_count):
        active = load_u64(&_header(table).active[word_index])
        while active:
            cells = _cell(table, (word_index << 6) + <uint32_t>lowest_bit(active), slot)
            active &= active - 1
            if is_first:
                is_first = False
                for index in range(count):
                    in_flight[index] = cells[index]
            else:
                for index in range(count):
                    in_flight[index] += cells[index]
    if is_first:
        for index in range(count):
            in_flight[index] = 0


# --- estimates -------------------------------------------------------------------------------------------------------

cdef inline float _weight(uint32_t age_ms) noexcept nogil:
    """1 - exp(-age / tau), with the age of at least the stamp's step."""
    cdef float x
    if age_ms > 0x7FFFFFFF:          # another worker read its clock later and came first
        age_ms = 0
    x = <float>age_ms * (1000.0 / EWMA_TAU_US)
    if x < <float>(EWMA_STEP_US_MIN / <float>EWMA_TAU_US):
        x = EWMA_STEP_US_MIN / <float>EWMA_TAU_US
    if x < 0.01:
        return x - 0.5 * x * x       # Taylor: off by less than x^3 / 6, under 2e-5 of the weight
    return -expm1f(-x)


cdef inline uint32_t _stamp_ms(uint64_t now_us) noexcept nogil:
    cdef uint32_t stamp_ms = <uint32_t>(now_us // 1000)      # wraps after 49 days; ages are differences
    return stamp_ms if stamp_ms else 1                       # a word of 0 means: never observed


cdef void _observe(uint64_t* word, float sample, float weight_max, uint64_t now_us) noexcept nogil:
    cdef uint32_t stamp_ms = _stamp_ms(now_us)
    cdef uint64_t seen
    cdef float value, weight
    while True:
        seen = load_u64(word)
        value = estimate_value(seen)
        if seen == 0:
            weight = weight_max
        else:
            weight = _weight(stamp_ms - <uint32_t>seen)
            if weight > weight_max:
                weight = weight_max
            if <uint32_t>(stamp_ms - <uint32_t>seen) > 0x7FFFFFFF:
                stamp_ms = <uint32_t>seen                    # the stamp never goes back
        if swap_u64(word, seen, pack_estimate(value + (sample - value) * weight, stamp_ms)):
            return


cdef void load_observe_ttft(load_table_t* table, uint32_t slot, uint32_t ttft_us, uint64_t now_us) noexcept nogil:
    _observe(&_shared(table, slot).ttft, <float>ttft_us, 1.0, now_us)


cdef void load_observe_itl(load_table_t* table, uint32_t slot, uint32_t itl_us, uint64_t now_us) noexcept nogil:
    _observe(&_shared(table, slot).itl, <float>itl_us, 1.0, now_us)


cdef void load_observe_outcome(load_table_t* table, uint32_t slot, bint failed, uint64_t now_us) noexcept nogil:
    cdef uint64_t* word = &_shared(table, slot).error
    _observe(word, 1.0 if failed else 0.0, ERROR_WEIGHT_MAX, now_us)


# --- ejection --------------------------------------------------------------------------------------------------------

cdef void load_eject(
    load_table_t* table, uint32_t slot, uint64_t now_us, uint64_t base_us, uint64_t max_us
) noexcept nogil:
    cdef uint64_t* word = &_shared(table, slot).ejection
    cdef uint64_t* end_us = &_header(table).ejections_end_us
    cdef uint64_t seen, failures, duration_us, until_us, seen_end_us
    while True:
        seen = load_u64(word)
        if now_us < seen >> UNTIL_SHIFT:
            return
        failures = seen & FAILURES_MAX
        duration_us = max_us
        if failures < 32 and base_us < max_us >> failures:
            duration_us = base_us << failures
        until_us = now_us + duration_us
        if failures < FAILURES_MAX:
            failures += 1
        # The bound first: a pick that sees the word must also see that words are worth reading.
        seen_end_us = load_u64(end_us)
        while seen_end_us < until_us and not swap_u64(end_us, seen_end_us, until_us):
            seen_end_us = load_u64(end_us)
        if swap_u64(word, seen, until_us << UNTIL_SHIFT | failures):
            return


cdef void load_readmit(load_table_t* table, uint32_t slot) noexcept nogil:
    cdef uint64_t* word = &_shared(table, slot).ejection
    if load_u64(word):               # every success comes here: read before writing a line that all picks read
        store_u64(word, 0)


cdef bint load_is_ejected(load_table_t* table, uint32_t slot, uint64_t now_us) noexcept nogil:
    return now_us < load_u64(&_shared(table, slot).ejection) >> UNTIL_SHIFT


cdef uint64_t load_ejections_end_us(load_table_t* table) noexcept nogil:
    return load_u64(&_header(table).ejections_end_us)


cdef void load_view(load_table_t* table, uint32_t slot, load_view_t* view) noexcept nogil:
    cdef slot_shared_t* shared = _shared(table, slot)
    view.in_flight = load_in_flight(table, slot)
    view.ttft_us = estimate_value(load_u64(&shared.ttft))
    view.itl_us = estimate_value(load_u64(&shared.itl))
    view.error_ratio = estimate_value(load_u64(&shared.error))
    view.attempts = load_u64(&shared.attempts)
    view.ejected_until_us = load_u64(&shared.ejection) >> UNTIL_SHIFT


# --- the segment -----------------------------------------------------------------------------------------------------

cdef size_t _size_bytes(uint32_t slot_count, uint32_t column_count) noexcept nogil:
    return HEADER_BYTES + <size_t>slot_count * (column_count * sizeof(uint32_t) + sizeof(slot_shared_t))


cdef class LoadTable:
    """The table of one supervisor and its workers; see loadtable.pyi for the Python side."""

    @staticmethod
    def create(uint32_t slot_count, uint32_t column_count):
        if not 1 <= slot_count <= SLOT_COUNT_MAX:
            raise ValueError(f"slot_count must be 1..{SLOT_COUNT_MAX}, not {slot_count}")
        if not 1 <= column_count <= COLUMN_COUNT_MAX:
            raise ValueError(f"column_count must be 1..{COLUMN_COUNT_MAX}, not {column_count}")
        slot_count = (slot_count + SLOTS_PER_LINE - 1) // SLOTS_PER_LINE * SLOTS_PER_LINE
        cdef Segment segment = segment_create(b"fairlead-load", _size_bytes(slot_count, column_count))
        cdef header_t* header = <header_t*>segment.base
        header.layout_version = LAYOUT_VERSION
        header.slot_count = slot_count
        header.column_count = column_count
        header.slot_shared_bytes = sizeof(slot_shared_t)
        header.size_bytes = segment.size_bytes
        store_u64(&header.magic, MAGIC)
        return _open(segment)

    @staticmethod
    def attach(int fd):
        cdef Segment segment = segment_attach(fd)
        if segment.size_bytes < HEADER_BYTES:
            raise ValueError(f"descriptor {fd} is no load table: {segment.size_bytes} bytes hold no header")
        cdef header_t* header = <header_t*>segment.base
        if load_u64(&header.magic) != MAGIC:
            raise ValueError(f"descriptor {fd} is no load table: wrong magic {header.magic:#x}")
        if header.layout_version != LAYOUT_VERSION or header.slot_shared_bytes != sizeof(slot_shared_t):
            raise ValueError(
                f"load table has layout {header.layout_version} with {header.slot_shared_bytes} bytes a slot,"
                f" this build reads layout {LAYOUT_VERSION} with {sizeof(slot_shared_t)}"
            )
        if not (
            0 < header.column_count <= COLUMN_COUNT_MAX
            and header.size_bytes == segment.size_bytes == _size_bytes(header.slot_count, header.column_count)
        ):
            raise ValueError(
                f"load table header ({header.slot_count} slots, {header.column_count} columns,"
                f" {header.size_bytes} bytes) does not fit its segment of {segment.size_bytes} bytes"
            )
        return _open(segment)

    @property
    def slot_count(self):
        return self.table.slot_count

    @property
    def column_count(self):
        return self.table.column_count

    def charge(self, uint32_t column, uint32_t slot):
        _check(self, column, slot)
        load_charge(&self.table, column, slot)

    def release(self, uint32_t column, uint32_t slot):
        _check(self, column, slot)
        load_release(&self.table, column, slot)

    def in_flight(self, uint32_t slot):
        _check(self, 0, slot)
        return load_in_flight(&self.table, slot)

    def in_flight_by_column(self, slot=None):
        cdef uint32_t column, index
        cdef uint64_t in_flight
        cdef uint32_t first = 0, end = self.table.slot_count
        if slot is not None:
            _check(self, 0, slot)
            first = slot
            end = first + 1
        counts = []
        for column in range(self.table.column_count):
            in_flight = 0
            for index in range(first, end):
                in_flight += load_u32(_cell(&self.table, column, index))
            counts.append(in_flight)
        return counts

    def total_in_flight(self):
        return sum(self.in_flight_by_column())

    def underflows(self):
        return load_u64(&_header(&self.table).underflows)

    def clear_column(self, uint32_t column):
        cdef uint64_t settled = 0
        cdef uint32_t slot
        cdef uint32_t* cell
        _check(self, column, 0)
        for slot in range(self.table.slot_count):
            cell = _cell(&self.table, column, slot)
            settled += load_u32(cell)
            store_u32(cell, 0)
        and_u64(&_header(&self.table).active[column >> 6], ~(<uint64_t>1 << (column & 63)))
        return settled

    def reset_slot(self, uint32_t slot):
        _check(self, 0, slot)
        cdef uint32_t in_flight = load_in_flight(&self.table, slot)
        if in_flight:
            raise ValueError(f"slot {slot} still has {in_flight} attempts in flight")
        cdef slot_shared_t* shared = _shared(&self.table, slot)
        store_u64(&shared.ejection, 0)
        store_u64(&shared.ttft, 0)
        store_u64(&shared.itl, 0)
        store_u64(&shared.error, 0)
        store_u64(&shared.attempts, 0)

    def view(self, uint32_t slot):
        cdef load_view_t view
        _check(self, 0, slot)
        load_view(&self.table, slot, &view)
        return {
            "in_flight": view.in_flight,
            "ttft_us": view.ttft_us,
            "itl_us": view.itl_us,
            "error_ratio": view.error_ratio,
            "attempts": view.attempts,
            "ejected_until_us": view.ejected_until_us,
        }

    def observe_ttft(self, uint32_t slot, uint32_t ttft_us, uint64_t now_us):
        _check(self, 0, slot)
        load_observe_ttft(&self.table, slot, ttft_us, now_us)

    def observe_itl(self, uint32_t slot, uint32_t itl_us, uint64_t now_us):
        _check(self, 0, slot)
        load_observe_itl(&self.table, slot, itl_us, now_us)

    def observe_outcome(self, uint32_t slot, bint failed, uint64_t now_us):
        _check(self, 0, slot)
        load_observe_outcome(&self.table, slot, failed, now_us)

    def eject(self, uint32_t slot, uint64_t now_us, uint64_t base_us, uint64_t max_us):
        _check(self, 0, slot)
        load_eject(&self.table, slot, now_us, base_us, max_us)

    def readmit(self, uint32_t slot):
        _check(self, 0, slot)
        load_readmit(&self.table, slot)

    def is_ejected(self, uint32_t slot, uint64_t now_us):
        _check(self, 0, slot)
        return bool(load_is_ejected(&self.table, slot, now_us))

    def churn(self, uint32_t column, uint32_t slot, uint64_t round_count):
        """Charges, observes and releases `round_count` times without the interpreter: contention tests and benches."""
        cdef uint64_t index
        _check(self, column, slot)
        with nogil:
            for index in range(round_count):
                load_charge(&self.table, column, slot)
                load_observe_ttft(&self.table, slot, 1000, index)
                load_release(&self.table, column, slot)


cdef int _check(LoadTable self, uint32_t column, uint32_t slot) except -1:
    if slot >= self.table.slot_count:
        raise IndexError(f"slot {slot} of {self.table.slot_count}")
    if column >= self.table.column_count:
        raise IndexError(f"column {column} of {self.table.column_count}")
    return 0


cdef LoadTable _open(Segment segment):
    cdef LoadTable self = LoadTable.__new__(LoadTable)
    cdef header_t* header = <header_t*>segment.base
    self._mapping = segment
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.size_bytes = segment.size_bytes
    self.table.slot_count = header.slot_count
    self.table.column_count = header.column_count
    self.table.cells = <uint32_t*>(segment.base + HEADER_BYTES)
    self.table.shared = self.table.cells + <size_t>header.slot_count * header.column_count
    return self

"""What every endpoint has been given and has not finished, in memory shared by all workers and the supervisor.

Layout of the segment: a header page, then a column per worker of ROW_COUNT rows of slot_count cells (whole cache lines
that nobody else writes), then the columns' head_begun_us, then last_first_token_us, then two cache lines per slot: one
with what picks read (the ejection word), one with what attempts write. Rows are arrays over slots, so that the sum of a
row over columns vectorises.
Invariant: an account of a slot is the sum of its cells over the active columns, and every cell has one writer: the
worker that owns the column, or the supervisor once that worker is dead. So a charge is plain stores, is seen by the
next pick of any other worker, and a worker killed at any instruction leaks nothing: `clear_column` settles its share.
Which pending charge is the oldest is known exactly: a worker keeps its own ones of a slot in a list, in its own memory,
and publishes the begin and the work of the first.

Estimates are 64-bit words, (float32 value, uint32 stamp in ms), replaced by compare-and-swap. With tau = EWMA_TAU_US,
    w = 1 - exp(-max(now - stamp, 1 ms) / tau),   value += (sample - value) * w
so the estimate covers the last tau or the last tau / 1 ms samples, whichever is less; the floor of 1 ms keeps samples
that fall into one millisecond from counting for nothing. The first sample is the value. The error ratio starts at 0 and
one failure raises it by at most ERROR_WEIGHT_MAX, so that one after a quiet hour does not read as a dead endpoint;
what was before it is forgotten with its age all the same.
"""

from libc.math cimport expm1f
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from router.native.atomic cimport (
    and_u64, load_u32, load_u64, store_u32, store_u64, swap_u64, word_pack, word_value
)
from router.native.account cimport (
    load_cell_at, load_header, load_header_t, load_place, load_queue_t, load_slot, load_slot_t
)
from router.native.segment cimport (
    SEGMENT_HEADER_BYTES, Segment, segment_attach_table, segment_check_slot, segment_check_slot_count, segment_create,
)

from array import array
from collections import deque

cdef enum:
    LAYOUT_VERSION = 2
    LINE_BYTES = 64
    SLOTS_PER_LINE = 16              # LINE_BYTES / sizeof(cell)
    ACTIVE_WORDS = 4
    READ_COUNT = 7                   # arrays of load_read_t
    COLUMN_COUNT_MAX = 256           # 64 * ACTIVE_WORDS: two generations of 128 workers
    EWMA_TAU_US = 10_000_000         # 10 s: the window Finagle's and Linkerd's latency balancers use
    EWMA_STEP_US_MIN = 1000          # the stamp's resolution
    UNTIL_SHIFT = 16                 # ejection word: until_us << 16 | failures; 48 bits of us are 8.9 years of uptime
    FAILURES_MAX = 0xFFFF

cdef uint64_t MAGIC = 0x3144414F4C4C4644  # "DFLLOAD1"
cdef float ERROR_WEIGHT_MAX = 0.125

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
        value = word_value(seen)
        if seen == 0:
            weight = weight_max
        else:
            weight = _weight(stamp_ms - <uint32_t>seen)
            if <uint32_t>(stamp_ms - <uint32_t>seen) > 0x7FFFFFFF:
                stamp_ms = <uint32_t>seen                    # the stamp never goes back
        # What was before is forgotten by its age; what one sample adds is bounded.
        if swap_u64(word, seen, word_pack(
                value + (sample * min(weight, weight_max) - value * weight), stamp_ms)):
            return


cdef void load_observe_ttft(load_table_t* table, uint32_t slot, uint32_t ttft_us, uint64_t now_us) noexcept nogil:
    _observe(&load_slot(table, slot).ttft, <float>ttft_us, 1.0, now_us)


cdef void load_observe_itl(load_table_t* table, uint32_t slot, uint32_t itl_us, uint64_t now_us) noexcept nogil:
    _observe(&load_slot(table, slot).itl, <float>itl_us, 1.0, now_us)


cdef void load_observe_outcome(load_table_t* table, uint32_t slot, bint failed, uint64_t now_us) noexcept nogil:
    cdef uint64_t* word = &load_slot(table, slot).error
    _observe(word, 1.0 if failed else 0.0, ERROR_WEIGHT_MAX, now_us)


# --- ejection --------------------------------------------------------------------------------------------------------

cdef void load_eject(
    load_table_t* table, uint32_t slot, uint64_t now_us, uint64_t base_us, uint64_t max_us
) noexcept nogil:
    cdef uint64_t* word = &load_slot(table, slot).ejection
    cdef uint64_t* end_us = &load_header(table).ejections_end_us
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
    cdef uint64_t* word = &load_slot(table, slot).ejection
    if load_u64(word):               # every success comes here: read before writing a line that all picks read
        store_u64(word, 0)


cdef bint load_is_ejected(load_table_t* table, uint32_t slot, uint64_t now_us) noexcept nogil:
    return now_us < load_u64(&load_slot(table, slot).ejection) >> UNTIL_SHIFT


cdef uint64_t load_ejections_end_us(load_table_t* table) noexcept nogil:
    return load_u64(&load_header(table).ejections_end_us)


cdef void load_view(load_table_t* table, uint32_t slot, load_view_t* view) noexcept nogil:
    cdef load_slot_t* shared = load_slot(table, slot)
    cdef uint32_t work_ticks = 0
    view.in_flight = load_in_flight(table, slot)
    view.pending = <uint32_t>load_sum(table, ROW_PENDING, slot)
    view.queued_tokens = <uint32_t>load_sum(table, ROW_QUEUED_TOKENS, slot)
    view.queued_work_us = load_sum(table, ROW_QUEUED_WORK, slot) * WORK_TICK_US
    view.kv_tokens = load_sum(table, ROW_KV_TOKENS, slot)
    view.oldest_pending_us = load_head(table, slot, &work_ticks)
    view.ttft_us = word_value(load_u64(&shared.ttft))
    view.itl_us = word_value(load_u64(&shared.itl))
    view.error_ratio = word_value(load_u64(&shared.error))
    view.error_stamp_ms = <uint32_t>load_u64(&shared.error)
    view.attempts = load_u64(&shared.attempts)
    view.ejected_until_us = load_u64(&shared.ejection) >> UNTIL_SHIFT


# --- the segment -----------------------------------------------------------------------------------------------------

cdef size_t _size_bytes(uint32_t slot_count, uint32_t column_count) noexcept nogil:
    return SEGMENT_HEADER_BYTES + <size_t>slot_count * (
        column_count * (ROW_COUNT * sizeof(uint32_t) + sizeof(uint64_t)) + sizeof(uint64_t) + sizeof(load_slot_t))


cdef class Charge:
    """A charge of a test or a tool, told apart by nothing but being this object."""

    @property
    def state(self):
        return ("released", "pending", "decoding")[self.charge.state]


cdef class LoadTable:
    """The table of one supervisor and its workers; see loadtable.pyi for the Python side."""

    def __dealloc__(self):
        free(self.table.queues)

    @staticmethod
    def create(uint32_t slot_count, uint32_t column_count):
        segment_check_slot_count(slot_count)
        if not 1 <= column_count <= COLUMN_COUNT_MAX:
            raise ValueError(f"column_count must be 1..{COLUMN_COUNT_MAX}, not {column_count}")
        slot_count = (slot_count + SLOTS_PER_LINE - 1) // SLOTS_PER_LINE * SLOTS_PER_LINE
        cdef Segment segment = segment_create(b"fairlead-load", _size_bytes(slot_count, column_count))
        cdef load_header_t* header = <load_header_t*>segment.base
        header.layout_version = LAYOUT_VERSION
        header.slot_count = slot_count
        header.column_count = column_count
        header.slot_shared_bytes = sizeof(load_slot_t)
        header.size_bytes = segment.size_bytes
        store_u64(&header.magic, MAGIC)
        return _open(segment)

    @staticmethod
    def attach(int fd):
        cdef Segment segment = segment_attach_table(fd, MAGIC, LAYOUT_VERSION, "load table")
        cdef load_header_t* header = <load_header_t*>segment.base
        if not (
            0 < header.column_count <= COLUMN_COUNT_MAX
            and header.slot_shared_bytes == sizeof(load_slot_t)
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

    def charge(
        self, uint32_t column, uint32_t slot, *, uint32_t prompt_tokens=0, uint32_t uncached_tokens=0,
        uint64_t work_us=0, uint32_t kv_tokens=0, uint64_t now_us=1
    ):
        cdef Charge held = Charge.__new__(Charge)
        _check(self, column, slot)
        held.charge.slot = slot
        held.charge.prompt_tokens = prompt_tokens
        held.charge.uncached_tokens = uncached_tokens
        held.charge.work_ticks = <uint32_t>min(work_us // WORK_TICK_US, <uint64_t>WORK_TICKS_MAX)
        held.charge.kv_tokens = kv_tokens
        self._held.setdefault((column, slot), deque()).append(held)      # it must not go while it is in a queue
        load_charge(&self.table, column, &held.charge, now_us)
        return held

    def first_token(self, uint32_t column, Charge charge not None, uint64_t now_us=1):
        _check(self, column, charge.charge.slot)
        load_first_token(&self.table, column, &charge.charge, now_us)

    def release(self, uint32_t column, which):
        cdef Charge charge
        cdef charge_t unheld
        if isinstance(which, Charge):
            charge = which
            _check(self, column, charge.charge.slot)
            load_release(&self.table, column, &charge.charge)
            held = self._held.get((column, charge.charge.slot), ())
            if charge in held:
                held.remove(charge)
            return
        _check(self, column, which)
        held = self._held.get((column, which))
        if held:
            charge = held.popleft()
            load_release(&self.table, column, &charge.charge)
            return
        memset(&unheld, 0, sizeof(unheld))
        unheld.slot = which
        unheld.state = CHARGE_DECODING
        load_release(&self.table, column, &unheld)

    def set_remote(self, uint32_t column, uint32_t slot, cells):
        cdef uint32_t[<int>ROW_COUNT] values
        cdef int row
        _check(self, column, slot)
        for row, value in zip(range(ROW_COUNT), cells, strict=True):
            values[row] = value
        load_set_remote(&self.table, column, slot, values)

    def expect_remote(self, uint32_t column, Charge charge not None):
        _check(self, column, charge.charge.slot)
        load_expect_remote(&self.table, column, &charge.charge)

    def row(self, int row, slots, bint in_a_row=False):
        """Sums of a row, of `slots` one by one or of as many in a row from the first: what picks by load read."""
        cdef uint32_t[::1] wanted = self._slots(slots, in_a_row)
        cdef uint32_t count = <uint32_t>len(slots)
        cdef float[::1] sums = array("f", [0]) * (count + 1)
        if not 0 <= row < ROW_COUNT:
            raise IndexError(f"row {row} of {ROW_COUNT}")
        if in_a_row:
            load_row(&self.table, row, wanted[0], count, &sums[0])
        else:
            load_row_many(&self.table, row, &wanted[0], count, &sums[0])
        return list(sums[:count])

    def read(self, slots, uint64_t now_us, bint in_a_row=False):
        cdef uint32_t[::1] wanted = self._slots(slots, in_a_row)
        cdef uint32_t count = <uint32_t>len(slots), stride = count + 16, index
        cdef float[::1] values = array("f", [0]) * (stride * READ_COUNT)
        cdef load_read_t read
        cdef float** rows = &read.in_flight
        for index in range(READ_COUNT):
            rows[index] = &values[index * stride]
        load_read(&self.table, NULL if in_a_row else &wanted[0], wanted[0], count, now_us, &read)
        names = ("in_flight", "pending", "decoding", "queued_tokens", "queued_s", "kv_tokens", "progress_us")
        return {name: list(values[index * stride:index * stride + count]) for index, name in enumerate(names)}

    def progress_us(self, slots, uint64_t now_us, bint in_a_row=False):
        return self.read(slots, now_us, in_a_row)["progress_us"]

    cdef object _slots(self, slots, bint in_a_row):
        for slot in slots:
            _check(self, 0, slot)
        if in_a_row and slots:
            _check(self, 0, slots[0] + len(slots) - 1)
        return array("I", [*slots, 0])

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
                in_flight += load_u32(load_cell_at(&self.table, column, ROW_IN_FLIGHT, index))
            counts.append(in_flight)
        return counts

    def total_in_flight(self):
        return sum(self.in_flight_by_column())

    def underflows(self):
        return load_u64(&load_header(&self.table).underflows)

    def clear_column(self, uint32_t column):
        cdef uint64_t settled = 0
        cdef uint64_t bit = <uint64_t>1 << (column & 63)
        cdef uint32_t slot
        cdef int row
        _check(self, column, 0)
        if not load_u64(&load_header(&self.table).active[column >> 6]) & bit:
            return 0
        for slot in range(self.table.slot_count):
            settled += load_u32(load_cell_at(&self.table, column, ROW_IN_FLIGHT, slot))
            for row in range(ROW_COUNT):
                store_u32(load_cell_at(&self.table, column, row, slot), 0)
            store_u64(&self.table.head_begun_us[load_place(&self.table, column, slot)], 0)
        and_u64(&load_header(&self.table).active[column >> 6], ~bit)
        for _column, slot in [place for place in self._held if place[0] == column]:
            for held in self._held.pop((column, slot)):
                (<Charge>held).charge.state = CHARGE_NONE
            memset(&self.table.queues[load_place(&self.table, column, slot)], 0, sizeof(load_queue_t))
        return settled

    def reset_slot(self, uint32_t slot):
        _check(self, 0, slot)
        cdef uint32_t in_flight = load_in_flight(&self.table, slot)
        if in_flight:
            raise ValueError(f"slot {slot} still has {in_flight} attempts in flight")
        cdef load_slot_t* shared = load_slot(&self.table, slot)
        store_u64(&shared.ejection, 0)
        store_u64(&shared.ttft, 0)
        store_u64(&shared.itl, 0)
        store_u64(&shared.error, 0)
        store_u64(&shared.attempts, 0)
        store_u64(&self.table.last_first_token_us[slot], 0)

    def view(self, uint32_t slot):
        cdef load_view_t view
        _check(self, 0, slot)
        load_view(&self.table, slot, &view)
        return {
            "in_flight": view.in_flight,
            "pending": view.pending,
            "queued_tokens": view.queued_tokens,
            "queued_work_us": view.queued_work_us,
            "kv_tokens": view.kv_tokens,
            "oldest_pending_us": view.oldest_pending_us,
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
        cdef charge_t charge
        _check(self, column, slot)
        memset(&charge, 0, sizeof(charge))
        charge.slot = slot
        charge.uncached_tokens = charge.kv_tokens = 1000
        charge.work_ticks = 1000
        with nogil:
            for index in range(round_count):
                load_charge(&self.table, column, &charge, index)
                load_first_token(&self.table, column, &charge, index)
                load_observe_ttft(&self.table, slot, 1000, index)
                load_release(&self.table, column, &charge)


cdef int _check(LoadTable self, uint32_t column, uint32_t slot) except -1:
    segment_check_slot(slot, self.table.slot_count)
    if column >= self.table.column_count:
        raise IndexError(f"column {column} of {self.table.column_count}")
    return 0


cdef LoadTable _open(Segment segment):
    cdef LoadTable self = LoadTable.__new__(LoadTable)
    cdef load_header_t* header = <load_header_t*>segment.base
    self._mapping = segment
    self._held = {}
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.size_bytes = segment.size_bytes
    self.table.slot_count = header.slot_count
    self.table.column_count = header.column_count
    self.table.cells = <uint32_t*>(segment.base + SEGMENT_HEADER_BYTES)
    self.table.head_begun_us = <uint64_t*>load_cell_at(&self.table, header.column_count, 0, 0)
    self.table.last_first_token_us = self.table.head_begun_us + <size_t>header.slot_count * header.column_count
    self.table.shared = self.table.last_first_token_us + header.slot_count
    # Fresh pages of zeroes that are never touched but for the columns this process charges.
    self.table.queues = <load_queue_t*>calloc(
        <size_t>header.slot_count * header.column_count, sizeof(load_queue_t))
    if self.table.queues == NULL:
        raise MemoryError
    return self

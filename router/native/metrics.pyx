"""Counters and log-linear histograms in shared memory, a column per worker, summed by whoever renders them.

Layout of the segment: a header page, then a column per worker and one more, the base. A column holds the counters, the
table of request counts, some counters per route, a byte per histogram that says whether it was ever used, and the
histograms. A route is counted apart for each version of the policy: what is called a route here is that. Columns are
laid out for their bounds; untouched pages cost nothing, and the used bytes keep readers from touching them. Invariant:
a column has one writer, and totals never go back: when its worker is dead `fold_column` adds what it counted to the
base and empties it, gauges being dropped, under a sequence number by which readers notice and read again. Neighbours:
histogram (the struct), the exchange and drivers (writers), router/metrics.py (the reader), supervisor (folds).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from router.native.histogram cimport Histogram, histogram_merge, histogram_record, histogram_t
from router.native.segment cimport Segment, segment_attach_table, segment_create

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <sched.h>
    #ifndef FALLOC_FL_PUNCH_HOLE
    #define FALLOC_FL_KEEP_SIZE 1
    #define FALLOC_FL_PUNCH_HOLE 2
    #endif
    static inline uint64_t load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void or_u64(uint64_t *p, uint64_t v) { __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL); }
    static inline void and_u64(uint64_t *p, uint64_t v) { __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); }
    static inline int swap_u64(uint64_t *p, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(p, &seen, wanted, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    /* Gives whole pages of a segment back to the kernel; they read as zero from then on. */
    static int punch_hole(int fd, size_t offset, size_t size_bytes) {
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size_bytes);
    }
    """
    uint64_t load_u64(const uint64_t* p) noexcept nogil
    void store_u64(uint64_t* p, uint64_t v) noexcept nogil
    void or_u64(uint64_t* p, uint64_t v) noexcept nogil
    void and_u64(uint64_t* p, uint64_t v) noexcept nogil
    bint swap_u64(uint64_t* p, uint64_t seen, uint64_t wanted) noexcept nogil
    void fence() noexcept nogil
    int punch_hole(int fd, size_t offset, size_t size_bytes) nogil
    int sched_yield() nogil

cdef enum:
    LAYOUT_VERSION = 3
    PAGE_BYTES = 4096
    ACTIVE_WORDS = 4
    COLUMN_COUNT_MAX = 256           # 64 * ACTIVE_WORDS, as many as a load table has
    INDEX_COUNT_MAX = 65535          # 0xFFFF means "no endpoint" or "no route"
    ROUTE_KINDS = 4                  # histogram kinds below it are indexed by route, the others by slot
    ENDPOINT_KINDS = 2
    REQUEST_SERIES_MAX = 8192        # (route, slot, outcome) triples a worker counts apart: 128 KiB a column
    PROBES_MAX = 64                  # at 3/4 full a linear probe ends within 30
    READ_TRIES_MAX = 1000            # a folding process that died half-way must not stop /metrics

cdef uint64_t MAGIC = 0x3152544D4C4C4644     # "DFLLMTR1"
cdef uint64_t SERIES_USED = 0x8000           # in every key; outcomes stay below it

cdef struct header_t:
    uint64_t magic
    uint32_t layout_version
    uint32_t column_count
    uint32_t route_count
    uint32_t slot_count
    uint64_t column_bytes
    uint64_t size_bytes
    uint8_t padding_constant[24]
    uint64_t active[4]               # ACTIVE_WORDS; bit per column that a worker writes
    uint64_t sequence                # odd while a column is being folded or an index reset

cdef struct series_t:
    uint64_t key                     # route << 32 | slot << 16 | SERIES_USED | outcome; 0: free
    uint64_t count

cdef struct column_t:                # then counters of all routes, used[histogram_count], histograms[histogram_count]
    uint64_t counters[48]            # METRIC_COUNTER_COUNT
    uint64_t overflow                # requests whose series found no place
    series_t series[8192]            # REQUEST_SERIES_MAX


cdef inline uint32_t _histogram_count(header_t* header) noexcept nogil:
    return ROUTE_KINDS * header.route_count + ENDPOINT_KINDS * header.slot_count


cdef inline int64_t _histogram_index(header_t* header, int kind, uint32_t index) noexcept nogil:
    if kind < ROUTE_KINDS:
        return <int64_t>kind * header.route_count + index if index < header.route_count else -1
    if index >= header.slot_count:
        return -1
    return <int64_t>ROUTE_KINDS * header.route_count + <int64_t>(kind - ROUTE_KINDS) * header.slot_count + index


cdef inline uint64_t* _route_counters(column_t* column, uint32_t route) noexcept nogil:
    return <uint64_t*>(column + 1) + <size_t>route * ROUTE_COUNTER_COUNT


cdef inline uint8_t* _used(header_t* header, column_t* column) noexcept nogil:
    return <uint8_t*>_route_counters(column, header.route_count)


cdef inline histogram_t* _histograms(header_t* header, column_t* column) noexcept nogil:
    return <histogram_t*>(_used(header, column) + ((_histogram_count(header) + 7) & ~<uint32_t>7))


cdef size_t _column_bytes(header_t* header) noexcept nogil:
    cdef size_t count = _histogram_count(header)
    cdef size_t size_bytes = sizeof(column_t) + <size_t>header.route_count * ROUTE_COUNTER_COUNT * sizeof(uint64_t) \
        + ((count + 7) & ~<size_t>7) + count * sizeof(histogram_t)
    return (size_bytes + PAGE_BYTES - 1) & ~<size_t>(PAGE_BYTES - 1)


# --- what workers call -----------------------------------------------------------------------------------------------

cdef void metrics_add(metrics_t* metrics, int counter, int64_t amount) noexcept nogil:
    metrics.counters[counter] += <uint64_t>amount


cdef void metrics_set(metrics_t* metrics, int counter, int64_t value) noexcept nogil:
    metrics.counters[counter] = <uint64_t>value


cdef void metrics_add_route(metrics_t* metrics, uint32_t route, int counter, uint64_t amount) noexcept nogil:
    if route < (<header_t*>metrics.private_view).route_count:
        _route_counters(<column_t*>metrics.base, route)[counter] += amount


cdef void metrics_observe_us(metrics_t* metrics, int kind, uint32_t index, uint64_t value_us) noexcept nogil:
    cdef header_t* header = <header_t*>metrics.private_view
    cdef column_t* column = <column_t*>metrics.base
    cdef int64_t at = _histogram_index(header, kind, index)
    if at < 0:                       # no route matched, or no endpoint was picked
        return
    histogram_record(_histograms(header, column) + at, value_us)
    _used(header, column)[at] = 1


cdef void metrics_count_request(metrics_t* metrics, uint32_t route, uint32_t slot, uint32_t outcome) noexcept nogil:
    cdef column_t* column = <column_t*>metrics.base
    cdef uint64_t key = <uint64_t>route << 32 | <uint64_t>(slot & 0xFFFF) << 16 | SERIES_USED | (outcome & 0x7FFF)
    _count_series(column, key, 1)


cdef void _count_series(column_t* column, uint64_t key, uint64_t count) noexcept nogil:
    # Fibonacci hashing (Knuth 6.4) and linear probing; 51 = 64 - log2(REQUEST_SERIES_MAX).
    cdef uint32_t place = <uint32_t>(key * <uint64_t>0x9E3779B97F4A7C15 >> 51)
    cdef uint32_t probe
    cdef series_t* series
    for probe in range(<uint32_t>PROBES_MAX):
        series = &column.series[(place + probe) & (REQUEST_SERIES_MAX - 1)]
        if series.key == key:
            series.count += count
            return
        if series.key == 0:
            series.count = count
            store_u64(&series.key, key)      # after the count: a reader that sees the key sees a count of its own
            return
    column.overflow += count


# --- folding ---------------------------------------------------------------------------------------------------------

cdef inline bint _is_gauge(int counter) noexcept nogil:
    return counter in (
        COUNT_CONNECTIONS_OPEN, COUNT_UPSTREAM_OPEN, COUNT_UPSTREAM_IDLE, COUNT_REQUESTS_IN_FLIGHT,
        COUNT_BUFFERED_BYTES, COUNT_LOOP_LAG_US, COUNT_RSS_BYTES, COUNT_VIEWS_PARTIAL,
    )


cdef void _fold(header_t* header, column_t* base, column_t* column) noexcept nogil:
    cdef uint32_t index
    for index in range(<uint32_t>METRIC_COUNTER_COUNT):
        if not _is_gauge(<int>index):
            base.counters[index] += column.counters[index]
    base.overflow += column.overflow
    for index in range(<uint32_t>REQUEST_SERIES_MAX):
        if column.series[index].key and column.series[index].count:
            _count_series(base, column.series[index].key, column.series[index].count)
    for index in range(header.route_count * <uint32_t>ROUTE_COUNTER_COUNT):
        _route_counters(base, 0)[index] += _route_counters(column, 0)[index]
    for index in range(_histogram_count(header)):
        if _used(header, column)[index]:
            histogram_merge(_histograms(header, base) + index, _histograms(header, column) + index)
            _used(header, base)[index] = 1


cdef void _clear_histogram(header_t* header, column_t* column, int kind, uint32_t index) noexcept nogil:
    cdef int64_t at = _histogram_index(header, kind, index)
    if _used(header, column)[at]:
        memset(_histograms(header, column) + at, 0, sizeof(histogram_t))
        _used(header, column)[at] = 0


# --- inside a table --------------------------------------------------------------------------------------------------

cdef inline header_t* _header(MetricsTable table) noexcept:
    return <header_t*>table.base


cdef inline column_t* _column(MetricsTable table, uint32_t index) noexcept:
    return <column_t*>(table.base + PAGE_BYTES + <size_t>index * _header(table).column_bytes)


cdef inline bint _is_active(MetricsTable table, uint32_t index) noexcept:
    """Whether there is anything in the column: a worker's, or the base behind them."""
    return index == table.column_count or load_u64(&_header(table).active[index >> 6]) >> (index & 63) & 1


cdef bint _is_settled(MetricsTable table, uint64_t before) noexcept:
    """Whether what was read since `before` was no change's half; else it gives the changing process the core."""
    fence()
    if not before & 1 and load_u64(&_header(table).sequence) == before:
        return True
    sched_yield()
    return False


cdef uint64_t _begin_change(MetricsTable table) noexcept:
    """Makes the sequence odd and returns it. A process that died changing is waited for, then passed."""
    cdef uint64_t* sequence = &_header(table).sequence
    cdef uint64_t seen
    cdef int _attempt
    for _attempt in range(READ_TRIES_MAX):
        seen = load_u64(sequence)
        if not seen & 1 and swap_u64(sequence, seen, seen + 1):
            fence()
            return seen + 1
        sched_yield()
    seen = load_u64(sequence) | 1
    store_u64(sequence, seen)
    fence()
    return seen


cdef void _reset(
    MetricsTable table, uint64_t mask, uint64_t wanted, int kind_first, int kind_end, uint32_t index
) noexcept:
    cdef uint64_t sequence = _begin_change(table)
    cdef uint32_t column_index, place
    cdef column_t* column
    cdef int kind
    for column_index in range(table.column_count + 1):
        if not _is_active(table, column_index):
            continue
        column = _column(table, column_index)
        for place in range(<uint32_t>REQUEST_SERIES_MAX):
            if column.series[place].key and column.series[place].key & mask == wanted:
                column.series[place].count = 0       # the key stays: probe sequences run through it
        for kind in range(kind_first, kind_end):
            _clear_histogram(_header(table), column, kind, index)
        if kind_first == 0:
            memset(_route_counters(column, index), 0, ROUTE_COUNTER_COUNT * sizeof(uint64_t))
    store_u64(&_header(table).sequence, sequence + 1)


cdef int _check(int64_t index, int64_t end) except -1:
    if not 0 <= index < end:
        raise IndexError(f"index {index} of {end}")
    return 0


# By number; the gaps are numbers that metrics.pxd has not given yet.
COUNTER_NAMES = {
    COUNT_CONNECTIONS_ACCEPTED: "connections_accepted",
    COUNT_CONNECTIONS_OPEN: "connections_open",
    COUNT_UPSTREAM_CONNECTS: "upstream_connects",
    COUNT_UPSTREAM_REUSES: "upstream_reuses",
    COUNT_UPSTREAM_OPEN: "upstream_open",
    COUNT_UPSTREAM_IDLE: "upstream_idle",
    COUNT_STALE_REPLACED: "stale_replaced",
    COUNT_RETRIES: "retries",
    COUNT_BYTES_FROM_CLIENTS: "bytes_from_clients",
    COUNT_BYTES_TO_CLIENTS: "bytes_to_clients",
    COUNT_PROMPT_TOKENS: "prompt_tokens",
    COUNT_COMPLETION_TOKENS: "completion_tokens",
    COUNT_CACHED_TOKENS: "cached_tokens",
    COUNT_EVENTS: "events",
    COUNT_LOG_LINES_DROPPED: "log_lines_dropped",
    COUNT_HANDOVERS: "handovers",
    COUNT_REQUESTS_IN_FLIGHT: "requests_in_flight",
    COUNT_PROTOCOL_ERRORS_DOWNSTREAM: "protocol_errors_downstream",
    COUNT_PROTOCOL_ERRORS_UPSTREAM: "protocol_errors_upstream",
    COUNT_BODY_FACTS_SLOW: "body_facts_slow",
    COUNT_UNFINISHED_STREAMS: "unfinished_streams",
    COUNT_PICKS_FAILED: "picks_failed",
    COUNT_ACCEPT_PAUSES: "accept_pauses",
    COUNT_BUFFERED_BYTES: "buffered_bytes",
    COUNT_LOOP_LAG_US: "loop_lag_us",
    COUNT_RSS_BYTES: "rss_bytes",
    COUNT_TLS_HANDSHAKES: "tls_handshakes",
    COUNT_TLS_FAILURES: "tls_failures",
    COUNT_SESSION_NEW: "session_new",
    COUNT_SESSION_STAYED: "session_stayed",
    COUNT_SESSION_QUEUE: "session_queue",
    COUNT_SESSION_CACHE: "session_cache",
    COUNT_SESSION_LOAD: "session_load",
    COUNT_SESSION_HEALTH: "session_health",
    COUNT_SESSION_COST: "session_cost",
    COUNT_SESSION_TARGET: "session_target",
    COUNT_SESSION_HEADROOM: "session_headroom",
    COUNT_SESSION_TIE: "session_tie",
    COUNT_SESSION_MODEL: "session_model",
    **{COUNT_ALIAS_PLACE_1 + place: f"alias_place_{place + 1}" for place in range(8)},
    COUNT_VIEWS_PARTIAL: "views_partial",
}
HISTOGRAM_KINDS = {
    "route_ttft": HISTOGRAM_ROUTE_TTFT,
    "route_e2e": HISTOGRAM_ROUTE_E2E,
    "route_router_time": HISTOGRAM_ROUTE_ROUTER_TIME,
    "route_itl": HISTOGRAM_ROUTE_ITL,
    "endpoint_ttft": HISTOGRAM_ENDPOINT_TTFT,
    "endpoint_itl": HISTOGRAM_ENDPOINT_ITL,
}
ROUTE_COUNTER_NAMES = {
    ROUTE_COMPLETED: "completed",
    ROUTE_DOWNSTREAM: "downstream",
    ROUTE_UPSTREAM: "upstream",
    ROUTE_POLICY: "policy",
    ROUTE_ROUTER: "router",
    ROUTE_REFUSED: "refused",
    ROUTE_PROMPT_TOKENS: "prompt_tokens",
    ROUTE_COMPLETION_TOKENS: "completion_tokens",
    ROUTE_CACHED_TOKENS: "cached_tokens",
    ROUTE_COST_NANO: "cost_nano",
}
ROUTE_ENDINGS = tuple(ROUTE_COUNTER_NAMES[ended] for ended in range(ROUTE_REFUSED + 1))
GAUGES = frozenset(name for counter, name in COUNTER_NAMES.items() if _is_gauge(counter))
NO_INDEX = 0xFFFF


cdef class MetricsTable:
    """The metrics of one supervisor and its workers; see metrics.pyi for the Python side."""

    @staticmethod
    def create(uint32_t column_count, uint32_t route_count_max, uint32_t slot_count):
        for name, value, bound in (
            ("column_count", column_count, COLUMN_COUNT_MAX),
            ("route_count_max", route_count_max, INDEX_COUNT_MAX),
            ("slot_count", slot_count, INDEX_COUNT_MAX),
        ):
            if not 1 <= value <= bound:
                raise ValueError(f"{name} must be 1..{bound}, not {value}")
        cdef header_t plan
        memset(&plan, 0, sizeof(plan))
        plan.layout_version = LAYOUT_VERSION
        plan.column_count = column_count
        plan.route_count = route_count_max
        plan.slot_count = slot_count
        plan.column_bytes = _column_bytes(&plan)
        plan.size_bytes = PAGE_BYTES + (<size_t>column_count + 1) * plan.column_bytes
        cdef Segment segment = segment_create(b"fairlead-metrics", plan.size_bytes)
        (<header_t*>segment.base)[0] = plan
        store_u64(&(<header_t*>segment.base).magic, MAGIC)
        return _open(segment)

    @staticmethod
    def attach(int fd):
        cdef Segment segment = segment_attach_table(fd, MAGIC, LAYOUT_VERSION, "metrics table")
        cdef header_t* header = <header_t*>segment.base
        cdef size_t size_bytes = PAGE_BYTES + (<size_t>header.column_count + 1) * _column_bytes(header)
        if not (
            0 < header.column_count <= COLUMN_COUNT_MAX
            and header.route_count <= INDEX_COUNT_MAX
            and header.slot_count <= INDEX_COUNT_MAX
            and header.column_bytes == _column_bytes(header)
            and header.size_bytes == segment.size_bytes == size_bytes
        ):
            raise ValueError(
                f"metrics table header ({header.column_count} columns, {header.route_count} routes,"
                f" {header.slot_count} slots) does not fit its segment of {segment.size_bytes} bytes"
            )
        return _open(segment)

    @property
    def route_count_max(self):
        return _header(self).route_count

    @property
    def slot_count(self):
        return _header(self).slot_count

    cdef metrics_t column(self, uint32_t index):
        cdef metrics_t metrics
        or_u64(&_header(self).active[index >> 6], <uint64_t>1 << (index & 63))
        metrics.base = <uint8_t*>_column(self, index)
        metrics.counters = _column(self, index).counters
        metrics.private_view = self.base
        return metrics

    # --- what renders --------------------------------------------------------------------------------------------

    def columns(self):
        cdef uint32_t index
        return [index for index in range(self.column_count) if _is_active(self, index)]

    def counters(self):
        cdef uint64_t before
        cdef int _attempt
        for _attempt in range(READ_TRIES_MAX):
            before = load_u64(&_header(self).sequence)
            totals = self.column_counters(self.column_count)
            for index in self.columns():
                for name, value in self.column_counters(index).items():
                    totals[name] += value
            if _is_settled(self, before):
                break
        return totals

    def column_counters(self, uint32_t column):
        _check(column, self.column_count + 1)
        return {name: <int64_t>_column(self, column).counters[<int>counter] for counter, name in COUNTER_NAMES.items()}

    def requests(self):
        cdef uint64_t before, key
        cdef uint32_t index, place
        cdef int _attempt
        cdef column_t* column
        for _attempt in range(READ_TRIES_MAX):
            before = load_u64(&_header(self).sequence)
            counts = {}
            for index in range(self.column_count + 1):
                if not _is_active(self, index):
                    continue
                column = _column(self, index)
                for place in range(<uint32_t>REQUEST_SERIES_MAX):
                    key = load_u64(&column.series[place].key)
                    if key and column.series[place].count:
                        counts[key] = counts.get(key, 0) + column.series[place].count
            if _is_settled(self, before):
                break
        return [
            (key >> 32, key >> 16 & 0xFFFF, key & 0x7FFF, count) for key, count in sorted(counts.items())
        ]

    def requests_overflow(self):
        cdef uint64_t before
        cdef int _attempt
        for _attempt in range(READ_TRIES_MAX):
            before = load_u64(&_header(self).sequence)
            total = _column(self, self.column_count).overflow
            for index in self.columns():
                total += _column(self, index).overflow
            if _is_settled(self, before):
                break
        return total

    def route_counters(self, uint32_t route):
        cdef uint64_t before
        cdef uint32_t index
        cdef int _attempt, counter
        cdef uint64_t[10] totals         # ROUTE_COUNTER_COUNT
        _check(route, _header(self).route_count)
        for _attempt in range(READ_TRIES_MAX):
            before = load_u64(&_header(self).sequence)
            memset(totals, 0, sizeof(totals))
            for index in range(self.column_count + 1):
                if _is_active(self, index):
                    for counter in range(ROUTE_COUNTER_COUNT):
                        totals[counter] += _route_counters(_column(self, index), route)[counter]
            if _is_settled(self, before):
                break
        return {name: totals[<int>number] for number, name in ROUTE_COUNTER_NAMES.items()}

    def histogram(self, int kind, uint32_t index):
        cdef uint64_t before
        cdef uint32_t column
        cdef int _attempt
        cdef Histogram merged
        _check(kind, HISTOGRAM_KIND_COUNT)
        cdef int64_t at = _histogram_index(_header(self), kind, index)
        if at < 0:
            raise IndexError(f"histogram index {index}")
        for _attempt in range(READ_TRIES_MAX):
            before = load_u64(&_header(self).sequence)
            merged = Histogram()
            for column in range(self.column_count + 1):
                if _is_active(self, column) and _used(_header(self), _column(self, column))[at]:
                    histogram_merge(&merged.histogram, _histograms(_header(self), _column(self, column)) + at)
            if _is_settled(self, before):
                break
        return merged

    # --- what the supervisor calls -------------------------------------------------------------------------------

    def fold_column(self, uint32_t column):
        cdef header_t* header = _header(self)
        cdef uint64_t sequence
        _check(column, self.column_count)
        sequence = _begin_change(self)
        _fold(header, _column(self, self.column_count), _column(self, column))
        and_u64(&header.active[column >> 6], ~(<uint64_t>1 << (column & 63)))
        if punch_hole(self.fd, <uint8_t*>_column(self, column) - self.base, header.column_bytes):
            memset(_column(self, column), 0, header.column_bytes)
        store_u64(&header.sequence, sequence + 1)

    def reset_slot(self, uint32_t slot):
        _check(slot, _header(self).slot_count)
        _reset(self, <uint64_t>0xFFFF << 16, <uint64_t>slot << 16, ROUTE_KINDS, HISTOGRAM_KIND_COUNT, slot)

    def reset_route(self, uint32_t route):
        _check(route, _header(self).route_count)
        _reset(self, <uint64_t>0xFFFFFFFF << 32, <uint64_t>route << 32, 0, ROUTE_KINDS, route)

    # --- the door for tests, and for the slow path's own counts ----------------------------------------------------

    def add(self, uint32_t column, int counter, int64_t amount):
        _check(column, self.column_count)
        _check(counter, METRIC_COUNTER_COUNT)
        cdef metrics_t metrics = self.column(column)
        metrics_add(&metrics, counter, amount)

    def set(self, uint32_t column, int counter, int64_t value):
        _check(column, self.column_count)
        _check(counter, METRIC_COUNTER_COUNT)
        cdef metrics_t metrics = self.column(column)
        metrics_set(&metrics, counter, value)

    def add_route(self, uint32_t column, uint32_t route, int counter, uint64_t amount):
        _check(column, self.column_count)
        _check(counter, ROUTE_COUNTER_COUNT)
        cdef metrics_t metrics = self.column(column)
        metrics_add_route(&metrics, route, counter, amount)

    def observe_us(self, uint32_t column, int kind, uint32_t index, uint64_t value_us):
        _check(column, self.column_count)
        _check(kind, HISTOGRAM_KIND_COUNT)
        cdef metrics_t metrics = self.column(column)
        metrics_observe_us(&metrics, kind, index, value_us)

    def count_request(self, uint32_t column, uint32_t route, uint32_t slot, uint32_t outcome):
        _check(column, self.column_count)
        cdef metrics_t metrics = self.column(column)
        metrics_count_request(&metrics, route, slot, outcome)

    def churn(self, uint32_t column, uint64_t round_count):
        """Counts and observes `round_count` requests without the interpreter: for tests and benches."""
        cdef uint64_t index
        _check(column, self.column_count)
        cdef metrics_t metrics = self.column(column)
        with nogil:
            for index in range(round_count):
                metrics_add(&metrics, COUNT_EVENTS, 1)
                metrics_count_request(&metrics, 0, index & 3, 0)
                metrics_observe_us(&metrics, HISTOGRAM_ROUTE_TTFT, 0, index)


cdef MetricsTable _open(Segment segment):
    cdef MetricsTable self = MetricsTable.__new__(MetricsTable)
    self._mapping = segment
    self.fd = segment.fd
    self.base = segment.base
    self.size_bytes = segment.size_bytes
    self.column_count = (<header_t*>segment.base).column_count
    return self

"""Charges of attempts at endpoints, and the sums over workers that picks read.

Invariant: every cell has one writer, the worker that owns its column, so a charge is plain stores. Rows are arrays over
slots, and the sum of a row over columns vectorises. Which pending charge is the oldest is known exactly: a worker keeps
its own ones of a slot in a list, in its own memory, and publishes the begin and the work of the first. What is taken
back without having been given is counted as an underflow and never goes below zero. Neighbours: loadtable (the segment,
the door for Python), decision (when to charge), view (what picks read).
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from router.native.atomic cimport add_u64, load_u32, load_u64, lowest_bit, or_u64, store_u32, store_u64
from router.native.wide cimport FL_WIDE  # no-cython-lint: used in C

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* Loops over endpoints that must vectorise: no branches, nothing overlaps. */
    FL_WIDE static void fl_add(uint32_t* __restrict sums, const uint32_t* __restrict cells, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) sums[i] += cells[i];
    }
    /* In place. By way of int32, whose conversion is one instruction; no sum comes near 2^31 (6 hours of work in ticks
       of 10 us, 2 G tokens), and one that does stays there. */
    FL_WIDE static void fl_to_float(uint32_t* sums, uint32_t count) {
        float* floats = (float*) sums;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t sum = sums[i] < 0x7FFFFFFFu ? sums[i] : 0x7FFFFFFFu;
            floats[i] = (float) (int32_t) sum;
        }
    }
    /* What a pick reads, block by block so that sums stay in the first cache. Every loop is written so that gcc sees no
       branch in it (it makes one of a clamp before a conversion). Times are taken by their lower 32 bits: ages above 35
       minutes read as none, which loses the progress of one prompt. Rows are read one after the other, so a charge may
       have come between: nothing goes below zero. */
    #define FL_BLOCK 64
    #define FL_ROWS 6
    typedef struct {
        const uint32_t* cells[256];              /* COLUMN_COUNT_MAX; of each active column, at slot 0 */
        const uint64_t* begun_us[256];
        const uint64_t* last_us;
        uint32_t columns;
        size_t stride;                           /* of cells between rows */
    } fl_columns_t;
    typedef struct {
        const uint32_t* rows[FL_ROWS];
        const uint64_t* begun_us;
        uint32_t gathered[FL_ROWS][FL_BLOCK];
        uint64_t gathered_begun_us[FL_BLOCK];
    } fl_column_t;
    static inline float fl_sum_to_float(uint32_t sum) {
        return (float) (int32_t) ((sum | (0u - (sum >> 31))) & 0x7FFFFFFFu);
    }
    static inline float fl_not_below_zero(float value) { return value > 0.0f ? value : 0.0f; }
    static inline int32_t fl_age(uint32_t begun, uint32_t now) {
        int32_t age = (int32_t) (now - begun);
        age = age > 0 ? age : 0;
        return begun ? age : -1;
    }
    /* A column's part of a block: where it lies, or, of slots that are not in a row, a copy. */
    static inline void fl_column(const fl_columns_t* table, uint32_t column, const uint32_t* slots, uint32_t first,
                                 uint32_t count, fl_column_t* at) {
        const uint32_t* cells = table->cells[column];
        at->begun_us = table->begun_us[column] + first;
        for (int row = 0; row < FL_ROWS; row++)
            at->rows[row] = cells + row * table->stride + first;
        if (!slots) return;
        for (uint32_t i = 0; i < count; i++) {
            for (int row = 0; row < FL_ROWS; row++)
                at->gathered[row][i] = cells[row * table->stride + slots[i]];
            at->gathered_begun_us[i] = table->begun_us[column][slots[i]];
        }
        at->begun_us = at->gathered_begun_us;
        for (int row = 0; row < FL_ROWS; row++)
            at->rows[row] = at->gathered[row];
    }
    FL_WIDE static void fl_read(const fl_columns_t* table, const uint32_t* all_slots, uint32_t first, uint32_t all,
                                uint32_t now, int32_t tick_us, float tick_s, float* const* arrays) {
        for (uint32_t start = 0; start < all; start += FL_BLOCK) {
            uint32_t count = all - start < FL_BLOCK ? all - start : FL_BLOCK, size = (count + 15) & ~15u;
            const uint32_t* slots = all_slots ? all_slots + start : 0;
            uint32_t sums[FL_ROWS - 1][FL_BLOCK];
            int32_t ages[FL_BLOCK], ticks[FL_BLOCK];
            uint64_t gathered_last_us[FL_BLOCK];
            const uint64_t* last_us = table->last_us + first + start;
            fl_column_t total, column;
            fl_column(table, 0, slots, first + start, count, &total);
            #pragma GCC ivdep
            for (uint32_t i = 0; i < size; i++) {
                int32_t age = fl_age((uint32_t) total.begun_us[i], now), work = (int32_t) total.rows[5][i];
                ages[i] = age;
                ticks[i] = age >= 0 ? work : 0;
            }
            for (uint32_t index = 1; index < table->columns; index++) {
                fl_column(table, index, slots, first + start, count, &column);
                for (int row = 0; row < FL_ROWS - 1; row++) {
                    const uint32_t *before = total.rows[row], *cells = column.rows[row];
                    uint32_t* sum = sums[row];
                    #pragma GCC ivdep
                    for (uint32_t i = 0; i < size; i++)
                        sum[i] = before[i] + cells[i];
                    total.rows[row] = sum;
                }
                #pragma GCC ivdep
                for (uint32_t i = 0; i < size; i++) {
                    int32_t before = ages[i], kept = ticks[i], work = (int32_t) column.rows[5][i];
                    int32_t age = fl_age((uint32_t) column.begun_us[i], now);
                    ticks[i] = age > before ? work : kept;
                    ages[i] = age > before ? age : before;
                }
            }
            if (slots) {
                for (uint32_t i = 0; i < count; i++)
                    gathered_last_us[i] = table->last_us[slots[i]];
                last_us = gathered_last_us;
            }
            float *in_flight = arrays[0] + start, *pending = arrays[1] + start, *decoding = arrays[2] + start;
            float *queued_tokens = arrays[3] + start, *queued_s = arrays[4] + start, *kv_tokens = arrays[5] + start;
            float* progress_us = arrays[6] + start;
            const uint32_t *flights = total.rows[0], *pendings = total.rows[1], *queued = total.rows[2];
            const uint32_t *work = total.rows[3], *kv = total.rows[4];
            #pragma GCC ivdep
            for (uint32_t i = 0; i < size; i++) {
                uint32_t last = (uint32_t) last_us[i];
                int32_t since = (int32_t) (now - last), age = ages[i], most = ticks[i] * tick_us;
                since = (since >= 0) & (last != 0) ? since : INT32_MAX;
                since = age < since ? age : since;
                since = since < most ? since : most;
                ages[i] = since > 0 ? since : 0;
            }
            #pragma GCC ivdep
            for (uint32_t i = 0; i < size; i++) {
                float progress = (float) ages[i];
                progress_us[i] = progress;
                queued_s[i] = fl_not_below_zero(fl_sum_to_float(work[i]) * tick_s - progress * 1e-6f);
            }
            #pragma GCC ivdep
            for (uint32_t i = 0; i < size; i++) {
                queued_tokens[i] = fl_sum_to_float(queued[i]);
                kv_tokens[i] = fl_sum_to_float(kv[i]);
            }
            #pragma GCC ivdep
            for (uint32_t i = 0; i < size; i++) {
                float open = fl_sum_to_float(flights[i]), waiting = fl_sum_to_float(pendings[i]);
                in_flight[i] = open;
                pending[i] = waiting;
                decoding[i] = fl_not_below_zero(open - waiting);
            }
        }
    }
    """
    void fl_add(uint32_t* sums, const uint32_t* cells, uint32_t count)
    void fl_to_float(uint32_t* sums, uint32_t count)
    ctypedef struct fl_columns_t:
        const uint32_t* cells[256]
        const uint64_t* begun_us[256]
        const uint64_t* last_us
        uint32_t columns
        size_t stride
    void fl_read(const fl_columns_t* table, const uint32_t* slots, uint32_t first, uint32_t count, uint32_t now,
                 int32_t tick_us, float tick_s, float** arrays)


# --- charges ---------------------------------------------------------------------------------------------------------

cdef inline void _add(uint32_t* cell, uint32_t amount) noexcept nogil:
    store_u32(cell, load_u32(cell) + amount)


cdef inline void _take(load_table_t* table, uint32_t* cell, uint32_t amount) noexcept nogil:
    cdef uint32_t held = load_u32(cell)
    if held < amount:
        add_u64(&load_header(table).underflows, 1)
        amount = held
    store_u32(cell, held - amount)


cdef inline void _activate(load_table_t* table, uint32_t column) noexcept nogil:
    cdef uint64_t* active = &load_header(table).active[column >> 6]
    cdef uint64_t bit = <uint64_t>1 << (column & 63)
    if not load_u64(active) & bit:   # before the cells, so that no reader can miss a charge for good
        or_u64(active, bit)


cdef inline void _publish_head(
    load_table_t* table, uint32_t column, uint32_t slot, const charge_t* head
) noexcept nogil:
    store_u32(load_cell_at(table, column, ROW_HEAD_WORK, slot), head.work_ticks if head != NULL else 0)
    store_u64(&table.head_begun_us[load_place(table, column, slot)], head.begun_us if head != NULL else 0)


cdef void _count_pending(load_table_t* table, uint32_t column, const charge_t* charge) noexcept nogil:
    cdef uint32_t* cell = load_cell_at(table, column, 0, charge.slot)
    cdef size_t stride = table.slot_count
    _activate(table, column)
    _add(cell + ROW_IN_FLIGHT * stride, 1)
    _add(cell + ROW_PENDING * stride, 1)
    _add(cell + ROW_QUEUED_TOKENS * stride, charge.uncached_tokens)
    _add(cell + ROW_QUEUED_WORK * stride, charge.work_ticks)
    _add(cell + ROW_KV_TOKENS * stride, charge.kv_tokens)


cdef void load_charge(load_table_t* table, uint32_t column, charge_t* charge, uint64_t now_us) noexcept nogil:
    cdef uint32_t slot = charge.slot
    cdef load_queue_t* queue = &table.queues[load_place(table, column, slot)]
    charge.prompt_tokens = min(charge.prompt_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.uncached_tokens = min(charge.uncached_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.kv_tokens = min(charge.kv_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.work_ticks = min(charge.work_ticks, <uint32_t>WORK_TICKS_MAX)
    charge.begun_us = now_us if now_us else 1        # 0 means that nothing is pending
    charge.state = CHARGE_PENDING
    charge.newer = NULL
    charge.older = queue.newest
    _count_pending(table, column, charge)
    if queue.newest != NULL:
        queue.newest.newer = charge
    else:
        queue.oldest = charge
        _publish_head(table, column, slot, charge)
    queue.newest = charge
    add_u64(&load_slot(table, slot).attempts, 1)


cdef void _leave_queue(load_table_t* table, uint32_t column, charge_t* charge) noexcept nogil:
    cdef uint32_t slot = charge.slot
    cdef uint32_t* cell = load_cell_at(table, column, 0, slot)
    cdef size_t stride = table.slot_count
    cdef load_queue_t* queue = &table.queues[load_place(table, column, slot)]
    if charge.newer != NULL:
        charge.newer.older = charge.older
    else:
        queue.newest = charge.older
    if charge.older != NULL:
        charge.older.newer = charge.newer
    else:
        queue.oldest = charge.newer
        _publish_head(table, column, slot, queue.oldest)
    charge.older = charge.newer = NULL
    _take(table, cell + ROW_PENDING * stride, 1)
    _take(table, cell + ROW_QUEUED_TOKENS * stride, charge.uncached_tokens)
    _take(table, cell + ROW_QUEUED_WORK * stride, charge.work_ticks)


cdef void load_first_token(load_table_t* table, uint32_t column, charge_t* charge, uint64_t now_us) noexcept nogil:
    cdef uint64_t* last_us = &table.last_first_token_us[charge.slot]
    if charge.state != CHARGE_PENDING:
        return
    _leave_queue(table, column, charge)
    charge.state = CHARGE_DECODING
    if charge.work_ticks and load_u64(last_us) < now_us:     # an answer without a prompt says nothing of the queue
        store_u64(last_us, now_us)


cdef void load_release(load_table_t* table, uint32_t column, charge_t* charge) noexcept nogil:
    cdef uint32_t* in_flight
    if charge.state == CHARGE_NONE:
        return
    if charge.state == CHARGE_PENDING:
        _leave_queue(table, column, charge)
    charge.state = CHARGE_NONE
    in_flight = load_cell_at(table, column, ROW_IN_FLIGHT, charge.slot)
    _take(table, in_flight, 1)
    _take(table, load_cell_at(table, column, ROW_KV_TOKENS, charge.slot), charge.kv_tokens)


cdef void load_set_remote(load_table_t* table, uint32_t column, uint32_t slot, const uint32_t* cells) noexcept nogil:
    # When its oldest charge began is not known here: nobody takes it for progress.
    cdef int row
    _activate(table, column)
    for row in range(ROW_COUNT):
        store_u32(load_cell_at(table, column, row, slot), cells[row])


cdef void load_expect_remote(load_table_t* table, uint32_t column, const charge_t* charge) noexcept nogil:
    if charge.state != CHARGE_PENDING:
        return
    _count_pending(table, column, charge)


# --- sums ------------------------------------------------------------------------------------------------------------

cdef inline uint32_t _word_count(load_table_t* table) noexcept nogil:
    return (table.column_count + 63) >> 6


cdef uint64_t load_sum(load_table_t* table, int row, uint32_t slot) noexcept nogil:
    cdef uint32_t word_index
    cdef uint64_t active, total = 0
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            total += load_u32(load_cell_at(table, (word_index << 6) + <uint32_t>lowest_bit(active), row, slot))
            active &= active - 1
    return total


cdef uint32_t load_in_flight(load_table_t* table, uint32_t slot) noexcept nogil:
    return <uint32_t>load_sum(table, ROW_IN_FLIGHT, slot)


cdef void load_row_many(
    load_table_t* table, int row, const uint32_t* slots, uint32_t count, float* sums
) noexcept nogil:
    cdef uint32_t index, word_index
    cdef uint64_t active
    cdef const uint32_t* cells
    cdef uint32_t* totals = <uint32_t*>sums
    memset(sums, 0, count * sizeof(float))
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            cells = load_cell_at(table, (word_index << 6) + <uint32_t>lowest_bit(active), row, 0)
            active &= active - 1
            for index in range(count):
                totals[index] += cells[slots[index]]
    fl_to_float(totals, count)


cdef void load_row(load_table_t* table, int row, uint32_t slot, uint32_t count, float* sums) noexcept nogil:
    # Column by column and by plain loads of whole aligned words, which vectorise where atomic ones do not.
    cdef uint32_t word_index
    cdef uint64_t active
    cdef const uint32_t* cells
    cdef bint is_first = True
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            cells = load_cell_at(table, (word_index << 6) + <uint32_t>lowest_bit(active), row, slot)
            active &= active - 1
            if is_first:
                is_first = False
                memcpy(sums, cells, count * sizeof(uint32_t))
            else:
                fl_add(<uint32_t*>sums, cells, count)
    if is_first:
        memset(sums, 0, count * sizeof(float))
    else:
        fl_to_float(<uint32_t*>sums, count)


cdef uint64_t load_head(load_table_t* table, uint32_t slot, uint32_t* work_ticks) noexcept nogil:
    cdef uint32_t word_index, column
    cdef uint64_t active, begun_us, oldest_us = 0
    work_ticks[0] = 0
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            column = (word_index << 6) + <uint32_t>lowest_bit(active)
            active &= active - 1
            begun_us = load_u64(&table.head_begun_us[load_place(table, column, slot)])
            if begun_us and (oldest_us == 0 or begun_us < oldest_us):
                oldest_us = begun_us
                work_ticks[0] = load_u32(load_cell_at(table, column, ROW_HEAD_WORK, slot))
    return oldest_us


cdef charge_t* load_oldest(load_table_t* table, uint32_t slot) noexcept nogil:
    cdef uint32_t word_index
    cdef uint64_t active
    cdef charge_t* oldest = NULL
    cdef charge_t* charge
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            charge = table.queues[load_place(table, (word_index << 6) + <uint32_t>lowest_bit(active), slot)].oldest
            active &= active - 1
            if charge != NULL and (oldest == NULL or charge.begun_us < oldest.begun_us):
                oldest = charge
    return oldest


cdef uint64_t load_last_first_token_us(load_table_t* table, uint32_t slot) noexcept nogil:
    return load_u64(&table.last_first_token_us[slot])


cdef void load_read(
    load_table_t* table, const uint32_t* slots, uint32_t slot, uint32_t count, uint64_t now_us, load_read_t* read
) noexcept nogil:
    cdef fl_columns_t columns
    cdef uint32_t word_index, column
    cdef uint64_t active
    columns.columns = 0
    columns.stride = table.slot_count
    columns.last_us = table.last_first_token_us
    # With nobody active yet, the first column's zeros will do.
    columns.cells[0], columns.begun_us[0] = table.cells, table.head_begun_us
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            column = (word_index << 6) + <uint32_t>lowest_bit(active)
            active &= active - 1
            columns.cells[columns.columns] = load_cell_at(table, column, 0, 0)
            columns.begun_us[columns.columns] = &table.head_begun_us[load_place(table, column, 0)]
            columns.columns += 1
    fl_read(&columns, slots, slot, count, <uint32_t>now_us, WORK_TICK_US, <float>(WORK_TICK_US * 1e-6),
            &read.in_flight)

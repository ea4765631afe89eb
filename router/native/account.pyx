"""Charges of attempts at endpoints, and the sums over workers that picks read.

Invariant: every cell has one writer, the worker that owns its column, so a charge is plain stores. Rows are arrays over
slots, and the sum of a row over columns vectorises. Which pending charge is the oldest is known exactly: a worker keeps
its own ones of a slot in a list, in its own memory, and publishes the begin and the work of the first. What is taken
back without having been given is counted as an underflow and never goes below zero. Neighbours: loadtable (the segment,
the door for Python), decision (when to charge), view (what picks read).
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from router.native.atomic cimport add_u64, load_u32, load_u64, lowest_bit, or_u64, store_u32, store_u64

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* Loops over endpoints that must vectorise: no branches, nothing overlaps. */
    static void fl_add(uint32_t* __restrict sums, const uint32_t* __restrict cells, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) sums[i] += cells[i];
    }
    /* In place. By way of int32, whose conversion is one instruction; no sum comes near 2^31 (6 hours of work in ticks
       of 10 us, 2 G tokens), and one that does stays there. */
    static void fl_to_float(uint32_t* sums, uint32_t count) {
        float* floats = (float*) sums;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t sum = sums[i] < 0x7FFFFFFFu ? sums[i] : 0x7FFFFFFFu;
            floats[i] = (float) (int32_t) sum;
        }
    }
    /* The oldest charge over columns and its work. Times are taken by their lower 32 bits: ages above 35 minutes read
       as none, which loses the progress of one prompt. */
    static void fl_heads(const uint64_t* __restrict begun_us, const uint32_t* __restrict work, uint32_t now,
                         int32_t* __restrict ages_us, int32_t* __restrict head_ticks, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) {
            uint32_t begun = (uint32_t) begun_us[i];
            int32_t ticks = (int32_t) work[i], before = ages_us[i], kept = head_ticks[i];
            int32_t age = (int32_t) (now - begun);
            age = age > 0 ? age : 0;
            age = begun ? age : -1;
            head_ticks[i] = age > before ? ticks : kept;
            ages_us[i] = age > before ? age : before;
        }
    }
    static void fl_progress(const uint64_t* __restrict last_us, const int32_t* __restrict ages_us,
                            const int32_t* __restrict head_ticks, uint32_t now, int32_t tick_us,
                            float* __restrict progress_us, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) {
            uint32_t last = (uint32_t) last_us[i];
            int32_t since = (int32_t) (now - last), age = ages_us[i], most = head_ticks[i] * tick_us;
            since = (since >= 0) & (last != 0) ? since : INT32_MAX;
            since = age < since ? age : since;
            since = since < most ? since : most;
            since = since > 0 ? since : 0;
            progress_us[i] = (float) since;
        }
    }
    """
    void fl_add(uint32_t* sums, const uint32_t* cells, uint32_t count)
    void fl_to_float(uint32_t* sums, uint32_t count)
    void fl_heads(const uint64_t* begun_us, const uint32_t* work, uint32_t now, int32_t* ages_us, int32_t* head_ticks,
                  uint32_t count)
    void fl_progress(const uint64_t* last_us, const int32_t* ages_us, const int32_t* head_ticks, uint32_t now,
                     int32_t tick_us, float* progress_us, uint32_t count)

cdef enum:
    BLOCK_COUNT = 256                # slots whose oldest charges are looked at together, on the stack


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


cdef void load_charge(load_table_t* table, uint32_t column, charge_t* charge, uint64_t now_us) noexcept nogil:
    cdef uint32_t slot = charge.slot
    cdef uint32_t* cell = load_cell_at(table, column, 0, slot)
    cdef size_t stride = table.slot_count
    cdef load_queue_t* queue = &table.queues[load_place(table, column, slot)]
    charge.prompt_tokens = min(charge.prompt_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.uncached_tokens = min(charge.uncached_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.kv_tokens = min(charge.kv_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    charge.work_ticks = min(charge.work_ticks, <uint32_t>WORK_TICKS_MAX)
    charge.begun_us = now_us if now_us else 1        # 0 means that nothing is pending
    charge.state = CHARGE_PENDING
    charge.newer = NULL
    charge.older = queue.newest
    _activate(table, column)
    _add(cell + ROW_IN_FLIGHT * stride, 1)
    _add(cell + ROW_PENDING * stride, 1)
    _add(cell + ROW_QUEUED_TOKENS * stride, charge.uncached_tokens)
    _add(cell + ROW_QUEUED_WORK * stride, charge.work_ticks)
    _add(cell + ROW_KV_TOKENS * stride, charge.kv_tokens)
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


cdef void load_progress(
    load_table_t* table, const uint32_t* slots, uint32_t slot, uint32_t count, uint64_t now_us, float* progress_us
) noexcept nogil:
    cdef uint32_t start = 0, size
    while start < count:
        size = min(count - start, <uint32_t>BLOCK_COUNT)
        if slots != NULL:
            _progress_many(table, slots + start, size, now_us, progress_us + start)
        else:
            _progress_row(table, slot + start, size, <uint32_t>now_us, progress_us + start)
        start += size


cdef void _progress_many(
    load_table_t* table, const uint32_t* slots, uint32_t count, uint64_t now_us, float* progress_us
) noexcept nogil:
    cdef uint32_t index, work_ticks = 0
    cdef uint64_t since_us
    for index in range(count):
        since_us = load_head(table, slots[index], &work_ticks)
        since_us = max(since_us, load_u64(&table.last_first_token_us[slots[index]]))
        progress_us[index] = min(
            <float>work_ticks * <float>WORK_TICK_US, <float><int64_t>(now_us - since_us) if now_us > since_us else 0)


cdef void _progress_row(
    load_table_t* table, uint32_t slot, uint32_t count, uint32_t now, float* progress_us
) noexcept nogil:
    # As above, column by column without branches.
    cdef int32_t[BLOCK_COUNT] ages_us
    cdef int32_t[BLOCK_COUNT] head_ticks
    cdef uint32_t index, word_index, column
    cdef uint64_t active
    for index in range(count):
        ages_us[index] = -1
        head_ticks[index] = 0
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            column = (word_index << 6) + <uint32_t>lowest_bit(active)
            active &= active - 1
            fl_heads(&table.head_begun_us[load_place(table, column, slot)],
                     load_cell_at(table, column, ROW_HEAD_WORK, slot), now, ages_us, head_ticks, count)
    fl_progress(&table.last_first_token_us[slot], ages_us, head_ticks, now, WORK_TICK_US, progress_us, count)

"""Charges of attempts at endpoints, and the sums over workers that picks read.

Invariant: every cell has one writer, the worker that owns its column, so a charge is plain stores. Rows are arrays over
slots, and the sum of a row over columns vectorises. Which pending charge is the oldest is known exactly: a worker keeps
its own ones of a slot in a list, in its own memory, and publishes the begin and the work of the first. What is taken
back without having been given is counted as an underflow and never goes below zero. Neighbours: loadtable (the segment,
the door for Python), decision (when to charge), view (what picks read).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from router.native.atomic cimport add_u64, load_u32, load_u64, lowest_bit, or_u64, store_u32, store_u64

cdef enum:
    BLOCK_COUNT = 256                # slots whose oldest charges are looked at together, on the stack

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF


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


cdef inline void _publish_head(load_table_t* table, uint32_t column, uint32_t slot, const charge_t* head) noexcept nogil:
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
    _to_float(totals, count, sums)


cdef void load_row(load_table_t* table, int row, uint32_t slot, uint32_t count, float* sums) noexcept nogil:
    # Column by column and by plain loads of whole aligned words, which vectorise where atomic ones do not.
    cdef uint32_t index, word_index
    cdef uint64_t active
    cdef const uint32_t* cells
    cdef uint32_t* totals = <uint32_t*>sums
    cdef bint is_first = True
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            cells = load_cell_at(table, (word_index << 6) + <uint32_t>lowest_bit(active), row, slot)
            active &= active - 1
            if is_first:
                is_first = False
                _to_float(cells, count, sums)
                if not active and word_index + 1 == _word_count(table):
                    return               # one worker: nothing to add
                for index in range(count):
                    totals[index] = cells[index]
            else:
                for index in range(count):
                    totals[index] += cells[index]
    if is_first:
        memset(sums, 0, count * sizeof(float))
    else:
        _to_float(totals, count, sums)


cdef inline void _to_float(const uint32_t* totals, uint32_t count, float* sums) noexcept nogil:
    # By way of int32, whose conversion is one instruction; no sum comes near 2^31 (22 days of work, 2 G tokens).
    cdef uint32_t index
    for index in range(count):
        sums[index] = <float><int>(totals[index] if totals[index] < <uint32_t>0x7FFFFFFF else <uint32_t>0x7FFFFFFF)


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
            _progress_row(table, slot + start, size, <int64_t>now_us, progress_us + start)
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
    load_table_t* table, uint32_t slot, uint32_t count, int64_t now_us, float* progress_us
) noexcept nogil:
    # As above, column by column without branches.
    cdef int64_t[BLOCK_COUNT] oldest_us
    cdef float[BLOCK_COUNT] head_work
    cdef uint32_t index, word_index, column
    cdef uint64_t active
    cdef const int64_t* begun_us
    cdef const int64_t* last_us
    cdef const uint32_t* work_ticks
    cdef int64_t begun, since
    cdef float work
    for index in range(count):
        oldest_us[index] = NEVER
        head_work[index] = 0
    for word_index in range(_word_count(table)):
        active = load_u64(&load_header(table).active[word_index])
        while active:
            column = (word_index << 6) + <uint32_t>lowest_bit(active)
            active &= active - 1
            begun_us = <const int64_t*>&table.head_begun_us[load_place(table, column, slot)]
            work_ticks = load_cell_at(table, column, ROW_HEAD_WORK, slot)
            for index in range(count):
                begun = begun_us[index] if begun_us[index] else NEVER
                work = <float><int>work_ticks[index]
                head_work[index] = work if begun < oldest_us[index] else head_work[index]
                oldest_us[index] = begun if begun < oldest_us[index] else oldest_us[index]
    last_us = <const int64_t*>&table.last_first_token_us[slot]
    for index in range(count):
        since = oldest_us[index] if oldest_us[index] > last_us[index] else last_us[index]
        since = now_us - since
        since = since if since > 0 else 0
        since = since if since < 0x7FFFFFFF else 0x7FFFFFFF
        work = head_work[index] * <float>WORK_TICK_US
        progress_us[index] = work if work < <float><int>since else <float><int>since

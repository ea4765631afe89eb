"""What every endpoint has been given and has not finished: charges, and their sums over all workers.

A worker writes only its own column, row by row, and the sum of a row over columns is the account, so that a worker's
pick is seen by the next pick of any other, and a dead worker's share is settled by clearing its column: no race can
leak or double a charge. The memory is the load table's; cimport from there.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum load_cell:                 # cells[(column * ROW_COUNT + row) * slot_count + slot]
    ROW_IN_FLIGHT = 0                # attempts open
    ROW_PENDING = 1                  # of these not yet at their first token
    ROW_QUEUED_TOKENS = 2            # uncached prompt tokens of the pending ones
    ROW_QUEUED_WORK = 3              # the same as prefill work on that endpoint, in ticks of WORK_TICK_US
    ROW_KV_TOKENS = 4                # prompt and expected output tokens of all in flight
    ROW_HEAD_WORK = 5                # the work of the oldest pending attempt
    ROW_COUNT = 6

cdef enum:
    WORK_TICK_US = 10
    WORK_TICKS_MAX = 1 << 24         # of one charge: 168 s; 256 of them fit a cell
    CHARGE_TOKENS_MAX = 1 << 22      # of one charge; 1,024 of them fit a cell

cdef enum charge_state:
    CHARGE_NONE = 0
    CHARGE_PENDING = 1               # no first token yet
    CHARGE_DECODING = 2

cdef struct charge_t:                # one attempt's share of an account; zero-filled is "not charged". Must not move.
    charge_t* older                  # pending charges of this worker at this slot, oldest first
    charge_t* newer
    uint64_t begun_us
    uint64_t model                   # that takes a place among those loaded there; 0: none does
    uint32_t slot
    uint32_t prompt_tokens           # all of the prompt
    uint32_t uncached_tokens         # of these not believed cached there
    uint32_t work_ticks              # prefill work
    uint32_t kv_tokens
    uint32_t hit_tokens              # believed cached there, before trust: the engine's own figure is held against it
    float predicted_s                # TTFT as predicted at the pick; 0: it was not
    float queued_s                   # what the prediction was made of: work queued before this
    float work_s                     # its own work
    float decoding                   # streams decoding there
    float load_s                     # until its model is loaded there
    uint8_t state                    # charge_state

cdef struct load_queue_t:            # a worker's own: its pending charges at one slot
    charge_t* oldest
    charge_t* newest

cdef struct load_table_t:            # process-local view of the shared segment
    uint8_t* base
    size_t size_bytes
    uint32_t slot_count              # endpoints; a whole number of cache lines of cells
    uint32_t column_count            # workers of both generations of a takeover, and other replicas
    uint32_t* cells
    uint64_t* head_begun_us          # head_begun_us[column * slot_count + slot]: of the oldest pending charge; 0: none
    uint64_t* last_first_token_us    # last_first_token_us[slot], by any worker; 0: none
    void* shared                     # load_slot_t[slot_count], two cache lines each
    load_queue_t* queues             # queues[column * slot_count + slot], of the columns this process charges

cdef struct load_read_t:             # arrays up to the next multiple of 16 of `count`, all of which is written
    float* in_flight
    float* pending
    float* decoding                  # in_flight - pending
    float* queued_tokens
    float* queued_s                  # the queued work less the progress
    float* kv_tokens
    float* progress_us               # of the oldest pending charge, what its engine has had time for; at most its work

cdef struct load_header_t:           # the first page of the segment
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

cdef struct load_slot_t:             # what is shared about an endpoint and is no account
    uint64_t ejection                # read by picks: a line of its own
    uint8_t padding_ejection[56]
    uint64_t ttft                    # estimate words
    uint64_t itl
    uint64_t error
    uint64_t attempts
    uint8_t padding_estimates[32]

cdef inline load_header_t* load_header(load_table_t* table) noexcept nogil:
    return <load_header_t*>table.base

cdef inline load_slot_t* load_slot(load_table_t* table, uint32_t slot) noexcept nogil:
    return <load_slot_t*>table.shared + slot

cdef inline uint32_t* load_cell_at(load_table_t* table, uint32_t column, int row, uint32_t slot) noexcept nogil:
    return table.cells + (<size_t>column * ROW_COUNT + <size_t>row) * table.slot_count + slot

cdef inline size_t load_place(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil:
    return <size_t>column * table.slot_count + slot

# Adds a charge that is not charged yet (slot, tokens, work given by the caller); one step with the pick. Clamps to the
# maxima.
cdef void load_charge(load_table_t* table, uint32_t column, charge_t* charge, uint64_t now_us) noexcept nogil
# The prompt has been prefilled: its queued tokens and work go. Once; later calls and released charges change nothing.
cdef void load_first_token(load_table_t* table, uint32_t column, charge_t* charge, uint64_t now_us) noexcept nogil
# Takes the whole charge back, whatever its state. Idempotent.
cdef void load_release(load_table_t* table, uint32_t column, charge_t* charge) noexcept nogil
# The sum of a row over active columns.
cdef uint64_t load_sum(load_table_t* table, int row, uint32_t slot) noexcept nogil
cdef uint32_t load_in_flight(load_table_t* table, uint32_t slot) noexcept nogil
# The same of slots[i], or of slot + i, as float32: what a pick over many candidates uses.
cdef void load_row_many(
    load_table_t* table, int row, const uint32_t* slots, uint32_t count, float* sums) noexcept nogil
cdef void load_row(load_table_t* table, int row, uint32_t slot, uint32_t count, float* sums) noexcept nogil
# Begin of the oldest pending charge over all columns, and its work in ticks; 0: none pending.
cdef uint64_t load_head(load_table_t* table, uint32_t slot, uint32_t* work_ticks) noexcept nogil
# The oldest pending charge that this process made at the slot; NULL: none.
cdef charge_t* load_oldest(load_table_t* table, uint32_t slot) noexcept nogil
# The latest first token at the slot by any worker: since then its engine has worked on the head of its queue.
cdef uint64_t load_last_first_token_us(load_table_t* table, uint32_t slot) noexcept nogil
# All that a pick reads of slots[i], or of slot + i when `slots` is NULL. Progress counts from when the charge began or
# the last first token came, whichever is later.
cdef void load_read(
    load_table_t* table, const uint32_t* slots, uint32_t slot, uint32_t count, uint64_t now_us, load_read_t* read
) noexcept nogil
# Another replica's account, taken as its column; `cells` is ROW_COUNT values of one slot.
cdef void load_set_remote(load_table_t* table, uint32_t column, uint32_t slot, const uint32_t* cells) noexcept nogil
# Until it is heard of again: it is expected to have charged what this one has, for it saw what this one saw.
cdef void load_expect_remote(load_table_t* table, uint32_t column, const charge_t* charge) noexcept nogil

"""What every endpoint has been given and has not finished, in memory shared by all workers and the supervisor.

Accounts are in account.pxd, whose names are found here too; this adds the segment, estimates of how an endpoint answers
(EWMA, packed value+stamp words updated by compare-and-swap), and ejection.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.account cimport (
    CHARGE_DECODING, CHARGE_NONE, CHARGE_PENDING, CHARGE_TOKENS_MAX, ROW_COUNT, ROW_HEAD_WORK, ROW_IN_FLIGHT,
    ROW_KV_TOKENS, ROW_PENDING, ROW_QUEUED_TOKENS, ROW_QUEUED_WORK, WORK_TICK_US, WORK_TICKS_MAX, charge_t,
    load_charge, load_expect_remote, load_first_token, load_head, load_in_flight, load_last_first_token_us,
    load_oldest, load_queue_t, load_read, load_read_t, load_release, load_row, load_row_many, load_set_remote,
    load_sum, load_table_t,
)

cdef struct load_view_t:             # a consistent enough reading of one slot
    uint32_t in_flight
    uint32_t pending
    uint32_t queued_tokens
    uint64_t queued_work_us
    uint64_t kv_tokens
    uint64_t oldest_pending_us       # when it began, monotonic; 0: none pending
    float ttft_us                    # EWMA; 0 when never observed
    float itl_us
    float error_ratio                # EWMA of failures, as of the last outcome
    uint32_t error_stamp_ms          # when that came; wraps
    uint64_t attempts
    uint64_t ejected_until_us        # monotonic, may have passed; 0 when a success came since, or never ejected

cdef void load_observe_ttft(load_table_t* table, uint32_t slot, uint32_t ttft_us, uint64_t now_us) noexcept nogil
cdef void load_observe_itl(load_table_t* table, uint32_t slot, uint32_t itl_us, uint64_t now_us) noexcept nogil
cdef void load_observe_outcome(load_table_t* table, uint32_t slot, bint failed, uint64_t now_us) noexcept nogil
# A connect failure ejects at once for base_us doubled with each failure in a row up to max_us; a success readmits.
# A failure while ejected is an attempt begun before the ejection, or a last resort: it neither doubles nor prolongs.
cdef void load_eject(
    load_table_t* table, uint32_t slot, uint64_t now_us, uint64_t base_us, uint64_t max_us
) noexcept nogil
cdef void load_readmit(load_table_t* table, uint32_t slot) noexcept nogil
cdef bint load_is_ejected(load_table_t* table, uint32_t slot, uint64_t now_us) noexcept nogil
# No slot is ejected from this time on: one read that spares a pick all the others.
cdef uint64_t load_ejections_end_us(load_table_t* table) noexcept nogil
cdef void load_view(load_table_t* table, uint32_t slot, load_view_t* view) noexcept nogil

cdef class LoadTable:
    cdef load_table_t table
    cdef object _mapping
    cdef dict _held                  # (column, slot) -> deque[Charge]: those that Python charged
    cdef object _slots(self, slots, bint in_a_row)
    cdef readonly int fd             # owned by the table; pass it on, do not close it

cdef class Charge:                   # a charge_t that stays where it is; for tests and tools
    cdef charge_t charge

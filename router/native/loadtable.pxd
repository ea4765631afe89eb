"""In-flight counts and latency estimates per endpoint, in memory shared by all workers and the supervisor.

Each worker writes only its own column of in-flight cells and the sum over columns is the count, so that a worker's pick
is seen by the next pick of any other, and a dead worker's share is settled by clearing its column: no race can leak or
double a charge. Estimates (EWMA) are packed value+stamp words updated by compare-and-swap.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef struct load_table_t:            # process-local view of the shared segment
    uint8_t* base
    size_t size_bytes
    uint32_t slot_count              # endpoints; a whole number of cache lines of cells
    uint32_t column_count            # workers, both generations of a takeover
    uint32_t* cells                  # cells[column * slot_count + slot]: attempts open
    void* shared                     # slot_shared_t[slot_count], a cache line (or two) each

cdef struct load_view_t:             # a consistent enough reading of one slot
    uint32_t in_flight
    float ttft_us                    # EWMA; 0 when never observed
    float itl_us
    float error_ratio                # EWMA of failures
    uint64_t attempts
    uint64_t ejected_until_us        # monotonic, may have passed; 0 when a success came since, or never ejected

cdef void load_charge(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil
# Never below zero; counts an underflow instead.
cdef void load_release(load_table_t* table, uint32_t column, uint32_t slot) noexcept nogil
cdef uint32_t load_in_flight(load_table_t* table, uint32_t slot) noexcept nogil
# in_flight[i] of slots[i], or of slot + i, in one call: what a pick over many candidates uses.
cdef void load_in_flight_many(
    load_table_t* table, const uint32_t* slots, uint32_t count, uint32_t* in_flight
) noexcept nogil
cdef void load_in_flight_row(load_table_t* table, uint32_t slot, uint32_t count, uint32_t* in_flight) noexcept nogil
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
    cdef readonly int fd             # owned by the table; pass it on, do not close it

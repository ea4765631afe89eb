"""The load report of an answer: the `endpoint-load-metrics` field, as vLLM and Triton write it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from router.native.signals cimport signal_table_t

cdef enum:
    LOAD_REPORT_BYTES_MAX = 4096     # a few numbers; what is longer is not read

# Writes what the field's value says of the queue and the cache of `slot`. What cannot be read is counted.
cdef void load_report_take(
    signal_table_t* table, uint32_t slot, const uint8_t* text, size_t size, uint64_t now_us) noexcept nogil

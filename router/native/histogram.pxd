"""Log-linear histograms of microseconds: fixed size, a few nanoseconds a sample, mergeable by adding.

Values below 16 us have a bucket each; above, every octave has 16 equal ones, so a bucket is at most 1/16 of its value
wide and its middle at most 3.1 % off. The idea and the name are HdrHistogram's (Tene). One writer; readers may look at
any time.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    HISTOGRAM_OCTAVE_BUCKETS = 16
    HISTOGRAM_BUCKET_COUNT = 464     # 16 * (32 - 4 + 1): up to 2^32 us, 71 minutes

cdef struct histogram_t:             # zero-filled is empty
    uint64_t sum_us
    uint64_t buckets[464]            # HISTOGRAM_BUCKET_COUNT

cdef void histogram_record(histogram_t* histogram, uint64_t value_us) noexcept nogil     # at most 71 minutes
cdef void histogram_merge(histogram_t* into, const histogram_t* other) noexcept nogil
cdef uint64_t histogram_count(const histogram_t* histogram) noexcept nogil
# The value that `quantile` (0..1) of the samples do not exceed, interpolated in its bucket; 0 when empty.
cdef double histogram_quantile_us(const histogram_t* histogram, double quantile) noexcept nogil
# counts[i]: samples at or below boundaries_us[i] (ascending); a bucket that one cuts counts by the part below.
cdef void histogram_cumulative(
    const histogram_t* histogram, const double* boundaries_us, uint32_t boundary_count, uint64_t* counts
) noexcept nogil

cdef class Histogram:
    cdef histogram_t histogram

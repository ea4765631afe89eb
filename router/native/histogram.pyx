"""Log-linear histograms of microseconds: fixed size, a few nanoseconds a sample, mergeable by adding.

Bucket of a value v >= 16 with its highest bit e: 16 * (e - 3) + the four bits below the highest one. So bucket i holds
    [(16 + i % 16) << s, (17 + i % 16) << s) with s = i / 16 - 1,
and buckets 0..15 one value each. Samples are whole microseconds: a bucket [a, b) holds the values a .. b - 1.
Neighbours: metrics keeps them in shared memory and router/metrics.py renders them; bench uses the Python class.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from *:
    """
    static inline uint32_t highest_bit(uint64_t word) { return 63 - (uint32_t)__builtin_clzll(word); }
    """
    uint32_t highest_bit(uint64_t word) noexcept nogil

cdef uint64_t VALUE_US_MAX = 0xFFFFFFFF


cdef inline uint32_t _bucket_index(uint64_t value_us) noexcept nogil:
    cdef uint32_t bit
    if value_us < HISTOGRAM_OCTAVE_BUCKETS:
        return <uint32_t>value_us
    if value_us > VALUE_US_MAX:
        value_us = VALUE_US_MAX
    bit = highest_bit(value_us)
    return ((bit - 3) << 4) + (<uint32_t>(value_us >> (bit - 4)) & 15)


cdef inline uint64_t _bucket_start_us(uint32_t index) noexcept nogil:
    if index < HISTOGRAM_OCTAVE_BUCKETS:
        return index
    return <uint64_t>(16 + (index & 15)) << ((index >> 4) - 1)


cdef void histogram_record(histogram_t* histogram, uint64_t value_us) noexcept nogil:
    histogram.sum_us += value_us
    histogram.buckets[_bucket_index(value_us)] += 1


cdef void histogram_merge(histogram_t* into, const histogram_t* other) noexcept nogil:
    cdef uint32_t index
    into.sum_us += other.sum_us
    for index in range(<uint32_t>HISTOGRAM_BUCKET_COUNT):
        into.buckets[index] += other.buckets[index]


cdef uint64_t histogram_count(const histogram_t* histogram) noexcept nogil:
    cdef uint64_t count = 0
    cdef uint32_t index
    for index in range(<uint32_t>HISTOGRAM_BUCKET_COUNT):
        count += histogram.buckets[index]
    return count


cdef double histogram_quantile_us(const histogram_t* histogram, double quantile) noexcept nogil:
    cdef uint64_t count = histogram_count(histogram), start_us, last_us
    cdef double rank = quantile * <double>count, below = 0.0, here
    cdef uint32_t index, last_index = 0
    for index in range(<uint32_t>HISTOGRAM_BUCKET_COUNT):
        here = <double>histogram.buckets[index]
        if here == 0.0:
            continue
        start_us = _bucket_start_us(index)
        last_us = _bucket_start_us(index + 1) - 1
        if below + here >= rank:
            return start_us + <double>(last_us - start_us) * ((rank - below) / here if rank > below else 0.0)
        below += here
        last_index = index
    return <double>(_bucket_start_us(last_index + 1) - 1) if count else 0.0      # quantile above 1


cdef void histogram_cumulative(
    const histogram_t* histogram, const double* boundaries_us, uint32_t boundary_count, uint64_t* counts
) noexcept nogil:
    cdef uint64_t below = 0
    cdef uint32_t index = 0, boundary
    cdef double start_us, width_us
    for boundary in range(boundary_count):
        while index < HISTOGRAM_BUCKET_COUNT and _bucket_start_us(index + 1) <= boundaries_us[boundary] + 1:
            below += histogram.buckets[index]
            index += 1
        counts[boundary] = below
        if index < HISTOGRAM_BUCKET_COUNT:
            start_us = <double>_bucket_start_us(index)
            width_us = <double>_bucket_start_us(index + 1) - start_us
            if boundaries_us[boundary] >= start_us:
                counts[boundary] += <uint64_t>(
                    <double>histogram.buckets[index] * ((boundaries_us[boundary] + 1 - start_us) / width_us)
                )


cdef class Histogram:
    """A histogram of this process; those in shared memory are copied out into one."""

    def record(self, uint64_t value_us):
        histogram_record(&self.histogram, value_us)

    def merge(self, Histogram other not None):
        histogram_merge(&self.histogram, &other.histogram)

    def clear(self):
        memset(&self.histogram, 0, sizeof(histogram_t))

    @property
    def count(self):
        return histogram_count(&self.histogram)

    @property
    def sum_us(self):
        return self.histogram.sum_us

    def quantile_us(self, double quantile):
        return histogram_quantile_us(&self.histogram, quantile)

    def cumulative(self, boundaries_us):
        cdef uint32_t count = len(boundaries_us)
        cdef uint32_t index
        cdef double* boundaries = <double*>calloc(count + 1, sizeof(double))
        cdef uint64_t* counts = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
        if boundaries == NULL or counts == NULL:
            free(boundaries)
            free(counts)
            raise MemoryError
        try:
            for index in range(count):
                boundaries[index] = boundaries_us[index]
            histogram_cumulative(&self.histogram, boundaries, count, counts)
            return [counts[index] for index in range(count)]
        finally:
            free(boundaries)
            free(counts)

    def buckets(self):
        return [
            (_bucket_start_us(index), self.histogram.buckets[index])
            for index in range(HISTOGRAM_BUCKET_COUNT)
            if self.histogram.buckets[index]
        ]

    def record_evenly(self, uint64_t sample_count):
        """Records 1 .. sample_count us without the interpreter, for benches."""
        cdef uint64_t value_us
        with nogil:
            for value_us in range(1, sample_count + 1):
                histogram_record(&self.histogram, value_us)


def bucket_starts_us():
    """Where each bucket starts, and where the last one ends."""
    return [_bucket_start_us(index) for index in range(HISTOGRAM_BUCKET_COUNT + 1)]

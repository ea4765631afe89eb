"""What a histogram of microseconds must answer, from the samples themselves."""

from collections.abc import Sequence
from fractions import Fraction

VALUE_US_MAX = 2**32 - 1


def bucket(value_us: int) -> tuple[int, int]:
    """(first value, width) of a value's bucket: 16 equal ones per octave, single values below 16."""
    width = 1
    while value_us // width >= 32:
        width *= 2
    return value_us // width * width, width


def cumulative(samples_us: Sequence[int], boundary_us: float) -> Fraction:
    """Samples at or below the boundary, those of a bucket being spread evenly over it."""
    total = Fraction(0)
    for sample_us in samples_us:
        start, width = bucket(min(sample_us, VALUE_US_MAX))
        part = (Fraction(boundary_us) + 1 - start) / width
        if boundary_us >= start:
            total += min(part, Fraction(1))
    return total

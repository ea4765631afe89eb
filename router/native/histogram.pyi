"""Log-linear histograms as Python sees them: what metrics hands out, and what benches record into."""

from collections.abc import Sequence

class Histogram:
    def __init__(self) -> None: ...
    def record(self, value_us: int) -> None:
        """Adds a sample; over 71 minutes it counts as 71 minutes (the sum keeps the true value)."""
    def merge(self, other: Histogram) -> None: ...
    def clear(self) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def sum_us(self) -> int: ...
    def quantile_us(self, quantile: float) -> float:
        """The value that `quantile` (0..1) of the samples do not exceed, within 1/16; 0 when empty."""
    def cumulative(self, boundaries_us: Sequence[float]) -> list[int]:
        """How many samples are at or below each boundary (ascending); a cut bucket counts in part."""
    def buckets(self) -> list[tuple[int, int]]:
        """(first value in us, count) of each bucket that is not empty."""
    def record_evenly(self, sample_count: int) -> None:
        """Records 1 .. sample_count us in native code, for benches."""

def bucket_starts_us() -> list[int]:
    """Where each bucket starts, and where the last one ends."""

"""The door to what policies remember, for tests; requests call the same C without it."""

class PolicyMemory:
    """What policies remember of `slot_count` endpoints.

    Raises: MemoryError.
    """

    def __init__(self, slot_count: int) -> None: ...
    def first_token(
        self, slot: int, ttft_s: float, now_us: int, uncached_tokens: int = 0, in_flight: int = 0
    ) -> None:
        """A first token came `ttft_s` after an attempt began, with so many others in flight there."""
    def ended_early(self, slot: int, begun_us: int, now_us: int, failed: bool, in_flight: int = 0) -> None:
        """An attempt ended before its first token, by the endpoint's fault or not."""
    def forget(self, slot: int) -> None: ...
    def peak_s(self, slot: int, guess_s: float, decay_s: float, now_us: int) -> float:
        """Peak EWMA of the time to first token, decayed to now."""
    def latency_s(self, slot: int, in_flight: float) -> float:
        """Median time to first token at the nearest number in flight; 0: none known."""
    def rate(self, slot: int) -> float:
        """The 90th percentile of the last tokens per second; 0 until 8 are known."""

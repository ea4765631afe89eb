"""The canary's split, for tests."""

def is_canary(key: int, ratio: float) -> bool:
    """Whether the session of this key has the canary when it is given to `ratio` of all."""

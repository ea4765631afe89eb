"""Load reports as tests read them."""

def read_report(text: bytes) -> tuple[float | None, float | None, float | None] | None:
    """(waiting, running, kv) as a report says them, None where it does not; None: it cannot be read."""

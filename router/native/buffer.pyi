"""The door of the byte queue, for tests."""

def append_and_consume(steps: list[bytes | int]) -> list[bytes]:
    """Appends bytes or consumes so many, step by step; what one buffer holds after each."""

def allocations() -> int:
    """How often memory had to come from malloc since the process began."""

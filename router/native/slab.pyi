"""The door of the free lists, for tests and micro-benchmarks."""

def allocations() -> int:
    """How often a block had to come from malloc since the process began."""

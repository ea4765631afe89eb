"""Engines for tests: every field of FigureTables has a simple value, and a test changes what it is about."""

from router.schema.engines import FigureTables


class Figures(FigureTables, frozen=True, kw_only=True):
    """An engine of 10,000 tokens a second that costs nothing."""

    engine_class: int = 0
    token_s: float = 1e-4
    pair_s: float = 0.0
    floor_s: float = 0.01
    base_s: float = 0.005
    context_s: float = 0.0
    kv_capacity_tokens: float = 400_000
    input_price: float = 0.0
    output_price: float = 0.0
    second_price: float = 0.0
    rtt_s: float = 0.0


EIGHT_B = Figures(token_s=66.5e-6, pair_s=3.4e-9, floor_s=0.0098, context_s=92e-9)
"""A model of 8B on an A100, whose prompts cost more the longer they are."""

"""The tokens by which decisions of sessions are told."""

SWITCH_REASONS: tuple[str, ...]
"""The token by number of the reason; the first is empty: no session asked."""

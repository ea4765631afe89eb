"""A conversation's beginning as tests see it."""

def find_end(messages: bytes) -> int:
    """Bytes up to the end of the first user message; 0: there is none."""

def find_key(messages: bytes, system: bytes = b"") -> int:
    """The conversation's key, as of a body with these messages and, beside them, this system prompt."""

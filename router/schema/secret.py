"""A value that must not be seen: it prints, logs and dumps as a mask.

Invariant: the text leaves only through `reveal()`; repr, str, format and the encoders of router/config.py
show the mask.
"""

from __future__ import annotations

from typing import Any

MASK = "<redacted>"


class Secret:
    """A secret's text, and where it was read from (shown in place of it)."""

    __slots__ = ("_text", "source")

    def __init__(self, text: str, source: str | None = None) -> None:
        self._text = text
        self.source = source  # "file:/path", or None when it was written out

    def reveal(self) -> str:
        """The text itself, for the one who sends or compares it."""
        return self._text

    def masked(self) -> str:
        """What a dump shows: the file's name, which is no secret, or the mask."""
        return self.source or MASK

    def __repr__(self) -> str:
        return f"Secret({self.masked()})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not pickled")

"""A value that must not be seen: it prints, logs and dumps as a mask, or as where it is from.

A secret may be only a reference (`${NAME}`, `file:/path`) as far as this machine knows: control passes those
on, and the router that uses one reads it. Invariant: the text leaves only through `reveal()`; repr, str,
format and the encoders of router/config.py show the mask or the reference.
"""

from __future__ import annotations

from typing import Any

MASK = "<redacted>"


class Secret:
    """A secret's text, and the reference it was read from, which is shown in place of it."""

    __slots__ = ("_text", "source")

    def __init__(self, text: str | None, source: str | None = None) -> None:
        """`source` is "file:/path", "${NAME}", or None when it was written out; without `text` it is a
        reference that nothing was read from.
        """
        self._text = text
        self.source = source

    @property
    def is_known(self) -> bool:
        """Whether there is a text, and not only a reference."""
        return self._text is not None

    def reveal(self) -> str:
        """The text itself, for the one who sends or compares it. Raises: ValueError where it is not known."""
        if self._text is None:
            raise ValueError(f"{self.source} has not been read")
        return self._text

    def masked(self) -> str:
        """What a dump shows: the reference, which is no secret, or the mask."""
        return self.source or MASK

    def __repr__(self) -> str:
        return f"Secret({self.masked()})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._identity() == other._identity()

    def _identity(self) -> tuple[str | None, str | None]:
        return self._text, None if self.is_known else self.source

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not pickled")

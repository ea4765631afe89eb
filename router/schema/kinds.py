"""The kinds of values that the sections of a configuration are made of, and what every section is.

Invariant: a bound that several sections share is written here once. Neighbours: config.py and its parts.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from router import limits

DAY_MS = 86_400_000  # no timer needs to run for longer; also keeps microseconds well inside 64 bits

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.NAME_BYTES_MAX,
        pattern=r"^[A-Za-z0-9\[][A-Za-z0-9._:\[\]/-]*$",
        extra={"expected": f"a name: up to {limits.NAME_BYTES_MAX} letters, digits and . _ : / - [ ]"},
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_BYTES_MAX)]
LabelValue = Annotated[str, Meta(max_length=limits.NAME_BYTES_MAX)]
Pattern = Annotated[str, Meta(min_length=1, max_length=limits.PATTERN_BYTES_MAX)]
Milliseconds = Annotated[int, Meta(ge=1, le=DAY_MS)]
MillisecondsOrOff = Annotated[int, Meta(ge=0, le=DAY_MS)]
FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]
Price = Annotated[float, Meta(ge=0, le=1e9)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the configuration: its keys are known, its values never change."""

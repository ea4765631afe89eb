"""What is wrong with a configuration, and what may not be concluded while parts of it cannot be read.

Values that have the wrong type are left out before names and contradictions are looked for. Invariant: what
is then found would still be wrong with those values set right; a check that hangs on something left out asks
`Doubts` first, and says nothing. Neighbours: validate.py asks, router/config.py knows what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Path = tuple[str | int, ...]

Item = TypeVar("Item")


class Fault(NamedTuple):
    """One thing that is wrong: where, what, and what would be right."""

    path: Path
    message: str
    expected: str


def dotted(path: Path) -> str:
    """A path as it is written in messages: pools[0].endpoints[1].url."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Doubts:
    """What of a configuration does not stand for what its author meant; nothing, unless told."""

    def __init__(
        self,
        values: Any = None,
        left_out: Iterable[Path] = (),
        unknown: Iterable[Path] = (),
        kept: Mapping[Path, Sequence[int]] | None = None,
    ) -> None:
        """The values as they were read; the paths of those that were left out, and of keys that nobody knows;
        of each list with gaps the places of what is still in it.
        """
        self._values = values
        self._left_out = frozenset(left_out)
        self._misspelt = frozenset(path[:-1] for path in unknown)
        self._kept = kept or {}
        faults = (*self._left_out, *unknown)
        self._touched = frozenset(path[:length] for path in faults for length in range(len(path) + 1))

    def about(self, *path: str | int) -> bool:
        """Whether what is at `path` is not all there: left out, or something in it is."""
        return path in self._touched or self.hides(*path)

    def hides(self, *path: str | int) -> bool:
        """Whether what is at `path`, or an item of it, was left out or may be written under another key."""
        if not self._touched:
            return False
        return (
            path in self._kept
            or any(path[:length] in self._left_out for length in range(1, len(path) + 1))
            or self._is_misspelt(path)
        )

    def numbered(self, path: Path, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """The items of the list at `path`, with the places that they have in the file."""
        if path in self._left_out or self._is_misspelt(path):
            return enumerate(())  # nobody wrote what stands in for it
        if path not in self._kept:
            return enumerate(items)
        return zip(self._kept[path], items, strict=True)

    def _is_misspelt(self, path: Path) -> bool:
        """Whether something on the way to `path` is not there, and beside it is a key that nobody knows."""
        value = self._values
        step: Any  # a key of a mapping, or a place in a list
        for length, step in enumerate(path):
            if isinstance(value, dict) and step not in value:
                return path[:length] in self._misspelt
            if not isinstance(value, dict | list):
                return False
            value = value[step]
        return False

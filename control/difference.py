"""What two documents differ in, as lines that people read: pools[chat].endpoints[a].weight: 1.0 → 2.0.

Things that have names are told apart by them, so that moving one is not read as changing two. Invariant:
equal documents have no lines, others have one at least. Neighbours: versions.py (asks), cli.py (prints).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from router.schema.policy_document import PolicyDocument, encode_document

CHARS_MAX = 120  # of a value in a line
LINES_MAX = 500  # of a difference; what is beyond is counted


def differences(old: PolicyDocument, new: PolicyDocument) -> list[str]:
    """One line for each value that was added, removed or changed."""
    found = list(_walk("", _plain(old), _plain(new)))
    if len(found) > LINES_MAX:
        found[LINES_MAX:] = [f"... and {len(found) - LINES_MAX} more"]
    return found


def _plain(document: PolicyDocument) -> Any:
    return msgspec.msgpack.decode(encode_document(document))


def _walk(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _walk_named(path, old, new, ".{}" if path else "{}")
    elif isinstance(old, list) and isinstance(new, list) and _is_named(old) and _is_named(new):
        first, second = ({item["name"]: item for item in items} for items in (old, new))
        yield from _walk_named(path, first, second, "[{}]")
        kept = [name for name in first if name in second]
        if kept != [name for name in second if name in first]:
            yield f"{path}: in another order: {', '.join(second)}"
    else:
        yield f"{path}: {_shown(old)} → {_shown(new)}"


def _walk_named(path: str, old: Mapping[str, Any], new: Mapping[str, Any], form: str) -> Iterator[str]:
    for name in dict.fromkeys([*old, *new]):
        place = path + form.format(name)
        if name not in new:
            yield f"{place}: removed"
        elif name not in old:
            yield f"{place}: added: {_shown(new[name])}"
        else:
            yield from _walk(place, old[name], new[name])


def _is_named(items: Sequence[Any]) -> bool:
    names = [item.get("name") for item in items if isinstance(item, dict)]
    return len(names) == len(items) == len(set(names)) and all(isinstance(name, str) for name in names)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= CHARS_MAX else text[: CHARS_MAX - 3] + "..."

"""The schema's types taken apart, and in words: for problems, and for the reference page.

Invariant: what is said here comes from the annotation alone, so that a message, the page and the check
cannot disagree.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Meta, Struct, structs

from router.schema.secret import Secret


@cache
def fields_of(cls: type[Struct]) -> Mapping[str, structs.FieldInfo]:
    """The fields by name; msgspec evaluates every annotation anew each time it is asked."""
    return {info.encode_name: info for info in structs.fields(cls)}


def bare_type(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return annotation


def metas_of(annotation: Any) -> list[Meta]:
    return [meta for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, Meta)]


def union_members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()


def describe(annotation: Any) -> str:
    """What a value of `annotation` looks like, in words: "an integer from 1 to 64"."""
    inner, metas = bare_type(annotation), metas_of(annotation)
    members = [member for member in union_members(inner) if member is not type(None)]
    if len(members) > 1 and bare_type(members[0]) is str:
        return f"{describe(members[0])}, or {describe(members[1])}"
    if len(members) > 1:
        return "one of: " + ", ".join(str(member.__struct_config__.tag) for member in members)
    if members:
        return describe(members[0])
    for meta in metas:
        if meta.extra and "expected" in meta.extra:
            return str(meta.extra["expected"])
    if inner is Secret:
        return "a secret: file:/path, ${ENV} or the text itself"
    if inner is bool:
        return "true or false"
    if inner in (int, float):
        return ("an integer" if inner is int else "a number") + _range(metas)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return "one of: " + ", ".join(str(member.value) for member in inner)
    if inner is str:
        return "text" + _length(metas, "character")
    if isinstance(inner, type) and issubclass(inner, Struct):
        return "a mapping"
    if get_origin(inner) is tuple:
        return "a list" + _length(metas, "item", "s")
    return "a mapping" + _length(metas, "key")


def _range(metas: list[Meta]) -> str:
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    above = next((meta.gt for meta in metas if meta.gt is not None), None)
    high = next((meta.le for meta in metas if meta.le is not None), None)
    text = f" from {low}" if low is not None else f" over {above}" if above is not None else ""
    if high is None:
        return text
    return text + (" to" if low is not None else ", at most") + f" {high:.15g}"


def _length(metas: list[Meta], what: str, plural: str = "s") -> str:
    low = next((meta.min_length for meta in metas if meta.min_length), None)
    high = next((meta.max_length for meta in metas if meta.max_length is not None), None)
    if low and high:
        return f" of {low} to {high} {what}{plural}"
    return f" of at most {high} {what}{plural}" if high else ""


@cache
def key_places(cls: type[Struct]) -> Mapping[str, list[str]]:
    """Where each key below `cls` belongs, by its name: health → pools[].health."""
    places: dict[str, list[str]] = {}

    def walk(annotation: Any, path: str) -> None:
        inner = bare_type(annotation)
        for member in union_members(inner):
            walk(member, path)
        if isinstance(inner, type) and issubclass(inner, Struct):
            for name, info in fields_of(inner).items():
                place = f"{path}.{name}" if path else name
                if place not in places.setdefault(name, []):
                    places[name].append(place)
                walk(info.type, place)
        elif get_origin(inner) is tuple:
            walk(get_args(inner)[0], f"{path}[]")
        elif get_origin(inner) is dict:
            walk(get_args(inner)[1], f"{path}.NAME")

    walk(cls, "")
    return places


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    # At 0.6 `p2d` is taken for `p2c`, as it should be, and `sessions` for `version`, as it should not.
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6 if len(word) < 5 else 0.7)
    return found[0] if found else None

"""An operation of the API as it is declared: what it is called with, what it answers, and who may.

Invariant: what is not declared here is neither served nor described. Neighbours: server.py (serves a table of
these), openapi.py (describes it).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from control.tokens import Actor, Role


class ApiError(Exception):
    """An answer that is no success; `code` is a word that programs can tell it by."""

    def __init__(
        self, status: int, code: str, message: str, *, detail: Any = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class Nothing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, checked."""

    actor: Actor
    path: dict[str, str]
    query: Any
    body: Any
    if_match: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a handler returns when a body alone does not say it."""

    body: Any = None
    status: int = 200
    etag: str = ""


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    name: str
    """Unique, in camelCase: the operationId."""
    method: str
    path: str
    summary: str
    tag: str
    role: Role
    handler: Handler
    answer: Any
    """Type of the body of a success."""
    query: type[Struct] = Nothing
    body: type[Struct] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    """Statuses beyond those that any operation can answer."""
    path_fields: dict[str, str] = field(default_factory=dict)
    """Name in the path → what it is."""

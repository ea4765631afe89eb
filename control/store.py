"""What outlives control: versions, what is desired, and the record of every change.

Invariant: what is desired changes only together with the audit record of the change, in one step, and only
from the revision that whoever changes it has seen. Neighbours: sqlite_store.py (the embedded store; a
networked one implements the same protocol), versions.py (the rules above it), audit.py (the chain).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Protocol

from msgspec import Meta, Struct


class StoreUnavailableError(Exception):
    """The store takes no changes now; the message says why. What was read before stays known."""


class RevisionConflictError(Exception):
    """Somebody else has changed what is desired meanwhile."""


class VersionFacts(Struct, frozen=True, kw_only=True):
    """What is known of a version beside its text."""

    number: int
    hash: str
    parent: int
    """The newest version when it was pushed; 0: it is the first."""
    author: str
    message: str
    created_at: float
    """Seconds since 1970, UTC."""
    file: str


class Version(VersionFacts, frozen=True, kw_only=True):
    """One document as it was pushed; it never changes."""

    source: str
    document: bytes
    """`encode_document`."""


class State(Struct, frozen=True, kw_only=True):
    """What is desired."""

    revision: int = 0
    stable: int = 0
    """Version in force for all; 0: none yet."""
    canary: int = 0
    """Version for a share of the sessions; 0: none."""
    canary_ratio: float = 0.0
    previous: int = 0
    """What a rollback goes back to; 0: nothing."""
    is_frozen: bool = False


class AuditRecord(Struct, frozen=True, kw_only=True):
    """One link of the chain."""

    number: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    at: str
    """UTC, as RFC 3339 has it: what people read is what the hash is of."""
    actor: str
    action: str
    old: str
    new: str
    why: str
    previous_hash: str
    hash: str


class Entry(Struct, frozen=True, kw_only=True):
    """What an audit record is to say."""

    actor: str
    action: str
    old: str
    new: str
    why: str


class ChainEnd(Struct, frozen=True, kw_only=True):
    """Kept apart from the records, so that one missing at the end shows."""

    count: int
    hash: str


Items = Mapping[tuple[str, str], bytes | None]
"""(kind, name) → what a part of control keeps for after a restart, in its own encoding; None: no more."""
NO_ITEMS: Items = MappingProxyType({})


class Store(Protocol):
    """Where all of it is kept. Every method but `trouble` may raise StoreUnavailableError."""

    async def trouble(self) -> str:
        """Why changes are refused; empty: they are taken. Looks again where the last one was refused."""

    async def state(self) -> State:
        """What is desired now."""

    async def change(
        self, state: State, entry: Entry, version: Version | None = None, items: Items = NO_ITEMS
    ) -> State:
        """Makes `state` what is desired, records `entry`, keeps `version` and `items`: all or nothing.

        `state.revision` is the one that was seen; the result has the next. Raises: RevisionConflictError.
        """

    async def version(self, number: int) -> Version | None:
        """One version; None: there is none of that number."""

    async def versions(self, limit: int, before: int | None = None) -> list[VersionFacts]:
        """The newest ones below `before`, the newest first."""

    async def next_sequence(self, above: int = 0) -> int:
        """A sequence above all that were ever given, also by a store that this one is an old copy of, and
        above `above`, which a router has told; not where that is more than SEQUENCE_AHEAD_MAX beyond both.
        """

    async def records(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        """The newest audit records below `before`, the newest first."""

    async def chain(self, after: int | None, limit: int) -> tuple[list[AuditRecord], ChainEnd]:
        """Audit records that follow number `after` (None: from the first), the oldest first, and what the
        whole chain must end with: both of one moment.
        """

    async def items(self, kind: str) -> dict[str, bytes]:
        """What is kept of that kind, by name."""

    async def keep(self, items: Items) -> None:
        """Keeps these in place of what had their names: all or nothing."""

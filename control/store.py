"""What outlives control: versions, what is desired, and the record of every change.

Invariant: what is desired changes only together with the audit record of the change, in one step, and only
from the revision that whoever changes it has seen. Neighbours: sqlite_store.py (the embedded store; a
networked one implements the same protocol), versions.py (the rules above it), audit.py (the chain).
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class StoreUnavailableError(Exception):
    """The store takes no changes now; the message says why. What was read before stays known."""


class RevisionConflictError(Exception):
    """Somebody else has changed what is desired meanwhile."""


class Version(Struct, frozen=True, kw_only=True):
    """One document as it was pushed; it never changes."""

    number: int
    hash: str
    parent: int
    """The newest version when it was pushed; 0: it is the first."""
    author: str
    message: str
    created_at: float
    """Seconds since 1970, UTC."""
    file: str
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

    number: int
    at: float
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


class Store(Protocol):
    """Where all of it is kept. Every method may raise StoreUnavailableError."""

    async def state(self) -> State:
        """What is desired now."""

    async def change(self, state: State, entry: Entry, version: Version | None = None) -> State:
        """Makes `state` what is desired, records `entry`, and keeps `version`, all or nothing.

        `state.revision` is the one that was seen; the result has the next. Raises: RevisionConflictError.
        """

    async def version(self, number: int) -> Version | None:
        """One version; None: there is none of that number."""

    async def versions(self, limit: int, before: int | None = None) -> list[Version]:
        """The newest ones below `before`, the newest first."""

    async def next_sequence(self, above: int = 0) -> int:
        """A sequence above all that were ever given, and above `above`."""

    async def records(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        """The newest audit records below `before`, the newest first."""

    async def chain(self) -> tuple[list[AuditRecord], int, str]:
        """All audit records, the oldest first; how many there must be, and the hash of the last one."""

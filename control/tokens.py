"""Who may do what over HTTP: tokens with roles, and what becomes of whoever guesses.

Tokens are 256 random bits, so a plain SHA-256 of one keeps it: nobody searches that space, and a slow hash
would only help whoever floods us. Every configured hash is compared, each in constant time. An address that
shows wrong tokens has to wait, twice as long with each, and is not even compared meanwhile.

Invariant: no token is kept, logged or shown; only hashes are. Time is passed in. Neighbours: settings.py
(holds them), api/server.py (asks).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from router import limits
from router.schema.kinds import Name, Section

TOKEN_BYTES = 32
PREFIX = "flt_"  # so that a token in a log or a repository is recognised


class Role(StrEnum):
    """What somebody may do; each may all that the ones before may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Whether this role is enough."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class TokenEntry(Section, frozen=True, kw_only=True):
    """One token that is accepted."""

    name: Annotated[Name, Meta(description="Who it is: the actor in audit records.")]
    role: Annotated[
        Role, Meta(description="`viewer` reads; `operator` changes policy and endpoints; `admin` all.")
    ]
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-f]{64}$",
            description="SHA-256 of the token, in hex: `fairlead token` prints both.",
            extra={"expected": "64 hex digits"},
        ),
    ]


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who has shown who they are."""

    name: str
    role: Role


@dataclass(slots=True)
class _Guesses:
    count: int
    until_s: float


class Guard:
    """Tells tokens from guesses."""

    def __init__(self, entries: Sequence[TokenEntry]) -> None:
        self._entries = tuple(entries)
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """How long that address has to wait before it is heard again; 0: not at all."""
        guesses = self._guesses.get(address)
        return 0.0 if guesses is None else max(0.0, guesses.until_s - now_s)

    def actor(self, token: str, address: str, now_s: float) -> Actor | None:
        """Whose token it is; None, and a longer wait for that address, when it is nobody's."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found: TokenEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        if found is None:
            self._count(address, now_s)
            return None
        self._guesses.pop(address, None)
        return Actor(found.name, found.role)

    def _count(self, address: str, now_s: float) -> None:
        guesses = self._guesses.pop(address, None) or _Guesses(0, 0.0)
        guesses.count += 1
        beyond = guesses.count - limits.TOKEN_GUESSES_FREE
        if beyond >= 0:
            guesses.until_s = now_s + min(2.0**beyond, limits.TOKEN_LOCKOUT_S_MAX)
        self._guesses[address] = guesses
        while len(self._guesses) > limits.TOKEN_GUESSERS_MAX:
            self._guesses.popitem(last=False)


def new_token() -> tuple[str, str]:
    """A token and its SHA-256 in hex."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()

"""What of a configuration is policy, and so can come from control: the document of a version.

The file that an operator pushes is the file that a router could be started with. Of it, listeners, workers,
limits and their like are each router's own and left out; the rest is a `PolicyDocument`, whose encoding is
the same bytes for the same policy, so that a hash names it. Secrets are in it as references, never as text.
Invariant: a document and a router's own file make a whole `Config` (`configured_by`). Neighbours: config.py,
link.py (carries it), control (keeps it), router/subscriber.py (puts it in force).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import structs

from router.schema.aliases import AliasModels
from router.schema.config import Config, Explain, Pool, Prefixes, Route
from router.schema.kinds import ModelName, Section
from router.schema.secret import Secret
from router.schema.timeouts import Timeouts

# Of `timeouts`, those that a worker keeps for life.
PROCESS_TIMEOUTS = ("head_ms", "keep_alive_ms", "tls_ms", "upstream_idle_ms")

ReadReference = Callable[[str], Secret]


class PolicyDocument(Section, frozen=True, kw_only=True):
    """The sections of `Config` that control may set, each as it is there."""

    pools: tuple[Pool, ...]
    routes: tuple[Route, ...] = ()
    aliases: dict[ModelName, AliasModels] = msgspec.field(default_factory=dict)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    explain: Explain = msgspec.field(default_factory=Explain)
    prefixes: Prefixes = msgspec.field(default_factory=Prefixes)

    @classmethod
    def of(cls, config: Config) -> PolicyDocument:
        """The policy in `config`."""
        own = Timeouts()
        timeouts = structs.replace(config.timeouts, **{name: getattr(own, name) for name in PROCESS_TIMEOUTS})
        return cls(
            pools=config.pools,
            routes=config.routes,
            aliases=config.aliases,
            timeouts=timeouts,
            explain=config.explain,
            prefixes=Prefixes(block_bytes=config.prefixes.block_bytes),
        )

    def configured_by(self, own: Config) -> Config:
        """This policy in a router whose own file says `own`."""
        kept = {name: getattr(own.timeouts, name) for name in PROCESS_TIMEOUTS}
        return structs.replace(
            own,
            pools=self.pools,
            routes=self.routes,
            aliases=self.aliases,
            timeouts=structs.replace(self.timeouts, **kept),
            explain=self.explain,
            prefixes=structs.replace(own.prefixes, block_bytes=self.prefixes.block_bytes),
        )


class ClearSecretError(ValueError):
    """A document holds a secret as text; the message says where a reference goes in its place."""


def encode_document(document: PolicyDocument) -> bytes:
    """The same bytes for the same document: MessagePack, defaults and all, secrets as references.

    Raises: ClearSecretError.
    """
    return _encoder.encode(document)


def decode_document(data: bytes, read: ReadReference | None = None) -> PolicyDocument:
    """What `encode_document` was given; `read` fills in secrets, which stay references without it.

    Raises: ValueError for bytes that are no document of this version; what `read` raises.
    """

    def fill(wanted: type, value: Any) -> Any:
        if wanted is not Secret or not isinstance(value, str):
            raise ValueError(f"{wanted} has no place in a document")
        return Secret(None, value) if read is None else read(value)

    return msgspec.msgpack.decode(data, type=PolicyDocument, dec_hook=fill)


def document_hash(data: bytes) -> str:
    """The name of an encoded document: its SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def _refer(value: object) -> str:
    if isinstance(value, Secret):
        if value.source is None:
            raise ClearSecretError("a secret is written out in it: write ${NAME} or file:/path in its place")
        return value.source
    raise NotImplementedError(f"{type(value)} has no place in a document")


_encoder = msgspec.msgpack.Encoder(enc_hook=_refer, order="deterministic")
# What a type is made of is found out when it is used first, and two threads that find it out at once crash
# (msgspec 0.22 on CPython 3.11). Here there is one thread still.
msgspec.msgpack.Decoder(PolicyDocument, dec_hook=lambda _type, value: Secret(None, value))
msgspec.msgpack.Decoder(Config, dec_hook=lambda _type, value: Secret(None, value))

"""Registrations as the store keeps them: what a `Registry` begins with after a restart of control.

While the store takes no changes, an addition is refused, for it would be forgotten by a restart; a removal is
not, for whoever left is gone, and it is written when the store takes changes again. Invariant: endpoints go
to the disk with secrets as references. Neighbours: registry.py (calls), write_behind.py (writes), watch.py
(`RegistrationStore`), keeping.py (how endpoints become bytes).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from control.discovery.keeping import decode_endpoints, encode_endpoints
from control.discovery.registry import Registration
from control.store import Store
from control.write_behind import WriteBehind

logger = logging.getLogger("fairlead.control")


class _Kept(Struct, frozen=True, kw_only=True):
    endpoint: bytes
    lease_s: float | None
    is_draining: bool


class KeptRegistrations:
    """See watch.RegistrationStore."""

    def __init__(self, writer: WriteBehind, known: Mapping[str, Mapping[str, bytes]]) -> None:
        """`known`: by source and name, as `read` gives it."""
        self._writer = writer
        self._known = known

    def load(self, source: str) -> Sequence[Registration]:
        """What was kept of a source when control started; what cannot be read is left out."""
        found = []
        for name, data in self._known.get(source, {}).items():
            try:
                found.append(decode_registration(data))
            except ValueError as exc:
                logger.warning("registration %s of source %s is left out: %s", name, source, exc)
        return found

    def save(self, source: str, registration: Registration) -> None:
        """Keeps it from now on. Raises: StoreUnavailableError, ClearSecretError."""
        data = encode_registration(registration)
        self._writer.refuse_if_troubled()
        self._writer.set(_kind(source), registration.endpoint.name, data)

    def forget(self, source: str, endpoint: str) -> None:
        """Keeps it no more."""
        self._writer.set(_kind(source), endpoint, None)


async def read(store: Store, sources: Iterable[str]) -> dict[str, dict[str, bytes]]:
    """What a store keeps of these sources. Raises: StoreUnavailableError."""
    return {source: await store.items(_kind(source)) for source in sources}


def encode_registration(registration: Registration) -> bytes:
    """Raises: ClearSecretError."""
    endpoint = encode_endpoints("registered", (registration.endpoint,))
    return msgspec.msgpack.encode(
        _Kept(endpoint=endpoint, lease_s=registration.lease_s, is_draining=registration.is_draining)
    )


def decode_registration(data: bytes) -> Registration:
    """What `encode_registration` was given. Raises: ValueError."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        _pool, (endpoint,) = decode_endpoints(kept.endpoint)
    except msgspec.MsgspecError as exc:
        raise ValueError(str(exc)) from exc
    return Registration(endpoint=endpoint, lease_s=kept.lease_s, is_draining=kept.is_draining)


def _kind(source: str) -> str:
    return f"registration {source}"

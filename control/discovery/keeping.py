"""Endpoints as bytes, for whoever keeps them on a disk: with secrets as references, like all documents.

Invariant: bytes that are no endpoints, or of another release, are as good as none; discovery then begins with
what its sources tell. Neighbours: watch.py (has the last sets kept), the store (keeps registrations).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import msgspec

from control.discovery.sets import Board, EndpointSet, Source
from router.schema.config import Endpoint, Pool
from router.schema.policy_document import PolicyDocument, decode_document, encode_document

logger = logging.getLogger("fairlead.control")

NOT_HEARD = "not heard since control started"


def encode_endpoints(pool: str, endpoints: tuple[Endpoint, ...]) -> bytes:
    """A pool's endpoints, of which there is at least one. Raises: ClearSecretError."""
    return encode_document(PolicyDocument(pools=(Pool(name=pool, endpoints=endpoints),)))


def decode_endpoints(data: bytes) -> tuple[str, tuple[Endpoint, ...]]:
    """What `encode_endpoints` was given. Raises: ValueError."""
    try:
        (pool,) = decode_document(data).pools
    except msgspec.MsgspecError as exc:
        raise ValueError(str(exc)) from exc
    return pool.name, pool.endpoints


def encode_sets(board: Board) -> bytes:
    """What the sources of a board have."""
    return msgspec.msgpack.encode(
        {
            state.source: encode_endpoints(state.pool, state.endpoints)
            for state in board.in_order()
            if state.endpoints
        }
    )


def recall_sets(data: bytes | None, sources: Iterable[Source], now_s: float) -> Iterator[EndpointSet]:
    """For each source what it had in `encode_sets`, as of one that has not told since."""
    try:
        known = {} if data is None else msgspec.msgpack.decode(data, type=dict[str, bytes])
    except msgspec.MsgspecError as exc:
        logger.warning("the sets that were kept cannot be read and are left out: %s", exc)
        return
    for source in sources:
        try:
            pool, endpoints = decode_endpoints(known[source.name]) if source.name in known else ("", ())
        except ValueError as exc:
            logger.warning("what was kept of source %s cannot be read and is left out: %s", source.name, exc)
            continue
        if pool == source.pool:
            yield EndpointSet(
                source=source.name,
                pool=pool,
                endpoints=endpoints,
                at_s=now_s,
                is_stale=True,
                reason=NOT_HEARD,
            )

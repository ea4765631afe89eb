"""The tables of a snapshot as they travel from the supervisor to its workers: encoded once, decoded in steps.

A snapshot of 1,000 endpoints is 600 KB, and decoding it as one would keep a worker's loop for 11 ms. So the
endpoints are encoded some at a time, and what is left, the *frame*, by itself. Invariant: what is put
together is what was taken apart. Neighbours: snapshot.py (the tables), rollout.py (takes apart), worker.py
(puts together).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct, structs

from router.snapshot import EndpointTables, Tables
from router.steps import Steps

ENDPOINTS_PER_PIECE = 32  # decoded in some 0.4 ms


class Pieces(Struct, frozen=True, kw_only=True):
    """One snapshot, secrets included: for sockets between our own processes only."""

    frame: bytes  # Tables without endpoints
    endpoints: list[bytes]  # ENDPOINTS_PER_PIECE each


def take_apart(tables: Tables) -> Pieces:
    """The tables, ready to be sent any number of times."""
    entries = tables.endpoints
    return Pieces(
        frame=_encoder.encode(structs.replace(tables, endpoints=())),
        endpoints=[
            _encoder.encode(entries[start : start + ENDPOINTS_PER_PIECE])
            for start in range(0, len(entries), ENDPOINTS_PER_PIECE)
        ],
    )


def put_together(pieces: Pieces) -> Steps[Tables]:
    """The tables again, one piece a step. Raises: msgspec.MsgspecError for what `take_apart` did not make."""
    frame = _frame_decoder.decode(pieces.frame)
    entries: list[EndpointTables] = []
    for piece in pieces.endpoints:
        yield None
        entries += _endpoints_decoder.decode(piece)
    return structs.replace(frame, endpoints=tuple(entries))


def let_go(entries: list[EndpointTables]) -> Steps[None]:
    """Frees what a snapshot that is no longer in force leaves behind, a piece a step."""
    while entries:
        del entries[-ENDPOINTS_PER_PIECE:]
        yield None


_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Tables)
_endpoints_decoder = msgspec.msgpack.Decoder(list[EndpointTables])

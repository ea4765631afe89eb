"""The link between control and the routers: the frames, and the snapshot they carry.

A frame is a little-endian `u32` with the length of what follows: one tagged Struct in MessagePack. Routers
connect out and say `Hello`; control answers with `Welcome`, or with `Refused` and closes. From then on it
sends snapshots, signals and pings, a router acks, reports and pongs. Unknown fields are passed over and new
fields have defaults, so that two releases beside each other understand each other; what cannot be so raises
`PROTOCOL`.

Invariant: a snapshot is whole. Its id is the SHA-256 of its body, its signature covers id and sequence, and a
sequence that has been in force is never in force again. Neighbours: router/subscriber.py, control/link.py.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

PROTOCOL = 1
BODY_SCHEMA = 1  # of SnapshotBody; a router refuses a newer one

_HEADER = struct.Struct("<I")
_SIGNED = struct.Struct("<Q32s")
_DOMAIN = b"fairlead snapshot 1\n"  # a signature made for anything else is none here

Sequence = Annotated[int, Meta(ge=0, le=1 << 62)]


class LinkFrame(Struct, frozen=True, kw_only=True, tag=True):
    """Base of every message; the class name is the tag on the wire."""


class Hello(LinkFrame, frozen=True, kw_only=True):
    """Router → control, first frame."""

    protocol: int
    router: str
    """Its name, the same after a restart."""
    instance: str
    """Of this process: another one with the same router is a second router of that name."""
    token: str = ""
    region: str = ""
    release: str = ""
    worker_count: int = 0
    sequence: Sequence = 0
    """Of the snapshot in force; 0: none from control."""
    snapshot_id: str = ""
    kept: tuple[str, ...] = ()
    """Snapshots it keeps: of these only id and signature need to be sent."""


class Welcome(LinkFrame, frozen=True, kw_only=True):
    """Control → router: heard; snapshots and signals follow."""

    protocol: int
    control: str
    release: str = ""


class Refused(LinkFrame, frozen=True, kw_only=True):
    """Control → router, last frame: why not, and what to do."""

    reason: str


class SnapshotFrame(LinkFrame, frozen=True, kw_only=True):
    """Control → router: put this in force."""

    sequence: Sequence
    snapshot_id: str
    signature: bytes = b""
    body: bytes | None = None
    """`encode_body`; None: the router keeps it."""


class Ack(LinkFrame, frozen=True, kw_only=True):
    """Router → control: what became of a snapshot."""

    sequence: Sequence
    snapshot_id: str
    refusal: str = ""
    """Why it is not in force; empty: it is, on every worker."""
    is_missing: bool = False
    """It was named and is not kept: send it whole."""
    apply_us: int = 0
    """From its last byte to the last worker picking by it."""


class Signal(Struct, frozen=True, array_like=True):
    """One fact of an endpoint."""

    endpoint: str
    kind: str
    """Of router/native/signals: waiting, running, kv, power, rtt_s, health."""
    value: float
    age_ms: int
    """When it left control."""


class SignalBatch(LinkFrame, frozen=True, kw_only=True):
    """Control → router: fresh facts; may be lost."""

    signals: tuple[Signal, ...]


class RouteCounts(Struct, frozen=True, kw_only=True):
    """What one route has counted under one version since the router started."""

    route: str
    version: int
    requests: int
    faults: int
    """Failed, and not by the client's doing."""
    refused: int = 0
    """With a 4xx by an endpoint, or by the policy: the client's doing, or that of a wrong key or model."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    """By the endpoints' prices per token, in billionths."""
    ttft_us: tuple[int, ...] = ()
    """Counts of the buckets between neighbouring `Report.bucket_bounds_us`, the first one below them all, the
    last one above; empty without samples. A bucket holds its upper bound."""
    itl_us: tuple[int, ...] = ()


class EndpointCounts(Struct, frozen=True, kw_only=True):
    """What one endpoint has done since the router started, and how it stands now."""

    endpoint: str
    attempts: int
    faults: int
    in_flight: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    is_ejected: bool = False
    rtt_s: float | None = None


class Report(LinkFrame, frozen=True, kw_only=True):
    """Router → control, once a second: cumulative counts, so that a lost one loses nothing."""

    sequence: Sequence
    uptime_ms: int
    bucket_bounds_us: tuple[int, ...]
    routes: tuple[RouteCounts, ...]
    endpoints: tuple[EndpointCounts, ...]
    loop_lag_us: int = 0


class Ping(LinkFrame, frozen=True, kw_only=True):
    """Either → the other: are you there?"""

    number: int


class Pong(LinkFrame, frozen=True, kw_only=True):
    """The answer to a Ping."""

    number: int


AnyFrame = Hello | Welcome | Refused | SnapshotFrame | Ack | SignalBatch | Report | Ping | Pong


class VariantBody(Struct, frozen=True, kw_only=True):
    """One version in a snapshot."""

    version: int
    document: bytes
    """`encode_document`."""


class SnapshotBody(Struct, frozen=True, kw_only=True):
    """What a snapshot says."""

    schema: int = BODY_SCHEMA
    stable: VariantBody
    canary: VariantBody | None = None
    canary_ratio: float = 0.0
    """Share of the sessions that `canary` has."""


def encode_frame(frame: AnyFrame) -> bytes:
    """The frame with its length in front."""
    payload = _encoder.encode(frame)
    return _HEADER.pack(len(payload)) + payload


def frame_length(header: bytes) -> int:
    """How many bytes follow the `HEADER_BYTES` of a frame."""
    (length,) = _HEADER.unpack(header)
    return int(length)


HEADER_BYTES = _HEADER.size


def decode_frame(payload: bytes) -> AnyFrame:
    """Raises: ValueError for what is no frame."""
    return _decoder.decode(payload)


def encode_body(body: SnapshotBody) -> bytes:
    """The same bytes for the same snapshot."""
    return _encoder.encode(body)


def decode_body(data: bytes) -> SnapshotBody:
    """Raises: ValueError for what is no snapshot, or one that only a newer release understands."""
    schema = msgspec.msgpack.decode(data, type=_AnyBody).schema
    if schema > BODY_SCHEMA:
        raise ValueError(
            f"it is of schema {schema}, this release knows schemas up to {BODY_SCHEMA}: upgrade the router"
        )
    return msgspec.msgpack.decode(data, type=SnapshotBody)


def body_id(data: bytes) -> str:
    """A snapshot's id: SHA-256 of its body, in hex."""
    return hashlib.sha256(data).hexdigest()


def signed_bytes(sequence: int, snapshot_id: str) -> bytes:
    """What a snapshot's signature is of. Raises: ValueError for an id that is none."""
    digest = bytes.fromhex(snapshot_id)
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{snapshot_id!r} is no snapshot id")
    return _DOMAIN + _SIGNED.pack(sequence, digest)


class _AnyBody(Struct):
    schema: int


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)

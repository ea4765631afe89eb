"""Snapshots from control: whether to believe one, what it says, and the last ones kept.

    SnapshotFrame ─► signature, id, sequence ─► documents ─► Policy ─► configurations of this router

Invariant: what comes out was signed by whom the router believes, is whole, and is newer than all that has
been in force; a frame that is refused changes nothing. The snapshot in force is also on disk (last known
good), whole, with its checksum, so that a router starts from it when control is away. Neighbours:
subscriber.py (brings frames), supervisor.py (puts a policy in force), schema/link.py (their format).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import OrderedDict
from pathlib import Path

import msgspec
from msgspec import Struct

from router import limits
from router.config import ConfigError, check_config, read_reference
from router.schema.config import Config
from router.schema.control_link import ControlLink
from router.schema.link import (
    HEADER_BYTES,
    SnapshotFrame,
    VariantBody,
    body_id,
    decode_body,
    decode_frame,
    encode_frame,
    frame_length,
    signed_bytes,
)
from router.schema.policy_document import PolicyDocument, decode_document

_MAGIC = b"fairlead last known good 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class SnapshotRefusedError(Exception):
    """Why a snapshot is not believed or not understood."""


class SnapshotMissingError(SnapshotRefusedError):
    """It was only named, and is not kept here."""


class Variant(Struct, frozen=True, kw_only=True):
    """One version's policy."""

    version: int
    document: PolicyDocument


class Policy(Struct, frozen=True, kw_only=True):
    """What a snapshot puts in force."""

    sequence: int
    snapshot_id: str
    stable: Variant
    canary: Variant | None = None
    canary_ratio: float = 0.0

    def stable_config(self, own: Config) -> Config:
        """What most requests are served by on a router whose file says `own`."""
        return self.stable.document.configured_by(own)

    def canary_config(self, own: Config) -> Config | None:
        """What a share of the sessions is served by; None: there is no canary."""
        return None if self.canary is None else self.canary.document.configured_by(own)


class ReceivedPolicies:
    """What one router has from control."""

    def __init__(self, public_key: str | None, path: Path | None) -> None:
        """`path` is the file of the last known good; None: nothing is written."""
        self._public_key = public_key
        self._path = path
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._in_force: SnapshotFrame | None = None
        self.sequence = 0

    @property
    def snapshot_id(self) -> str:
        """Of the snapshot in force; empty: there is none."""
        return "" if self._in_force is None else self._in_force.snapshot_id

    def kept(self) -> tuple[str, ...]:
        """Snapshots that need only be named."""
        return tuple(self._bodies)

    def is_in_force(self, frame: SnapshotFrame) -> bool:
        """Whether it is the one, sent once more."""
        return (frame.sequence, frame.snapshot_id) == (self.sequence, self.snapshot_id)

    def take(self, frame: SnapshotFrame, own: Config) -> Policy:
        """The policy of a frame, every check done; takes a while for thousands of endpoints.

        Raises: SnapshotRefusedError, SnapshotMissingError.
        """
        self._verify(frame)
        if frame.sequence < self.sequence or (
            frame.sequence == self.sequence and frame.snapshot_id != self.snapshot_id
        ):
            raise SnapshotRefusedError(
                f"its sequence {frame.sequence} has been here: {self.sequence} is in force; "
                "an old snapshot is never put in force again under its old sequence"
            )
        body = frame.body if frame.body is not None else self._bodies.get(frame.snapshot_id)
        if body is None:
            raise SnapshotMissingError(f"snapshot {frame.snapshot_id} is not kept here")
        if body_id(body) != frame.snapshot_id:
            raise SnapshotRefusedError("its id is not that of its content: it was changed on the way")
        return _policy(frame, body, own)

    def applied(self, frame: SnapshotFrame) -> None:
        """It is in force now: keeps it. Raises: OSError when it cannot be written; it is in memory then."""
        body = frame.body if frame.body is not None else self._bodies[frame.snapshot_id]
        whole = msgspec.structs.replace(frame, body=body)
        self.sequence, self._in_force = frame.sequence, whole
        self._bodies[frame.snapshot_id] = body
        self._bodies.move_to_end(frame.snapshot_id)
        while len(self._bodies) > limits.KEPT_SNAPSHOTS_MAX:
            self._bodies.popitem(last=False)
        if self._path is not None:
            _write(self._path, encode_frame(whole))

    def restore(self, own: Config) -> Policy | None:
        """The last known good from disk, believed as if it came now; None when there is none.

        Raises: SnapshotRefusedError for one that is damaged or cannot be served any more.
        """
        if self._path is None:
            return None
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise SnapshotRefusedError(f"{self._path} cannot be read: {exc.strerror}") from exc
        frame = _read(data, self._path)
        policy = self.take(frame, own)
        assert frame.body is not None
        self.sequence, self._in_force = frame.sequence, frame
        self._bodies[frame.snapshot_id] = frame.body
        return policy

    def _verify(self, frame: SnapshotFrame) -> None:
        if self._public_key is None:
            return
        # Some 10 MB, for those alone who sign.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._public_key))
        try:
            key.verify(frame.signature, signed_bytes(frame.sequence, frame.snapshot_id))
        except (InvalidSignature, ValueError) as exc:
            what = (
                "is not signed" if not frame.signature else "is not signed by the key in control.public_key"
            )
            raise SnapshotRefusedError(f"the snapshot {what}") from exc


def state_path(link: ControlLink, router: str) -> Path:
    """Where the last known good of `router` is."""
    name = f"{_UNSAFE.sub('_', router)}.snapshot"
    if link.state_dir is not None:
        return Path(link.state_dir) / name
    systemd = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if systemd:
        return Path(systemd) / name
    state_home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state_home) / "fairlead" / name


def _policy(frame: SnapshotFrame, body: bytes, own: Config) -> Policy:
    try:
        said = decode_body(body)
        policy = Policy(
            sequence=frame.sequence,
            snapshot_id=frame.snapshot_id,
            stable=_variant(said.stable),
            canary=None if said.canary is None else _variant(said.canary),
            canary_ratio=min(max(said.canary_ratio, 0.0), 1.0),
        )
        for config in (policy.stable_config(own), policy.canary_config(own)):
            if config is not None:
                check_config(config)
    except (ConfigError, ValueError) as exc:
        raise SnapshotRefusedError(str(exc)) from exc
    return policy


def _variant(said: VariantBody) -> Variant:
    return Variant(version=said.version, document=decode_document(said.document, read_reference))


def _write(path: Path, data: bytes) -> None:
    """The file as a whole or not at all, whatever happens meanwhile."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_MAGIC + hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(data: bytes, path: Path) -> SnapshotFrame:
    head = len(_MAGIC) + _DIGEST_BYTES
    framed = data[head:]
    if not data.startswith(_MAGIC) or hashlib.sha256(framed).digest() != data[len(_MAGIC) : head]:
        raise SnapshotRefusedError(f"{path} is damaged: remove it, or wait for control to send another")
    if len(framed) < HEADER_BYTES or frame_length(framed[:HEADER_BYTES]) != len(framed) - HEADER_BYTES:
        raise SnapshotRefusedError(f"{path} does not hold one frame")
    try:
        frame = decode_frame(framed[HEADER_BYTES:])
    except ValueError as exc:
        raise SnapshotRefusedError(f"{path} is of another release: {exc}") from exc
    if not isinstance(frame, SnapshotFrame) or frame.body is None:
        raise SnapshotRefusedError(f"{path} does not hold a snapshot")
    return frame

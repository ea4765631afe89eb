"""What is desired → the snapshot that routers are sent.

Invariant: equal policy makes an equal snapshot id, and each publication has a sequence above all before it,
so that a rollback is the old content under a new sequence. Neighbours: signing.py (the key), link.py (sends
it), app.py (says when).
"""

from __future__ import annotations

from dataclasses import dataclass

from control.signing import Signer
from router import limits
from router.schema.link import SnapshotBody, SnapshotFrame, VariantBody, body_id, encode_body
from router.schema.policy_document import PolicyDocument, encode_document


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What should be in force: a version for all, and perhaps another for a share of the sessions."""

    stable_version: int
    stable: PolicyDocument
    canary_version: int = 0
    canary: PolicyDocument | None = None
    canary_ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far the newest snapshot has come."""

    sequence: int
    snapshot_id: str
    applied_count: int
    connected_count: int


class SnapshotTooLargeError(ValueError):
    """No router would take it."""


class Publisher:
    """Makes one frame of each policy that is new."""

    def __init__(self, signer: Signer | None) -> None:
        self._signer = signer
        self._latest: SnapshotFrame | None = None

    @property
    def latest(self) -> SnapshotFrame | None:
        """What was published last."""
        return self._latest

    def body_of(self, desired: Desired) -> bytes | None:
        """The body of what is desired, or None when the latest says just that.

        Raises: SnapshotTooLargeError.
        """
        canary = None
        if desired.canary is not None and desired.canary_ratio > 0:
            canary = VariantBody(version=desired.canary_version, document=encode_document(desired.canary))
        body = encode_body(
            SnapshotBody(
                stable=VariantBody(version=desired.stable_version, document=encode_document(desired.stable)),
                canary=canary,
                canary_ratio=desired.canary_ratio if canary is not None else 0.0,
            )
        )
        if len(body) > limits.LINK_FRAME_BYTES_MAX // 2:
            raise SnapshotTooLargeError(
                f"the snapshot has {len(body)} bytes; at most {limits.LINK_FRAME_BYTES_MAX // 2} can be sent"
            )
        is_new = self._latest is None or self._latest.snapshot_id != body_id(body)
        return body if is_new else None

    def publish(self, body: bytes | None, sequence: int) -> SnapshotFrame:
        """The frame that sends `body`, or the latest one's once more, under a sequence above all before."""
        if body is None:
            assert self._latest is not None
            assert self._latest.body is not None
            body = self._latest.body
        name = body_id(body)
        signature = b"" if self._signer is None else self._signer.sign(sequence, name)
        self._latest = SnapshotFrame(sequence=sequence, snapshot_id=name, signature=signature, body=body)
        return self._latest

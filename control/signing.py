"""The key that snapshots are signed with.

Invariant: the private half is in one file that only its owner reads, and never leaves this process.
Neighbours: publish.py (signs), router/received_policy.py (verifies), schema/link.py (what is signed).
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from router.schema.link import signed_bytes


class KeyFileError(Exception):
    """The signing key cannot be used; the message says why and what to do."""


class Signer:
    """Signs snapshots."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """What routers are given as `control.public_key`: 64 hex digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, sequence: int, snapshot_id: str) -> bytes:
        """The signature of a snapshot under a sequence."""
        return self._key.sign(signed_bytes(sequence, snapshot_id))


def load_signer(path: Path) -> Signer:
    """The key in a PEM file. Raises: KeyFileError."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} can be read by others: chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as exc:
        raise KeyFileError(f"{path} cannot be read: {exc.strerror}; `fairlead keygen` makes one") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise KeyFileError(f"{path} is no private key in PEM without a passphrase") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key; `fairlead keygen` makes one")
    return Signer(key)


def make_key_file(path: Path) -> Signer:
    """Writes a new key where there is no file yet. Raises: KeyFileError."""
    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except FileExistsError as exc:
        raise KeyFileError(
            f"{path} is there already: routers that trust it would not trust a new one"
        ) from exc
    except OSError as exc:
        raise KeyFileError(f"{path} cannot be written: {exc.strerror}") from exc
    return Signer(key)

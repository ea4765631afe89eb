"""A throw-away certificate for the proxies' TLS listeners."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def make_certificate(folder: Path) -> tuple[Path, Path] | None:
    """Paths of a certificate (P-256) and its key for 127.0.0.1; None where trustme is not installed."""
    if importlib.util.find_spec("trustme") is None:
        return None
    import trustme

    issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    for path in (certificate, key):
        path.unlink(missing_ok=True)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    return certificate, key

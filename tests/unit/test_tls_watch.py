"""Only a certificate and key that belong together are passed on."""

import asyncio
from pathlib import Path

import trustme

from router.tls_watch import Pair, TlsWatch


def test_good_pairs_are_told_once_and_bad_ones_never(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    told: list[tuple[int, Pair]] = []
    issue(authority, pair)
    watch = TlsWatch(lambda index, changed: told.append((index, changed)))
    watch.watch({3: pair})

    def poll() -> list[tuple[int, Pair]]:
        asyncio.run(watch.poll())
        return told

    assert poll() == []
    (tmp_path / "key.pem").write_text("half a key")
    assert poll() == []
    issue(authority, pair)
    assert poll() == [(3, pair)]
    assert poll() == [(3, pair)]
    (tmp_path / "cert.pem").unlink()
    assert poll() == [(3, pair)]
    issue(authority, pair)
    assert poll() == [(3, pair)] * 2


def test_a_key_of_another_certificate_is_not_passed_on(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    told: list[int] = []
    issue(authority, pair)
    watch = TlsWatch(lambda index, _pair: told.append(index))
    watch.watch({0: pair})
    authority.issue_cert("localhost").private_key_pem.write_to_path(pair[1])
    asyncio.run(watch.poll())
    assert told == []


def issue(authority: trustme.CA, pair: Pair) -> None:
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(pair[1])
    Path(pair[0]).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

"""Only files that load, certificate and key together, are passed on."""

import asyncio
from pathlib import Path

import msgspec
import trustme

from router.schema.config import Config
from router.tls_watch import TlsFiles, TlsUser, TlsWatch, tls_files


def test_good_pairs_are_told_once_and_bad_ones_never(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    told: list[tuple[TlsUser, TlsFiles]] = []
    user = TlsUser(listener_index=3)
    issue(authority, pair)
    watch = TlsWatch(lambda who, changed: told.append((who, changed)))
    begin(watch, {user: pair})

    def poll() -> list[tuple[TlsUser, TlsFiles]]:
        asyncio.run(watch.poll())
        return told

    assert poll() == []
    (tmp_path / "key.pem").write_text("half a key")
    assert poll() == []
    issue(authority, pair)
    assert poll() == [(user, pair)]
    assert poll() == [(user, pair)]
    (tmp_path / "cert.pem").unlink()
    assert poll() == [(user, pair)]
    issue(authority, pair)
    assert poll() == [(user, pair)] * 2


def test_a_key_of_another_certificate_is_not_passed_on(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    told: list[TlsUser] = []
    issue(authority, pair)
    watch = TlsWatch(lambda user, _files: told.append(user))
    begin(watch, {TlsUser(listener_index=0): pair})
    authority.issue_cert("localhost").private_key_pem.write_to_path(pair.key)
    asyncio.run(watch.poll())
    assert told == []


def test_authorities_without_a_certificate_are_checked_too(tmp_path: Path) -> None:
    files = TlsFiles(authorities=str(tmp_path / "ca.pem"))
    told: list[TlsUser] = []
    trustme.CA().cert_pem.write_to_path(files.authorities)
    watch = TlsWatch(lambda user, _files: told.append(user))
    begin(watch, {TlsUser(endpoint="e"): files})
    Path(files.authorities).write_text("no certificate")
    asyncio.run(watch.poll())
    assert told == []
    trustme.CA().cert_pem.write_to_path(files.authorities)
    asyncio.run(watch.poll())
    assert told == [TlsUser(endpoint="e")]


def test_what_changes_while_another_configuration_is_put_in_force_is_noticed(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, two = (TlsFiles(str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")) for name in "ab")
    told: list[TlsUser] = []
    for pair in (one, two):
        issue(authority, pair)
    watch = TlsWatch(lambda user, _files: told.append(user))
    begin(watch, {TlsUser(endpoint="one"): one})
    files = {TlsUser(endpoint="one"): one, TlsUser(endpoint="two"): two}
    new = watch.new_among(files)
    assert list(new) == [TlsUser(endpoint="two")]
    for pair in (one, two):
        issue(authority, pair)
    watch.watch(files, new)
    asyncio.run(watch.poll())
    assert told == list(files)


def test_files_of_listeners_and_of_https_endpoints_are_watched() -> None:
    secure = {"url": "https://a:1", "tls": {"ca_file": "/ca", "cert_file": "/cert", "key_file": "/key"}}
    config = msgspec.convert(
        {
            "listeners": [
                {"address": "127.0.0.1:0"},
                {"address": "127.0.0.1:0", "tls": {"cert": "/c", "key": "/k"}},
            ],
            "pools": [
                {"name": "p", "endpoints": [{"url": "http://a:1", "name": "plain"}, secure | {"name": "s"}]}
            ],
        },
        Config,
    )
    assert tls_files(config) == {
        TlsUser(listener_index=1): TlsFiles("/c", "/k"),
        TlsUser(endpoint="s"): TlsFiles("/cert", "/key", "/ca"),
    }


def issue(authority: trustme.CA, pair: TlsFiles) -> None:
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(pair.key)
    Path(pair.certificate).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def begin(watch: TlsWatch, files: dict[TlsUser, TlsFiles]) -> None:
    watch.watch(files, watch.new_among(files))

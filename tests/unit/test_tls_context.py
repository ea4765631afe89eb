"""TLS contexts: what can be used is taken, and what cannot is refused with the file's name and a reason."""

from pathlib import Path

import pytest
import trustme

from router.native import tls
from router.native.tls import TlsContext

if not tls.available():
    pytest.skip("this Python's OpenSSL is out of native reach", allow_module_level=True)


class Files:
    """A CA, a certificate of it with its key, and another pair."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        self.other_cert, self.other_key = str(folder / "other.pem"), str(folder / "other-key.pem")
        authority.cert_pem.write_to_path(self.ca)
        for names, cert, key in (
            (["localhost"], self.cert, self.key),
            (["other.example"], self.other_cert, self.other_key),
        ):
            issued = authority.issue_cert(*names)
            issued.private_key_pem.write_to_path(key)
            for index, blob in enumerate(issued.cert_chain_pems):
                blob.write_to_path(cert, append=index > 0)
        self.garbage = str(folder / "garbage.pem")
        Path(self.garbage).write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        self.absent = str(folder / "absent.pem")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def test_a_server_takes_a_certificate_with_its_key(files: Files) -> None:
    assert TlsContext.server(files.cert, files.key).is_server
    assert TlsContext.server(files.cert, files.key, min_version="1.3", client_ca=files.ca).is_server


def test_a_client_verifies_unless_told_not_to(files: Files) -> None:
    context = TlsContext.client(ca_file=files.ca)
    assert context.verifies
    assert not context.is_server
    assert not TlsContext.client(verify=False).verifies


def test_a_client_shows_a_certificate_with_a_key_beside_or_in_the_same_file(
    files: Files, tmp_path: Path
) -> None:
    assert TlsContext.client(ca_file=files.ca, cert=files.cert, key=files.key)
    both = tmp_path / "both.pem"
    both.write_text(Path(files.key).read_text() + Path(files.cert).read_text())
    assert TlsContext.client(ca_file=files.ca, cert=str(both))


def test_a_missing_certificate_is_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"^certificate file .*absent\.pem: \S"):
        TlsContext.server(files.absent, files.key)


def test_a_missing_key_is_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"^key file .*absent\.pem: \S"):
        TlsContext.server(files.cert, files.absent)


def test_a_certificate_that_is_none_is_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"^certificate file .*garbage\.pem: \S"):
        TlsContext.server(files.garbage, files.key)


def test_a_key_of_another_certificate_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"key file .*other-key\.pem"):
        TlsContext.server(files.cert, files.other_key)


@pytest.mark.parametrize("name", ["absent", "garbage"])
def test_an_authority_that_cannot_be_read_is_named(files: Files, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^CA file .*{name}\.pem: \S"):
        TlsContext.client(ca_file=getattr(files, name))


def test_a_bad_pair_of_a_client_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match="certificate file"):
        TlsContext.client(ca_file=files.ca, cert=files.garbage, key=files.key)


def test_a_refused_file_does_not_spoil_the_next_context(files: Files) -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match="key file"):
            TlsContext.server(files.cert, files.other_key)
        assert TlsContext.server(files.cert, files.key)

"""Snapshots from control: believed when signed, whole and newer; kept; and there again after a restart."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from router import limits
from router.config import parse_config, parse_document
from router.received_policy import (
    ReceivedPolicies,
    SnapshotMissingError,
    SnapshotRefusedError,
    state_path,
)
from router.schema import link
from router.schema.control_link import ControlLink
from router.schema.policy_document import PolicyDocument, encode_document

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
OWN = parse_config('{workers: 2, pools: [{name: own, endpoints: [{url: "http://own:1"}]}]}', "own.yaml", {})


def document(host: str, more: str = "") -> bytes:
    text = f'pools: [{{name: p, endpoints: [{{url: "http://{host}:1"{more}}}]}}]'
    return encode_document(PolicyDocument.of(parse_document(text, "f.yaml", {})))


def frame(sequence: int, host: str = "a", *, signed: bool = True, more: str = "") -> link.SnapshotFrame:
    stable = link.VariantBody(version=sequence, document=document(host, more))
    body = link.encode_body(link.SnapshotBody(stable=stable))
    name = link.body_id(body)
    signature = KEY.sign(link.signed_bytes(sequence, name)) if signed else b""
    return link.SnapshotFrame(sequence=sequence, snapshot_id=name, signature=signature, body=body)


def put(received: ReceivedPolicies, sent: link.SnapshotFrame) -> str:
    """The host of its only endpoint, once it is in force."""
    policy = received.take(sent, OWN)
    received.applied(sent)
    return policy.stable_config(OWN).pools[0].endpoints[0].url


def test_a_signed_snapshot_is_taken_with_the_routers_own_settings_around_it() -> None:
    received = ReceivedPolicies(PUBLIC, None)
    config = received.take(frame(1), OWN).stable_config(OWN)
    assert ([pool.name for pool in config.pools], config.workers) == (["p"], 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signature": b""}, "is not signed"),
        ({"signature": bytes(64)}, "not signed by the key"),
        ({"sequence": 2}, "not signed by the key"),
        (
            {"body": link.encode_body(link.SnapshotBody(stable=link.VariantBody(version=1, document=b"")))},
            "its id",
        ),
        ({"snapshot_id": link.body_id(b"another")}, "not signed by the key"),
        ({"snapshot_id": "zz"}, "not signed"),
    ],
)
def test_a_forged_snapshot_is_refused_and_changes_nothing(change: dict[str, object], reason: str) -> None:
    received = ReceivedPolicies(PUBLIC, None)
    with pytest.raises(SnapshotRefusedError, match=reason):
        received.take(structs.replace(frame(1), **change), OWN)
    assert (received.sequence, received.snapshot_id, received.kept()) == (0, "", ())


def test_one_signed_by_another_key_is_refused() -> None:
    received = ReceivedPolicies("00" * 31 + "01", None)
    with pytest.raises(SnapshotRefusedError):
        received.take(frame(1), OWN)


def test_an_old_snapshot_is_never_in_force_again_under_its_old_sequence() -> None:
    received = ReceivedPolicies(PUBLIC, None)
    old, new = frame(1, "a"), frame(2, "b")
    put(received, old)
    put(received, new)
    with pytest.raises(SnapshotRefusedError, match="sequence 1 has been here"):
        received.take(old, OWN)
    with pytest.raises(SnapshotRefusedError, match="sequence 2 has been here"):
        received.take(frame(2, "c"), OWN)
    assert received.is_in_force(new)


def test_going_back_needs_only_a_name_and_a_new_sequence() -> None:
    received = ReceivedPolicies(None, None)
    first = frame(1, "a", signed=False)
    put(received, first)
    put(received, frame(2, "b", signed=False))
    named = link.SnapshotFrame(sequence=3, snapshot_id=first.snapshot_id)
    assert put(received, named) == "http://a:1"


def test_the_last_few_are_kept_and_others_have_to_be_sent_whole() -> None:
    received = ReceivedPolicies(None, None)
    first = frame(1, "h1", signed=False)
    put(received, first)
    for sequence in range(2, limits.KEPT_SNAPSHOTS_MAX + 2):
        put(received, frame(sequence, f"h{sequence}", signed=False))
    assert len(received.kept()) == limits.KEPT_SNAPSHOTS_MAX
    with pytest.raises(SnapshotMissingError):
        received.take(structs.replace(first, sequence=99, body=None), OWN)


def test_what_cannot_be_served_is_refused_whole_with_every_reason() -> None:
    received = ReceivedPolicies(None, None)
    bad = frame(1, signed=False, more=', auth: {bearer: "${NO_SUCH_VARIABLE_HERE}"}')
    with pytest.raises(SnapshotRefusedError, match="NO_SUCH_VARIABLE_HERE is not set"):
        received.take(bad, OWN)
    no_file = frame(1, signed=False).body
    assert no_file is not None
    text = 'pools: [{name: p, endpoints: [{url: "https://h:1", tls: {ca_file: /no/such/ca.pem}}]}]'
    stable = link.VariantBody(
        version=1, document=encode_document(PolicyDocument.of(parse_document(text, "f.yaml", {})))
    )
    body = link.encode_body(link.SnapshotBody(stable=stable))
    sent = link.SnapshotFrame(sequence=1, snapshot_id=link.body_id(body), body=body)
    with pytest.raises(SnapshotRefusedError, match=r"/no/such/ca\.pem"):
        received.take(sent, OWN)


def test_the_last_known_good_is_there_after_a_restart_and_so_is_its_sequence(tmp_path: Path) -> None:
    path = tmp_path / "below" / "r.snapshot"
    put(ReceivedPolicies(PUBLIC, path), frame(7, "a"))
    again = ReceivedPolicies(PUBLIC, path)
    policy = again.restore(OWN)
    assert policy is not None
    assert (policy.sequence, policy.stable.version, again.sequence) == (7, 7, 7)
    with pytest.raises(SnapshotRefusedError):
        again.take(frame(6, "b"), OWN)
    assert [entry.name for entry in path.parent.iterdir()] == ["r.snapshot"]
    assert path.stat().st_mode & 0o077 == 0


def test_without_a_file_there_is_nothing_to_start_from(tmp_path: Path) -> None:
    assert ReceivedPolicies(None, tmp_path / "none").restore(OWN) is None
    assert ReceivedPolicies(None, None).restore(OWN) is None


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "r.snapshot"
    put(ReceivedPolicies(None, path), frame(1, signed=False))
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(SnapshotRefusedError):
            ReceivedPolicies(None, path).restore(OWN)
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotRefusedError):
            ReceivedPolicies(None, path).restore(OWN)


def test_a_file_signed_by_another_key_is_not_started_from(tmp_path: Path) -> None:
    path = tmp_path / "r.snapshot"
    put(ReceivedPolicies(None, path), frame(1, signed=False))
    with pytest.raises(SnapshotRefusedError, match="not signed"):
        ReceivedPolicies(PUBLIC, path).restore(OWN)


def test_a_disk_that_is_full_leaves_the_old_file_and_the_new_policy_in_force(tmp_path: Path) -> None:
    path = tmp_path / "r.snapshot"
    received = ReceivedPolicies(None, path)
    put(received, frame(1, "a", signed=False))
    path.with_suffix(f".{os.getpid()}").mkdir()  # in the way of the file written aside
    with pytest.raises(OSError):
        put(received, frame(2, "b", signed=False))
    assert received.sequence == 2
    again = ReceivedPolicies(None, path).restore(OWN)
    assert again is not None
    assert again.sequence == 1


def test_the_state_folder_is_the_configured_one_or_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/fairlead:/other")
    assert state_path(ControlLink(address="unix:/x", state_dir="/s"), "h:9090") == Path("/s/h_9090.snapshot")
    assert state_path(ControlLink(address="unix:/x"), "../r") == Path("/var/lib/fairlead/.._r.snapshot")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert state_path(ControlLink(address="unix:/x"), "r") == Path("/srv/state/fairlead/r.snapshot")

"""The document of a version: the policy of a file, the same bytes for the same policy, no secret in it."""

import subprocess
import sys

import pytest

from router.config import ConfigError, parse_config, parse_document, read_reference
from router.schema.policy_document import (
    ClearSecretError,
    PolicyDocument,
    decode_document,
    document_hash,
    encode_document,
)

FILE = """
listeners: [{address: "127.0.0.1:0"}]
workers: 3
timeouts: {total_ms: 5000, keep_alive_ms: 1234}
prefixes: {block_bytes: 512, table_bytes: 2097152}
pools:
  - name: chat
    endpoints: [{url: "http://h:1", models: [m], auth: {bearer: "BEARER"}}]
routes: [{name: all}]
"""


def document(text: str) -> PolicyDocument:
    return PolicyDocument.of(parse_document(text, "f.yaml", {}))


def test_what_is_each_routers_own_is_not_in_it() -> None:
    own = parse_config('pools: [{name: p, endpoints: [{url: "http://o:1"}]}]', "own.yaml", {})
    taken = document(FILE.replace("BEARER", "${KEY}")).configured_by(own)
    assert [pool.name for pool in taken.pools] == ["chat"]
    assert [route.name for route in taken.routes] == ["all"]
    assert (taken.timeouts.total_ms, taken.timeouts.keep_alive_ms) == (5000, own.timeouts.keep_alive_ms)
    assert (taken.prefixes.block_bytes, taken.prefixes.table_bytes) == (512, own.prefixes.table_bytes)
    assert (taken.workers, taken.listeners) == (own.workers, own.listeners)


def test_the_same_policy_has_the_same_hash_however_it_is_written() -> None:
    one = encode_document(document('pools: [{name: p, endpoints: [{url: "http://o:1", weight: 1}]}]'))
    other = encode_document(
        document('{"workers": 2, "pools": [{"endpoints": [{"url": "http://o:1"}], "name": "p"}]}')
    )
    assert document_hash(one) == document_hash(other)
    changed = encode_document(document('pools: [{name: p, endpoints: [{url: "http://o:1", weight: 2}]}]'))
    assert document_hash(changed) != document_hash(one)


@pytest.mark.parametrize("reference", ["${KEY}", "file:/run/no/such/key"])
def test_a_secret_travels_as_a_reference_and_is_read_where_it_is_used(reference: str) -> None:
    data = encode_document(document(FILE.replace("BEARER", reference)))
    assert reference.encode() in data
    bearer = decode_document(data).pools[0].endpoints[0].auth.bearer
    assert bearer is not None
    assert bearer.masked() == reference
    assert not bearer.is_known
    with pytest.raises(ValueError, match="has not been read"):
        bearer.reveal()


def test_references_are_filled_in_from_the_environment_of_whoever_decodes() -> None:
    data = encode_document(document(FILE.replace("BEARER", "${KEY}")))
    filled = decode_document(data, lambda reference: read_reference(reference, {"KEY": "s3cret"}))
    bearer = filled.pools[0].endpoints[0].auth.bearer
    assert bearer is not None
    assert (bearer.reveal(), bearer.masked()) == ("s3cret", "${KEY}")
    with pytest.raises(ConfigError, match="KEY is not set"):
        decode_document(data, lambda reference: read_reference(reference, {}))


def test_a_secret_that_is_written_out_makes_no_document() -> None:
    with pytest.raises(ClearSecretError, match=r"\$\{NAME\}"):
        encode_document(document(FILE.replace("BEARER", "sk-in-clear")))


def test_of_what_is_no_secret_every_variable_must_be_set_where_the_document_is_read() -> None:
    text = 'pools: [{name: p, endpoints: [{url: "${PLACE}"}]}]'
    with pytest.raises(ConfigError, match="PLACE is not set"):
        parse_document(text, "f.yaml", {})
    assert parse_document(text, "f.yaml", {"PLACE": "http://h:1"}).pools[0].endpoints[0].url == "http://h:1"


def test_no_file_of_this_machine_is_looked_at() -> None:
    text = 'pools: [{name: p, endpoints: [{url: "https://h:1", tls: {ca_file: /no/such/ca.pem}}]}]'
    assert document(text).pools[0].endpoints[0].tls.ca_file == "/no/such/ca.pem"
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        parse_config(text, "f.yaml", {})


def test_a_document_of_a_newer_release_is_refused_whole() -> None:
    data = encode_document(document('pools: [{name: p, endpoints: [{url: "http://o:1"}]}]'))
    with pytest.raises(ValueError, match="unknown field"):
        decode_document(data.replace(b"aliases", b"aliasez"))


AT_ONCE = """
import sys, threading
from router.schema.policy_document import decode_document
sys.setswitchinterval(1e-6)
data, barrier = bytes.fromhex(sys.argv[1]), threading.Barrier(8)
threads = [threading.Thread(target=lambda: (barrier.wait(), decode_document(data))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("attempt", range(6))
def test_threads_that_are_the_first_to_decode_do_not_crash_the_process(attempt: int) -> None:
    data = encode_document(document('pools: [{name: p, endpoints: [{url: "http://o:1"}]}]'))
    run = subprocess.run([sys.executable, "-c", AT_ONCE, data.hex()], check=False, timeout=60)
    assert run.returncode == 0, attempt

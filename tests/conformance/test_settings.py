"""What configuration changes of HTTP: proxies that are trusted, bounds, and the log that names what clients
sent.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.harness import BOUND_S, Conformance, Lane, octets
from tests.conformance.messages import ANSWER, HOST, get, post

HEAD_BYTES_MAX = 4096
TARGET_BYTES_MAX = 512


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.log"


@pytest.fixture(scope="module")
def settled(log_path: Path) -> Iterator[Conformance]:
    with Conformance(
        trusted_proxies=["10.0.0.0/8", "127.0.0.0/8"],
        limits={"head_bytes_max": HEAD_BYTES_MAX, "target_bytes_max": TARGET_BYTES_MAX},
        access_log={"path": str(log_path)},
    ) as made:
        yield made


@pytest.fixture
def lane(settled: Conformance) -> Iterator[Lane]:
    with settled.lane() as made:
        yield made


def sent(lane: Lane, *lines: bytes, **more: bytes) -> dict[str, list[bytes]]:
    """The fields an upstream gets of a GET with these lines."""
    client = lane.client()
    client.send(lane.fill_in(get(*lines, **more)))
    upstream = lane.accept()
    request = upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    return {name: request.values(name) for name, _ in request.fields}


def test_trusted_proxy_is_added_to_the_chain(lane: Lane) -> None:
    fields = sent(
        lane,
        b"X-Forwarded-For: 6.6.6.6, 7.7.7.7",
        b"x-forwarded-for: 8.8.8.8",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: public.example",
        b"Forwarded: for=6.6.6.6;proto=https",
    )
    assert fields["x-forwarded-for"] == [b"6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1"]
    assert fields["x-forwarded-proto"] == [b"https"]
    assert fields["x-forwarded-host"] == [b"public.example"]
    assert fields["forwarded"] == [b"for=6.6.6.6;proto=https"]


def test_trusted_proxy_that_says_nothing_is_the_client(lane: Lane) -> None:
    fields = sent(lane, b"X-Forwarded-For:")
    assert fields["x-forwarded-for"] == [b"127.0.0.1"]
    assert fields["x-forwarded-proto"] == [b"http"]
    assert fields["x-forwarded-host"] == [b"a.example"]
    assert "forwarded" not in fields


@pytest.mark.parametrize("by_octet", [False, True], ids=["whole", "octet by octet"])
def test_head_at_its_bound_passes_and_one_octet_more_is_431(lane: Lane, by_octet: bool) -> None:
    start = lane.fill_in(get())[:-2]
    filled = start + b"X: " + b"a" * (HEAD_BYTES_MAX - len(start) - 7) + b"\r\n\r\n"
    assert len(filled) == HEAD_BYTES_MAX
    client = lane.client()
    client.send(*(octets(filled) if by_octet else (filled,)))
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    longer = filled.replace(b"X: ", b"X: a")
    client.send(*(octets(longer) if by_octet else (longer,)))
    assert client.response().status == 431
    assert upstream.is_quiet()


def test_target_at_its_bound_passes_and_one_octet_more_is_414(lane: Lane) -> None:
    client = lane.client()
    target = lane.fill_in(b"@").ljust(TARGET_BYTES_MAX, b"x")
    client.send(get(target=target))
    upstream = lane.accept()
    assert upstream.request().start == b"GET " + target + b" HTTP/1.1"
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    client.send(get(target=target + b"x"))
    assert client.response().status == 414


def test_answer_head_at_its_bound_passes_and_one_octet_more_is_502(lane: Lane) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
    filled = start + b"X: " + b"a" * (HEAD_BYTES_MAX - len(start) - 7) + b"\r\n\r\n"
    client = lane.client()
    client.send(lane.fill_in(get() + get()))
    upstream = lane.accept()
    upstream.request()
    upstream.send(filled)
    assert client.response().status == 200
    upstream.request()
    upstream.send(filled.replace(b"X: ", b"X: a"))
    assert client.response().status == 502


def test_what_clients_send_cannot_break_the_log(lane: Lane, log_path: Path) -> None:
    """Every line is one JSON object, whatever stands in target, method, model or id."""
    client = lane.client()
    bodies = (b'{"model":"\\u0000\\n\\""}', b'{"model":"\xf0\x9f\x99\x82\xc2\x85"}')
    odd = [
        get(target=b'@"\\x?y"', method=b"O'D|D~"),
        get(b"x-request-id: a/b{c}"),
        get(target=b"@%0a%22%00\x7d"),
        *(post(b"Content-Length: %d" % len(body), body=body) for body in bodies),
        b"GET / HTTP/1.1\r\n" + HOST + b"X\r\n\r\n",
    ]
    client.send(lane.fill_in(b"".join(odd)))
    upstream = lane.accept()
    for _ in range(3):
        upstream.request()
        upstream.send(ANSWER)
    statuses = [client.response().status for _ in odd]
    assert statuses == [200, 200, 200, 404, 404, 400]
    lines = wait_for_lines(log_path, b"a/b{c}", b'"status":400')
    entries = [json.loads(line) for line in lines]
    (named,) = [entry for entry in entries if entry["request_id"] == "a/b{c}"]
    assert named["status"] == 200
    assert any(entry["path"] == lane.fill_in(b'@"\\x').decode() for entry in entries)
    assert any(entry["model"] == '\0\n"' for entry in entries)


def wait_for_lines(path: Path, *wanted: bytes) -> list[bytes]:
    """The log's lines once all of `wanted` stand in them."""
    deadline = time.monotonic() + BOUND_S
    while True:
        data = path.read_bytes() if path.exists() else b""
        if all(text in data for text in wanted):
            return data[: data.rindex(b"\n")].split(b"\n")
        assert time.monotonic() < deadline, data[-2000:]
        select.select([], [], [], 0.02)


def test_deep_pipeline_is_bounded_and_answered(lane: Lane) -> None:
    """More than the router reads ahead (64 KiB); the rest waits in the kernel until its turn comes."""
    count = 2000
    client = lane.client()
    client.send(lane.fill_in(b"".join(get(target=b"@%04d" % number) for number in range(count))))
    upstream = lane.accept()
    for number in range(count):
        assert upstream.request().start == lane.fill_in(b"GET @%04d HTTP/1.1" % number)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%04d" % number)
        if number % 50 == 49:
            for answered in range(number - 49, number + 1):
                assert client.response().body == b"%04d" % answered
    assert client.is_quiet()

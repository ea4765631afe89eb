"""Access-log lines as native code writes them: whole JSON objects, whatever clients and endpoints send."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripted import Scripted

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)

BUFFER_BYTES = 65536
LINES = 400
"""Of some 300 bytes: about twice what the buffer takes."""


def request(path: str = "/v1/chat/completions?key=secret", **more: Any) -> bytes:
    body = msgspec.json.encode({"model": "m", **more})
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nx-request-id: id-1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def answer(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def exchange(scripted: Scripted, sent: bytes, *answered: bytes, pause_us: int = 0) -> dict[str, Any]:
    """The line of one exchange, `pause_us` before each piece of its answer."""
    client = scripted.driver.accept()
    scripted.driver.receive(client, sent)
    scripted.establish_all()
    (upstream,) = scripted.driver.upstreams()
    for piece in answered:
        scripted.driver.advance(pause_us)
        scripted.driver.receive(upstream, piece)
    scripted.driver.take(upstream)
    scripted.driver.end(client)
    return scripted.log()[-1]


def test_a_line_says_who_asked_for_what_and_what_came_of_it() -> None:
    scripted = Scripted(endpoint_count=1)
    line = exchange(scripted, request(), answer(b"{}"))
    assert isinstance(line.pop("ts"), float)
    assert line.pop("bytes_out") > len(b"HTTP/1.1 200 OK\r\n\r\n{}")
    assert line == {
        "request_id": "id-1",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "m",
        "route": "default",
        "pool": "main",
        "endpoint": "127.0.0.1:9000",
        "attempts": 1,
        "bytes_in": len(b'{"model":"m"}'),
        "events": 0,
        "ttft_ms": 0.0,
        "total_ms": 0.0,
        "outcome": "completed",
    }
    scripted.finish()


def test_a_stream_has_its_events_its_usage_and_its_times() -> None:
    scripted = Scripted(endpoint_count=1)
    events = (EVENT, EVENT, USAGE, b"data: [DONE]\n\n")
    whole = answer(b"".join(events), "text/event-stream")
    first = whole.index(EVENT) + len(EVENT)
    line = exchange(scripted, request(stream=True), whole[:first], whole[first:], pause_us=12_345)
    assert line["stream"] is True
    assert line["events"] == 3  # the terminator is none
    assert (line["prompt_tokens"], line["completion_tokens"], line["cached_tokens"]) == (7, 2, 4)
    assert (line["ttft_ms"], line["total_ms"]) == (12.345, 24.69)
    scripted.finish()


def test_a_request_that_cannot_be_read_has_a_line_without_what_was_not_read() -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    scripted.driver.end(client)
    (line,) = scripted.log()
    assert (line["status"], line["outcome"], line["method"], line["path"]) == (400, "bad_request", "", "")
    assert "endpoint" not in line
    assert "route" not in line
    scripted.finish()


@settings(max_examples=50)
@given(
    st.text(
        st.characters(max_codepoint=255, exclude_characters="".join(map(chr, [*range(33), 127]))), max_size=60
    ),
    st.text(max_size=40),
)
def test_whatever_a_client_chooses_stays_inside_its_field(path: str, model: str) -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    body = msgspec.json.encode({"model": model})
    scripted.driver.receive(
        client,
        f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body,
    )
    scripted.core.abort_all()
    scripted.driver.end(client)
    raw = scripted.core.take_log()
    assert re.fullmatch(rb"[\x20-\x7e]+\n", raw)
    line = msgspec.json.decode(raw)
    if line["status"] != 400:
        assert line["path"] in (f"/{path}".split("?")[0][:256], "")


@pytest.mark.parametrize("path", ['/a"b', "/a\\b", '/","outcome":"x', "/caf\xe9"])
def test_what_would_end_a_string_is_escaped(path: str) -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(path))
    scripted.core.abort_all()
    scripted.driver.end(client)
    line = scripted.log()[-1]
    assert line["path"] in (path, "")
    assert line["outcome"] != "x"


def test_a_full_buffer_drops_whole_lines_and_counts_them() -> None:
    scripted = Scripted(endpoint_count=1, access_log={"path": "stdout", "buffer_bytes_max": BUFFER_BYTES})
    for _ in range(LINES):
        client = scripted.driver.accept()
        scripted.driver.receive(client, request())
        scripted.establish_all()
        (upstream,) = scripted.driver.upstreams()
        scripted.driver.receive(upstream, answer(b"{}"))
        scripted.driver.take(upstream)
        scripted.driver.end(client)
    raw = scripted.core.take_log()
    kept = [msgspec.json.decode(line) for line in raw.splitlines()]
    dropped = scripted.metrics.counters()["log_lines_dropped"]
    assert len(raw) <= BUFFER_BYTES
    assert kept
    assert dropped > 0
    assert len(kept) + dropped == LINES

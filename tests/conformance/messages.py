"""Requests written short, and what nearly every case says or checks."""

from __future__ import annotations

import json

from tests.conformance.harness import Client, Lane, Message, Upstream

HOST = b"Host: a.example\r\n"
LENGTH_5 = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def get(
    *lines: bytes,
    target: bytes = b"@x",
    method: bytes = b"GET",
    host: bytes = HOST,
    version: bytes = b"HTTP/1.1",
) -> bytes:
    return b"%b %b %b\r\n%b%b\r\n" % (
        method,
        target,
        version,
        host,
        b"".join(line + b"\r\n" for line in lines),
    )


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return get(*lines, method=b"POST", version=version) + body


def again(lane: Lane, client: Client, upstream: Upstream | None = None) -> None:
    """The next exchange is clean, on the same two connections (or a new one to the upstream)."""
    client.send(lane.fill_in(get(target=b"@again")))
    upstream = upstream or lane.accept()
    request = upstream.request()
    assert request.start == lane.fill_in(b"GET @again HTTP/1.1")
    assert request.body == b""
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
    assert client.response().body == b"again"
    assert client.is_quiet()
    assert not lane.has_arrival()


def check_error(answer: Message, code: str) -> None:
    """OpenAI's error object, and what belongs beside it."""
    assert answer.value("content-type") == b"application/json"
    assert answer.value("content-length") == b"%d" % len(answer.body)
    assert answer.value("x-request-id")
    assert answer.value("date")
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["type"]
    if answer.status == 405:
        assert b"POST" in answer.value("allow")
    assert answer.value("x-should-retry") == b"false"

"""The same messages cut at every octet: what is understood may not depend on how the bytes arrive."""

from __future__ import annotations

import pytest

from tests.conformance.harness import Lane, Message

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
GET = b"GET @x HTTP/1.1\r\nHost: a\r\n\r\n"

REQUESTS = {
    "head": b"\r\nGET @x?y HTTP/1.1\r\nHost: a.example:80\r\nX-A: \t1 \r\nConnection: X-B\r\nX-B:\r\n"
    b"x-request-id: 7\r\n\r\n",
    "length": b"POST @x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nx-request-id: 7\r\n\r\nhello",
    "chunked": b"POST @x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nx-request-id: 7\r\n\r\n"
    b'5;a="b;\\""\r\nhello\r\n00a ;c\r\n0123456789\r\n0;d\r\nX-Sum: 1\r\nHost: b\r\nX-T:2\r\n\r\n',
}

ANSWERS = {
    "head": b"HTTP/1.1 200 O K\r\nX-A: \t1 \r\nConnection: X-B\r\nX-B: 1\r\nContent-Length: 2\r\n\r\nhi",
    "interim": b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;a="b;\\""\r\nhello\r\n00a ;c\r\n0123456789\r\n0;d\r\nX-Sum: 1\r\nHost: b\r\nX-T:2\r\n\r\n',
    "chunked without trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    b"10\r\n0123456789abcdef\r\n0\r\n\r\n",
    "event stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b'11\r\ndata: {"a":"b"}\n\n\r\nE\r\ndata: [DONE]\n\n\r\n0\r\n\r\n',
}


def pieces_of(raw: bytes) -> list[tuple[bytes, ...]]:
    """Whole, octet by octet, and in two at every place."""
    return [
        (raw,),
        tuple(bytes([octet]) for octet in raw),
        *((raw[:place], raw[place:]) for place in range(1, len(raw))),
    ]


def meaning(message: Message) -> tuple[object, ...]:
    fields = tuple(field for field in message.fields if field[0] != "date")  # the router's own clock
    return (message.start, fields, message.body, message.trailers)


@pytest.mark.parametrize("raw", REQUESTS.values(), ids=REQUESTS.keys())
def test_request_means_the_same_wherever_it_is_cut(lane: Lane, raw: bytes) -> None:
    client = lane.client()
    upstream = None
    meanings = set()
    for pieces in pieces_of(lane.fill_in(raw)):
        client.send(*pieces)
        upstream = upstream or lane.accept()
        meanings.add(meaning(upstream.request()))
        upstream.send(ANSWER)
        assert client.response().body == b"hi"
    assert len(meanings) == 1
    assert not lane.has_arrival()


@pytest.mark.parametrize("raw", ANSWERS.values(), ids=ANSWERS.keys())
def test_answer_means_the_same_wherever_it_is_cut(lane: Lane, raw: bytes) -> None:
    client = lane.client()
    upstream = None
    meanings = set()
    request = GET.replace(b"\r\n\r\n", b"\r\nx-request-id: 7\r\n\r\n")
    for pieces in pieces_of(raw):
        client.send(lane.fill_in(request))
        upstream = upstream or lane.accept()
        upstream.request()
        upstream.send(*pieces)
        meanings.add(meaning(client.response()))
    assert len(meanings) == 1
    assert not lane.has_arrival()


@pytest.mark.parametrize("name", ["head", "chunked", "chunked without trailers", "event stream"])
def test_http_1_0_client_gets_the_same_wherever_the_answer_is_cut(lane: Lane, name: str) -> None:
    raw = ANSWERS[name]
    upstream = None
    bodies = set()
    for place in range(1, len(raw)):
        client = lane.client()
        client.send(lane.fill_in(b"GET @x HTTP/1.0\r\n\r\n"))
        upstream = upstream or lane.accept()
        upstream.request()
        upstream.send(raw[:place], raw[place:])
        bodies.add(client.response().body)
        client.close()
    assert len(bodies) == 1


def test_pipelined_requests_mean_the_same_wherever_they_are_cut(lane: Lane) -> None:
    raw = lane.fill_in(b"".join(REQUESTS.values()) + GET)
    client = lane.client()
    upstream = None
    for place in range(1, len(raw), 3):
        client.send(raw[:place])
        client.send(raw[place:])
        upstream = upstream or lane.accept()
        bodies = []
        for _ in range(4):
            bodies.append(upstream.request().body)
            upstream.send(ANSWER)
        assert bodies == [b"", b"hello", b"hello0123456789", b""]
        assert [client.response().body for _ in range(4)] == [b"hi"] * 4

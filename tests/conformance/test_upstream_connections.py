"""Connections to an upstream over their life: reused, found dead, spoken on out of turn, answered on too
early.

RFC 9112 9.3.1: a request may be sent again on another connection when the one it was sent on turns out to be
dead and nothing of an answer has come. Nothing an upstream says out of turn may reach a client.
"""

from __future__ import annotations

import pytest

from tests.conformance.harness import Client, Conformance, Lane, Upstream

GET = b"GET @x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST @x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_POST = (
    b"POST @x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def exchange(lane: Lane, client: Client, upstream: Upstream | None = None, body: bytes = b"hi") -> Upstream:
    client.send(lane.fill_in(GET))
    upstream = upstream or lane.accept()
    upstream.request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert client.response().body == body
    return upstream


def test_upstream_connection_is_used_again_by_another_client(lane: Lane) -> None:
    upstream = exchange(lane, lane.client())
    exchange(lane, lane.client(), upstream, b"another")
    assert not lane.has_arrival()


def test_most_recently_used_connection_is_taken_first(lane: Lane) -> None:
    clients = [lane.client() for _ in range(3)]
    upstreams = []
    for client in clients:
        client.send(lane.fill_in(GET))
        upstreams.append(lane.accept())
        upstreams[-1].request()
    for index in (0, 2, 1):
        upstreams[index].send(ANSWER)
        assert clients[index].response().body == b"hi"
    exchange(lane, clients[0], upstreams[1])


@pytest.mark.parametrize("how", ["close", "reset"])
def test_idle_close_is_replaced_silently(lane: Lane, how: str) -> None:
    client = lane.client()
    upstream = exchange(lane, client)
    upstream.close() if how == "close" else upstream.reset()
    exchange(lane, client, body=b"fresh")


@pytest.mark.parametrize(
    "said", [OTHER, b"\r\n", b"x", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"]
)
def test_what_comes_on_an_idle_connection_reaches_nobody(lane: Lane, said: bytes) -> None:
    client = lane.client()
    upstream = exchange(lane, client)
    upstream.send(said)
    assert upstream.rest()[1], "the connection is closed"
    exchange(lane, client, body=b"fresh")
    assert client.is_quiet()


@pytest.mark.parametrize("request_", [GET, POST, CHUNKED_POST], ids=["GET", "POST", "chunked POST"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_reused_connection_that_dies_before_its_answer_is_replaced_once(
    lane: Lane, request_: bytes, how: str
) -> None:
    client = lane.client()
    upstream = exchange(lane, client)
    client.send(lane.fill_in(request_))
    first = upstream.request()
    upstream.close() if how == "close" else upstream.reset()
    fresh = lane.accept()
    again = fresh.request()
    assert again.raw == first.raw, "the same request, whole"
    fresh.close()
    answer = client.response()
    assert answer.status == 502, "a fresh connection that dies is not replaced"
    assert b"upstream_reset" in answer.body
    exchange(lane, client, body=b"next")


def test_connection_that_dies_after_a_byte_of_its_answer_is_not_replaced(lane: Lane) -> None:
    client = lane.client()
    upstream = exchange(lane, client)
    client.send(lane.fill_in(GET))
    upstream.request()
    upstream.send(b"H")
    upstream.wait_read()
    upstream.close()
    assert client.response().status == 502
    assert not lane.has_arrival()
    exchange(lane, client, body=b"next")


def test_every_idle_connection_dead_is_still_one_replacement(lane: Lane) -> None:
    clients = [lane.client() for _ in range(4)]
    upstreams = []
    for client in clients:
        client.send(lane.fill_in(GET))
        upstreams.append(lane.accept())
        upstreams[-1].request()
    for client, upstream in zip(clients, upstreams, strict=True):
        upstream.send(ANSWER)
        client.response()
    for upstream in upstreams:
        upstream.reset()
    exchange(lane, clients[0], body=b"fresh")


# ---- Answered before the request is complete

UPLOAD = b"POST @x HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n"


def begin_upload(
    lane: Lane, head: bytes = UPLOAD, piece: bytes = b"x" * 1_200_000
) -> tuple[Client, Upstream]:
    """More than the retry buffer of a body without a model: it is cut through."""
    client = lane.client()
    client.send(lane.fill_in(head))
    client.send(piece)
    upstream = lane.accept()
    upstream.request_head()
    return client, upstream


@pytest.mark.parametrize("how", ["keep", "close"])
def test_early_answer_reaches_the_client_and_ends_both_connections(lane: Lane, how: str) -> None:
    client, upstream = begin_upload(lane)
    while len(upstream.buffer) < 1_000_000:
        upstream.need()
    upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
    if how == "close":
        upstream.half_close()
    answer = client.response()
    assert (answer.status, answer.body, answer.values("connection")) == (413, b"big", [b"close"])
    client.half_close()
    assert client.rest()[0] == b""
    while upstream.fill():
        pass
    assert upstream.ended
    exchange(lane, lane.client(), body=b"next")


def test_early_answer_of_a_kind_that_would_keep_alive_does_not(lane: Lane) -> None:
    """What is left of the body must not be read as the next request by the upstream, nor by the router."""
    client, upstream = begin_upload(lane)
    upstream.send(ANSWER)
    answer = client.response()
    assert answer.values("connection") == [b"close"]
    client.send(lane.fill_in(GET))
    while upstream.fill():
        pass
    assert b"GET " not in upstream.buffer
    client.half_close()
    assert client.rest()[0] == b""
    assert not lane.has_arrival()


def test_upload_that_ends_short_ends_the_upstream_connection_too(lane: Lane) -> None:
    client, upstream = begin_upload(lane)
    client.reset()
    while upstream.fill():
        pass
    assert len(upstream.buffer) < 4_000_000


def test_chunked_upload_that_turns_bad_never_ends_at_the_upstream(lane: Lane) -> None:
    head = UPLOAD.replace(b"Content-Length: 4000000", b"Transfer-Encoding: chunked")
    client, upstream = begin_upload(lane, head, b"124f80\r\n" + b"x" * 1_200_000 + b"\r\n")
    while upstream.buffer.count(b"x") < 1_200_000:
        upstream.need()
    client.send(b"zz\r\n")
    assert client.response().status == 400
    while upstream.fill():
        pass
    assert not upstream.buffer.endswith(b"0\r\n\r\n")
    exchange(lane, lane.client(), body=b"next")


def test_trailers_of_an_upload_and_of_its_early_answer_are_not_mixed(lane: Lane) -> None:
    head = UPLOAD.replace(b"Content-Length: 4000000", b"Transfer-Encoding: chunked")
    client, upstream = begin_upload(lane, head, b"124f80\r\n" + b"x" * 1_200_000 + b"\r\n")
    while upstream.buffer.count(b"x") < 1_200_000:
        upstream.need()
    upstream.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Answer: 1\r\nX-Half"
    )
    upstream.wait_read()
    client.send(b"0\r\nX-Request: 1\r\n\r\n")
    client.wait_read()
    upstream.send(b": 2\r\n\r\n")
    answer = client.response()
    assert answer.trailers == (("x-answer", b"1"), ("x-half", b"2"))


# ---- Two endpoints: another is asked as long as nothing has gone out

BAD_ANSWERS = {
    "close": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "garbage": b"rubbish\r\n\r\n",
    "interim, then garbage": b"HTTP/1.1 103 E\r\n\r\nrubbish\r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize(("number", "bad"), list(enumerate(BAD_ANSWERS.values(), 1)), ids=list(BAD_ANSWERS))
def test_other_endpoint_answers_for_one_that_fails_before_its_answer(
    conformance: Conformance, number: int, bad: bytes
) -> None:
    with conformance.endpoint(f"127.4.{number}.1") as one, conformance.endpoint(f"127.4.{number}.2") as two:
        for request in (GET, POST, CHUNKED_POST):
            client = one.client()
            client.send(request.replace(b"@", b"/pair%d/" % number))
            failing, other = (one, two) if arrives_first(one, two) else (two, one)
            upstream = failing.accept()
            first = upstream.request()
            if bad:
                upstream.send(bad)
                upstream.wait_read()
            upstream.close()
            upstream = other.accept()
            second = upstream.request()
            assert (second.start, second.body, second.trailers) == (first.start, first.body, first.trailers)
            assert second.values("x-request-id") == first.values("x-request-id")
            upstream.send(ANSWER)
            assert client.response().body == b"hi"
            one.close_all()
            two.close_all()


def arrives_first(one: Lane, two: Lane) -> bool:
    """Whether the router has connected to `one` (or else to `two`)."""
    while True:
        if one.has_arrival():
            return True
        if two.has_arrival():
            return False


def test_both_endpoints_failing_is_the_last_ones_error(conformance: Conformance) -> None:
    with conformance.endpoint("127.4.7.1") as one, conformance.endpoint("127.4.7.2") as two:
        client = one.client()
        client.send(GET.replace(b"@", b"/pair7/"))
        for _ in range(2):
            upstream = (one if arrives_first(one, two) else two).accept()
            upstream.request()
            upstream.send(b"rubbish\r\n\r\n")
            upstream.wait_read()
            upstream.close()
        answer = client.response()
        assert answer.status == 502
        assert b"upstream_malformed" in answer.body


def test_answer_that_is_bad_behind_its_head_is_an_error_and_no_second_attempt(
    conformance: Conformance,
) -> None:
    """The request is let go with the head of the answer, so nobody else can be asked."""
    with conformance.endpoint("127.4.8.1") as one, conformance.endpoint("127.4.8.2") as two:
        client = one.client()
        client.send(POST.replace(b"@", b"/pair8/"))
        upstream = (one if arrives_first(one, two) else two).accept()
        upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        answer = client.response()
        assert answer.status == 502
        assert b"upstream_malformed" in answer.body
        client.send(GET.replace(b"@", b"/pair8/"))
        upstream = (one if arrives_first(one, two) else two).accept()
        upstream.request()
        upstream.send(ANSWER)
        assert client.response().body == b"hi"


def test_answer_that_has_begun_is_never_tried_elsewhere(conformance: Conformance) -> None:
    with conformance.endpoint("127.4.9.1") as one, conformance.endpoint("127.4.9.2") as two:
        client = one.client()
        client.send(GET.replace(b"@", b"/pair9/"))
        upstream = (one if arrives_first(one, two) else two).accept()
        upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        upstream.wait_read()
        upstream.close()
        data, how = client.rest()
        assert how == "reset"
        assert data.endswith(b"2\r\nhi\r\n") or data == b""
        assert not one.has_arrival()
        assert not two.has_arrival()


def test_refused_connection_is_taken_elsewhere(conformance: Conformance) -> None:
    body = b'{"model":"half-dead"}'
    request = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with conformance.endpoint("127.5.0.3") as alive:
        client = alive.client()
        upstream = None
        for _ in range(4):
            client.send(request)
            upstream = upstream or alive.accept()
            assert upstream.request().body == body
            upstream.send(ANSWER)
            assert client.response().body == b"hi"


def test_refused_connection_to_the_only_endpoint_is_told(lane: Lane) -> None:
    body = b'{"model":"dead"}'
    request = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    client = lane.client()
    client.send(request + request)
    for _ in range(2):
        answer = client.response()
        assert answer.status == 503
        assert b'"code":"connect_failed"' in answer.body
        assert 1 <= int(answer.value("retry-after")) <= 60
        assert answer.value("x-should-retry") == b"true"


# ---- Upgrade

UPGRADE = (
    b"GET @ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: x\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_upgraded_connection_passes_bytes_both_ways(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(UPGRADE))
    upstream = lane.accept()
    request = upstream.request_head()
    assert request.values("connection") == [b"Upgrade"]
    assert request.values("upgrade") == [b"websocket"]
    assert request.values("sec-websocket-key") == [b"x"]
    upstream.send(SWITCH + b"first")
    answer = client.response()
    assert answer.status == 101
    assert answer.values("upgrade") == [b"websocket"]
    while client.buffer != b"first":
        client.need()
    client.take(5)
    client.send(b"GET / HTTP/1.1\r\n\r\n\0\xff")
    while len(upstream.buffer) < 20:
        upstream.need()
    assert upstream.take(20) == b"GET / HTTP/1.1\r\n\r\n\0\xff"
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while len(client.buffer) < 19:
        client.need()
    upstream.close()
    assert client.rest()[0] == b"HTTP/1.1 200 OK\r\n\r\n"


def test_bytes_sent_before_the_switch_wait_for_it(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(UPGRADE) + b"early")
    upstream = lane.accept()
    upstream.request_head()
    client.wait_read()
    assert upstream.is_quiet()
    upstream.send(SWITCH)
    client.response()
    while upstream.buffer != b"early":
        upstream.need()


def test_upgrade_that_is_declined_leaves_plain_http(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(UPGRADE + GET))
    upstream = lane.accept()
    upstream.request_head()
    upstream.send(ANSWER)
    answer = client.response()
    assert (answer.status, answer.body) == (200, b"hi")
    assert upstream.request_head().start == lane.fill_in(b"GET @x HTTP/1.1")
    upstream.send(ANSWER)
    assert client.response().body == b"hi"


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"GET", b"POST", 1),
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: keep-alive"),
        UPGRADE.replace(b"websocket", b"h2c").replace(
            b"Upgrade\r\n", b"Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        ),
    ],
    ids=["not GET", "HTTP/1.0", "not named by Connection", "h2c"],
)
def test_upgrade_that_is_none_is_not_passed_on(lane: Lane, request_: bytes) -> None:
    client = lane.client()
    client.send(lane.fill_in(request_))
    upstream = lane.accept()
    request = upstream.request_head()
    assert not request.values("upgrade")
    assert not request.values("connection")
    assert not request.values("http2-settings")
    upstream.send(SWITCH)
    assert client.response().status == 502


def test_switch_to_another_protocol_than_asked_is_refused(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(UPGRADE))
    upstream = lane.accept()
    upstream.request_head()
    upstream.send(SWITCH.replace(b"websocket", b"h2c"))
    assert client.response().status == 502


# ---- HTTP/1.0 clients


@pytest.mark.parametrize("lines", [b"", b"Connection: keep-alive\r\n"], ids=["close", "keep-alive"])
@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\n"
            b"X-T: 1\r\n\r\n",
            "keep",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello!", "close"),
    ],
    ids=["chunked", "until close"],
)
def test_http_1_0_client_gets_no_chunks(lane: Lane, lines: bytes, answer: bytes, end: str) -> None:
    client = lane.client()
    client.send(lane.fill_in(b"GET @x HTTP/1.0\r\n" + lines + b"\r\n"))
    upstream = lane.accept()
    upstream.request()
    upstream.send(answer)
    if end == "close":
        upstream.close()
    got = client.response()
    assert (got.body, got.framing) == (b"hello!", "close")
    assert not got.values("transfer-encoding")


def test_http_1_0_client_sees_that_an_answer_was_cut(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(b"GET @x HTTP/1.0\r\n\r\n"))
    upstream = lane.accept()
    upstream.request()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"zz\r\n")
    assert client.rest()[1] == "reset"

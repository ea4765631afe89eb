"""One client connection over its life: kept, pipelined on, asked to expect, left half-way (RFC 9112 9; RFC
9110 10.1.1).
"""

from __future__ import annotations

import pytest

from tests.conformance.harness import Lane
from tests.conformance.messages import ANSWER, CHUNKED, LENGTH_5, again, get, post

# ---- Keep-alive and pipelining


def test_pipelined_requests_are_answered_in_order(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(b"".join(get(target=b"@%d" % n) for n in range(20))))
    upstream = lane.accept()
    for number in range(20):
        request = upstream.request()
        assert request.start == lane.fill_in(b"GET @%d HTTP/1.1" % number)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % number)
    assert [client.response().body for _ in range(20)] == [b"%02d" % number for number in range(20)]
    assert client.is_quiet()
    assert not lane.has_arrival()


def test_pipelined_request_waits_for_the_answer_before_it(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(get(target=b"@1")), lane.fill_in(get(target=b"@2")))
    upstream = lane.accept()
    upstream.request()
    client.wait_read()
    assert upstream.is_quiet()
    assert not lane.has_arrival()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    upstream.wait_read()
    assert upstream.is_quiet()
    upstream.send(b"0\r\n\r\n")
    assert client.response().body == b"a"
    assert upstream.request().start == lane.fill_in(b"GET @2 HTTP/1.1")
    upstream.send(ANSWER)
    assert client.response().body == b"hi"


def test_pipelined_bodies_of_every_framing(lane: Lane) -> None:
    client = lane.client()
    client.send(
        lane.fill_in(
            post(LENGTH_5, body=b"hello")
            + get()
            + post(CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n")
            + post(b"Content-Length: 0")
            + post(CHUNKED, body=b"1\r\nd\r\n0\r\nX-T: 1\r\n\r\n")
            + get(method=b"HEAD")
            + post(LENGTH_5, body=b"world")
        )
    )
    upstream = lane.accept()
    bodies = []
    for _ in range(7):
        request = upstream.request()
        bodies.append((request.start[:4], request.body))
        upstream.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
            + (b"" if request.start.startswith(b"HEAD") else b"x")
        )
    assert bodies == [
        (b"POST", b"hello"),
        (b"GET ", b""),
        (b"POST", b"abc"),
        (b"POST", b""),
        (b"POST", b"d"),
        (b"HEAD", b""),
        (b"POST", b"world"),
    ]
    for method in ("POST", "GET", "POST", "POST", "POST", "HEAD", "POST"):
        assert client.response(method).body == (b"" if method == "HEAD" else b"x")
    assert client.is_quiet()


def test_errors_stand_in_their_place_among_pipelined_answers(lane: Lane) -> None:
    """A request the router answers itself waits for the one before it, and the one after it goes on."""
    client = lane.client()
    unknown = (
        get(target=b"/v1/chat/completions", method=b"POST").replace(
            b"\r\n\r\n", b"\r\nContent-Length: 15\r\n\r\n"
        )
        + b'{"model":"zzz"}'
    )
    client.send(
        lane.fill_in(get(target=b"@1") + unknown + get(target=b"@2") + b"BAD\r\n\r\n" + get(target=b"@3"))
    )
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    assert client.response().status == 404
    assert upstream.request().start == lane.fill_in(b"GET @2 HTTP/1.1")
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    assert client.response().status == 400
    client.half_close()
    assert client.rest() == (b"", "eof")
    assert not lane.has_arrival()
    assert upstream.is_quiet()


def test_nothing_after_connection_close_is_answered(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(get(b"Connection: close") + get(target=b"@2")))
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    assert client.rest() == (b"", "eof")
    assert upstream.is_quiet()


def test_answer_reaches_a_client_that_still_sends_after_connection_close(lane: Lane) -> None:
    """RFC 9112 9.6: closing with unread data would reset the connection and take the answer with it."""
    client = lane.client()
    client.send(lane.fill_in(get(b"Connection: close")))
    upstream = lane.accept()
    upstream.request()
    client.send(lane.fill_in(get(target=b"@2")))
    body = b"x" * 100_000
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body)
    assert client.response().body == body
    assert client.rest() == (b"", "eof")


# ---- x-request-id


@pytest.mark.parametrize("odd", [b"", b"a b", b'a"b', b"a\\b", b"x" * 300, b"\xe9", b"a\tb"], ids=repr)
def test_odd_request_id_is_replaced(lane: Lane, odd: bytes) -> None:
    client = lane.client()
    client.send(lane.fill_in(get(b"X-Request-Id: " + odd)))
    upstream = lane.accept()
    made = upstream.request().value("x-request-id")
    assert made != odd
    assert 16 <= len(made) <= 64
    upstream.send(ANSWER)
    assert client.response().value("x-request-id") == made


def test_made_request_ids_differ(lane: Lane) -> None:
    client = lane.client()
    made = set()
    upstream = None
    for _ in range(5):
        client.send(lane.fill_in(get()))
        upstream = upstream or lane.accept()
        made.add(upstream.request().value("x-request-id"))
        upstream.send(ANSWER)
        client.response()
    assert len(made) == 5


def test_request_id_is_kept_in_the_routers_own_errors(lane: Lane) -> None:
    client = lane.client()
    client.send(
        b'POST /v1/x HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nContent-Length: 15\r\n\r\n{"model":"zzz"}'
    )
    answer = client.response()
    assert answer.status == 404
    assert answer.value("x-request-id") == b"mine"


# ---- Expect


def test_continue_is_said_before_the_body(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(post(LENGTH_5, b"Expect: 100-continue")))
    facts, _ = client.head(is_response=True)
    assert facts["status"] == 100
    client.send(b"hello")
    upstream = lane.accept()
    request = upstream.request()
    assert request.body == b"hello"
    assert not request.values("expect")
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER)
    assert client.response().body == b"hi"
    again(lane, client, upstream)


def test_continue_is_not_said_when_the_body_is_there(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(post(LENGTH_5, b"Expect: 100-continue", body=b"hello")))
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    again(lane, client, upstream)


def test_continue_is_not_said_without_a_body(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(post(b"Content-Length: 0", b"Expect: 100-continue")))
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"


def test_continue_for_a_pipelined_request_comes_after_the_answer_before_it(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(get()), lane.fill_in(post(CHUNKED, b"Expect: 100-Continue")))
    upstream = lane.accept()
    upstream.request()
    client.wait_read()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    facts, _ = client.head(is_response=True)
    assert facts["status"] == 100
    client.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert upstream.request().body == b"hello"
    upstream.send(ANSWER)
    assert client.response().body == b"hi"


# ---- Ends


@pytest.mark.parametrize(
    "part",
    [
        b"G",
        b"GET @x HTTP/1.1\r\n",
        get()[:-1],
        post(LENGTH_5),
        post(LENGTH_5, body=b"he"),
        post(CHUNKED, body=b"5\r\nhe"),
    ],
)
def test_client_that_goes_away_in_its_request_hurts_nobody(lane: Lane, part: bytes) -> None:
    client = lane.client()
    client.send(lane.fill_in(part))
    client.wait_read()
    client.reset()
    again(lane, lane.client())


def test_client_that_goes_away_after_its_request_cancels_the_upstream(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(get()))
    upstream = lane.accept()
    upstream.request()
    client.reset()
    assert upstream.rest()[0] == b""
    again(lane, lane.client())


def test_incomplete_body_never_reaches_the_upstream_as_a_whole_one(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(post(b"Content-Length: 10", body=b"hello")))
    client.wait_read()
    client.half_close()
    assert client.rest()[1] in ("eof", "reset")
    assert not lane.has_arrival()


def test_early_refusal_is_read_by_a_client_that_goes_on_sending(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(post(b"Content-Length: 9000000")))
    client.wait_read()
    for _ in range(50):
        client.send(b"x" * 10000)
    answer = client.response()
    assert answer.status == 413
    client.half_close()
    assert client.rest() == (b"", "eof")


def test_chunked_body_past_the_limit_is_refused(lane: Lane) -> None:
    """It has no model yet, so all of it waits in the router until it is too much."""
    client = lane.client()
    client.send(lane.fill_in(post(CHUNKED, body=b"1\r\n{\r\n")))
    for _ in range(100):
        client.send(b"186a0\r\n" + b" " * 100_000 + b"\r\n")
    assert client.response().status == 413
    assert not lane.has_arrival()


def test_chunked_body_past_the_limit_is_cut_where_it_goes_on(lane: Lane) -> None:
    """Cut through, it is refused with 413 as long as no answer has begun; the upstream must not take it for
    whole.
    """
    client = lane.client()
    client.send(lane.fill_in(post(CHUNKED)))
    chunk = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    for _ in range(12):
        client.send(chunk)
    upstream = lane.accept()
    upstream.request_head()
    received = upstream.buffer.count(b"x")
    tail = b""
    for count in range(12, 90):
        while received < count * 100_000 and upstream.fill():
            data = upstream.take(len(upstream.buffer))
            received += data.count(b"x")
            tail = (tail + data)[-10:]
        client.send(chunk)
    assert client.response().status == 413
    rest, how = upstream.rest()
    assert how in ("eof", "reset")
    assert not (tail + rest).endswith(b"0\r\n\r\n")

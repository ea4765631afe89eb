"""What a client may send, and what the upstream then gets (RFC 9112 2, 3, 6, 7 and 9; RFC 9110 7)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conformance.harness import DEFAULT_ADDRESS, Conformance, Lane, Message
from tests.conformance.messages import ANSWER, HOST, again, get, post


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request that passes. `@` in `raw` stands for the lane's path.

    `start` is the upstream's request line; `fields` must be there exactly so (in this order when a name comes
    more than once), `absent` not at all.
    """

    name: str
    raw: bytes | tuple[bytes, ...]
    start: bytes = b"GET @x HTTP/1.1"
    fields: tuple[tuple[str, bytes], ...] = ()
    absent: tuple[str, ...] = ()
    body: bytes = b""
    framing: str = "none"
    trailers: tuple[tuple[str, bytes], ...] = ()
    method: str = "GET"
    kept: bool = True
    response: tuple[tuple[str, bytes], ...] = ()  # fields of the answer to the client


def case(name: str, raw: bytes | tuple[bytes, ...], **then: object) -> Case:
    return Case(name=name, raw=raw, **then)  # type: ignore[arg-type]


def hello(name: str, raw: bytes | tuple[bytes, ...], **then: object) -> Case:
    """A POST whose body arrives as `hello`, by its length unless something else is said."""
    return case(name, raw, **{"start": POST, "body": b"hello", "framing": "length", **then})


POST = b"POST @x HTTP/1.1"
HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
)
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PASSED = [
    case("plain GET", get()),
    case("query", get(target=b"@x?a=b&c=%20d"), start=b"GET @x?a=b&c=%20d HTTP/1.1"),
    case("odd characters in a query", get(target=b"@x?a=[1]|{2}^"), start=b"GET @x?a=[1]|{2}^ HTTP/1.1"),
    case("percent-encoding is not touched", get(target=b"@a%2Fb%00%zz"), start=b"GET @a%2Fb%00%zz HTTP/1.1"),
    case("dot segments are not touched", get(target=b"@a/../b/./c"), start=b"GET @a/../b/./c HTTP/1.1"),
    case("double slashes are not touched", get(target=b"@/a//b"), start=b"GET @/a//b HTTP/1.1"),
    case(
        "absolute-form becomes origin-form",
        get(target=b"http://b.example@x?q"),
        start=b"GET @x?q HTTP/1.1",
        fields=(("x-forwarded-host", b"b.example"),),
    ),
    case(
        "absolute-form outranks Host",
        get(target=b"http://b.example:81@x"),
        fields=(("x-forwarded-host", b"b.example:81"),),
    ),
    case("absolute-form with https", get(target=b"https://b.example@x")),
    case("absolute-form with a scheme in upper case", get(target=b"HTTP://b.example@x")),
    case("blank line before the request", b"\r\n" + get()),
    case(
        "blank lines before the request, in pieces",
        (b"\r", b"\n\r\n", b"\r\nGET @x", b" HTTP/1.1\r\n" + HOST, b"\r", b"\n"),
    ),
    case("a method nobody knows", get(method=b"PROPFIND"), start=b"PROPFIND @x HTTP/1.1"),
    case("a method in lower case is another method", get(method=b"get"), start=b"get @x HTTP/1.1"),
    case("DELETE", get(method=b"DELETE"), start=b"DELETE @x HTTP/1.1"),
    case("OPTIONS", get(method=b"OPTIONS"), start=b"OPTIONS @x HTTP/1.1"),
    case("HEAD", get(method=b"HEAD"), start=b"HEAD @x HTTP/1.1", method="HEAD"),
    case(
        "Host with a port",
        get(host=b"Host: a.example:8080\r\n"),
        fields=(("x-forwarded-host", b"a.example:8080"),),
    ),
    case(
        "Host with an IPv6 address",
        get(host=b"Host: [::1]:80\r\n"),
        fields=(("x-forwarded-host", b"[::1]:80"),),
    ),
    case("Host in any case", get(host=b"hOsT: a.example\r\n"), fields=(("x-forwarded-host", b"a.example"),)),
    case(
        "fields pass in order",
        get(b"X-A: 1", b"X-B: 2", b"X-A: 3"),
        fields=(("x-a", b"1"), ("x-b", b"2"), ("x-a", b"3")),
    ),
    case("optional white space", get(b"X-A:1", b"X-B:\t 2 \t"), fields=(("x-a", b"1"), ("x-b", b"2"))),
    case("empty field value", get(b"X-A:"), fields=(("x-a", b""),)),
    case("field value with obs-text", get(b"X-A: \xc3\xa9\xff"), fields=(("x-a", b"\xc3\xa9\xff"),)),
    case(
        "every token character in a name",
        get(b"!#$%&'*+-.^_`|~09azAZ: 1"),
        fields=(("!#$%&'*+-.^_`|~09azaz", b"1"),),
    ),
    case("many fields", get(*(b"X-%d: 1" % n for n in range(100))), fields=(("x-99", b"1"),)),
    case(
        "hop-by-hop fields stop here",
        get(
            b"Connection: keep-alive, X-Mine , te",
            b"Keep-Alive: timeout=5",
            b"X-Mine: 1",
            b"x-mine: 2",
            b"X-Yours: 1",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: X-A",
            b"Proxy-Authorization: Basic eA==",
        ),
        fields=(("x-yours", b"1"),),
        absent=(*HOP_BY_HOP, "x-mine"),
    ),
    case(
        "two Connection lines",
        get(b"Connection: X-A", b"Connection: X-B", b"X-A: 1", b"X-B: 1", b"X-C: 1"),
        fields=(("x-c", b"1"),),
        absent=("x-a", "x-b", "connection"),
    ),
    case(
        "empty members of Connection", get(b"Connection: ,, X-A ,", b"X-A: 1"), absent=("x-a", "connection")
    ),
    case("an Upgrade that Connection does not name", get(b"Upgrade: websocket"), absent=("upgrade",)),
    case(
        "Connection cannot take what the router says",
        get(b"Connection: host, x-forwarded-for, x-request-id, via, content-type", b"Content-Type: a/b"),
        fields=(("content-type", b"a/b"), ("x-forwarded-for", b"127.0.0.1")),
    ),
    case(
        "X-Forwarded of a stranger is replaced",
        get(
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: evil",
            b"Forwarded: for=6.6.6.6",
        ),
        fields=(
            ("x-forwarded-for", b"127.0.0.1"),
            ("x-forwarded-proto", b"http"),
            ("x-forwarded-host", b"a.example"),
        ),
        absent=("forwarded",),
    ),
    case("Via is added to", get(b"Via: 1.0 fred"), fields=(("via", b"1.0 fred"), ("via", b"1.1 fairlead"))),
    case(
        "traceparent passes",
        get(b"traceparent: " + TRACE, b"tracestate: a=b"),
        fields=(("traceparent", TRACE), ("tracestate", b"a=b")),
    ),
    case(
        "x-request-id is kept",
        get(b"X-Request-Id: abc-123"),
        fields=(("x-request-id", b"abc-123"),),
        response=(("x-request-id", b"abc-123"),),
    ),
    case(
        "cookies pass", get(b"Cookie: a=b", b"Cookie: c=d"), fields=(("cookie", b"a=b"), ("cookie", b"c=d"))
    ),
    case(
        "a client's keys stop here",
        get(
            b"Authorization: Bearer sk",
            b"x-api-key: sk",
            b"API-KEY: sk",
            b"X-Goog-Api-Key: sk",
            b"x-GOOG-api-Key: sk",
        ),
        absent=("authorization", "x-api-key", "api-key", "x-goog-api-key"),
    ),
    hello("content length", post(b"Content-Length: 5", body=b"hello")),
    case("content length zero", post(b"Content-Length: 0"), start=POST, framing="length"),
    case("POST without a body", post(), start=POST),
    hello("equal lengths", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    hello("a list of equal lengths", post(b"Content-Length: 5 , 5", body=b"hello")),
    hello(
        "length with leading zeros",
        post(b"Content-Length: 00005", body=b"hello"),
        fields=(("content-length", b"5"),),
    ),
    case("GET with a body", get(b"Content-Length: 5") + b"hello", body=b"hello", framing="length"),
    hello("body in pieces", (post(b"Content-Length: 5")[:-1], b"\n", b"he", b"ll", b"o")),
    hello("chunked", post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")),
    case(
        "chunked, empty", post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), start=POST, framing="length"
    ),
    hello("chunked in any case", post(b"TRANSFER-encoding: ChunkeD", body=b"5\r\nhello\r\n0\r\n\r\n")),
    case(
        "chunked, many",
        post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 100 + b"0\r\n\r\n"),
        start=POST,
        body=b"a" * 100,
        framing="length",
    ),
    hello(
        "chunked with extensions",
        post(b"Transfer-Encoding: chunked", body=b'5;a=b;c="d\\";"\r\nhello\r\n0;x\r\n\r\n'),
    ),
    hello(
        "chunked with trailers",
        post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n"),
        framing="chunked",
        trailers=(("x-sum", b"1"), ("x-two", b"2")),
    ),
    hello(
        "trailers of framing and routing are dropped",
        post(
            b"Transfer-Encoding: chunked",
            body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\nContent-Length: 3\r\nAuthorization: x\r\n\r\n",
        ),
        framing="chunked",
        trailers=(("x-sum", b"1"),),
    ),
    hello(
        "chunked in pieces",
        (
            post(b"Transfer-Encoding: chunked"),
            b"5",
            b"\r",
            b"\nhel",
            b"lo\r",
            b"\n0\r\n",
            b"X-A: 1\r",
            b"\n\r",
            b"\n",
        ),
        framing="chunked",
        trailers=(("x-a", b"1"),),
    ),
    case("HTTP/1.0", get(version=b"HTTP/1.0"), kept=False, response=(("connection", b"close"),)),
    case(
        "HTTP/1.0 without Host", get(version=b"HTTP/1.0", host=b""), kept=False, absent=("x-forwarded-host",)
    ),
    case(
        "HTTP/1.0 is named in Via", get(version=b"HTTP/1.0"), kept=False, fields=(("via", b"1.0 fairlead"),)
    ),
    case(
        "HTTP/1.0 with keep-alive",
        get(b"Connection: keep-alive", version=b"HTTP/1.0"),
        response=(("connection", b"keep-alive"),),
    ),
    case(
        "HTTP/1.0 with keep-alive in any case",
        get(b"Connection: Keep-Alive", version=b"HTTP/1.0"),
        response=(("connection", b"keep-alive"),),
    ),
    hello(
        "HTTP/1.0 with a body",
        post(b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        kept=False,
    ),
    case("Connection: close", get(b"Connection: close"), kept=False, response=(("connection", b"close"),)),
    case(
        "Connection: close in any case",
        get(b"Connection: X-A, CLOSE"),
        kept=False,
        response=(("connection", b"close"),),
    ),
    case("Connection: close and keep-alive", get(b"Connection: keep-alive, close"), kept=False),
    hello(
        "a stranger to JSON as a body",
        post(b"Content-Type: text/plain", b"Content-Length: 5", body=b"hello"),
    ),
    hello(
        "Expect by HTTP/1.0 is ignored",
        post(b"Expect: 100-continue", b"Content-Length: 5", version=b"HTTP/1.0", body=b"hello"),
        kept=False,
        absent=("expect",),
    ),
    case(
        "an unsafe Range of fields passes",
        get(b"Range: bytes=0-1", b'If-None-Match: "x"'),
        fields=(("range", b"bytes=0-1"),),
    ),
]


@pytest.mark.parametrize("case", PASSED, ids=lambda case: case.name)
def test_request_passes(lane: Lane, case: Case) -> None:
    client = lane.client()
    pieces = (case.raw,) if isinstance(case.raw, bytes) else case.raw
    client.send(*map(lane.fill_in, pieces))
    upstream = lane.accept()
    request = upstream.request()
    check_request(lane, request, case)
    upstream.send(ANSWER.removesuffix(b"hi") if case.method == "HEAD" else ANSWER)
    answer = client.response(case.method)
    assert answer.status == 200
    assert answer.body == (b"" if case.method == "HEAD" else b"hi")
    for name, value in case.response:
        assert answer.values(name) == [value], answer.raw
    if not case.kept:
        assert client.rest() == (b"", "eof")
        return
    assert b"close" not in answer.values("connection")
    again(lane, client, upstream)


def check_request(lane: Lane, request: Message, case: Case) -> None:
    assert request.start == lane.fill_in(case.start)
    assert (request.body, request.framing, request.trailers) == (case.body, case.framing, case.trailers), (
        request.raw
    )
    assert request.values("host") == [lane.authority], "the endpoint's own name"
    names = {name for name, _ in request.fields}
    assert not names & set(case.absent), request.raw
    wanted = {name for name, _ in case.fields}
    assert tuple((name, value) for name, value in request.fields if name in wanted) == case.fields, (
        request.raw
    )
    assert len(request.values("x-request-id")) == 1
    assert request.values("x-forwarded-proto") == [b"http"]
    assert request.values("x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize("target", [b"*", b"http://b.example"])
def test_asterisk_form_is_passed_on(conformance: Conformance, target: bytes) -> None:
    with conformance.endpoint(DEFAULT_ADDRESS) as default:
        client = default.client()
        client.send(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
        upstream = default.accept()
        assert upstream.request().start == b"OPTIONS * HTTP/1.1"
        upstream.send(b"HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n")
        assert client.response().status == 204


@pytest.mark.parametrize(
    ("target", "start"),
    [
        (b"http://b.example", b"GET / HTTP/1.1"),
        (b"http://b.example?q", b"GET /?q HTTP/1.1"),
        (b"http://b.example/", b"GET / HTTP/1.1"),
        (b"http://b.example:81", b"GET / HTTP/1.1"),
    ],
)
def test_absolute_form_without_a_path(conformance: Conformance, target: bytes, start: bytes) -> None:
    with conformance.endpoint(DEFAULT_ADDRESS) as default:
        client = default.client()
        client.send(get(target=target))
        upstream = default.accept()
        assert upstream.request().start == start
        upstream.send(ANSWER)
        assert client.response().body == b"hi"

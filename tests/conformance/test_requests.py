"""What a client may send, what the upstream then gets, and what is refused (RFC 9112 2, 3, 5, 6, 7 and 9; RFC 9110 7 and 10)."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.conformance.harness import DEFAULT_ADDRESS, Client, Conformance, Lane, Message, Upstream

HOST = b"Host: a.example\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request that passes. `@` in `raw` stands for the lane's path.

    `start` is what the upstream's request line begins with; `fields` must be there exactly so (in this order when a name
    comes more than once), `absent` not at all.
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
    case(
        "content length",
        post(b"Content-Length: 5", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case("content length zero", post(b"Content-Length: 0"), start=POST, framing="length"),
    case("POST without a body", post(), start=POST),
    case(
        "equal lengths",
        post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "a list of equal lengths",
        post(b"Content-Length: 5 , 5", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "length with leading zeros",
        post(b"Content-Length: 00005", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
        fields=(("content-length", b"5"),),
    ),
    case("GET with a body", get(b"Content-Length: 5") + b"hello", body=b"hello", framing="length"),
    case(
        "body in pieces",
        (post(b"Content-Length: 5")[:-1], b"\n", b"he", b"ll", b"o"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "chunked",
        post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "chunked, empty", post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), start=POST, framing="length"
    ),
    case(
        "chunked in any case",
        post(b"TRANSFER-encoding: ChunkeD", body=b"5\r\nhello\r\n0\r\n\r\n"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "chunked, many",
        post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 100 + b"0\r\n\r\n"),
        start=POST,
        body=b"a" * 100,
        framing="length",
    ),
    case(
        "chunked with extensions",
        post(b"Transfer-Encoding: chunked", body=b'5;a=b;c="d\\";"\r\nhello\r\n0;x\r\n\r\n'),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "chunked with trailers",
        post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n"),
        start=POST,
        body=b"hello",
        framing="chunked",
        trailers=(("x-sum", b"1"), ("x-two", b"2")),
    ),
    case(
        "trailers of framing and routing are dropped",
        post(
            b"Transfer-Encoding: chunked",
            body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\nContent-Length: 3\r\nAuthorization: x\r\n\r\n",
        ),
        start=POST,
        body=b"hello",
        framing="chunked",
        trailers=(("x-sum", b"1"),),
    ),
    case(
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
        start=POST,
        body=b"hello",
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
    case(
        "HTTP/1.0 with a body",
        post(b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        start=POST,
        body=b"hello",
        framing="length",
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
    case(
        "a stranger to JSON as a body",
        post(b"Content-Type: text/plain", b"Content-Length: 5", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
    ),
    case(
        "Expect by HTTP/1.0 is ignored",
        post(b"Expect: 100-continue", b"Content-Length: 5", version=b"HTTP/1.0", body=b"hello"),
        start=POST,
        body=b"hello",
        framing="length",
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
    again(lane, client, upstream, case)


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


def again(lane: Lane, client: Client, upstream: Upstream | None, case: object = None) -> None:
    """The next exchange, on the same two connections (or a new one to the upstream when there is none yet)."""
    client.send(lane.fill_in(get(target=b"@again")))
    upstream = upstream or lane.accept()
    request = upstream.request()
    assert request.start == lane.fill_in(b"GET @again HTTP/1.1")
    assert request.body == b""
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
    assert client.response().body == b"again"
    assert client.is_quiet()
    assert not lane.has_arrival()


# ---- Refusals

BIG_FIELD = b"X: " + b"a" * 40000
CL5 = b"Content-Length: 5"
TE = b"Transfer-Encoding: chunked"

REFUSED: dict[str, tuple[int, bytes]] = {
    # framing (RFC 9112 6)
    "length and coding": (400, post(CL5, TE, body=b"0\r\n\r\n")),
    "coding and length": (400, post(TE, CL5, body=b"0\r\n\r\n")),
    "two lengths": (400, post(CL5, b"Content-Length: 6", body=b"hello")),
    "a list of lengths that differ": (400, post(b"Content-Length: 5, 6", body=b"hello")),
    "an empty length": (400, post(b"Content-Length:", body=b"hello")),
    "an empty member of lengths": (400, post(b"Content-Length: 5,,5", body=b"hello")),
    "a signed length": (400, post(b"Content-Length: +5", body=b"hello")),
    "a negative length": (400, post(b"Content-Length: -5", body=b"hello")),
    "a hexadecimal length": (400, post(b"Content-Length: 0x5", body=b"hello")),
    "a length with an underscore": (400, post(b"Content-Length: 1_0", body=b"hello")),
    "a length with a space": (400, post(b"Content-Length: 1 0", body=b"hello")),
    "a length in quotes": (400, post(b'Content-Length: "5"', body=b"hello")),
    "a length past 64 bits": (400, post(b"Content-Length: 18446744073709551621", body=b"hello")),
    "a length of a hundred digits": (400, post(b"Content-Length: " + b"9" * 100, body=b"hello")),
    "a length with a non-ASCII digit": (400, post(b"Content-Length: \xd9\xa5", body=b"hello")),
    "an unknown coding": (400, post(b"Transfer-Encoding: gzip", body=b"hello")),
    "gzip, chunked": (400, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "chunked, gzip": (400, post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    "chunked twice": (400, post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    "chunked on two lines": (400, post(TE, TE, body=b"0\r\n\r\n")),
    "chunked and then identity": (400, post(TE, b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "identity": (400, post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "chunked with a parameter": (400, post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n")),
    "chunked in quotes": (400, post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "an empty coding": (400, post(b"Transfer-Encoding:", body=b"0\r\n\r\n")),
    "a comma before chunked": (400, post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n")),
    "chunked after a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    "chunked after a no-break space": (400, post(b"Transfer-Encoding: \xa0chunked", body=b"0\r\n\r\n")),
    "chunked with a bare CR round it": (400, post(b"Transfer-Encoding: \rchunked\r", body=b"0\r\n\r\n")),
    "chunked by HTTP/1.0": (400, post(TE, version=b"HTTP/1.0", body=b"0\r\n\r\n")),
    "a coding's name with a space": (400, post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    # request line (RFC 9112 3)
    "HTTP/0.9": (400, b"GET @x\r\n\r\n"),
    "no target": (400, b"GET HTTP/1.1\r\n" + HOST + b"\r\n"),
    "two spaces before the target": (400, b"GET  @x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "two spaces after the target": (400, b"GET @x  HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a tab for a space": (400, b"GET\t@x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a space before the method": (400, b" GET @x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a space after the version": (400, b"GET @x HTTP/1.1 \r\n" + HOST + b"\r\n"),
    "a space in the target": (400, get(target=b"@x y")),
    "a control in the target": (400, get(target=b"@x\x01")),
    "a tab in the target": (400, get(target=b"@x\ty")),
    "DEL in the target": (400, get(target=b"@x\x7f")),
    "obs-text in the target": (400, get(target=b"@x\xe9")),
    "a fragment in the target": (400, get(target=b"@x#y")),
    "NUL in the target": (400, get(target=b"@x\x00")),
    "a target that is no form": (400, get(target=b"x")),
    "a backslash for a slash": (400, get(target=b"\\x")),
    "an empty authority": (400, get(target=b"http://@x")),
    "userinfo in the target": (400, get(target=b"http://user:pw\x40a.example/x")),
    "another scheme": (400, get(target=b"ftp://a.example/x")),
    "an asterisk for GET": (400, get(target=b"*")),
    "a colon in the method": (400, get(method=b"GE:T")),
    "a method with a bracket": (400, get(method=b"(GET")),
    "a method of 40 bytes": (400, get(method=b"G" * 40)),
    "an empty method": (400, b" @x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "http in lower case": (400, get(version=b"http/1.1")),
    "a version without a minor": (400, get(version=b"HTTP/1")),
    "a version of two digits": (400, get(version=b"HTTP/1.10")),
    "a version with a comma": (400, get(version=b"HTTP/1,1")),
    "another protocol": (400, get(version=b"HTCPCP/1.0")),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "HTTP/2.0": (505, get(version=b"HTTP/2.0")),
    "HTTP/1.2": (505, get(version=b"HTTP/1.2")),
    "HTTP/9.9": (505, get(version=b"HTTP/9.9")),
    "HTTP/0.1": (505, get(version=b"HTTP/0.1")),
    "the HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # Host (RFC 9112 3.2)
    "no Host": (400, get(host=b"")),
    "two Hosts": (400, get(host=HOST * 2)),
    "two Hosts that differ": (400, get(host=HOST + b"Host: b.example\r\n")),
    "an empty Host": (400, get(host=b"Host:\r\n")),
    "Host with userinfo": (400, get(host=b"Host: user\x40a.example\r\n")),
    "Host with a path": (400, get(host=b"Host: a.example/x\r\n")),
    "Host with a space": (400, get(host=b"Host: a example\r\n")),
    "Host that is a list": (400, get(host=b"Host: a.example, b.example\r\n")),
    "Host with a bad port": (400, get(host=b"Host: a.example:x\r\n")),
    "Host with a port too large": (400, get(host=b"Host: a.example:65536\r\n")),
    "Host with an open bracket": (400, get(host=b"Host: [::1\r\n")),
    "Host with a bad address": (400, get(host=b"Host: [::g]\r\n")),
    "Host with obs-text": (400, get(host=b"Host: \xe9.example\r\n")),
    "Host with a bad percent-encoding": (400, get(host=b"Host: a%2.example\r\n")),
    "no Host beside absolute-form": (400, get(target=b"http://a.example@x", host=b"")),
    # fields (RFC 9112 5)
    "a space before the colon": (400, get(b"X-A : 1")),
    "a tab before the colon": (400, get(b"X-A\t: 1")),
    "obs-fold": (400, get(b"X-A: 1\r\n 2")),
    "obs-fold with a tab": (400, get(b"X-A: 1\r\n\t2")),
    "a space before the first field": (400, get(host=b" Host: a.example\r\n")),
    "a field without a colon": (400, get(b"X-A")),
    "an empty name": (400, get(b": 1")),
    "a name with a space": (400, get(b"X A: 1")),
    "a name with a bracket": (400, get(b"X(A): 1")),
    "a name with obs-text": (400, get(b"X\xe9: 1")),
    "a name with NUL": (400, get(b"X\0: 1")),
    "NUL in a value": (400, get(b"X-A: \0")),
    "a control in a value": (400, get(b"X-A: a\x08b")),
    "DEL in a value": (400, get(b"X-A: a\x7fb")),
    "a vertical tab in a value": (400, get(b"X-A: a\x0bb")),
    "bare CR in a value": (400, get(b"X-A: a\rb")),
    "bare CR at a value's end": (400, get(b"X-A: a\r")),
    "bare LF in a value": (400, get(b"X-A: a\nX-B: b")),
    "bare LF after the request line": (400, b"GET @x HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF everywhere": (400, b"GET @x HTTP/1.1\nHost: a\n\n"),
    "bare LF as the blank line": (400, get()[:-2] + b"\n"),
    "bare LF before the request": (400, b"\n" + get()),
    "bare CR before the request": (400, b"\r" + get()),
    "a Connection that is no list": (400, get(b"Connection: a b")),
    "a Connection with a control": (400, get(b"Connection: a\x01")),
    # sizes
    "a target too long": (414, get(target=b"@" + b"x" * 9000)),
    "a target far too long": (414, b"GET @" + b"x" * 40000),
    "a field too long": (431, get(BIG_FIELD)),
    "a head without end": (431, b"GET @x HTTP/1.1\r\n" + b"X-A: aaaaaaaaaaaaaaaaaaaa\r\n" * 2000),
    "too many fields": (431, get(*(b"X: 1",) * 200)),
    "a body too large": (413, post(b"Content-Length: 9000000", body=b"")),
    "a body too large, with Expect": (413, post(b"Content-Length: 9000000", b"Expect: 100-continue")),
    # others
    "another expectation": (417, post(CL5, b"Expect: 200-maybe", body=b"hello")),
    "two expectations": (417, post(CL5, b"Expect: 100-continue, x", body=b"hello")),
    "CONNECT": (405, get(target=b"a.example:443", method=b"CONNECT")),
    "TRACE": (405, get(method=b"TRACE")),
    "CONNECT with a path": (400, get(method=b"CONNECT")),
    # chunks (RFC 9112 7.1)
    **{
        f"chunked: {name}": (400, post(TE, body=b"5\r\nhello\r\n" + bad))
        for name, bad in {
            "no size": b"\r\n0\r\n\r\n",
            "bad size": b"g\r\n",
            "signed size": b"+0\r\n\r\n",
            "negative size": b"-1\r\n",
            "0x size": b"0x0\r\n\r\n",
            "a size past 64 bits": b"10000000000000000\r\n",
            "a size past 63 bits": b"8000000000000000\r\n",
            "17 digits": b"00000000000000000\r\n\r\n",
            "an underscore": b"1_0\r\n",
            "a space before": b" 0\r\n\r\n",
            "a space after": b"0 \r\n\r\n",
            "bare LF after a size": b"0\n\r\n",
            "bare LF as the end": b"0\r\n\n",
            "bare CR after a size": b"0\rX\n",
            "data too long": b"2\r\nhello\r\n0\r\n\r\n",
            "data without its end": b"2\r\nhe0\r\n\r\n",
            "bare LF after data": b"2\r\nhe\n0\r\n\r\n",
            "bare CR after data": b"2\r\nhe\r0\r\n\r\n",
            "NUL in an extension": b"0;\0\r\n\r\n",
            "bare LF in an extension": b"0;a\nb\r\n\r\n",
            "an extension without a name": b"0;=b\r\n\r\n",
            "an extension in open quotes": b'0;a="b\r\n\r\n',
            "a trailer without a colon": b"0\r\nX\r\n\r\n",
            "a trailer with a space before its colon": b"0\r\nX : 1\r\n\r\n",
            "a folded trailer": b"0\r\nX: 1\r\n 2\r\n\r\n",
            "bare LF after a trailer": b"0\r\nX: 1\n\r\n",
            "NUL in a trailer": b"0\r\nX: \0\r\n\r\n",
            "too many trailers": b"0\r\n" + b"X: 1\r\n" * 40 + b"\r\n",
            "trailers too large": b"0\r\n" + b"X: 111111111111111111111111111\r\n" * 1000 + b"\r\n",
            "an extension too long": b"0;" + b"x" * 5000 + b"\r\n\r\n",
        }.items()
    },
}
TYPES = {
    400: ("bad_request",),
    405: ("method_not_allowed",),
    413: ("body_too_large",),
    414: ("target_too_long",),
    417: ("expectation_failed",),
    431: ("head_too_large",),
    505: ("unsupported_http_version",),
}


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED.keys())
def test_request_is_refused_and_the_connection_closed(lane: Lane, status: int, raw: bytes) -> None:
    client = lane.client()
    # A pipelined request behind it must never be answered: where it begins is in doubt.
    client.send(lane.fill_in(raw) + lane.fill_in(get(target=b"@smuggled")))
    answer = client.response()
    assert answer.status == status, answer.raw
    check_error(answer, TYPES[status][0])
    assert answer.value("connection") == b"close"
    client.half_close()
    assert client.rest() == (b"", "eof")
    assert not lane.has_arrival(), "nothing reached the upstream"


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED.keys())
def test_refusal_octet_by_octet_is_the_same(lane: Lane, status: int, raw: bytes) -> None:
    if len(raw) > 400:
        pytest.skip("sent whole in the test before; octet by octet it takes seconds")
    client = lane.client()
    client.send(*(bytes([octet]) for octet in lane.fill_in(raw)))
    answer = client.response()
    assert answer.status == status, answer.raw
    client.half_close()
    assert client.rest()[0] == b""
    assert not lane.has_arrival()


def check_error(answer: Message, code: str) -> None:
    """OpenAI's error object, and what belongs beside it."""
    assert answer.value("content-type") == b"application/json"
    assert answer.value("content-length") == b"%d" % len(answer.body)
    assert answer.value("x-request-id")
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["type"]
    if answer.status == 405:
        assert b"POST" in answer.value("allow")
    assert answer.value("x-should-retry") == b"false"


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
            post(CL5, body=b"hello")
            + get()
            + post(TE, body=b"3\r\nabc\r\n0\r\n\r\n")
            + post(b"Content-Length: 0")
            + post(TE, body=b"1\r\nd\r\n0\r\nX-T: 1\r\n\r\n")
            + get(method=b"HEAD")
            + post(CL5, body=b"world")
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
    """A request the router answers itself does not overtake the one before it, and the one after it goes on."""
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
    client.send(lane.fill_in(post(CL5, b"Expect: 100-continue")))
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
    client.send(lane.fill_in(post(CL5, b"Expect: 100-continue", body=b"hello")))
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
    client.send(lane.fill_in(get()), lane.fill_in(post(TE, b"Expect: 100-Continue")))
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
        post(CL5),
        post(CL5, body=b"he"),
        post(TE, body=b"5\r\nhe"),
    ],
)
def test_client_that_goes_away_in_its_request_hurts_nobody(lane: Lane, part: bytes) -> None:
    client = lane.client()
    client.send(lane.fill_in(part))
    client.wait_read()
    client.reset()
    again(lane, lane.client(), None)


def test_client_that_goes_away_after_its_request_cancels_the_upstream(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.fill_in(get()))
    upstream = lane.accept()
    upstream.request()
    client.reset()
    assert upstream.rest()[0] == b""
    again(lane, lane.client(), None)


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
    client.send(lane.fill_in(post(TE, body=b"1\r\n{\r\n")))
    for _ in range(100):
        client.send(b"186a0\r\n" + b" " * 100_000 + b"\r\n")
    assert client.response().status == 413
    assert not lane.has_arrival()


def test_chunked_body_past_the_limit_is_cut_where_it_goes_on(lane: Lane) -> None:
    """Cut through, it is refused with 413 as long as no answer has begun; the upstream must not take it for whole."""
    client = lane.client()
    client.send(lane.fill_in(post(TE)))
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

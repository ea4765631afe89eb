"""What an upstream may answer, and what the client then gets (RFC 9112 4, 6, 7 and 9; RFC 9110 6 and 15).

Each case is one exchange: the upstream's bytes, in pieces, how its connection ends, and what comes of it.
After every case the next exchange must be clean, on the client's connection where it stays open and on the
upstream's where it may be used again; a connection that may not be used again must be closed by the router.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from tests.conformance.harness import Client, Ended, Lane, Message, Upstream, octets
from tests.oracle import http1

OK = b"HTTP/1.1 200 OK\r\n"
REQUEST = b"GET @x HTTP/1.1\r\nHost: a.example\r\n\r\n"
PLAIN = OK + b"Content-Length: 2\r\n\r\nhi"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Passed:
    """The client gets this answer whole. `kept` and `reused`: the client's and the upstream's connection go
    on.
    """

    status: int = 200
    body: bytes = b"hi"
    framing: str = "length"
    trailers: tuple[tuple[str, bytes], ...] = ()
    kept: bool = True
    reused: bool = True
    interim: tuple[int, ...] = ()
    absent: tuple[str, ...] = ()
    fields: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The client gets an error of the router's own; the upstream's connection is dropped."""

    code: str = "upstream_malformed"
    status: int = 502


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The client gets at most this beginning of the body, and then a reset: nothing it could take for a whole
    message.
    """

    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    answer: bytes | tuple[bytes, ...]
    then: Passed | Refused | Cut
    end: str = "keep"  # keep, close, reset: what the upstream does after its last byte
    request: bytes = REQUEST
    method: str = "GET"


def case(
    name: str, answer: bytes | tuple[bytes, ...], then: Passed | Refused | Cut, **more: str | bytes
) -> Case:
    return Case(name=name, answer=answer, then=then, **more)  # type: ignore[arg-type]


DATE = re.compile(rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
BAD = Refused()
RESET = Refused(code="upstream_reset")
GONE = Passed(reused=False)

WHOLE = [
    case("length", PLAIN, Passed()),
    case("length zero", OK + b"Content-Length: 0\r\n\r\n", Passed(body=b"")),
    case(
        "length given twice with one value",
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        Passed(),
    ),
    case("length as a list of equal values", OK + b"Content-Length: 2, 2\r\n\r\nhi", Passed()),
    case("length with leading zeros", OK + b"Content-Length: 0002\r\n\r\nhi", Passed()),
    case("no reason phrase", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", Passed()),
    case("no space before an absent reason", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", Passed()),
    case("reason with obs-text", b"HTTP/1.1 200 \xe9t\xe9\r\nContent-Length: 2\r\n\r\nhi", Passed()),
    case("status nobody knows", b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nhi", Passed(status=299)),
    case(
        "error of the endpoint passes",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nhi",
        Passed(status=503, fields=(("retry-after", b"7"),)),
    ),
    case("404 of the endpoint passes", b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nhi", Passed(status=404)),
    case(
        "redirect is not followed",
        b"HTTP/1.1 302 F\r\nLocation: http://b.example/\r\nContent-Length: 2\r\n\r\nhi",
        Passed(status=302, fields=(("location", b"http://b.example/"),)),
    ),
    case(
        "401 challenge passes",
        b"HTTP/1.1 401 U\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nhi",
        Passed(status=401, fields=(("www-authenticate", b"Bearer"),)),
    ),
    case("chunked", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", Passed(framing="chunked")),
    case("chunked, empty", CHUNKED + b"0\r\n\r\n", Passed(framing="chunked", body=b"")),
    case(
        "chunked in any case",
        OK + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        Passed(framing="chunked"),
    ),
    case(
        "many chunks",
        CHUNKED + b"1\r\na\r\n" * 200 + b"0\r\n\r\n",
        Passed(framing="chunked", body=b"a" * 200),
    ),
    case("chunk sizes with leading zeros", CHUNKED + b"0002\r\nhi\r\n000\r\n\r\n", Passed(framing="chunked")),
    case(
        "chunk sizes in upper and lower case",
        CHUNKED + b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        Passed(framing="chunked", body=b"01234567890123456789"),
    ),
    case("chunk extension", CHUNKED + b"2;a\r\nhi\r\n0;b=c\r\n\r\n", Passed(framing="chunked")),
    case(
        "chunk extension in quotes", CHUNKED + b'2;a="x;\\"y"\r\nhi\r\n0\r\n\r\n', Passed(framing="chunked")
    ),
    case(
        "chunk extension with spaces", CHUNKED + b"2 ; a = b ;c\r\nhi\r\n0\r\n\r\n", Passed(framing="chunked")
    ),
    case(
        "trailers",
        CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Time: 2 ms\r\n\r\n",
        Passed(framing="chunked", trailers=(("x-sum", b"1"), ("x-time", b"2 ms"))),
    ),
    case(
        "trailers of framing and routing are dropped",
        CHUNKED
        + b"2\r\nhi\r\n0\r\nContent-Length: 9\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n",
        Passed(framing="chunked", trailers=(("x-sum", b"1"),)),
    ),
    case(
        "trailers that are all dropped",
        CHUNKED + b"2\r\nhi\r\n0\r\nConnection: close\r\nSet-Cookie-: 1\r\n\r\n",
        Passed(framing="chunked", trailers=(("set-cookie-", b"1"),)),
    ),
    case(
        "trailers in pieces",
        (CHUNKED + b"2\r\nhi\r\n0\r\n", b"X-S", b"um: 1\r", b"\nX-Time:", b" 2\r\n", b"\r", b"\n"),
        Passed(framing="chunked", trailers=(("x-sum", b"1"), ("x-time", b"2"))),
    ),
    case("until close", OK + b"\r\nhi", Passed(framing="chunked", reused=False), end="close"),
    case(
        "until close, in pieces",
        (OK + b"\r\n", b"h", b"i"),
        Passed(framing="chunked", reused=False),
        end="close",
    ),
    case("until close, empty", OK + b"\r\n", Passed(framing="chunked", body=b"", reused=False), end="close"),
    case(
        "until close by Connection: close",
        OK + b"Connection: close\r\n\r\nhi",
        Passed(framing="chunked", reused=False),
        end="close",
    ),
    case("length and Connection: close", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", GONE),
    case("length and a close at once", PLAIN, GONE, end="close"),
    case("HTTP/1.0 with length", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", GONE),
    case(
        "HTTP/1.0 with length and keep-alive",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        Passed(),
    ),
    case(
        "HTTP/1.0 until close",
        b"HTTP/1.0 200 OK\r\n\r\nhi",
        Passed(framing="chunked", reused=False),
        end="close",
    ),
    case("204", b"HTTP/1.1 204 No Content\r\n\r\n", Passed(status=204, body=b"", framing="none")),
    case(
        "204 with a length says none",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        Passed(status=204, body=b"", framing="none", absent=("content-length",)),
    ),
    case(
        "304",
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        Passed(status=304, body=b"", framing="none", fields=(("etag", b'"x"'),)),
    ),
    case(
        "304 with the length it would have",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        Passed(status=304, body=b"", framing="none", fields=(("content-length", b"9"),)),
    ),
    case("205", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Passed(status=205, body=b"")),
    case(
        "HEAD with length",
        OK + b"Content-Length: 99\r\n\r\n",
        Passed(body=b"", framing="none", fields=(("content-length", b"99"),)),
        method="HEAD",
    ),
    case(
        "HEAD with chunked",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        Passed(body=b"", framing="none"),
        method="HEAD",
    ),
    case("HEAD with nothing", OK + b"X: 1\r\n\r\n", Passed(body=b"", framing="none"), method="HEAD"),
    case(
        "head in pieces",
        (b"H", b"TTP/1.1 200 OK\r", b"\nContent-Le", b"ngth: 2\r\n\r", b"\nh", b"i"),
        Passed(),
    ),
    case(
        "hop-by-hop fields stop here",
        OK + b"Connection: keep-alive, X-Mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nX-Yours: 2\r\n"
        b"Proxy-Connection: x\r\n"
        b"Upgrade: h2c\r\nTE: trailers\r\nTrailer: X-A\r\nProxy-Authenticate: Basic\r\n"
        b"Content-Length: 2\r\n\r\nhi",
        Passed(
            fields=(("x-yours", b"2"),),
            absent=(
                "connection",
                "keep-alive",
                "x-mine",
                "proxy-connection",
                "upgrade",
                "te",
                "trailer",
                "proxy-authenticate",
            ),
        ),
    ),
    case(
        "the endpoint's date is kept",
        OK + b"daTe: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 2\r\n\r\nhi",
        Passed(fields=(("date", b"Sun, 06 Nov 1994 08:49:37 GMT"),)),
    ),
    case(
        "fields keep their order and repetition",
        OK + b"Set-Cookie: a=1\r\nX: y\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nhi",
        Passed(fields=(("set-cookie", b"a=1"), ("x", b"y"), ("set-cookie", b"b=2"))),
    ),
    case(
        "empty field value",
        OK + b"X-Empty:\r\nX-Space:  \r\nContent-Length: 2\r\n\r\nhi",
        Passed(fields=(("x-empty", b""), ("x-space", b""))),
    ),
    case(
        "field value with obs-text",
        OK + b"X: \xff\xe9\r\nContent-Length: 2\r\n\r\nhi",
        Passed(fields=(("x", b"\xff\xe9"),)),
    ),
    case(
        "an identity of the upstream's request id is replaced",
        OK + b"x-request-id: theirs\r\nContent-Length: 2\r\n\r\nhi",
        Passed(),
    ),
]

INTERIM = [
    case("100 nobody asked for", b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, Passed()),
    case("103", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN, Passed(absent=("link",))),
    case(
        "102 and 103 in pieces",
        (b"HTTP/1.1 102 P\r\n", b"\r\nHTTP/1.1 103 E", b"\r\nA: b\r\n\r", b"\n" + PLAIN),
        Passed(),
    ),
    case("199 is interim too", b"HTTP/1.1 199 X\r\n\r\n" + PLAIN, Passed()),
    case("interim and final apart", (b"HTTP/1.1 103 E\r\n\r\n", PLAIN), Passed()),
    case("a few are borne", b"HTTP/1.1 102 P\r\n\r\n" * 10 + PLAIN, Passed()),
    case("a storm is not", b"HTTP/1.1 102 P\r\n\r\n" * 100 + PLAIN, BAD),
    case("101 unasked", b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", BAD),
    case("interim, then the end", b"HTTP/1.1 103 E\r\n\r\n", RESET, end="close"),
    case("interim, then garbage", b"HTTP/1.1 103 E\r\n\r\nrubbish\r\n\r\n", BAD),
]

SURPLUS = [
    case("bytes after the length", PLAIN + b"more", GONE),
    case("a second answer", PLAIN + PLAIN, GONE),
    case(
        "a second answer after chunks",
        CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + PLAIN,
        Passed(framing="chunked", reused=False),
    ),
    case(
        "a body after 204",
        b"HTTP/1.1 204 N\r\n\r\nhi",
        Passed(status=204, body=b"", framing="none", reused=False),
    ),
    case(
        "a body after 304",
        b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n\r\nhi",
        Passed(status=304, body=b"", framing="none", reused=False),
    ),
    case("a body after HEAD", PLAIN, Passed(body=b"", framing="none", reused=False), method="HEAD"),
    case(
        "a chunked body after HEAD",
        CHUNKED + b"2\r\nhi\r\n0\r\n\r\n",
        Passed(body=b"", framing="none", reused=False),
        method="HEAD",
    ),
    case("a blank line after the body", PLAIN + b"\r\n", GONE),
]

MALFORMED = [
    case(name, answer, BAD)
    for name, answer in {
        "garbage": b"rubbish\r\n\r\n",
        "garbage of the length of a status line": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 3
        + b"\r\n\r\n",
        "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
        "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/3": b"HTTP/3 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "http in lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "ICY": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "blank line first": b"\r\n" + PLAIN,
        "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "tab before the status": b"HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
        "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi",
        "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nhi",
        "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
        "negative status": b"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nhi",
        "control in the reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nhi",
        "length and coding": OK
        + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "coding and length": OK
        + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "a list of lengths": OK + b"Content-Length: 2, 3\r\n\r\nhi",
        "an empty length": OK + b"Content-Length:\r\n\r\nhi",
        "an empty member of lengths": OK + b"Content-Length: 2,\r\n\r\nhi",
        "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
        "negative length": OK + b"Content-Length: -2\r\n\r\nhi",
        "hexadecimal length": OK + b"Content-Length: 0x2\r\n\r\nhi",
        "length with a fraction": OK + b"Content-Length: 2.0\r\n\r\nhi",
        "length with a space inside": OK + b"Content-Length: 1 2\r\n\r\nhi",
        "length past 64 bits": OK + b"Content-Length: 18446744073709551618\r\n\r\nhi",
        "length past 63 bits": OK + b"Content-Length: 9223372036854775808\r\n\r\nhi",
        "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
        "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "chunked on two lines": OK
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
        "chunked with a tail": OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        "xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "an empty coding": OK + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
        "chunked with a vertical tab": OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "chunked by HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "space before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
        "space before the name": OK + b" Content-Length: 2\r\n\r\nhi",
        "obs-fold": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
        "obs-fold with a tab": OK + b"X: a\r\n\tb\r\nContent-Length: 2\r\n\r\nhi",
        "no colon": OK + b"Content-Length\r\n\r\nhi",
        "empty name": OK + b": 2\r\nContent-Length: 2\r\n\r\nhi",
        "name with a space": OK + b"X Y: 2\r\nContent-Length: 2\r\n\r\nhi",
        "name with obs-text": OK + b"X\xe9: 2\r\nContent-Length: 2\r\n\r\nhi",
        "name with a slash": OK + b"X/Y: 2\r\nContent-Length: 2\r\n\r\nhi",
        "NUL in a value": OK + b"X: a\x00b\r\nContent-Length: 2\r\n\r\nhi",
        "control in a value": OK + b"X: a\x1fb\r\nContent-Length: 2\r\n\r\nhi",
        "DEL in a value": OK + b"X: a\x7fb\r\nContent-Length: 2\r\n\r\nhi",
        "bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nhi",
        "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        "bare LF after a field": OK + b"X: a\nContent-Length: 2\r\n\r\nhi",
        "bare LF as blank line": OK + b"Content-Length: 2\r\n\nhi",
        "CR CR LF": OK + b"Content-Length: 2\r\r\n\r\nhi",
        "too many fields": OK + b"X: 1\r\n" * 200 + b"Content-Length: 2\r\n\r\nhi",
        "a head too large": OK + b"X: " + b"a" * 70000 + b"\r\nContent-Length: 2\r\n\r\nhi",
        "a head without end": OK + b"X-Long: aaaaaaaaaaaa\r\n" * 4000,
        "a status line without end": b"HTTP/1.1 200 " + b"a" * 70000,
        "a Connection that is no list": OK + b"Connection: a b\r\nContent-Length: 2\r\n\r\nhi",
    }.items()
]

BAD_BODIES = {  # after a well-formed chunk "2\r\nhi\r\n"
    "bad size": b"zz\r\nno\r\n0\r\n\r\n",
    "empty size": b"\r\nno\r\n0\r\n\r\n",
    "negative size": b"-2\r\nno\r\n0\r\n\r\n",
    "signed size": b"+2\r\nno\r\n0\r\n\r\n",
    "0x size": b"0x2\r\nno\r\n0\r\n\r\n",
    "size of 17 digits": b"00000000000000002\r\nno\r\n0\r\n\r\n",
    "size past 63 bits": b"8000000000000000\r\nno",
    "size past 64 bits": b"1ffffffffffffffff\r\nno",
    "space before a size": b" 2\r\nno\r\n0\r\n\r\n",
    "space after a size": b"2 \r\nno\r\n0\r\n\r\n",
    "bare LF after a size": b"2\nno\r\n0\r\n\r\n",
    "bare CR after a size": b"2\rno\r\n0\r\n\r\n",
    "underscore in a size": b"1_0\r\nno\r\n0\r\n\r\n",
    "data longer than its size": b"2\r\nnono\r\n0\r\n\r\n",
    "data shorter than its size": b"5\r\nno\r\n0\r\n\r\n",
    "bare LF after data": b"2\r\nno\n0\r\n\r\n",
    "nothing after data": b"2\r\nno0\r\n\r\n",
    "bare LF after the last chunk": b"0\n\n",
    "bare LF as the last line": b"0\r\n\n",
    "bare LF after a trailer": b"0\r\nA: b\n\r\n",
    "NUL in an extension": b"2;a\0\r\nno\r\n0\r\n\r\n",
    "open quotes": b'2;a="\r\nno\r\n0\r\n\r\n',
    "an extension without a name": b"2;=a\r\nno\r\n0\r\n\r\n",
    "an extension too long": b"2;" + b"a" * 5000 + b"\r\nno\r\n0\r\n\r\n",
    "a trailer without a colon": b"0\r\nnonsense\r\n\r\n",
    "a trailer with a space before its colon": b"0\r\nA : b\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a trailer with NUL": b"0\r\nA: \0\r\n\r\n",
    "a trailer with bare CR": b"0\r\nA: b\rc\r\n\r\n",
    "trailers too large": b"0\r\n" + b"A: bbbbbbbbbbbbbbbb\r\n" * 2000 + b"\r\n",
    "too many trailers": b"0\r\n" + b"A: b\r\n" * 40 + b"\r\n",
}

BROKEN = [
    *(
        case(f"{name}, before a byte has gone out", CHUNKED + bad, BAD)
        for name, bad in BAD_BODIES.items()
        if not bad.startswith((b"5", b"2\r\nnono"))
    ),
    *(
        case(f"{name}, after bytes have gone out", (CHUNKED + b"2\r\nhi\r\n", bad), Cut(body=b"hino"))
        for name, bad in BAD_BODIES.items()
    ),
    *(
        case(
            f"{name}, octet by octet",
            (CHUNKED + b"2\r\nhi\r\n", *octets(bad)),
            Cut(body=b"hino\r\n0\r"),  # the longest of what the bad sizes make of it
        )
        for name, bad in BAD_BODIES.items()
        if len(bad) < 40
    ),
]

CUT_ANSWERS: dict[str, bytes | tuple[bytes, ...]] = {
    "length short by one": (OK + b"Content-Length: 6\r\n\r\n", b"hello"),
    "length, nothing of the body": OK + b"Content-Length: 5\r\n\r\n",
    "chunked, nothing of the body": CHUNKED,
    "chunked, within a size": (CHUNKED, b"5\r\nhello\r\n", b"5"),
    "chunked, before a size's LF": (CHUNKED, b"5\r\nhello\r\n5\r"),
    "chunked, within data": (CHUNKED, b"7\r\nhello"),
    "chunked, after data": (CHUNKED, b"5\r\nhello"),
    "chunked, within the data's end": (CHUNKED, b"5\r\nhello\r"),
    "chunked, before the last chunk": (CHUNKED, b"5\r\nhello\r\n"),
    "chunked, within the last chunk": (CHUNKED, b"5\r\nhello\r\n0"),
    "chunked, within the last chunk's line end": (CHUNKED, b"5\r\nhello\r\n0\r"),
    "chunked, after the last chunk's line": (CHUNKED, b"5\r\nhello\r\n0\r\n"),
    "chunked, within the blank line": (CHUNKED, b"5\r\nhello\r\n0\r\n\r"),
    "chunked, all at once, after the last chunk's line": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "chunked, within a trailer": (CHUNKED, b"5\r\nhello\r\n0\r\nA: b"),
    "chunked, after a trailer": (CHUNKED, b"5\r\nhello\r\n0\r\nA: b\r\n"),
}

TRUNCATED = [
    case(f"{name}, {end}", answer, Cut(body=b"hello"), end=end)
    for end in ("close", "reset")
    for name, answer in CUT_ANSWERS.items()
] + [
    case("until close, but reset", (OK + b"\r\n", b"hello"), Cut(body=b"hello"), end="reset"),
    case("no answer, close", b"", RESET, end="close"),
    case("no answer, reset", b"", RESET, end="reset"),
    case("half a head, close", b"HTTP/1.1 200 OK\r\nContent-Le", RESET, end="close"),
    case("half a head, reset", b"HTTP/1.1 200 OK\r\nContent-Le", RESET, end="reset"),
]


def run(lane: Lane, case: Case) -> None:
    client = lane.client()
    request = lane.fill_in(case.request)
    if case.method != "GET":
        request = request.replace(b"GET", case.method.encode(), 1)
    client.send(request)
    upstream = lane.accept()
    upstream.request()
    pieces = (case.answer,) if isinstance(case.answer, bytes) else case.answer
    if case.end != "keep" and pieces[-1]:
        upstream.send(*pieces)
        if case.end == "reset":
            upstream.wait_read()  # a reset would throw away what has not been read
    else:
        upstream.send(*pieces)
    if case.end == "close":
        upstream.close()
    elif case.end == "reset":
        upstream.reset()
    if isinstance(case.then, Passed):
        answer = client.response(case.method)
        check_passed(answer, case.then)
        go_on(lane, client, upstream, case.then)
    elif isinstance(case.then, Refused):
        answer = client.response(case.method)
        assert answer.status == case.then.status
        assert b'"code":"%b"' % case.then.code.encode() in answer.body
        assert answer.values("x-request-id")
        if case.end == "keep":
            assert upstream.rest()[1], "the upstream's connection is gone"
        upstream.close()
        fresh_exchange(lane, client)
    else:
        check_cut(client, case.then)
        if case.end == "keep":
            assert upstream.rest()[1], "the upstream's connection is gone"
        fresh_exchange(lane, lane.client())


def check_passed(answer: Message, then: Passed) -> None:
    assert (answer.status, answer.body, answer.framing) == (then.status, then.body, then.framing), answer.raw
    assert answer.trailers == then.trailers
    names = {name for name, _ in answer.fields}
    assert not names & set(then.absent), answer.raw
    assert len(answer.values("x-request-id")) == 1
    assert len(answer.values("via")) == 1
    assert DATE.fullmatch(answer.value("date")), "RFC 9110 6.6.1: added where it is missing"
    wanted = [name for name, _ in then.fields]
    assert tuple((name, value) for name, value in answer.fields if name in wanted) == then.fields


def check_cut(client: Client, then: Cut) -> None:
    """What the client has must be a beginning, and the end of its connection a reset."""
    try:
        answer = client.response()
    except Ended as ended:
        assert ended.how == "reset", "a message that was cut short ends with a reset"
        received = ended.received
    else:
        raise AssertionError(f"a whole message: {answer.raw!r}")
    if client.facts.get("is_chunked"):
        verdict, body, _, _ = http1.decode_chunked(received)
        assert verdict == "more", received
        assert not is_last_chunk_begun(received), received
    else:
        body = received if client.facts else b""
    assert then.body.startswith(body), body


def is_last_chunk_begun(rest: bytes) -> bool:
    """Whether the chunks in `rest` end with a complete line of the last chunk."""
    place = 0
    while True:
        line_end = rest.find(b"\r\n", place)
        if line_end < 0:
            return False
        size = int(rest[place:line_end].split(b";")[0], 16) if rest[place:line_end] else -1
        if size <= 0:
            return size == 0
        place = line_end + 2 + size + 2


def go_on(lane: Lane, client: Client, upstream: Upstream, then: Passed) -> None:
    if then.reused:
        client.send(lane.fill_in(REQUEST))
        upstream.request()
        assert not lane.has_arrival()
        upstream.send(OK + b"Content-Length: 5\r\n\r\nagain")
        assert client.response().body == b"again"
        return
    if not upstream.is_closed:
        assert upstream.rest() in ((b"", "eof"), (b"", "reset")), (
            "the upstream's connection is not used again"
        )
    fresh_exchange(lane, client)


def fresh_exchange(lane: Lane, client: Client) -> None:
    """On another connection to the upstream: nothing of the one before is left anywhere."""
    client.send(lane.fill_in(REQUEST))
    upstream = lane.accept()
    upstream.request()
    upstream.send(OK + b"Content-Length: 5\r\n\r\nagain")
    assert client.response().body == b"again"
    assert client.is_quiet()


@pytest.mark.parametrize(
    "case", [*WHOLE, *INTERIM, *SURPLUS, *MALFORMED, *BROKEN, *TRUNCATED], ids=lambda case: case.name
)
def test_answer(lane: Lane, case: Case) -> None:
    run(lane, case)

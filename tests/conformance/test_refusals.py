"""What is refused of a client, with which status, and that nothing behind it is ever read as a request.

RFC 9112 2.2, 3, 5, 6.3 and 7.1; RFC 9110 5.5, 9.3, 10.1.1 and 15.5.
"""

from __future__ import annotations

import pytest

from tests.conformance.harness import Lane, octets
from tests.conformance.messages import CHUNKED, HOST, LENGTH_5, check_error, get, post

BIG_FIELD = b"X: " + b"a" * 40000

REFUSED: dict[str, tuple[int, bytes]] = {
    # framing (RFC 9112 6)
    "length and coding": (400, post(LENGTH_5, CHUNKED, body=b"0\r\n\r\n")),
    "coding and length": (400, post(CHUNKED, LENGTH_5, body=b"0\r\n\r\n")),
    "two lengths": (400, post(LENGTH_5, b"Content-Length: 6", body=b"hello")),
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
    "chunked on two lines": (400, post(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    "chunked and then identity": (400, post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "identity": (400, post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "chunked with a parameter": (400, post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n")),
    "chunked in quotes": (400, post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "an empty coding": (400, post(b"Transfer-Encoding:", body=b"0\r\n\r\n")),
    "a comma before chunked": (400, post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n")),
    "chunked after a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    "chunked after a no-break space": (400, post(b"Transfer-Encoding: \xa0chunked", body=b"0\r\n\r\n")),
    "chunked with a bare CR round it": (400, post(b"Transfer-Encoding: \rchunked\r", body=b"0\r\n\r\n")),
    "chunked by HTTP/1.0": (400, post(CHUNKED, version=b"HTTP/1.0", body=b"0\r\n\r\n")),
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
    "another expectation": (417, post(LENGTH_5, b"Expect: 200-maybe", body=b"hello")),
    "two expectations": (417, post(LENGTH_5, b"Expect: 100-continue, x", body=b"hello")),
    "CONNECT": (405, get(target=b"a.example:443", method=b"CONNECT")),
    "TRACE": (405, get(method=b"TRACE")),
    "CONNECT with a path": (400, get(method=b"CONNECT")),
    # chunks (RFC 9112 7.1)
    **{
        f"chunked: {name}": (400, post(CHUNKED, body=b"5\r\nhello\r\n" + bad))
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
SHORT = {name: case for name, case in REFUSED.items() if len(case[1]) < 400}  # long ones would take seconds
CODES = {
    400: "bad_request",
    405: "method_not_allowed",
    413: "body_too_large",
    414: "target_too_long",
    417: "expectation_failed",
    431: "head_too_large",
    505: "unsupported_http_version",
}


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED.keys())
def test_request_is_refused_and_the_connection_closed(lane: Lane, status: int, raw: bytes) -> None:
    client = lane.client()
    # A pipelined request behind it must never be answered: where it begins is in doubt.
    client.send(lane.fill_in(raw) + lane.fill_in(get(target=b"@smuggled")))
    answer = client.response()
    assert answer.status == status, answer.raw
    check_error(answer, CODES[status])
    assert answer.value("connection") == b"close"
    client.half_close()
    assert client.rest() == (b"", "eof")
    assert not lane.has_arrival(), "nothing reached the upstream"


@pytest.mark.parametrize(("status", "raw"), SHORT.values(), ids=SHORT.keys())
def test_refusal_octet_by_octet_is_the_same(lane: Lane, status: int, raw: bytes) -> None:
    client = lane.client()
    client.send(*octets(lane.fill_in(raw)))
    answer = client.response()
    assert answer.status == status, answer.raw
    client.half_close()
    assert client.rest()[0] == b""
    assert not lane.has_arrival()

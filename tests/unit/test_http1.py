"""HTTP/1.1 heads, one named case a rule: what is accepted and what it means, what is refused and as what."""

from typing import Any

import pytest

from router.native.http1 import ERROR_NAMES, error_text, find_head, parse_head, parse_trailer_section
from tests.oracle.http1 import KNOWN_NAMES

HOST = b"Host: a\r\n"


def request(lines: bytes, first: bytes = b"GET / HTTP/1.1\r\n", host: bytes = HOST) -> dict[str, Any] | str:
    """What find_head and parse_head make of one request."""
    return parse(first + host + lines + b"\r\n", is_response=False)


def response(lines: bytes, first: bytes = b"HTTP/1.1 200 OK\r\n") -> dict[str, Any] | str:
    return parse(first + lines + b"\r\n", is_response=True)


def parse(data: bytes, is_response: bool) -> dict[str, Any] | str:
    length = find_head([data])
    if isinstance(length, str):
        return length
    assert length == len(data)
    return parse_head(data, is_response)


def accepted(outcome: dict[str, Any] | str) -> dict[str, Any]:
    assert isinstance(outcome, dict), outcome
    return outcome


def dropped(facts: dict[str, Any]) -> list[bytes]:
    return [name for name, _, _, is_hop_by_hop in facts["fields"] if is_hop_by_hop]


REFUSED_START_LINES = {
    "http 0.9": (b"GET /\r\n", "BAD_REQUEST_LINE"),
    "http 0.9 with a trailing space": (b"GET / \r\n", "BAD_VERSION"),
    "method alone": (b"GET\r\n", "BAD_REQUEST_LINE"),
    "empty line": (b"\r\n", "BAD_REQUEST_LINE"),
    "leading space": (b" GET / HTTP/1.1\r\n", "BAD_METHOD"),
    "method that is no token": (b"G@T / HTTP/1.1\r\n", "BAD_METHOD"),
    "method of 33 bytes": (b"A" * 33 + b" / HTTP/1.1\r\n", "BAD_METHOD"),
    "tab after the method": (b"GET\t/ HTTP/1.1\r\n", "BAD_METHOD"),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\n", "BAD_REQUEST_LINE"),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\n", "BAD_REQUEST_LINE"),
    "space in the target": (b"GET /a b HTTP/1.1\r\n", "BAD_REQUEST_LINE"),
    "space after the version": (b"GET / HTTP/1.1 \r\n", "BAD_REQUEST_LINE"),
    "tab before the version": (b"GET /\tHTTP/1.1\r\n", "BAD_TARGET"),
    "control in the target": (b"GET /\x01 HTTP/1.1\r\n", "BAD_TARGET"),
    "delete in the target": (b"GET /\x7f HTTP/1.1\r\n", "BAD_TARGET"),
    "non-ASCII in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\n", "BAD_TARGET"),
    "fragment": (b"GET /#a HTTP/1.1\r\n", "BAD_TARGET"),
    "target without a slash": (b"GET a HTTP/1.1\r\n", "BAD_TARGET"),
    "asterisk for GET": (b"GET * HTTP/1.1\r\n", "BAD_TARGET"),
    "asterisk and more": (b"OPTIONS *a HTTP/1.1\r\n", "BAD_TARGET"),
    "authority form for GET": (b"GET a:80 HTTP/1.1\r\n", "BAD_TARGET"),
    "origin form for CONNECT": (b"CONNECT / HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form for CONNECT": (b"CONNECT http://a/ HTTP/1.1\r\n", "BAD_TARGET"),
    "CONNECT without a port": (b"CONNECT a HTTP/1.1\r\n", "BAD_TARGET"),
    "CONNECT with an empty port": (b"CONNECT a: HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form of another scheme": (b"GET ftp://a/ HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form with userinfo": (b"GET http://u:p@a/ HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form with empty userinfo": (b"GET http://@a/ HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form without a host": (b"GET http:///a HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form with nothing": (b"GET http:// HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form with one slash": (b"GET http:/a HTTP/1.1\r\n", "BAD_TARGET"),
    "absolute form with a bad port": (b"GET http://a:b/ HTTP/1.1\r\n", "BAD_TARGET"),
    "lower-case version": (b"GET / http/1.1\r\n", "BAD_VERSION"),
    "version of two digits": (b"GET / HTTP/1.10\r\n", "BAD_VERSION"),
    "version without a minor": (b"GET / HTTP/1\r\n", "BAD_VERSION"),
    "version with a comma": (b"GET / HTTP/1,1\r\n", "BAD_VERSION"),
    "other protocol": (b"GET / HTTX/1.1\r\n", "BAD_VERSION"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n", "UNSUPPORTED_VERSION"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n", "UNSUPPORTED_VERSION"),
    "HTTP/0.9 in words": (b"GET / HTTP/0.9\r\n", "UNSUPPORTED_VERSION"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n", "BAD_TARGET|UNSUPPORTED_VERSION"),
    "bare LF": (b"GET / HTTP/1.1\n", "BAD_LINE_END"),
    "bare CR in the target": (b"GET /\ra HTTP/1.1\r\n", "BAD_LINE_END"),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\n", "BAD_LINE_END"),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\n", "BAD_LINE_END"),
}


@pytest.mark.parametrize(("line", "error"), REFUSED_START_LINES.values(), ids=REFUSED_START_LINES.keys())
def test_request_line_is_refused(line: bytes, error: str) -> None:
    length = find_head([line + HOST + b"\r\n"])
    if isinstance(length, str):
        assert length == error
        return
    assert parse_head((line + HOST + b"\r\n")[:length], False) in error.split("|")


REFUSED_LINES = {
    "obs-fold": (b"A: b\r\n c\r\n", "OBS_FOLD"),
    "obs-fold with a tab": (b"A: b\r\n\tc\r\n", "OBS_FOLD"),
    "space before the colon": (b"A : b\r\n", "BAD_FIELD_NAME"),
    "tab before the colon": (b"A\t: b\r\n", "BAD_FIELD_NAME"),
    "no colon": (b"A\r\n", "BAD_FIELD_NAME"),
    "empty name": (b": b\r\n", "BAD_FIELD_NAME"),
    "name in parentheses": (b"(A): b\r\n", "BAD_FIELD_NAME"),
    "non-ASCII name": (b"\xc3\xa9: b\r\n", "BAD_FIELD_NAME"),
    "control in a name": (b"A\x01: b\r\n", "BAD_FIELD_NAME"),
    "control in a value": (b"A: b\x01\r\n", "BAD_FIELD_VALUE"),
    "vertical tab before a value": (b"A:\x0bb\r\n", "BAD_FIELD_VALUE"),
    "delete in a value": (b"A: b\x7f\r\n", "BAD_FIELD_VALUE"),
    "NUL in a value": (b"A: b\0c\r\n", "BAD_LINE_END"),
    "NUL in a name": (b"A\0: b\r\n", "BAD_LINE_END"),
    "bare CR in a value": (b"A: b\rc\r\n", "BAD_LINE_END"),
    "bare LF after a value": (b"A: b\nB: c\r\n", "BAD_LINE_END"),
    "CR CR LF after a value": (b"A: b\r\r\n", "BAD_LINE_END"),
    "129 fields": (b"A: b\r\n" * 128, "TOO_MANY_FIELDS"),
    "1000 fields": (b"A:b\r\n" * 1000, "TOO_MANY_FIELDS"),
    "length with a plus": (b"Content-Length: +5\r\n", "BAD_LENGTH"),
    "length with a minus": (b"Content-Length: -5\r\n", "BAD_LENGTH"),
    "length in hex": (b"Content-Length: 0x5\r\n", "BAD_LENGTH"),
    "length that is empty": (b"Content-Length:\r\n", "BAD_LENGTH"),
    "length with a fraction": (b"Content-Length: 5.0\r\n", "BAD_LENGTH"),
    "length with a space inside": (b"Content-Length: 5 5\r\n", "BAD_LENGTH"),
    "length in quotes": (b'Content-Length: "5"\r\n', "BAD_LENGTH"),
    "length with an underscore": (b"Content-Length: 1_0\r\n", "BAD_LENGTH"),
    "length of 2**63": (b"Content-Length: 9223372036854775808\r\n", "BAD_LENGTH"),
    "length of 2**64": (b"Content-Length: 18446744073709551616\r\n", "BAD_LENGTH"),
    "length of 100 digits": (b"Content-Length: " + b"9" * 100 + b"\r\n", "BAD_LENGTH"),
    "lengths that differ in a list": (b"Content-Length: 5, 6\r\n", "BAD_LENGTH"),
    "lengths that differ in lines": (b"Content-Length: 5\r\nContent-Length: 6\r\n", "BAD_LENGTH"),
    "lengths with an empty member": (b"Content-Length: 5,,5\r\n", "BAD_LENGTH"),
    "lengths with a comma at the end": (b"Content-Length: 5,\r\n", "BAD_LENGTH"),
    "lengths, the second of them empty": (b"Content-Length: 5\r\nContent-Length:\r\n", "BAD_LENGTH"),
    "length and coding": (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "LENGTH_AND_CODING"),
    "coding and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "LENGTH_AND_CODING"),
    "coding and a length of zero": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "LENGTH_AND_CODING",
    ),
    "unknown coding": (b"Transfer-Encoding: gzip\r\n", "BAD_CODING"),
    "identity coding": (b"Transfer-Encoding: identity\r\n", "BAD_CODING"),
    "two codings": (b"Transfer-Encoding: gzip, chunked\r\n", "BAD_CODING"),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked\r\n", "BAD_CODING"),
    "chunked in two lines": (b"Transfer-Encoding: chunked\r\n" * 2, "BAD_CODING"),
    "chunked not last": (b"Transfer-Encoding: chunked, gzip\r\n", "BAD_CODING"),
    "chunked with a comma": (b"Transfer-Encoding: chunked,\r\n", "BAD_CODING"),
    "chunked after a comma": (b"Transfer-Encoding: ,chunked\r\n", "BAD_CODING"),
    "chunked with a parameter": (b"Transfer-Encoding: chunked;a=b\r\n", "BAD_CODING"),
    "chunked in quotes": (b'Transfer-Encoding: "chunked"\r\n', "BAD_CODING"),
    "xchunked": (b"Transfer-Encoding: xchunked\r\n", "BAD_CODING"),
    "chunked with a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n", "BAD_FIELD_VALUE"),
    "chunked with a bare CR before it": (b"Transfer-Encoding: \rchunked\r\n", "BAD_LINE_END"),
    "chunked with a bare CR behind it": (b"Transfer-Encoding: chunked\r \r\n", "BAD_LINE_END"),
    "coding that is empty": (b"Transfer-Encoding:\r\n", "BAD_CODING"),
    "coding with a Kelvin sign": (b"Transfer-Encoding: chun\xe2\x84\xaaed\r\n", "BAD_CODING"),
    "connection option that is no token": (b'Connection: "close"\r\n', "BAD_FIELD_VALUE"),
    "connection options without a comma": (b"Connection: close x\r\n", "BAD_FIELD_VALUE"),
    "connection option with a parameter": (b"Connection: close;a\r\n", "BAD_FIELD_VALUE"),
    "33 connection options": (b"Connection: " + b"a," * 33 + b"\r\n", "BAD_FIELD_VALUE"),
}


@pytest.mark.parametrize(("lines", "error"), REFUSED_LINES.values(), ids=REFUSED_LINES.keys())
def test_field_lines_are_refused_on_both_sides(lines: bytes, error: str) -> None:
    assert request(lines) == error
    assert response(b"A: b\r\n" + lines) == error


REFUSED_HOSTS = {
    "none": b"",
    "two": b"Host: a\r\nHost: b\r\n",
    "two that agree": b"Host: a\r\nHost: a\r\n",
    "empty": b"Host:\r\n",
    "port alone": b"Host: :80\r\n",
    "userinfo": b"Host: user@a\r\n",
    "userinfo alone": b"Host: user@\r\n",
    "port that is a name": b"Host: a:http\r\n",
    "port above 65535": b"Host: a:65536\r\n",
    "port of 30 digits": b"Host: a:" + b"9" * 30 + b"\r\n",
    "port with a sign": b"Host: a:+80\r\n",
    "two ports": b"Host: a:80:80\r\n",
    "open bracket": b"Host: [::1\r\n",
    "closing bracket alone": b"Host: ::1]\r\n",
    "IPv6 without brackets": b"Host: ::1\r\n",
    "IPv6 with junk behind it": b"Host: [::1]a\r\n",
    "IPv6 with two elisions": b"Host: [1::2::3]\r\n",
    "IPv6 of seven groups": b"Host: [1:2:3:4:5:6:7]\r\n",
    "IPv6 of nine groups": b"Host: [1:2:3:4:5:6:7:8:9]\r\n",
    "IPv6 with an elision of nothing": b"Host: [1:2:3:4::5:6:7:8]\r\n",
    "IPv6 with five digits": b"Host: [::12345]\r\n",
    "IPv6 with a zone": b"Host: [fe80::1%25eth0]\r\n",
    "IPv6 with an IPv4 out of range": b"Host: [::256.0.0.1]\r\n",
    "IPv6 with an IPv4 in front": b"Host: [1.2.3.4::]\r\n",
    "empty brackets": b"Host: []\r\n",
    "IPvFuture without an address": b"Host: [v1.]\r\n",
    "space inside": b"Host: a b\r\n",
    "list": b"Host: a, b\r\n",
    "path": b"Host: a/b\r\n",
    "query": b"Host: a?b\r\n",
    "fragment": b"Host: a#b\r\n",
    "URI": b"Host: http://a\r\n",
    "quotes": b'Host: "a"\r\n',
    "backslash": b"Host: a\\b\r\n",
    "non-ASCII": b"Host: \xc3\xa9\r\n",
    "half an escape": b"Host: a%4\r\n",
    "escape that is not hex": b"Host: a%zz\r\n",
}


@pytest.mark.parametrize("lines", REFUSED_HOSTS.values(), ids=REFUSED_HOSTS.keys())
def test_host_is_refused(lines: bytes) -> None:
    assert request(b"", host=lines) == "BAD_HOST"


@pytest.mark.parametrize(
    "value",
    [
        *(b"a", b"A.example.com", b"a:80", b"a:", b"a:65535", b"a:0080", b"a..b", b"a_b", b"xn--nxasmq6b"),
        *(b"127.0.0.1:8000", b"999.1.1.1", b"[::1]", b"[::]:80", b"[1:2:3:4:5:6:7:8]", b"[1:2:3:4:5:6:7::]"),
        *(b"[::ffff:1.2.3.4]", b"[1:2:3:4:5:6:1.2.3.4]", b"[fe80::ABCD]:1", b"[v1F.a:b]", b"a%20b", b"a,b"),
    ],
)
def test_host_is_accepted(value: bytes) -> None:
    assert accepted(request(b"", host=b"Host: \t" + value + b" \r\n"))["authority"] == value


def test_host_may_be_missing_in_http_1_0_only() -> None:
    assert accepted(request(b"", first=b"GET / HTTP/1.0\r\n", host=b""))["authority"] == b""
    assert request(b"", host=b"") == "BAD_HOST"


def test_responses_have_no_use_for_host() -> None:
    assert accepted(response(b"Host: a@\r\nHost: b\r\n"))["status"] == 200


@pytest.mark.parametrize(
    ("line", "form", "path", "authority"),
    [
        (b"GET /a?b=/c HTTP/1.1\r\n", 0, b"/a?b=/c", b"a"),
        (b"GET //a HTTP/1.1\r\n", 0, b"//a", b"a"),
        (b'GET /|^{}[]"<>\\`%zz HTTP/1.1\r\n', 0, b'/|^{}[]"<>\\`%zz', b"a"),
        (b"GET http://b:8/c?d HTTP/1.1\r\n", 1, b"/c?d", b"b:8"),
        (b"GET HTTPS://[::1]/ HTTP/1.1\r\n", 1, b"/", b"[::1]"),
        (b"GET http://b HTTP/1.1\r\n", 1, b"/", b"b"),
        (b"GET http://b?c HTTP/1.1\r\n", 1, b"?c", b"b"),
        (b"CONNECT b:443 HTTP/1.1\r\n", 2, b"", b"b:443"),
        (b"OPTIONS * HTTP/1.1\r\n", 3, b"*", b"a"),
    ],
)
def test_target_forms(line: bytes, form: int, path: bytes, authority: bytes) -> None:
    facts = accepted(request(b"", first=line))
    assert (facts["form"], facts["path"], facts["authority"]) == (form, path, authority)


def test_methods_are_case_sensitive() -> None:
    methods = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"]
    heads = [accepted(request(b"", first=method + b" / HTTP/1.1\r\n")) for method in methods]
    assert [head["method_id"] for head in heads] == list(range(1, 9))
    for method in (b"get", b"Post", b"GETS", b"!#$%&'*+-.^_`|~", b"A" * 32):
        facts = accepted(request(b"", first=method + b" / HTTP/1.1\r\n"))
        assert (facts["method"], facts["method_id"]) == (method, 0)


def test_target_over_its_bound_is_too_long() -> None:
    head = b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert isinstance(parse_head(head, False, target_bytes_max=101), dict)
    assert parse_head(head, False, target_bytes_max=100) == "TARGET_TOO_LONG"


def test_values_keep_what_is_inside_and_lose_the_whitespace_around() -> None:
    facts = accepted(request(b"A: \t b \t c \t\r\nB:\r\nC:  \r\nD:\xff\xc3\xa9\r\nE:a:b\r\n"))
    values = {name: value for name, value, _, _ in facts["fields"]}
    assert values == {
        b"Host": b"a",
        b"A": b"b \t c",
        b"B": b"",
        b"C": b"",
        b"D": b"\xff\xc3\xa9",
        b"E": b"a:b",
    }


def test_every_octet_in_a_name_a_value_and_a_target_is_judged_alike_wherever_it_stands() -> None:
    tokens = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    text = {*b"\t ", *range(0x21, 0x7F), *range(0x80, 0x100)}
    targets = {*range(0x21, 0x7F)} - {ord("#")}
    for before in range(0, 40, 3):
        for after in (0, 1, 20):
            left, right = b"x" * before, b"y" * after
            for octet in set(range(256)) - {*b"\0\r\n: "}:
                piece = left + bytes([octet]) + right
                name = parse_head(b"GET / HTTP/1.0\r\n" + b"z" + piece + b":\r\n\r\n", False)
                value = parse_head(b"GET / HTTP/1.0\r\nA:" + piece + b"\r\n\r\n", False)
                target = parse_head(b"GET /" + piece + b" HTTP/1.0\r\n\r\n", False)
                assert isinstance(name, dict) == (octet in tokens), (octet, before, after)
                assert isinstance(value, dict) == (octet in text), (octet, before, after)
                assert isinstance(target, dict) == (octet in targets), (octet, before, after)


def test_known_fields_are_found_in_any_case_and_their_look_alikes_are_not() -> None:
    facts = accepted(
        request(b"cOnTeNt-LeNgTh: 3\r\nX-API-KEY: k\r\nContent_Length: 4\r\nCookies: c\r\nTF: x\r\n")
    )
    assert [id for _, _, id, _ in facts["fields"]] == [1, 2, 13, 0, 0, 0]
    assert facts["known"] == {1: 0, 2: 1, 13: 2}
    assert facts["content_length"] == 3


def test_every_known_name_has_its_id() -> None:
    for spell in (str.upper, str.lower, str.title):
        for id, name in enumerate(KNOWN_NAMES[1:], start=1):
            assert parse_trailer_section(spell(name).encode() + b":\r\n") == [
                (spell(name).encode(), b"", id, name != "endpoint-load-metrics")
            ]
            others = [name + "s", name[:-1] or "x", name[:-1] + "~", "~" + name[1:]]
            for other in others:
                assert parse_trailer_section(other.encode() + b":\r\n") == [(other.encode(), b"", 0, False)]


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (b"", -1),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 0005\r\n", 5),
        (b"Content-Length: 9223372036854775807\r\n", 2**63 - 1),
        (b"Content-Length: 5, 5\t,5\r\n", 5),
        (b"Content-Length: 5\r\nContent-Length: 05\r\n", 5),
    ],
)
def test_content_length(lines: bytes, length: int) -> None:
    assert accepted(request(lines))["content_length"] == length
    assert accepted(response(lines))["content_length"] == length


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" \tCHUNKED\t "])
def test_chunked_in_any_case(value: bytes) -> None:
    facts = accepted(request(b"Transfer-Encoding:" + value + b"\r\n"))
    assert (facts["is_chunked"], facts["content_length"]) == (True, -1)


def test_transfer_encoding_is_refused_with_http_1_0() -> None:
    assert request(b"Transfer-Encoding: chunked\r\n", first=b"GET / HTTP/1.0\r\n") == "BAD_CODING"
    assert response(b"Transfer-Encoding: chunked\r\n", first=b"HTTP/1.0 200 OK\r\n") == "BAD_CODING"


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: , ,ClOsE ,\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Connection:\r\n", True),
        (b"1.1", b"Proxy-Connection: close\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Keep-Alive: timeout=5\r\n", False),
    ],
)
def test_keep_alive(version: bytes, lines: bytes, keep_alive: bool) -> None:
    assert accepted(request(lines, first=b"GET / HTTP/" + version + b"\r\n"))["keep_alive"] is keep_alive
    assert accepted(response(lines, first=b"HTTP/" + version + b" 200 OK\r\n"))["keep_alive"] is keep_alive


def test_hop_by_hop_fields_and_those_that_connection_names_are_marked() -> None:
    lines = (
        b"Connection: X-One, te\r\nX-One: 1\r\nx-two: 2\r\nConnection: X-TWO\r\nX-ONE: 3\r\nX-Three: 3\r\n"
        b"TE: trailers\r\nTrailer: A\r\nKeep-Alive: 1\r\nProxy-Connection: a\r\nUpgrade: b\r\nCookie: c\r\n"
        b"Proxy-Authorization: d\r\nProxy-Authenticate: e\r\nAccept: f\r\nX-On: 4\r\nX-OneX: 5\r\n"
    )
    marked = [b"Connection", b"X-One", b"x-two", b"Connection", b"X-ONE", b"TE", b"Trailer", b"Keep-Alive"]
    marked += [b"Proxy-Connection", b"Upgrade", b"Proxy-Authorization", b"Proxy-Authenticate"]
    assert dropped(accepted(request(lines))) == marked


def test_connection_takes_no_field_away_that_others_rely_on() -> None:
    lines = b"Content-Type: a\r\nAuthorization: b\r\nX-Forwarded-For: c\r\n"
    lines += b"Content-Length: 0\r\ntraceparent: d\r\n"
    names = b"host, content-type, authorization, x-forwarded-for, content-length, traceparent, cookie"
    facts = accepted(request(lines + b"Cookie: e\r\nConnection: " + names + b"\r\n"))
    assert dropped(facts) == [b"Cookie", b"Connection"]
    assert facts["content_length"] == 0


def test_upgrade_is_wanted_only_when_connection_names_it_in_http_1_1() -> None:
    both = b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    assert accepted(request(both))["wants_upgrade"]
    assert not accepted(request(b"Upgrade: websocket\r\n"))["wants_upgrade"]
    assert not accepted(request(b"Connection: upgrade\r\n"))["wants_upgrade"]
    assert not accepted(request(both, first=b"GET / HTTP/1.0\r\n"))["wants_upgrade"]


def test_expect_knows_100_continue_only_and_only_in_http_1_1() -> None:
    assert accepted(request(b"Expect: 100-Continue\r\n"))["expects_continue"]
    assert request(b"Expect: 100-continue, other\r\n") == "BAD_EXPECT"
    assert request(b"Expect: 100-continue\r\nExpect: 200-ok\r\n") == "BAD_EXPECT"
    assert not accepted(request(b"Expect: other\r\n", first=b"GET / HTTP/1.0\r\n"))["expects_continue"]
    assert accepted(response(b"Expect: other\r\n"))["status"] == 200


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200, b"OK"),
        (b"HTTP/1.0 404 Not Found\r\n", 404, b"Not Found"),
        (b"HTTP/1.1 100 \r\n", 100, b""),
        (b"HTTP/1.1 204\r\n", 204, b""),
        (b"HTTP/1.1 599  \tspaced \xc3\xa9\r\n", 599, b" \tspaced \xc3\xa9"),
    ],
)
def test_status_line_is_accepted(line: bytes, status: int, reason: bytes) -> None:
    facts = accepted(response(b"", first=line))
    assert (facts["status"], facts["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"HTTP/1.1\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 \r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 20 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 2000 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 20x OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 -20 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 099 Low\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 600 High\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 999 High\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1  200 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1\t200 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 200\tOK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 200 O\x01K\r\n", "BAD_STATUS_LINE"),
        (b" HTTP/1.1 200 OK\r\n", "BAD_STATUS_LINE"),
        (b"http/1.1 200 OK\r\n", "BAD_STATUS_LINE"),
        (b"ICY 200 OK and on\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.x 200 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/2.0 200 OK\r\n", "UNSUPPORTED_VERSION"),
        (b"HTTP/1.2 200 OK\r\n", "UNSUPPORTED_VERSION"),
        (b"HTTP/2 200 OK\r\n", "BAD_STATUS_LINE"),
        (b"HTTP/1.1 200 O\rK\r\n", "BAD_LINE_END"),
        (b"HTTP/1.1 200 OK\n", "BAD_LINE_END"),
        (b"HTTP/1.1 200 O\0K\r\n", "BAD_LINE_END"),
    ],
)
def test_status_line_is_refused(line: bytes, error: str) -> None:
    assert response(b"", first=line) == error


def test_128_fields_are_accepted() -> None:
    assert len(accepted(request(b"A: b\r\n" * 127))["fields"]) == 128


def test_head_end_is_found_at_the_first_blank_line() -> None:
    assert find_head([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\r\n\n\r"]) == 27
    assert find_head([b"\r\nGET"]) == 2
    assert find_head([b""]) == 0
    assert find_head([b"GET / HTTP/1.1\r\nHost: a\r\n\r"]) == 0


@pytest.mark.parametrize("before", [0, 1, 14, 15, 16, 17, 62, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("fault", [b"\n", b"\r", b"\0", b"\rx", b"\r\r\n", b"\n\r\n"])
def test_bad_line_ends_are_refused_as_soon_as_they_are_seen(before: int, fault: bytes) -> None:
    data = b"x" * before + fault
    if fault == b"\r":
        assert find_head([data]) == 0
        assert find_head([data, b"x"]) == "BAD_LINE_END"
    else:
        assert find_head([data]) == "BAD_LINE_END"
        assert find_head([data[i : i + 1] for i in range(len(data))]) == "BAD_LINE_END"


def test_bad_line_ends_are_refused_by_the_parse_too_wherever_they_stand() -> None:
    for count in (0, 1, 127, 140):
        head = b"GET / HTTP/1.0\r\n" + b"A: b\r\n" * count
        for fault in (b"A: b\n", b"A: \rb\r\n", b"A: b\r\r\n", b"\n"):
            assert parse_head(head + fault + b"\r\n", False) == "BAD_LINE_END"
        assert parse_head(head, False) == ("BAD_LINE_END" if count < 140 else "TOO_MANY_FIELDS")
        assert parse_head(head + b"A: b\r", False) == parse_head(head + b"A: b", False) == "BAD_LINE_END"
    assert parse_head(b"GET / HTTP/1.0\r\n\r\nA: b\r\n\r\n", False) == "BAD_LINE_END"
    assert parse_head(b"", False) == parse_head(b"\n", False) == "BAD_LINE_END"


def test_head_over_its_bound_is_refused_without_its_end() -> None:
    head = b"GET / HTTP/1.1\r\nA: " + b"b" * 100 + b"\r\n\r\n"
    assert find_head([head], head_bytes_max=len(head)) == len(head)
    assert find_head([head], head_bytes_max=len(head) - 1) == "HEAD_TOO_LARGE"
    assert find_head([head[:50]], head_bytes_max=50) == "HEAD_TOO_LARGE"
    assert find_head([head[:49]], head_bytes_max=50) == 0
    assert find_head([b"GET /" + b"a" * 100], head_bytes_max=50) == "TARGET_TOO_LONG"


def test_trailers_are_fields_and_those_of_framing_and_routing_are_dropped() -> None:
    section = b"X-Sum: 1\r\nContent-Length: 5\r\nhost: a\r\nEndpoint-Load-Metrics: b\r\nConnection: x-sum\r\n"
    fields = [
        (b"X-Sum", b"1", 0, False),
        (b"Content-Length", b"5", 2, True),
        (b"host", b"a", 1, True),
        (b"Endpoint-Load-Metrics", b"b", 23, False),
        (b"Connection", b"x-sum", 4, True),
    ]
    assert parse_trailer_section(section) == parse_trailer_section(section + b"\r\n") == fields
    assert parse_trailer_section(b"") == parse_trailer_section(b"\r\n") == []


@pytest.mark.parametrize(
    ("section", "error"),
    [
        (b"A: b", "BAD_TRAILER"),
        (b"A: b\n", "BAD_TRAILER"),
        (b"A b\r\n", "BAD_TRAILER"),
        (b"A: b\r\n c\r\n", "BAD_TRAILER"),
        (b"A : b\r\n", "BAD_TRAILER"),
        (b"A: \x01\r\n", "BAD_TRAILER"),
        (b"A: \0\r\n", "BAD_TRAILER"),
        (b"A: b\r\n\r\nB: c\r\n", "BAD_TRAILER"),
        (b"\r\n\r\n", "BAD_TRAILER"),
        (b"\n", "BAD_TRAILER"),
        (b"A: b\r\n" * 33, "TOO_MANY_FIELDS"),
    ],
)
def test_trailers_are_refused(section: bytes, error: str) -> None:
    assert parse_trailer_section(section) == error


def test_every_error_has_a_sentence_of_its_own() -> None:
    sentences = {error_text(name) for name in ERROR_NAMES}
    assert len(sentences) == len(ERROR_NAMES)

"""Chunked bodies, one named case a rule: what decodes, what is refused and where the next message begins."""

import pytest

from router.native.chunk import decode_chunked

ACCEPTED = {
    "empty": (b"0\r\n\r\n", b"", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    "two chunks": (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", b""),
    "hex in both cases": (b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a", b""),
    "leading zeros": (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a", b""),
    "data that looks like framing": (b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\r\n", b""),
    "extension": (b"1;a\r\nx\r\n0;b=c\r\n\r\n", b"x", b""),
    "extensions with whitespace": (b"1 ; a = b\t;c\r\nx\r\n0\r\n\r\n", b"x", b""),
    "extension in quotes": (b'1;a="; \\" \\\\ \xff"\r\nx\r\n0\r\n\r\n', b"x", b""),
    "extension at the bound": (b"1;" + b"a" * 4092 + b"\r\nx\r\n0\r\n\r\n", b"x", b""),
    "trailers": (b"0\r\nA: b\r\nC:\r\n\r\n", b"", b"A: b\r\nC:\r\n"),
    "trailers at the bound": (b"0\r\nA:" + b"b" * 8188 + b"\r\n\r\n", b"", b"A:" + b"b" * 8188 + b"\r\n"),
}


@pytest.mark.parametrize(("body", "data", "trailers"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_body_decodes_and_what_follows_is_left_alone(body: bytes, data: bytes, trailers: bytes) -> None:
    for after in (b"", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n", b"\0"):
        assert decode_chunked([body + after]) == ("end", data, trailers, len(body))


REFUSED = {
    "no size": (b"\r\n", b""),
    "no size but an extension": (b";a\r\n", b""),
    "sign": (b"+1\r\n", b""),
    "minus": (b"-1\r\n", b""),
    "0x": (b"0x1\r\n", b""),
    "not hex": (b"g\r\n", b""),
    "underscore": (b"1_0\r\n", b""),
    "space before the size": (b" 1\r\n", b""),
    "space after the size": (b"1 \r\n", b""),
    "tab after the size": (b"1\t\r\n", b""),
    "17 digits": (b"00000000000000001\r\n", b""),
    "2**63": (b"8000000000000000\r\n", b""),
    "2**64 - 1": (b"ffffffffffffffff\r\n", b""),
    "size ended by LF": (b"1\na\r\n", b""),
    "size ended by CR": (b"1\ra\r\n", b""),
    "size ended by CR CR LF": (b"1\r\r\na\r\n", b""),
    "NUL after the size": (b"1\0\r\n", b""),
    "data longer than its size": (b"1\r\nab\r\n", b"a"),
    "data ended by LF": (b"1\r\na\n", b"a"),
    "data ended by CR": (b"1\r\na\r0", b"a"),
    "data ended by LF CR": (b"1\r\na\n\r", b"a"),
    "data shorter than its size": (b"3\r\na\r\n0\r\n\r\n", b"a\r\n"),
    "extension without a name": (b"1;\r\n", b""),
    "extension without a value": (b"1;a=\r\n", b""),
    "extension after a space": (b"1 a\r\n", b""),
    "extension with a space at its end": (b"1;a \r\n", b""),
    "extension with two values": (b"1;a=b=c\r\n", b""),
    "extension with LF": (b"1;a\nb\r\n", b""),
    "extension with CR": (b"1;a\rb\r\n", b""),
    "extension with CR in quotes": (b'1;a="\rb"\r\n', b""),
    "extension with LF after a backslash": (b'1;a="\\\n"\r\n', b""),
    "extension with NUL": (b"1;a=\0\r\n", b""),
    "extension with quotes left open": (b'1;a="b\r\n', b""),
    "extension past the bound": (b"1;" + b"a" * 4093 + b"\r\n", b""),
    "trailer without a colon": (b"0\r\nA\r\n", b""),
    "trailer with a space before the colon": (b"0\r\nA : b\r\n", b""),
    "trailer that is folded": (b"0\r\nA: b\r\n c\r\n", b""),
    "trailer without a name": (b"0\r\n: b\r\n", b""),
    "trailer with a control": (b"0\r\nA: \x01\r\n", b""),
    "trailer with NUL": (b"0\r\nA: \0\r\n", b""),
    "trailer ended by LF": (b"0\r\nA: b\n", b""),
    "trailer with a bare CR": (b"0\r\nA: b\rc\r\n", b""),
    "trailers past the bound": (b"0\r\n" + b"A: b\r\n" * 1400, b""),
    "end by LF": (b"0\r\n\n", b""),
    "end by CR": (b"0\r\n\rx", b""),
    "request after the last chunk": (b"0\r\nGET / HTTP/1.1\r\n", b""),
}


@pytest.mark.parametrize(("body", "data"), REFUSED.values(), ids=REFUSED.keys())
def test_body_is_refused_and_stays_so(body: bytes, data: bytes) -> None:
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))], [body, b"0\r\n\r\n"]):
        verdict, decoded, _, _ = decode_chunked(pieces)
        assert (verdict, decoded) == ("bad", data)


@pytest.mark.parametrize("body", [body for body, _, _ in ACCEPTED.values()], ids=ACCEPTED.keys())
def test_body_cut_short_anywhere_is_never_complete(body: bytes) -> None:
    for end in range(len(body)):
        verdict, _, _, consumed = decode_chunked([body[:end]])
        assert (verdict, consumed) == ("more", end)

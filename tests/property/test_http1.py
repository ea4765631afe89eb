"""Native HTTP/1.1 parsing equals the oracle: generated and mutated messages, any cut, any byte flipped."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from router.native import chunk, http1
from tests.fuzz.fuzz_http1 import run
from tests.fuzz.mutate import mutations
from tests.oracle import http1 as oracle

REQUESTS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive, X-A\r\nX-A: b\r\n"
    b"Authorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: 42\r\n\r\n",
    b"GET http://[::ffff:1.2.3.4]:80?q HTTP/1.1\r\nHost: a%20b\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n",
    b"PUT /u HTTP/1.1\r\nhost: [v1.a]\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTE: b\r\n\r\n",
    b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5, 5\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 01 Jul 2025 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n",
    b"HTTP/1.1 204\r\n\r\n",
    b"HTTP/1.0 503 Busy \xff\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: Keep-Alive, close\r\n\r\n",
)
BODIES = (
    b"5\r\nhello\r\n1F;a=b\r\n0123456789abcdef0123456789abcde\r\n0\r\n\r\n",
    b'3 ; a = "q\\"\xff" ;b\r\n\r\n0\r\n000\r\nX-Sum: 1\r\nB:\r\n\r\n',
    b"0\r\n\r\n",
)
AFTER = (b"", b"\r\n", b"\0\n\r", b"GET / HTTP/1.1\r\n\r\n")


def assert_heads_agree(data: bytes, is_response: bool) -> None:
    length = http1.find_head([data])
    assert length == oracle.find_head(data)
    if isinstance(length, int) and length > 0:
        head = data[:length]
        assert http1.parse_head(head, is_response) == oracle.parse_head(head, is_response)
        section = head[head.index(b"\r\n") + 2 :]
        assert http1.parse_trailer_section(section) == oracle.parse_trailer_section(section)


def assert_bodies_agree(pieces: list[bytes]) -> None:
    verdict, data, trailers, consumed = chunk.decode_chunked(pieces)
    expected = oracle.decode_chunked(b"".join(pieces))
    assert (verdict, data) == expected[:2]
    if verdict == "end":
        assert (verdict, data, trailers, consumed) == expected


def flips(data: bytes) -> list[bytes]:
    """`data` with each byte replaced: one bit flipped, or a byte that ends lines and parts in its place."""
    substitutes = b"\0\t\n\r ,:;\x80"
    return [
        data[:at] + bytes([octet]) + data[at + 1 :]
        for at in range(len(data))
        for octet in {data[at] ^ 1 << bit for bit in range(8)} | set(substitutes)
    ]


def test_samples_are_accepted() -> None:
    assert all(isinstance(http1.parse_head(head, False), dict) for head in REQUESTS)
    assert all(isinstance(http1.parse_head(head, True), dict) for head in RESPONSES)
    assert all(chunk.decode_chunked([body])[0] == "end" for body in BODIES)


def test_heads_are_found_alike_at_every_split_and_with_any_bytes_behind() -> None:
    for head in REQUESTS + RESPONSES:
        for after in AFTER:
            data = head + after
            for cut in range(len(data) + 1):
                expected = len(head) if cut >= len(head) else 0
                assert http1.find_head([data[:cut]]) == expected
                assert http1.find_head([data[:cut], data[cut:]]) == len(head)
            assert http1.find_head([data[i : i + 1] for i in range(len(data))]) == len(head)


def test_heads_with_any_byte_flipped_read_as_the_oracle_reads_them() -> None:
    for is_response, heads in ((False, REQUESTS), (True, RESPONSES)):
        for head in heads:
            for data in flips(head):
                assert_heads_agree(data, is_response)


def test_bodies_decode_alike_at_every_two_splits_and_with_any_bytes_behind() -> None:
    for body in BODIES:
        expected = chunk.decode_chunked([body])
        for after in AFTER:
            data = body + after
            assert chunk.decode_chunked([data]) == expected
            for first in range(len(data) + 1):
                for second in range(first, len(data) + 1):
                    assert chunk.decode_chunked([data[:first], data[first:second], data[second:]]) == expected


def test_bodies_with_any_byte_flipped_read_as_the_oracle_reads_them() -> None:
    for body in BODIES:
        for data in flips(body):
            assert_bodies_agree([data])
            assert_bodies_agree([data[i : i + 1] for i in range(len(data))])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 400), max_size=3))
def test_mutated_messages_read_as_the_oracle_reads_them(seed: int, cuts: list[int]) -> None:
    for is_response, heads in ((False, REQUESTS), (True, RESPONSES)):
        for data in list(mutations(list(heads), seed, len(heads) + 4))[len(heads) :]:
            assert_heads_agree(data, is_response)
            pieces = cut_up(data, cuts)
            assert http1.find_head(pieces) == http1.find_head([data])
    for data in list(mutations(list(BODIES), seed, len(BODIES) + 4))[len(BODIES) :]:
        assert_bodies_agree(cut_up(data, cuts))


def cut_up(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def pieces_of(*pieces: bytes) -> st.SearchStrategy[bytes]:
    """Mostly one of `pieces`, sometimes anything."""
    return st.one_of(*[st.sampled_from(pieces)] * 6, st.binary(max_size=6))


def test_the_fuzz_corpus_and_its_first_mutations_read_as_the_oracle_reads_them() -> None:
    run(count=200, seed=1)


TARGETS = (b"/", b"/a?b", b"*", b"a:1", b"http://a/b", b"HTTPS://a:80?c", b"http://u@a/", b"http://", b"/#")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1")
NAMES = (
    *(
        b"Host",
        b"host",
        b"Content-Length",
        b"content-length",
        b"Transfer-Encoding",
        b"Connection",
        b"Upgrade",
    ),
    *(b"Expect", b"X-A", b"x-a", b"TE", b"Cookie", b"X-Request-Id", b"Keep-Alive", b"A "),
)
VALUES = (
    *(
        b"a",
        b"[::1]",
        b"a:80",
        b"5",
        b"5",
        b"5, 5",
        b"6",
        b"+5",
        b"chunked",
        b"Chunked",
        b"gzip, chunked",
        b"close",
    ),
    *(b"keep-alive", b"upgrade, x-a", b"X-A,,te", b"100-continue", b"", b" b\t", b"x y", b"\xe9"),
)


@st.composite
def heads(draw: st.DrawFn, is_response: bool) -> bytes:
    if is_response:
        codes = pieces_of(b"200", b"204", b"304", b"100", b"099", b"600", b"20", b"2000")
        line = draw(pieces_of(*VERSIONS)) + b" " + draw(codes) + draw(pieces_of(b"", b" ", b" OK", b"  a"))
    else:
        methods = pieces_of(b"GET", b"POST", b"OPTIONS", b"CONNECT", b"get", b"X" * 33)
        line = b" ".join((draw(methods), draw(pieces_of(*TARGETS)), draw(pieces_of(*VERSIONS))))
    lines = draw(st.lists(st.tuples(pieces_of(*NAMES), pieces_of(*VALUES)), max_size=6))
    fields = b"".join(name + b":" + value + b"\r\n" for name, value in lines)
    host = draw(st.sampled_from((b"Host: a\r\n", b"Host: a\r\n", b"")))
    return line + b"\r\n" + host + fields + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(heads(is_response=False))
def test_generated_requests_read_as_the_oracle_reads_them(data: bytes) -> None:
    assert_heads_agree(data, is_response=False)


@settings(max_examples=300, deadline=None)
@given(heads(is_response=True))
def test_generated_responses_read_as_the_oracle_reads_them(data: bytes) -> None:
    assert_heads_agree(data, is_response=True)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789abcdef:.[]v", max_size=24), st.sampled_from(["", ":", ":80", ":99999"]))
def test_generated_hosts_read_as_the_oracle_reads_them(host: str, port: str) -> None:
    for value in (host, f"[{host}]", f"[::{host}]"):
        data = b"GET / HTTP/1.1\r\nHost:" + (value + port).encode() + b"\r\n\r\n"
        assert_heads_agree(data, is_response=False)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        pieces_of(
            b"5",
            b"\r\n",
            b"hello",
            b"hello\r\n",
            b"5\r\n",
            b"0\r\n",
            b";a",
            b"=",
            b'"b\\"',
            b'"',
            b" ",
            b"A: b\r\n",
        ),
        max_size=12,
    )
)
def test_generated_bodies_read_as_the_oracle_reads_them(pieces: list[bytes]) -> None:
    assert_bodies_agree(pieces)
    assert_bodies_agree([b"".join(pieces)])

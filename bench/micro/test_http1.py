"""What a head and a chunked span cost, in batches that run in native code from end to end.

Each benchmark does ROUNDS messages a call: a microsecond shown is a nanosecond for one. With
--benchmark-disable they do one batch and check what it counted.
"""

from pytest_benchmark.fixture import BenchmarkFixture

from router.native.chunk import decode_repeatedly
from router.native.http1 import parse_repeatedly

ROUNDS = 1000

REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: OpenAI/Python 1.60.0\r\n"
    b"Content-Type: application/json\r\nAuthorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n"
    b"Content-Length: 400\r\n\r\n"
)
"""360 bytes, 11 fields: what the OpenAI client sends, without its longest fields."""

RESPONSE = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 01 Jul 2025 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
"""What vLLM answers a streaming request with."""

EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"m","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
SPAN = (b"%x\r\n%b\r\n" % (len(EVENT), EVENT)) * 16 + b"0\r\n\r\n"
"""Sixteen events of a stream, a chunk each, and its end."""


def test_request_head(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_repeatedly, REQUEST, False, ROUNDS) == 11 * ROUNDS


def test_response_head(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_repeatedly, RESPONSE, True, ROUNDS) == 4 * ROUNDS


def test_chunked_span(benchmark: BenchmarkFixture) -> None:
    assert benchmark(decode_repeatedly, SPAN, ROUNDS) == 18 * ROUNDS

"""Micro-benchmarks of the response meter: tiny under plain pytest, measured by `make bench`."""

import json
from typing import Any

import pytest

from router.native.sse import MODE_JSON, MODE_SSE, meter_repeatedly

TIMES = 100
USAGE = {
    "prompt_tokens": 21,
    "total_tokens": 30,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 16},
}


def chunk(**more: object) -> bytes:
    """One streamed chat event, as vLLM writes it."""
    choice = {"index": 0, "delta": {"content": " ocean"}, "logprobs": None, "finish_reason": None}
    value = {
        "id": "chatcmpl-8f14e45fceea167a5a36dedd4bea2543",
        "object": "chat.completion.chunk",
        "created": 1735689600,
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "choices": [choice],
        **more,
    }
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("piece", "events"),
    [
        pytest.param(chunk(), 1, id="chunk"),
        pytest.param(chunk(usage=None), 1, id="chunk_usage_null"),
        pytest.param(chunk(usage=USAGE), 1, id="chunk_with_usage"),
        pytest.param(chunk() * 64, 64, id="64_chunks"),
        pytest.param(b": keep-alive\n\n", 0, id="comment"),
    ],
)
def test_stream(benchmark: Any, piece: bytes, events: int) -> None:
    benchmark.extra_info.update(per_call=TIMES, bytes=len(piece))
    assert benchmark(meter_repeatedly, MODE_SSE, piece, TIMES) == events * TIMES


def test_json_body(benchmark: Any) -> None:
    body = json.dumps({"choices": [{"message": {"content": "ocean " * 100}}], "usage": USAGE}).encode()
    benchmark.extra_info.update(per_call=TIMES, bytes=len(body))
    benchmark(meter_repeatedly, MODE_JSON, body, TIMES)

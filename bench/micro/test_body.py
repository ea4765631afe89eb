"""Micro-benchmarks of the body scan and the hash: tiny under plain pytest, measured by `make bench`."""

import json
from typing import Any

import pytest

from router.native.body import scan_repeatedly
from router.native.hash import hash_repeatedly

TIMES = 100
COMPLETE = 64  # BODY_COMPLETE in router/native/body.pxd
SENTENCE = "Tell me about the ocean and its waves. "
CODE = '\tif x == "a":\n\t\treturn "\\n"\n'


def chat_body(text: str, size: int) -> bytes:
    """A chat request of about `size` bytes whose one user message is `text` over and over."""
    message = text * (size // len(json.dumps(text)) + 1)
    body = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": message},
        ],
        "stream": True,
        "max_tokens": 256,
        "temperature": 0.7,
    }
    return json.dumps(body).encode()


BODIES = {
    "chat_400_bytes": chat_body(SENTENCE, 150),
    "chat_2_kib": chat_body(SENTENCE, 1800),
    "chat_64_kib": chat_body(SENTENCE, 65000),
    "code_64_kib": chat_body(CODE, 65000),
    "short_messages_64_kib": json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Tell me"}] * 1600}
    ).encode(),
    "token_ids_64_kib": json.dumps({"model": "m", "prompt": list(range(20000, 29000))}).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_scan(benchmark: Any, name: str) -> None:
    body = BODIES[name]
    benchmark.extra_info.update(per_call=TIMES, bytes=len(body))
    assert benchmark(scan_repeatedly, body, TIMES) & COMPLETE


@pytest.mark.parametrize("size", [20, 64, 1024])
def test_hash(benchmark: Any, size: int) -> None:
    benchmark.extra_info.update(per_call=TIMES, bytes=size)
    benchmark(hash_repeatedly, b"x" * size, TIMES)

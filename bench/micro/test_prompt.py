"""Micro-benchmarks of the prompt chain, alone and within the body scan: measured by `make bench`."""

from typing import Any

import pytest

from bench.micro.test_body import BODIES
from router.native.body import scan_repeatedly
from router.native.prompt import PromptChain, feed_repeatedly

TIMES = 100


@pytest.mark.parametrize("size", [400, 4096, 65536])
def test_feed_and_keys(benchmark: Any, size: int) -> None:
    chain = PromptChain()
    chain.feed(b"x" * size)
    benchmark.extra_info.update(per_call=TIMES, bytes=size)
    assert benchmark(feed_repeatedly, b"x" * size, TIMES) == len(chain.block_keys())


def test_scan_and_hash_of_64_kib(benchmark: Any) -> None:
    """What the arrival of a whole body costs: found facts and a key per boundary."""
    body = BODIES["chat_64_kib"]
    benchmark.extra_info.update(per_call=TIMES, bytes=len(body))
    benchmark(scan_repeatedly, body, TIMES)

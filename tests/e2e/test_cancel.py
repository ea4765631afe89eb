"""A client that leaves frees its place at a real engine: in mid-stream, before the first token, without a
stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.engines import PLACES, Engines, messages
from tests.integration.processes import wait_until
from tests.support.raw_peer import chat, dial, request
from tests.support.router_process import RouterProcess

KINDS = pytest.mark.parametrize("kind", ["vllm", "llamacpp"])

# Many seconds of work, close to what the context holds: nothing here waits until it is done.
LONG_TOKENS = {"vllm": 4_000, "llamacpp": 8_000}


def long_chat(kind: str, **more: Any) -> bytes:
    return chat(**{"model": f"only-{kind}", "max_tokens": LONG_TOKENS[kind], "ignore_eos": True, **more})


@KINDS
def test_a_stream_that_is_closed_stops_at_the_engine(
    client: Any, engines: Engines, log_line: Callable[[str], dict[str, Any]], kind: str
) -> None:
    stream = client.chat.completions.create(
        model=f"only-{kind}",
        messages=messages(),
        max_tokens=LONG_TOKENS[kind],
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in range(3):
        next(stream)
    assert engines.by_kind(kind).running() == 1
    stream.close()
    wait_until(engines.by_kind(kind).holds_nothing, "the engine works on nothing")
    assert log_line(stream.response.headers["x-request-id"])["outcome"] == "client_closed"


def test_a_client_that_leaves_before_a_whole_answer_stops_it_at_vllm(
    engines: Engines, router: RouterProcess
) -> None:
    with dial(router.address) as peer:
        peer.send(request(long_chat("vllm")))
        wait_until(lambda: engines.vllm.running() == 1, "the engine works on it")
        assert peer.is_quiet()
    wait_until(engines.vllm.holds_nothing, "the engine works on nothing")


def test_a_client_that_leaves_before_a_whole_answer_frees_the_router_though_llamacpp_goes_on(
    engines: Engines, router: RouterProcess, log_line: Callable[[str], dict[str, Any]]
) -> None:
    # llama.cpp looks for a client that has left only while it streams: the rest is made for nobody.
    with dial(router.address) as peer:
        peer.send(request(long_chat("llamacpp", max_tokens=1_000), x_request_id="left-early"))
        wait_until(lambda: engines.llamacpp[0].running() == 1, "the engine works on it")
    assert log_line("left-early")["outcome"] == "client_closed"
    assert router.in_flight() == 0


@KINDS
def test_a_client_that_leaves_before_its_first_token_leaves_the_engines_queue(
    engines: Engines, router: RouterProcess, log_line: Callable[[str], dict[str, Any]], kind: str
) -> None:
    engine = engines.by_kind(kind)
    places = PLACES[kind]
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(dial(router.address)) for _ in range(places)]
        for peer in peers:
            peer.send(request(long_chat(kind, stream=True)))
        wait_until(lambda: engine.running() == places, f"{places} at work")
        with dial(router.address) as last:
            last.send(request(long_chat(kind, stream=True), x_request_id=f"queued-{kind}"))
            wait_until(lambda: engine.waiting() == 1, "one in the engine's queue")
        if kind == "vllm":
            # llama.cpp takes one out of its queue only when a place is free, and sees then that it is alone.
            wait_until(lambda: engine.waiting() == 0, "its queue is empty")
        line = log_line(f"queued-{kind}")
        assert (line["outcome"], line["events"]) == ("client_closed", 0)
    wait_until(engine.holds_nothing, "the engine works on nothing")

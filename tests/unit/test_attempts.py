"""Attempts: who was tried, who is full, and what a connection that was dead all along costs."""

from __future__ import annotations

import errno
import json
from itertools import cycle
from typing import Any

import pytest

from tests.support.scripted import Scripted

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
EXPOSED = [{"name": "all", "expose_endpoint": True}]


def chat(*contents: str, model: str = "m", **more: Any) -> bytes:
    """A request for `model`, with these messages of a user and in turn of an assistant."""
    roles = cycle(("user", "assistant"))
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 5, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


def ask(world: Scripted, data: bytes) -> int:
    client = world.driver.accept()
    world.driver.receive(client, data)
    return client


def answer(world: Scripted, client: int) -> dict[str, str]:
    """Lets whoever was asked answer; the headers that the client sees."""
    world.establish_all()
    for upstream in world.driver.upstreams():
        if world.driver.take(upstream):
            world.driver.receive(upstream, ANSWER)
    head = world.driver.take(client).partition(b"\r\n\r\n")[0].decode()
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:])


def endpoints(counts: dict[str, int], **more: Any) -> list[dict[str, Any]]:
    """So many endpoints for each model."""
    models = [model for model, count in counts.items() for _ in range(count)]
    return [
        {"url": f"http://127.0.0.1:{10_000 + index}", "models": [model], **more}
        for index, model in enumerate(models)
    ]


@pytest.mark.parametrize(
    ("counts", "asked"), [({"m": 300}, "m"), ({"m": 150, "n": 150}, "both")], ids=["pool", "alias"]
)
def test_everybody_with_room_is_found_and_then_they_are_full(counts: dict[str, int], asked: str) -> None:
    pool = {"name": "main", "endpoints": endpoints(counts, capacity={"in_flight_max": 1})}
    world = Scripted(pools=[pool], aliases={"both": list(counts)})
    clients = [ask(world, chat("Hi", model=asked)) for _ in range(300)]
    assert not any(world.driver.take(client) for client in clients)
    assert world.load.total_in_flight() == 300
    refused = ask(world, chat("Hi", model=asked))
    assert b" 503 " in world.driver.take(refused).split(b"\r\n")[0]
    for client in clients:
        world.driver.end(client)
    world.finish()


@pytest.mark.parametrize(
    ("counts", "asked"), [({"m": 300}, "m"), ({"m": 150, "n": 150}, "both")], ids=["pool", "alias"]
)
def test_whoever_refused_is_not_asked_again_wherever_it_stands(counts: dict[str, int], asked: str) -> None:
    alias = [{"model": model, "quality_cost_ms": 0} for model in counts]
    world = Scripted(pools=[{"name": "main", "endpoints": endpoints(counts)}], aliases={"both": alias})
    for turn in range(100):
        ask(world, chat(f"Hi {turn}", model=asked))
        (first,) = (n for n in world.driver.upstreams() if world.driver.state(n)["connecting"])
        refused = world.driver.state(first)["port"]
        world.driver.end(first, errno.ECONNREFUSED)
        (second,) = world.establish_all()
        assert world.driver.state(second)["port"] != refused
        assert world.driver.take(second).startswith(b"POST ")
    world.finish()


def test_another_connection_to_the_same_endpoint_is_the_same_attempt() -> None:
    world = Scripted(2, routes=EXPOSED)
    answer(world, ask(world, chat("Hello")))
    (idle,) = world.driver.upstreams()
    client = ask(world, chat("Hello", "Yes?", "another thing altogether " * 500))
    before = world.load.view(0), world.load.view(1)
    world.driver.end(idle)  # the engine closed it while the request was on its way
    assert (world.load.view(0), world.load.view(1)) == before
    (fresh,) = world.driver.upstreams()
    assert fresh != idle
    assert world.driver.state(fresh)["port"] == world.driver.state(idle)["port"]
    assert answer(world, client)["x-fairlead-session"] == "stayed"
    counters = world.metrics.counters()
    assert (counters["stale_replaced"], counters["retries"]) == (1, 0)
    assert (counters["session_new"], counters["session_stayed"]) == (1, 1)
    world.finish()


def test_a_session_is_new_though_the_first_endpoint_refused_it() -> None:
    world = Scripted(2, routes=EXPOSED)
    client = ask(world, chat("Hello"))
    world.driver.end(world.driver.upstreams()[0], errno.ECONNREFUSED)
    assert answer(world, client)["x-fairlead-session"] == "new"
    counters = world.metrics.counters()
    assert (counters["session_new"], counters["session_health"], counters["retries"]) == (1, 0, 1)
    world.finish()


@pytest.mark.parametrize("retry_bytes", [0, 2048, 1 << 20])
def test_whose_a_request_is_does_not_depend_on_how_its_body_was_cut(retry_bytes: int) -> None:
    """Never somebody else's: where too little was there to tell, nobody's."""
    world = Scripted(2, limits={"retry_buffer_bytes_max": retry_bytes}, routes=EXPOSED)
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 3000}}]
    data = chat("word " * 4000, tools=tools)
    head_bytes = data.index(b"\r\n\r\n") + 4
    told = []
    for cut in (600, 1500, 3000, 20_080, 21_000, len(data) - head_bytes - 1):
        client = world.driver.accept()
        world.driver.receive(client, data[: head_bytes + cut])
        world.establish_all()
        world.driver.receive(client, data[head_bytes + cut :])
        told.append(answer(world, client).get("x-fairlead-session"))
    known = [reason for reason in told if reason]
    assert known[:1] in ([], ["new"])
    assert set(known[1:]) <= {"stayed"}
    if retry_bytes > len(data):
        assert None not in told
    world.finish()


def test_a_decision_that_is_explained_is_charged_like_one_that_is_not() -> None:
    charges = []
    explained: list[dict[str, Any]] = [{}, {"explain": {"sample_ratio": 1.0}}]
    for explain in explained:
        pool = {"name": "main", "endpoints": endpoints({"m": 2, "n": 2})}
        world = Scripted(pools=[pool], aliases={"both": ["m", "n"]}, **explain)
        clients = [
            ask(world, chat("What everybody asks. " * 60 + str(turn), model="both")) for turn in range(6)
        ]
        charges.append([world.load.view(slot) for slot in range(4)])
        for client in clients:
            world.driver.end(client)
        world.finish()
    assert charges[0] == charges[1]

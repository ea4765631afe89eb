"""What an exchange puts on an endpoint's account, from the pick over the first token to whatever ends it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.scripted import Scripted

PROMPT = "Say why the sky is blue. " * 40


def request(**fields: Any) -> bytes:
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64, **fields}
    )
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return chunk(b"data: " + msgspec.json.encode(fields) + b"\n\n")


TOKEN = event(choices=[{"delta": {"content": "t"}}])
USAGE = {"prompt_tokens": 700, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}
STREAM_END = event(choices=[], usage=USAGE) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def answer(status: str = "200 OK", **fields: Any) -> bytes:
    body = msgspec.json.encode(fields)
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


def begin(scripted: Scripted, **fields: Any) -> int:
    """A client that has asked; its number."""
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(**fields))
    return client


def busy_slots(scripted: Scripted) -> list[int]:
    return [slot for slot in range(4) if scripted.load.in_flight(slot)]


def test_stream_waits_until_its_first_token_and_then_only_decodes() -> None:
    scripted = Scripted(endpoint_count=1)
    client = begin(scripted, stream=True)
    view = scripted.load.view(0)
    assert (view["in_flight"], view["pending"]) == (1, 1), "charged with the pick, before it is connected"
    assert 200 < view["queued_tokens"] < 400
    assert view["kv_tokens"] > view["queued_tokens"]
    assert view["queued_work_us"] > 1000
    (upstream,) = scripted.establish_all()
    scripted.driver.receive(upstream, STREAM_HEAD)
    assert scripted.load.view(0)["pending"] == 1, "a head is no token"
    scripted.driver.receive(upstream, TOKEN)
    view = scripted.load.view(0)
    assert (view["in_flight"], view["pending"], view["queued_tokens"], view["queued_work_us"]) == (1, 0, 0, 0)
    assert view["kv_tokens"] > 200
    scripted.driver.receive(upstream, TOKEN + STREAM_END)
    scripted.assert_settled()
    assert scripted.driver.take(client).endswith(b"0\r\n\r\n")
    scripted.finish()


def test_the_endpoint_that_had_a_prompt_is_charged_less_for_it_the_next_time() -> None:
    scripted = Scripted(endpoint_count=1)
    begin(scripted, stream=True)
    first = scripted.load.view(0)["queued_tokens"]
    (upstream,) = scripted.establish_all()
    scripted.driver.receive(upstream, STREAM_HEAD + TOKEN + STREAM_END)
    begin(scripted, stream=True)
    assert 0 < scripted.load.view(0)["queued_tokens"] < first * 0.8
    scripted.finish()


def test_usage_teaches_how_large_tokens_are_and_how_long_answers() -> None:
    scripted = Scripted(endpoint_count=1)
    for _ in range(30):
        client = begin(scripted, user="somebody")
        expected = scripted.load.view(0)
        scripted.establish_all()
        (upstream,) = scripted.driver.upstreams()
        scripted.driver.receive(upstream, answer(usage={"prompt_tokens": 900, "completion_tokens": 7}))
        scripted.driver.end(client)
    client = begin(scripted, user="somebody")
    learnt = scripted.load.view(0)
    assert learnt["kv_tokens"] > expected["kv_tokens"] * 0.9
    assert 850 < learnt["kv_tokens"] < 950
    scripted.finish()


def test_what_was_cached_is_compared_in_our_tokens_where_the_prompts_are_not_told() -> None:
    trusts = []
    for told in ((), ("prompt_tokens",)):
        scripted = Scripted(endpoint_count=1)
        sizes: list[int] = []
        for cached_share in (0, 0.5):
            client = begin(scripted)
            sizes.append(scripted.load.view(0)["queued_tokens"])
            cached = int((sizes[0] - sizes[-1]) * cached_share)
            scripted.establish_all()
            (upstream,) = scripted.driver.upstreams()
            usage = {"prompt_tokens_details": {"cached_tokens": cached}, **dict.fromkeys(told, sizes[0])}
            scripted.driver.receive(upstream, answer(usage=usage))
            scripted.driver.end(client)
        trusts.append(scripted.prefix.trust(0))
        scripted.finish()
    assert trusts[0] == pytest.approx(1 - 0.5 / 256, abs=1e-4)
    assert trusts[0] == pytest.approx(trusts[1], abs=1e-6)


def test_retried_request_leaves_the_account_of_the_endpoint_that_failed() -> None:
    scripted = Scripted(endpoint_count=2)
    begin(scripted)
    (slot,) = busy_slots(scripted)
    (upstream,) = scripted.establish_all()
    scripted.driver.receive(upstream, b"HTTP/1.1 nonsense\r\n\r\n")
    assert busy_slots(scripted) == [1 - slot]
    view = scripted.load.view(slot)
    assert (view["queued_tokens"], view["kv_tokens"], view["oldest_pending_us"]) == (0, 0, 0)
    assert scripted.load.view(1 - slot)["pending"] == 1
    scripted.finish()


def test_errors_timeouts_and_departures_settle_the_account() -> None:
    def refuse(scripted: Scripted, upstream: int, _client: int) -> None:
        scripted.driver.receive(upstream, answer("429 Too Many Requests", error={}))

    def break_off(scripted: Scripted, upstream: int, _client: int) -> None:
        scripted.driver.receive(upstream, STREAM_HEAD + TOKEN)
        scripted.driver.end(upstream, 104)

    def time_out(scripted: Scripted, _upstream: int, _client: int) -> None:
        scripted.driver.advance(10_000_000_000)
        scripted.core.tick()

    def leave(scripted: Scripted, _upstream: int, client: int) -> None:
        scripted.driver.end(client)

    def drain(scripted: Scripted, _upstream: int, _client: int) -> None:
        scripted.core.abort_all()

    for end in (refuse, break_off, time_out, leave, drain):
        scripted = Scripted(endpoint_count=1)
        client = begin(scripted, stream=True)
        (upstream,) = scripted.establish_all()
        assert busy_slots(scripted) == [0]
        end(scripted, upstream, client)
        scripted.assert_settled()
        scripted.finish()


def test_websocket_holds_a_place_and_no_prompt() -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(
        client,
        b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    (upstream,) = scripted.establish_all()
    scripted.driver.receive(
        upstream, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    view = scripted.load.view(0)
    assert (view["in_flight"], view["pending"], view["kv_tokens"]) == (1, 0, 0)
    scripted.finish()


def test_debug_page_shows_the_account() -> None:
    scripted = Scripted(endpoint_count=1)
    begin(scripted, stream=True)
    (row,) = scripted.core.debug_endpoints()
    assert (row["in_flight"], row["pending"]) == (1, 1)
    assert row["queued_tokens"] > 200
    assert row["kv_tokens"] > row["queued_tokens"]
    assert row["queued_work_us"] > 0
    assert row["oldest_pending_age_us"] >= 0
    scripted.finish()


def test_models_that_load_stay_where_they_were_loaded() -> None:
    loading = {"models": ["a", "b"], "model_load_ms": {"a": 20_000, "b": 10_000}}
    endpoints = [{"url": f"http://127.0.0.1:{9000 + index}", **loading} for index in range(2)]
    scripted = Scripted(pools=[{"name": "main", "policy": {"type": "five_axis"}, "endpoints": endpoints}])
    homes: dict[str, set[int]] = {"a": set(), "b": set()}
    for model in "abbabaab":
        client = begin(scripted, model=model)
        homes[model].update(busy_slots(scripted))
        scripted.establish_all()
        (upstream,) = [
            number for number in scripted.driver.upstreams() if b"POST" in scripted.driver.take(number)
        ]
        scripted.driver.receive(upstream, answer(usage={"prompt_tokens": 300, "completion_tokens": 7}))
        scripted.driver.end(client)
    assert sorted(map(len, homes.values())) == [1, 1]
    assert homes["a"] != homes["b"]
    scripted.finish()

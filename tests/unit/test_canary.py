"""Two snapshots at once: whose requests get which, what they share, and what is counted apart."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from router.native.metrics import HISTOGRAM_KINDS
from tests.support.scripted import Scripted

CONTENT = b'{"usage":{"prompt_tokens":7,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(CONTENT)).encode()
    + b"\r\n\r\n"
    + CONTENT
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"t"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
STABLE, CANARY = 3, 4  # versions
OTHER = [{"url": "http://127.0.0.1:9100", "name": "other"}]
SHARED = [{"url": "http://127.0.0.1:9000"}]


def pools(endpoints: list[dict[str, Any]], **pool: Any) -> dict[str, Any]:
    return {"pools": [{"name": "main", "endpoints": endpoints, **pool}]}


def share(world: Scripted, ratio: float, canary: dict[str, Any] | None = None, **stable: Any) -> None:
    world.activate(version=STABLE, canary=canary or {}, canary_version=CANARY, ratio=ratio, **stable)


def post(body: dict[str, Any], **headers: str) -> bytes:
    content = json.dumps({"model": "m", **body}).encode()
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{given}"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


def talk(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(texts)]}


def exchange(world: Scripted, request: bytes, answer: bytes = ANSWER) -> dict[str, Any]:
    """The log line of one request and its answer."""
    client = world.driver.accept()
    before = len(world.log())
    world.driver.receive(client, request)
    while len(world.log()) == before:
        world.establish_all()
        (busy,) = [number for number in world.driver.upstreams() if world.driver.take(number)]
        world.driver.receive(busy, answer)
    world.driver.end(client)
    return world.log()[-1]


def version_of(world: Scripted, body: dict[str, Any], **headers: str) -> int:
    return int(exchange(world, post(body, **headers)).get("version", 0))


def versions(world: Scripted, count: int) -> list[int]:
    return [version_of(world, {"user": f"user-{index}"}) for index in range(count)]


def test_without_a_canary_everybody_gets_what_is_in_force() -> None:
    world = Scripted(1)
    assert set(versions(world, 20)) == {0}
    world.activate(version=STABLE)
    assert set(versions(world, 20)) == {STABLE}
    world.finish()


def test_a_canary_gets_its_share_of_the_users() -> None:
    world, count, ratio = Scripted(1), 900, 0.2  # as many as a script has connections for
    share(world, ratio)
    found = versions(world, count).count(CANARY)
    assert abs(found - count * ratio) < 4 * math.sqrt(count * ratio * (1 - ratio))
    world.finish()


def test_a_user_keeps_the_version_and_those_who_have_the_canary_keep_it_while_its_share_grows() -> None:
    world = Scripted(1)
    before: list[int] = []
    for ratio in (0.1, 0.1, 0.3, 1.0):
        share(world, ratio)
        now = versions(world, 200)
        assert all(now[index] == CANARY for index, version in enumerate(before) if version == CANARY)
        assert now == before or now.count(CANARY) > before.count(CANARY)
        before = now
    assert set(before) == {CANARY}
    share(world, 0.0)
    assert set(versions(world, 50)) == {STABLE}
    world.finish()


def test_a_user_has_one_version_whatever_model_or_words() -> None:
    world = Scripted(1)
    share(world, 0.5)
    for index in range(20):
        user = {"user": f"user-{index}"}
        seen = {version_of(world, {**user, **talk(text), "model": text}) for text in ("a", "b", "c")}
        assert len(seen) == 1
    world.finish()


def test_a_conversation_keeps_its_version_as_it_grows() -> None:
    world = Scripted(1)
    share(world, 0.5)
    seen: list[int] = []
    for index in range(30):
        opening = f"question {index} " * 5
        turns = [talk(opening), talk(opening, "answer", "and then?")]
        versions_seen = {version_of(world, turn) for turn in turns}
        assert len(versions_seen) == 1
        seen += versions_seen
    assert set(seen) == {STABLE, CANARY}
    world.finish()


def test_the_header_that_the_policy_goes_by_outranks_the_user() -> None:
    keyed = {"policy": {"type": "rendezvous", "key": "header", "header": "x-session"}}
    world = Scripted(1)
    share(world, 0.5, **pools(SHARED, **keyed))
    for session in map(str, range(20)):
        seen = {version_of(world, {"user": f"user-{index}"}, x_session=session) for index in range(4)}
        assert len(seen) == 1
    world.finish()


def test_a_request_of_nobody_goes_by_its_id() -> None:
    world = Scripted(1)
    share(world, 0.5)

    def ask(**headers: str) -> int:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        line = exchange(world, f"GET /v1/thing HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode())
        return int(line["version"])

    seen = [[ask(x_request_id=f"{index}/same") for _ in range(2)] for index in range(20)]
    assert all(first == second for first, second in seen)
    assert {first for first, _ in seen} == {STABLE, CANARY}
    assert {ask() for _ in range(20)} == {STABLE, CANARY}
    world.assert_settled()  # `finish` wants every id to be another


def test_both_have_the_same_connections_to_an_endpoint_that_both_have() -> None:
    world = Scripted(1)
    share(world, 0.5, canary={"routes": [{"name": "mine"}]})
    assert set(versions(world, 20)) == {STABLE, CANARY}
    assert world.metrics.counters()["upstream_connects"] == 1
    world.activate(version=CANARY, routes=[{"name": "mine"}])
    assert set(versions(world, 5)) == {CANARY}
    assert world.metrics.counters()["upstream_connects"] == 1
    world.finish()


def test_only_the_canarys_people_reach_an_endpoint_that_only_it_has() -> None:
    world = Scripted(1)
    share(world, 0.5, canary=pools(OTHER))
    for index in range(20):
        line = exchange(world, post({"user": f"user-{index}"}))
        assert (line["endpoint"] == "other") == (line["version"] == CANARY)
    world.finish()


def test_a_model_that_only_the_canary_has_is_there_for_its_people_alone() -> None:
    world = Scripted(1, endpoint={"models": ["m"]})
    share(world, 0.5, canary=pools([{**OTHER[0], "models": ["new"]}]))
    for index in range(20):
        line = exchange(world, post({"user": f"user-{index}", "model": "new"}))
        assert (line["status"] == 200) == (line["version"] == CANARY)
    world.finish()


def test_who_asks_for_nothing_that_is_there_is_told_of_the_models_of_its_own_version() -> None:
    world = Scripted(1, endpoint={"models": ["old-one"]})
    share(world, 1.0, canary=pools([{**OTHER[0], "models": ["new-one"]}]))
    client = world.driver.accept()
    world.driver.receive(client, post({"model": "new"}))
    told = world.driver.take(client)
    assert b"new-one" in told
    assert b"old-one" not in told
    world.finish()


def test_a_retry_stays_with_the_version() -> None:
    world = Scripted(1)
    share(
        world,
        1.0,
        canary=pools([{"url": f"http://127.0.0.1:910{index}"} for index in range(2)]),
    )
    client = world.driver.accept()
    world.driver.receive(client, post({"user": "u"}))
    (first,) = world.establish_all()
    world.driver.end(first, 104)
    (second,) = world.establish_all()
    world.driver.receive(second, ANSWER)
    (line,) = world.log()
    assert (line["status"], line["attempts"], line["version"]) == (200, 2, CANARY)
    assert line["endpoint"].startswith("127.0.0.1:910")
    world.finish()


def test_an_open_stream_keeps_the_version_it_began_with() -> None:
    world = Scripted(1)
    share(world, 1.0, canary=pools(OTHER))
    client = world.driver.accept()
    world.driver.receive(client, post({"user": "u", "stream": True}))
    (upstream,) = world.establish_all()
    world.driver.receive(upstream, STREAM_HEAD + CHUNK)
    world.activate(version=STABLE)
    world.activate(version=STABLE + 2)
    assert set(versions_beside(world, upstream)) == {STABLE + 2}
    world.driver.receive(upstream, CHUNK + b"0\r\n\r\n")
    assert world.log()[-1]["version"] == CANARY
    assert world.driver.take(client).count(EVENT) == 2
    assert world.driver.state(upstream)["closed"]  # nobody else may have it
    world.finish()


def versions_beside(world: Scripted, open_upstream: int) -> list[int]:
    found = []
    for index in range(3):
        client = world.driver.accept()
        world.driver.receive(client, post({"user": f"user-{index}"}))
        world.establish_all()
        (busy,) = [
            number
            for number in world.driver.upstreams()
            if number != open_upstream and world.driver.take(number)
        ]
        world.driver.receive(busy, ANSWER)
        world.driver.end(client)
        found.append(world.log()[-1]["version"])
    return found


def test_a_request_whose_head_came_before_the_canary_is_none_of_its() -> None:
    world = Scripted(1)
    request = post({"user": "u"})
    client = world.driver.accept()
    world.driver.receive(client, request[:-10])
    share(world, 1.0)
    world.driver.receive(client, request[-10:])
    (upstream,) = world.establish_all()
    world.driver.receive(upstream, ANSWER)
    assert "version" not in world.log()[-1]
    assert version_of(world, {"user": "u"}) == CANARY
    world.finish()


def test_each_version_is_counted_in_rows_of_its_own() -> None:
    world = Scripted(
        1, endpoint={"price": {"input_per_million_tokens": 3.0, "output_per_million_tokens": 10.0}}
    )
    share(world, 0.5)
    seen = versions(world, 40)
    for version in (STABLE, CANARY):
        row, count = world.row("default", version), seen.count(version)
        assert sum(done for route, *_, done in world.metrics.requests() if route == row) == count
        counted = world.metrics.route_counters(row)
        assert counted == {
            "completed": count,
            **dict.fromkeys(("downstream", "upstream", "policy", "router", "refused"), 0),
            "prompt_tokens": 7 * count,
            "completion_tokens": 4 * count,
            "cached_tokens": 2 * count,
            "cost_nano": pytest.approx(count * (7 * 3_000 + 4 * 10_000), abs=count),
        }
    assert sum(world.metrics.route_counters(world.row("default", 0)).values()) == 0
    world.finish()


@pytest.mark.parametrize(
    ("status", "side"), [(b"400 Bad Request", "refused"), (b"500 Oh", "upstream"), (b"200 OK", "completed")]
)
def test_a_version_has_its_failures_by_side(status: bytes, side: str) -> None:
    world = Scripted(1)
    share(world, 1.0)
    exchange(world, post({"user": "u"}), b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    counted = world.metrics.route_counters(world.row("default", CANARY))
    assert {name for name, count in counted.items() if count} == {side}
    world.finish()


def test_a_version_has_its_times_to_first_token_and_between_tokens() -> None:
    world = Scripted(1)
    share(world, 1.0)
    client = world.driver.accept()
    world.driver.receive(client, post({"user": "u", "stream": True}))
    (upstream,) = world.establish_all()
    world.driver.advance(30_000)
    world.driver.receive(upstream, STREAM_HEAD + CHUNK)
    for _ in range(3):
        world.driver.advance(10_000)
        world.driver.receive(upstream, CHUNK)
    world.driver.receive(upstream, b"0\r\n\r\n")
    row = world.row("default", CANARY)
    first, between = (
        world.metrics.histogram(HISTOGRAM_KINDS[kind], row) for kind in ("route_ttft", "route_itl")
    )
    assert (first.count, first.sum_us) == (1, 30_000)
    assert (between.count, between.sum_us) == (3, 30_000)
    world.finish()


def test_lengths_of_answers_are_learnt_of_a_route_and_not_of_its_version() -> None:
    world = Scripted(1)
    long = CONTENT.replace(b'"completion_tokens":4', b'"completion_tokens":4000')
    answer = ANSWER.replace(CONTENT, long).replace(b"%d\r\n" % len(CONTENT), b"%d\r\n" % len(long))
    for _ in range(30):
        exchange(world, post({"user": "u", **talk("hello")}), answer)
    share(world, 1.0)
    client = world.driver.accept()
    world.driver.receive(client, post({"user": "u", **talk("hello")}))
    assert max(world.load.view(slot)["kv_tokens"] for slot in range(2)) > 1000
    world.finish()


def test_what_only_the_canary_had_goes_with_it() -> None:
    world = Scripted(1)
    share(world, 1.0, canary=pools(OTHER))
    assert version_of(world, {"user": "u"}) == CANARY
    assert {row["endpoint"] for row in world.core.debug_pools()} == {"127.0.0.1:9000", "other"}
    world.activate(version=STABLE)
    world.driver.advance(10_000_000)
    world.core.tick()
    assert [row["endpoint"] for row in world.core.debug_pools()] == ["127.0.0.1:9000"]
    assert world.driver.upstreams() == []
    world.finish()


def test_a_share_is_between_none_and_all() -> None:
    world = Scripted(1)
    for ratio in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            share(world, ratio)
    assert version_of(world, {"user": "u"}) == 0
    world.finish()

"""A request that asks for it can be explained, by whoever reads the admin port, for as long as it is kept."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.integration.processes import BOUND_S, REAL, Router, router
from tests.support.raw_peer import Endpoint, dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router

BODY = json.dumps(
    {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello " * 50}]}
).encode()
ROUTES = [
    {"name": "scored", "match": {"path": "/v1/*"}, "policy": {"type": "five_axis"}, "expose_endpoint": True},
    {"name": "in-turn", "match": {"path": "/turn"}, "policy": {"type": "round_robin"}},
]


def configuration(urls: list[str], sample_ratio: float) -> dict[str, Any]:
    return one_pool(urls, workers=2, routes=ROUTES, explain={"sample_ratio": sample_ratio})


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([EngineSpec(engine_class="instant", models=("tiny",)) for _ in range(3)]) as engines:
        yield engines


@pytest.fixture(scope="module")
def running(fleet: Fleet) -> Iterator[RouterProcess]:
    """Two workers that record only what asks for it."""
    with running_router(configuration(fleet.urls, 0)) as process:
        yield process


def ask(address: tuple[str, int], path: str = "/v1/chat/completions", **headers: str) -> dict[str, str]:
    """The headers of one answer, on a connection of its own."""
    with dial(address) as client:
        client.send(request(BODY, path=path, **headers))
        return dict(client.take_response()[1])


def explained(process: RouterProcess, request_id: str) -> tuple[int, Any]:
    return process.router.get(f"/debug/explain/{request_id}", process.router.admin)


def test_a_request_with_the_header_is_found_by_its_id(running: RouterProcess) -> None:
    answer = ask(running.address, x_fairlead_explain="1")
    status, page = explained(running, answer["x-request-id"])
    assert status == 200
    (decision,) = page["decisions"]
    assert decision["request_id"] == page["request_id"] == answer["x-request-id"]
    assert (decision["route"], decision["policy"], decision["attempt"]) == ("scored", "five_axis", 1)
    assert (decision["candidates"], decision["eligible"]) == (3, 3)
    assert decision["prompt_tokens"] > 10
    winner, runners_up = decision["winner"], decision["runners_up"]
    assert winner["endpoint"] == answer["x-fairlead-endpoint"]
    assert decision["reason"] == answer["x-fairlead-reason"]
    assert {winner["endpoint"], *(runner["endpoint"] for runner in runners_up)} == {"e0", "e1", "e2"}
    for candidate in (winner, *runners_up):
        assert candidate["sum"] == pytest.approx(sum(candidate["terms"].values()), rel=1e-4)
        assert candidate["sum"] == pytest.approx(candidate["score"], rel=1e-3)


def test_the_command_finds_it_too(running: RouterProcess) -> None:
    request_id = ask(running.address, x_fairlead_explain="yes", x_request_id="mine/1")["x-request-id"]
    assert request_id == "mine/1"
    command = [sys.executable, "-m", "router", "explain", "--admin", running.admin_url]
    told = subprocess.run(
        [*command, request_id], check=False, capture_output=True, text=True, timeout=BOUND_S
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("request mine/1, attempt 1, ")
    assert "externality" in told.stdout
    missing = subprocess.run(
        [*command, "nobody"], check=False, capture_output=True, text=True, timeout=BOUND_S
    )
    assert missing.returncode == 1
    assert "x-fairlead-explain: 1" in missing.stderr


@pytest.mark.parametrize("value", ["", "0", "false", "False"])
def test_a_header_that_says_no_records_nothing(running: RouterProcess, value: str) -> None:
    headers = {"x_fairlead_explain": value} if value else {}
    answer = ask(running.address, **headers)
    status, page = explained(running, answer["x-request-id"])
    assert (status, page["error"]["code"]) == (404, "decision_not_found")
    assert answer["x-fairlead-reason"]


def test_another_policy_is_explained_by_its_name_and_tells_no_client(running: RouterProcess) -> None:
    answer = ask(running.address, "/turn", x_fairlead_explain="1")
    assert "x-fairlead-reason" not in answer
    (decision,) = explained(running, answer["x-request-id"])[1]["decisions"]
    assert (decision["policy"], decision["reason"]) == ("round_robin", "policy")
    assert decision["winner"]["terms"] is None
    assert len(decision["runners_up"]) == 2


def test_the_latest_are_listed_and_the_list_is_bounded(running: RouterProcess) -> None:
    ids = [ask(running.address, x_fairlead_explain="1")["x-request-id"] for _ in range(5)]
    admin = running.router.admin
    latest = running.router.get("/debug/explain?limit=3", admin)[1]["decisions"]
    assert [row["request_id"] for row in latest] == ids[:1:-1]
    assert len(running.router.get("/debug/explain", admin)[1]["decisions"]) >= 5
    for wrong in ("0", "-1", "1001", "x", ""):
        assert running.router.get(f"/debug/explain?limit={wrong}", admin)[0] == 400


def test_every_attempt_of_a_request_is_explained(fleet: Fleet) -> None:
    # Nobody listens at the first two: at most two attempts fail, and each is told.
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2", fleet.urls[0]]
    with running_router(one_pool(urls, routes=ROUTES)) as process:
        answers = [ask(process.address, x_fairlead_explain="1") for _ in range(3)]
        attempts = [explained(process, answer["x-request-id"])[1]["decisions"] for answer in answers]
        for answer, decisions in zip(answers, attempts, strict=True):
            assert [row["attempt"] for row in decisions] == list(range(len(decisions), 0, -1))
            assert decisions[0]["winner"]["endpoint"] == answer["x-fairlead-endpoint"] == "e2"
            assert answer["x-fairlead-reason"] == decisions[0]["reason"]
            assert all(row["reason"] == "retry" for row in decisions[:-1])


def test_a_ratio_of_one_records_all_and_a_reload_changes_it(fleet: Fleet) -> None:
    with running_router(configuration(fleet.urls, 1.0)) as process:
        assert explained(process, ask(process.address)["x-request-id"])[0] == 200
        process.reload(explain={"sample_ratio": 0})
        assert explained(process, ask(process.address)["x-request-id"])[0] == 404


def test_a_beginning_shorter_than_a_block_is_not_recognised_and_a_reload_changes_the_blocks(
    fleet: Fleet,
) -> None:
    """The prompt has 300 bytes or so, and its second half is always another."""
    with running_router(configuration(fleet.urls[:1], 1.0) | {"prefixes": {"block_bytes": 1024}}) as process:
        assert hit_tokens(process, "a") == hit_tokens(process, "b") == 0
        process.reload(prefixes={"block_bytes": 64})
        assert hit_tokens(process, "c") == 0
        assert hit_tokens(process, "d") > 20


def hit_tokens(process: RouterProcess, ending: str) -> int:
    """What was believed to be cached of the prompt, when the decision was made."""
    content = "What everybody asks. " * 8 + ending * 150
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
    with dial(process.address) as client:
        client.send(request(json.dumps(body).encode(), path="/v1/chat/completions"))
        answer = dict(client.take_response()[1])
    decision = explained(process, answer["x-request-id"])[1]["decisions"][0]
    return int(decision["winner"]["hit_tokens"])


def test_decisions_outlive_a_takeover(fleet: Fleet, tmp_path: Path) -> None:
    with router(tmp_path, REAL, **configuration(fleet.urls, 0)) as fairlead:
        old = fairlead.start()
        before = ask(fairlead.traffic, x_fairlead_explain="1")["x-request-id"]
        fairlead.start("--takeover")
        assert old.wait(BOUND_S) == 0
        after = ask(fairlead.traffic, x_fairlead_explain="1")["x-request-id"]
        assert [found(fairlead, request_id) for request_id in (before, after)] == [before, after]


def found(fairlead: Router, request_id: str) -> str:
    decisions = fairlead.get(f"/debug/explain/{request_id}", fairlead.admin)[1]["decisions"]
    return str(decisions[0]["request_id"])


def test_an_endpoint_cannot_say_why_it_was_picked() -> None:
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url], routes=ROUTES)) as process:
        with dial(process.address) as client:
            client.send(request(BODY))
            upstream = endpoint.accept()
            upstream.take_request()
            upstream.send_response(b"{}", x_fairlead_reason="because", x_fairlead_endpoint="me")
            headers = client.take_response()[1]
        assert (headers["x-fairlead-reason"], headers["x-fairlead-endpoint"]) == ("only", "e0")

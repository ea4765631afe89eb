"""Aliases over sockets: who answers for one, under which name the engine is asked, what clients are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.support.raw_peer import Endpoint, dial, request
from tests.support.router_process import RouterProcess, running_router

NOBODY_URL = "http://127.0.0.1:1"
LARGE = {"name": "large", "engine_class": "70b-h100-tp4", "models": ["llama-70b"]}
SMALL = {"name": "small", "engine_class": "8b-h100", "models": ["llama-8b"]}


def chat(model: str, content: str = "Hello", **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **more}).encode()


def pools(*endpoints: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "chat", "endpoints": list(endpoints)}]


def configuration(*endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "workers": 1,
        "pools": pools(*endpoints),
        "aliases": {"chat-default": ["llama-70b", "llama-8b"]},
        "routes": [{"name": "all", "expose_endpoint": True}],
        **more,
    }


def answer(endpoint: Endpoint, client: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The body that came to the endpoint, and the head that went back to the client."""
    upstream = endpoint.accept()
    body = json.loads(upstream.take_request()[2])
    upstream.send_response(b"{}")
    return body, client.take_response()[1]


def explained(router: RouterProcess, request_id: str) -> list[dict[str, Any]]:
    decisions = router.router.get(f"/debug/explain/{request_id}", router.router.admin)[1]["decisions"]
    return list(decisions)


def test_the_first_model_answers_and_the_second_when_it_is_down() -> None:
    with Endpoint() as large, Endpoint() as small:
        config = configuration({**LARGE, "url": large.url}, {**SMALL, "url": small.url})
        with running_router(config) as router:
            with dial(router.address) as client:
                client.send(request(chat("chat-default", temperature=0.5)))
                body, head = answer(large, client)
            assert (body["model"], body["temperature"]) == ("llama-70b", 0.5)
            assert (head["x-fairlead-endpoint"], head["x-fairlead-model"]) == ("large", "llama-70b")
            router.reload(pools=pools({**LARGE, "url": NOBODY_URL}, {**SMALL, "url": small.url}))
            with dial(router.address) as client:
                client.send(request(chat("chat-default", temperature=0.5), x_fairlead_explain="1"))
                body, head = answer(small, client)
            assert (body["model"], body["temperature"]) == ("llama-8b", 0.5)
            assert (head["x-fairlead-endpoint"], head["x-fairlead-model"]) == ("small", "llama-8b")
            assert [row["winner"]["model"] for row in explained(router, head["x-request-id"])] == [
                "llama-8b",
                "llama-70b",
            ]
            metrics = router.wait_finished(2)
            assert metrics.sum("fairlead_alias_requests_total", place="1") == 1
            assert metrics.sum("fairlead_alias_requests_total", place="2") == 1


def test_a_queue_at_the_first_model_sends_a_request_to_the_second() -> None:
    with Endpoint() as large, Endpoint() as small:
        config = configuration({**LARGE, "url": large.url}, {**SMALL, "url": small.url})
        with running_router(config) as router:
            # Prompts that take a 70B model seconds to read; nothing answers them.
            waiting = [dial(router.address) for _ in range(8)]
            for number, client in enumerate(waiting):
                client.send(request(chat("llama-70b", f"{number} " + "Hello " * 20_000)))
            router.wait_in_flight(len(waiting))
            with dial(router.address) as client:
                client.send(request(chat("chat-default"), x_fairlead_explain="1"))
                body, head = answer(small, client)
            assert body["model"] == "llama-8b"
            assert head["x-fairlead-reason"] == "model"
            (decision,) = explained(router, head["x-request-id"])
            winner, other = decision["winner"], decision["runners_up"][0]
            assert (winner["model"], other["model"]) == ("llama-8b", "llama-70b")
            assert (winner["terms"]["quality"], other["terms"]["quality"]) == (5.0, 0.0)
            assert other["terms"]["queue"] > 5.0
            for candidate in (winner, other):
                assert candidate["sum"] == pytest.approx(candidate["score"], rel=1e-3)
            assert (decision["candidates"], decision["eligible"]) == (2, 2)
            for client in waiting:
                client.close()


def test_a_rule_on_regions_is_never_broken_by_a_retry() -> None:
    with Endpoint() as near, Endpoint() as far:
        routes = [{"name": "eu", "require": {"regions": ["eu"]}, "expose_endpoint": True}]
        config = configuration(
            {**LARGE, "url": near.url, "region": "eu"},
            {**SMALL, "url": far.url, "region": "us", "models": ["llama-70b", "llama-8b"]},
            routes=routes,
        )
        with running_router(config) as router:
            for _ in range(3):
                with dial(router.address) as client:
                    client.send(request(chat("chat-default")))
                    upstream = near.accept()
                    upstream.take_request()
                    upstream.reset()
                    assert client.take_response()[0] == 502
            router.wait_finished(3)
            rows = {row["name"]: row["requests"] for row in router.debug_endpoints()}
            assert rows == {"large": 3, "small": 0}


@pytest.fixture(scope="module")
def mocked() -> Iterator[RouterProcess]:
    specs = [EngineSpec(engine_class="instant", models=("llama-70b",)), EngineSpec(models=("llama-8b",))]
    with Fleet(specs) as fleet:
        large, small = fleet.urls
        with running_router(configuration({**LARGE, "url": large}, {**SMALL, "url": small})) as router:
            yield router


def test_an_sdk_sees_the_alias_and_is_answered_for_it(mocked: RouterProcess) -> None:
    sdk = openai.OpenAI(base_url=mocked.url + "/v1", api_key="k", timeout=30)
    assert {row.id for row in sdk.models.list()} == {"chat-default", "llama-70b", "llama-8b"}
    messages: Any = [{"role": "user", "content": "hello"}]
    whole = sdk.chat.completions.with_raw_response.create(
        model="chat-default", messages=messages, max_tokens=4
    )
    assert whole.parse().model == "llama-70b"
    assert whole.headers["x-fairlead-model"] == "llama-70b"
    stream = sdk.chat.completions.create(model="chat-default", messages=messages, max_tokens=4, stream=True)
    assert {chunk.model for chunk in stream} == {"llama-70b"}
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="chat-defualt", messages=messages)
    assert "'chat-default'" in str(caught.value)


def ask_in_session(process: RouterProcess, session: str) -> tuple[str, str]:
    """The model that served, and why the session is where it is."""
    with dial(process.address) as client:
        client.send(request(chat("chat-default", max_tokens=1), x_session_id=session))
        _, head, _ = client.take_response()
        return head["x-fairlead-model"], head["x-fairlead-session"]


@pytest.mark.parametrize(
    ("switch_ms", "wanted"), [(60_000, ("llama-8b", "stayed")), (0, ("llama-70b", "model"))]
)
def test_a_session_of_an_alias_stays_on_its_model_while_leaving_costs_more(
    switch_ms: int, wanted: tuple[str, str]
) -> None:
    specs = [EngineSpec(engine_class="instant", models=("llama-70b", "llama-8b")) for _ in range(2)]
    with Fleet(specs) as fleet:
        large, small = ({**one, "url": url} for one, url in zip((LARGE, SMALL), fleet.urls, strict=True))
        config = configuration({**large, "url": NOBODY_URL}, small)
        config["routes"][0]["policy"] = {"type": "five_axis", "key": "header", "switch_ms": switch_ms}
        with running_router(config) as process:
            assert ask_in_session(process, "one")[0] == "llama-8b"
            process.reload(pools=pools({**large, "name": "large-anew"}, small))
            assert ask_in_session(process, "two")[0] == "llama-70b"
            assert ask_in_session(process, "one") == wanted

"""Stock clients against the router: what their users write works, errors arrive as the classes they know."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest

from bench.mock.fleet import EngineSpec, Fleet
from bench.native.replies import answer_text, prompt_seed
from tests.integration.processes import wait_until
from tests.support.raw_peer import Endpoint
from tests.support.router_process import RouterProcess, one_pool, running_router

MESSAGES: Any = [{"role": "user", "content": "hello"}]
SENT = json.dumps(MESSAGES, separators=(",", ":")).encode()


@dataclass
class Scene:
    router: RouterProcess
    fleet: Fleet

    def openai(self, **settings: Any) -> Any:
        """Any, for its overloads do not take plain dictionaries."""
        return openai.OpenAI(base_url=self.router.url + "/v1", **{"api_key": "k", "timeout": 30, **settings})

    def async_openai(self) -> Any:
        return openai.AsyncOpenAI(base_url=self.router.url + "/v1", api_key="k", timeout=30)

    def anthropic(self) -> Any:
        return anthropic.Anthropic(base_url=self.router.url, api_key="k", timeout=30)

    def engine_sum(self, name: str) -> int:
        return sum(self.fleet.stats(index)[name] for index in range(len(self.fleet.engines)))

    def count(self, outcome: str) -> float:
        return self.router.metrics().sum("fairlead_requests_total", outcome=outcome)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    specs = [EngineSpec(engine_class="fixed:2", models=("tiny", "other")) for _ in range(2)]
    with Fleet(specs) as fleet:
        config = one_pool(fleet.urls, endpoint={"models": ["tiny", "other"]})
        with running_router(config) as router:
            yield Scene(router, fleet)
            router.wait_settled()


def test_openai_chat_whole_and_streamed(scene: Scene) -> None:
    sdk = scene.openai()
    expected = answer_text(prompt_seed(SENT), 12)
    whole = sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    assert whole.choices[0].message.content == expected
    assert whole.usage.completion_tokens == 12
    with sdk.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected
    assert chunks[-1].usage.completion_tokens == 12


def test_openai_other_endpoints(scene: Scene) -> None:
    sdk = scene.openai()
    embedding = sdk.embeddings.create(model="tiny", input=["a", "b"])
    assert len(embedding.data) == 2
    assert sdk.completions.create(model="other", prompt="once", max_tokens=3).choices[0].text
    assert {row.id for row in sdk.models.list()} == {"tiny", "other"}
    assert sdk.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nobody")


def test_async_openai_many_at_once(scene: Scene) -> None:
    async def one(sdk: Any, index: int) -> None:
        messages = [{"role": "user", "content": f"hello {index}"}]
        seed = prompt_seed(json.dumps(messages, separators=(",", ":")).encode())
        if index % 2:
            answer = await sdk.chat.completions.create(model="tiny", messages=messages, max_tokens=20)
            text = answer.choices[0].message.content
        else:
            text = ""
            async for chunk in await sdk.chat.completions.create(
                model="tiny", messages=messages, max_tokens=20, stream=True
            ):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        assert text == answer_text(seed, 20)

    async def main() -> None:
        async with scene.async_openai() as sdk:
            await asyncio.gather(*(one(sdk, index) for index in range(40)))

    asyncio.run(main())


def test_a_stream_that_is_closed_early_is_cancelled_at_its_engine(scene: Scene) -> None:
    closed = scene.count("client_closed")
    aborted = scene.engine_sum("aborted")
    stream = scene.openai().chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=100_000, stream=True
    )
    for _ in range(3):
        next(iter(stream))
    stream.close()
    scene.router.wait_in_flight(0)
    wait_until(lambda: scene.engine_sum("in_flight") == 0, "no engine works on it any more")
    assert scene.engine_sum("aborted") == aborted + 1
    assert scene.count("client_closed") == closed + 1


def test_an_async_call_that_is_cancelled_is_cancelled_at_its_engine(scene: Scene) -> None:
    async def main() -> None:
        async with scene.async_openai() as sdk:
            call = asyncio.create_task(
                sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=100_000)
            )
            await asyncio.to_thread(scene.router.wait_in_flight, 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    scene.router.wait_in_flight(0)
    wait_until(lambda: scene.engine_sum("in_flight") == 0, "no engine works on it any more")


def test_an_unknown_model_is_not_found_and_not_asked_for_again(scene: Scene) -> None:
    before = scene.count("model_not_found")
    with pytest.raises(openai.NotFoundError) as caught:
        scene.openai(max_retries=3).chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "'tiny'" in caught.value.message
    assert caught.value.request_id
    assert scene.count("model_not_found") == before + 1


def test_errors_of_an_engine_pass_unchanged_and_are_the_classes_of_the_sdk(scene: Scene) -> None:
    sdk = scene.openai(max_retries=0)
    for status, kind in (
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ):
        with pytest.raises(kind) as caught:
            sdk.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_headers={"x-mock-fault": f"status:{status}"}
            )
        assert caught.value.status_code == status


def test_sdks_do_not_repeat_what_the_router_has_tried_everywhere(scene: Scene) -> None:
    before = scene.count("reset_before_head")
    with pytest.raises(openai.InternalServerError) as caught:
        scene.openai(max_retries=2).chat.completions.create(
            model="tiny", messages=MESSAGES, extra_headers={"x-mock-fault": "reset:0"}
        )
    assert caught.value.status_code == 502
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert scene.count("reset_before_head") == before + 1


def test_a_call_is_repeated_when_the_router_says_that_it_helps() -> None:
    with Endpoint() as endpoint:
        config = one_pool([endpoint.url], endpoint={"capacity": {"in_flight_max": 1}})
        with running_router(config) as router:
            sdk: Any = openai.OpenAI(base_url=router.url + "/v1", api_key="k", max_retries=5, timeout=30)

            async def main() -> None:
                first = asyncio.create_task(
                    asyncio.to_thread(sdk.chat.completions.create, model="tiny", messages=MESSAGES)
                )
                engine = await asyncio.to_thread(endpoint.accept)
                await asyncio.to_thread(engine.take_request)
                second = asyncio.create_task(
                    asyncio.to_thread(sdk.chat.completions.create, model="tiny", messages=MESSAGES)
                )
                await asyncio.to_thread(
                    router.wait_metric, "fairlead_requests_total", 1, outcome="endpoints_full"
                )
                engine.send_response(b'{"choices":[]}')
                await first
                await asyncio.to_thread(engine.take_request)
                engine.send_response(b'{"choices":[]}')
                await second
                engine.close()

            asyncio.run(main())
            router.wait_settled()


def test_anthropic_messages_whole_and_streamed(scene: Scene) -> None:
    sdk = scene.anthropic()
    whole = sdk.messages.create(model="tiny", messages=MESSAGES, max_tokens=8)
    assert whole.usage.output_tokens == 8
    with sdk.messages.stream(model="tiny", messages=MESSAGES, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.usage.output_tokens == 8
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.create(model="claude-9", messages=MESSAGES, max_tokens=8)


def test_httpx_keeps_its_connection(scene: Scene) -> None:
    accepted = scene.router.metrics().sum("fairlead_connections_accepted_total")
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 2}
    with httpx.Client(base_url=scene.router.url, timeout=30) as client:
        for index in range(30):
            answer = client.post("/v1/chat/completions", json=body, headers={"x-request-id": f"mine-{index}"})
            assert answer.status_code == 200
            assert answer.headers["x-request-id"] == f"mine-{index}"
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            assert list(stream.iter_lines())[-2] == "data: [DONE]"
    assert scene.router.metrics().sum("fairlead_connections_accepted_total") == accepted + 1


def test_curl_streams_uploads_and_reuses(scene: Scene) -> None:
    body = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "stream": True})
    url = scene.router.url + "/v1/chat/completions"
    common = ["curl", "-sS", "--max-time", "30", "-H", "content-type: application/json"]
    streamed = subprocess.run([*common, "-N", "-d", body, url], capture_output=True, text=True, check=True)
    assert streamed.stdout.endswith("data: [DONE]\n\n")
    # A body of this size makes curl ask first (Expect: 100-continue); from a pipe it sends chunks.
    large = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "padding": "x" * (2 << 20)})
    for more in (["--data-binary", "@-"], ["-X", "POST", "-T", "-"]):
        answer = subprocess.run(
            [*common, *more, "-w", "\n%{http_code}", url],
            input=large,
            capture_output=True,
            text=True,
            check=True,
        )
        content, _, status = answer.stdout.rpartition("\n")
        assert status == "200", content
        assert json.loads(content)["usage"]["completion_tokens"] == 3
    two = subprocess.run(
        [*common, "-d", body, url, url, "-w", "%{num_connects} "], capture_output=True, text=True, check=True
    )
    assert two.stdout.split("[DONE]")[-1].split() == ["0"]
    head = subprocess.run(
        [*common, "-I", scene.router.url + "/v1/models"], capture_output=True, text=True, check=True
    )
    assert head.stdout.startswith("HTTP/1.1 200")

"""What SDKs get from real engines through the router: answers, usage, errors, headers, model lists."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.engines import ANSWER_BOUND_S, Engines, messages
from tests.integration.processes import wait_until
from tests.support.router_process import RouterProcess

LogLine = Callable[[str], dict[str, Any]]
KINDS = pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
TOKENS = {"max_tokens": 8, "extra_body": {"ignore_eos": True}}


@KINDS
def test_a_whole_chat_and_its_tokens_in_the_access_log(client: Any, log_line: LogLine, kind: str) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=f"only-{kind}", messages=messages(), **TOKENS
    )
    usage = answer.parse().usage
    line = log_line(answer.headers["x-request-id"])
    assert usage.completion_tokens == 8
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage.prompt_tokens, 8)
    assert (line["outcome"], line["endpoint"]) == ("completed", answer.headers["x-fairlead-endpoint"])


@KINDS
def test_a_streamed_chat_and_its_tokens_in_the_access_log(client: Any, log_line: LogLine, kind: str) -> None:
    stream = client.chat.completions.create(
        model=f"only-{kind}",
        messages=messages(),
        stream=True,
        stream_options={"include_usage": True},
        **TOKENS,
    )
    request_id = stream.response.headers["x-request-id"]
    chunks = list(stream)
    usage = chunks[-1].usage
    line = log_line(request_id)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert usage.completion_tokens == 8
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage.prompt_tokens, 8)
    assert line["events"] == len(chunks)  # neither counts [DONE]
    assert line["outcome"] == "completed"


@KINDS
def test_completions_and_responses_and_messages(
    client: Any, router: RouterProcess, log_line: LogLine, kind: str
) -> None:
    text = client.completions.create(model=f"only-{kind}", prompt="once", max_tokens=3)
    assert text.usage.completion_tokens <= 3
    whole = client.responses.create(model=f"only-{kind}", input="hi", max_output_tokens=16)
    events = list(
        client.responses.create(model=f"only-{kind}", input="hi", max_output_tokens=16, stream=True)
    )
    assert whole.usage.input_tokens == events[-1].response.usage.input_tokens
    assert events[-1].type == "response.completed"
    sdk = anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0, timeout=ANSWER_BOUND_S)
    streamed: Any = sdk.messages.create(model=f"only-{kind}", max_tokens=5, messages=messages(), stream=True)
    # Not the SDK's collected message: llama.cpp leaves out message_start when its first token is half a
    # character.
    delta = [event for event in streamed if event.type == "message_delta"][-1]
    line = log_line(streamed.response.headers["x-request-id"])
    assert line["completion_tokens"] == delta.usage.output_tokens == 5


def test_models_are_those_of_all_pools(client: Any, engines: Engines) -> None:
    names = {"everywhere", "only-vllm", "only-llamacpp"} | ({"embedder"} if engines.embedder else set())
    assert {model.id for model in client.models.list()} == names


def test_embeddings_where_an_engine_makes_them(client: Any, engines: Engines, log_line: LogLine) -> None:
    if engines.embedder is None:
        pytest.skip("the engines given make no embeddings")
    answer = client.embeddings.with_raw_response.create(model="embedder", input=["one", "two words"])
    parsed = answer.parse()
    assert len(parsed.data) == 2
    assert log_line(answer.headers["x-request-id"])["prompt_tokens"] == parsed.usage.prompt_tokens


def test_an_unknown_model_is_refused_with_the_known_names(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="only-vllm") as caught:
        client.chat.completions.create(model="nope", messages=messages())
    assert caught.value.code == "model_not_found"


def ask(address: tuple[str, int], path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, fields, body, on a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=ANSWER_BOUND_S)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


REFUSED: dict[str, dict[str, Any]] = {
    "a parameter of the wrong type": {"messages": messages(), "max_tokens": "many"},
    "no messages": {"max_tokens": 4},
    "more than the context holds": {"messages": messages("hello there " * 40_000)},
    "more than the context holds, streamed": {"messages": messages("hello there " * 40_000), "stream": True},
}


@KINDS
@pytest.mark.parametrize("what", REFUSED)
def test_an_engines_refusal_passes_unchanged(
    engines: Engines, router: RouterProcess, kind: str, what: str
) -> None:
    engine = engines.by_kind(kind)
    path = "/v1/chat/completions"
    status, fields, body = ask(
        engine.address, path, json.dumps({"model": engine.model, **REFUSED[what]}).encode()
    )
    via_status, via_fields, via_body = ask(
        router.address, path, json.dumps({"model": f"only-{kind}", **REFUSED[what]}).encode()
    )
    assert status >= 400
    assert (via_status, via_body) == (status, body)
    assert via_fields["content-type"] == fields["content-type"]
    assert via_fields["server"] == fields["server"]
    assert "x-request-id" in via_fields


def test_a_path_that_the_engine_does_not_have_is_the_engines_404(router: RouterProcess) -> None:
    body = json.dumps({"model": "only-vllm", "input": "x"}).encode()
    status, fields, answer = ask(router.address, "/v1/embeddings", body)
    assert (status, json.loads(answer)) == (404, {"detail": "Not Found"})
    assert fields["server"] == "uvicorn"


def test_a_load_report_passes(client: Any) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="only-vllm",
        messages=messages(),
        extra_headers={"endpoint-load-metrics-format": "TEXT"},
        **TOKENS,
    )
    assert "named_metrics.kv_cache_usage_perc=" in answer.headers["endpoint-load-metrics"]


def test_fifty_streams_at_once_use_both_kinds_of_engine(router: RouterProcess, log_line: LogLine) -> None:
    sdk: Any = openai.AsyncOpenAI(
        base_url=router.url + "/v1", api_key="none", max_retries=0, timeout=ANSWER_BOUND_S
    )

    async def one() -> tuple[str, str, Any]:
        stream: Any = await sdk.chat.completions.create(
            model="everywhere",
            messages=messages(),
            stream=True,
            stream_options={"include_usage": True},
            **TOKENS,
        )
        last = [chunk async for chunk in stream][-1]
        headers = stream.response.headers
        return headers["x-request-id"], headers["x-fairlead-endpoint"], last.usage

    async def all_of_them() -> list[tuple[str, str, Any]]:
        async with sdk:
            return await asyncio.gather(*(one() for _ in range(50)))

    answers = asyncio.run(all_of_them())
    assert len({request_id for request_id, _, _ in answers}) == 50
    for request_id, endpoint, usage in answers:
        line = log_line(request_id)
        assert line["outcome"] == "completed"
        assert line["endpoint"] == endpoint
        assert line["completion_tokens"] == usage.completion_tokens == 8
    by_kind = Counter(endpoint.split("-")[1] for _, endpoint, _ in answers)
    assert set(by_kind) == {"vllm", "llamacpp"}


@KINDS
def test_a_connection_that_the_engine_closed_is_replaced_unseen(
    client: Any, router: RouterProcess, kind: str
) -> None:
    # Both kinds keep an idle connection for five seconds; llama.cpp also ends one after every stream, without
    # a word in the head, and after a hundred answers.
    for _ in range(3):
        for stream in (True, False):
            answer = client.completions.create(model=f"only-{kind}", prompt="a", max_tokens=2, stream=stream)
            if stream:
                assert list(answer)
    wait_until(
        lambda: router.metrics().sum("fairlead_upstream_connections_idle") == 0,
        "the engines close what is idle",
    )
    assert client.completions.create(model=f"only-{kind}", prompt="a", max_tokens=2).usage.completion_tokens


def test_more_answers_than_llamacpp_gives_on_one_connection(client: Any) -> None:
    for _ in range(210):
        client.completions.create(model="only-llamacpp", prompt="a", max_tokens=1)

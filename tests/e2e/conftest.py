"""One vLLM and two llama.cpp servers behind one router, shared by the tests of this folder.

Without them the tests are skipped. Clients ask for a place, not for a model: `everywhere`, `only-vllm`,
`only-llamacpp`, `embedder` are names that the router rewrites to what the engine calls its model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.engines import ANSWER_BOUND_S, Engines, RealEngine, real_engines, why_not
from tests.integration.processes import wait_until
from tests.support.router_process import RouterProcess, running_router

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := why_not():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    with real_engines() as running:
        yield running


def _pool(name: str, model: str, members: tuple[RealEngine, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "endpoints": [
            {
                "name": f"{name}-{engine.kind}-{index}",
                "url": engine.url,
                "engine": engine.kind,
                "models": [model],
                "model_rewrite": {model: engine.model},
            }
            for index, engine in enumerate(members)
        ],
    }


@pytest.fixture(scope="session")
def router(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    """In front of all of them; it would keep idle connections longer than engines do, so that they close."""
    pools = [
        _pool("everywhere", "everywhere", engines.generating),
        _pool("vllm", "only-vllm", (engines.vllm,)),
        _pool("llamacpp", "only-llamacpp", engines.llamacpp[:1]),
    ]
    if engines.embedder is not None:
        pools.append(_pool("embeddings", "embedder", (engines.embedder,)))
    config = {
        "pools": pools,
        "routes": [{"name": "all", "expose_endpoint": True}],
        "timeouts": {"first_byte_ms": int(ANSWER_BOUND_S * 1000), "upstream_idle_ms": 3_600_000},
        "access_log": {"path": str(tmp_path_factory.mktemp("log") / "access.log")},
    }
    with running_router(config) as running:
        yield running


@pytest.fixture(scope="session")
def client(router: RouterProcess) -> Any:
    """An OpenAI client; Any, for its overloads do not take plain dictionaries."""
    return openai.OpenAI(base_url=router.url + "/v1", api_key="none", max_retries=0, timeout=ANSWER_BOUND_S)


@pytest.fixture
def log_line(router: RouterProcess) -> Callable[[str], dict[str, Any]]:
    """The access log's line of a request id, once it is written."""

    def find(request_id: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            with open(router.router.config["access_log"]["path"], encoding="utf-8") as log:
                lines = [json.loads(line) for line in log if line.endswith("\n")]
            found[:] = [line for line in lines if line["request_id"] == request_id]
            return bool(found)

        wait_until(is_there, f"a line of the access log about {request_id}")
        return found[0]

    return find


@pytest.fixture(autouse=True)
def everything_is_given_back(engines: Engines, router: RouterProcess) -> Iterator[None]:
    """After every test: nothing in flight in the router, nothing running or waiting at an engine."""
    yield
    router.wait_settled()
    for engine in engines.generating:
        wait_until(engine.holds_nothing, f"{engine.kind} at {engine.url} holds nothing")

"""The score in the whole proxy: figures, prices and targets of the configuration decide who answers."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.support.raw_peer import dial, request
from tests.support.router_process import RouterProcess, running_router


def body(number: int) -> bytes:
    """A prompt of its own, about a thousand tokens long: nothing of it is cached anywhere."""
    content = f"{number}: " + "Hello " * 700
    asked = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": content}]}
    return json.dumps(asked).encode()


@pytest.fixture(scope="module")
def running() -> Iterator[RouterProcess]:
    """A fast and dear endpoint, a slow and cheap one; both answer at once: only what is believed counts."""
    figures = [
        {"name": "dear", "engine_class": "8b-h100", "price": {"gpu_hour": 40.0}},
        {"name": "cheap", "engine_class": "8b-l40s", "price": {"gpu_hour": 1.0}},
    ]
    money = {"type": "five_axis", "cost_weight": 100.0}
    with Fleet([EngineSpec(engine_class="instant", models=("tiny",)) for _ in figures]) as engines:
        endpoints = [{"url": url, **one} for url, one in zip(engines.urls, figures, strict=True)]
        routes: list[dict[str, object]] = [
            {"name": "fast", "match": {"path": "/fast/*"}},
            {"name": "patient", "match": {"path": "/patient/*"}, "policy": money, "ttft_target_ms": 60_000},
            {"name": "tight", "match": {"path": "/tight/*"}, "policy": money, "ttft_target_ms": 70},
        ]
        config = {
            "workers": 1,
            "pools": [{"name": "all", "endpoints": endpoints}],
            "routes": [{**route, "pool": "all", "expose_endpoint": True} for route in routes],
        }
        with running_router(config) as process:
            yield process


def test_money_decides_only_among_those_that_keep_the_target(running: RouterProcess) -> None:
    # In this order: what the instant answers of one teach must not make it look fit for the next.
    for number, (route, wanted) in enumerate([("fast", "dear"), ("tight", "dear"), ("patient", "cheap")]):
        served: Counter[str] = Counter()
        for turn in range(4):
            with dial(running.address) as client:
                client.send(request(body(10 * number + turn), path=f"/{route}/v1/chat/completions"))
                served[client.take_response()[1]["x-fairlead-endpoint"]] += 1
        assert served == {wanted: 4}

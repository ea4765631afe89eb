"""The router that all conformance tests of a session share, and a lane of it for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.harness import Conformance, Lane

BODY_BYTES_MAX = 8 << 20
PAIRS = 12  # pools of two endpoints, asked in turn; a test takes one that no other test takes


def pairs(made: Conformance) -> dict[str, Any]:
    pools = [
        {
            "name": f"pair{number}",
            "policy": {"type": "round_robin"},
            "endpoints": [
                {"url": made.url(f"127.4.{number}.{one}"), "models": [f"pair{number}"]} for one in (1, 2)
            ],
        }
        for number in range(1, PAIRS + 1)
    ]
    routes = [
        {"name": f"pair{number}", "match": {"path": f"/pair{number}/*"}, "pool": f"pair{number}"}
        for number in range(1, PAIRS + 1)
    ]
    return {"pools": pools, "routes": routes}


def particular(made: Conformance) -> dict[str, Any]:
    """One endpoint for each setting that changes what an endpoint is sent."""
    closed = f"http://127.0.0.1:{made.closed_port}"
    pools = [
        {
            "name": "keyed",
            "endpoints": [
                {
                    "url": made.url("127.5.0.1") + "/base/path",
                    "models": ["keyed", "pretty", "längs", "odd"],
                    "model_rewrite": {"pretty": "org/engine-name", "längs": "s", "odd": 'a"b\\c'},
                    "auth": {"bearer": "sk-endpoint"},
                    "host": "engine.example:8000",
                }
            ],
        },
        {
            "name": "open",
            "endpoints": [
                {
                    "url": made.url("127.5.0.2"),
                    "models": ["open"],
                    "auth": {"pass_client_key": True},
                }
            ],
        },
        {
            "name": "half-dead",
            "policy": {"type": "round_robin"},
            "endpoints": [
                {"url": closed, "models": ["half-dead"], "name": "dead"},
                {"url": made.url("127.5.0.3"), "models": ["half-dead"]},
            ],
        },
        {"name": "dead", "endpoints": [{"url": closed + "/", "models": ["dead"], "name": "dead-alone"}]},
    ]
    routes = [
        {"name": "exposed", "match": {"path": "/exposed/*"}, "pool": "open", "expose_endpoint": True},
    ]
    return {"pools": pools, "routes": routes}


@pytest.fixture(scope="session")
def conformance() -> Iterator[Conformance]:
    made = Conformance(limits={"body_bytes_max": BODY_BYTES_MAX})
    made.add(**pairs(made))
    made.add(**particular(made))
    with made:
        yield made


@pytest.fixture
def lane(conformance: Conformance) -> Iterator[Lane]:
    with conformance.lane() as made:
        yield made

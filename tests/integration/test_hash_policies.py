"""Picks that hold over all workers: the same key to the same endpoint, and counts that are exact."""

import json
import select
from collections import Counter
from collections.abc import Iterator

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from router.schema.policies import policy_names
from tests.integration.processes import wait_until
from tests.support.raw_peer import BOUND_S, Endpoint, Peer, chat, dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router

ENGINES = 4
HASHES: dict[str, dict[str, object]] = {
    "rendezvous": {},
    # The other worker may pick before the last answer's charge is released: one must not reach the bound.
    "bounded_ring": {"load_factor": 10.0},
    "ring": {},
    "maglev": {},
}
POLICIES: dict[str, dict[str, object]] = {
    f"{name}-by-{key}": {"type": name, "key": key, **knobs}
    for name, knobs in HASHES.items()
    for key in ("header", "user", "prompt")
} | {name: {"type": name} for name in policy_names()}


@pytest.fixture(scope="module")
def router() -> Iterator[RouterProcess]:
    """Two workers; the first segment of the path chooses the policy; answers name their endpoint."""
    with Fleet([EngineSpec(engine_class="instant", models=("tiny",)) for _ in range(ENGINES)]) as fleet:
        config = one_pool(fleet.urls, workers=2)
        config["routes"] = [
            {"name": name, "match": {"path": f"/{name}"}, "policy": policy, "expose_endpoint": True}
            for name, policy in POLICIES.items()
        ]
        with running_router(config) as running:
            yield running


def body_of(user: str = "", **fields: object) -> bytes:
    return json.dumps(
        {"model": "tiny", "max_tokens": 1, **fields, **({"user": user} if user else {})}
    ).encode()


def post(client: Peer, route: str, body: bytes, **headers: str) -> str:
    """The endpoint that answers; the mock has no such path, but what counts is who said so."""
    client.send(request(body, path=f"/{route}", **headers))
    endpoint = client.take_response()[1]["x-fairlead-endpoint"]
    assert endpoint.startswith("e")
    return endpoint


def ask(router: RouterProcess, route: str, session: str = "", user: str = "", prompt: str = "hi") -> str:
    """As `post`, on a connection of its own, so that any worker may get it."""
    headers = {"x_session_id": session} if session else {}
    with dial(router.address) as client:
        return post(client, route, body_of(user, messages=[{"role": "user", "content": prompt}]), **headers)


@pytest.mark.parametrize("policy", HASHES)
@pytest.mark.parametrize("kind", ["header", "user", "prompt"])
def test_a_key_stays_at_its_endpoint_whoever_picks(router: RouterProcess, policy: str, kind: str) -> None:
    name = {"header": "session", "user": "user", "prompt": "prompt"}[kind]
    homes = {}
    for key in (f"key-{index}" for index in range(24)):
        homes[key] = {ask(router, f"{policy}-by-{kind}", **{name: key}) for _ in range(4)}
    assert all(len(home) == 1 for home in homes.values()), homes
    assert len({endpoint for home in homes.values() for endpoint in home}) > 1
    # A kept connection and other fields make no difference.
    with dial(router.address) as client:
        for key in list(homes)[:5]:
            messages = [{"role": "user", "content": key}] if kind == "prompt" else []
            body = body_of(key if kind == "user" else "", top_p=0.5, messages=messages)
            headers = {"X_Session_Id": key} if kind == "header" else {}
            assert {post(client, f"{policy}-by-{kind}", body, **headers)} == homes[key]


@pytest.mark.parametrize("policy", policy_names())
def test_every_policy_serves_prompts_and_what_has_none(router: RouterProcess, policy: str) -> None:
    for prompt in ("hi", "tell me " * 2000):
        assert ask(router, policy, prompt=prompt)
    with dial(router.address) as client:
        client.send(request(b"", method="GET", path=f"/{policy}"))
        assert client.take_response()[1]["x-fairlead-endpoint"]


def test_a_conversation_that_grows_stays_at_its_endpoint(router: RouterProcess) -> None:
    opening = [
        {"role": "system", "content": "You are terse. " * 100},
        {"role": "user", "content": "first question"},
    ]
    homes = set()
    for turn in range(6):
        messages = opening + [{"role": "user", "content": f"turn {index}"} for index in range(turn)]
        with dial(router.address) as client:
            homes.add(post(client, "rendezvous-by-prompt", body_of(messages=messages)))
    assert len(homes) == 1


def test_a_request_without_a_key_goes_anywhere(router: RouterProcess) -> None:
    assert len({ask(router, "rendezvous-by-header") for _ in range(40)}) > 1


def test_turns_are_even(router: RouterProcess) -> None:
    counts = Counter(ask(router, "round_robin") for _ in range(20 * ENGINES))
    assert len(counts) == ENGINES
    # Each worker has turns of its own, which begin anywhere.
    assert max(counts.values()) - min(counts.values()) <= 4


def hold(
    router: RouterProcess, endpoints: list[Endpoint], path: str, **headers: str
) -> tuple[Peer, Peer, int]:
    """A request that an endpoint has and has not answered: client, engine, and which."""
    client = dial(router.address)
    client.send(request(chat(), path=path, **headers))
    ready, _, _ = select.select([endpoint.sock for endpoint in endpoints], [], [], BOUND_S)
    (index,) = (index for index, endpoint in enumerate(endpoints) if endpoint.sock in ready)
    engine = endpoints[index].accept()
    engine.take_request()
    return client, engine, index


@pytest.fixture
def held_endpoints() -> Iterator[list[Endpoint]]:
    endpoints = [Endpoint() for _ in range(ENGINES)]
    yield endpoints
    for endpoint in endpoints:
        endpoint.sock.close()


def test_counts_are_exact_over_workers_and_the_less_busy_is_picked(held_endpoints: list[Endpoint]) -> None:
    count = 32
    policies = [{"name": "few", "match": {"path": "/few"}, "policy": {"type": "least_in_flight"}}]
    urls = [endpoint.url for endpoint in held_endpoints]
    config = one_pool(urls, workers=2, routes=policies, pool={"policy": {"type": "p2c"}})
    with running_router(config) as router:
        held = []
        for index in range(count):
            held.append(hold(router, held_endpoints, "/two"))
            assert router.in_flight() == index + 1
        spread = Counter(index for _, _, index in held)
        assert {int(row["name"][1:]): row["in_flight"] for row in router.debug_endpoints()} == spread
        # Two choices keep together what chance would not: the mean is 8.
        assert max(spread.values()) <= 12
        assert min(spread.values()) >= 4
        # Every worker sees what all of them hold: the least busy one gets each of these.
        for _ in range(count):
            least = min(spread.get(index, 0) for index in range(ENGINES))
            client, engine, picked = hold(router, held_endpoints, "/few")
            assert spread[picked] == least
            spread[picked] += 1
            held.append((client, engine, picked))
        assert set(spread.values()) == {16}
        wait_until(
            lambda: all(row["open_exchanges"] for row in router.debug_workers()), "both workers have had some"
        )
        for client, engine, _ in held[::2]:
            engine.send_response(b"{}", connection="close")
            client.take_response()
        router.wait_in_flight(count)
        for client, engine, _ in held[1::2]:
            client.reset()
            engine.wait_closed()
        router.wait_settled()


def test_a_full_endpoint_is_passed_over_by_its_keys_on_a_bounded_ring(held_endpoints: list[Endpoint]) -> None:
    policy = {"type": "bounded_ring", "key": "header", "load_factor": 1.0}
    config = one_pool([endpoint.url for endpoint in held_endpoints], workers=2, pool={"policy": policy})
    with running_router(config) as router:
        held = [
            hold(router, held_endpoints, "/", x_session_id="one and the same") for _ in range(2 * ENGINES)
        ]
        # A load factor of 1 lets nobody have more than the mean, rounded up.
        assert Counter(index for _, _, index in held) == dict.fromkeys(range(ENGINES), 2)
        for client, engine, _ in held:
            client.reset()
            engine.wait_closed()
        router.wait_settled()


def test_capacity_holds_over_workers(held_endpoints: list[Endpoint]) -> None:
    config = one_pool(
        [endpoint.url for endpoint in held_endpoints[:2]],
        workers=2,
        endpoint={"capacity": {"in_flight_max": 3}},
    )
    with running_router(config) as router:
        held = [hold(router, held_endpoints[:2], "/") for _ in range(6)]
        assert Counter(index for _, _, index in held) == {0: 3, 1: 3}
        for _ in range(8):
            with dial(router.address) as client:
                client.send(request(chat()))
                status, fields, body = client.take_response()
                assert (status, fields["x-should-retry"]) == (503, "true")
                assert b'"endpoints_full"' in body
        client, engine, _ = held[0]
        engine.send_response(b"{}", connection="close")
        client.take_response()
        assert hold(router, held_endpoints[:2], "/")[2] == held[0][2]

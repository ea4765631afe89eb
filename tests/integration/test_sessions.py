"""A session comes back to its endpoint whichever worker it meets, leaves one that is gone, and says why."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.support.raw_peer import dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router

COUNT = 3
BY_HEADER = {"type": "five_axis", "key": "header", "switch_ms": 50}
ROUTES = [
    {
        "name": "named",
        "match": {"headers": {"x-route": "named"}},
        "policy": BY_HEADER,
        "expose_endpoint": True,
    },
    {
        "name": "in-turn",
        "match": {"headers": {"x-route": "in-turn"}},
        "policy": {"type": "lmetric"},
        "expose_endpoint": True,
    },
    {"name": "all", "expose_endpoint": True},
]


def engine() -> Fleet:
    return Fleet([EngineSpec(engine_class="instant", models=("tiny",))])


@pytest.fixture
def engines() -> Iterator[list[contextlib.ExitStack]]:
    """Each can be closed on its own."""
    with contextlib.ExitStack() as all_of_them:
        yield [all_of_them.enter_context(contextlib.ExitStack()) for _ in range(COUNT)]


@pytest.fixture
def running(engines: list[contextlib.ExitStack]) -> Iterator[RouterProcess]:
    """Two workers over three engines."""
    urls = [stack.enter_context(engine()).urls[0] for stack in engines]
    with running_router(one_pool(urls, workers=2, routes=ROUTES)) as process:
        yield process


def ask(
    process: RouterProcess, route: str, *messages: str, system: str = "", **headers: str
) -> dict[str, str]:
    """The headers of the answer, on a connection of its own; messages are user's and model's in turn."""
    rows = [{"role": "system", "content": system}] if system else []
    rows += [
        {"role": "assistant" if turn % 2 else "user", "content": text} for turn, text in enumerate(messages)
    ]
    body = json.dumps({"model": "tiny", "max_tokens": 1, "messages": rows}).encode()
    with dial(process.address) as client:
        client.send(request(body, x_route=route, **headers))
        status, answered, _ = client.take_response()
        assert status == 200
        return answered


def named(process: RouterProcess, session: str, text: str) -> tuple[str, str]:
    answered = ask(process, "named", text, x_session_id=session)
    return answered["x-fairlead-endpoint"], answered["x-fairlead-session"]


def test_a_session_comes_back_and_leaves_an_endpoint_that_is_gone(
    running: RouterProcess, engines: list[contextlib.ExitStack]
) -> None:
    homes = {}
    for session in (f"s{number}" for number in range(12)):
        told = [named(running, session, f"{session} {turn}") for turn in range(5)]
        assert [why for _, why in told] == ["new", *["stayed"] * 4]
        assert len({endpoint for endpoint, _ in told}) == 1
        homes[session] = told[0][0]
    assert running.metrics().sum("fairlead_session_picks_total", reason="new") == 12
    assert running.metrics().sum("fairlead_session_picks_total", reason="stayed") == 48

    gone = homes["s0"]
    engines[int(gone[1:])].close()
    answered = ask(running, "named", "again", x_session_id="s0")
    assert answered["x-fairlead-session"] == "health"
    home = answered["x-fairlead-endpoint"]
    assert home != gone
    assert running.metrics().sum("fairlead_session_picks_total", reason="health") == 1
    assert [named(running, "s0", f"after {turn}") for turn in range(4)] == [(home, "stayed")] * 4


def test_a_conversation_is_a_session_without_being_named(running: RouterProcess) -> None:
    system = "You are terse. " * 200
    conversations = {f"question {number}": [f"question {number}"] for number in range(6)}
    homes = {}
    for question, messages in conversations.items():
        answered = ask(running, "all", *messages, system=system)
        assert answered["x-fairlead-session"] == "new"
        homes[question] = answered["x-fairlead-endpoint"]
    for turn in range(3):
        for question, messages in conversations.items():
            messages += [f"answer {turn}", f"and then {turn}?"]
            answered = ask(running, "all", *messages, system=system)
            assert answered["x-fairlead-session"] == "stayed"
            assert answered["x-fairlead-endpoint"] == homes[question]


def test_only_the_score_has_sessions_and_explains_them(running: RouterProcess) -> None:
    assert "x-fairlead-session" not in ask(running, "in-turn", "hi", x_session_id="a")
    assert "x-fairlead-session" in ask(running, "named", "hi"), (
        "without the header its conversation is its name"
    )
    named(running, "a", "one")
    answered = ask(running, "named", "two", x_session_id="a", x_fairlead_explain="1")
    request_id = answered["x-request-id"]
    decision = running.router.get(f"/debug/explain/{request_id}", running.router.admin)[1]["decisions"][0]
    assert (decision["session"], decision["session_tokens"] > 0) == ("stayed", True)
    assert decision["winner"]["terms"]["switching"] == 0
    assert {one["terms"]["switching"] for one in decision["runners_up"]} == {0.05}

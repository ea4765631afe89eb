"""Exchanges for an alias and under requirements: names in bodies, retries, logs, rules that always hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted import Scripted

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
LARGE = {"url": "http://127.0.0.1:9000", "name": "large", "models": ["llama-70b"]}
SMALL = {"url": "http://127.0.0.1:9001", "name": "small", "models": ["llama-8b"]}
BOTH = {"url": "http://127.0.0.1:9002", "name": "both", "models": ["llama-70b", "llama-8b"]}
EXPOSED = {"routes": [{"name": "all", "expose_endpoint": True}]}


def scripted(*endpoints: dict[str, Any], **config: Any) -> Scripted:
    pool = {"name": "main", "endpoints": list(endpoints), **config.pop("pool", {})}
    return Scripted(pools=[pool], **{"aliases": {"chat": ["llama-70b", "llama-8b"]}, **config})


def post(body: bytes, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **given}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode() + body


def chat(model: str = "chat", **more: Any) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "Hi " * 40}], **more}
    ).encode()


def ask(world: Scripted, data: bytes) -> int:
    client = world.driver.accept()
    world.driver.receive(client, data)
    return client


def asked_of(world: Scripted) -> tuple[int, bytes, bytes]:
    """Port, head and body of the one request that is on its way to an endpoint."""
    world.establish_all()
    (upstream,) = world.driver.upstreams()
    head, _, body = world.driver.take(upstream).partition(b"\r\n\r\n")
    return world.driver.state(upstream)["port"], head, body


def respond(world: Scripted) -> None:
    (upstream,) = world.driver.upstreams()
    world.driver.receive(upstream, ANSWER)


def told(world: Scripted, client: int) -> tuple[int, dict[str, str], bytes]:
    head, _, body = world.driver.take(client).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


# ---- names


def test_the_engine_is_asked_under_the_models_own_name() -> None:
    world = scripted(LARGE, SMALL, **EXPOSED)
    client = ask(world, post(chat(user="u")))
    port, head, body = asked_of(world)
    assert port == 9000
    assert json.loads(body) == json.loads(chat("llama-70b", user="u"))
    assert f"Content-Length: {len(body)}".encode() in head
    respond(world)
    status, fields, _body = told(world, client)
    assert status == 200
    assert (fields["x-fairlead-endpoint"], fields["x-fairlead-model"]) == ("large", "llama-70b")
    (line,) = world.log()
    assert (line["model"], line["model_served"], line["endpoint"]) == ("chat", "llama-70b", "large")
    world.finish()


def test_an_endpoints_own_rewrite_is_the_last_word() -> None:
    world = scripted({**LARGE, "model_rewrite": {"llama-70b": "meta/Llama-70B"}}, SMALL)
    ask(world, post(chat()))
    assert json.loads(asked_of(world)[2])["model"] == "meta/Llama-70B"
    world.finish()


def test_a_name_that_json_escapes_arrives_as_it_is() -> None:
    name = 'say "hi"\\'
    world = scripted({**LARGE, "models": [name]}, aliases={"chat": [name]})
    ask(world, post(chat()))
    assert json.loads(asked_of(world)[2])["model"] == name
    world.finish()


@pytest.mark.parametrize("cut", [1, 40, 75])
def test_a_body_that_is_cut_through_has_its_name_replaced(cut: int) -> None:
    world = scripted(LARGE, SMALL, limits={"retry_buffer_bytes_max": 30})
    data = post(chat())
    split = len(data) - len(chat()) + cut
    client = world.driver.accept()
    world.driver.receive(client, data[:split])
    world.driver.receive(client, data[split:])
    assert json.loads(asked_of(world)[2]) == json.loads(chat("llama-70b"))
    world.finish()


def test_a_doubtful_body_and_a_form_have_their_name_replaced() -> None:
    escaped = chat().replace(b'"chat"', b'"ch\\u0061t"')
    world = scripted(LARGE, SMALL)
    ask(world, post(escaped))
    assert json.loads(asked_of(world)[2])["model"] == "llama-70b"
    world.finish()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nchat\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
    )
    world = scripted(LARGE, SMALL)
    ask(world, post(form, "/v1/audio/transcriptions", Content_Type="multipart/form-data; boundary=x"))
    assert asked_of(world)[2] == form.replace(b"\r\nchat\r\n", b"\r\nllama-70b\r\n")
    world.finish()


def test_a_model_asked_for_by_its_own_name_is_left_alone() -> None:
    world = scripted(LARGE, SMALL, **EXPOSED)
    client = ask(world, post(chat("llama-8b")))
    port, _head, body = asked_of(world)
    assert (port, body) == (9001, chat("llama-8b"))
    respond(world)
    assert told(world, client)[1]["x-fairlead-model"] == "llama-8b"
    assert "model_served" not in world.log()[0]
    world.finish()


def test_an_alias_in_the_path_is_no_model() -> None:
    world = scripted(LARGE, SMALL)
    client = ask(world, post(b"{}", "/openai/deployments/chat/chat/completions"))
    status, _fields, body = told(world, client)
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    assert "model 'chat'; known: " in json.loads(body)["error"]["message"]
    world.finish()


# ---- who answers


def test_the_second_model_follows_when_the_first_cannot_be_reached() -> None:
    world = scripted(LARGE, SMALL, **EXPOSED)
    client = ask(world, post(chat()))
    (upstream,) = world.driver.upstreams()
    world.driver.end(upstream, 111)
    port, _head, body = asked_of(world)
    assert (port, json.loads(body)["model"]) == (9001, "llama-8b")
    respond(world)
    fields = told(world, client)[1]
    assert (fields["x-fairlead-model"], fields["x-fairlead-reason"]) == ("llama-8b", "retry")
    (line,) = world.log()
    assert (line["model_served"], line["attempts"]) == ("llama-8b", 2)
    counters = world.metrics.counters()
    assert (counters["alias_place_1"], counters["alias_place_2"]) == (0, 1)
    world.finish()


def test_no_model_answered_where_nobody_was_left_to_try() -> None:
    world = scripted(LARGE, aliases={"chat": ["llama-70b"]}, **EXPOSED)
    client = ask(world, post(chat()))
    (upstream,) = world.driver.upstreams()
    world.driver.end(upstream, 111)
    status, fields, _body = told(world, client)
    assert (status, fields.get("x-fairlead-model")) == (503, None)
    (line,) = world.log()
    assert (line["model"], line.get("model_served"), line["attempts"]) == ("chat", None, 1)
    assert world.metrics.counters()["alias_place_1"] == 0
    world.finish()


def test_an_endpoint_that_failed_for_one_model_is_not_tried_for_another() -> None:
    world = scripted(BOTH, SMALL)
    client = ask(world, post(chat()))
    for _ in range(2):
        (upstream,) = world.driver.upstreams()
        world.driver.end(upstream, 111)
    assert told(world, client)[0] == 503
    assert [line["attempts"] for line in world.log()] == [2]
    world.finish()


def test_a_full_endpoint_makes_way_for_the_next_model() -> None:
    world = scripted({**LARGE, "capacity": {"in_flight_max": 1}}, SMALL)
    ask(world, post(chat()))
    assert asked_of(world)[0] == 9000
    ask(world, post(chat()))
    world.establish_all()
    assert sorted(world.driver.state(number)["port"] for number in world.driver.upstreams()) == [9000, 9001]
    world.finish()


def test_a_queue_sends_requests_to_the_model_that_is_worth_less() -> None:
    aliases = {"chat": ["llama-70b", {"model": "llama-8b", "quality_cost_ms": 300}]}
    world = scripted(LARGE, SMALL, aliases=aliases, **EXPOSED)
    ports = []
    for turn in range(6):
        ask(world, post(chat(max_tokens=10).replace(b"Hi ", b"Hi %d there " % turn * 50)))
        ports.append(world.driver.state(max(world.driver.upstreams()))["port"])
    assert ports[0] == 9000
    assert 9001 in ports
    world.finish()


def test_a_load_counts_against_its_model() -> None:
    loading = {**LARGE, "model_load_ms": {"llama-70b": 20_000}}
    world = scripted(loading, SMALL)
    ask(world, post(chat()))
    assert asked_of(world)[0] == 9001, "twenty seconds are more than the five that a place costs"
    respond(world)
    ask(world, post(chat("llama-70b")))
    world.establish_all()
    world.driver.advance(20_000_000)
    for upstream in world.driver.upstreams():
        world.driver.receive(upstream, ANSWER)
    ask(world, post(chat(turn=2)))
    ports = [world.driver.state(upstream)["port"] for upstream in world.driver.upstreams()]
    assert [world.load.in_flight(slot) for slot in range(2)] == [1, 0], f"it is loaded by now: {ports}"
    world.finish()


def test_without_a_prompt_the_models_are_taken_in_order_though_the_first_takes_longer_to_load() -> None:
    loads = {"llama-70b": 20_000}, {"llama-8b": 1000}
    large, small = ({**one, "model_load_ms": load} for one, load in zip((LARGE, SMALL), loads, strict=True))
    world = scripted(large, small)
    ask(world, post(b'{"model":"chat"}'))
    assert asked_of(world)[0] == 9000
    world.finish()


@pytest.mark.parametrize("policy", ["round_robin", "least_in_flight", "ring", "maglev", "peak_ewma", "llmd"])
def test_policies_without_seconds_take_the_models_in_order(policy: str) -> None:
    world = scripted(SMALL, LARGE, BOTH, pool={"policy": {"type": policy}})
    ports = set()
    for _ in range(12):
        ask(world, post(chat()))
        ports.add(world.driver.state(max(world.driver.upstreams()))["port"])
    assert ports <= {9000, 9002}
    world.finish()


def test_models_in_different_pools_may_stand_behind_one_alias() -> None:
    pools = [{"name": "a", "endpoints": [LARGE]}, {"name": "b", "endpoints": [SMALL]}]
    world = Scripted(pools=pools, aliases={"chat": ["llama-8b", "llama-70b"]})
    ask(world, post(chat()))
    assert asked_of(world)[0] == 9001
    (upstream,) = world.driver.upstreams()
    world.driver.receive(upstream, ANSWER)
    assert world.log()[0]["pool"] == "b"
    world.finish()


def test_only_models_that_the_routes_pool_serves_count() -> None:
    pools = [{"name": "a", "endpoints": [LARGE]}, {"name": "b", "endpoints": [SMALL]}]
    routes = [{"name": "cheap", "match": {"headers": {"x-plan": "cheap"}}, "pool": "b"}]
    world = Scripted(
        pools=pools, routes=routes, aliases={"chat": ["llama-70b", "llama-8b"], "big": ["llama-70b"]}
    )
    ask(world, post(chat(), x_plan="cheap"))
    port, _head, body = asked_of(world)
    assert (port, json.loads(body)["model"]) == (9001, "llama-8b")
    client = ask(world, post(chat("big"), x_plan="cheap"))
    status, _fields, answer = told(world, client)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
    assert "'big'" in json.loads(answer)["error"]["message"], "among the names that are known"
    world.finish()


def test_what_is_cached_for_one_model_is_no_hit_for_another() -> None:
    world = scripted(BOTH, aliases={"first": ["llama-70b"], "second": ["llama-8b"]})
    charged = []
    for model in ("first", "second", "llama-70b"):
        client = ask(world, post(chat(model).replace(b"Hi ", b"Hi there " * 10)))
        charged.append(world.load.view(0)["queued_tokens"])
        asked_of(world)
        respond(world)
        world.driver.end(client)
    assert charged[1] == charged[0]
    assert charged[2] < charged[0], "the alias's own model is the same one by its own name"
    world.finish()


# ---- what is required


EU = {**LARGE, "region": "eu", "capabilities": ["tools"]}
US = {**BOTH, "region": "us", "capabilities": ["tools", "vision"]}
RULES = {
    "routes": [
        {"name": "eu", "match": {"path": "/eu/*"}, "require": {"regions": ["eu"]}},
        {
            "name": "any",
            "may_require": {"eu": {"regions": ["eu"]}, "vision": {"capabilities": ["vision"]}},
        },
    ]
}


@pytest.mark.parametrize(
    "policy", ["five_axis", "round_robin", "ring", "maglev", "p2c", "weighted", "smetric"]
)
def test_a_rule_holds_in_panic_and_on_retries(policy: str) -> None:
    world = scripted(EU, US, pool={"policy": {"type": policy}}, **RULES)
    for turn in range(6):
        client = ask(world, post(chat("llama-70b", turn=turn), "/eu/v1/chat/completions"))
        (upstream,) = world.driver.upstreams()
        assert world.driver.state(upstream)["port"] == 9000, "also when only it is ejected"
        world.driver.end(upstream, 111)
        status, _fields, body = told(world, client)
        assert (status, json.loads(body)["error"]["code"]) == (503, "connect_failed")
        world.driver.end(client)
    assert {line["endpoint"] for line in world.log()} == {"large"}
    world.finish()


def test_a_header_adds_what_the_route_offers_and_goes_no_further() -> None:
    world = scripted(EU, US, **RULES)
    for names, wanted in (("eu", {9000}), ("vision", {9002}), (" , vision,", {9002})):
        for _ in range(3):
            client = ask(world, post(chat("llama-70b"), x_fairlead_require=names))
            port, head, _body = asked_of(world)
            assert port in wanted
            assert b"x-fairlead-require" not in head
            world.driver.end(client)
    world.finish()


def test_a_rule_that_this_model_cannot_keep_is_told() -> None:
    world = scripted(EU, US, **RULES)
    client = ask(world, post(chat("llama-8b"), "/eu/v1/chat/completions"))
    status, fields, body = told(world, client)
    error = json.loads(body)["error"]
    assert (status, error["code"], fields["x-should-retry"]) == (404, "requirement_not_met", "false")
    assert "region eu" in error["message"]
    client = ask(world, post(chat("llama-70b"), x_fairlead_require="eu,vision"))
    error = json.loads(told(world, client)[2])["error"]
    assert error["code"] == "requirement_not_met"
    assert "region eu" in error["message"]
    assert "capability vision" in error["message"]
    assert [line["outcome"] for line in world.log()] == ["requirement_unmet"] * 2
    world.finish()


def test_an_alias_passes_over_models_that_cannot_keep_a_rule() -> None:
    world = scripted({**SMALL, "region": "eu"}, US, **RULES)
    ask(world, post(chat(), "/eu/v1/chat/completions"))
    port, _head, body = asked_of(world)
    assert (port, json.loads(body)["model"]) == (9001, "llama-8b")
    world.finish()


@pytest.mark.parametrize(
    ("path", "names", "offered"),
    [
        ("/v1/chat/completions", "mars", "eu, vision"),
        ("/v1/chat/completions", "eu,EU", "eu, vision"),
        ("/eu/v1/chat/completions", "eu", "nothing"),
    ],
)
def test_what_a_route_does_not_offer_is_refused_and_not_ignored(path: str, names: str, offered: str) -> None:
    world = scripted(EU, US, **RULES)
    client = ask(world, post(chat("llama-70b"), path, x_fairlead_require=names))
    status, _fields, body = told(world, client)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "unknown_requirement")
    assert f"this route offers {offered}" in error["message"]
    world.finish()


def test_every_field_of_the_name_counts() -> None:
    world = scripted(EU, US, **RULES)
    data = post(chat("llama-70b"), x_fairlead_require="vision")
    client = ask(world, data.replace(b"Host: h\r\n", b"Host: h\r\nX-Fairlead-Require: eu\r\n"))
    assert json.loads(told(world, client)[2])["error"]["code"] == "requirement_not_met"
    world.finish()


# ---- money


def test_a_route_says_what_money_is_worth_to_whoever_asks() -> None:
    dear = {**LARGE, "models": ["m"], "engine_class": "8b-h100", "price": {"gpu_hour": 40.0}}
    cheap = {**SMALL, "models": ["m"], "engine_class": "8b-l40s", "price": {"gpu_hour": 1.0}}
    routes = [
        {"name": "thrifty", "match": {"headers": {"x-tenant": "thrifty"}}, "cost_weight": 1000},
        {"name": "hasty", "match": {"headers": {"x-tenant": "hasty"}}, "cost_weight": 0},
        {"name": "others"},
    ]
    for policy_weight, wanted in ((0, (9001, 9000, 9000)), (1000, (9001, 9000, 9001))):
        pool = {"policy": {"type": "five_axis", "cost_weight": policy_weight}}
        world = scripted(dear, cheap, pool=pool, routes=routes, aliases={})
        for tenant, port in zip(("thrifty", "hasty", "other"), wanted, strict=True):
            client = ask(world, post(chat("m", tenant=tenant), x_tenant=tenant))
            assert asked_of(world)[0] == port, (tenant, policy_weight)
            world.driver.end(client)
        world.finish()

"""Routes and pools as native tables: the first route that matches, and who serves a model there."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.pool import Endpoint
from router.native.preparation import at_once
from router.native.routes import Snapshot, glob, match
from router.schema.config import Config
from router.snapshot import build_tables, route_names

PLAIN = {"pools": [{"name": "main", "endpoints": [{"url": "http://10.0.0.1:1", "name": "one"}]}]}


def snapshot(config: dict[str, Any]) -> Snapshot:
    parsed = msgspec.convert({"version": 1, **config}, Config)
    names = [endpoint.name for pool in parsed.pools for endpoint in pool.endpoints]
    tables = build_tables(
        parsed,
        {name: slot for slot, name in enumerate(names)},
        {name: index for index, name in enumerate(route_names(parsed))},
    )
    made = Snapshot()
    at_once(made.building(tables, {entry.identity: Endpoint(entry) for entry in tables.endpoints}))
    return made


def head(path: str = "/v1/chat/completions", host: str = "api.example:8080", **fields: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def endpoint(name: str, *models: str) -> dict[str, Any]:
    return {"name": name, "url": f"http://10.0.0.1:{1000 + len(name)}", "models": list(models)}


def pool(name: str, *endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "endpoints": list(endpoints), **more}


# ---- which route


def routed(route: dict[str, Any], request: bytes, model: str = "") -> bool:
    """Whether a route with these conditions takes the request."""
    return bool(
        match(snapshot({**PLAIN, "routes": [{"name": "it", "match": route}]}), request, model)[0] == "it"
    )


@pytest.mark.parametrize(
    ("pattern", "host", "taken"),
    [
        ("api.example", "api.example", True),
        ("api.example", "api.example:8080", True),
        ("API.Example", "api.EXAMPLE:1", True),
        ("*.example", "a.b.example", True),
        ("*.example", "example", False),
        ("api.example", "api.example.org", False),
        ("[::1]", "[::1]:8080", True),
        ("[::1]", "[::1]", True),
        ("127.0.0.*", "127.0.0.1:80", True),
    ],
)
def test_a_host_is_matched_without_its_port_and_without_case(pattern: str, host: str, taken: bool) -> None:
    assert routed({"host": pattern}, head(host=host)) is taken


@pytest.mark.parametrize(
    ("pattern", "path", "taken"),
    [
        ("/v1/*", "/v1/chat/completions", True),
        ("/v1/*", "/v2/chat", False),
        ("/v1/chat", "/v1/chat?x=/v1/*", True),
        ("*completions", "/v1/completions?a=b", True),
        ("/V1/*", "/v1/x", False),
    ],
)
def test_a_path_is_matched_without_its_query_and_with_case(pattern: str, path: str, taken: bool) -> None:
    assert routed({"path": pattern}, head(path)) is taken


def test_an_absolute_target_is_matched_by_its_own_host_and_path() -> None:
    request = b"GET http://b.example:81/v1/x?y HTTP/1.1\r\nHost: b.example:81\r\n\r\n"
    assert routed({"host": "b.example", "path": "/v1/x"}, request)


@pytest.mark.parametrize(
    ("pattern", "model", "taken"),
    [("llama-*", "llama-3", True), ("llama-*", "qwen", False), ("llama-*", "", False), ("*", "any", True)],
)
def test_a_model_is_matched_by_its_pattern(pattern: str, model: str, taken: bool) -> None:
    assert routed({"model": pattern}, head(), model) is taken


@pytest.mark.parametrize(
    ("request_", "taken"),
    [
        (head(x_team="red"), True),
        (head(X_TEAM="red-1"), True),
        (head(x_team="blue"), False),
        (head(x_team="RED"), False),
        (head(), False),
        (head(x_teams="red"), False),
        (head(a="1").replace(b"a: 1", b"X-Team: blue\r\nX-Team: red"), True),
    ],
)
def test_a_header_is_matched_by_name_without_case_and_by_value(request_: bytes, taken: bool) -> None:
    assert routed({"headers": {"x-team": "red*"}}, request_) is taken


def test_all_conditions_must_hold() -> None:
    conditions = {"host": "api.*", "path": "/v1/*", "model": "m", "headers": {"a": "1", "b": "*"}}
    assert routed(conditions, head(a="1", b="x"), "m")
    assert not routed(conditions, head(a="1"), "m")
    assert not routed(conditions, head(a="2", b="x"), "m")
    assert not routed(conditions, head(a="1", b="x"), "n")
    assert not routed(conditions, head("/v2/x", a="1", b="x"), "m")
    assert not routed(conditions, head(host="other", a="1", b="x"), "m")


def test_the_first_route_that_matches_wins_and_what_none_takes_goes_by_model() -> None:
    routes = [
        {"name": "narrow", "match": {"path": "/v1/chat/*"}},
        {"name": "wide", "match": {"path": "/v1/*"}},
    ]
    table = snapshot({**PLAIN, "routes": routes})
    assert match(table, head("/v1/chat/completions"))[0] == "narrow"
    assert match(table, head("/v1/embeddings"))[0] == "wide"
    assert match(table, head("/generate"))[0] == "default"


# ---- which endpoints


def test_a_model_is_served_by_the_endpoints_that_name_it_and_by_those_that_name_none() -> None:
    table = snapshot({"pools": [pool("p", endpoint("a", "m1"), endpoint("bb", "m1", "m2"), endpoint("ccc"))]})
    assert match(table, head(), "m1") == ("default", "p", ["a", "bb", "ccc"])
    assert match(table, head(), "m2") == ("default", "p", ["bb", "ccc"])
    assert match(table, head(), "unheard-of") == ("default", "p", ["ccc"])


def test_the_first_pool_that_names_a_model_serves_it() -> None:
    table = snapshot({"pools": [pool("p", endpoint("a", "m")), pool("q", endpoint("bb", "m", "n"))]})
    assert match(table, head(), "m") == ("default", "p", ["a"])
    assert match(table, head(), "n") == ("default", "q", ["bb"])
    assert match(table, head(), "x") == ("default", None, None)


def test_a_route_to_a_pool_finds_no_model_of_another() -> None:
    routes = [{"name": "r", "match": {"path": "/q/*"}, "pool": "q"}]
    table = snapshot(
        {"pools": [pool("p", endpoint("a", "m")), pool("q", endpoint("bb", "n"))], "routes": routes}
    )
    assert match(table, head("/q/x"), "n") == ("r", "q", ["bb"])
    assert match(table, head("/q/x"), "m") == ("r", None, None)
    assert match(table, head("/q/x")) == ("r", "q", ["bb"])


def test_without_a_model_the_default_pool_serves() -> None:
    pools = [pool("p", endpoint("a", "m")), pool("q", endpoint("bb", "n"), default=True)]
    assert match(snapshot({"pools": pools}), head()) == ("default", "q", ["bb"])
    assert match(snapshot({"pools": pools[:1]}), head()) == ("default", "p", ["a"])


def test_without_a_model_and_a_default_pool_nobody_serves() -> None:
    pools = [pool("p", endpoint("a", "m")), pool("q", endpoint("bb", "n"))]
    assert match(snapshot({"pools": pools}), head()) == ("default", None, None)


def test_thousands_of_models_are_found_each_at_its_own_endpoint() -> None:
    endpoints = [
        {"name": f"e{i}", "url": f"http://10.0.{i // 256}.{i % 256}:1", "models": [f"m{i}", f"n{i}"]}
        for i in range(1000)
    ]
    table = snapshot({"pools": [pool("p", *endpoints)]})
    for i in range(0, 1000, 7):
        assert match(table, head(), f"m{i}") == ("default", "p", [f"e{i}"])
        assert match(table, head(), f"n{i}") == ("default", "p", [f"e{i}"])
    assert match(table, head(), "m1000")[1] is None


# ---- globs


@given(st.text("ab*.", max_size=12), st.text("abAB.*", max_size=16), st.booleans())
def test_globs_are_those_of_a_regular_expression(pattern: str, text: str, ignores_case: bool) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    expected = re.fullmatch(expression, text, (re.IGNORECASE if ignores_case else 0) | re.DOTALL)
    assert glob(pattern, text, ignores_case) == bool(expected)


def test_a_glob_with_many_stars_ends_soon() -> None:
    assert not glob("a*" * 100 + "b", "a" * 200)

"""While parts of a configuration cannot be read, what is wrong elsewhere is reported, and nothing that would
go away once those are set right.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from router.config import ConfigError, parse_config
from router.schema.faults import Path, dotted

FAULTY: dict[str, Any] = {
    "listeners": [{"address": "h:1"}, {"address": "h:1"}, {"address": "nowhere"}],
    "admin": {"address": "0.0.0.0:9090"},
    "limits": {"head_bytes_max": 8192, "target_bytes_max": 16384},
    "timeouts": {"total_ms": 1000, "idle_ms": 2000, "connect_ms": 10},
    "trusted_proxies": ["10.0.0.0/8", "10.0.0.1/8"],
    "access_log": {"path": "/nowhere/at/all/x.log"},
    "aliases": {"best": ["one", "none", {"model": "one"}], "two": ["one"]},
    "pools": [
        {
            "name": "a",
            "default": True,
            "endpoints": [
                {"name": "e", "url": "http://h:1", "models": ["one"], "model_rewrite": {"other": "x"}},
                {"name": "e", "url": "http://h:1/v1", "models": ["two", "two"], "models_resident_max": 1},
                {"url": "http://h:3", "models": ["three"], "tls": {"cert_file": "/none"}, "region": "eu"},
            ],
        },
        {"name": "b", "default": True, "endpoints": [{"url": "http://h:4", "models": ["one"]}]},
        {"name": "c", "endpoints": [{"url": "http://h:5"}]},
        {"name": "c", "endpoints": [{"url": "http://h:3", "price": {"gpu_hour": 1}}]},
    ],
    "routes": [
        {"name": "r", "match": {"path": "/a/*"}, "pool": "nothing"},
        {"name": "r", "match": {"path": "/a/*"}, "require": {"regions": ["us"]}},
        {"name": "s", "match": {"model": "[x]"}, "timeouts": {"total_ms": 1500, "first_byte_ms": 1800}},
    ],
}
SOUND: dict[str, Any] = {
    "listeners": [{"address": "127.0.0.1:9090"}, {"address": "h:2"}],
    "admin": {"address": "0.0.0.0:8080", "token": "x"},
    "limits": {
        "head_bytes_max": 65536,
        "target_bytes_max": 65536,
        "upstream_connections_per_endpoint_max": 2000,
    },
    "timeouts": {"total_ms": 900_000, "idle_ms": 800_000},
    "aliases": {"best": ["one", "two"]},
    "pools": [
        {
            "name": "a",
            "endpoints": [
                {"name": "e", "url": "http://h:1", "models": ["one", "x"], "model_rewrite": {"x": "y"}},
                {"name": "f", "url": "http://h:2", "models": ["two"], "model_load_ms": {"two": 5}},
                {"name": "h:9", "url": "http://h:3", "models": ["z"], "models_resident_max": 1}
                | {"model_load_ms": {"z": 1}, "region": "eu", "labels": {"k": "v"}, "capabilities": ["c"]},
            ],
        },
        {
            "name": "b",
            "endpoints": [
                {"name": "g", "url": "http://h:9", "models": ["one"]},
                {"name": "g2", "url": "http://h:8"},
            ],
        },
        {"name": "c", "endpoints": [{"name": "h:4", "url": "http://h:7"}]},
    ],
    "routes": [
        {"name": "r", "match": {"path": "/a/*"}, "pool": "b", "timeouts": {"idle_ms": 850_000}},
        {"name": "s", "match": {"path": "/b/*"}, "pool": "c"},
        {"name": "t", "match": {"model": "one"}, "require": {"regions": ["eu"]}, "pool": "a"}
        | {"may_require": {"it": {"capabilities": ["c"], "labels": {"k": "v"}}}},
    ],
}


def problems_of(values: Any) -> set[str]:
    """Where it is wrong."""
    try:
        parse_config(json.dumps(values), "f.json", {})
    except ConfigError as exc:
        return {problem.path for problem in exc.problems}
    return set()


def places(values: Any, path: Path = ()) -> Iterator[Path]:
    """Of every value in `values`."""
    for step, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, step)
        if isinstance(value, dict | list):
            yield from places(value, (*path, step))


def damaged(values: Any, path: Path, how: str) -> tuple[Any, set[str]]:
    """`values` with one thing wrong at `path`, and where that may be said."""
    values = copy.deepcopy(values)
    around = values
    for step in path[:-1]:
        around = around[step]
    own = {dotted(path), dotted(path[:-1])}
    if how == "wrong type":
        around[path[-1]] = [[]]
        return values, {*own, dotted((*path, 0))}
    if isinstance(around, dict):
        name = f"{path[-1]}_x"
        around[name] = around.pop(path[-1])
        own |= {dotted((*path[:-1], name))}
    return values, own


@pytest.mark.parametrize("how", ["wrong type", "misspelt"])
@pytest.mark.parametrize("values", [FAULTY, SOUND], ids=["faulty", "sound"])
def test_nothing_is_reported_that_goes_away_with_another_fault(values: Any, how: str) -> None:
    assert bool(problems_of(values)) == (values is FAULTY)
    for path in places(values):
        # Names that the file makes up may be any, so that another one is another configuration.
        if how == "misspelt" and path[-2:-1] in {("aliases",), ("may_require",), ("model_rewrite",)}:
            continue
        if how == "misspelt" and path[-2:-1] in {("model_load_ms",), ("labels",)}:
            continue
        worse, own = damaged(values, path, how)
        assert problems_of(worse) - own <= problems_of(values), (dotted(path), how)


def test_what_does_not_hang_on_a_fault_is_reported_beside_it() -> None:
    everything = problems_of(FAULTY)
    assert len(everything) >= 20
    # One wrong number, one unknown key: nothing else hangs on them.
    beside = {**copy.deepcopy(FAULTY), "workers": "many", "sessions": {}}
    assert problems_of(beside) >= {*everything, "workers", "sessions"}


def test_faults_keep_their_places_when_others_before_them_cannot_be_read() -> None:
    values = copy.deepcopy(FAULTY)
    values["listeners"].insert(0, 7)
    values["pools"][0]["endpoints"].insert(0, {"url": 7})
    values["pools"].insert(0, {"name": "z", "endpoints": []})
    found = problems_of(values)
    assert {"listeners[0]", "pools[0].endpoints", "pools[1].endpoints[0].url"} <= found
    assert {"listeners[2].address", "listeners[3].address", "pools[1].endpoints[2].url"} <= found
    assert {"pools[1].endpoints[2].name", "pools[2].default", "routes[1].name"} <= found


def test_without_a_single_readable_pool_the_rest_is_looked_at() -> None:
    found = problems_of({"pools": 7, "listeners": [{"address": "nowhere"}], "routes": FAULTY["routes"][:2]})
    assert found == {"pools", "listeners[0].address", "routes[1]", "routes[1].name"}

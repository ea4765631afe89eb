"""Aliases as the configuration has them: what an order means, what is refused and what would be right."""

from __future__ import annotations

import pytest

from router.config import ConfigError, parse_config
from router.reference import json_schema
from router.schema.aliases import QUALITY_COST_STEP_MS, AliasModel, quality_costs_ms
from router.snapshot import build_tables, route_names

POOLS = "pools: [{name: a, endpoints: [{url: 'http://h:1', models: [llama-70b, llama-8b]}]}]\n"
OPEN_POOLS = "pools: [{name: a, endpoints: [{url: 'http://h:1'}]}]\n"


def problem_of(text: str) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml", {})
    (problem,) = caught.value.problems
    return problem.path, problem.message, problem.expected


def test_each_place_down_the_list_costs_quality_unless_it_says_what() -> None:
    models = (
        "a",
        AliasModel(model="b"),
        AliasModel(model="c", quality_cost_ms=0),
        "d",
    )
    step = QUALITY_COST_STEP_MS
    assert quality_costs_ms(models) == {"a": 0, "b": step, "c": 0, "d": 3 * step}


def test_names_and_mappings_mix_in_a_list() -> None:
    config = parse_config(
        POOLS + "aliases: {chat: [llama-70b, {model: llama-8b, quality_cost_ms: 200}]}", "f.yaml", {}
    )
    assert config.aliases == {"chat": ("llama-70b", AliasModel(model="llama-8b", quality_cost_ms=200))}
    names = [endpoint.name for pool in config.pools for endpoint in pool.endpoints]
    tables = build_tables(
        config, dict.fromkeys(names, 0), {name: index for index, name in enumerate(route_names(config))}
    )
    (alias,) = tables.aliases
    assert [(model.name, model.quality_s) for model in alias.models] == [
        ("llama-70b", 0.0),
        ("llama-8b", 0.2),
    ]
    assert tables.models == ("chat", "llama-70b", "llama-8b")


def test_a_name_that_json_escapes_is_kept_as_it_stands_there() -> None:
    config = parse_config(
        """
        pools: [{name: a, endpoints: [{url: 'http://h:1', models: ['say "hi"']}]}]
        aliases: {chat: ['say "hi"']}
        """,
        "f.yaml",
        {},
    )
    tables = build_tables(config, {"h:1": 0}, {"default": 0})
    assert tables.aliases[0].models[0].json_name == 'say \\"hi\\"'


@pytest.mark.parametrize(
    ("aliases", "path", "message", "expected"),
    [
        ("{chat: [lama-70b]}", "aliases.chat[0]", "no endpoint serves 'lama-70b'", "'llama-70b' perhaps"),
        (
            "{chat: [{model: lama-70b}]}",
            "aliases.chat[0].model",
            "no endpoint serves 'lama-70b'",
            "'llama-70b' perhaps",
        ),
        ("{llama-8b: [llama-70b]}", "aliases.llama-8b", "is a model that endpoints serve", "a name that no"),
        ("{chat: []}", "aliases.chat", "0 entries", "a list of 1 to 8 items"),
        ("{chat: [llama-8b, llama-8b]}", "aliases.chat[1]", "is named twice", "each model once"),
        ("{a: [llama-8b], b: [a]}", "aliases.b[0]", "is an alias itself", "a model that endpoints serve"),
        ("{a: [a]}", "aliases.a[0]", "is an alias itself", "a model that endpoints serve"),
        ("{chat: llama-8b}", "aliases.chat", "'llama-8b' is not a list", "a list of 1 to 8 items"),
        ("{chat: [7]}", "aliases.chat[0]", "", ""),
        (
            "{chat: [{model: llama-8b, cost: 1}]}",
            "aliases.chat[0].cost",
            "unknown key 'cost'",
            "one of: model",
        ),
        (
            "{chat: [{model: llama-8b, quality_cost_ms: -1}]}",
            "aliases.chat[0].quality_cost_ms",
            "-1 is not allowed here",
            "an integer from 0",
        ),
    ],
)
def test_bad_aliases_are_reported_with_their_place(
    aliases: str, path: str, message: str, expected: str
) -> None:
    found = problem_of(POOLS + f"aliases: {aliases}")
    assert found[0] == path
    assert message in found[1]
    assert expected in found[2]


def test_behind_an_alias_may_stand_any_name_where_an_endpoint_takes_any() -> None:
    assert parse_config(OPEN_POOLS + "aliases: {chat: [whatever]}", "f.yaml", {}).aliases


def test_the_schema_takes_both_forms() -> None:
    models = json_schema()["$defs"]["Config"]["properties"]["aliases"]["additionalProperties"]
    assert models["maxItems"] == 8
    assert "anyOf" in models["items"]

"""Requirements: what they are made of, what no endpoint meets is refused, and bits that a pick can AND."""

from __future__ import annotations

import pytest

from router import limits
from router.config import ConfigError, parse_config
from router.schema.eligibility import Condition, Requirement, conditions_of, distinct_conditions
from router.snapshot import Tables, build_tables, route_names

ENDPOINTS = """
  - {url: 'http://h:1', name: eu, region: eu-west, labels: {tier: gold}, capabilities: [tools, vision]}
  - {url: 'http://h:2', name: us, region: us-east, labels: {tier: gold}, capabilities: [tools]}
  - {url: 'http://h:3', name: lab}
"""
POOLS = f"pools:\n- name: a\n  endpoints:{ENDPOINTS}"


def tables_of(text: str) -> Tables:
    config = parse_config(POOLS + text, "f.yaml", {})
    return build_tables(
        config,
        {name: slot for slot, name in enumerate(("eu", "us", "lab"))},
        {name: index for index, name in enumerate(route_names(config))},
    )


def problems_of(text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(POOLS + text, "f.yaml", {})
    return [(problem.path, problem.message, problem.expected) for problem in caught.value.problems]


def test_a_requirement_is_all_of_its_conditions() -> None:
    requirement = Requirement(
        regions=("eu-west", "eu-central"), labels={"tier": "gold"}, capabilities=("tools", "vision", "tools")
    )
    assert [str(condition) for condition in conditions_of(requirement)] == [
        "region eu-central or eu-west",
        "label tier=gold",
        "capability tools",
        "capability vision",
    ]
    assert conditions_of(Requirement()) == []


def test_regions_in_another_order_are_the_same_condition() -> None:
    assert distinct_conditions([Requirement(regions=("a", "b")), Requirement(regions=("b", "a", "b"))]) == [
        Condition("region", "", ("a", "b"))
    ]


def test_conditions_are_bits_of_endpoints_and_routes() -> None:
    tables = tables_of(
        """
routes:
- {name: plain, match: {path: /plain}}
- name: strict
  require: {regions: [eu-west, eu-north], capabilities: [tools]}
  may_require: {seeing: {capabilities: [vision]}, both: {labels: {tier: gold}, capabilities: [tools]}}
"""
    )
    assert tables.conditions == (
        *("region eu-north or eu-west", "capability tools", "capability vision", "label tier=gold"),
    )
    assert [endpoint.features for endpoint in tables.endpoints] == [0b1111, 0b1010, 0]
    plain, strict, default = tables.routes
    assert (plain.required, default.required, strict.required) == (0, 0, 0b0011)
    assert strict.may_require == (("seeing", 0b0100), ("both", 0b1010))


def test_what_is_required_changes_no_endpoints_identity() -> None:
    identities = [
        [endpoint.identity for endpoint in tables_of(routes).endpoints]
        for routes in ("", "routes: [{name: r, require: {capabilities: [tools]}}]")
    ]
    assert identities[0] == identities[1]


@pytest.mark.parametrize(
    ("route", "path", "message", "expected"),
    [
        (
            "require: {capabilities: [visoin]}",
            "routes[0].require",
            "no endpoint of the route's pools meets capability visoin",
            "'vision' perhaps",
        ),
        (
            "require: {regions: [eu-wst]}",
            "routes[0].require",
            "no endpoint of the route's pools meets region eu-wst",
            "'eu-west' perhaps",
        ),
        (
            "require: {labels: {teir: gold}}",
            "routes[0].require",
            "no endpoint of the route's pools meets label teir=gold",
            "something that is there",
        ),
        (
            "require: {regions: [us-east], capabilities: [vision]}",
            "routes[0].require",
            "meets all of region us-east, capability vision",
            "one that does",
        ),
        (
            "require: {regions: [us-east]}, may_require: {seeing: {capabilities: [vision]}}",
            "routes[0].may_require.seeing",
            "meets all of region us-east, capability vision",
            "one that does",
        ),
        ("may_require: {idle: {}}", "routes[0].may_require.idle", "nothing is required", "regions, labels"),
    ],
)
def test_what_nobody_can_meet_is_refused(route: str, path: str, message: str, expected: str) -> None:
    ((found_path, found_message, found_expected),) = problems_of(f"routes: [{{name: r, {route}}}]")
    assert found_path == path
    assert message in found_message
    assert expected in found_expected


def test_only_pools_of_the_route_count() -> None:
    text = """
- {name: b, endpoints: [{url: 'http://h:4', models: [m]}]}
routes: [{name: r, pool: b, require: {capabilities: [tools]}}]
"""
    ((_path, message, _expected),) = problems_of(text)
    assert "capability tools" in message


def test_conditions_are_bounded() -> None:
    labels = ", ".join(f"l{number}: x" for number in range(32))
    more = ", ".join(f"m{number}: x" for number in range(32))
    pool = (
        f"pools: [{{name: a, endpoints: [{{url: 'http://h:1', region: r, labels: {{{labels}}}}},"
        f" {{url: 'http://h:2', region: r, labels: {{{more}}}}}]}}]\n"
    )
    routes = (
        f"routes: [{{name: a, match: {{path: /a}}, require: {{labels: {{{labels}}}}}}},"
        f" {{name: b, match: {{path: /b}}, require: {{labels: {{{more}}}}}}}"
    )
    parse_config(pool + routes + "]", "f.yaml", {})
    with pytest.raises(ConfigError) as caught:
        parse_config(pool + routes + ", {name: c, require: {regions: [r]}}]", "f.yaml", {})
    assert f"{limits.CONDITIONS_MAX + 1} different conditions" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "passed_on"), [("", 0.0), ("cost_weight: 2.5, ", 2.5), ("cost_weight: 0, ", -1.0)]
)
def test_money_of_a_route_is_its_policys_unless_it_says(written: str, passed_on: float) -> None:
    tables = tables_of(f"routes: [{{{written}name: r}}]")
    assert tables.routes[0].cost_weight_s == passed_on

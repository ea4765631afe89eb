"""Doubts about a document: pools that are down, models that nobody has."""

from control.validation import FleetFacts, doubts_of
from router.config import parse_document
from router.schema.policy_document import PolicyDocument

POOLS = """
pools:
  - name: chat
    default: true
    endpoints: [{name: a, url: "http://a:1", models: [m1]}, {name: b, url: "http://b:1", models: [m1, m2]}]
  - name: code
    endpoints: [{name: c, url: "http://c:1", models: [coder], model_rewrite: {coder: real-coder}}]
"""


def doubts(text: str, **facts: object) -> list[tuple[str, str]]:
    document = PolicyDocument.of(parse_document(POOLS + text))
    return [(doubt.path, doubt.message) for doubt in doubts_of(document, FleetFacts(**facts))]  # type: ignore[arg-type]


def test_a_sound_document_leaves_no_doubt() -> None:
    routes = "routes: [{name: r, match: {model: 'm*'}}, {name: s, match: {model: coder}}, {name: rest}]"
    assert doubts(routes, down={"a": "refused"}, models={"c": {"real-coder"}}) == []


def test_a_pool_is_in_doubt_when_all_of_its_endpoints_are_down_and_not_before() -> None:
    ((path, message),) = doubts("", down={"a": "timed out", "b": "refused"})
    assert path == "pools[0]"
    assert "'chat'" in message
    assert "a: timed out; b: refused" in message


def test_a_model_that_the_engine_does_not_serve_is_said_by_the_name_it_has_there() -> None:
    ((path, message),) = doubts("", models={"c": {"another"}})
    assert path == "pools[1].endpoints[0].models"
    assert "'real-coder'" in message
    assert "another" in message


def test_a_route_for_a_model_that_nobody_has_is_in_doubt_but_not_where_an_endpoint_takes_any() -> None:
    routes = "routes: [{name: r, match: {model: 'gpt-*'}}]"
    ((path, _message),) = doubts(routes)
    assert path == "routes[0].match.model"
    text = 'pools: [{name: p, endpoints: [{url: "http://a:1"}]}]\n' + routes
    assert doubts_of(PolicyDocument.of(parse_document(text)), FleetFacts()) == []

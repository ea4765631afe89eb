"""The table of policies: one order, one number and one default for each, in Python and in native code."""

import re
from pathlib import Path

import pytest

from router.config import ConfigError, parse_config
from router.schema.engines import CLASSES, EngineFigures, class_number, figures_of
from router.schema.policies import (
    POLICIES,
    BasePolicy,
    KeyedPolicy,
    Llmd,
    PolicyError,
    parse_policy,
    policy_names,
    read_policy,
)
from router.snapshot import build_tables

NATIVE = Path(__file__).parents[2] / "router" / "native"
ENUMERATOR = re.compile(r"^    ([A-Z][A-Z0-9_]*) = (\d+)\b", re.MULTILINE)
ISSUE_ORDER = (
    "round_robin random weighted p2c least_in_flight peak_ewma prequal rendezvous ring bounded_ring maglev "
    "smg_cache_aware loadaware llmd sticky dynamo lmetric smetric mooncake five_axis"
)


def enumerators(name: str) -> dict[str, int]:
    text = (NATIVE / name).read_text(encoding="utf-8")
    return {word: int(number) for word, number in ENUMERATOR.findall(text)}


def test_policies_are_shown_in_the_order_they_were_asked_for() -> None:
    assert policy_names() == ISSUE_ORDER.split()


def test_kinds_are_those_of_native_code() -> None:
    native = {word: kind for word, kind in enumerators("policy.pxd").items() if word.startswith("POLICY_")}
    count = native.pop("POLICY_COUNT")
    assert {f"POLICY_{name.upper()}": policy.KIND for name, policy in POLICIES.items()} == native
    assert sorted(native.values()) == list(range(count))


def test_knobs_have_their_places_of_native_code() -> None:
    native = enumerators("policy.pxd")
    native = {w: at for w, at in native.items() if not w.startswith("POLICY_") and w != "KNOBS_MAX"}
    five_axis = enumerators("policy_five_axis.pxd")
    native |= {f"FIVE_AXIS_{word[5:]}": at for word, at in five_axis.items() if word.startswith("KNOB_")}
    assert {
        f"{name}_{knob}".upper(): at
        for name, policy in POLICIES.items()
        for at, knob in enumerate(policy.knob_names())
    } == native


def test_no_policy_has_more_knobs_than_native_code_has_room_for() -> None:
    knobs_max = enumerators("policy.pxd")["KNOBS_MAX"]
    assert max(len(policy.knob_names()) for policy in POLICIES.values()) <= knobs_max


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_policy_says_what_it_does_and_where_that_is_from(policy: type[BasePolicy]) -> None:
    assert policy.__doc__
    assert policy.SOURCE
    assert len(policy().knobs()) == len(policy.knob_names())


def test_a_policy_is_read_with_its_knobs() -> None:
    assert parse_policy("p2c") == (0, ())
    assert parse_policy("llmd") == (13, (3.0, 2.0, 2.0, 50.0))
    assert parse_policy("llmd:poll_ms=200:prefix_weight=1.5") == (13, (1.5, 2.0, 2.0, 200.0))
    assert read_policy("llmd:poll_ms=200") == Llmd(poll_ms=200)
    assert read_policy("maglev:key=user").key == "user"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lmd", "unknown policy 'lmd', did you mean 'llmd'?"),
        ("", "unknown policy ''; there are round_robin"),
        ("llmd:poll=3", "llmd has no knob 'poll', did you mean 'poll_ms'?"),
        ("p2c:x=1", "p2c has no knob 'x'; it has: none"),
        ("llmd:poll_ms", "'poll_ms' is not knob=value"),
        ("llmd:poll_ms=-1", "poll_ms is -1; it must be a number from 0 to 600000"),
        ("llmd:poll_ms=soon", "poll_ms is 'soon'; it must be a number"),
        ("llmd:poll_ms=nan", "poll_ms is nan"),
        ("llmd:poll_ms=inf", "poll_ms is inf"),
        ("prequal:pool=2.5", "pool is 2.5; it must be an integer from 1 to 64"),
        ("prequal:pool=3:pool=4", "pool is given twice"),
        ("ring:key=nobody", "key is nobody; it must be one of: header, user, prompt"),
        ("ring:type=p2c", "ring has no knob 'type'"),
    ],
)
def test_a_policy_set_wrongly_is_refused_with_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_configured_for_a_pool_and_a_route(name: str) -> None:
    policy = POLICIES[name]
    knobs = "".join(f", {knob}: 1" for knob in policy.knob_names())
    config = parse_config(
        f"pools:\n- name: a\n  policy: {{type: {name}{knobs}}}\n  endpoints: [{{url: http://h:1}}]\n"
        f"routes:\n- name: r\n  policy: {{type: {name}}}\n",
        "f.yaml",
        {},
    )
    tables = build_tables(config, {"h:1": 3}, {"r": 0, "default": 1})
    pool, route = tables.pools[0].policy, tables.routes[0].policy
    assert (pool.kind, pool.knobs) == (policy.KIND, (1.0,) * len(policy.knob_names()))
    assert route is not None
    assert (route.kind, route.knobs) == (policy.KIND, policy().knobs())
    assert (pool.key_source != 0) == issubclass(policy, KeyedPolicy)


@pytest.mark.parametrize("number", [".nan", ".inf", "-1"])
def test_a_knob_that_is_no_sensible_number_is_refused(number: str) -> None:
    text = f"pools:\n- name: a\n  policy: {{type: llmd, poll_ms: {number}}}\n  endpoints: [{{url: http://h:1}}]\n"
    with pytest.raises(ConfigError):
        parse_config(text, "f.yaml", {})


def test_figures_are_those_given_else_of_the_class_else_a_first_guess() -> None:
    prices = {"input_price": 1e-6, "output_price": 0.0, "second_price": 0.0, "rtt_s": 0.002}
    given = figures_of("8b-h100", EngineFigures(prefill_us_per_token=30.0), 5, **prices)
    assert given.token_s == pytest.approx(30e-6)
    assert given.floor_s == pytest.approx(5.6e-3)
    assert given.kv_capacity_tokens == 400_000
    assert (given.engine_class, given.input_price, given.rtt_s) == (
        list(CLASSES).index("8b-h100"),
        1e-6,
        0.002,
    )
    unknown = figures_of(None, EngineFigures(), 5, **prices)
    assert unknown.token_s == pytest.approx(66.5e-6)
    assert unknown.kv_capacity_tokens == 0


def test_endpoints_of_a_class_learn_together_and_others_alone() -> None:
    assert class_number("8b-h100", 1) == class_number("8b-h100", 2) < 16
    assert class_number(None, 1) != class_number(None, 2)
    assert {class_number(None, slot) for slot in range(2000)} == set(range(16, 256))


def test_what_is_believed_of_an_engine_does_not_change_an_endpoints_identity() -> None:
    def identity(more: str) -> str:
        text = f"pools:\n- name: a\n  endpoints: [{{url: http://h:1{more}}}]\n"
        return (
            build_tables(parse_config(text, "f.yaml", {}), {"h:1": 3}, {"default": 0}).endpoints[0].identity
        )

    assert identity("") == identity(", engine_class: 8b-l40s, rtt_ms: 3, price: {gpu_hour: 2}")
    assert identity("") != identity(", model_rewrite: {a: b}")

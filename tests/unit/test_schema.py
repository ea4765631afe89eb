"""The schema itself: what it says together, what it refuses together, and the pages made from it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router import limits
from router.config import ConfigError, parse_config, redacted
from router.reference import command_page, configuration_page, json_schema
from router.schema.address import (
    EndpointUrl,
    TcpAddress,
    UnixAddress,
    is_loopback,
    parse_address,
    parse_endpoint_url,
)
from router.schema.config import Config
from router.schema.secret import Secret
from router.schema.timeouts import RouteTimeouts, Timeouts, effective_timeouts

DOCS = Path(__file__).parents[2] / "docs"
POOL = "pools: [{name: a, endpoints: [{url: 'http://h:1'}]}]"


def faults_of(text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml", {})
    return [(problem.line, problem.path, problem.message) for problem in caught.value.problems]


# ---- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("[0:0::1]:1", TcpAddress("::1", 1)),
        ("LocalHost:80", TcpAddress("localhost", 80)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
    ],
)
def test_addresses_of_every_kind_are_read(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:0", "h:65535", "unix:/run/x.sock"])
def test_addresses_print_as_they_are_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        ":80",
        "h:",
        "h:x",
        "h:65536",
        "h:-1",
        "::1:80",
        "[::1]",
        "[::1:80",
        "[h]:1",
        "300.1.1.1:1",
        "1.2.3:1",
        "h h:1",
        "h\n:1",
        "h:1\n",
        "-h:1",
        "unix:x",
        "unix:",
        "unix:/" + "x" * 107,
        "http://h:1",
        "é:1",
        "h:\uff11",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback_is_told_from_reachable(text: str, loopback: bool) -> None:
    assert is_loopback(parse_address(text)) is loopback


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("http://h", EndpointUrl(False, "h", 80, ""), "h"),
        ("https://h", EndpointUrl(True, "h", 443, ""), "h"),
        ("HTTP://H:443/", EndpointUrl(False, "h", 443, ""), "h:443"),
        ("http://[fd00::1]:80/a/b/", EndpointUrl(False, "fd00::1", 80, "/a/b"), "[fd00::1]"),
        ("https://10.0.0.1:8443/x", EndpointUrl(True, "10.0.0.1", 8443, "/x"), "10.0.0.1:8443"),
    ],
)
def test_endpoint_urls_are_taken_apart(text: str, url: EndpointUrl, authority: str) -> None:
    assert parse_endpoint_url(text) == url
    assert url.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:1",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://h:0",
        "http://h:99999",
        "http://h/?q",
        "http://h/#f",
        "http://h/a b",
        "http://h/a//b",
        "http://h/../x",
        "http://[::g]",
        "http://1.2.3.4.5",
        "http://h\t",
        "http://h/\x7f",
        " http://h",
    ],
)
def test_bad_endpoint_urls_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_endpoint_url(text)


# ---- faults between fields

FAULTS: dict[str, tuple[str, list[tuple[int, str, str]]]] = {
    "listeners with one address": (
        f"listeners:\n- address: h:1\n- address: H:1\n{POOL}",
        [(3, "listeners[1].address", "'H:1' is taken by listeners[0].address")],
    ),
    "admin on a listener's address": (
        f"listeners: [{{address: '127.0.0.1:9'}}]\nadmin: {{address: '127.0.0.1:9'}}\n{POOL}",
        [(2, "admin.address", "'127.0.0.1:9' is taken by listeners[0].address")],
    ),
    "admin open to the world": (
        f"admin: {{address: '[::]:9090'}}\n{POOL}",
        [
            (
                1,
                "admin.token",
                "the admin address '[::]:9090' can be reached from other hosts, and no token guards it",
            )
        ],
    ),
    "relative runtime folder": (
        f"runtime_dir: run\n{POOL}",
        [(1, "runtime_dir", "'run' is relative")],
    ),
    "timeouts beyond the total": (
        f"timeouts:\n  total_ms: 1000\n  idle_ms: 2000\n{POOL}",
        [(3, "timeouts.idle_ms", "2000 is more than total_ms, which is 1000")],
    ),
    "limits that contradict": (
        f"limits: {{target_bytes_max: 40000}}\n{POOL}",
        [(1, "limits.target_bytes_max", "40000 is more than head_bytes_max, which is 32768")],
    ),
    "route's total below the global first byte": (
        f"timeouts: {{first_byte_ms: 5000}}\n{POOL}\nroutes:\n- name: r\n  timeouts: {{total_ms: 3000}}",
        [(5, "routes[0].timeouts.total_ms", "3000 is less than first_byte_ms, which is 5000")],
    ),
    "route's first byte beyond its total": (
        f"{POOL}\nroutes:\n- name: r\n  timeouts: {{total_ms: 3000, first_byte_ms: 4000}}",
        [(4, "routes[0].timeouts.first_byte_ms", "4000 is more than total_ms, which is 3000")],
    ),
    "pools of one name": (
        "pools:\n- name: a\n  endpoints: [{url: 'http://h:1', models: [x]}]\n- name: a\n"
        "  endpoints: [{url: 'http://h:2'}]",
        [(4, "pools[1].name", "pools[0] is named 'a' too")],
    ),
    "two default pools": (
        "pools:\n- {name: a, default: true, endpoints: [{url: 'http://h:1', models: [x]}]}\n"
        "- {name: b, default: true, endpoints: [{url: 'http://h:2', models: [y]}]}",
        [(3, "pools[1].default", "pools[0] is the default pool already")],
    ),
    "endpoints of one name": (
        "pools:\n- name: a\n  endpoints: [{url: 'http://h:1', models: [x], name: e}]\n"
        "- name: b\n  endpoints: [{url: 'http://h:2', name: e}]",
        [(5, "pools[1].endpoints[0].name", "the name 'e' is that of pools[0].endpoints[0] too")],
    ),
    "one address twice in a pool": (
        "pools:\n- name: a\n  endpoints:\n  - url: http://h:1\n  - {url: 'http://H:1/', name: other}",
        [(5, "pools[0].endpoints[1].url", "'http://H:1/' is the address of pools[0].endpoints[0] too")],
    ),
    "URL without a scheme": (
        "pools: [{name: a, endpoints: [{url: 'h:1'}]}]",
        [(1, "pools[0].endpoints[0].url", "'h:1': no scheme")],
    ),
    "URL with a password": (
        "pools: [{name: a, endpoints: [{url: 'http://u:p@h'}]}]",
        [
            (
                1,
                "pools[0].endpoints[0].url",
                "'http://u:p@h': user names and passwords do not belong in a URL; use auth",
            )
        ],
    ),
    "URL that ends in /v1": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1/v1'}]}]",
        [
            (
                1,
                "pools[0].endpoints[0].url",
                "'http://h:1/v1' would send /v1/chat/completions to /v1/v1/chat/completions",
            )
        ],
    ),
    "rewrite of a model that is not served": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', models: [x],\n model_rewrite: {y: z}}]}]",
        [
            (
                2,
                "pools[0].endpoints[0].model_rewrite.y",
                "'y' is not among this endpoint's models, so that nobody can ask for it",
            )
        ],
    ),
    "load of a model that is not served": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', models: [x],\n model_load_ms: {y: 1}}]}]",
        [
            (
                2,
                "pools[0].endpoints[0].model_load_ms.y",
                "'y' is not among this endpoint's models, so that nobody can ask for it",
            )
        ],
    ),
    "places for models that never load": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1',\n models_resident_max: 2}]}]",
        [(2, "pools[0].endpoints[0].models_resident_max", "no model is loaded on demand here")],
    ),
    "model named twice": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', models: [x, x]}]}]",
        [(1, "pools[0].endpoints[0].models", "a model is named twice")],
    ),
    "two prices": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1',\n"
        " price: {gpu_hour: 1, input_per_million_tokens: 1}}]}]",
        [(2, "pools[0].endpoints[0].price.gpu_hour", "priced by the hour and by tokens")],
    ),
    "two keys": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', auth: {bearer: k, pass_client_key: true}}]}]",
        [
            (
                1,
                "pools[0].endpoints[0].auth.pass_client_key",
                "the client's key and a key of our own cannot both be sent",
            )
        ],
    ),
    "key with a line end": (
        'pools: [{name: a, endpoints: [{url: "http://h:1", auth: {bearer: "k\\r\\nx: y"}}]}]',
        [(1, "pools[0].endpoints[0].auth.bearer", "the secret has spaces, controls or non-ASCII characters")],
    ),
    "TLS settings without TLS": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', tls: {verify: false}}]}]",
        [(1, "pools[0].endpoints[0].tls", "TLS settings for 'http://h:1', which does not use TLS")],
    ),
    "certificate without key": (
        "pools: [{name: a, endpoints: [{url: 'https://h:1', tls: {cert_file: /x}}]}]",
        [(1, "pools[0].endpoints[0].tls.cert_file", "given without key_file")],
    ),
    "bad Host": (
        "pools: [{name: a, endpoints: [{url: 'http://h:1', host: 'h:99999'}]}]",
        [(1, "pools[0].endpoints[0].host", "'h:99999': port 99999 is over 65535")],
    ),
    "model in two pools": (
        "pools:\n- {name: a, endpoints: [{url: 'http://h:1', models: [x]}]}\n"
        "- {name: b, endpoints: [{url: 'http://h:2', models: [x]}]}",
        [(3, "pools[1].endpoints[0].models[0]", "requests for 'x' go to pool 'a', which comes first")],
    ),
    "two pools for any model": (
        "pools:\n- {name: a, endpoints: [{url: 'http://h:1'}]}\n"
        "- {name: b, default: true, endpoints: [{url: 'http://h:2'}]}",
        [(2, "pools[0]", "pools 'b' and 'a' both take any model")],
    ),
    "unknown pool": (
        f"{POOL}\nroutes:\n- {{name: r, pool: aa}}",
        [(3, "routes[0].pool", "there is no pool 'aa'")],
    ),
    "routes of one name": (
        f"{POOL}\nroutes:\n- {{name: r, match: {{path: /x}}}}\n- {{name: r, match: {{path: /y}}}}",
        [(4, "routes[1].name", "routes[0] is named 'r' too")],
    ),
    "route behind a catch-all": (
        f"{POOL}\nroutes:\n- {{name: all}}\n- {{name: r, match: {{path: /y}}}}",
        [(4, "routes[1]", "route 'all' comes first and takes every request that would match")],
    ),
    "route behind its twin": (
        f"{POOL}\nroutes:\n- {{name: q, match: {{path: /y}}}}\n- {{name: r, match: {{path: /y}}}}",
        [(4, "routes[1]", "route 'q' comes first and takes every request that would match")],
    ),
    "globs that mean something else": (
        f"{POOL}\nroutes:\n- name: r\n  match:\n    host: '*.x:80'\n    path: v1/**\n"
        "    model: 'llama-[78]b'\n    headers: {x-a: '{a,b}'}",
        [
            (5, "routes[0].match.host", "'*.x:80' is not a host name"),
            (6, "routes[0].match.path", "'v1/**' matches no path"),
            (6, "routes[0].match.path", "'v1/**' has ** in it"),
            (7, "routes[0].match.model", "'llama-[78]b' has brackets, which mean nothing here"),
            (8, "routes[0].match.headers.x-a", "'{a,b}' has brackets, which mean nothing here"),
        ],
    ),
    "header named twice": (
        f"{POOL}\nroutes:\n- {{name: r, match: {{headers: {{x-a: b, X-A: c}}}}}}",
        [
            (3, "routes[0].match.headers.x-a", "the header is named twice (case does not matter)"),
            (3, "routes[0].match.headers.X-A", "the header is named twice (case does not matter)"),
        ],
    ),
    "network with host bits": (
        f"trusted_proxies: [10.0.0.0/8, 10.0.0.1/8]\n{POOL}",
        [(1, "trusted_proxies[1]", "'10.0.0.1/8': 10.0.0.1/8 has host bits set")],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_between_fields_is_reported_with_its_place(name: str) -> None:
    text, faults = FAULTS[name]
    assert faults_of(text) == faults


def test_defaults_are_not_held_against_a_shorter_total() -> None:
    config = parse_config(f"timeouts: {{total_ms: 1000}}\n{POOL}", "f.yaml", {})
    assert config.timeouts.first_byte_ms > config.timeouts.total_ms


def test_total_of_zero_bounds_nothing() -> None:
    parse_config(
        f"timeouts: {{total_ms: 0, idle_ms: 2000}}\n{POOL}",
        "f.yaml",
        {},
    )


def test_listeners_may_all_ask_for_a_free_port() -> None:
    listeners = "listeners: [{address: 'h:0'}, {address: 'h:0'}]\nadmin: {address: '127.0.0.1:0'}\n"
    parse_config(listeners + f"{POOL}", "f.yaml", {})


def test_second_pool_for_a_model_is_reached_by_a_route() -> None:
    text = (
        "pools:\n- {name: a, endpoints: [{url: 'http://h:1', models: [x]}]}\n"
        "- {name: b, endpoints: [{url: 'http://h:2', models: [x]}]}\n"
        "routes: [{name: r, match: {host: h}, pool: b}]"
    )
    assert parse_config(text, "f.yaml", {}).default_pool is None


def test_endpoints_of_all_pools_together_are_bounded() -> None:
    half = limits.ENDPOINTS_MAX // 2 + 1
    pools = [
        {
            "name": name,
            "endpoints": [{"url": f"http://{name}{index}:1", "models": [name]} for index in range(half)],
        }
        for name in ("a", "b")
    ]
    assert faults_of(json.dumps({"pools": pools})) == [(1, "pools", f"{2 * half} endpoints")]


# ---- meaning


def test_route_timeouts_override_the_global_ones() -> None:
    merged = effective_timeouts(Timeouts(connect_ms=1, idle_ms=2), RouteTimeouts(idle_ms=3, total_ms=0))
    assert (merged.connect_ms, merged.idle_ms, merged.total_ms) == (1, 3, 0)


def test_configuration_never_changes() -> None:
    config = parse_config(f"{POOL}", "f.yaml", {})
    with pytest.raises(AttributeError):
        config.workers = 2  # type: ignore[misc]


def test_secrets_do_not_pickle() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        Secret("x").__reduce__()


def test_every_field_is_described_and_bounded() -> None:
    def walk(schema: dict[str, Any]) -> None:
        for definition in schema["$defs"].values():
            assert definition.get("description"), definition
            for name, field in definition.get("properties", {}).items():
                if name == "type":
                    continue
                assert field.get("description"), (definition["title"], name)
                for option in field.get("anyOf", [field]):
                    if option.get("type") in ("integer", "number"):
                        assert option.keys() & {"minimum", "exclusiveMinimum"}, name
                        assert "maximum" in option, name
                    elif option.get("type") in ("array", "object"):
                        assert "maxItems" in option or "maxProperties" in option, name

    walk(json_schema())


def test_every_bound_of_the_schema_takes_its_default() -> None:
    config = parse_config(f"{POOL}", "f.yaml", {})
    again = parse_config(json.dumps(redacted(config)), "f.json", {})
    assert again == config
    assert msgspec.structs.fields(Config)


# ---- pages


@pytest.mark.parametrize(
    ("name", "page"), [("configuration.md", configuration_page), ("cli.md", command_page)]
)
def test_committed_page_is_up_to_date(name: str, page: Any) -> None:
    committed = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert committed == page(), "run: python -m router.reference docs/reference"


def test_links_of_the_page_lead_somewhere() -> None:
    page = configuration_page()
    headings = {
        line[3:].lower().replace(" ", "-").translate(str.maketrans("", "", "(`:)"))
        for line in page.splitlines()
        if line.startswith("## ")
    }
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links <= headings

"""Configuration files in, `Config` or every problem with its exact place out."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from router import limits
from router.config import ConfigError, config_from_options, load_config, parse_config, redacted
from router.schema.config import Config, Engine
from router.schema.listening import TlsVersion
from router.schema.policies import BoundedRing, FiveAxis, HashKey, Rendezvous, policy_names
from router.schema.secret import MASK

EXAMPLE = Path(__file__).parents[2] / "docs" / "fairlead.example.yaml"
POOLS = "pools: [{name: a, endpoints: [{url: 'http://10.0.0.1:8000'}]}]\n"


def config_of(text: str, **environ: str) -> Config:
    return parse_config(textwrap.dedent(text), "f.yaml", environ)


def problems_of(
    text: str, file: str = "f.yaml", **environ: str
) -> list[tuple[int | None, int | None, str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(textwrap.dedent(text), file, environ)
    return [(p.line, p.column, p.path, p.message, p.expected) for p in caught.value.problems]


def the_problem_of(
    text: str, file: str = "f.yaml", **environ: str
) -> tuple[int | None, int | None, str, str, str]:
    problems = problems_of(text, file, **environ)
    assert len(problems) == 1, problems
    return problems[0]


# ---- what is read


def test_smallest_file_gets_every_default() -> None:
    config = config_of(POOLS)
    assert config.listeners[0].address == "127.0.0.1:8080"
    assert config.timeouts.connect_ms == 2000
    assert config.limits.head_bytes_max == limits.HEAD_BYTES_DEFAULT
    assert config.pools[0].endpoints[0].name == "10.0.0.1:8000"
    assert config.pools[0].policy == FiveAxis()
    assert config.default_pool is config.pools[0]


def test_example_checks_clean() -> None:
    config = load_config(EXAMPLE, {})
    first, second = config.pools[0].endpoints
    assert first.engine is second.engine is Engine.VLLM
    assert second.models == first.models
    assert (second.url, second.zone, second.weight) == ("http://10.0.0.2:8000", "b", 2.0)
    assert config.pools[1].policy == BoundedRing(key=HashKey.USER, load_factor=1.5)
    assert config.routes[-1].policy == Rendezvous(key=HashKey.HEADER, header="x-session-id")


def test_json_is_read_like_yaml() -> None:
    text = '{\n\t"workers": 1e0,\n\t"pools": [{"name": "a", "endpoints": [{"url": "http:\\/\\/h:1"}]}]}'
    assert problems_of(text, "f.json")[0][:3] == (2, 13, "workers")
    assert parse_config(text.replace("1e0", "3"), "f.json", {}).workers == 3


def test_json_escapes_are_read() -> None:
    text = '{"pools": [{"name": "a", "endpoints": [{"url": "http://h", "models": ["\\u00e9", "a\\\\b"]}]}]}'
    assert parse_config(text, "f.json", {}).pools[0].endpoints[0].models == ("é", "a\\b")


def test_every_field_of_an_endpoint_arrives() -> None:
    config = config_of(
        """
        pools:
          - name: a
            endpoints:
              - url: https://llm.example/base/
                name: one
                models: [m, n]
                model_rewrite: {m: M}
                engine: sglang
                region: eu
                zone: eu-1
                labels: {tier: gold, "1": x}
                weight: 0.5
                capacity: {connections_max: 10, in_flight_max: 20}
                price: {input_per_million_tokens: 1, output_per_million_tokens: 2.5}
                tls: {verify: false, server_name: other.example}
                auth: {bearer: key-1}
                host: llm.example:8443
        """
    )
    endpoint = config.pools[0].endpoints[0]
    assert endpoint.model_rewrite == {"m": "M"}
    assert endpoint.labels == {"tier": "gold", "1": "x"}
    assert endpoint.price.output_per_million_tokens == 2.5
    assert endpoint.auth.bearer is not None
    assert endpoint.auth.bearer.reveal() == "key-1"


@pytest.mark.parametrize(
    "word", ["no", "off", "yes", "on", "NO", "2024-01-01", "1:30", "1_000", "0x10", "010:"]
)
def test_words_that_yaml_1_1_converts_stay_text(word: str) -> None:
    quoted = f"'{word}'" if word.endswith(":") else word
    config = config_of(f"pools: [{{name: a, endpoints: [{{url: http://h:1, region: {quoted}}}]}}]")
    assert config.pools[0].endpoints[0].region == word


@pytest.mark.parametrize("word", ["1.10", "007", "true", "1e3", "12"])
def test_text_fields_take_unquoted_numbers_as_written(word: str) -> None:
    config = config_of(
        f"pools: [{{name: a, endpoints: [{{url: http://h:1, models: [{word}], labels: {{v: {word}}}}}]}}]"
    )
    endpoint = config.pools[0].endpoints[0]
    assert endpoint.models == (word,)
    assert endpoint.labels == {"v": word}


def test_enum_of_versions_needs_no_quotes() -> None:
    text = "pools: []\nlisteners: [{address: 'h:1', tls: {cert: /none, key: /none, min_version: 1.3}}]"
    assert all("min_version" not in problem[2] for problem in problems_of(text))
    assert TlsVersion("1.3") is TlsVersion.TLS_1_3


def test_sections_with_nothing_in_them_are_their_defaults() -> None:
    assert config_of("timeouts:\nlimits:\n" + POOLS) == config_of(POOLS)


def test_merge_keys_give_way_to_own_ones() -> None:
    config = config_of(
        """
        pools:
          - name: a
            endpoints:
              - &one {url: 'http://h:1', weight: 2, zone: z}
              - {weight: 3, url: 'http://h:2', <<: *one}
        """
    )
    second = config.pools[0].endpoints[1]
    assert (second.url, second.weight, second.zone) == ("http://h:2", 3.0, "z")


# ---- environment and secrets


def test_environment_is_filled_in_before_a_plain_value_gets_its_type() -> None:
    text = 'workers: ${N}\nruntime_dir: "${P:-/var/run}/${Q}.$${x}"\n' + POOLS
    config = config_of(text, N="3", Q="q")
    assert config.workers == 3
    assert config.runtime_dir == "/var/run/q.${x}"


def test_default_stands_in_for_unset_and_empty() -> None:
    assert config_of("workers: ${N:-2}\n" + POOLS).workers == 2
    assert config_of("workers: ${N:-2}\n" + POOLS, N="").workers == 2


def test_quoted_reference_stays_text() -> None:
    assert the_problem_of('workers: "${N}"\n' + POOLS, N="3")[2:4] == ("workers", "'3' is not allowed here")


def test_empty_variable_is_an_absent_value() -> None:
    assert config_of("runtime_dir: ${D:-}\n" + POOLS).runtime_dir is None


def test_environment_cannot_add_structure() -> None:
    problem = the_problem_of("timeouts: ${T}\n" + POOLS, T="{connect_ms: 1}")
    assert problem[2:4] == ("timeouts", "'{connect_ms: 1}' is not a mapping")


def test_environment_that_is_not_utf_8_is_refused() -> None:
    problem = the_problem_of("runtime_dir: /${D}\n" + POOLS, D="\udcff")
    assert problem[2:4] == ("runtime_dir", "'/\\udcff' is not valid Unicode")


def test_secret_comes_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    config = config_of(f"admin: {{token: 'file:{tmp_path}/token'}}\n" + POOLS)
    assert config.admin.token is not None
    assert config.admin.token.reveal() == "s3cret"


def test_secret_that_looks_like_a_number_is_text() -> None:
    config = config_of("admin: {token: 0012}\n" + POOLS)
    assert config.admin.token is not None
    assert config.admin.token.reveal() == "0012"


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hidden-two")
    text = "admin: {token: hidden-one}\n" + POOLS.replace(
        "8000'", f"8000', auth: {{bearer: 'file:{tmp_path}/key'}}"
    )
    config = config_of(text)
    shown = f"{config} {config!r} {redacted(config)} {config.admin.token} {config.admin.token:>40}"
    assert "hidden" not in shown
    assert redacted(config)["admin"]["token"] == MASK
    assert redacted(config)["pools"][0]["endpoints"][0]["auth"]["bearer"] == f"file:{tmp_path}/key"


def test_problems_do_not_quote_secrets() -> None:
    problem = the_problem_of("admin: {token: 'hidden one'}\n" + POOLS)
    assert problem[2] == "admin.token"
    assert "hidden" not in "".join(problem[3:])


# ---- what is refused, each class with its place

BAD = {
    "unknown key": (
        "listners: []\n" + POOLS,
        (1, 1, "listners", "unknown key 'listners'", "'listeners' perhaps"),
    ),
    "unknown key below": (
        "pools:\n  - name: a\n    endpoints:\n      - url: http://h:1\n        wieght: 2\n",
        (5, 9, "pools[0].endpoints[0].wieght", "unknown key 'wieght'", "'weight' perhaps"),
    ),
    "missing key": (
        "pools:\n  - name: a\n    endpoints:\n      - weight: 2\n",
        (4, 9, "pools[0].endpoints[0]", "the key 'url' is missing", "text"),
    ),
    "wrong type": (
        "workers: many\n" + POOLS,
        (1, 10, "workers", "'many' is not allowed here", "an integer from 1 to 64"),
    ),
    "out of range": (
        "timeouts:\n  connect_ms: 0\n" + POOLS,
        (2, 15, "timeouts.connect_ms", "0 is not allowed here", "an integer from 1 to 86400000"),
    ),
    "not a boolean": (
        "pools:\n- {name: a, default: yes, endpoints: [{url: http://h:1}]}\n",
        (2, 22, "pools[0].default", "'yes' is not allowed here", "true or false"),
    ),
    "list for a mapping": (
        "limits: []\n" + POOLS,
        (
            1,
            9,
            "limits",
            "a list is not a mapping",
            "a mapping with head_bytes_max, target_bytes_max, "
            "body_bytes_max, retry_buffer_bytes_max, buffered_body_bytes_max, "
            "downstream_connections_max, ...",
        ),
    ),
    "mapping for a list": (
        "pools: {}\n",
        (1, 8, "pools", "a mapping is not a list", "a list of at most 256 items"),
    ),
    "empty list": (
        "pools: [{name: a, endpoints: []}]\n",
        (1, 30, "pools[0].endpoints", "0 entries", "a list of 1 to 4096 items"),
    ),
    "unknown choice": (
        "pools: [{name: a, endpoints: [{url: http://h:1, engine: vlm}]}]\n",
        (
            1,
            57,
            "pools[0].endpoints[0].engine",
            "'vlm' is not allowed here",
            "one of: vllm, sglang, tgi, trtllm, triton, llamacpp, ollama, openai, other",
        ),
    ),
    "unknown policy": (
        "pools:\n- name: a\n  policy: {type: rondezvous}\n  endpoints: [{url: http://h:1}]\n",
        (
            3,
            18,
            "pools[0].policy.type",
            "'rondezvous' is unknown",
            f"'rendezvous' perhaps; one of: {', '.join(policy_names())}",
        ),
    ),
    "policy without braces": (
        "pools:\n- name: a\n  policy: p2c\n  endpoints: [{url: http://h:1}]\n",
        (
            3,
            11,
            "pools[0].policy",
            "'p2c' is not a mapping",
            f"{{type: NAME}} with NAME one of: {', '.join(policy_names())}",
        ),
    ),
    "option of another policy": (
        "pools:\n- name: a\n  policy: {type: p2c, key: user}\n  endpoints: [{url: http://h:1}]\n",
        (3, 23, "pools[0].policy.key", "unknown key 'key'", "no key here"),
    ),
    "bad name": (
        "pools: [{name: a b, endpoints: [{url: http://h:1}]}]\n",
        (
            1,
            16,
            "pools[0].name",
            "'a b' is not allowed here",
            "a name: up to 128 letters, digits and . _ : / - [ ]",
        ),
    ),
    "bad key of a mapping": (
        "routes: [{name: r, match: {headers: {a b: x}}}]\n" + POOLS,
        (1, 38, "routes[0].match.headers.a b", "'a b' cannot be a key here", "a header's name"),
    ),
    "repeated key": (
        "workers: 1\nworkers: 2\n" + POOLS,
        (2, 1, "workers", "the key 'workers' is here twice, first in line 1", "each key once"),
    ),
    "list as a key": ("? [a]\n: 1\n" + POOLS, (1, 3, "", "a list or mapping as a key", "text")),
    "tag": (
        "workers: !!python/name:os.system 1\n" + POOLS,
        (1, 10, "workers", "the tag !!python/name:os.system means nothing here", "no tag; quotes make text"),
    ),
    "tag on a mapping": (
        "limits: !x {}\n" + POOLS,
        (1, 9, "limits", "the tag !x means nothing here", "no tag"),
    ),
    "unset variable": (
        "workers: ${NOT_SET}\n" + POOLS,
        (
            1,
            10,
            "workers",
            "the environment variable NOT_SET is not set",
            "a value for it, or a default: ${NOT_SET:-...}",
        ),
    ),
    "broken reference": (
        "workers: ${NOT-SET}\n" + POOLS,
        (
            1,
            10,
            "workers",
            "'${NOT-SET}' has a ${ that names no variable",
            "${NAME}, ${NAME:-default} or $${",
        ),
    ),
    "alias of itself": (
        "pools: &p [*p]\n",
        (1, 8, "pools[0]", "an alias that contains itself", ""),
    ),
    "merge of text": (
        "<<: x\n" + POOLS,
        (1, 5, "", "<< of something that is no mapping", "an alias of a mapping"),
    ),
    "empty file": ("# nothing\n", (None, None, "", "the file is empty", "at least pools")),
    "not a mapping": (
        "just text\n",
        (
            1,
            1,
            "",
            "'just text' is not a mapping",
            "a mapping with version, listeners, admin, workers, limits, timeouts, ...",
        ),
    ),
    "secret file missing": (
        "admin: {token: file:/nonexistent/x}\n" + POOLS,
        (
            1,
            16,
            "admin.token",
            "'/nonexistent/x' cannot be read: No such file or directory",
            "a file that this user can read",
        ),
    ),
    "secret file relative": (
        "admin: {token: file:x}\n" + POOLS,
        (1, 16, "admin.token", "'file:x' is relative", "an absolute path: file:/path"),
    ),
    "mask of a dump": (
        f"admin: {{token: {MASK}}}\n" + POOLS,
        (
            1,
            16,
            "admin.token",
            "this is the mask of a redacted dump",
            "file:/path, ${ENV} or the secret itself",
        ),
    ),
    "empty secret": (
        "admin: {token: ''}\n" + POOLS,
        (1, 16, "admin.token", "the secret is empty", "a value, file:/path or ${ENV}"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_with_its_place(name: str) -> None:
    text, problem = BAD[name]
    assert the_problem_of(text) == problem


def test_syntax_errors_have_their_place() -> None:
    problem = the_problem_of("pools:\n  - name: [a\n")
    assert problem[0] == 3
    assert problem[3].startswith("not YAML: ")
    assert the_problem_of('{"workers": 1\n "x": 2}', "f.json")[:3] == (2, 2, "")
    assert the_problem_of("a: 1\n---\nb: 2\n")[3].startswith("not YAML: ")


def test_control_characters_are_refused() -> None:
    assert the_problem_of("workers: 1\npools: \x01\n")[3].startswith("not YAML: ")


def test_deep_nesting_is_refused() -> None:
    deep = "pools: " + "[" * 100_000 + "]" * 100_000
    assert the_problem_of(deep)[:4] == (1, 7 + limits.CONFIG_DEPTH_MAX, "", "nested deeper than 32 levels")
    assert the_problem_of(deep.removeprefix("pools: "), "f.json")[3] == "not JSON: nested too deeply"


def test_aliases_cannot_grow_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]")
    messages = [problem[3] for problem in problems_of("\n".join(lines))]
    assert "too many values" in messages


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    problems = problems_of(
        """
        wrokers: 2
        timeouts: {idle_ms: 0, totl_ms: 1}
        pools:
          - name: a
            endpoints:
              - url: ${NOT_SET}
                weight: -1
              - name: no-url
          - name: b
        """
    )
    assert [(problem[0], problem[2]) for problem in problems] == [
        (2, "wrokers"),
        (3, "timeouts.idle_ms"),
        (3, "timeouts.totl_ms"),
        (7, "pools[0].endpoints[0].url"),
        (8, "pools[0].endpoints[0].weight"),
        (9, "pools[0].endpoints[1]"),
        (10, "pools[1]"),
    ]


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("sessions: {}\n", "sessions", "one of: version, "),
        ("health: {}\n", "health", "pools[].health, where that key belongs"),
        ("limits: {workers: 2}\n", "limits.workers", "workers, where that key belongs"),
        ("capacity: 4\n", "capacity", "pools[].endpoints[].capacity, where that key belongs"),
        ("admin: {adress: 'h:1'}\n", "admin.adress", "'address' perhaps"),
    ],
)
def test_an_unknown_key_is_sent_where_it_belongs(text: str, path: str, expected: str) -> None:
    problem = the_problem_of(text + POOLS)
    assert problem[2] == path
    assert problem[4].startswith(expected)


@pytest.mark.parametrize("text", ["pools: [", "pools: [\n", "a: 'b", "{", "a: b: c", "%"])
def test_a_text_that_ends_too_soon_is_a_problem(text: str) -> None:
    assert the_problem_of(text)[3].startswith("not YAML: ")


def test_a_tab_in_the_indentation_is_called_so() -> None:
    problem = the_problem_of("admin:\n\taddress: 'h:1'\n" + POOLS)
    assert (problem[0], problem[3], problem[4]) == (
        2,
        "not YAML: a tab in the indentation",
        "spaces: YAML allows no tabs there",
    )


def test_reported_problems_are_bounded() -> None:
    text = "".join(f"unknown{index}: 1\n" for index in range(500)) + POOLS
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml", {})
    assert len(caught.value.problems) == limits.CONFIG_PROBLEMS_MAX
    assert caught.value.left_out_count == 400


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"workers: 1\nname: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2:7: not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + POOLS.encode())
    assert load_config(tmp_path / "bom.yaml", {}).workers == 1


def test_text_of_a_problem_leads_to_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("workers: 0\n" + POOLS, "f.yaml", {})
    assert (
        str(caught.value) == "f.yaml:1:10: workers: 0 is not allowed here; expected an integer from 1 to 64"
    )


@given(st.data())
def test_damaged_files_give_a_config_or_problems_with_places(data: st.DataObject) -> None:
    text = EXAMPLE.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 20))
        text = text[:start] + data.draw(st.text(max_size=5)) + text[start + length :]
    try:
        parse_config(text, "f.yaml", {})
    except ConfigError as exc:
        assert exc.problems
        assert all(problem.message for problem in exc.problems)


# ---- options


def test_options_make_one_default_pool_for_any_model() -> None:
    config = config_from_options(
        endpoints=["http://a:1", "https://b"], policy="random", workers=2, listen=["h:1"]
    )
    assert config.default_pool is config.pools[0]
    assert [endpoint.name for endpoint in config.pools[0].endpoints] == ["a:1", "b:443"]
    assert all(not endpoint.models for endpoint in config.pools[0].endpoints)
    assert (config.workers, config.listeners[0].address) == (2, "h:1")


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_options(endpoints=["http://a:1", "b"], listen=["x"], admin="0.0.0.0:1")
    assert sorted(problem.file for problem in caught.value.problems) == [
        "--endpoint",
        "--listen",
        "command line",
    ]


# ---- files


def test_an_access_log_that_could_not_be_written_is_a_problem(tmp_path: Path) -> None:
    def log_to(name: str | Path) -> str:
        return f"access_log:\n  path: '{name}'\n" + POOLS

    for name in ("stdout", "-", tmp_path / "new.log", "a-relative.log"):
        assert config_of(log_to(name)).access_log.path == str(name)
    problem = the_problem_of(log_to(tmp_path / "none" / "x.log"))
    assert (problem[0], problem[2]) == (2, "access_log.path")
    assert f"there is no folder '{tmp_path}/none'" in problem[3]
    assert "that is a folder" in the_problem_of(log_to(tmp_path))[3]


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    for name in ("one", "two"):
        issued = authority.issue_cert(f"{name}.example")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    yield folder


def listener(folder: Path, cert: str, key: str) -> str:
    return f"listeners:\n- address: h:1\n  tls:\n    cert: {folder / cert}\n    key: {folder / key}\n" + POOLS


def test_matching_certificate_and_key_are_taken(tls_files: Path) -> None:
    assert config_of(listener(tls_files, "one.crt", "one.key")).listeners[0].tls is not None


def test_missing_certificate_files_are_each_reported(tls_files: Path) -> None:
    problems = problems_of(listener(tls_files, "none.crt", "none.key"))
    assert [(problem[0], problem[2]) for problem in problems] == [
        (4, "listeners[0].tls.cert"),
        (5, "listeners[0].tls.key"),
    ]


def test_key_of_another_certificate_is_reported(tls_files: Path) -> None:
    problem = the_problem_of(listener(tls_files, "one.crt", "two.key"))
    assert (problem[0], problem[2]) == (4, "listeners[0].tls.cert")
    assert "key values mismatch" in problem[3]


def test_endpoint_tls_files_are_checked(tls_files: Path) -> None:
    text = (
        "pools: [{name: a, endpoints: [{url: 'https://h', tls: {ca_file: %s, cert_file: %s, key_file: %s}}]}]"
    )
    config_of(text % (tls_files / "ca.crt", tls_files / "one.crt", tls_files / "one.key"))
    problems = problems_of(text % (tls_files / "one.key", tls_files / "one.crt", tls_files / "two.key"))
    assert [problem[2].rpartition(".")[2] for problem in problems] == ["ca_file", "cert_file"]

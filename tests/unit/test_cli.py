"""The command line: what it passes on, where its output goes, and its exit codes."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from router import cli
from router.config import parse_config
from router.schema.policies import LeastInFlight
from tests.support.command import run_command

POOLS = "pools: [{name: a, endpoints: [{url: 'http://10.0.0.1:8000'}]}]\n"
ROOT = Path(__file__).parents[2]


class App(types.ModuleType):
    """Stands in for router.app and remembers what it was asked to do."""

    def __init__(self) -> None:
        super().__init__("router.app")
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def serve(self, config: Any, **options: Any) -> int:
        self.calls.append(("serve", {"config": config, **options}))
        return 0

    def request_reload(self, **options: Any) -> int:
        self.calls.append(("reload", options))
        return 1

    def request_upgrade(self, **options: Any) -> int:
        self.calls.append(("upgrade", options))
        return 0


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for name in [name for name in os.environ if name.startswith("FAIRLEAD_")]:
        monkeypatch.delenv(name)
    fake = App()
    monkeypatch.setitem(sys.modules, "router.app", fake)
    yield fake


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "fairlead.yaml"
    file.write_text(POOLS + "admin: {address: '127.0.0.1:9999', token: s3cret}\nruntime_dir: /run/x\n")
    return file


# ---- serve


def test_endpoints_alone_are_enough_to_serve(app: App) -> None:
    result = run_command("serve", "--endpoint", "http://a:1", "--endpoint", "http://b:2")
    assert (result.exit_code, result.output) == (0, "")
    [(_, call)] = app.calls
    assert [endpoint.url for endpoint in call["config"].default_pool.endpoints] == [
        "http://a:1",
        "http://b:2",
    ]
    assert (call["config_path"], call["takeover"]) == (None, False)


def test_every_option_reaches_the_configuration(app: App) -> None:
    result = run_command(
        *(
            "serve",
            "--endpoint",
            "http://a:1",
            "--listen",
            "h:1",
            "--listen",
            "unix:/x",
            "--admin",
            "0.0.0.0:1",
        ),
        *("--admin-token", "t", "--workers", "3", "--policy", "least_in_flight", "--access-log", "stdout"),
        *("--runtime-dir", "/run/x", "--drain-deadline-ms", "5", "--takeover"),
    )
    assert result.exit_code == 0, result.output
    config = app.calls[0][1]["config"]
    assert [listener.address for listener in config.listeners] == ["h:1", "unix:/x"]
    assert (config.admin.address, config.admin.token.reveal()) == ("0.0.0.0:1", "t")
    assert (config.workers, config.pools[0].policy) == (3, LeastInFlight())
    assert (config.access_log.path, config.runtime_dir, config.drain.deadline_ms) == ("stdout", "/run/x", 5)
    assert app.calls[0][1]["takeover"] is True


def test_options_come_from_the_environment_too(app: App) -> None:
    result = run_command(
        "serve", FAIRLEAD_ENDPOINT="http://a:1 http://b:1", FAIRLEAD_WORKERS="2", FAIRLEAD_LISTEN="h:1"
    )
    assert result.exit_code == 0, result.output
    config = app.calls[0][1]["config"]
    assert (len(config.pools[0].endpoints), config.workers, config.listeners[0].address) == (2, 2, "h:1")


def test_a_file_is_served_and_its_whole_path_kept(app: App, config_file: Path) -> None:
    assert run_command("serve", "--config", config_file, "--takeover").exit_code == 0
    call = app.calls[0][1]
    assert call["config"] == parse_config(config_file.read_text(), "f.yaml")
    assert (call["config_path"], call["takeover"]) == (config_file.resolve(), True)


def test_the_applications_exit_code_is_ours(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "serve", lambda config, **options: 1)
    assert run_command("serve", "--endpoint", "http://a:1").exit_code == 1


def test_nothing_to_route_to_is_a_usage_error(app: App) -> None:
    result = run_command("serve")
    assert result.exit_code == 2
    assert "--endpoint URL" in result.stderr
    assert result.stdout == ""


def test_file_and_options_exclude_each_other(app: App, config_file: Path) -> None:
    result = run_command("serve", "--config", config_file, "--workers", "2", "--endpoint", "http://a:1")
    assert result.exit_code == 2
    assert "--config holds everything; it cannot be used with --workers, --endpoint." in result.stderr
    assert not app.calls


def test_what_came_from_the_environment_is_named_by_its_variable(app: App, config_file: Path) -> None:
    result = run_command("serve", "--config", config_file, "--workers", "2", FAIRLEAD_ENDPOINT="http://a:1")
    assert result.exit_code == 2
    assert "--workers, FAIRLEAD_ENDPOINT of the environment" in result.stderr
    result = run_command("serve", "--workers", "2", FAIRLEAD_CONFIG=str(config_file))
    assert result.exit_code == 2
    assert (
        "FAIRLEAD_CONFIG of the environment holds everything; it cannot be used with --workers"
        in result.stderr
    )
    assert not app.calls


def test_an_unknown_log_level_is_a_usage_error(app: App) -> None:
    result = run_command("serve", "--endpoint", "http://a:1", FAIRLEAD_LOG_LEVEL="foo")
    assert result.exit_code == 2
    assert "FAIRLEAD_LOG_LEVEL is 'foo'; expected DEBUG, INFO, WARNING, ERROR or CRITICAL" in result.stderr
    assert not app.calls
    for level in ("debug", "WARNING", ""):
        assert run_command("serve", "--endpoint", "http://a:1", FAIRLEAD_LOG_LEVEL=level).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--endpoint", "nonsense"),
        ("--endpoint", "http://a:1", "--workers", "0"),
        ("--endpoint", "http://a:1", "--policy", "x"),
        ("--endpoint", "http://a:1", "--listen", "x"),
        ("--endpoint", "http://a:1", "--admin", "0.0.0.0:9"),
        ("--nonsense",),
    ],
)
def test_bad_options_are_usage_errors(app: App, arguments: tuple[str, ...]) -> None:
    result = run_command("serve", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert arguments[-2 if len(arguments) > 1 else 0] in result.stderr or "token" in result.stderr
    assert not app.calls


def test_bad_file_is_not_served(app: App, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("workers: 0\n" + POOLS)
    result = run_command("serve", "--config", tmp_path / "bad.yaml")
    assert result.exit_code == 78
    assert result.stderr.startswith(f"{tmp_path}/bad.yaml:1:10: workers: 0 is not allowed here")
    assert not app.calls


# ---- check, show, schema


def test_check_says_ok(config_file: Path) -> None:
    result = run_command("check", config_file)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{config_file}: ok\n", "")


def test_check_prints_every_problem_to_standard_error(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("workers: 0\nlistners: []\n" + POOLS)
    result = run_command("check", tmp_path / "bad.yaml")
    assert result.exit_code == 78
    assert result.stdout == ""
    assert [line.partition(": ")[0].rpartition("/")[2] for line in result.stderr.splitlines()] == [
        "bad.yaml:1:10",
        "bad.yaml:2:1",
    ]


def test_check_prints_json_for_programs(tmp_path: Path, config_file: Path) -> None:
    assert json.loads(run_command("check", config_file, "--format", "json").stdout) == {
        "ok": True,
        "problems": [],
        "left_out": 0,
    }
    (tmp_path / "bad.yaml").write_text("workers: 0\n" + POOLS)
    result = run_command("check", tmp_path / "bad.yaml", "--format", "json")
    assert result.exit_code == 78
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert found["problems"] == [
        {
            "file": f"{tmp_path}/bad.yaml",
            "line": 1,
            "column": 10,
            "path": "workers",
            "message": "0 is not allowed here",
            "expected": "an integer from 1 to 64",
        }
    ]


def test_check_of_a_missing_file_is_a_bad_configuration(tmp_path: Path) -> None:
    assert run_command("check", tmp_path / "none.yaml").exit_code == 78


def test_check_without_a_file_is_a_usage_error() -> None:
    assert run_command("check").exit_code == 2


@pytest.mark.parametrize(("style", "load"), [("yaml", yaml.safe_load), ("json", json.loads)])
def test_show_prints_the_effective_configuration_without_secrets(
    config_file: Path, style: str, load: Any
) -> None:
    result = run_command("config", "show", config_file, "--format", style)
    assert result.exit_code == 0
    assert "s3cret" not in result.output
    shown = load(result.stdout)
    assert shown["admin"] == {"address": "127.0.0.1:9999", "token": "<redacted>"}
    assert shown["timeouts"]["connect_ms"] == 2000


def test_schema_is_json_schema_of_the_file() -> None:
    schema = json.loads(run_command("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["$defs"]["Config"]["anyOf"] == [{"required": ["pools"]}, {"required": ["control"]}]
    assert schema["$defs"]["Config"]["additionalProperties"] is False


def test_schema_prints_the_reference_page() -> None:
    assert run_command("schema", "--format", "markdown").stdout.startswith("# Configuration\n")


# ---- the running router


@pytest.mark.parametrize("command", ["reload", "upgrade"])
def test_running_router_is_found_by_its_admin_address(app: App, config_file: Path, command: str) -> None:
    run_command(command)
    run_command(command, "--admin", "127.0.0.1:1", "--runtime-dir", "/tmp/x")
    run_command(command, "--config", config_file)
    run_command(command, "--config", config_file, "--admin", "127.0.0.1:1")
    assert app.calls == [
        (command, {"admin_address": "127.0.0.1:9090", "runtime_dir": None}),
        (command, {"admin_address": "127.0.0.1:1", "runtime_dir": "/tmp/x"}),
        (command, {"admin_address": "127.0.0.1:9999", "runtime_dir": "/run/x"}),
        (command, {"admin_address": "127.0.0.1:1", "runtime_dir": "/run/x"}),
    ]


def test_refused_reload_is_exit_code_one(app: App) -> None:
    assert run_command("reload").exit_code == 1


# ---- the rest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_back(shell: str) -> None:
    result = run_command("completion", shell)
    assert result.exit_code == 0
    assert f"_FAIRLEAD_COMPLETE={shell}_complete" in result.stdout


def test_completion_knows_subcommands() -> None:
    result = run_command(COMP_WORDS="fairlead ser", COMP_CWORD="1", _FAIRLEAD_COMPLETE="bash_complete")
    assert "plain,serve" in result.stdout


def test_version_names_the_build() -> None:
    result = run_command("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("fairlead ")
    assert f"CPython {sys.version.split()[0]}" in result.stdout or "PyPy" in result.stdout


def test_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "router", "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: fairlead")


def test_help_and_check_import_neither_native_code_nor_the_servers(config_file: Path) -> None:
    code = (
        "import sys\nfrom router.cli import main\n"
        f"main(['check', {str(config_file)!r}], standalone_mode=False)\n"
        "unwanted = ('aiohttp', 'uvloop', 'bench')\n"
        "print([name for name in sys.modules if name in unwanted or name.startswith('router.native.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- subcommands of other packages


@click.command("extra")
def extra() -> None:
    """Something from elsewhere."""
    click.echo("hello from elsewhere")


def plugins(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name=name, value=value, group="fairlead.commands") for name, value in points.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: found)


def test_commands_of_other_packages_run_and_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, extra=f"{__name__}:extra")
    assert run_command("extra").stdout == "hello from elsewhere\n"
    assert "Something from elsewhere." in run_command("--help").stdout


def test_command_that_cannot_be_loaded_breaks_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, broken="nonexistent_module:main", odd=f"{__name__}:ROOT")
    assert run_command("--help").exit_code == 0
    result = run_command("broken")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nonexistent_module:main cannot be loaded" in result.stderr
    assert run_command("odd").exit_code == 1


def test_other_packages_cannot_replace_our_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, check=f"{__name__}:extra")
    assert run_command("check").exit_code == 2


def test_unknown_command_is_a_usage_error() -> None:
    assert run_command("nonsense").exit_code == 2

"""The `fairlead` command: options in, one call, exit code out. No logic lives here.

Data goes to standard output, errors to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad
configuration (EX_CONFIG of sysexits.h, so that a service manager can tell "do not restart" from "crashed").
Every option can also be a FAIRLEAD_* variable.

Invariant: what a subcommand needs is imported inside it, so that `check` works without native code and
`--help` is quick.
Neighbours: config.py builds the configuration, app.py runs it; other packages add subcommands by the
entry-point group `fairlead.commands`, which is how `mock` and `demo` get here without the data plane
importing the bench.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from router import limits
from router.config import ConfigError, config_from_options, load_config, read_secret, redacted
from router.schema.config import Config
from router.schema.listening import Admin
from router.schema.policies import policy_names

EXIT_BAD_CONFIG = 78

Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """Own subcommands, then those of the entry-point group, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_plugins().keys() - self.commands.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        plugin = None if own else _plugins().get(cmd_name)
        if plugin is None:
            return own
        try:
            command = plugin.load()
        except (ImportError, AttributeError) as exc:
            return _unavailable(cmd_name, f"{plugin.value} cannot be loaded: {exc}")
        return (
            command
            if isinstance(command, click.Command)
            else _unavailable(cmd_name, f"{plugin.value} is no command")
        )


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="fairlead.commands")}


def _unavailable(name: str, reason: str) -> click.Command:
    def fail() -> None:
        raise click.ClickException(reason)

    return click.Command(
        name, callback=fail, short_help="(not available here)", hidden=True, add_help_option=False
    )


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    variable = "FAIRLEAD_" + names[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from router.build_info import build_info

        click.echo(build_info())
        ctx.exit()


@click.group(
    cls=_Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "FAIRLEAD",
        "max_content_width": 100,
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show version and build.",
)
def main() -> None:
    """Latency-aware L7 router for model servers.

    \b
    fairlead serve --endpoint http://10.0.0.1:8000 --endpoint http://10.0.0.2:8000
    fairlead check fairlead.yaml
    fairlead serve --config fairlead.yaml
    """


@main.command()
@_option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file, YAML or JSON; excludes all but --takeover.",
)
@_option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Where clients connect: host:port or unix:/path; may be repeated.  [default: 127.0.0.1:8080]",
)
@_option(
    "--admin", metavar="ADDRESS", help="Where operators and scrapers connect.  [default: 127.0.0.1:9090]"
)
@_option(
    "--admin-token",
    metavar="SECRET",
    help="Bearer token of the admin address, file:/path or the token; needed off loopback.",
)
@_option(
    "--endpoint", multiple=True, metavar="URL", help="A model server: http://host:port; may be repeated."
)
@_option(
    "--workers",
    type=click.IntRange(1, limits.WORKERS_MAX),
    help="Processes that carry traffic.  [default: 1]",
)
@_option(
    "--policy", type=click.Choice(policy_names()), help="How an endpoint is picked.  [default: five_axis]"
)
@_option(
    "--access-log",
    metavar="FILE",
    help="Write one JSON line per request to FILE; `stdout` or `-`: to standard output.",
)
@_option("--runtime-dir", metavar="DIR", help="Folder of the control socket.")
@_option(
    "--drain-deadline-ms",
    type=click.IntRange(0),
    help="On SIGTERM, how long open streams may go on.  [default: 30000]",
)
@_option("--takeover", is_flag=True, help="Replace the router that runs here now, with no failed request.")
@click.pass_context
def serve(
    ctx: click.Context, /, config_file: Path | None, takeover: bool, endpoint: tuple[str, ...], **options: Any
) -> None:
    """Run the router, from a file or from options alone."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if config_file is not None:
        if given or endpoint:
            names = ", ".join(_spelt(ctx, name) for name in [*given, *["endpoint"] * bool(endpoint)])
            raise click.UsageError(
                f"{_spelt(ctx, 'config_file')} holds everything; it cannot be used with {names}. "
                "Change the file."
            )
        config = _loaded(ctx, config_file)
    elif not endpoint:
        raise click.UsageError(
            "nothing to route to: give --endpoint URL (once for each model server) or --config FILE."
        )
    else:
        try:
            config = config_from_options(endpoints=endpoint, **given)
        except ConfigError as exc:
            raise click.UsageError(str(exc)) from exc
    level = os.environ.get("FAIRLEAD_LOG_LEVEL", "")
    if level and level.upper() not in logging.getLevelNamesMapping():
        raise click.UsageError(
            f"FAIRLEAD_LOG_LEVEL is {level!r}; expected DEBUG, INFO, WARNING, ERROR or CRITICAL."
        )
    from router.app import serve as run

    ctx.exit(run(config, config_path=config_file.resolve() if config_file else None, takeover=takeover))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def check(ctx: click.Context, file: Path, style: str) -> None:
    """Validate a configuration FILE; print every problem with file, line, path and what is expected.

    What hangs on a value that cannot be read is looked at once that value can be.
    """
    try:
        load_config(file)
        problems, left_out_count = [], 0
    except ConfigError as exc:
        problems, left_out_count = exc.problems, exc.left_out_count
    if style == "json":
        fields = ("file", "line", "column", "path", "message", "expected")
        listed = [{name: getattr(problem, name) for name in fields} for problem in problems]
        click.echo(json.dumps({"ok": not problems, "problems": listed, "left_out": left_out_count}, indent=2))
    elif problems:
        _print_problems(problems, left_out_count)
    else:
        click.echo(f"{file}: ok")
    ctx.exit(EXIT_BAD_CONFIG if problems else 0)


@main.command()
@click.option("--format", "style", type=click.Choice(["json", "markdown"]), default="json", show_default=True)
def schema(style: str) -> None:
    """Print the configuration's JSON Schema, or its reference page."""
    from router.reference import configuration_page, json_schema

    if style == "json":
        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    else:
        click.echo(configuration_page(), nl=False)


def _running_options(command: Command) -> Command:
    for option in (
        _option(
            "--runtime-dir", metavar="DIR", help="Folder of its control socket, when it was started with one."
        ),
        _option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            help="Find it by its configuration file.",
        ),
        _option(
            "--admin", metavar="ADDRESS", help="Find it by its admin address.  [default: 127.0.0.1:9090]"
        ),
    ):
        command = option(command)
    return command


@main.command()
@_running_options
@click.pass_context
def reload(ctx: click.Context, /, **running: Any) -> None:
    """Have the running router read its configuration file again: all of it, or, if it is bad, none."""
    from router.app import request_reload

    ctx.exit(request_reload(**_control_address(ctx, **running)))


@main.command()
@_running_options
@click.pass_context
def upgrade(ctx: click.Context, /, **running: Any) -> None:
    """Replace the running router by the version that is installed now, with no failed request."""
    from router.app import request_upgrade

    ctx.exit(request_upgrade(**_control_address(ctx, **running)))


@main.command()
@click.argument("request_id", metavar="ID")
@_option(
    "--admin",
    metavar="ADDRESS",
    help="The router's admin address, or its http URL.  [default: 127.0.0.1:9090]",
)
@_option("--admin-token", metavar="SECRET", help="Its bearer token, file:/path or the token.")
@_option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Take admin address and token from its configuration file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what /debug/explain answers.")
@click.pass_context
def explain(ctx: click.Context, /, request_id: str, as_json: bool, **admin: Any) -> None:
    """Tell why the request ID (its x-request-id) went where it went: the terms of each decision's score."""
    from router.explain_report import ExplainError, fetch_decisions, report

    address, token = _admin_address(ctx, **admin)
    try:
        decisions = fetch_decisions(address, request_id, token)
    except ExplainError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(json.dumps(decisions, indent=2) if as_json else report(decisions))


@main.group()
def config() -> None:
    """Look at configurations."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.pass_context
def show(ctx: click.Context, file: Path, style: str) -> None:
    """Print what FILE comes to, defaults and environment filled in, secrets redacted."""
    import yaml

    values = redacted(_loaded(ctx, file))
    if style == "json":
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(fairlead completion bash)"."""
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    # The class's own source() runs bash to learn its version; the script is the same for every one that is
    # in use.
    click.echo(ShellComplete.source(found(main, {}, "fairlead", "_FAIRLEAD_COMPLETE")))


def _spelt(ctx: click.Context, name: str) -> str:
    """The parameter as whoever started us gave it: an option, or a variable of the environment."""
    parameter = next(parameter for parameter in ctx.command.params if parameter.name == name)
    if ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
        return f"{parameter.envvar} of the environment"
    return parameter.opts[0]


def _control_address(
    ctx: click.Context, admin: str | None, config_file: Path | None, runtime_dir: str | None
) -> dict[str, Any]:
    """Where the running router listens for commands: its control socket is named by its admin address."""
    settings = _loaded(ctx, config_file) if config_file else None
    if settings is not None:
        return {
            "admin_address": admin or settings.admin.address,
            "runtime_dir": runtime_dir or settings.runtime_dir,
        }
    return {"admin_address": admin or Admin().address, "runtime_dir": runtime_dir}


def _admin_address(
    ctx: click.Context, admin: str | None, admin_token: str | None, config_file: Path | None
) -> tuple[str, str | None]:
    """Where the running router's admin port is, and its token."""
    settings = _loaded(ctx, config_file).admin if config_file else Admin()
    try:
        token = read_secret(admin_token, "--admin-token") if admin_token else settings.token
    except ConfigError as exc:
        raise click.UsageError(str(exc)) from exc
    return admin or settings.address, token.reveal() if token is not None else None


def _loaded(ctx: click.Context, file: Path) -> Config:
    try:
        return load_config(file)
    except ConfigError as exc:
        _print_problems(exc.problems, exc.left_out_count)
        ctx.exit(EXIT_BAD_CONFIG)


def _print_problems(problems: Any, left_out_count: int) -> None:
    for problem in problems:
        click.echo(str(problem), err=True)
    if left_out_count:
        click.echo(f"... and {left_out_count} more", err=True)


if __name__ == "__main__":
    sys.exit(main())

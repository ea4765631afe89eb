"""`fairlead control`, and what is made for it beforehand: tokens and the signing key.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad settings (EX_CONFIG of sysexits.h). Invariant: a token
is shown once, where it is made. Neighbours: app.py (runs it), cli.py (the commands that talk to it).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from control.tokens import Role, new_token
from router.config import ConfigError

EXIT_BAD_CONFIG = 78


@click.command()
@click.option(
    "--config",
    "config_file",
    envvar="FAIRLEAD_CONTROL_CONFIG",
    type=click.Path(path_type=Path),
    help="Its settings, YAML or JSON.  [default: Unix sockets for this user, and no signatures]",
)
def control(config_file: Path | None) -> None:
    """Run the control process: it keeps the policy's versions and pushes them to the routers."""
    from control.app import run
    from control.settings import ControlSettings, load

    try:
        settings = ControlSettings() if config_file is None else load(config_file)
    except ConfigError as exc:
        click.echo(str(exc), err=True)
        sys.exit(EXIT_BAD_CONFIG)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s",
        level=(os.environ.get("FAIRLEAD_LOG_LEVEL") or "INFO").upper(),
    )
    sys.exit(run(settings))


@click.command()
@click.option("--name", required=True, help="Who will have it: the actor in audit records.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="viewer", show_default=True)
def token(name: str, role: str) -> None:
    """Make a token for control's API; shown once, with the lines for `api.tokens`."""
    text, digest = new_token()
    click.echo(text)
    click.echo(f"- name: {name}\n  role: {role}\n  sha256: {digest}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Make a signing key in PATH, and show what routers are given as `control.public_key`."""
    from control.signing import KeyFileError, make_key_file

    try:
        signer = make_key_file(path)
    except KeyFileError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(signer.public_key)

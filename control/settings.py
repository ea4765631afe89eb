"""What control itself is configured by: one file, read the one way that configurations are read.

Invariant: every part's settings are that part's own struct; this file only names them. Neighbours:
router/config.py (reads the file), app.py (hands the parts on).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from control.guard import GuardSettings
from control.health_settings import HealthSettings
from control.scrape import ScrapeSettings
from control.tokens import TokenEntry
from router.config import load_settings
from router.runtime_folder import runtime_folder
from router.schema.address import is_loopback, parse_address
from router.schema.faults import Doubts, Fault
from router.schema.faults import Path as FieldPath
from router.schema.kinds import FilePath, Name, Section
from router.schema.secret import Secret

LISTENERS_MAX = 8  # a Unix socket, and an address or two for each family
TOKENS_MAX = 256  # all are compared with each request
STORE_NAME = "control.sqlite"


class ServerTls(Section, frozen=True, kw_only=True):
    """TLS towards those who connect."""

    cert: Annotated[FilePath, Meta(description="PEM file: the certificate and its chain.")]
    key: Annotated[FilePath, Meta(description="PEM file: its private key.")]
    client_ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities: whoever has no certificate of theirs is turned away."),
    ] = None


class LinkSettings(Section, frozen=True, kw_only=True):
    """Where routers connect."""

    listen: Annotated[
        tuple[str, ...],
        Meta(
            max_length=LISTENERS_MAX,
            description="`unix:/path` or `host:port`; empty: `control.sock` in the runtime folder.",
        ),
    ] = ()
    tls: Annotated[ServerTls | None, Meta(description="For the TCP addresses; needed off loopback.")] = None
    token: Annotated[
        Secret | None, Meta(description="What routers show; needed over TCP without `tls.client_ca_file`.")
    ] = None


class ApiSettings(Section, frozen=True, kw_only=True):
    """Where operators and programs connect."""

    listen: Annotated[
        tuple[str, ...],
        Meta(
            max_length=LISTENERS_MAX,
            description="`unix:/path`, for this user without a token, or `host:port`; empty: "
            "`control-api.sock` in the runtime folder.",
        ),
    ] = ()
    tls: Annotated[ServerTls | None, Meta(description="For the TCP addresses; needed off loopback.")] = None
    tokens: Annotated[
        tuple[TokenEntry, ...], Meta(max_length=TOKENS_MAX, description="Who may come over TCP.")
    ] = ()


class ControlSettings(Section, frozen=True, kw_only=True):
    """The whole file."""

    version: Annotated[int, Meta(ge=1, le=1, description="Of this format.")] = 1
    name: Annotated[Name, Meta(description="What routers call it in their logs.")] = "control"
    state_dir: Annotated[
        FilePath | None,
        Meta(
            description="Folder of the store; absent: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/fairlead`, "
            "else `~/.local/state/fairlead`."
        ),
    ] = None
    runtime_dir: Annotated[
        FilePath | None, Meta(description="Folder of Unix sockets; absent: as the router's.")
    ] = None
    signing_key: Annotated[
        FilePath | None,
        Meta(description="PEM file of an Ed25519 key (`fairlead keygen`): snapshots are signed with it."),
    ] = None
    link: Annotated[LinkSettings, Meta(description="Where routers connect.")] = field(
        default_factory=LinkSettings
    )
    api: Annotated[ApiSettings, Meta(description="Where operators connect.")] = field(
        default_factory=ApiSettings
    )
    health: Annotated[HealthSettings, Meta(description="How endpoints are probed.")] = field(
        default_factory=HealthSettings
    )
    guard: Annotated[GuardSettings, Meta(description="When a canary is taken back.")] = field(
        default_factory=GuardSettings
    )
    scrape: Annotated[ScrapeSettings, Meta(description="How endpoints are asked for their load.")] = field(
        default_factory=ScrapeSettings
    )

    def link_addresses(self) -> tuple[str, ...]:
        """Where routers connect. Raises: RuntimeFolderError."""
        return self.link.listen or (f"unix:{runtime_folder(self.runtime_dir)}/control.sock",)

    def api_addresses(self) -> tuple[str, ...]:
        """Where operators connect. Raises: RuntimeFolderError."""
        return self.api.listen or (default_api_address(self.runtime_dir),)

    def store_path(self) -> Path:
        """The store's file."""
        return state_folder(self.state_dir) / STORE_NAME


def default_api_address(runtime_dir: str | None = None) -> str:
    """Where commands find the control of this machine. Raises: RuntimeFolderError."""
    return f"unix:{runtime_folder(runtime_dir)}/control-api.sock"


def state_folder(configured: str | None) -> Path:
    """Where what must outlive a restart is kept."""
    systemd = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if configured or systemd:
        return Path(configured or systemd)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fairlead"


def load(path: str | Path) -> ControlSettings:
    """The settings in a file. Raises: ConfigError."""
    return load_settings(path, ControlSettings, find_faults)


def find_faults(settings: ControlSettings, doubts: Doubts) -> Iterator[Fault]:
    """What types cannot say."""
    for name in ("link", "api"):
        part: LinkSettings | ApiSettings = getattr(settings, name)
        for index, text in doubts.numbered((name, "listen"), part.listen):
            yield from _address_faults(text, (name, "listen", index), part, doubts)
    names = [entry.name for entry in settings.api.tokens]
    for index, entry in doubts.numbered(("api", "tokens"), settings.api.tokens):
        if entry.name in names[:index]:
            yield Fault(("api", "tokens", index, "name"), f"{entry.name!r} is here twice", "another name")
    for name in ("state_dir", "runtime_dir", "signing_key"):
        place = getattr(settings, name)
        if place is not None and not place.startswith("/"):
            yield Fault((name,), f"{place!r} is relative", "an absolute path")


def _address_faults(
    text: str, path: FieldPath, part: LinkSettings | ApiSettings, doubts: Doubts
) -> Iterator[Fault]:
    try:
        address = parse_address(text)
    except ValueError as exc:
        yield Fault(path, f"{text!r}: {exc}", "unix:/path or host:port")
        return
    name = str(path[0])
    is_unix = text.startswith("unix:")
    if not is_loopback(address) and part.tls is None and not doubts.hides(name, "tls"):
        yield Fault(path, f"{text!r} can be reached from other hosts, in clear", f"{name}.tls, or loopback")
    if isinstance(part, ApiSettings):
        if not is_unix and not part.tokens and not doubts.hides(name, "tokens"):
            yield Fault(path, f"{text!r} lets nobody in without tokens", "api.tokens (`fairlead token`)")
        return
    is_open = part.token is None and (part.tls is None or part.tls.client_ca_file is None)
    if is_open and not is_unix and not doubts.hides(name, "token") and not doubts.hides(name, "tls"):
        yield Fault(path, f"any process could be a router at {text!r}", "link.token or client_ca_file")

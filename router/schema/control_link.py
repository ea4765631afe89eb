"""How a router finds its control process, and whom it believes.

Invariant: what is believed is decided here and not by who answers: with a `public_key`, only snapshots signed
by its other half. Neighbours: config.py (holds it), router/subscriber.py (uses it).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from router import limits
from router.schema.kinds import FilePath, Name, Section
from router.schema.secret import Secret


class ControlTls(Section, frozen=True, kw_only=True):
    """TLS towards control."""

    ca_file: Annotated[
        FilePath | None, Meta(description="PEM file of trusted authorities; absent: the system's.")
    ] = None
    server_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=253)] | None,
        Meta(description="Name that is checked in its certificate; absent: the host of the address."),
    ] = None
    cert_file: Annotated[
        FilePath | None, Meta(description="PEM file of our own certificate, for mutual TLS.")
    ] = None
    key_file: Annotated[FilePath | None, Meta(description="PEM file of that certificate's key.")] = None


class ControlLink(Section, frozen=True, kw_only=True):
    """The control process: the router connects out to it, and goes on without it."""

    address: Annotated[
        str,
        Meta(
            description="`unix:/path` or `host:port`. Off loopback, `tls` is needed.",
            examples=["unix:/run/fairlead/control.sock", "control.internal:9443"],
        ),
    ]
    tls: Annotated[ControlTls | None, Meta(description="Absent: plain, for a Unix socket or loopback.")] = (
        None
    )
    token: Annotated[
        Secret | None, Meta(description="Shown to control: `file:/path`, `${ENV}` or the token itself.")
    ] = None
    public_key: Annotated[
        Annotated[
            str, Meta(pattern=r"^[0-9a-f]{64}$", extra={"expected": "an Ed25519 public key: 64 hex digits"})
        ]
        | None,
        Meta(description="Control's signing key: snapshots without its signature are refused."),
    ] = None
    name: Annotated[
        Name | None,
        Meta(description="What control calls this router; absent: its host's name and its admin address."),
    ] = None
    region: Annotated[
        str,
        Meta(
            max_length=limits.NAME_BYTES_MAX,
            description="Where this router is: how far endpoints are is known by region.",
        ),
    ] = ""
    state_dir: Annotated[
        FilePath | None,
        Meta(
            description="Folder of the last snapshot, to start from when control is away; absent: "
            "`$STATE_DIRECTORY`, else `$XDG_STATE_HOME/fairlead`, else `~/.local/state/fairlead`."
        ),
    ] = None

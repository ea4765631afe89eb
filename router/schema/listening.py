"""Where a router is reached: listeners for clients, one address for operators.

Invariant: an address off loopback has a guard, which validate.py sees to. Neighbours: config.py (holds them),
address.py (reads them).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from router.schema.kinds import FilePath, Section
from router.schema.secret import Secret


class TlsVersion(StrEnum):
    """The oldest TLS version that is spoken."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class ListenerTls(Section, frozen=True, kw_only=True):
    """TLS towards clients. Changed files are picked up; open connections keep what they have."""

    cert: Annotated[FilePath, Meta(description="PEM file: the certificate and its chain.")]
    key: Annotated[FilePath, Meta(description="PEM file: the certificate's private key.")]
    min_version: Annotated[TlsVersion, Meta(description="Oldest TLS version that is accepted.")] = (
        TlsVersion.TLS_1_2
    )


class Listener(Section, frozen=True, kw_only=True):
    """Where clients connect."""

    address: Annotated[
        str,
        Meta(
            description="`host:port`, `[v6]:port` or `unix:/path`. Port 0 takes any free port.",
            examples=["127.0.0.1:8080", "[::]:8443", "unix:/run/fairlead/traffic.sock"],
        ),
    ]
    tls: Annotated[ListenerTls | None, Meta(description="Absent: plain HTTP.")] = None


class Admin(Section, frozen=True, kw_only=True):
    """Where operators and scrapers connect: /livez, /readyz, /metrics, /debug."""

    address: Annotated[str, Meta(description="As a listener's address.")] = "127.0.0.1:9090"
    token: Annotated[
        Secret | None,
        Meta(
            description="Bearer token asked of every request but the probes. Needed when the "
            "address is not loopback."
        ),
    ] = None

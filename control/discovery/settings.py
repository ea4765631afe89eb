"""What control.yaml says of discovery: the sources, each of a kind, and when a mass that goes away is held.

Invariant: what `find_discovery_faults` lets pass can be run; two sources never have one name. Neighbours:
control/settings.py (has these as a section), watch.py (makes sources of them).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from control.discovery.sets import HoldRule
from router import limits
from router.schema.address import TcpAddress, parse_address, parse_endpoint_url
from router.schema.config import Endpoint
from router.schema.faults import Doubts, Fault, Path
from router.schema.kinds import FilePath, Milliseconds, MillisecondsOrOff, Name, Section
from router.schema.validate import find_clear_secrets


class SourceSettings(Section, frozen=True, kw_only=True, tag_field="type"):
    """What all sources have."""

    name: Annotated[
        Name,
        Meta(description="Unique among sources. Where two have the same endpoint, the first by name counts."),
    ]
    pool: Annotated[Name, Meta(description="The document's pool that its endpoints join.")]


class FileSettings(SourceSettings, frozen=True, kw_only=True, tag="file"):
    """A file with `endpoints`, as a pool has them; it may change at any time."""

    path: Annotated[FilePath, Meta(description="YAML, or JSON when it ends in .json.")]
    interval_ms: Annotated[
        Milliseconds,
        Meta(description="How often it is looked at; it is read when two looks found it alike."),
    ] = 1_000


class DnsRecord(StrEnum):
    """What is asked for."""

    A = "a"
    AAAA = "aaaa"
    SRV = "srv"


class DnsSettings(SourceSettings, frozen=True, kw_only=True, tag="dns"):
    """A name in DNS, each of whose answers is an endpoint."""

    endpoint: Annotated[
        Endpoint,
        Meta(
            description="What each answer becomes, as in a pool. The host of its URL gives way to the "
            "address (of SRV: host and port to the target's)."
        ),
    ]
    record: Annotated[DnsRecord, Meta(description="IPv4 addresses, IPv6 addresses, or services.")] = (
        DnsRecord.A
    )
    lookup: Annotated[
        str, Meta(max_length=255, description="The name to ask for; empty: the host of the URL.")
    ] = ""
    nameservers: Annotated[
        tuple[str, ...],
        Meta(
            max_length=limits.DISCOVERY_NAMESERVERS_MAX,
            description="ADDRESS:PORT of those to ask; empty: the system's.",
        ),
    ] = ()
    timeout_ms: Annotated[Milliseconds, Meta(description="For an answer, all name servers together.")] = 5_000
    ttl_ms_min: Annotated[
        Milliseconds,
        Meta(description="Asked again no sooner, whatever the answer's TTL; also after a failure."),
    ] = 1_000
    ttl_ms_max: Annotated[
        Milliseconds, Meta(description="Asked again no later, whatever the answer's TTL.")
    ] = 60_000


class HttpSettings(SourceSettings, frozen=True, kw_only=True, tag="http"):
    """Endpoints that add themselves, or are added by hand, at control's admin address."""

    registrations_max: Annotated[
        int, Meta(ge=1, le=limits.ENDPOINTS_MAX, description="Endpoints that may be there at once.")
    ] = limits.ENDPOINTS_MAX


class DiscoverySettings(Section, frozen=True, kw_only=True):
    """Where endpoints come from, besides the document."""

    sources: Annotated[
        tuple[FileSettings | DnsSettings | HttpSettings, ...],
        Meta(max_length=limits.SOURCES_MAX, description="Several may feed one pool."),
    ] = ()
    hold_ratio: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="When more than this share of a source's endpoints go away at once, they are held "
            "until that is confirmed; likewise when all do.",
        ),
    ] = 0.5
    hold_count_min: Annotated[
        int, Meta(ge=1, le=limits.ENDPOINTS_MAX, description="The share counts where there were so many.")
    ] = 3
    hold_ms: Annotated[
        MillisecondsOrOff,
        Meta(description="What is held goes by itself after this time; 0: only when somebody confirms it."),
    ] = 0

    def rule(self) -> HoldRule:
        """As the board has it."""
        after_s = self.hold_ms / 1000 if self.hold_ms else None
        return HoldRule(ratio=self.hold_ratio, count_min=self.hold_count_min, confirm_after_s=after_s)


def find_discovery_faults(
    settings: DiscoverySettings, doubts: Doubts, place: Path = ("discovery",)
) -> Iterator[Fault]:
    """Every fault of the section at `place`."""
    names: dict[str, int] = {}
    for index, source in doubts.numbered((*place, "sources"), settings.sources):
        path = (*place, "sources", index)
        if source.name in names:
            yield Fault(
                (*path, "name"),
                f"sources[{names[source.name]}] is named {source.name!r} too",
                "a name that no other source has",
            )
        names.setdefault(source.name, index)
        if isinstance(source, DnsSettings):
            yield from _dns_faults(path, source)


def _dns_faults(path: Path, source: DnsSettings) -> Iterator[Fault]:
    try:
        parse_endpoint_url(source.endpoint.url)
    except ValueError as exc:
        where = (*path, "endpoint", "url")
        yield Fault(where, f"{source.endpoint.url!r}: {exc}", "http://NAME:PORT or https://NAME:PORT")
    yield from find_clear_secrets((*path, "endpoint"), source.endpoint)
    for index, text in enumerate(source.nameservers):
        try:
            address = parse_address(text)
            ipaddress.ip_address(address.host if isinstance(address, TcpAddress) else address.path)
        except ValueError as exc:
            yield Fault((*path, "nameservers", index), f"{text!r}: {exc}", "an IP address and a port")
    if source.ttl_ms_min > source.ttl_ms_max:
        yield Fault(
            (*path, "ttl_ms_min"),
            f"{source.ttl_ms_min} is more than ttl_ms_max, which is {source.ttl_ms_max}",
            f"at most {source.ttl_ms_max}",
        )

"""Endpoints behind a name in DNS: asked for again when the answer's TTL is over, within bounds.

Each address becomes the template with that address in its URL, and is spoken to by the name that it was found
under. Of SRV records each target does; weights are shares within a priority, and each later priority has a
hundredth of the weight of the one before: next to nothing while those are well, somewhere to go when they are
not.

Invariant: no answer, an error, an empty answer or a broken one takes no endpoint away. Neighbours: sets.py,
settings.py (what may be asked).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver
from msgspec import structs

from control.discovery.sets import EndpointSet, Tell
from control.discovery.settings import DnsRecord, DnsSettings
from router.schema.address import EndpointUrl, TcpAddress, parse_address, parse_endpoint_url
from router.schema.config import Endpoint

PRIORITY_RATIO = 0.01  # of the weight of the priority before
WEIGHT_MIN = 1e-6  # more than nothing, after however many priorities
DOUBLINGS_MAX = 16  # ttl_ms_max is reached long before


class Service(NamedTuple):
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class DnsSource:
    """One name."""

    def __init__(
        self,
        settings: DnsSettings,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.name = settings.name
        self.pool = settings.pool
        self._settings = settings
        self._now = now
        self._sleep = sleep

    async def run(self, tell: Tell) -> None:
        """Tells what the name stands for at first, then each time that it was asked for again."""
        failures = 0
        while True:
            told, ttl_s = await self._ask()
            tell(told)
            failures = failures + 1 if told.is_stale else 0
            await self._sleep(self._pause_s(ttl_s, failures))

    def _pause_s(self, ttl_s: float, failures: int) -> float:
        least_s, most_s = self._settings.ttl_ms_min / 1000, self._settings.ttl_ms_max / 1000
        if failures:
            return min(least_s * float(1 << min(failures - 1, DOUBLINGS_MAX)), most_s)
        return min(max(ttl_s, least_s), most_s)

    async def _ask(self) -> tuple[EndpointSet, float]:
        """What to tell, and for how many seconds it holds."""
        settings = self._settings
        lookup = settings.lookup or parse_endpoint_url(settings.endpoint.url).host
        try:
            lifetime_s = settings.timeout_ms / 1000
            answer = await resolver_of(settings).resolve(lookup, settings.record.value, lifetime=lifetime_s)
            endpoints = _endpoints(settings, answer)
        except dns.exception.DNSException as exc:
            return self._set((), f"{lookup}: {exc}"), 0.0
        except ValueError as exc:  # a target that no URL can have
            return self._set((), f"{lookup}: {exc}"), 0.0
        if not endpoints:
            return self._set((), f"{lookup}: the answer says that there is no such service"), 0.0
        return self._set(endpoints), float(answer.chaining_result.minimum_ttl)

    def _set(self, endpoints: tuple[Endpoint, ...], reason: str = "") -> EndpointSet:
        return EndpointSet(
            source=self.name,
            pool=self.pool,
            endpoints=endpoints,
            at_s=self._now(),
            is_stale=bool(reason),
            reason=reason,
        )


def resolver_of(settings: DnsSettings) -> dns.asyncresolver.Resolver:
    """Who is asked, as the system says now. Raises: DNSException where it names nobody."""
    resolver = dns.asyncresolver.Resolver(configure=not settings.nameservers)
    if settings.nameservers:
        resolver.nameservers = [_nameserver(text) for text in settings.nameservers]
    return resolver


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    address = parse_address(text)
    assert isinstance(address, TcpAddress), "settings.py lets no other pass"
    return dns.nameserver.Do53Nameserver(address.host, address.port)


def _endpoints(settings: DnsSettings, answer: dns.resolver.Answer) -> tuple[Endpoint, ...]:
    if settings.record is DnsRecord.SRV:
        found = [Service(item.priority, item.weight, item.port, item.target.to_text()) for item in answer]
        return from_services(settings.endpoint, found)
    return from_addresses(settings.endpoint, (item.address for item in answer))


def from_addresses(template: Endpoint, addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    """An endpoint for each address, by address; Host header and certificate are the name's."""
    url = parse_endpoint_url(template.url)
    tls = template.tls
    if url.is_tls and tls.server_name is None:
        tls = structs.replace(tls, server_name=url.host)
    named = structs.replace(template, host=template.host or url.authority, tls=tls)
    return tuple(
        _placed(named, url, str(address), url.port)
        for address in sorted({ipaddress.ip_address(text) for text in addresses}, key=int)
    )


def from_services(template: Endpoint, services: Iterable[Service]) -> tuple[Endpoint, ...]:
    """An endpoint for each target, weighed; by priority, then by name.

    A target that is "." stands for no service (RFC 2782). Raises: ValueError for one that no URL can have.
    """
    url = parse_endpoint_url(template.url)
    known = [service for service in services if service.target != "."]
    endpoints: list[Endpoint] = []
    for rank, priority in enumerate(sorted({service.priority for service in known})):
        alike = sorted(service for service in known if service.priority == priority)
        heaviest = max(service.weight for service in alike)
        for service in sorted(alike, key=lambda service: (service.target, service.port)):
            share = max(service.weight, 1) / max(heaviest, 1)  # 0 is "seldom", not never
            weight = max(template.weight * share * PRIORITY_RATIO**rank, WEIGHT_MIN)
            target = service.target.rstrip(".").lower()
            placed = _placed(template, url, target, service.port)
            parse_endpoint_url(placed.url)
            endpoints.append(structs.replace(placed, weight=round(weight, 9)))
    return tuple(endpoints)


def _placed(template: Endpoint, url: EndpointUrl, host: str, port: int) -> Endpoint:
    scheme = "https" if url.is_tls else "http"
    return structs.replace(template, url=f"{scheme}://{TcpAddress(host, port)}{url.path_prefix}", name="")

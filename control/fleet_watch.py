"""Keeps looking at the endpoints in force, and tells the routers what it sees.

    documents in force ─► targets ─► probes  ─► health ──┐
                                └──► scrapes ─► facts ───┴─► signals, once a second, to each router

Control has no secrets of its own: a key that a document only refers to is read here if this machine has it,
and else an endpoint is asked without. Invariant: what is told has the age it has; what is not known is not
told. Neighbours: fleet_health.py, health_checker.py, scrape.py (the parts), app.py (owns one), link.py
(routers).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from msgspec import structs

from control import health_checker, scrape, scrape_source
from control.fleet_health import FleetHealth
from control.health import Condition
from control.health_settings import HealthSettings
from control.link import LinkServer, RouterLink
from control.probe import target_of
from control.publish import Desired
from control.reading import Fact
from control.supervision import Supervision
from control.validation import FleetFacts
from router.config import ConfigError, read_reference
from router.schema.config import Endpoint, EndpointAuth
from router.schema.link import Report, Signal

TELL_S = 1.0
TOLD_KINDS = frozenset(("waiting", "running", "kv", "power"))  # of a scrape: what the link has words for
FRESH_S = 10.0  # what is older no router weighs


class FleetWatch:
    """Probes, scrapes and what routers are told of them."""

    def __init__(
        self, health: HealthSettings, scraping: scrape.ScrapeSettings, server: LinkServer, tasks: Supervision
    ) -> None:
        self._health_settings = health
        self._scrape_settings = scraping
        self._server = server
        self._tasks = tasks
        self._health = FleetHealth(health)
        self._checker = health_checker.HealthChecker(health, self._health.take_probes)
        self._scraper: scrape.Scraper | None = None
        self._targets: tuple[scrape_source.Target, ...] = ()
        self._facts: dict[tuple[str, str], tuple[float, float]] = {}  # value and when, by endpoint and kind
        self._generated: dict[str, float] = {}
        self._known: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begins to look, and goes on until the tasks are closed."""
        self._tasks.start("health", self._checker.run)
        self._tasks.start("scrape", self._scrape)
        self._tasks.start("tell", self._tell)

    def look_at(self, desired: Desired) -> None:
        """These endpoints are in force now."""
        documents = [desired.stable] if desired.canary is None else [desired.stable, desired.canary]
        endpoints: dict[str, Endpoint] = {}
        for document in documents:
            for pool in document.pools:
                for endpoint in pool.endpoints:
                    endpoints.setdefault(endpoint.name, _with_key(endpoint))
        self._known = frozenset(endpoints)
        self._facts = {key: told for key, told in self._facts.items() if key[0] in self._known}
        engines = {name: endpoint.engine for name, endpoint in endpoints.items()}
        self._health.set_endpoints(engines, time.monotonic())
        self._checker.set_targets(
            target_of(endpoint, self._health_settings) for endpoint in endpoints.values()
        )
        self._targets = tuple(_scraped(endpoint) for endpoint in endpoints.values())
        if self._scraper is not None:
            self._scraper.set_targets(self._targets)

    def take_report(self, router: RouterLink, report: Report) -> None:
        """What a router has seen of its endpoints."""
        self._health.take_report(router.hello.instance, router.hello.region, report)

    def forget_router(self, router: RouterLink) -> None:
        """It has gone."""
        self._health.forget_router(router.hello.instance)

    def facts(self) -> FleetFacts:
        """What validation asks of the fleet."""
        described = self._health.describe()
        return FleetFacts(
            down={
                name: health.reason
                for name, health in described.items()
                if health.condition is Condition.DOWN
            }
        )

    def signals(self, region: str, now_s: float) -> tuple[Signal, ...]:
        """What routers of `region` are told now."""
        told = self._health.signals(region, now_s)
        for (endpoint, kind), (value, at_s) in self._facts.items():
            if now_s - at_s < FRESH_S:
                told.append(Signal(endpoint, kind, value, max(0, int((now_s - at_s) * 1000))))
        return tuple(told)

    async def _scrape(self) -> None:
        async with scrape.open_session(self._scrape_settings) as session:
            self._scraper = scrape.Scraper(session, self._take_facts, self._scrape_settings)
            self._scraper.set_targets(self._targets)
            await self._scraper.run()

    async def _tell(self) -> None:
        while True:
            now_s = time.monotonic()
            by_region: dict[str, tuple[Signal, ...]] = {}
            for router in self._server.routers:
                region = router.hello.region
                if region not in by_region:
                    by_region[region] = self.signals(region, now_s)
                router.tell(by_region[region])
            await asyncio.sleep(TELL_S)

    def _take_facts(self, endpoint: str, facts: Iterable[Fact], at_s: float) -> None:
        if endpoint not in self._known:
            return
        told = {fact.kind: fact.value for fact in facts}
        for kind in TOLD_KINDS & told.keys():
            self._facts[endpoint, kind] = told[kind], at_s
        generated = told.get("generation_tokens")
        before = self._generated.get(endpoint)
        if generated is not None:
            self._generated[endpoint] = generated
        if "waiting" in told:
            has_progressed = generated is not None and before is not None and generated > before
            self._health.take_load(endpoint, int(told["waiting"]), has_progressed, at_s)


def _with_key(endpoint: Endpoint) -> Endpoint:
    bearer = endpoint.auth.bearer
    if bearer is None or bearer.is_known or bearer.source is None:
        return endpoint
    try:
        return structs.replace(
            endpoint, auth=structs.replace(endpoint.auth, bearer=read_reference(bearer.source))
        )
    except ConfigError:
        return structs.replace(endpoint, auth=EndpointAuth())


def _scraped(endpoint: Endpoint) -> scrape_source.Target:
    return scrape_source.Target(
        name=endpoint.name,
        url=endpoint.url,
        engine=endpoint.engine.value,
        bearer=endpoint.auth.bearer,
        host=endpoint.host,
        tls=endpoint.tls,
    )

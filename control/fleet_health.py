"""The health of every endpoint: evidence comes in from all sides, signals for the routers go out.

Routers report what they counted since they started, so that a lost report loses nothing: what is new is the
difference to the last report of the same instance. What a router had counted before this control first heard
of it is old and says nothing of now.

Invariant: only endpoints that `set_endpoints` named are held; what is said of others is passed over.
Neighbours: health.py (one endpoint), health_checker.py (probes), link.py (reports in, signals out).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from msgspec import Struct

from control.health import (
    Attempted,
    Drained,
    EndpointHealth,
    Event,
    Loaded,
    Probed,
    after,
    health_value,
    is_left_out,
    unknown,
)
from control.health_settings import HealthSettings
from router.schema.config import Engine
from router.schema.link import EndpointCounts, Report, Signal

logger = logging.getLogger("fairlead.control")

FRESH_MS_MAX = 10_000  # what is older routers no longer weigh: HEALTH_STALE_S of router/native/signals

_NOTHING = EndpointCounts(endpoint="", attempts=0, faults=0)


class _Entry(Struct):
    settings: HealthSettings
    health: EndpointHealth


class FleetHealth:
    """One `EndpointHealth` for each endpoint, on the main loop."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._entries: dict[str, _Entry] = {}
        self._reports: dict[str, Report] = {}  # the last one, by router's instance
        self._news: dict[tuple[str, str], list[int]] = {}  # attempts, faults, tokens by endpoint and region

    def set_endpoints(self, engines: Mapping[str, Engine], now_s: float) -> None:
        """These are all there are; what is known of those that stay is kept."""
        entries = {}
        for name, engine in engines.items():
            known = self._entries.get(name)
            health = unknown(now_s) if known is None else known.health
            entries[name] = _Entry(self._settings.of(engine), health)
        self._entries = entries

    def take(self, endpoint: str, event: Event) -> None:
        """Evidence of one endpoint; a change of its condition is logged."""
        entry = self._entries.get(endpoint)
        if entry is None:
            return
        before = entry.health
        entry.health = after(before, event, entry.settings)
        if entry.health.condition is not before.condition:
            condition, reason = entry.health.condition, entry.health.reason
            logger.info("endpoint %s: %s → %s: %s", endpoint, before.condition, condition, reason)

    def take_probes(self, results: Iterable[tuple[str, Probed]]) -> None:
        """What `HealthChecker` delivers."""
        for endpoint, probed in results:
            self.take(endpoint, probed)

    def take_report(self, instance: str, region: str, report: Report) -> None:
        """What one router counted; `instance` and `region` as it said hello. It counts from `settle` on."""
        last = self._reports.get(instance)
        self._reports[instance] = report
        if last is None or report.uptime_ms < last.uptime_ms:
            return
        known = {counts.endpoint: counts for counts in last.endpoints}
        for counts in report.endpoints:
            if counts.endpoint not in self._entries:
                continue
            before = known.get(counts.endpoint, _NOTHING)
            if counts.attempts != before.attempts or counts.output_tokens != before.output_tokens:
                news = self._news.setdefault((counts.endpoint, region), [0, 0, 0])
                news[0] += counts.attempts - before.attempts
                news[1] += counts.faults - before.faults
                news[2] += counts.output_tokens - before.output_tokens

    def settle(self, now_s: float) -> None:
        """Makes one piece of evidence for each endpoint and region of what routers reported since the last
        time, so that two hundred routers cost no more than a few. `signals` does it, too.
        """
        news, self._news = self._news, {}
        for (endpoint, region), (attempts, faults, tokens) in news.items():
            event = Attempted(
                at_s=now_s, region=region, attempts=attempts, faults=faults, output_tokens=tokens
            )
            self.take(endpoint, event)

    def forget_router(self, instance: str) -> None:
        """It has gone."""
        self._reports.pop(instance, None)

    def take_load(self, endpoint: str, waiting: int, has_progressed: bool, at_s: float) -> None:
        """What a scrape said of its queue."""
        self.take(endpoint, Loaded(at_s=at_s, waiting=waiting, has_progressed=has_progressed))

    def drain(self, endpoint: str, is_draining: bool, by: str, now_s: float) -> bool:
        """Takes it out of use, or back. False: there is none of that name."""
        self.take(endpoint, Drained(at_s=now_s, is_draining=is_draining, by=by))
        return endpoint in self._entries

    def signals(self, region: str, now_s: float) -> list[Signal]:
        """What routers of `region` are told, to be sent again within a few seconds.

        A condition stands until its next probe is due: it ages from then on, and when nobody probes any more
        it is soon no signal at all.
        """
        self.settle(now_s)
        signals = []
        for name, entry in self._entries.items():
            health, settings = entry.health, entry.settings
            if health.probed_s is None:
                continue
            next_s = (settings.interval_ms * (1 + settings.jitter_ratio) + settings.timeout_ms) / 1000
            age_ms = max(0, int((now_s - health.probed_s - next_s) * 1000))
            if age_ms < FRESH_MS_MAX:
                signals.append(Signal(name, "health", health_value(health, region), age_ms))
        return signals

    def left_out(self) -> frozenset[str]:
        """Endpoints that snapshots go without."""
        return frozenset(name for name, entry in self._entries.items() if is_left_out(entry.health))

    def describe(self) -> dict[str, EndpointHealth]:
        """All of them, for people."""
        return {name: entry.health for name, entry in self._entries.items()}

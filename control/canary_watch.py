"""Has the guard look at the canary, and takes it back when the guard says so.

Every look compares what the canary and the stable version have counted since the canary began, or was last
given another share. Invariant: only what routers reported is looked at, and only a verdict changes anything;
the change goes through the same rules as a person's, with `guard` as its actor and the figures as its reason.
Neighbours: collect.py (windows), guard.py (the verdict), versions.py (the change), app.py (owns one).
"""

from __future__ import annotations

import asyncio
import logging
import time

from control.collect import Collector
from control.guard import GuardSettings, Verdict, judge
from control.link import RouterLink
from control.store import StoreUnavailableError
from control.versions import ConflictError, Versions
from router import limits
from router.schema.link import Report

GUARD = "guard"
WINDOWS = 1  # of a canary: the share that it was given

logger = logging.getLogger("fairlead.control")


class CanaryWatch:
    """The guard of one control."""

    def __init__(self, settings: GuardSettings, versions: Versions) -> None:
        self._settings = settings
        self._versions = versions
        self._collector = Collector()
        self._watched = (0, 0.0)  # the canary and its share, as marked last
        self.verdict: Verdict | None = None
        """Of the last look at the canary; None: there is none, or nobody has looked yet."""

    def take_report(self, router: RouterLink, report: Report) -> None:
        """What a router has counted."""
        self._collector.observe(router.name, router.hello.instance, report, time.monotonic())

    def forget_router(self, router: RouterLink) -> None:
        """It has gone."""
        self._collector.forget(router.hello.instance)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(limits.GUARD_INTERVAL_MS / 1000)
            await self.look(time.monotonic())

    async def look(self, now_s: float) -> None:
        """One look."""
        self._collector.advance(now_s)
        state = self._versions.state
        if (state.canary, state.canary_ratio) != self._watched:
            self._watched = (state.canary, state.canary_ratio)
            self._collector.mark(now_s)
            self.verdict = None
            return
        desired = self._versions.desired()
        if not state.canary or desired is None:
            return
        self.verdict = judge(
            self._settings,
            self._collector.since_mark(state.canary),
            self._collector.since_mark(state.stable),
            window_count=WINDOWS,
            route_count=len(desired.stable.routes),
        )
        if self.verdict.action != "roll_back":
            return
        try:
            await self._versions.rollback(actor=GUARD, why=self.verdict.reason)
        except (ConflictError, StoreUnavailableError) as exc:
            logger.error("version %d is to be taken back and is not yet: %s", state.canary, exc)
        else:
            logger.warning("version %d is taken back: %s", state.canary, self.verdict.reason)

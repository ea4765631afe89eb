"""Runs the sources, keeps the board, and says when what is published of it has changed.

A storm of changes is one publication: it goes out when changes have paused, and at the latest a little after
the first. After a start nothing goes out before every source has told, or a few seconds are over; until a
source tells, what it last had counts, which was kept when it was published.

Invariant: whatever source fails, the others go on; a publication that failed comes again with the next tick.
Neighbours: sets.py (the board), supervision.py (the tasks), merge.py (what whoever publishes makes of it),
keeping.py (what outlives control).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from control.discovery.dns import DnsSource
from control.discovery.file import FileSource
from control.discovery.keeping import NOT_HEARD, encode_sets, recall_sets
from control.discovery.registry import Registration, Registry, RegistrySource
from control.discovery.sets import Board, EndpointSet, Event, Source, Tick, fold
from control.discovery.settings import DiscoverySettings, DnsSettings, FileSettings
from control.supervision import Supervision

Publish = Callable[[Board], None]
Now = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

QUIET_S = 0.05  # without a change: one burst of events is over
WAIT_S_MAX = 0.25  # after the first change, however many follow it
START_S_MAX = 10.0  # for all sources to tell; DNS gives up after 5
TICK_S = 1.0  # between two looks at what is held; it is held for minutes


def publish_at_s(first_s: float, last_s: float) -> float:
    """When to publish changes, of which these are the first and the last."""
    return min(last_s + QUIET_S, first_s + WAIT_S_MAX)


class RegistrationStore(Protocol):
    """Who keeps registrations; what it raises, whoever registers is told."""

    def load(self, source: str) -> Sequence[Registration]:
        """All that were saved and not forgotten."""

    def save(self, source: str, registration: Registration) -> None:
        """Keeps it in place of one of its endpoint's name."""

    def forget(self, source: str, endpoint: str) -> None:
        """It is no more."""


def sources_of(
    settings: DiscoverySettings,
    store: RegistrationStore,
    *,
    now: Now = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> list[Source]:
    """What the settings name, ready to run. Raises: what the store raises."""
    sources: list[Source] = []
    for each in settings.sources:
        if isinstance(each, FileSettings):
            interval_s = each.interval_ms / 1000
            sources.append(
                FileSource(each.name, each.pool, each.path, interval_s=interval_s, now=now, sleep=sleep)
            )
        elif isinstance(each, DnsSettings):
            sources.append(DnsSource(each, now=now, sleep=sleep))
        else:
            registry = Registry(
                each.name,
                each.pool,
                registered=store.load(each.name),
                now_s=now(),
                save=partial(store.save, each.name),
                forget=partial(store.forget, each.name),
                registrations_max=each.registrations_max,
            )
            sources.append(RegistrySource(registry, now=now, sleep=sleep))
    return sources


class Discovery:
    """All sources of one control process."""

    def __init__(
        self,
        settings: DiscoverySettings,
        sources: Iterable[Source],
        *,
        publish: Publish,
        supervision: Supervision,
        remembered: bytes | None = None,
        remember: Callable[[bytes], None] = lambda _kept: None,
        now: Now = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`publish` gets the board in the loop's thread; `remembered` is what `remember` was given last."""
        self.board = Board(rule=settings.rule())
        self._sources = {source.name: source for source in sources}
        self._publish = publish
        self._supervision = supervision
        self._remember = remember
        self._now = now
        self._sleep = sleep
        self._published: Board | None = None
        self._changed = asyncio.Event()
        self._first_s = self._last_s = now()
        self._started_s = now()
        for told in recall_sets(remembered, self._sources.values(), now()):
            self.board = fold(self.board, told)

    def start(self) -> None:
        """Starts the tasks; they end with the supervision."""
        self._started_s = self._now()
        for source in self._sources.values():
            self._supervision.start(f"source {source.name}", partial(self._run, source))
        self._supervision.start("discovery", self._publish_changes)
        self._supervision.start("discovery ticks", self._tick)

    def tell(self, event: Event) -> None:
        """Takes what a source or an operator says."""
        before, self.board = self.board, fold(self.board, event)
        if self._published is not None and self.board.counts_as(self._published):
            return
        if not self._changed.is_set():
            self._first_s = self._last_s = self._now()
            self._changed.set()
        elif not self.board.counts_as(before):
            self._last_s = self._now()

    @property
    def registries(self) -> dict[str, Registry]:
        """Of the HTTP sources, by name."""
        return {
            source.name: source.registry
            for source in self._sources.values()
            if isinstance(source, RegistrySource)
        }

    def is_complete(self) -> bool:
        """Whether every source has told since the start, if only that it failed, or was waited for enough."""
        if self._now() - self._started_s >= START_S_MAX:
            return True
        heard = (self.board.sources.get(name) for name in self._sources)
        return all(state is not None and state.reason != NOT_HEARD for state in heard)

    async def _run(self, source: Source) -> None:
        try:
            await source.run(self.tell)
        finally:
            self.tell(
                EndpointSet(
                    source=source.name,
                    pool=source.pool,
                    endpoints=(),
                    at_s=self._now(),
                    is_stale=True,
                    reason="its task ended; it is begun again, and the log says why",
                )
            )

    async def _publish_changes(self) -> None:
        while True:
            await self._changed.wait()
            while (due_s := publish_at_s(self._first_s, self._last_s)) > self._now():
                await self._sleep(due_s - self._now())
            self._changed.clear()
            board = self.board
            if not self.is_complete() or (self._published is not None and board.counts_as(self._published)):
                continue  # the last source to tell, or a tick, sets it again
            self._publish(board)
            self._published = board
            self._remember(encode_sets(board))

    async def _tick(self) -> None:
        while True:
            await self._sleep(TICK_S)
            self.tell(Tick(at_s=self._now()))

"""Probes every endpoint again and again, on a loop and thread of its own, and hands over what was found.

A control process that is busy is thus no dead fleet. Where the prober itself was held up (a stopped process,
a machine out of breath), what it asked meanwhile is thrown away, time-outs first of all. Each endpoint has
its own watched task: one probe that crashes stops no other, and a change of targets touches only those that
changed.

Invariant: results reach the main loop in order, in batches, and wait there within a bound. Neighbours:
probe.py (one probe), fleet_health.py (takes the results), supervision.py.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import aiohttp

from control.health import Answer, Probed, ProbeKind
from control.health_settings import HealthSettings
from control.probe import Clock, Target, load_tls, open_session, probe
from control.supervision import Supervision, Watched
from router import limits
from router.schema.config import EndpointTls

TICK_S = 0.05  # between two looks at whether the loop was held up
BATCH_S = 0.02  # results that come within it are handed over together: 50 wakes of the main loop a second

Results = list[tuple[str, Probed]]
Deliver = Callable[[Results], None]


class Probe(Protocol):
    """`probe.probe`, or what a test has in its place."""

    def __call__(
        self,
        session: aiohttp.ClientSession,
        target: Target,
        kind: ProbeKind,
        *,
        context: ssl.SSLContext | None,
        timeout_s: float,
        clock: Clock,
    ) -> Awaitable[Probed]: ...


class LoopLag:
    """Whether a loop was held up, by a tick that should come every `TICK_S`."""

    def __init__(self, lag_s: float, now_s: float) -> None:
        self._gap_s_max = TICK_S + lag_s
        self._ticked_s = now_s
        self._held_up_s: float | None = None

    def tick(self, now_s: float) -> None:
        """The loop runs."""
        if now_s - self._ticked_s > self._gap_s_max:
            self._held_up_s = now_s
        self._ticked_s = now_s

    def was_held_up(self, since_s: float, now_s: float) -> bool:
        """Whether it was since then; a gap that no tick has ended yet counts."""
        if now_s - self._ticked_s > self._gap_s_max:
            return True
        return self._held_up_s is not None and self._held_up_s >= since_s


class HealthChecker:
    """Probes `set_targets` while `run` runs."""

    def __init__(
        self,
        settings: HealthSettings,
        deliver: Deliver,
        *,
        probe: Probe = probe,
        clock: Clock = time.monotonic,
        seed: int | None = None,
    ) -> None:
        """`deliver` is called on the loop that runs `run`."""
        self.thrown_away = 0
        """Results of while the prober was held up."""
        self._settings = settings
        self._deliver = deliver
        self._probe = probe
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - spreads probes, guards nothing
        self._lock = threading.Lock()  # of the next three, which both threads touch
        self._targets: dict[str, Target] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False
        self._supervision = Supervision()
        self._results: deque[tuple[str, Probed]] = deque(maxlen=limits.PROBE_RESULTS_MAX)
        self._is_handing_over = False

    def set_targets(self, targets: Iterable[Target]) -> None:
        """These are probed from now on, from any thread; those that are as before do not notice."""
        with self._lock:
            self._targets = {target.name: target for target in targets}
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._apply)

    async def run(self) -> None:
        """Probes until cancelled. For a watched task: whatever else ends it raises."""
        main = asyncio.get_running_loop()
        self._is_stopping = self._is_handing_over = False
        with ThreadPoolExecutor(1, "health") as executor:
            work = main.run_in_executor(executor, lambda: asyncio.run(self._probe_all(main)))
            try:
                await asyncio.shield(work)
            finally:
                with self._lock:
                    self._is_stopping = True
                    if self._loop is not None:
                        self._loop.call_soon_threadsafe(self._stop.set)
                await asyncio.wait([work])

    def describe(self) -> list[Watched]:
        """The tasks that probe, and how they fare."""
        return self._supervision.describe()

    async def _probe_all(self, main: asyncio.AbstractEventLoop) -> None:
        self._main = main
        self._supervision = Supervision()
        self._lag = LoopLag(self._settings.lag_ms / 1000, self._clock())
        self._slots = asyncio.Semaphore(self._settings.at_once_max)
        self._contexts: dict[EndpointTls, ssl.SSLContext] = {}
        self._probed: dict[str, Target] = {}
        self._batch_timer: asyncio.TimerHandle | None = None
        async with open_session() as self._session:
            with self._lock:
                self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
                if self._is_stopping:
                    return
            try:
                self._supervision.start("loop lag", self._tick)
                self._apply()
                await self._stop.wait()
            finally:
                with self._lock:
                    self._loop = None
                await self._supervision.close()

    def _apply(self) -> None:
        wanted = self._targets
        for name, target in list(self._probed.items()):
            if wanted.get(name) != target:
                del self._probed[name]
                for kind in ProbeKind:
                    self._supervision.stop(f"{kind} {name}")
        for name, target in wanted.items():
            if name not in self._probed:
                self._probed[name] = target
                self._start(target)

    def _start(self, target: Target) -> None:
        own = self._settings.of(target.engine)
        interval_s, timeout_s = own.interval_ms / 1000, own.timeout_ms / 1000
        self._supervision.start(
            f"{ProbeKind.LIVENESS} {target.name}",
            lambda: self._repeat(target, ProbeKind.LIVENESS, interval_s, timeout_s),
        )
        generation = self._settings.generation
        if generation.is_on and target.model:
            self._supervision.start(
                f"{ProbeKind.GENERATION} {target.name}",
                lambda: self._repeat(
                    target, ProbeKind.GENERATION, generation.interval_ms / 1000, generation.timeout_ms / 1000
                ),
            )

    async def _tick(self) -> None:
        while True:
            self._lag.tick(self._clock())
            await asyncio.sleep(TICK_S)

    async def _repeat(self, target: Target, kind: ProbeKind, interval_s: float, timeout_s: float) -> None:
        await asyncio.sleep(self._random.uniform(0, interval_s))
        jitter = self._settings.jitter_ratio
        while True:
            async with self._slots:
                begun_s = self._clock()
                probed = await self._ask(target, kind, timeout_s)
            if self._lag.was_held_up(begun_s, self._clock()):
                self.thrown_away += 1
            else:
                self._put(target.name, probed)
            await asyncio.sleep(interval_s * self._random.uniform(1 - jitter, 1 + jitter))

    async def _ask(self, target: Target, kind: ProbeKind, timeout_s: float) -> Probed:
        context = None
        if target.url.lower().startswith("https"):
            context = self._contexts.get(target.tls)
            if context is None:
                try:
                    context = await asyncio.to_thread(load_tls, target.tls)
                except OSError as exc:
                    detail = f"its TLS files do not load: {exc}"
                    return Probed(at_s=self._clock(), answer=Answer.REJECTED, kind=kind, detail=detail)
                self._contexts[target.tls] = context
        probed = await self._probe(
            self._session, target, kind, context=context, timeout_s=timeout_s, clock=self._clock
        )
        if probed.detail.startswith("TLS"):
            self._contexts.pop(target.tls, None)  # its files may have been renewed
        return probed

    def _put(self, name: str, probed: Probed) -> None:
        self._results.append((name, probed))
        if self._batch_timer is None:
            self._batch_timer = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    def _flush(self) -> None:
        self._batch_timer = None
        if not self._is_handing_over:
            self._is_handing_over = True
            self._main.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        """On the main loop, which may have been away for long: all that waits, once."""
        self._is_handing_over = False
        results: Results = []
        while self._results:
            results.append(self._results.popleft())
        if results:
            self._deliver(results)

"""Asks engines and GPUs how they are, each about once a second, and passes on what they say.

One loop takes the pages whose turn it is from the schedule and starts a short task for each, a bounded number
at once. A page is read as it arrives and dropped at the first sign that it is not what was asked for. What is
passed on carries the moment at which it was true.

Invariant: no endpoint can hold up another, whatever it answers; what is not known is not passed on.
Neighbours: scrape_schedule.py (whose turn it is), scrape_page.py (one page), scrape_source.py (what it says).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

import aiohttp
from msgspec import Meta, Struct

from control.reading import Fact
from control.scrape_page import JsonBody, NotServedError, PageError, Question, get_page
from control.scrape_schedule import Schedule
from control.scrape_source import EngineSource, Source, Target, Told, sources_of
from router import limits
from router.schema.config import EndpointTls
from router.schema.kinds import Milliseconds, Section

logger = logging.getLogger("fairlead.control")

OnSignals = Callable[[str, tuple[Fact, ...], float], None]
Sleep = Callable[[float], Awaitable[None]]

TICK_S = 0.02  # between two looks at the schedule: a fiftieth of the interval, and 50 wakes a second


class ScrapeSettings(Section, frozen=True, kw_only=True):
    """How endpoints are asked for their load."""

    interval_ms: Annotated[Milliseconds, Meta(description="How often each is asked, on average.")] = 1_000
    seldom_interval_ms: Annotated[
        Milliseconds, Meta(description="How often for what changes seldom, or only grows.")
    ] = 10_000
    timeout_ms: Annotated[Milliseconds, Meta(description="An answer that takes longer is none.")] = 2_000
    backoff_max_ms: Annotated[
        Milliseconds, Meta(description="One that does not answer is asked at least this often.")
    ] = 15_000
    at_once_max: Annotated[
        Annotated[int, Meta(ge=1, le=limits.SCRAPES_AT_ONCE_MAX)],
        Meta(description="Questions that may be open at once, all endpoints together."),
    ] = limits.SCRAPES_AT_ONCE_DEFAULT


class ScrapeStatus(Struct, frozen=True, kw_only=True):
    """How it stands with one page."""

    endpoints: tuple[str, ...]
    url: str
    engine: str
    """Whose names it has; empty: a GPU's, or not known."""
    told_s: float | None
    """When it last told something, on the scraper's clock."""
    failure: str
    """Why it does not now; empty: it does, or was not asked yet."""
    failures: int
    """In a row."""
    models: tuple[str, ...] | None
    """In memory, where it says so."""


def open_session(settings: ScrapeSettings) -> aiohttp.ClientSession:
    """A session as a scraper wants it: a connection is kept to each endpoint, and no cookie of any."""
    keep_s = 3 * settings.interval_ms / 1000 + 1  # a turn may be late, and one may fail
    connector = aiohttp.TCPConnector(limit=settings.at_once_max, keepalive_timeout=keep_s)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "Accept": "text/plain, application/json;q=0.5"},
        skip_auto_headers=("User-Agent",),
        trust_env=False,
    )


class Scraper:
    """Asks the endpoints of `set_targets` for as long as `run` runs."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        on_signals: OnSignals,
        settings: ScrapeSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        seed: int | None = None,
    ) -> None:
        self.asked_count = 0
        self.failed_count = 0
        self._session = session
        self._on_signals = on_signals
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout_ms / 1000)
        self._schedule = Schedule(
            backoff_max_s=settings.backoff_max_ms / 1000,
            random_=random.Random(seed),  # noqa: S311 - spreads questions, guards nothing
        )
        self._sources: dict[str, Source] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._contexts: dict[EndpointTls, ssl.SSLContext] = {}

    def set_targets(self, targets: tuple[Target, ...]) -> None:
        """These and no others; what is the same as before keeps its turn and its state."""
        sources = sources_of(targets, self._sources)
        now_s = self._clock()
        interval_s, seldom_s = self._settings.interval_ms / 1000, self._settings.seldom_interval_ms / 1000
        periods_s = {key: seldom_s if key.startswith("seldom ") else interval_s for key in sources}
        changed = {key for key, source in sources.items() if self._sources.get(key) is not source}
        kept = {key: period_s for key, period_s in periods_s.items() if key not in changed}
        self._schedule.set(kept, now_s)  # what is changed loses its turn, and may be out
        self._schedule.set(periods_s, now_s)
        self._sources = sources

    def describe(self) -> list[ScrapeStatus]:
        """Each page and how it stands with it."""
        return [
            ScrapeStatus(
                endpoints=source.endpoints,
                url=str(source.url),
                engine=source.spoken if isinstance(source, EngineSource) else "",
                told_s=source.told_s,
                failure=source.failure,
                failures=source.failures,
                models=source.models if isinstance(source, EngineSource) else None,
            )
            for source in self._sources.values()
        ]

    async def run(self) -> None:
        """Never returns; cancelled, it leaves nothing running."""
        try:
            while True:
                room = self._settings.at_once_max - len(self._asking)
                for key, serial in self._schedule.take(self._clock(), room):
                    source = self._sources[key]
                    task = asyncio.get_running_loop().create_task(self._ask(source))
                    self._asking.add(task)
                    task.add_done_callback(partial(self._asked, source, serial))
                await self._sleep(TICK_S)
        finally:
            asking = list(self._asking)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, source: Source) -> None:
        try:
            told_s, told = await self._get(source)
        except NotServedError as exc:
            source.failure = str(exc)
            source.try_another()
        except TimeoutError:
            source.failure = f"no answer within {self._settings.timeout_ms} ms"
        except (aiohttp.ClientError, OSError) as exc:
            source.failure = str(exc) or type(exc).__name__
            if isinstance(exc, ssl.SSLError | aiohttp.ClientSSLError):
                self._contexts.pop(source.tls, None)  # its files may have been renewed
        except (PageError, ValueError) as exc:
            source.failure = str(exc) or type(exc).__name__
        else:
            source.failure = ""
            source.told_s = told_s
            if self._sources.get(source.key) is source:
                for endpoint, facts in told:
                    self._on_signals(endpoint, facts, told_s)

    async def _get(self, source: Source) -> tuple[float, Told]:
        url = source.url
        context = await self._context(source.tls) if url.scheme == "https" else None
        question = Question(url, source.headers, context, source.tls.server_name if context else None)
        wanted = source.wanted
        if wanted is None:
            body = JsonBody()
            told_s = await get_page(
                self._session, question, body.feed, within=self._timeout, clock=self._clock
            )
            return told_s, source.understand_json(bytes(body.data))
        reader = source.reader(wanted)
        told_s = await get_page(self._session, question, reader.feed, within=self._timeout, clock=self._clock)
        return told_s, source.read(reader)

    def _asked(self, source: Source, serial: int, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if task.cancelled():
            return
        bug = task.exception()
        if bug is not None:
            source.failure = f"{type(bug).__name__}: {bug}"
            logger.error("scraping %s: %s", source.url, source.failure, exc_info=bug)
        self.asked_count += 1
        is_well = not source.failure
        if is_well:
            if source.failures:
                logger.info("%s tells its load again", source.url)
            source.failures = 0
        else:
            self.failed_count += 1
            source.failures += 1
            if source.failures == 1:
                logger.warning("%s does not tell its load: %s", source.url, source.failure)
        if self._sources.get(source.key) is source:
            self._schedule.done(source.key, serial, self._clock(), is_well=is_well)

    async def _context(self, tls: EndpointTls) -> ssl.SSLContext:
        if tls not in self._contexts:
            self._contexts[tls] = await asyncio.to_thread(_tls_context, tls)
        return self._contexts[tls]


def _tls_context(tls: EndpointTls) -> ssl.SSLContext:
    """As the router speaks to such an endpoint. Raises: OSError for files that do not load."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context

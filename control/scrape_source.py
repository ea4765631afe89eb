"""A page that is asked for again and again: whose it is, what it is believed to speak, and how it fared.

An endpoint has one for its load, perhaps one for what changes seldom; GPUs of a node have one for all the
endpoints on it. Where an engine does not serve its first page, the next of its dialect stands in. Where a
page has no name of the engine that the configuration says, any engine's names are looked for, so that an
address that was given another engine goes on to be understood.

Invariant: no clock, no socket. Neighbours: scrape.py (asks), dialects.py (what may be asked for).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from yarl import URL

from control.dialects import DIALECTS, WANTED, WANTED_ANY, Page, recognise
from control.exposition import ExpositionReader, Sample, Wanted
from control.gpu_power import GPU_WANTED, power_reading, read_gpus
from control.reading import Fact, Reading
from control.scrape_page import PageError
from router.schema.config import EndpointTls
from router.schema.secret import Secret

NOT_ASKED = frozenset({"openai"})
"""Engines that are someone else's service, and have no such page."""

READ_WHOLE_EVERY = 10
"""Of so many pages one is read to its end; the others until what the last one had is found."""

ANY_PAGES = (Page("/metrics"),)

Told = list[tuple[str, tuple[Fact, ...]]]
"""Facts by endpoint."""


class Target(Struct, frozen=True, kw_only=True):
    """One endpoint to be asked."""

    name: str
    url: str
    engine: str = "other"
    """As in the configuration; `other`: whose names its /metrics has is found out."""
    metrics_url: str = ""
    """Whole, where it is not served at `url` (Triton's port 8002)."""
    gpu_url: str = ""
    """Whole, of the exporter that tells the watts of its GPUs."""
    gpus: tuple[str, ...] = ()
    """Which of those are its own, by index or UUID; none: all."""
    bearer: Secret | None = None
    """Sent to `url` and `metrics_url`, never to `gpu_url`, which is not the engine."""
    host: str | None = None
    tls: EndpointTls = EndpointTls()


class Source:
    """One page; `key` tells it from all others, `said` whether two of one key are the same."""

    def __init__(self, key: str, said: tuple[object, ...], urls: Sequence[URL], target: Target) -> None:
        self.key = key
        self.said = said
        self.tls = target.tls
        self.headers: dict[str, str] = {}
        self.told_s: float | None = None
        self.failure = ""
        self.failures = 0
        self._count = 0  # of pages
        self._seen = 0  # samples of the last one
        self._urls = urls
        self._url_index = 0

    @property
    def url(self) -> URL:
        """Where it is asked for now."""
        return self._urls[self._url_index]

    def try_another(self) -> None:
        """It is not served there: from now on the next one that may be."""
        self._url_index = (self._url_index + 1) % len(self._urls)

    def reader(self, wanted: Wanted) -> ExpositionReader:
        """For the next page."""
        self._count += 1
        return ExpositionReader(wanted, enough=self._seen if self._count % READ_WHOLE_EVERY else 0)

    def read(self, reader: ExpositionReader) -> Told:
        """What the page that it was fed says. Raises: ValueError, PageError."""
        samples = reader.finish()
        self._seen = len(samples)
        return self.understand(samples)

    @property
    def endpoints(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def wanted(self) -> Wanted | None:
        """Names to look for in text; None: the page is JSON."""
        raise NotImplementedError

    def understand(self, samples: Sequence[Sample]) -> Told:
        """Raises: PageError where the samples say nothing."""
        raise NotImplementedError

    def understand_json(self, body: bytes) -> Told:
        """Raises: ValueError."""
        raise NotImplementedError


class EngineSource(Source):
    """A page of one engine."""

    def __init__(self, target: Target, pages: tuple[Page, ...], *, word: str) -> None:
        if target.metrics_url and word == "load":
            pages, urls = (Page(""),), [URL(target.metrics_url)]
        else:
            urls = [URL(target.url.rstrip("/") + page.path) for page in pages]
        super().__init__(f"{word} {target.name}", (target, pages), urls, target)
        self._name = target.name
        self._pages = pages
        self._label = target.engine if target.engine in DIALECTS else ""
        self.spoken = self._label
        self.is_open = not self._label  # to any engine's names
        self.models: tuple[str, ...] | None = None
        if target.bearer is not None and target.bearer.is_known:
            self.headers["Authorization"] = f"Bearer {target.bearer.reveal()}"
        if target.host is not None and not target.metrics_url:
            self.headers["Host"] = target.host

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self._name,)

    @property
    def wanted(self) -> Wanted | None:
        if self._pages[self._url_index].read is not None:
            return None
        return WANTED_ANY if self.is_open or self.spoken not in WANTED else WANTED[self.spoken]

    def understand(self, samples: Sequence[Sample]) -> Told:
        if not self.is_open and samples:
            return self._told(DIALECTS[self.spoken].read(samples))
        found = recognise(samples)
        self.is_open = found is None
        if found is None:
            raise PageError(f"no metric of {self._label or 'an engine that is known'}")
        self.spoken = found.engine
        return self._told(found.read(samples))

    def understand_json(self, body: bytes) -> Told:
        read = self._pages[self._url_index].read
        assert read is not None
        return self._told(read(body))

    def _told(self, reading: Reading) -> Told:
        if reading.models is not None:
            self.models = reading.models
        facts = reading.facts()
        return [(self._name, facts)] if facts else []


class GpuSource(Source):
    """The page of a node's GPUs, for all endpoints on it."""

    def __init__(self, target: Target) -> None:
        super().__init__(f"gpu {target.gpu_url}", (target.tls,), [URL(target.gpu_url)], target)
        self.gpus: dict[str, tuple[str, ...]] = {}

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(self.gpus)

    @property
    def wanted(self) -> Wanted:
        return GPU_WANTED

    def understand(self, samples: Sequence[Sample]) -> Told:
        if not samples:
            raise PageError("no metric of a GPU")
        gpus = read_gpus(samples)
        told = ((name, power_reading(gpus, chosen).facts()) for name, chosen in self.gpus.items())
        return [(name, facts) for name, facts in told if facts]


def sources_of(targets: Sequence[Target], known: Mapping[str, Source]) -> dict[str, Source]:
    """What is to be asked for, by key; those of `known` that are the same go on as they are."""
    sources: dict[str, Source] = {}

    def take(source: Source) -> Source:
        before = known.get(source.key)
        return sources.setdefault(
            source.key, before if before is not None and before.said == source.said else source
        )

    gpus: dict[str, dict[str, tuple[str, ...]]] = {}
    for target in targets:
        if target.engine not in NOT_ASKED:
            dialect = DIALECTS.get(target.engine)
            take(EngineSource(target, dialect.pages if dialect else ANY_PAGES, word="load"))
            if dialect is not None and dialect.seldom is not None:
                take(EngineSource(target, (dialect.seldom,), word="seldom"))
        if target.gpu_url:
            gpus.setdefault(take(GpuSource(target)).key, {})[target.name] = target.gpus
    for key, chosen in gpus.items():
        source = sources[key]
        assert isinstance(source, GpuSource)
        source.gpus = chosen
    return sources

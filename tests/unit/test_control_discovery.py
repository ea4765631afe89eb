"""Discovery as a whole in virtual time: storms are one publication, failures none, restarts remember."""

import asyncio
import heapq
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from control.discovery.keeping import NOT_HEARD, decode_endpoints, encode_endpoints, encode_sets, recall_sets
from control.discovery.registry import Registration
from control.discovery.sets import Board, Confirm, EndpointSet, Event, Tell, fold
from control.discovery.settings import DiscoverySettings, find_discovery_faults
from control.discovery.watch import QUIET_S, START_S_MAX, WAIT_S_MAX, Discovery, sources_of
from control.supervision import Supervision
from router.config import ConfigError, load_settings, parse_endpoints
from router.schema.config import Endpoint, EndpointAuth
from router.schema.kinds import Section
from router.schema.secret import Secret


class Clock:
    """Time that goes on when everybody sleeps and the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, self._count, wake))
        await wake

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s + 1e-9:
            self.now_s, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)
            await self.settle()
        self.now_s = end_s


class Told:
    """A source that tells what the test has it tell."""

    def __init__(self, name: str, pool: str = "p") -> None:
        self.name = name
        self.pool = pool
        self.failure: Exception | None = None
        self._queue: asyncio.Queue[EndpointSet | None] = asyncio.Queue()

    def says(self, *hosts: str, is_stale: bool = False) -> None:
        endpoints = tuple(Endpoint(url=f"http://{host}:1", name=host) for host in hosts)
        self._queue.put_nowait(
            EndpointSet(source=self.name, pool=self.pool, endpoints=endpoints, at_s=0.0, is_stale=is_stale)
        )

    def crashes(self) -> None:
        self._queue.put_nowait(None)

    async def run(self, tell: Tell) -> None:
        while (told := await self._queue.get()) is not None:
            tell(told)
        raise RuntimeError("nobody thought of this")


class Running:
    """A discovery, what it published and what it had kept."""

    def __init__(self, *sources: Told, remembered: bytes | None = None) -> None:
        self.clock = Clock()
        self.published: list[str] = []
        self.kept: list[bytes] = []
        self.refuses = 0
        self.supervision = Supervision(sleep=self.clock.sleep, seed=1)
        self.discovery = Discovery(
            DiscoverySettings(),
            sources,
            publish=self._publish,
            supervision=self.supervision,
            remembered=remembered,
            remember=self.kept.append,
            now=self.clock,
            sleep=self.clock.sleep,
        )

    def _publish(self, board: Board) -> None:
        if self.refuses:
            self.refuses -= 1
            raise OSError("the link is not there yet")
        self.published.append(
            " ".join(endpoint.name for state in board.in_order() for endpoint in state.endpoints)
        )


def running(*sources: Told, remembered: bytes | None = None) -> Callable[..., None]:
    def whole(scenario: Callable[[Running], Awaitable[None]]) -> None:
        async def go() -> None:
            run = Running(*sources, remembered=remembered)
            run.discovery.start()
            try:
                await scenario(run)
            finally:
                await run.supervision.close()

        asyncio.run(go())

    return whole


def test_nothing_is_published_before_every_source_has_told() -> None:
    dns, file = Told("dns"), Told("file")

    async def scenario(run: Running) -> None:
        dns.says("a")
        await run.clock.advance(3.0)
        assert run.published == []
        file.says(is_stale=True)
        await run.clock.advance(1.5)
        assert run.published == ["a"]

    running(dns, file)(scenario)


def test_a_source_that_never_tells_is_not_waited_for_for_ever() -> None:
    dns, file = Told("dns"), Told("file")

    async def scenario(run: Running) -> None:
        dns.says("a")
        await run.clock.advance(START_S_MAX + 2.0)
        assert run.published == ["a"]

    running(dns, file)(scenario)


def test_a_burst_of_changes_is_one_publication() -> None:
    dns = Told("dns")

    async def scenario(run: Running) -> None:
        for count in range(1, 6):
            dns.says(*"abcde"[:count])
            await run.clock.advance(QUIET_S / 2)
        assert run.published == []
        await run.clock.advance(QUIET_S)
        assert run.published == ["a b c d e"]

    running(dns)(scenario)


def test_a_storm_that_does_not_pause_is_published_all_the_same() -> None:
    dns = Told("dns")

    async def scenario(run: Running) -> None:
        started_s = run.clock.now_s
        count = 0
        while not run.published:
            count += 1
            dns.says(*(f"n{number:04}" for number in range(count)))
            await run.clock.advance(QUIET_S / 5)
        assert run.clock.now_s - started_s <= WAIT_S_MAX + QUIET_S
        assert len(run.published[0].split()) > 10

    running(dns)(scenario)


def test_what_changes_nothing_is_not_published_again() -> None:
    dns = Told("dns")

    async def scenario(run: Running) -> None:
        dns.says("a", "b")
        await run.clock.advance(1.0)
        dns.says("b", "a")
        dns.says(is_stale=True)
        await run.clock.advance(30.0)
        assert run.published == ["a b"]
        assert run.discovery.board.sources["dns"].is_stale

    running(dns)(scenario)


def test_what_is_held_is_published_without_it_once_confirmed() -> None:
    dns = Told("dns")

    async def scenario(run: Running) -> None:
        dns.says("a", "b", "c")
        await run.clock.advance(1.0)
        dns.says()
        await run.clock.advance(60.0)
        assert run.published == ["a b c"]
        run.discovery.tell(Confirm(source="dns"))
        await run.clock.advance(1.0)
        assert run.published == ["a b c", ""]

    running(dns)(scenario)


def test_a_publication_that_fails_comes_again() -> None:
    dns = Told("dns")

    async def scenario(run: Running) -> None:
        run.refuses = 2
        dns.says("a")
        await run.clock.advance(5.0)
        assert run.published == ["a"]

    running(dns)(scenario)


def test_a_source_that_crashes_is_stale_and_begun_again_while_others_go_on() -> None:
    dns, file = Told("dns"), Told("file")

    async def scenario(run: Running) -> None:
        dns.says("a")
        file.says("b")
        await run.clock.advance(1.0)
        dns.crashes()
        await run.clock.settle()
        assert run.discovery.board.sources["dns"].is_stale
        file.says("b", "c")
        await run.clock.advance(1.0)
        assert run.published == ["a b", "a b c"]
        dns.says("a", "d")
        await run.clock.advance(1.0)
        assert run.published[-1] == "a d b c"
        assert not run.discovery.board.sources["dns"].is_stale

    running(dns, file)(scenario)


def test_after_a_restart_a_source_that_fails_has_what_it_had_before() -> None:
    first = Told("dns")
    kept: list[bytes] = []

    async def before(run: Running) -> None:
        first.says("a", "b")
        await run.clock.advance(1.0)
        kept.extend(run.kept)

    async def after(run: Running) -> None:
        assert run.discovery.board.sources["dns"].reason == NOT_HEARD
        again.says(is_stale=True)
        await run.clock.advance(1.0)
        assert run.published == ["a b"]

    running(first)(before)
    again = Told("dns")
    running(again, remembered=kept[-1])(after)


def told(*hosts: str, pool: str = "p") -> Event:
    endpoints = tuple(Endpoint(url=f"http://{host}:1") for host in hosts)
    return EndpointSet(source="dns", pool=pool, endpoints=endpoints, at_s=0.0)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x81\xa3dns\xc4\x01\x00", b"\x93\x01\x02\x03"])
def test_bytes_that_are_no_sets_are_as_good_as_none(data: bytes) -> None:
    assert list(recall_sets(data, [Told("dns")], 0.0)) == []


def test_what_was_kept_for_another_pool_is_left_out() -> None:
    data = encode_sets(fold(Board(), told("a")))
    assert list(recall_sets(data, [Told("dns", pool="q")], 0.0)) == []
    assert [len(known.endpoints) for known in recall_sets(data, [Told("dns")], 0.0)] == [1]


def test_endpoints_are_kept_with_secrets_as_references() -> None:
    secret = Secret("sk-very-secret", "${KEY}")
    endpoint = Endpoint(url="http://a:1", auth=EndpointAuth(bearer=secret))
    data = encode_endpoints("p", (endpoint,))
    assert b"sk-very" not in data
    pool, (again,) = decode_endpoints(data)
    assert (pool, again.auth.bearer) == ("p", Secret(None, "${KEY}"))


# ---- settings

SETTINGS = """
discovery:
  hold_ratio: 0.25
  hold_ms: 600000
  sources:
  - {type: file, name: rack, pool: p, path: /etc/fairlead/rack.yaml, interval_ms: 500}
  - type: dns
    name: pods
    pool: p
    record: srv
    lookup: _http._tcp.engines.test
    nameservers: ["127.0.0.1:53"]
    endpoint: {url: "http://engines.test:8000", models: [m], engine: vllm}
  - {type: http, name: api, pool: q, registrations_max: 10}
"""


class Whole(Section, frozen=True, kw_only=True):
    """As control's settings have it."""

    discovery: DiscoverySettings = DiscoverySettings()


class Store:
    """Keeps nothing but what it began with."""

    def load(self, source: str) -> Sequence[Registration]:
        return [Registration(endpoint=Endpoint(url=f"http://{source}:1"))]

    def save(self, source: str, registration: Registration) -> None:
        raise NotImplementedError

    def forget(self, source: str, endpoint: str) -> None:
        raise NotImplementedError


def settings_in(text: str, folder: Path) -> DiscoverySettings:
    path = folder / "control.yaml"
    path.write_text(text)
    return load_settings(
        path, Whole, lambda whole, doubts: find_discovery_faults(whole.discovery, doubts)
    ).discovery


def test_settings_become_sources(tmp_path: Path) -> None:
    settings = settings_in(SETTINGS, tmp_path)
    sources = sources_of(settings, Store())
    assert [(source.name, source.pool) for source in sources] == [("rack", "p"), ("pods", "p"), ("api", "q")]
    assert (settings.rule().ratio, settings.rule().confirm_after_s) == (0.25, 600.0)

    async def registered() -> list[str]:
        discovery = Discovery(settings, sources, publish=lambda _board: None, supervision=Supervision())
        return [each.endpoint.name for each in discovery.registries["api"].registrations()]

    assert asyncio.run(registered()) == ["api:1"]


def test_what_the_page_shows_is_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "discover-endpoints.md"
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shown = [block for block in blocks if block.startswith("discovery:\n")]
    assert [len(settings_in(block, tmp_path).sources) for block in shown] == [3, 1, 0]
    (found,) = [parse_endpoints(block) for block in blocks if block not in shown]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("type: http", "type: htttp", "sources[2].type", "'htttp' is unknown"),
        ("name: api", "name: rack", "sources[2].name", "sources[0] is named 'rack' too"),
        ("127.0.0.1:53", "ns.test:53", "nameservers[0]", "'ns.test:53'"),
        ("http://engines.test:8000", "engines.test", "endpoint.url", "no scheme"),
        ("models: [m]", "auth: {bearer: sk-1}", "endpoint.auth.bearer", "written out"),
        ("record: srv", "ttl_ms_min: 90000", "ttl_ms_min", "more than ttl_ms_max"),
        ("record: srv", "record: mx", "record", "'mx' is not allowed"),
        ("hold_ratio: 0.25", "hold_ratio: 0", "hold_ratio", "0 is not allowed"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_with_their_place(
    tmp_path: Path, old: str, new: str, where: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_in(SETTINGS.replace(old, new), tmp_path)
    (problem,) = caught.value.problems
    assert where in problem.path
    assert message in problem.message
    assert problem.line is not None

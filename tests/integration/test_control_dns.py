"""A name in DNS over real sockets: answers become sets, and what is no answer takes nothing away."""

import asyncio
from collections.abc import Awaitable, Callable

import dns.rcode
import pytest

from control.discovery.dns import DnsSource
from control.discovery.sets import EndpointSet
from control.discovery.settings import DnsRecord, DnsSettings
from router.schema.config import Endpoint
from tests.support.dns_server import DnsServer, dns_server, garbage, records, refusal, silence


class Asking:
    """A source whose pauses end when the test says so: each turn is one set and the pause after it."""

    def __init__(self, server: DnsServer, record: DnsRecord, timeout_ms: int) -> None:
        settings = DnsSettings(
            name="dns",
            pool="p",
            endpoint=Endpoint(url="http://engines.test:8000", models=("m",)),
            record=record,
            nameservers=(server.address,),
            timeout_ms=timeout_ms,
        )
        self._told: list[EndpointSet] = []
        self._paused: asyncio.Queue[float] = asyncio.Queue()
        self._go_on = asyncio.Event()
        self._source = DnsSource(settings, now=lambda: 5.0, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self._paused.put_nowait(seconds)
        self._go_on.clear()
        await self._go_on.wait()

    async def run(self) -> None:
        await self._source.run(self._told.append)

    async def turn(self) -> tuple[EndpointSet, float]:
        self._go_on.set()
        pause_s = await self._paused.get()
        return self._told[-1], pause_s


def with_source(
    scenario: Callable[[DnsServer, Asking], Awaitable[None]],
    record: DnsRecord = DnsRecord.A,
    timeout_ms: int = 5_000,
) -> None:
    async def whole() -> None:
        async with dns_server() as server:
            asking = Asking(server, record, timeout_ms)
            task = asyncio.create_task(asking.run())
            try:
                await scenario(server, asking)
            finally:
                task.cancel()

    asyncio.run(whole())


def test_answers_become_endpoints_and_are_asked_for_again_when_their_ttl_is_over() -> None:
    async def scenario(server: DnsServer, asking: Asking) -> None:
        server.answer = records("A", "10.0.0.2", "10.0.0.1", ttl_s=30)
        told, pause_s = await asking.turn()
        assert [endpoint.url for endpoint in told.endpoints] == [
            "http://10.0.0.1:8000",
            "http://10.0.0.2:8000",
        ]
        assert [endpoint.name for endpoint in told.endpoints] == ["10.0.0.1:8000", "10.0.0.2:8000"]
        assert (told.source, told.pool, told.at_s, told.is_stale, pause_s) == ("dns", "p", 5.0, False, 30.0)
        server.answer = records("A", "10.0.0.3", ttl_s=7)
        told, pause_s = await asking.turn()
        assert [endpoint.name for endpoint in told.endpoints] == ["10.0.0.3:8000"]
        assert pause_s == 7.0
        assert server.asked == ["engines.test. IN A"] * 2

    with_source(scenario)


@pytest.mark.parametrize(("ttl_s", "pause_s"), [(0, 1.0), (86_400, 60.0)])
def test_a_ttl_counts_within_bounds(ttl_s: int, pause_s: float) -> None:
    async def scenario(server: DnsServer, asking: Asking) -> None:
        server.answer = records("A", "10.0.0.1", ttl_s=ttl_s)
        assert (await asking.turn())[1] == pause_s

    with_source(scenario)


def test_ipv6_addresses_are_asked_for_as_such() -> None:
    async def scenario(server: DnsServer, asking: Asking) -> None:
        server.answer = records("AAAA", "fd00::1")
        told, _ = await asking.turn()
        assert [endpoint.url for endpoint in told.endpoints] == ["http://[fd00::1]:8000"]
        assert server.asked == ["engines.test. IN AAAA"]

    with_source(scenario, DnsRecord.AAAA)


def test_services_bring_their_port_and_weight() -> None:
    async def scenario(server: DnsServer, asking: Asking) -> None:
        server.answer = records("SRV", "0 3 8001 a.test.", "0 1 8002 b.test.")
        told, _ = await asking.turn()
        assert [endpoint.url for endpoint in told.endpoints] == ["http://a.test:8001", "http://b.test:8002"]
        assert [endpoint.weight for endpoint in told.endpoints] == [1.0, pytest.approx(1 / 3)]

    with_source(scenario, DnsRecord.SRV)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refusal(dns.rcode.NXDOMAIN), "does not exist"),
        (refusal(dns.rcode.SERVFAIL), "SERVFAIL"),
        (records("A"), "does not contain an answer"),
        (garbage, "engines.test: "),
        (silence, "engines.test: The resolution lifetime expired"),
    ],
    ids=["no such name", "server failure", "empty", "garbage", "silence"],
)
def test_what_is_no_answer_is_a_failure_with_its_reason(
    answer: Callable[..., bytes | None], reason: str
) -> None:
    async def scenario(server: DnsServer, asking: Asking) -> None:
        server.answer = answer
        pauses = []
        for _ in range(2):
            told, pause_s = await asking.turn()
            assert (told.is_stale, told.endpoints) == (True, ())
            assert reason in told.reason
            pauses.append(pause_s)
        assert pauses == [1.0, 2.0]
        server.answer = records("A", "10.0.0.1")
        told, pause_s = await asking.turn()
        assert (told.is_stale, pause_s) == (False, 30.0)

    with_source(scenario, timeout_ms=300)

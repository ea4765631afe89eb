"""Endpoint names are looked up again and again, and the last good answer outlives a dead DNS."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from router import limits
from router.resolver import Address, Resolver, is_literal

NAMED = "http://engine.test:8000"


class Dns:
    """Answers by host name; an absent name fails."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.answers[host]
        ]


class Told(list[tuple[str, list[Address]]]):
    def __call__(self, url: str, addresses: list[Address]) -> None:
        self.append((url, addresses))


def run(test: Callable[[Dns, Told, Resolver], Awaitable[None]]) -> None:
    async def with_fake_dns() -> None:
        dns, told = Dns(), Told()
        asyncio.get_running_loop().getaddrinfo = dns.getaddrinfo  # type: ignore[method-assign,assignment]
        await test(dns, told, Resolver(told))

    asyncio.run(with_fake_dns())


def test_all_addresses_of_a_name_are_told_in_the_systems_order() -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
        resolver.watch([NAMED])
        await resolver.refresh()
        assert told == [(NAMED, [("10.0.0.2", 8000), ("10.0.0.1", 8000)])]
        assert dns.asked == ["engine.test"]

    run(test)


def test_an_answer_in_another_order_is_no_change() -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = ["10.0.0.1", "10.0.0.2"]
        resolver.watch([NAMED])
        await resolver.refresh()
        dns.answers["engine.test"].reverse()
        await resolver.refresh()
        assert len(told) == 1
        dns.answers["engine.test"] = ["10.0.0.3"]
        await resolver.refresh()
        assert told[1:] == [(NAMED, [("10.0.0.3", 8000)])]

    run(test)


def test_the_last_answer_is_kept_while_dns_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = ["10.0.0.1"]
        resolver.watch([NAMED])
        await resolver.refresh()
        del dns.answers["engine.test"]
        await resolver.refresh()
        await resolver.refresh()
        assert len(told) == 1
        assert len(caplog.records) == 1  # said once, not each time
        assert "its last addresses stay in use" in caplog.text
        resolver.watch([NAMED])  # after a reload
        await resolver.prepare([NAMED], timeout_s=5)
        assert len(told) == 1  # who was told keeps it

    run(test)


def test_names_are_known_before_a_new_snapshot_is_watched() -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = ["10.0.0.1"]
        await resolver.prepare([NAMED], timeout_s=5)
        assert told == [(NAMED, [("10.0.0.1", 8000)])]
        resolver.watch([NAMED])
        assert len(told) == 1

    run(test)


def test_names_no_longer_configured_are_forgotten() -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = ["10.0.0.1"]
        resolver.watch([NAMED])
        await resolver.refresh()
        resolver.watch([])
        await resolver.refresh()
        assert dns.asked == ["engine.test"]
        assert len(told) == 1

    run(test)


def test_addresses_per_name_are_bounded() -> None:
    async def test(dns: Dns, told: Told, resolver: Resolver) -> None:
        dns.answers["engine.test"] = [f"10.0.1.{index}" for index in range(100)]
        resolver.watch([NAMED])
        await resolver.refresh()
        assert len(told[0][1]) == limits.DNS_ADDRESSES_MAX

    run(test)


def test_the_name_is_looked_up_again_and_again() -> None:
    async def repeated() -> None:
        dns, changed = Dns(), asyncio.Event()
        asyncio.get_running_loop().getaddrinfo = dns.getaddrinfo  # type: ignore[method-assign,assignment]
        dns.answers["engine.test"] = ["10.0.0.1"]
        resolver = Resolver(lambda _url, _addresses: changed.set(), refresh_s=0.001)
        resolver.watch([NAMED])
        resolver.start()
        for address in ("10.0.0.2", "10.0.0.3"):
            await asyncio.wait_for(changed.wait(), 30)
            changed.clear()
            dns.answers["engine.test"] = [address]
        await asyncio.wait_for(changed.wait(), 30)
        resolver.close()

    asyncio.run(repeated())


@pytest.mark.parametrize(
    ("host", "expected"),
    [("10.0.0.1", True), ("::1", True), ("localhost", False), ("1.2.3.4.example", False)],
)
def test_addresses_need_no_look_up(host: str, expected: bool) -> None:
    assert is_literal(host) is expected

"""The registry: who renews stays, who died leaves, what cannot be saved is refused."""

import asyncio

import pytest

from control.discovery.registry import (
    Addition,
    LeaseError,
    Registration,
    Registry,
    RegistryFullError,
    RegistrySource,
)
from control.discovery.sets import EndpointSet
from router import limits
from router.schema.config import Endpoint


class Kept:
    """A store: registrations by name, which may refuse to be written."""

    def __init__(self) -> None:
        self.registrations: dict[str, Registration] = {}
        self.writes = 0
        self.is_full = False

    def save(self, registration: Registration) -> None:
        self._write()
        self.registrations[registration.endpoint.name] = registration

    def forget(self, name: str) -> None:
        self._write()
        del self.registrations[name]

    def _write(self) -> None:
        if self.is_full:
            raise OSError("no space left")
        self.writes += 1


def registry(kept: Kept, now_s: float = 0.0, registrations_max: int = 4) -> Registry:
    return Registry(
        "http",
        "p",
        registered=tuple(kept.registrations.values()),
        now_s=now_s,
        save=kept.save,
        forget=kept.forget,
        registrations_max=registrations_max,
    )


def host(name: str, port: int = 1) -> Endpoint:
    return Endpoint(url=f"http://{name}:{port}", name=name)


def names(found: Registry) -> list[str]:
    return [registration.endpoint.name for registration in found.registrations()]


def test_who_renews_its_lease_stays_and_who_does_not_leaves() -> None:
    kept = Kept()
    found = registry(kept)
    assert found.add(host("a"), 10.0, 0.0) is Addition.NEW
    assert found.add(host("b"), 10.0, 0.0) is Addition.NEW
    assert found.add(host("c"), None, 0.0) is Addition.NEW
    assert found.add(host("a"), 10.0, 9.0) is Addition.RENEWED
    assert found.next_end_s() == 10.0
    assert found.expire(9.9) == ()
    assert found.expire(10.0) == ("b",)
    assert found.expire(19.0) == ("a",)
    assert (found.expire(1e9), found.next_end_s(), names(found)) == ((), None, ["c"])
    assert list(kept.registrations) == ["c"]


def test_renewing_writes_nothing_and_changes_nothing() -> None:
    kept = Kept()
    found = registry(kept)
    found.add(host("a"), 10.0, 0.0)
    found.take_set(0.0)
    for second in range(1, 100):
        assert found.add(host("a"), 10.0, float(second)) is Addition.RENEWED
    assert kept.writes == 1
    assert not found.changed.is_set()


def test_adding_again_with_another_definition_or_lease_replaces_it() -> None:
    found = registry(Kept())
    found.add(host("a"), 10.0, 0.0)
    assert found.add(host("a", 2), 10.0, 1.0) is Addition.CHANGED
    assert found.add(host("a", 2), None, 1.0) is Addition.CHANGED
    assert found.expire(1e9) == ()
    assert [registration.endpoint.url for registration in found.registrations()] == ["http://a:2"]


def test_draining_outlives_renewals_and_can_be_taken_back() -> None:
    found = registry(Kept())
    found.add(host("a"), 10.0, 0.0)
    assert found.drain("a")
    assert found.drain("a")
    found.add(host("a"), 10.0, 1.0)
    assert found.take_set(1.0).draining == {"a"}
    assert found.drain("a", is_draining=False)
    assert found.take_set(1.0).draining == frozenset()
    assert not found.drain("b")


def test_removing_is_told_once_so_that_it_is_not_held() -> None:
    found = registry(Kept())
    found.add(host("a"), None, 0.0)
    found.add(host("b"), None, 0.0)
    found.take_set(0.0)
    found.add(host("c"), None, 0.0)
    assert found.remove("a")
    assert found.remove("c")
    assert not found.remove("a")
    told = found.take_set(1.0)
    assert [endpoint.name for endpoint in told.endpoints] == ["b"]
    assert told.removed == {"a"}
    assert found.take_set(2.0).removed == frozenset()


def test_one_that_is_added_again_after_it_was_removed_is_not_told_as_removed() -> None:
    found = registry(Kept())
    found.add(host("a"), None, 0.0)
    found.take_set(0.0)
    found.remove("a")
    found.add(host("a"), None, 0.0)
    assert found.take_set(1.0).removed == frozenset()


def test_after_a_restart_every_lease_begins_anew() -> None:
    kept = Kept()
    found = registry(kept)
    found.add(host("a"), 10.0, 0.0)
    found.add(host("b"), None, 0.0)
    found.drain("b")
    again = registry(kept, now_s=5000.0)
    assert names(again) == ["a", "b"]
    assert again.take_set(5000.0).draining == {"b"}
    assert again.expire(5009.0) == ()
    assert again.expire(5010.0) == ("a",)


def test_what_cannot_be_saved_is_refused_and_changes_nothing() -> None:
    kept = Kept()
    found = registry(kept)
    found.add(host("a"), 10.0, 0.0)
    kept.is_full = True
    for refused in (
        lambda: found.add(host("b"), None, 0.0),
        lambda: found.add(host("a", 2), 10.0, 0.0),
        lambda: found.drain("a"),
        lambda: found.remove("a"),
    ):
        with pytest.raises(OSError, match="no space left"):
            refused()
    assert found.add(host("a"), 10.0, 5.0) is Addition.RENEWED
    assert found.registrations() == [Registration(endpoint=host("a"), lease_s=10.0)]


def test_a_registry_is_bounded_and_so_are_leases() -> None:
    found = registry(Kept(), registrations_max=2)
    found.add(host("a"), None, 0.0)
    found.add(host("b"), None, 0.0)
    with pytest.raises(RegistryFullError, match="there are 2 endpoints already"):
        found.add(host("c"), None, 0.0)
    assert found.add(host("a", 2), None, 0.0) is Addition.CHANGED
    for lease_s in (0.0, -1.0, float("nan"), float("inf"), limits.LEASE_S_MAX + 1.0):
        with pytest.raises(LeaseError, match="it lasts 1 to 86400 s"):
            found.add(host("a"), lease_s, 0.0)


def test_ten_thousand_additions_and_removals_leave_nothing_behind() -> None:
    kept = Kept()
    found = registry(kept, registrations_max=limits.ENDPOINTS_MAX)
    for number in range(10_000):
        found.add(host(f"n{number}"), 30.0, 0.0)
        found.add(host(f"n{number}"), 30.0, 1.0)
        assert found.remove(f"n{number}")
    told = found.take_set(2.0)
    assert (told.endpoints, told.removed, kept.registrations) == ((), frozenset(), {})
    assert found.next_end_s() is None


def test_the_task_tells_at_first_after_each_storm_and_when_a_lease_ends() -> None:
    async def scenario() -> None:
        now_s = 0.0
        told: asyncio.Queue[EndpointSet] = asyncio.Queue()
        settle = asyncio.Event()

        async def until_settled(_seconds: float) -> None:
            await settle.wait()

        async def hosts() -> list[str]:
            return [endpoint.name for endpoint in (await told.get()).endpoints]

        found = registry(Kept(), registrations_max=1000)
        source = RegistrySource(found, now=lambda: now_s, sleep=until_settled)
        task = asyncio.create_task(source.run(told.put_nowait))
        assert await hosts() == []
        for number in range(1000):
            found.add(host(f"n{number:03}"), None, now_s)
        for number in range(1, 1000):
            found.remove(f"n{number:03}")
        await asyncio.sleep(0)
        assert told.empty()
        settle.set()
        assert await hosts() == ["n000"]
        found.add(host("leased"), 1.0, now_s)
        now_s = 0.999
        assert await hosts() == ["leased", "n000"]
        found.add(host("leased"), 1.0, now_s)
        now_s = 1.998  # the end of the first lease is over, that of the renewed one is near
        await asyncio.sleep(0)
        assert told.empty()
        now_s = 1.999
        assert await hosts() == ["n000"]
        task.cancel()

    asyncio.run(scenario())

"""Items on their way to a store: the newest of each name, many in one write, past a disk that was full."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from control.discovery import registrations
from control.discovery.registrations import KeptRegistrations, decode_registration, encode_registration
from control.discovery.registry import Addition, Registration, Registry
from control.sqlite_store import SqliteStore
from control.store import Items, StoreUnavailableError
from control.write_behind import WriteBehind
from router import limits
from router.schema.config import Endpoint, EndpointAuth
from router.schema.policy_document import ClearSecretError
from router.schema.secret import Secret


class CountingStore(SqliteStore):
    """A store that counts what it writes, and that may be full."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[int] = []
        self.is_full = False
        self.written = asyncio.Event()

    async def keep(self, items: Items) -> None:
        if self.is_full:
            raise StoreUnavailableError("the disk is full")
        await super().keep(items)
        self.batches.append(len(items))
        self.written.set()


def with_store(tmp_path: Path, scenario: Callable[[CountingStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = CountingStore(tmp_path / "s")
        await store.open()
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(whole())


async def never(_pause_s: float) -> None:
    raise AssertionError("nothing fails here")


def endpoint(name: str, port: int = 1) -> Endpoint:
    return Endpoint(url=f"http://{name}:{port}", name=name)


def registry_on(store: CountingStore, writer: WriteBehind, known: dict[str, dict[str, bytes]]) -> Registry:
    kept = KeptRegistrations(writer, known)
    return Registry(
        "http",
        "p",
        registered=kept.load("http"),
        now_s=0.0,
        save=lambda registration: kept.save("http", registration),
        forget=lambda name: kept.forget("http", name),
    )


def test_ten_thousand_additions_and_removals_are_a_few_writes_and_leave_what_is_there(tmp_path: Path) -> None:
    async def scenario(store: CountingStore) -> None:
        writer = WriteBehind(store, sleep=never)
        running = asyncio.ensure_future(writer.run())
        registry = registry_on(store, writer, {})
        for number in range(10_000):
            name = f"e{number % 500}"
            if number // 500 % 2 and number % 3:
                assert registry.remove(name)
            else:
                registry.add(endpoint(name, number % 7 + 1), 10.0, 0.0)
            assert writer.pending_count <= 500
            if number % 1000 == 0:
                await asyncio.sleep(0)
        await writer.write()
        running.cancel()
        assert sum(store.batches) < 10_000
        assert len(store.batches) <= 2 * 11
        known = await registrations.read(store, ["http"])
        assert registry_on(store, writer, known).registrations() == registry.registrations()
        assert 0 < len(known["http"]) < 500

    with_store(tmp_path, scenario)


def test_while_the_disk_is_full_additions_are_refused_removals_taken_and_all_is_written_afterwards(
    tmp_path: Path,
) -> None:
    async def scenario(store: CountingStore) -> None:
        slept: list[float] = []
        is_asleep, may_wake = asyncio.Event(), asyncio.Event()

        async def sleep(pause_s: float) -> None:
            slept.append(pause_s)
            is_asleep.set()
            await may_wake.wait()

        writer = WriteBehind(store, sleep=sleep)
        running = asyncio.ensure_future(writer.run())
        registry = registry_on(store, writer, {})
        registry.add(endpoint("a"), None, 0.0)
        await store.written.wait()
        store.is_full = True
        registry.add(endpoint("b"), None, 0.0)
        await is_asleep.wait()
        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            registry.add(endpoint("c"), None, 0.0)
        with pytest.raises(StoreUnavailableError, match="the disk is full"):
            registry.drain("a")
        assert registry.remove("a")
        assert [kept.endpoint.name for kept in registry.registrations()] == ["b"]
        store.is_full = False
        store.written.clear()
        may_wake.set()
        await store.written.wait()
        await asyncio.sleep(0)
        assert registry.add(endpoint("c"), None, 0.0) is Addition.NEW
        await writer.write()
        assert list(await store.items("registration http")) == ["b", "c"]
        assert slept == [limits.STORE_RETRY_MS / 1000]
        running.cancel()

    with_store(tmp_path, scenario)


def test_what_is_set_anew_while_it_is_written_is_written_again(tmp_path: Path) -> None:
    async def scenario(store: CountingStore) -> None:
        writer = WriteBehind(store, sleep=never)
        writer.set("k", "a", b"1")
        writer.set("k", "b", b"1")
        writing = asyncio.ensure_future(writer.write())
        await asyncio.sleep(0)  # the first batch is on its way
        writer.set("k", "a", b"2")
        writer.set("k", "b", None)
        await writing
        assert (await store.items("k"), writer.pending_count) == ({"a": b"2"}, 0)
        assert store.batches == [2, 2]

    with_store(tmp_path, scenario)


def test_two_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    async def scenario(store: CountingStore) -> None:
        writer = WriteBehind(store, sleep=never)
        for number in range(3 * limits.STORE_BATCH_ITEMS_MAX):
            writer.set("k", str(number), b"x")
        await asyncio.gather(writer.write(), writer.write())
        assert len(await store.items("k")) == 3 * limits.STORE_BATCH_ITEMS_MAX
        assert max(store.batches) == limits.STORE_BATCH_ITEMS_MAX

    with_store(tmp_path, scenario)


def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    async def scenario(store: CountingStore) -> None:
        writer = WriteBehind(store, sleep=never)
        for number in range(limits.STORE_PENDING_ITEMS_MAX):
            writer.refuse_if_troubled()
            writer.set("k", str(number), b"x")
        with pytest.raises(StoreUnavailableError, match="wait to be written"):
            writer.refuse_if_troubled()
        await writer.write()
        writer.refuse_if_troubled()

    with_store(tmp_path, scenario)


def test_a_registration_is_kept_with_its_secret_as_a_reference() -> None:
    auth = EndpointAuth(bearer=Secret(None, "${KEY}"))
    kept = Registration(
        endpoint=Endpoint(url="http://a:1", name="a", auth=auth), lease_s=2.5, is_draining=True
    )
    data = encode_registration(kept)
    assert b"${KEY}" in data
    assert decode_registration(data) == kept
    with pytest.raises(ClearSecretError):
        clear = EndpointAuth(bearer=Secret("sk-1"))
        encode_registration(Registration(endpoint=Endpoint(url="http://a:1", name="a", auth=clear)))


def test_what_cannot_be_read_is_left_out_and_the_rest_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(store: CountingStore) -> None:
        whole = encode_registration(Registration(endpoint=endpoint("a")))
        known = {"http": {"a": whole, "b": whole[:-3], "c": b"\xc1", "d": b""}}
        loaded = KeptRegistrations(WriteBehind(store), known).load("http")
        assert [registration.endpoint.name for registration in loaded] == ["a"]
        assert Counter(record.levelname for record in caplog.records) == {"WARNING": 3}

    with_store(tmp_path, scenario)

"""Versions over a real store: what may become of what is desired, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypedDict

import pytest

from control import audit
from control.sqlite_store import SqliteStore
from control.store import StoreUnavailableError, Version
from control.versions import ConflictError, NoSuchVersionError, Versions
from router.config import ConfigError
from router.schema.policy_document import ClearSecretError

Scenario = Callable[[Versions, SqliteStore], Awaitable[None]]


class Who(TypedDict):
    """Who changes something, and why."""

    actor: str
    why: str


WHO: Who = {"actor": "ann", "why": "because"}


def source(weight: float = 1.0, more: str = "") -> str:
    return f'pools: [{{name: p, endpoints: [{{name: e, url: "http://h:1", weight: {weight}}}]}}]\n{more}'


def run(tmp_path: Path, scenario: Scenario) -> None:
    async def whole() -> None:
        store = SqliteStore(tmp_path / "c.sqlite", clock=lambda: 1e9)
        await store.open()
        versions = Versions(store, clock=lambda: 1e9)
        await versions.load()
        try:
            await scenario(versions, store)
            assert (await audit.check_chain(store)).faults == []
        finally:
            await store.close()

    asyncio.run(whole())


async def pushed(versions: Versions, *weights: float) -> None:
    for weight in weights:
        await versions.push(source(weight), "f.yaml", **WHO)


def test_a_push_changes_nothing_in_force_and_an_activation_does(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        assert (versions.state.stable, versions.desired()) == (0, None)
        await versions.activate(2, **WHO)
        desired = versions.desired()
        assert desired is not None
        assert (desired.stable_version, desired.stable.pools[0].endpoints[0].weight) == (2, 2.0)
        records = await store.records(10)
        assert [(record.action, record.old, record.new) for record in records] == [
            ("activate", "nothing", "version 2"),
            ("push", "version 1", "version 2"),
            ("push", "nothing", "version 1"),
        ]
        assert {(record.actor, record.why) for record in records} == {("ann", "because")}

    run(tmp_path, scenario)


def test_of_two_who_push_on_one_head_the_second_gets_a_conflict_with_the_diff(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1)
        await versions.push(source(2), "f.yaml", parent=1, **WHO)
        with pytest.raises(ConflictError, match="newest version is 2, not 1") as caught:
            await versions.push(source(3), "f.yaml", parent=1, **WHO)
        assert caught.value.lines == ["pools[p].endpoints[e].weight: 2.0 → 3.0"]
        assert [version.number for version in await store.versions(10)] == [2, 1]

    run(tmp_path, scenario)


def test_a_change_that_was_decided_on_an_older_state_is_refused(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        other = Versions(store)
        await other.load()
        await versions.activate(1, **WHO)
        with pytest.raises(ConflictError, match="look again"):
            await other.activate(2, **WHO)
        assert other.state == versions.state
        await other.activate(2, **WHO)
        assert other.state.stable == 2

    run(tmp_path, scenario)


def test_a_canary_is_promoted_or_taken_back_and_a_rollback_goes_to_what_was_before(tmp_path: Path) -> None:
    async def scenario(versions: Versions, _store: SqliteStore) -> None:
        await pushed(versions, 1, 2, 3)
        with pytest.raises(ConflictError, match="nothing is in force"):
            await versions.canary(1, 0.1, **WHO)
        await versions.activate(1, **WHO)
        with pytest.raises(ConflictError, match="no canary"):
            await versions.promote(**WHO)
        with pytest.raises(ConflictError, match="is in force for everybody"):
            await versions.canary(1, 0.1, **WHO)
        await versions.canary(2, 0.1, **WHO)
        await versions.rollback(**WHO)
        assert (versions.state.stable, versions.state.canary) == (1, 0)
        await versions.canary(2, 0.1, **WHO)
        await versions.promote(**WHO)
        assert (versions.state.stable, versions.state.canary, versions.state.previous) == (2, 0, 1)
        await versions.rollback(**WHO)
        assert (versions.state.stable, versions.state.previous) == (1, 2)
        await versions.rollback(3, **WHO)
        assert (versions.state.stable, versions.state.previous) == (3, 1)

    run(tmp_path, scenario)


def test_while_frozen_only_a_rollback_changes_what_is_in_force(tmp_path: Path) -> None:
    async def scenario(versions: Versions, _store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        await versions.activate(1, **WHO)
        await versions.activate(2, **WHO)
        await versions.freeze(True, **WHO)
        for change in (
            versions.activate(1, **WHO),
            versions.canary(1, 0.5, **WHO),
            versions.promote(**WHO),
        ):
            with pytest.raises(ConflictError, match="frozen"):
                await change
        await versions.rollback(**WHO)
        assert versions.state.stable == 1
        await versions.freeze(False, **WHO)
        await versions.activate(2, **WHO)

    run(tmp_path, scenario)


def test_what_is_in_force_already_is_not_recorded_again(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1)
        await versions.activate(1, **WHO)
        before = await store.chain(None, 100)
        await versions.activate(1, **WHO)
        await versions.freeze(False, **WHO)
        assert await store.chain(None, 100) == before

    run(tmp_path, scenario)


def test_a_document_that_is_none_and_a_version_that_is_not_there(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        with pytest.raises(ConfigError, match="no pools"):
            await versions.push("routes: []", "f.yaml", **WHO)
        with pytest.raises(ClearSecretError):
            clear = 'pools: [{name: p, endpoints: [{url: "http://h:1", auth: {bearer: sk-1}}]}]'
            await versions.push(clear, "f.yaml", **WHO)
        for change in (versions.activate(9, **WHO), versions.rollback(9, **WHO)):
            with pytest.raises(NoSuchVersionError, match="no version 9"):
                await change
        with pytest.raises(ConflictError, match="nothing was in force before"):
            await versions.rollback(**WHO)
        assert await store.versions(10) == []

    run(tmp_path, scenario)


def test_a_difference_says_what_was_added_removed_changed_and_moved(tmp_path: Path) -> None:
    async def scenario(versions: Versions, _store: SqliteStore) -> None:
        one = 'pools: [{name: p, endpoints: [{name: a, url: "http://a:1"}, {name: b, url: "http://b:1"}]}]'
        two = 'pools: [{name: p, endpoints: [{name: b, url: "http://b:2"}, {name: a, url: "http://a:1"}]}]'
        three = one + "\nroutes: [{name: r}]"
        for text in (one, two, three):
            await versions.push(text, "f.yaml", **WHO)
        _, _, lines = await versions.difference(1, 2)
        assert lines == [
            'pools[p].endpoints[b].url: "http://b:1" → "http://b:2"',
            "pools[p].endpoints: in another order: b, a",
        ]
        assert [line.split(":")[0] for line in (await versions.difference(1, 3))[2]] == ["routes[r]"]
        assert (await versions.difference(3, 1))[2] == ["routes[r]: removed"]
        assert (await versions.difference(1, 1))[2] == []

    run(tmp_path, scenario)


def test_after_a_restart_everything_is_as_it_was(tmp_path: Path) -> None:
    async def first(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        await versions.activate(1, **WHO)
        await versions.canary(2, 0.25, **WHO)
        now = 10**12  # of the clock, in milliseconds
        assert [await store.next_sequence() for _ in range(2)] == [now + 1, now + 2]
        assert await store.next_sequence(now + 10) == now + 11

    async def second(versions: Versions, store: SqliteStore) -> None:
        state = versions.state
        assert (state.stable, state.canary, state.canary_ratio) == (1, 2, 0.25)
        desired = versions.desired()
        assert desired is not None
        assert desired.canary is not None
        assert await store.next_sequence() == 10**12 + 12

    run(tmp_path, first)
    run(tmp_path, second)


def test_of_many_who_push_at_once_each_gets_a_version_or_a_conflict_with_the_diff(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1)
        told = await asyncio.gather(
            *(versions.push(source(weight), "f.yaml", parent=1, **WHO) for weight in (2, 3, 4)),
            return_exceptions=True,
        )
        conflicts = [result for result in told if isinstance(result, ConflictError)]
        assert [result.number for result in told if isinstance(result, Version)] == [2]
        assert len(conflicts) == 2
        for conflict in conflicts:
            assert "the newest version is 2, not 1" in str(conflict)
            assert [line.split(": ")[0] for line in conflict.lines] == ["pools[p].endpoints[e].weight"]
        anyhow = await asyncio.gather(*(versions.push(source(w), "f.yaml", **WHO) for w in (5, 6, 7)))
        assert sorted((version.number, version.parent) for version in anyhow) == [(3, 2), (4, 3), (5, 4)]

    run(tmp_path, scenario)


def test_a_push_does_not_hang_on_what_is_put_in_force_meanwhile(tmp_path: Path) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1)
        other = Versions(store)
        await other.load()
        await other.activate(1, **WHO)
        assert (await versions.push(source(2), "f.yaml", parent=1, **WHO)).number == 2
        assert versions.state.stable == 1

    run(tmp_path, scenario)


def test_of_two_changes_that_saw_the_same_state_the_second_is_refused(tmp_path: Path) -> None:
    async def scenario(versions: Versions, _store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        told = await asyncio.gather(
            versions.activate(1, **WHO), versions.activate(2, **WHO), return_exceptions=True
        )
        refused = [result for result in told if isinstance(result, ConflictError)]
        assert len(refused) == 1
        assert "look again" in str(refused[0])

    run(tmp_path, scenario)


def test_while_the_store_takes_nothing_what_is_in_force_stays_and_the_change_is_taken_later(
    tmp_path: Path,
) -> None:
    async def scenario(versions: Versions, store: SqliteStore) -> None:
        await pushed(versions, 1, 2)
        await versions.activate(1, **WHO)
        desired = versions.desired()
        store._disconnect()
        whole = (tmp_path / "c.sqlite").read_bytes()
        (tmp_path / "c.sqlite").write_bytes(b"\xa5" * len(whole))
        for change in (
            versions.activate(2, **WHO),
            versions.push(source(3), "f.yaml", **WHO),
            versions.freeze(True, **WHO),
            versions.rollback(2, **WHO),
        ):
            with pytest.raises(StoreUnavailableError, match="restore a copy"):
                await change
        assert versions.desired() == desired
        (tmp_path / "c.sqlite").write_bytes(whole)
        await versions.load()
        assert (await versions.activate(2, **WHO)).stable == 2

    run(tmp_path, scenario)

"""The embedded store when its file is locked, damaged, full, read-only, newer, or another control's."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from control import audit
from control.sqlite_store import SqliteStore, StoreFileError
from control.store import Entry, RevisionConflictError, State, StoreUnavailableError

ENTRY = Entry(actor="a", action="x", old="", new="", why="")


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


def test_a_second_control_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = await opened(tmp_path / "s")
        second, waits = SqliteStore(tmp_path / "s"), asyncio.Event()
        opening = asyncio.ensure_future(second.open(on_wait=waits.set))
        await waits.wait()
        await first.change(State(), ENTRY)
        assert not opening.done()
        await first.close()
        await opening
        assert (await second.state()).revision == 1
        await second.close()

    asyncio.run(scenario())


def test_a_locked_file_refuses_changes_and_takes_them_again_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.sqlite_store.BUSY_TIMEOUT_S", 0.01)

    async def scenario() -> None:
        store = await opened(tmp_path / "s")
        holder = sqlite3.connect(tmp_path / "s", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.change(State(), ENTRY)
        holder.execute("ROLLBACK")
        holder.close()
        assert (await store.change(State(), ENTRY)).revision == 1
        await store.close()

    asyncio.run(scenario())


def test_a_full_disk_refuses_changes_whole_and_what_was_there_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await opened(tmp_path / "s")
        state = await store.change(State(), ENTRY)

        def fill(connection: sqlite3.Connection) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()["page_count"]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await store._run(fill)
        long = Entry(actor="a", action="x", old="", new="", why="y" * 100_000)
        with pytest.raises(StoreUnavailableError, match="full"):
            await store.change(state, long)
        # The connection is made anew after a failure, as after space was made.
        assert await store.state() == state
        assert (await store.change(state, long)).revision == 2
        assert audit.verify(*await store.chain()) == []
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["half", "noise"])
def test_a_damaged_file_is_not_opened_and_not_touched(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s"

    async def make() -> None:
        store = await opened(path)
        state = State()
        for _ in range(40):
            state = await store.change(state, Entry(actor="a", action="x", old="", new="", why="w" * 500))
        await store.close()

    asyncio.run(make())
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        data[:middle] if damage == "half" else data[:200] + b"\xa5" * middle + data[200 + middle :]
    )
    damaged = path.read_bytes()

    async def scenario() -> None:
        with pytest.raises(StoreFileError, match="restore a copy"):
            await opened(path)

    asyncio.run(scenario())
    assert path.read_bytes() == damaged


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await opened(tmp_path / "s")
        await store.close()
        connection = sqlite3.connect(tmp_path / "s")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(StoreFileError, match="schema 99"):
            await opened(tmp_path / "s")

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def scenario() -> None:
        with pytest.raises(StoreFileError, match="set state_dir"):
            await opened(tmp_path / "file" / "s")

    asyncio.run(scenario())


def test_only_one_of_two_changes_of_a_revision_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await opened(tmp_path / "s")
        results = await asyncio.gather(
            *(store.change(State(stable=number), ENTRY) for number in (1, 2)), return_exceptions=True
        )
        taken = [result for result in results if isinstance(result, State)]
        refused = [result for result in results if isinstance(result, RevisionConflictError)]
        assert (len(taken), len(refused)) == (1, 1)
        assert await store.state() == taken[0]
        await store.close()

    asyncio.run(scenario())

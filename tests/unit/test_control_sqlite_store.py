"""The embedded store when its file is locked, damaged, full, read-only, newer, or another control's."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control import audit, sqlite_store
from control.sqlite_schema import MIGRATIONS
from control.sqlite_store import SqliteStore, StoreFileError
from control.store import Entry, RevisionConflictError, State, Store, StoreUnavailableError, Version
from router import limits

ENTRY = Entry(actor="a", action="x", old="", new="", why="")
LONG = Entry(actor="a", action="x", old="", new="", why="y" * 100_000)
CONNECT: Any = sqlite3.connect
NOW_MS = 1_700_000_000_000

REST = "at, actor, action, old, new, why, previous_hash, hash"

Scenario = Callable[[SqliteStore], Awaitable[None]]


async def opened(path: Path, now_ms: int = NOW_MS) -> SqliteStore:
    store = SqliteStore(path, clock=lambda: now_ms / 1000)
    await store.open()
    return store


def with_store(path: Path, scenario: Scenario, now_ms: int = NOW_MS) -> None:
    async def whole() -> None:
        store = await opened(path, now_ms)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(whole())


def version(number: int, source: str = "s") -> Version:
    return Version(
        number=number,
        hash=f"h{number}",
        parent=number - 1,
        author="ann",
        message="m",
        created_at=1.5,
        file="f.yaml",
        source=source,
        document=source.encode(),
    )


async def fill(store: Store) -> State:
    """Forty changes, a version with each."""
    state = State()
    for number in range(1, 41):
        state = await store.change(state, Entry(**{**vars_of(ENTRY), "why": "w" * 500}), version(number))
    return state


def vars_of(entry: Entry) -> dict[str, str]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


async def assert_serves(store: Store, state: State) -> None:
    """All reads answer, with what was there."""
    assert await store.state() == state
    assert [found.number for found in await store.versions(2)] == [40, 39]
    assert await store.version(7) == version(7)
    assert [record.number for record in await store.records(1)] == [40]
    assert (await audit.check_chain(store)).faults == []
    assert await store.items("k") == {"n": b"data"}


async def assert_refuses(store: Store, state: State, reason: str) -> None:
    """All changes are refused, the reason is shown, and reads go on."""
    with pytest.raises(StoreUnavailableError, match=reason):
        await store.change(state, LONG, version(41, "z" * 100_000))
    with pytest.raises(StoreUnavailableError, match=reason):
        await store.keep({("k", "m"): b"z" * 100_000})
    assert reason in await store.trouble()
    await assert_serves(store, state)


async def assert_takes(store: Store, state: State) -> None:
    assert (await store.change(state, LONG, version(41))).revision == 41
    assert await store.trouble() == ""
    assert (await audit.check_chain(store)).faults == []


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


def test_while_another_program_has_the_file_locked_reads_go_on_and_changes_work_again_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_S", 0.01)

    async def scenario(store: SqliteStore) -> None:
        state = await fill(store)
        await store.keep({("k", "n"): b"data"})
        holder = sqlite3.connect(tmp_path / "s", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        await assert_refuses(store, state, "another program has the file locked")
        with pytest.raises(StoreUnavailableError):
            await store.next_sequence()
        holder.execute("ROLLBACK")
        holder.close()
        await assert_takes(store, state)

    with_store(tmp_path / "s", scenario)


def test_control_starts_and_serves_what_it_has_while_the_file_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_S", 0.01)

    async def before(store: SqliteStore) -> None:
        await fill(store)
        await store.keep({("k", "n"): b"data"})

    with_store(tmp_path / "s", before)
    holder = sqlite3.connect(tmp_path / "s", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def after(store: SqliteStore) -> None:
        await assert_serves(store, State(revision=40))
        holder.execute("ROLLBACK")
        await assert_takes(store, State(revision=40))

    with_store(tmp_path / "s", after)
    holder.close()


def connect_full(path: Path, **options: Any) -> sqlite3.Connection:
    """To a disk without room: the file may have no more pages."""
    connection: sqlite3.Connection = CONNECT(path, **options)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return connection


def connect_read_only(path: Path, **options: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = CONNECT(f"file:{path}?mode=ro", uri=True, **options)
    return connection


@pytest.mark.parametrize(
    ("connect", "reason"),
    [(connect_full, "the disk is full"), (connect_read_only, "read-only for this user")],
)
@pytest.mark.parametrize("is_new_start", [False, True])
def test_a_disk_that_is_full_or_read_only_refuses_changes_and_reads_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    connect: Callable[..., sqlite3.Connection],
    reason: str,
    is_new_start: bool,
) -> None:
    async def scenario() -> None:
        store = await opened(tmp_path / "s")
        state = await fill(store)
        await store.keep({("k", "n"): b"data"})
        with monkeypatch.context() as patched:
            patched.setattr("sqlite3.connect", connect)
            if is_new_start:
                await store.close()
                store = await opened(tmp_path / "s")
            else:
                store._disconnect()
            await assert_refuses(store, state, reason)
        await assert_takes(store, state)
        await store.close()

    asyncio.run(scenario())


def test_a_file_that_is_damaged_while_control_runs_is_not_written_and_is_used_again_once_restored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"

    async def scenario(store: SqliteStore) -> None:
        state = await fill(store)
        await store.keep({("k", "n"): b"data"})
        store._disconnect()
        whole = path.read_bytes()
        damaged = whole[:200] + b"\xa5" * (len(whole) - 200)
        path.write_bytes(damaged)
        for _attempt in range(2):
            with pytest.raises(StoreUnavailableError, match="restore a copy"):
                await store.change(state, ENTRY)
        assert "restore a copy" in await store.trouble()
        assert path.read_bytes() == damaged
        path.write_bytes(whole)
        await assert_serves(store, state)
        await assert_takes(store, state)

    with_store(path, scenario)


@pytest.mark.parametrize("damage", ["half", "noise", "text"])
def test_a_damaged_file_is_not_opened_and_not_touched(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s"

    async def make(store: SqliteStore) -> None:
        await fill(store)

    with_store(path, make)
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = {
        "half": data[:middle],
        "noise": data[:200] + b"\xa5" * middle + data[200 + middle :],
        "text": b"pools: []\n" * 1000,
    }[damage]
    path.write_bytes(damaged)

    async def scenario() -> None:
        with pytest.raises(StoreFileError, match=f"{path}: .*restore a copy"):
            await opened(path)

    asyncio.run(scenario())
    assert path.read_bytes() == damaged


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    async def nothing(_store: SqliteStore) -> None:
        return

    with_store(tmp_path / "s", nothing)
    connection = sqlite3.connect(tmp_path / "s")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    async def scenario() -> None:
        with pytest.raises(StoreFileError, match=r"schema 99.*use the newer release"):
            await opened(tmp_path / "s")

    asyncio.run(scenario())


def test_an_older_schema_is_brought_up_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(store: SqliteStore) -> None:
        await fill(store)
        await store.keep({("k", "n"): b"data"})

    with_store(tmp_path / "s", before)
    later = (*MIGRATIONS, "CREATE TABLE one (x); CREATE TABLE two (x)", "DROP TABLE one")
    monkeypatch.setattr(sqlite_store, "MIGRATIONS", later)

    async def after(store: SqliteStore) -> None:
        await assert_serves(store, State(revision=40))

    with_store(tmp_path / "s", after)
    connection = sqlite3.connect(tmp_path / "s")
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(store: SqliteStore) -> None:
        await fill(store)
        await store.keep({("k", "n"): b"data"})

    with_store(tmp_path / "s", before)
    later = (*MIGRATIONS, "CREATE TABLE one (x)", "DROP TABLE version; INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_store, "MIGRATIONS", later)
        with pytest.raises(StoreFileError, match="nowhere"):
            asyncio.run(opened(tmp_path / "s"))

    async def after(store: SqliteStore) -> None:
        await assert_serves(store, State(revision=40))

    with_store(tmp_path / "s", after)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFileError, match="set state_dir"):
        asyncio.run(opened(tmp_path / "file" / "s"))


def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await fill(store)
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert modes == {"s": 0o600, "s-wal": 0o600, "s-shm": 0o600, "s.lock": 0o600}

    with_store(tmp_path / "s", scenario)


def test_only_one_of_two_changes_of_a_revision_is_taken(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        results = await asyncio.gather(
            *(store.change(State(stable=number), ENTRY) for number in (1, 2)), return_exceptions=True
        )
        taken = [result for result in results if isinstance(result, State)]
        refused = [result for result in results if isinstance(result, RevisionConflictError)]
        assert (len(taken), len(refused)) == (1, 1)
        assert await store.state() == taken[0]

    with_store(tmp_path / "s", scenario)


def test_items_change_together_with_what_is_desired_or_not_at_all(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.keep({("k", "a"): b"1", ("k", "b"): b"2", ("other", "a"): b"3"})
        state = await store.change(State(), ENTRY, items={("k", "a"): b"4", ("k", "b"): None})
        assert await store.items("k") == {"a": b"4"}
        with pytest.raises(RevisionConflictError):
            await store.change(State(), ENTRY, items={("k", "a"): b"5"})
        assert (await store.items("k"), await store.items("other")) == ({"a": b"4"}, {"a": b"3"})
        assert state.revision == 1

    with_store(tmp_path / "s", scenario)


def test_after_an_older_copy_was_restored_sequences_are_above_all_that_were_given(tmp_path: Path) -> None:
    path, given = tmp_path / "s", []

    async def give(store: SqliteStore) -> None:
        given.extend([await store.next_sequence() for _ in range(50)])

    with_store(path, give)
    copy = path.read_bytes()
    with_store(path, give, now_ms=NOW_MS + 1000)
    path.write_bytes(copy)
    with_store(path, give, now_ms=NOW_MS + 2000)
    with_store(path, give, now_ms=NOW_MS - 86_400_000)  # a clock that goes back takes nothing back
    assert all(earlier < later for earlier, later in itertools.pairwise(given))


def test_what_a_router_has_seen_is_passed_over_unless_it_is_beyond_belief(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        ahead = NOW_MS + limits.SEQUENCE_AHEAD_MAX
        assert await store.next_sequence(1 << 62) == NOW_MS + 1
        assert await store.next_sequence(ahead) == ahead + 1

    with_store(tmp_path / "s", scenario)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET why = 'approved' WHERE number = 20",
        "UPDATE audit SET number = -number WHERE number = 20",
        "DELETE FROM audit WHERE number = 20",
        "DELETE FROM audit WHERE number = 1",
        "DELETE FROM audit WHERE number = 40",
        "DELETE FROM audit",
        f"INSERT INTO audit SELECT 0, {REST} FROM audit WHERE number = 1",
        f"INSERT INTO audit SELECT 41, {REST} FROM audit WHERE number = 1",
    ],
)
def test_tampering_with_the_records_is_found_whatever_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tampering: str
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await fill(store)
        for page in (7, 20, 40, 1000):
            monkeypatch.setattr(limits, "AUDIT_PAGE_RECORDS", page)
            check = await audit.check_chain(store)
            assert (check.faults, check.count) == ([], 40)
        connection = sqlite3.connect(tmp_path / "s")
        connection.execute(tampering)
        connection.commit()
        connection.close()
        for page in (7, 20, 40, 1000):
            monkeypatch.setattr(limits, "AUDIT_PAGE_RECORDS", page)
            assert (await audit.check_chain(store)).faults

    with_store(tmp_path / "s", scenario)

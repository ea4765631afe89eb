"""The embedded store: one SQLite file, written by one thread of one process.

A lock beside the file is held for as long as its control lives; a second control on the same store waits.
Every statement runs on the store's own thread, so that a slow disk stops no loop. Changes to a disk that is
full, a file that is locked, damaged or read-only, raise StoreUnavailableError and are tried again with the
next call: nothing has to be restarted; reads go on as long as the file can be read. Invariant: a change is
one transaction, synced before it is said to be done; a file that is damaged or of a newer release is never
written. Neighbours: store.py (the protocol), sqlite_schema.py (tables), audit.py (the chain's hashes).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from control import audit
from control.sqlite_schema import MIGRATIONS
from control.store import (
    NO_ITEMS,
    AuditRecord,
    ChainEnd,
    Entry,
    Items,
    RevisionConflictError,
    State,
    StoreUnavailableError,
    Version,
    VersionFacts,
)
from router import limits

BUSY_TIMEOUT_S = 2.0  # a backup holds the file for moments
BUSY_AGAIN_S = 0.05  # once it was held for longer: others, who may only want to read, wait behind each change
LOCK_RETRY_S = 0.5
TRIAL_BYTES = 64 * limits.KIB  # a version with a few hundred endpoints

REASONS = {
    sqlite3.SQLITE_BUSY: "another program has the file locked",
    sqlite3.SQLITE_LOCKED: "another program has the file locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file is read-only for this user",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk does not read or write it",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a copy, or move it away to begin anew",
    sqlite3.SQLITE_NOTADB: "the file is no store: restore a copy, or move it away to begin anew",
}
"""Of SQLite's primary result codes, what they mean to whoever runs control."""

Result = TypeVar("Result")
Row = TypeVar("Row", bound=Struct)
Work = Callable[[sqlite3.Connection], Result]

logger = logging.getLogger("fairlead.control")


class StoreFileError(Exception):
    """The file cannot be this control's store; the message says why and what to do."""


class SqliteStore:
    """See store.Store."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "store")
        self._connection: sqlite3.Connection | None = None
        self._trouble = ""  # why the last change was refused
        self._lock_fd = -1

    async def open(self, *, on_wait: Callable[[], None] = lambda: None) -> None:
        """Takes the file, made where there is none; `on_wait` is called once while another control has it.

        Raises: StoreFileError.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(f"{self._path}.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not self._path.exists():
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise StoreFileError(
                f"{self._path}: {exc.strerror}; set state_dir to a folder of this user"
            ) from exc
        is_waiting = False
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_waiting:
                    is_waiting = True
                    on_wait()
                await asyncio.sleep(LOCK_RETRY_S)
        try:
            await self._read(_look)
        except StoreUnavailableError as exc:
            self._unlock()
            raise StoreFileError(f"{self._path}: {exc}") from exc

    async def close(self) -> None:
        """Lets go of the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # ---- store.Store

    async def trouble(self) -> str:
        try:
            await (self._write(_try_to_write) if self._trouble else self._read(_look))
        except StoreUnavailableError as exc:
            return str(exc)
        return ""

    async def state(self) -> State:
        return await self._read(_state)

    async def change(
        self, state: State, entry: Entry, version: Version | None = None, items: Items = NO_ITEMS
    ) -> State:
        return await self._write(
            functools.partial(
                _change, at_s=self._clock(), state=state, entry=entry, version=version, items=items
            )
        )

    async def version(self, number: int) -> Version | None:
        found = await self._read(_select(Version, "FROM version WHERE number = ?", number))
        return found[0] if found else None

    async def versions(self, limit: int, before: int | None = None) -> list[VersionFacts]:
        newest = "FROM version WHERE number < ? ORDER BY number DESC LIMIT ?"
        return await self._read(_select(VersionFacts, newest, _below(before), limit))

    async def next_sequence(self, above: int = 0) -> int:
        return await self._write(functools.partial(_take_sequence, int(self._clock() * 1000), above))

    async def records(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        newest = "FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"
        return await self._read(_select(AuditRecord, newest, _below(before), limit))

    async def chain(self, after: int | None, limit: int) -> tuple[list[AuditRecord], ChainEnd]:
        following = "FROM audit WHERE ? IS NULL OR number > ? ORDER BY number LIMIT ?"
        select = _select(AuditRecord, following, after, after, limit)
        return await self._read(lambda connection: (select(connection), _chain_end(connection)))

    async def items(self, kind: str) -> dict[str, bytes]:
        def read(connection: sqlite3.Connection) -> dict[str, bytes]:
            rows = connection.execute("SELECT name, data FROM item WHERE kind = ? ORDER BY name", (kind,))
            return {row["name"]: row["data"] for row in rows}

        return await self._read(read)

    async def keep(self, items: Items) -> None:
        await self._write(functools.partial(_keep, items))

    # ---- the thread

    async def _read(self, work: Work[Result]) -> Result:
        """Runs `work`, which only reads, in one transaction. Raises: StoreUnavailableError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work, "BEGIN")

    async def _write(self, work: Work[Result]) -> Result:
        """Runs `work` in one transaction, all or nothing. Raises: StoreUnavailableError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact_change, work)

    def _transact_change(self, work: Work[Result]) -> Result:
        if self._trouble:
            self._disconnect()  # what was opened on a read-only disk stays so when the disk does not
        try:
            result = self._transact(work, "BEGIN IMMEDIATE")
        except StoreUnavailableError as exc:
            if not self._trouble:
                logger.error("%s: no change is taken: %s", self._path, exc)
            self._trouble = str(exc)
            raise
        if self._trouble:
            logger.info("%s: changes are taken again", self._path)
            self._trouble = ""
            self._disconnect()  # the next one waits for others as long as it should
        return result

    def _transact(self, work: Work[Result], begin: str) -> Result:
        try:
            with _transaction(self._connected(), begin) as connection:
                return work(connection)
        except sqlite3.Error as exc:
            code = _primary_code(exc)
            if code not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                self._disconnect()  # the next call looks at the file anew
            reason = REASONS.get(code)
            raise StoreUnavailableError(f"{reason} ({exc})" if reason else str(exc)) from exc

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            with contextlib.ExitStack() as undo:
                connection = sqlite3.connect(
                    self._path,
                    timeout=BUSY_AGAIN_S if self._trouble else BUSY_TIMEOUT_S,
                    isolation_level=None,
                    check_same_thread=False,
                )
                undo.callback(connection.close)
                connection.row_factory = _as_mapping
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                found = connection.execute("PRAGMA quick_check(1)").fetchone()["quick_check"]
                if found != "ok":
                    raise sqlite3.DatabaseError(f"the file is damaged: restore a copy of it ({found})")
                _migrate(connection, MIGRATIONS)
                undo.pop_all()
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[sqlite3.Connection]:
    connection.execute(begin)
    with contextlib.ExitStack() as undo:
        undo.callback(_roll_back, connection)
        yield connection
        connection.execute("COMMIT")
        undo.pop_all()


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Brings an older schema to this release's; one that is so already is not written to."""
    if _schema(connection) == len(migrations):
        return
    with _transaction(connection, "BEGIN IMMEDIATE"):
        schema = _schema(connection)
        if schema > len(migrations):
            raise sqlite3.DatabaseError(
                f"it has schema {schema}, this release knows schemas up to {len(migrations)}: "
                "use the newer release that made it"
            )
        for number in range(schema, len(migrations)):
            for statement in filter(str.strip, migrations[number].split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()["user_version"])


def _primary_code(exc: sqlite3.Error) -> int:
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _as_mapping(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _below(before: int | None) -> int:
    return (1 << 63) - 1 if before is None else before


def _select(kind: type[Row], clauses: str, *values: int | None) -> Work[list[Row]]:
    """Rows as structs whose fields are the columns' names."""
    statement = f"SELECT {', '.join(kind.__struct_fields__)} {clauses}"

    def read(connection: sqlite3.Connection) -> list[Row]:
        return [kind(**row) for row in connection.execute(statement, values)]

    return read


def _state(connection: sqlite3.Connection) -> State:
    (found,) = _select(State, "FROM state")(connection)
    return structs.replace(found, is_frozen=bool(found.is_frozen))


def _chain_end(connection: sqlite3.Connection) -> ChainEnd:
    (found,) = _select(ChainEnd, "FROM (SELECT audit_count AS count, audit_hash AS hash FROM state)")(
        connection
    )
    return found


def _look(connection: sqlite3.Connection) -> None:
    _state(connection)


def _try_to_write(connection: sqlite3.Connection) -> None:
    """As much as a change would."""
    connection.execute("INSERT INTO item VALUES ('trial', '', zeroblob(?))", (TRIAL_BYTES,))
    connection.execute("DELETE FROM item WHERE kind = 'trial'")


def _take_sequence(now_ms: int, above: int, connection: sqlite3.Connection) -> int:
    """The clock makes it larger than what was given after this file was copied."""
    given = max(now_ms, int(connection.execute("SELECT sequence FROM state").fetchone()["sequence"]))
    believed = above if above <= given + limits.SEQUENCE_AHEAD_MAX else 0
    sequence = max(given, believed) + 1
    connection.execute("UPDATE state SET sequence = ?", (sequence,))
    return sequence


def _change(
    connection: sqlite3.Connection,
    *,
    at_s: float,
    state: State,
    entry: Entry,
    version: Version | None,
    items: Items,
) -> State:
    if _state(connection).revision != state.revision:
        raise RevisionConflictError("what is desired has been changed meanwhile")
    if version is not None:
        _insert(connection, "version", version)
    record = audit.next_record(entry, at_s=at_s, end=_chain_end(connection))
    _insert(connection, "audit", record)
    _keep(items, connection)
    after = structs.replace(state, revision=state.revision + 1)
    connection.execute(
        "UPDATE state SET revision = ?, stable = ?, canary = ?, canary_ratio = ?, previous = ?, "
        "is_frozen = ?, audit_count = ?, audit_hash = ?",
        (*structs.astuple(after), record.number, record.hash),
    )
    return after


def _insert(connection: sqlite3.Connection, table: str, row: Version | AuditRecord) -> None:
    columns = row.__struct_fields__
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
    connection.execute(statement, structs.astuple(row))


def _keep(items: Items, connection: sqlite3.Connection) -> None:
    gone = [key for key, data in items.items() if data is None]
    kept = [(*key, data) for key, data in items.items() if data is not None]
    connection.executemany("DELETE FROM item WHERE kind = ? AND name = ?", gone)
    connection.executemany("INSERT OR REPLACE INTO item (kind, name, data) VALUES (?, ?, ?)", kept)

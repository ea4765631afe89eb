"""The embedded store: one SQLite file, written by one thread of one process.

The file is locked for as long as its control lives; a second control on the same store waits. Every
statement runs on the store's own thread, so that a slow disk stops no loop. Reads that fail, and writes to
a disk that is full, a file that is locked, damaged or read-only, raise StoreUnavailableError and are tried
again with the next call: nothing has to be restarted. Invariant: a change is one transaction, synced before
it is said to be done. Neighbours: store.py (the protocol), audit.py (the chain's hashes).
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from control import audit
from control.store import (
    AuditRecord,
    Entry,
    RevisionConflictError,
    State,
    StoreUnavailableError,
    Version,
)

BUSY_TIMEOUT_S = 2.0  # a backup holds the file for moments
LOCK_RETRY_S = 0.5

MIGRATIONS = (
    """
    CREATE TABLE version (
        number INTEGER PRIMARY KEY, hash TEXT NOT NULL, parent INTEGER NOT NULL, author TEXT NOT NULL,
        message TEXT NOT NULL, created_at REAL NOT NULL, file TEXT NOT NULL, source TEXT NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
    CREATE TABLE state (
        only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL, stable INTEGER NOT NULL,
        canary INTEGER NOT NULL, canary_ratio REAL NOT NULL, previous INTEGER NOT NULL,
        is_frozen INTEGER NOT NULL,
        sequence INTEGER NOT NULL, audit_count INTEGER NOT NULL, audit_hash TEXT NOT NULL
    ) STRICT;
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        old TEXT NOT NULL, new TEXT NOT NULL, why TEXT NOT NULL, previous_hash TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    """,
)
"""Statements that make schema N + 1 of schema N; never changed once released."""

Result = TypeVar("Result")

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
        self._lock_fd = -1

    async def open(self, *, on_wait: Callable[[], None] = lambda: None) -> None:
        """Takes the file, made where there is none; `on_wait` is called once while another control has it.

        Raises: StoreFileError.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
            await self._run(lambda connection: None)
        except StoreUnavailableError as exc:
            raise StoreFileError(
                f"{self._path}: {exc}; restore a copy, or move the file away to begin anew"
            ) from exc

    async def close(self) -> None:
        """Lets go of the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # ---- store.Store

    async def state(self) -> State:
        return await self._run(_state)

    async def change(self, state: State, entry: Entry, version: Version | None = None) -> State:
        return await self._run(functools.partial(_change, self._clock(), state, entry, version))

    async def version(self, number: int) -> Version | None:
        def read(connection: sqlite3.Connection) -> Version | None:
            rows = connection.execute("SELECT * FROM version WHERE number = ?", (number,)).fetchall()
            return Version(**rows[0]) if rows else None

        return await self._run(read)

    async def versions(self, limit: int, before: int | None = None) -> list[Version]:
        return await self._run(
            lambda connection: [Version(**row) for row in _page(connection, "version", limit, before)]
        )

    async def next_sequence(self, above: int = 0) -> int:
        def take(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE state SET sequence = max(sequence, ?) + 1", (above,))
            return int(connection.execute("SELECT sequence FROM state").fetchone()["sequence"])

        return await self._run(take)

    async def records(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        return await self._run(
            lambda connection: [AuditRecord(**row) for row in _page(connection, "audit", limit, before)]
        )

    async def chain(self) -> tuple[list[AuditRecord], int, str]:
        def read(connection: sqlite3.Connection) -> tuple[list[AuditRecord], int, str]:
            rows = connection.execute("SELECT * FROM audit ORDER BY number").fetchall()
            kept = connection.execute("SELECT audit_count, audit_hash FROM state").fetchone()
            return [AuditRecord(**row) for row in rows], kept["audit_count"], kept["audit_hash"]

        return await self._run(read)

    # ---- the thread

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Runs `work` in one transaction on the store's thread. Raises: StoreUnavailableError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            connection = self._connected()
            with _transaction(connection):
                return work(connection)
        except sqlite3.Error as exc:
            self._disconnect()  # whatever it was, the next call looks at the file anew
            raise StoreUnavailableError(f"the store takes nothing now: {exc}") from exc

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            with contextlib.ExitStack() as undo:
                undo.callback(connection.close)
                connection.row_factory = _as_mapping
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                found = connection.execute("PRAGMA quick_check").fetchone()["quick_check"]
                if found != "ok":
                    raise sqlite3.DatabaseError(f"the file is damaged: {found}")
                _migrate(connection)
                undo.pop_all()
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    with contextlib.ExitStack() as undo:
        undo.callback(_roll_back, connection)
        yield
        connection.execute("COMMIT")
        undo.pop_all()


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def _migrate(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        schema = int(connection.execute("PRAGMA user_version").fetchone()["user_version"])
        if schema > len(MIGRATIONS):
            raise sqlite3.DatabaseError(
                f"it has schema {schema}, this release knows up to {len(MIGRATIONS)}: use a newer one"
            )
        for number in range(schema, len(MIGRATIONS)):
            for statement in filter(str.strip, MIGRATIONS[number].split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(
            "INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0.0, 0, 0, 0, 0, ?)", (audit.GENESIS,)
        )


def _as_mapping(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _page(connection: sqlite3.Connection, table: str, limit: int, before: int | None) -> list[dict[str, Any]]:
    below = 1 << 62 if before is None else before
    statement = f"SELECT * FROM {table} WHERE number < ? ORDER BY number DESC LIMIT ?"  # noqa: S608 - ours
    return connection.execute(statement, (below, limit)).fetchall()


def _state(connection: sqlite3.Connection) -> State:
    row = connection.execute(
        "SELECT revision, stable, canary, canary_ratio, previous, is_frozen FROM state"
    ).fetchone()
    return State(**{**row, "is_frozen": bool(row["is_frozen"])})


def _change(
    at: float, state: State, entry: Entry, version: Version | None, connection: sqlite3.Connection
) -> State:
    if _state(connection).revision != state.revision:
        raise RevisionConflictError("what is desired has been changed meanwhile")
    if version is not None:
        columns = version.__struct_fields__
        marks = ", ".join("?" * len(columns))
        connection.execute(
            f"INSERT INTO version ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - the struct's names
            structs.astuple(version),
        )
    kept = connection.execute("SELECT audit_count, audit_hash FROM state").fetchone()
    record = audit.next_record(entry, at=at, count=kept["audit_count"], last_hash=kept["audit_hash"])
    connection.execute(
        "INSERT INTO audit (number, at, actor, action, old, new, why, previous_hash, hash) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        structs.astuple(record),
    )
    after = structs.replace(state, revision=state.revision + 1)
    connection.execute(
        "UPDATE state SET revision = ?, stable = ?, canary = ?, canary_ratio = ?, previous = ?, "
        "is_frozen = ?, audit_count = ?, audit_hash = ?",
        (*structs.astuple(after), record.number, record.hash),
    )
    return after

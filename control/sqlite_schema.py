"""The tables of the embedded store, and how a file of an older release comes to them.

The file's `user_version` says how many of the migrations it has had. Invariant: once released, a migration
never changes; what is to be different is another one behind it. Neighbours: sqlite_store.py.
"""

from __future__ import annotations

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
        number INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        old TEXT NOT NULL, new TEXT NOT NULL, why TEXT NOT NULL, previous_hash TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    CREATE TABLE item (
        kind TEXT NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO state VALUES (1, 0, 0, 0, 0.0, 0, 0, 0, 0, printf('%064d', 0))
    """,
)
"""Statements that make schema N + 1 of schema N."""

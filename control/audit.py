"""The chain of audit records: each holds the hash of the one before, so none can be altered, removed or
moved unseen.

A record's hash is the SHA-256 of the MessagePack array of its fields, the hash before it among them. How
many records there are and the hash of the last one are kept apart, so that one missing at the end shows
too. Invariant: whoever can rewrite the whole file can make a new chain; what shows that is an exported
copy, which `verify` reads as well. Neighbours: store.py (the records), sqlite_store.py (keeps them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from control.store import AuditRecord, Entry

GENESIS = "0" * 64
"""In place of a hash before the first record."""


def record_hash(record: AuditRecord) -> str:
    """What its `hash` must be."""
    fields = [getattr(record, name) for name in record.__struct_fields__ if name != "hash"]
    return hashlib.sha256(msgspec.msgpack.encode(fields)).hexdigest()


def next_record(entry: Entry, *, at: float, count: int, last_hash: str) -> AuditRecord:
    """The record of `entry` behind a chain of `count` records."""
    record = AuditRecord(
        number=count + 1,
        at=at,
        actor=entry.actor,
        action=entry.action,
        old=entry.old,
        new=entry.new,
        why=entry.why,
        previous_hash=last_hash,
        hash="",
    )
    return msgspec.structs.replace(record, hash=record_hash(record))


def verify(records: Sequence[AuditRecord], count: int, last_hash: str) -> list[str]:
    """What is wrong with a chain, the oldest record first; nothing when it is whole."""
    faults = []
    previous_hash, number = GENESIS, 0
    for record in records:
        if record.number != number + 1:
            faults.append(f"record {record.number} follows {number}: records were removed, added or moved")
        elif record.previous_hash != previous_hash:
            faults.append(f"record {record.number} does not follow the one before it: that one was replaced")
        if record.hash != record_hash(record):
            faults.append(f"record {record.number} was altered")
        previous_hash, number = record.hash, record.number
    if len(records) != count:
        faults.append(f"{len(records)} records, and {count} were written")
    elif previous_hash != last_hash:
        faults.append("the last record is not the one that was written last")
    return faults

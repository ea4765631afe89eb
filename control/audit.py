"""The chain of audit records: each holds the hash of the one before, so none can be altered, removed or
moved unseen.

A record's hash is the SHA-256 of the MessagePack array of its fields, the hash before it among them. How
many records there are and the hash of the last one are kept apart, so that one missing at the end shows
too. Invariant: whoever can rewrite the whole file can make a new chain; what shows that is an exported
copy, whose lines `ChainCheck` takes as well. Neighbours: store.py (the records), sqlite_store.py (keeps
them).
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable

import msgspec

from control.store import AuditRecord, ChainEnd, Entry, Store
from router import limits

GENESIS = "0" * 64
"""In place of a hash before the first record."""


def record_hash(record: AuditRecord) -> str:
    """What its `hash` must be."""
    fields = [getattr(record, name) for name in record.__struct_fields__ if name != "hash"]
    return hashlib.sha256(msgspec.msgpack.encode(fields)).hexdigest()


def next_record(entry: Entry, *, at_s: float, end: ChainEnd) -> AuditRecord:
    """The record of `entry` behind a chain that ends so; `at_s` are seconds since 1970."""
    record = AuditRecord(
        number=end.count + 1,
        at=datetime.datetime.fromtimestamp(at_s, datetime.UTC).isoformat(timespec="microseconds"),
        actor=entry.actor,
        action=entry.action,
        old=entry.old,
        new=entry.new,
        why=entry.why,
        previous_hash=end.hash,
        hash="",
    )
    return msgspec.structs.replace(record, hash=record_hash(record))


class ChainCheck:
    """Follows a chain from its first record on."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        """What is wrong, the oldest first; nothing as long as it is whole."""
        self.left_out_count = 0
        """Faults beyond `limits.AUDIT_FAULTS_MAX`."""
        self.count = 0
        self.last: AuditRecord | None = None

    def take(self, records: Iterable[AuditRecord]) -> None:
        """Looks at the records that follow."""
        for record in records:
            number, last_hash = (0, GENESIS) if self.last is None else (self.last.number, self.last.hash)
            if record.number != number + 1:
                self._fault(f"record {record.number} follows {number}: records were removed, added or moved")
            elif record.previous_hash != last_hash:
                self._fault(
                    f"record {record.number} does not follow the one before it: that one was replaced"
                )
            if record.hash != record_hash(record):
                self._fault(f"record {record.number} was altered")
            self.count += 1
            self.last = record

    def take_lines(self, lines: Iterable[bytes]) -> None:
        """Looks at the lines of an export; what is no record is a fault."""
        for number, line in enumerate(lines, 1):
            try:
                record = _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                self._fault(f"line {number} is no record: {exc}")
                continue
            self.take([record])

    def must_end(self, end: ChainEnd) -> None:
        """Compares with what was written last."""
        if self.count != end.count:
            self._fault(f"{self.count} records, and {end.count} were written")
        elif end.hash != (GENESIS if self.last is None else self.last.hash):
            self._fault("the last record is not the one that was written last")

    def _fault(self, message: str) -> None:
        if len(self.faults) < limits.AUDIT_FAULTS_MAX:
            self.faults.append(message)
        else:
            self.left_out_count += 1


async def check_chain(store: Store) -> ChainCheck:
    """The whole chain of a store, a page at a time. Raises: StoreUnavailableError."""
    check = ChainCheck()
    after: int | None = None
    while True:
        page, end = await store.chain(after, limits.AUDIT_PAGE_RECORDS)
        check.take(page)
        if len(page) < limits.AUDIT_PAGE_RECORDS:
            check.must_end(end)
            return check
        after = page[-1].number


def export_line(record: AuditRecord) -> bytes:
    """A record as a line of an export."""
    return msgspec.json.encode(record) + b"\n"


class _Line(AuditRecord, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line holds: nothing that the hash is not of."""


_decoder = msgspec.json.Decoder(_Line)

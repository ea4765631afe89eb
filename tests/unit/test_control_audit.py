"""The chain of audit records: whatever is altered, removed, added or moved is found, in exports too."""

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from control.audit import GENESIS, ChainCheck, export_line, next_record
from control.store import AuditRecord, ChainEnd, Entry
from router import limits

TEXTS = st.text(max_size=8)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)  # what a store can hold
ENTRIES = st.builds(Entry, actor=TEXTS, action=TEXTS, old=TEXTS, new=TEXTS, why=TEXTS)


def chain(entries: list[Entry]) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for entry in entries:
        records.append(next_record(entry, at_s=1e9 + len(records), end=end_of(records)))
    return records


def end_of(records: list[AuditRecord]) -> ChainEnd:
    return ChainEnd(count=len(records), hash=records[-1].hash if records else GENESIS)


def faults(records: Iterable[AuditRecord], whole: list[AuditRecord]) -> list[str]:
    check = ChainCheck()
    check.take(records)
    check.must_end(end_of(whole))
    return check.faults


def faults_of_export(lines: Iterable[bytes]) -> list[str]:
    check = ChainCheck()
    check.take_lines(lines)
    return check.faults


@given(st.lists(ENTRIES, max_size=6))
def test_what_was_written_is_whole(entries: list[Entry]) -> None:
    records = chain(entries)
    assert faults(records, records) == []
    assert faults_of_export(map(export_line, records)) == []


@given(st.lists(ENTRIES, min_size=1, max_size=6), st.data())
def test_any_field_that_is_altered_is_found(entries: list[Entry], data: st.DataObject) -> None:
    records = chain(entries)
    place = data.draw(st.integers(0, len(records) - 1))
    name = data.draw(st.sampled_from(AuditRecord.__struct_fields__))
    old = getattr(records[place], name)
    new = data.draw((TEXTS if isinstance(old, str) else NUMBERS).filter(lambda value: value != old))
    altered = [*records]
    altered[place] = structs.replace(records[place], **{name: new})
    assert faults(altered, records)
    if name != "hash" or place + 1 < len(records):
        assert faults_of_export(map(export_line, altered))


@given(st.lists(ENTRIES, min_size=2, max_size=6), st.data())
def test_any_record_that_is_removed_doubled_or_moved_is_found(
    entries: list[Entry], data: st.DataObject
) -> None:
    records = chain(entries)
    place = data.draw(st.integers(0, len(records) - 1))
    other = data.draw(st.integers(0, len(records) - 1).filter(lambda number: number != place))
    assert faults(records[:place] + records[place + 1 :], records)
    assert faults([*records[:place], records[place], *records[place:]], records)
    moved = [*records]
    moved[place], moved[other] = moved[other], moved[place]
    assert faults(moved, records)


@given(st.lists(ENTRIES, min_size=1, max_size=5), ENTRIES, st.data())
def test_any_record_that_is_added_is_found_with_whatever_number(
    entries: list[Entry], other: Entry, data: st.DataObject
) -> None:
    records = chain(entries)
    place = data.draw(st.integers(0, len(records)))
    forged = next_record(other, at_s=0.0, end=end_of(records[:place]))
    number = data.draw(st.integers(-2, len(records) + 2))
    for added in (forged, structs.replace(forged, number=number)):
        assert faults([*records[:place], added, *records[place:]], records)


@given(st.lists(ENTRIES, min_size=1, max_size=5), ENTRIES)
def test_a_chain_made_anew_is_not_the_one_that_was_written(entries: list[Entry], other: Entry) -> None:
    records = chain(entries)
    forged = chain([*entries[:-1], other])
    if forged != records:
        assert faults(forged, records)


@given(st.lists(ENTRIES, min_size=1, max_size=3), st.data())
def test_any_bit_of_an_export_that_is_turned_is_found(entries: list[Entry], data: st.DataObject) -> None:
    """Unless it says the same: an escape that is written otherwise."""
    lines = [export_line(record) for record in chain(entries)]
    place = data.draw(st.integers(0, len(lines) - 1))
    bit = data.draw(st.integers(0, 8 * len(lines[place]) - 9))  # the newline is not the record's
    turned = bytearray(lines[place])
    turned[bit // 8] ^= 1 << bit % 8
    altered = [*lines[:place], bytes(turned), *lines[place + 1 :]]
    try:
        says_the_same = msgspec.json.decode(turned) == msgspec.json.decode(lines[place])
    except (msgspec.DecodeError, UnicodeDecodeError):  # no JSON, or not in UTF-8
        says_the_same = False
    assert bool(faults_of_export(altered)) != says_the_same


def test_a_line_with_more_than_the_hash_is_of_is_no_record() -> None:
    (record,) = chain([Entry(actor="a", action="x", old="", new="", why="")])
    line = export_line(record)
    assert faults_of_export([line[:-2] + b',"note":"approved"}\n']) == [
        "line 1 is no record: Object contains unknown field `note`"
    ]


def test_a_number_that_no_store_could_hold_is_a_fault() -> None:
    (record,) = chain([Entry(actor="a", action="x", old="", new="", why="")])
    line = export_line(record)
    for number in (b"0", b"-1", b"1e3", b"9" * 30):
        assert faults_of_export([line.replace(b'"number":1', b'"number":' + number)])


def test_of_very_many_faults_some_are_listed_and_the_rest_counted() -> None:
    check = ChainCheck()
    check.take_lines([b"\n"] * (limits.AUDIT_FAULTS_MAX + 5))
    assert (len(check.faults), check.left_out_count) == (limits.AUDIT_FAULTS_MAX, 5)

"""The chain of audit records: whatever is altered, removed, added or moved is found."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from control.audit import GENESIS, next_record, verify
from control.store import AuditRecord, Entry

TEXTS = st.text(max_size=8)
ENTRIES = st.builds(Entry, actor=TEXTS, action=TEXTS, old=TEXTS, new=TEXTS, why=TEXTS)


def chain(entries: list[Entry]) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for entry in entries:
        last_hash = records[-1].hash if records else GENESIS
        records.append(next_record(entry, at=float(len(records)), count=len(records), last_hash=last_hash))
    return records


def faults(records: list[AuditRecord], whole: list[AuditRecord]) -> list[str]:
    return verify(records, len(whole), whole[-1].hash if whole else GENESIS)


@given(st.lists(ENTRIES, max_size=6))
def test_what_was_written_is_whole(entries: list[Entry]) -> None:
    records = chain(entries)
    assert faults(records, records) == []


@given(st.lists(ENTRIES, min_size=1, max_size=6), st.data())
def test_any_field_that_is_altered_is_found(entries: list[Entry], data: st.DataObject) -> None:
    records = chain(entries)
    place = data.draw(st.integers(0, len(records) - 1))
    name = data.draw(st.sampled_from(AuditRecord.__struct_fields__))
    old = getattr(records[place], name)
    new = old + "x" if isinstance(old, str) else old + 1
    altered = [*records]
    altered[place] = structs.replace(records[place], **{name: new})
    assert faults(altered, records)


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


@given(st.lists(ENTRIES, min_size=1, max_size=5), ENTRIES)
def test_a_chain_made_anew_is_not_the_one_that_was_written(entries: list[Entry], other: Entry) -> None:
    records = chain(entries)
    forged = chain([*entries[:-1], other])
    if forged != records:
        assert faults(forged, records)

"""The session table against its oracle: what is found is right, and the last four of a line are found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.native.session import SessionTable
from tests.oracle import session as oracle

SLOTS = 5
REMEMBERED_S = 100.0

puts = st.tuples(
    st.just("put"),
    st.integers(1, 24) | st.integers(1, (1 << 64) - 1),
    st.integers(0, SLOTS - 1),
    st.integers(0, 1 << 20),
    st.integers(0, 1 << 22),
)
forgets = st.tuples(st.just("forget"), st.integers(0, SLOTS - 1))
waits = st.tuples(st.just("wait"), st.sampled_from([1, 400_000, 3_000_000, 40_000_000]))


@given(st.integers(1, 3), st.lists(puts | forgets | waits, max_size=60))
def test_what_is_found_is_the_oracles(set_count: int, history: list[tuple[int | str, ...]]) -> None:
    table = SessionTable.create(4096 + 64 + set_count * 64, SLOTS)
    assert table.set_count == set_count
    known = oracle.Sessions(table.line)
    now_us = 1 << 30
    for kind, *given_ in history:
        values = [int(value) for value in given_]
        if kind == "wait":
            now_us += values[0]
        elif kind == "forget":
            table.forget(values[0], now_us)
            known.forget(values[0], now_us)
        else:
            key, slot, model, prompt_tokens = values
            table.put(key, slot, now_us, model=model, prompt_tokens=prompt_tokens)
            known.put(key, slot, now_us, model, prompt_tokens)
            assert table.find(key, now_us, REMEMBERED_S) == known.find(key, now_us, REMEMBERED_S)
        for key in known.places:
            wanted = known.find(key, now_us, REMEMBERED_S)
            found = table.find(key, now_us, REMEMBERED_S)
            assert found in (wanted, None)
            if known.must_be_there(key):
                assert found == wanted

"""The session table's promises, alone and between processes; tests/property has histories of one writer."""

import os
import subprocess
import sys

import pytest

from router.native.session import SessionTable
from tests.oracle.session import PROMPT_TOKENS_MAX, TICK_US

NOW_US = 1_000_000_000
SIZE_BYTES = 1 << 16


def table_of(size_bytes: int = SIZE_BYTES, slot_count: int = 32) -> SessionTable:
    return SessionTable.create(size_bytes, slot_count)


def same_line(table: SessionTable, count: int) -> list[int]:
    """So many sessions that lie in one line."""
    found = [key for key in range(1, 100_000) if table.line(key) == table.line(1)]
    return found[:count]


def test_a_session_is_found_where_it_was_last() -> None:
    table = table_of()
    assert table.find(7, NOW_US) is None
    table.put(7, 3, NOW_US, model=0x12345, prompt_tokens=900)
    assert table.find(7, NOW_US + 1) == (3, 0x2345, 900)
    table.put(7, 5, NOW_US + 10, prompt_tokens=1800)
    assert table.find(7, NOW_US + 20) == (5, 0, 1800)
    assert table.find(8, NOW_US) is None


def test_a_session_that_is_not_seen_is_forgotten_after_its_time() -> None:
    table = table_of()
    table.put(7, 3, NOW_US)
    assert table.find(7, NOW_US + 59_000_000, remembered_s=60) is not None
    assert table.find(7, NOW_US + 62_000_000, remembered_s=60) is None
    assert table.find(7, NOW_US + 62_000_000) is not None, "longer for who remembers longer"
    assert table.find(7, NOW_US - 5_000_000) is not None, "another core's clock may be behind"
    assert table.find(7, NOW_US + 3_000_000, remembered_s=0) is None


def test_it_is_remembered_to_the_tick() -> None:
    table = table_of()
    table.put(7, 3, NOW_US)
    remembered_s = 10.5 * TICK_US / 1e6
    assert table.find(7, NOW_US + 10 * TICK_US, remembered_s=remembered_s) is not None
    assert table.find(7, NOW_US + 11 * TICK_US, remembered_s=remembered_s) is None


def test_a_slot_that_is_none_of_the_tables_is_nobodys() -> None:
    table = table_of()
    table.put(7, 3, NOW_US)
    begin = SIZE_BYTES - table.set_count * 64
    words = memoryview(os.pread(table.fd, SIZE_BYTES, 0))[begin:].cast("Q")
    (at,) = (index for index in range(0, len(words), 2) if words[index])
    os.pwrite(table.fd, (words[at] | 0xFFFF).to_bytes(8, "little"), begin + 8 * at)
    assert table.find(7, NOW_US) is None


def test_a_full_line_lets_go_of_who_was_seen_least_recently() -> None:
    table = table_of()
    keys = same_line(table, 6)
    for place, key in enumerate(keys[:4]):
        table.put(key, place, NOW_US + place * TICK_US)
    table.put(keys[0], 9, NOW_US + 4 * TICK_US)
    table.put(keys[4], 4, NOW_US + 5 * TICK_US)
    now_us = NOW_US + 6 * TICK_US
    assert [table.find(key, now_us) is not None for key in keys[:5]] == [True, False, True, True, True]
    table.put(keys[5], 5, now_us)
    assert table.find(keys[2], now_us) is None
    assert table.find(keys[0], now_us) == (9, 0, 0)


def test_nobody_has_been_at_an_endpoint_that_joins_anew() -> None:
    table = table_of()
    table.put(7, 3, NOW_US)
    table.put(8, 4, NOW_US)
    table.forget(3, NOW_US + 1)
    assert table.find(7, NOW_US + 2) is None
    assert table.find(8, NOW_US + 2) is not None
    table.put(7, 3, NOW_US + 2 * TICK_US)
    assert table.find(7, NOW_US + 2 * TICK_US) is not None


def test_numbers_beyond_their_bits_are_cut() -> None:
    table = table_of(slot_count=65520, size_bytes=1 << 20)
    table.put((1 << 64) - 1, 65519, (1 << 63) - 1, model=(1 << 64) - 1, prompt_tokens=(1 << 32) - 1)
    assert table.find((1 << 64) - 1, (1 << 63) - 1) == (65519, 65535, PROMPT_TOKENS_MAX)
    table.put(5, 1, 0)
    assert table.find(5, 0, remembered_s=1e30) == (1, 0, 0)


def test_sessions_spread_over_the_lines() -> None:
    table = table_of(1 << 20)
    for keys in (range(1, 4001), range(1 << 32, 4000 << 32, 1 << 32)):
        counts: dict[int, int] = {}
        for key in keys:
            counts[table.line(key)] = counts.get(table.line(key), 0) + 1
        assert max(counts.values()) <= 8, "a quarter of one on average"


def test_another_process_finds_what_was_put_here() -> None:
    table = table_of()
    table.put(7, 3, NOW_US, prompt_tokens=5)
    body = (
        "from router.native.session import SessionTable\n"
        f"table = SessionTable.attach({table.fd})\n"
        f"assert table.find(7, {NOW_US}) == (3, 0, 5)\n"
        f"table.put(8, 6, {NOW_US})\n"
    )
    subprocess.run([sys.executable, "-c", body], pass_fds=[table.fd], check=True)
    assert table.find(8, NOW_US) == (6, 0, 0)


def test_processes_that_fight_over_a_line_never_show_a_session_elsewhere() -> None:
    table = table_of(_bytes_of_lines(2))
    assert table.set_count == 2
    script = (
        "import sys\nfrom router.native.session import SessionTable\n"
        f"table = SessionTable.attach({table.fd})\nsys.stdin.read(1)\n"
        f"print(table.churn(int(sys.argv[1]), 12, 100_000, {NOW_US}))\n"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script, first],
            pass_fds=[table.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for first in ("1", "7")
    ]
    for other in others:
        assert other.stdin is not None
        other.stdin.write(b"g")
        other.stdin.flush()
    assert [other.communicate()[0] for other in others] == [b"0\n", b"0\n"]


def _bytes_of_lines(count: int, slot_count: int = 32) -> int:
    return 4096 + slot_count * 8 + count * 64


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="slot_count"):
        SessionTable.create(SIZE_BYTES, 0)
    with pytest.raises(ValueError, match="size_bytes"):
        SessionTable.create(4096, 32)
    table = table_of()
    with pytest.raises(IndexError, match="slot 32 of 32"):
        table.put(1, 32, NOW_US)
    with pytest.raises(IndexError, match="slot 32 of 32"):
        table.forget(32, NOW_US)

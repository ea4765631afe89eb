"""The load table alone and between real processes: no kill, crash or race leaks or doubles a charge."""

import math
import os
import signal
import subprocess
import sys

import pytest

from router.native.loadtable import LoadTable

NOW_US = 5_000_000_000
TAU_US = 10_000_000


def spawn(table: LoadTable, body: str) -> subprocess.Popen[bytes]:
    """A separate interpreter that runs `body` with `table` attached."""
    script = "import os, sys\nfrom router.native.loadtable import LoadTable\n" + (
        f"table = LoadTable.attach({table.fd})\n{body}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=[table.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_in_flight_is_the_sum_over_columns() -> None:
    table = LoadTable.create(8, 3)
    for column in (0, 1, 1, 2):
        table.charge(column, 5)
    table.release(1, 5)
    assert table.in_flight(5) == 3
    assert table.in_flight_by_column(5) == [1, 1, 1]
    assert table.in_flight(4) == 0
    assert table.total_in_flight() == 3
    assert table.view(5)["attempts"] == 4


def test_columns_beyond_the_first_word_of_active_columns_count_too() -> None:
    table = LoadTable.create(4, 200)
    for column in (0, 63, 64, 199):
        table.charge(column, 1)
    assert table.in_flight(1) == 4
    assert table.clear_column(199) == 1
    assert table.in_flight(1) == 3


def test_release_without_a_charge_counts_an_underflow_and_stays_at_zero() -> None:
    table = LoadTable.create(4, 2)
    table.charge(0, 1)
    table.release(1, 1)
    assert (table.in_flight(1), table.underflows()) == (1, 1)


def test_slot_and_column_are_bounded() -> None:
    table = LoadTable.create(4, 2)
    for call in (
        lambda: table.charge(2, 0),
        lambda: table.release(0, table.slot_count),
        lambda: table.in_flight(table.slot_count),
        lambda: table.clear_column(2),
        lambda: table.observe_ttft(table.slot_count, 1, 1),
    ):
        with pytest.raises(IndexError):
            call()
    for slot_count, column_count in ((0, 1), (1, 0), (65_536, 1), (1, 257)):
        with pytest.raises(ValueError, match=r"must be 1\.\."):
            LoadTable.create(slot_count, column_count)


def test_attached_table_outlives_the_one_that_made_it() -> None:
    table = LoadTable.create(4, 2)
    other = LoadTable.attach(table.fd)
    table.charge(0, 3)
    del table
    assert other.in_flight(3) == 1


def test_attach_refuses_what_is_no_table() -> None:
    fd = os.memfd_create("other")
    try:
        with pytest.raises(ValueError, match="empty"):
            LoadTable.attach(fd)
        os.truncate(fd, 100)
        with pytest.raises(ValueError, match="hold no header"):
            LoadTable.attach(fd)
        os.truncate(fd, 100_000)
        with pytest.raises(ValueError, match="wrong magic"):
            LoadTable.attach(fd)
        table = LoadTable.create(16, 2)
        header = os.pread(table.fd, 32, 0)
        os.pwrite(fd, header, 0)
        with pytest.raises(ValueError, match="does not fit its segment of 100000"):
            LoadTable.attach(fd)
        os.pwrite(fd, header[:8] + b"\x63" + header[9:], 0)
        with pytest.raises(ValueError, match="layout 99"):
            LoadTable.attach(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        LoadTable.attach(fd)


def test_segment_cannot_change_size_under_its_users() -> None:
    table = LoadTable.create(4, 2)
    for size_bytes in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(table.fd, size_bytes)


def test_first_sample_is_the_estimate_and_later_ones_decay_towards_it_by_time() -> None:
    table = LoadTable.create(4, 1)
    assert table.view(0)["ttft_us"] == 0
    table.observe_ttft(0, 80_000, NOW_US)
    assert table.view(0)["ttft_us"] == 80_000
    table.observe_ttft(0, 20_000, NOW_US + 5_000_000)
    expected = 20_000 + 60_000 * math.exp(-5_000_000 / TAU_US)
    assert table.view(0)["ttft_us"] == pytest.approx(expected, rel=1e-5)
    assert table.view(0)["itl_us"] == 0


def test_samples_of_one_millisecond_all_count() -> None:
    table = LoadTable.create(4, 1)
    table.observe_itl(0, 1000, NOW_US)
    for _ in range(10_000):
        table.observe_itl(0, 2000, NOW_US)
    assert table.view(0)["itl_us"] == pytest.approx(2000 - 1000 * math.exp(-1), rel=1e-2)


def test_a_clock_read_earlier_does_not_turn_the_estimate_over() -> None:
    table = LoadTable.create(4, 1)
    table.observe_ttft(0, 1000, NOW_US)
    table.observe_ttft(0, 9000, NOW_US - 5_000)
    assert table.view(0)["ttft_us"] == pytest.approx(1000, rel=1e-2)
    table.observe_ttft(0, 9000, NOW_US + 60 * TAU_US)
    assert table.view(0)["ttft_us"] == pytest.approx(9000, rel=1e-3)


def test_stamp_wraps_after_49_days_without_a_jump() -> None:
    table = LoadTable.create(4, 1)
    wrap_us = (1 << 32) * 1000
    table.observe_ttft(0, 1000, wrap_us - 1_000_000)
    table.observe_ttft(0, 2000, wrap_us + 1_000_000)
    assert table.view(0)["ttft_us"] == pytest.approx(2000 - 1000 * math.exp(-0.2), rel=1e-4)


def test_one_failure_after_a_quiet_hour_is_not_a_dead_endpoint() -> None:
    table = LoadTable.create(4, 1)
    table.observe_outcome(0, False, NOW_US)
    table.observe_outcome(0, True, NOW_US + 3_600_000_000)
    assert table.view(0)["error_ratio"] == 0.125
    for second in range(200):
        table.observe_outcome(0, True, NOW_US + 3_601_000_000 + second * 1_000_000)
    assert table.view(0)["error_ratio"] == pytest.approx(1, abs=1e-3)


def test_ejection_doubles_with_each_failure_in_a_row_up_to_the_bound() -> None:
    table = LoadTable.create(4, 1)
    now_us, durations_us = NOW_US, []
    for _ in range(70):
        table.eject(1, now_us, 1_000_000, 30_000_000)
        until_us = table.view(1)["ejected_until_us"]
        durations_us.append(until_us - now_us)
        assert table.is_ejected(1, until_us - 1)
        assert not table.is_ejected(1, until_us)
        now_us = until_us
    assert durations_us[:6] == [1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000, 30_000_000]
    assert set(durations_us[5:]) == {30_000_000}
    assert not table.is_ejected(0, NOW_US)


def test_a_burst_of_failures_at_once_is_one_ejection() -> None:
    table = LoadTable.create(4, 1)
    for offset_us in range(100):
        table.eject(1, NOW_US + offset_us, 1_000_000, 30_000_000)
    assert table.view(1)["ejected_until_us"] == NOW_US + 1_000_000


def test_success_readmits_and_ends_the_row() -> None:
    table = LoadTable.create(4, 1)
    table.eject(1, NOW_US, 1_000_000, 30_000_000)
    table.eject(1, NOW_US + 1_000_000, 1_000_000, 30_000_000)
    table.readmit(1)
    assert not table.is_ejected(1, NOW_US + 1_000_001)
    assert table.view(1)["ejected_until_us"] == 0
    table.eject(1, NOW_US + 2_000_000, 1_000_000, 30_000_000)
    assert table.view(1)["ejected_until_us"] == NOW_US + 3_000_000


def test_reset_forgets_everything_but_waits_for_the_last_attempt() -> None:
    table = LoadTable.create(4, 1)
    table.charge(0, 2)
    table.observe_ttft(2, 10, NOW_US)
    table.eject(2, NOW_US, 1_000_000, 30_000_000)
    with pytest.raises(ValueError, match="1 attempts in flight"):
        table.reset_slot(2)
    table.release(0, 2)
    table.reset_slot(2)
    assert set(table.view(2).values()) == {0}


def test_charge_of_one_process_is_seen_by_another_at_once() -> None:
    table = LoadTable.create(4, 2)
    body = """
for line in sys.stdin.buffer:
    slot = int(line)
    seen = table.in_flight(slot)
    table.charge(1, slot)
    os.write(1, b"%d\\n" % seen)
"""
    with spawn(table, body) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for turn in range(50):
            table.charge(0, 3)
            child.stdin.write(b"3\n")
            child.stdin.flush()
            assert int(child.stdout.readline()) == 2 * turn + 1
            assert table.in_flight(3) == 2 * turn + 2


def test_killed_process_leaks_nothing_once_its_column_is_cleared() -> None:
    table = LoadTable.create(4, 2)
    table.charge(0, 2)
    body = """
for slot in (1, 2, 2):
    table.charge(1, slot)
os.write(1, b"held\\n")
while True:
    table.churn(1, 3, 1000)
"""
    with spawn(table, body) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert table.in_flight(2) == 3
        child.send_signal(signal.SIGKILL)
    caught_in_churn = table.in_flight(3)
    assert caught_in_churn in (0, 1)
    assert table.clear_column(1) == 3 + caught_in_churn
    assert table.in_flight_by_column() == [1, 0]
    assert table.in_flight(2) == 1
    assert table.underflows() == 0
    assert table.clear_column(1) == 0


def test_concurrent_processes_end_at_zero() -> None:
    table = LoadTable.create(4, 4)
    body = """
column = int(sys.stdin.readline())
table.churn(column, 0, 200_000)
table.churn(column, column, 1000)
"""
    children = [spawn(table, body) for _ in range(4)]
    for column, child in enumerate(children):
        assert child.stdin is not None
        child.stdin.write(b"%d\n" % column)
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert table.total_in_flight() == 0
    assert table.underflows() == 0
    assert table.view(0)["attempts"] == 4 * 200_000 + 1000
    assert table.view(0)["ttft_us"] == 1000

"""The load table alone and between real processes: no kill, crash or race leaks or doubles a charge."""

import math
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


def test_account_follows_a_charge_from_the_pick_to_the_end() -> None:
    table = LoadTable.create(8, 2)
    charge = table.charge(1, 3, uncached_tokens=700, work_us=45_678, kv_tokens=1_200, now_us=NOW_US)
    view = table.view(3)
    assert (view["in_flight"], view["pending"], view["queued_tokens"]) == (1, 1, 700)
    assert (view["queued_work_us"], view["kv_tokens"]) == (45_670, 1_200)
    assert view["oldest_pending_us"] == NOW_US
    table.first_token(1, charge, NOW_US + 50_000)
    table.first_token(1, charge, NOW_US + 60_000)
    view = table.view(3)
    assert (view["in_flight"], view["pending"], view["queued_tokens"]) == (1, 0, 0)
    assert (view["queued_work_us"], view["kv_tokens"], view["oldest_pending_us"]) == (0, 1_200, 0)
    table.release(1, charge)
    table.release(1, charge)
    table.first_token(1, charge, NOW_US + 70_000)
    assert charge.state == "released"
    assert set(table.view(3).values()) == {0, 1}, "one attempt is remembered"
    assert table.underflows() == 0


def test_what_one_charge_may_claim_is_bounded() -> None:
    table = LoadTable.create(4, 1)
    charge = table.charge(0, 0, uncached_tokens=2**32 - 1, work_us=2**63, kv_tokens=2**32 - 1)
    view = table.view(0)
    assert (view["queued_tokens"], view["kv_tokens"]) == (1 << 22, 1 << 22)
    assert view["queued_work_us"] == (1 << 24) * 10
    table.release(0, charge)
    assert table.view(0)["queued_work_us"] == table.view(0)["kv_tokens"] == 0


def test_oldest_pending_charge_is_known_whoever_leaves_first() -> None:
    table = LoadTable.create(4, 2)
    charges = [table.charge(index % 2, 1, work_us=1000, now_us=NOW_US + index) for index in range(6)]
    for index, oldest in ((2, 0), (0, 1), (5, 1), (1, 3), (4, 3)):
        if index % 2:
            table.first_token(index % 2, charges[index], NOW_US + 10)
        else:
            table.release(index % 2, charges[index])
        assert table.view(1)["oldest_pending_us"] == NOW_US + oldest
    table.release(1, charges[3])
    assert table.view(1)["oldest_pending_us"] == 0


def test_progress_is_of_the_oldest_charge_since_it_began_or_the_last_first_token() -> None:
    table = LoadTable.create(32, 2)
    first = table.charge(0, 20, work_us=100_000, now_us=NOW_US)
    table.charge(1, 20, work_us=300_000, now_us=NOW_US + 10_000)

    def progress_us(now_us: int) -> float:
        (one,) = table.progress_us([20], now_us)
        assert table.progress_us([19, 20, 21], now_us, in_a_row=True) == [0, one, 0]
        return one

    assert progress_us(NOW_US - 5) == 0, "another worker's clock was read earlier"
    assert progress_us(NOW_US + 40_000) == 40_000
    assert progress_us(NOW_US + 900_000) == 100_000, "never more than its work"
    table.first_token(0, first, NOW_US + 120_000)
    assert progress_us(NOW_US + 150_000) == 30_000
    table.first_token(1, table.charge(1, 20, now_us=NOW_US + 150_000), NOW_US + 160_000)
    assert progress_us(NOW_US + 170_000) == 50_000, "an answer without a prompt says nothing of the queue"


def test_account_of_another_replica_counts_and_its_head_does_not() -> None:
    table = LoadTable.create(4, 3)
    table.charge(0, 2, uncached_tokens=100, work_us=2_000, kv_tokens=150, now_us=NOW_US)
    table.set_remote(2, 2, [4, 3, 900, 700, 5_000, 700])
    view = table.view(2)
    assert (view["in_flight"], view["pending"], view["queued_tokens"]) == (5, 4, 1000)
    assert (view["queued_work_us"], view["kv_tokens"]) == (9_000, 5_150)
    assert table.progress_us([2], NOW_US + 10_000) == [2_000]
    table.set_remote(2, 2, [0] * 6)
    assert table.in_flight(2) == 1
    with pytest.raises(ValueError, match="zip"):
        table.set_remote(2, 2, [0] * 5)


def test_what_another_replica_is_expected_to_charge_counts_until_it_is_heard_of() -> None:
    table = LoadTable.create(4, 2)
    table.set_remote(1, 2, [1, 0, 0, 0, 500, 0])
    charge = table.charge(0, 2, uncached_tokens=100, work_us=2_000, kv_tokens=150, now_us=NOW_US)
    table.expect_remote(1, charge)
    view = table.view(2)
    assert (view["in_flight"], view["pending"], view["queued_tokens"]) == (3, 2, 200)
    assert (view["queued_work_us"], view["kv_tokens"]) == (4_000, 800)
    assert table.progress_us([2], NOW_US + 10_000) == [2_000]  # of this router's own only
    table.first_token(0, charge)
    table.expect_remote(1, charge)  # pending no more: the others' will be, or not
    assert table.in_flight(2) == 3
    table.set_remote(1, 2, [2, 1, 300, 100, 900, 100])
    assert table.in_flight(2) == 3 and table.view(2)["kv_tokens"] == 1_050


def test_dead_worker_leaves_no_account() -> None:
    table = LoadTable.create(4, 2)
    body = """
for slot in (1, 2, 2):
    table.charge(1, slot, uncached_tokens=500, work_us=5000, kv_tokens=900, now_us=77)
os.write(1, b"held\\n")
sys.stdin.read()
"""
    with spawn(table, body) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        child.send_signal(signal.SIGKILL)
    assert table.view(2)["queued_tokens"] == 1000
    assert table.view(2)["oldest_pending_us"] == 77
    assert table.clear_column(1) == 3
    for slot in (1, 2):
        assert set(table.view(slot).values()) <= {0, 1, 2}, "attempts alone are left"
        assert table.view(slot)["pending"] == 0


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

"""Signals: what is taken, what it is worth, and the reports that carry it."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Literal

import pytest

from router.native.learner import Learner
from router.native.load_report import read_report
from router.native.loadtable import LoadTable
from router.native.signals import SignalTable
from tests.support.figures import Figures

if TYPE_CHECKING:
    from router.native.learner import LearnerView

SECOND_US = 1_000_000
NOW_US = 100 * SECOND_US


def test_a_signal_carries_its_age_and_its_source() -> None:
    table = SignalTable.create(2)
    assert table.push([(1, "kv", 0.625, NOW_US - 30_000, "poll")], NOW_US) == ["taken"]
    assert table.read(1, NOW_US + 20_000) == {"kv": (0.625, 50_000, "poll")}
    assert table.read(0, NOW_US) == {}


def test_what_is_out_of_range_is_counted_and_not_kept() -> None:
    table = SignalTable.create(1)
    verdicts = table.push(
        [
            (0, "kv", 0.5, NOW_US, "header"),
            (0, "kv", math.nan, NOW_US, "header"),
            (0, "kv", -0.1, NOW_US, "header"),
            (0, "kv", 50.0, NOW_US, "header"),  # percent where a share is meant
            (0, "kv", 0.6, NOW_US + SECOND_US, "header"),
            (0, "kv", 0.7, NOW_US - SECOND_US, "header"),
        ],
        NOW_US,
    )
    assert verdicts == ["taken", "not_a_number", "negative", "too_large", "from_the_future", "out_of_order"]
    assert table.read(0, NOW_US)["kv"] == (0.5, 0, "header")
    assert table.rejected()["header", "negative"] == 1
    assert table.rejected()["poll", "negative"] == 0


def test_a_little_above_a_bound_is_the_bound_and_counted() -> None:
    table = SignalTable.create(1)
    assert table.push([(0, "power", 1.04, NOW_US, "control")], NOW_US) == ["clamped"]
    assert table.read(0, NOW_US)["power"][0] == 1
    assert table.rejected()["control", "clamped"] == 1


def test_a_batch_with_an_unknown_name_is_refused_whole() -> None:
    table = SignalTable.create(1)
    with pytest.raises(ValueError, match="no signal 'mood'; there are waiting"):
        table.push([(0, "kv", 0.5, NOW_US, "poll"), (0, "mood", 0.5, NOW_US, "poll")], NOW_US)
    with pytest.raises(IndexError, match="slot 1 of 1"):
        table.push([(0, "kv", 0.5, NOW_US, "poll"), (1, "kv", 0.5, NOW_US, "poll")], NOW_US)
    assert table.read(0, NOW_US) == {}


def test_processes_share_a_table_and_a_slot_can_be_forgotten() -> None:
    table = SignalTable.create(1)
    fd = os.dup(table.fd)
    other = SignalTable.attach(fd)
    os.close(fd)
    other.push([(0, "health", 1.0, NOW_US, "poll")], NOW_US)
    assert table.read(0, NOW_US)["health"] == (1.0, 0, "poll")
    table.forget(0)
    assert other.read(0, NOW_US) == {}
    load = LoadTable.create(1, 1)
    with pytest.raises(ValueError, match="no signal table"):
        SignalTable.attach(load.fd)


def test_the_least_round_trip_is_the_distance_and_a_busy_moment_is_not() -> None:
    table = SignalTable.create(1)
    for rtt_us in (900, 400, 60_000, 410):
        table.round_trip(0, rtt_us, NOW_US)
    assert table.read(0, NOW_US)["rtt_s"][0] < 0.005
    for _ in range(200):
        table.round_trip(0, 60_000, NOW_US)
    assert table.read(0, NOW_US)["rtt_s"][0] == pytest.approx(0.06, rel=0.01)
    table.round_trip(0, 400, NOW_US)
    rtt_s, *age_and_source = table.read(0, NOW_US)["rtt_s"]
    assert rtt_s == pytest.approx(0.0004, rel=1e-4)
    assert age_and_source == [0, "local"]


class Listening:
    """A learner of one endpoint that listens to signals."""

    def __init__(self, figures: Figures | None = None) -> None:
        self.load = LoadTable.create(1, 1)
        self.learner = Learner.create(self.load.slot_count)
        self.learner.set_figures(0, figures or Figures())
        self.signals = SignalTable.create(self.load.slot_count)
        self.learner.listen(self.signals)

    def tell(self, name: str, value: float, stamp_us: int = NOW_US, source: str = "poll") -> None:
        self.signals.push([(0, name, value, stamp_us, source)], stamp_us)

    def after(self, age_s: float) -> LearnerView:
        return self.learner.view(0, NOW_US + round(age_s * SECOND_US), self.load)


@pytest.mark.parametrize(("name", "barrier"), [("kv", "barrier"), ("power", "power_barrier")])
def test_a_share_near_its_end_raises_a_barrier_that_falls_with_age_and_vanishes(
    name: str, barrier: Literal["barrier", "power_barrier"]
) -> None:
    one = Listening()
    one.tell(name, 0.79)
    assert one.after(0)[barrier] == 0
    one.tell(name, 0.9)
    whole = 0.9 / 0.1 - 0.8 / 0.2
    assert one.after(0)[barrier] == pytest.approx(whole, rel=1e-3)
    assert one.after(2.5)[barrier] == pytest.approx(whole / 2, rel=1e-3)
    assert one.after(5)[barrier] == 0


def test_an_engine_that_says_it_is_empty_does_not_lower_this_routers_own_account() -> None:
    one = Listening(Figures(kv_capacity_tokens=1000))
    one.load.charge(0, 0, kv_tokens=950)
    alone = one.after(0)["barrier"]
    one.tell("kv", 0.1)
    assert one.after(0)["barrier"] == alone > 0
    one.tell("kv", 0.97)
    assert one.after(0)["barrier"] > alone


def test_a_probe_that_failed_counts_as_errors_until_it_is_old() -> None:
    one = Listening()
    one.tell("health", 0)
    assert one.after(0)["error"] == 1
    assert one.after(5)["error"] == pytest.approx(0.5, rel=1e-3)
    assert one.after(10)["error"] == 0


def test_a_measured_distance_replaces_the_configured_one_and_stays() -> None:
    one = Listening(Figures(rtt_s=0.2))
    assert one.after(0)["bias_s"] == pytest.approx(0.2)
    one.signals.round_trip(0, 40_000, NOW_US)
    assert one.after(0)["bias_s"] == pytest.approx(0.04, rel=1e-4)
    assert one.after(3600)["bias_s"] == pytest.approx(0.04, rel=1e-4)


def test_only_what_others_have_there_is_added_and_it_is_forgotten_quickly() -> None:
    signals = SignalTable.create(1)
    signals.push([(0, "waiting", 12, NOW_US, "poll"), (0, "running", 30, NOW_US, "poll")], NOW_US)
    told = signals.weigh(0, NOW_US, in_flight=25, pending=8)
    assert (told["others_waiting"], told["others_running"]) == (4, 13)
    assert signals.weigh(0, NOW_US, in_flight=60, pending=20)["others_waiting"] == 0
    later = signals.weigh(0, NOW_US + 200_000, in_flight=25, pending=8)
    assert later["others_waiting"] == pytest.approx(4 / math.e, rel=1e-3)
    assert signals.weigh(0, NOW_US + SECOND_US, in_flight=25, pending=8)["others_waiting"] == 0


def test_what_was_sent_since_a_signal_is_not_counted_twice() -> None:
    """The queue is told once; requests that come after it raise the account, not what others have."""
    one = Listening()
    one.tell("running", 20)
    before = one.after(0)["others_s"]
    assert before > 0
    for _ in range(10):
        one.load.charge(0, 0)
    assert one.after(0.05)["others_s"] == pytest.approx(before * math.exp(-0.25), rel=1e-3)
    one.tell("running", 30, NOW_US + 60_000)
    assert one.after(0.06)["others_s"] == pytest.approx(before, rel=1e-3)


def test_a_view_is_partial_when_others_were_there_and_nobody_tells_of_them_any_more() -> None:
    one, age_s = Listening(), 0.0
    for _ in range(200):  # told of ten requests of others while it has two of its own
        one.tell("running", 12, NOW_US + round(age_s * SECOND_US))
        assert not one.after(age_s)["is_partial"]
        one.load.charge(0, 0)
        one.load.charge(0, 0)
        one.after(age_s + 0.02)
        one.load.release(0, 0)
        one.load.release(0, 0)
        age_s += 0.05
    assert not one.after(age_s + 1.5)["is_partial"]
    assert one.after(age_s + 3)["is_partial"]
    one.tell("waiting", 0, NOW_US + round((age_s + 4) * SECOND_US))
    assert not one.after(age_s + 4)["is_partial"]  # told again
    assert one.after(age_s + 7)["is_partial"]
    assert not one.after(age_s + 4000)["is_partial"]


def test_a_late_first_token_is_no_surprise_where_others_send_too() -> None:
    ratio, residuals = 10, []
    for is_told in (False, True):
        one = Listening()
        for number in range(100 if is_told else 0):
            one.tell("running", 12, NOW_US + number * 20_000)
            one.after(number * 0.02)
        predicted_s = one.learner.predict(0, 0, 2)
        one.learner.first_token(0, ratio * predicted_s, NOW_US + 2 * SECOND_US, queued_s=0, work_s=2)
        residuals.append(one.after(2)["residual"])
    assert residuals[0] > 5
    assert 1 < residuals[1] < ratio**0.16


def test_a_router_that_is_alone_or_was_never_told_of_queues_sees_all_there_is() -> None:
    never, alone = Listening(), Listening()
    for number in range(200):
        never.tell("kv", 0.9, NOW_US + number * 50_000)
        alone.tell("running", 2, NOW_US + number * 50_000)
        for one in (never, alone):
            if number == 0:
                one.load.charge(0, 0)
                one.load.charge(0, 0)
            one.after(number * 0.05)
    for one in (never, alone):
        assert not one.after(15)["is_partial"]


def test_signals_teach_nothing_about_the_engine() -> None:
    told, alone = Listening(), Listening()
    told.tell("running", 500)
    for one in (told, alone):
        one.after(0)
        one.learner.first_token(0, 0.5, NOW_US, queued_s=0, work_s=0.1)
    assert told.after(0)["residual"] == alone.after(0)["residual"]


@pytest.mark.parametrize(
    ("text", "waiting", "kv"),
    [
        (b"TEXT named_metrics.num_requests_waiting=3.0, named_metrics.kv_cache_usage_perc=0.25", 3, 0.25),
        (b"TEXT named_metrics.kv_cache_utilization=0.5,named_metrics.max_token_capacity=9000", None, 0.5),
        (b'JSON {"named_metrics": {"num_requests_waiting": 3.0, "kv_cache_usage_perc": 2.5e-1}}', 3, 0.25),
        (
            b'JSON {"cpu_utilization":0.3,"utilization":{"kv_cache_usage_perc":9},"kv_cache_usage_perc":0}',
            None,
            0,
        ),
    ],
)
def test_reports_of_vllm_and_triton_are_read(text: bytes, waiting: float | None, kv: float) -> None:
    assert read_report(text) == (waiting, None, kv)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"TEXT",
        b"BIN AAAA",
        b"TEXT kv_cache_usage_perc",
        b"TEXT kv_cache_usage_perc=",
        b"TEXT kv_cache_usage_perc=full",
        b"TEXT kv_cache_usage_perc=0.5 0.6",
        b"TEXT kv_cache_usage_perc=0.5,",
        b"TEXT cpu_utilization=0.5",
        b'JSON {"named_metrics": {"kv_cache_usage_perc": 0.5}',
        b'JSON {"named_metrics": {"kv_cache_usage_perc": "0.5"}}',
        b'JSON {"kv_cache_usage_perc": 0.5}}',
        b'JSON {"kv_cache_usage_perc": 0.5',
        b'JSON ["kv_cache_usage_perc", 0.5]',
        b"TEXT " + b"x=1," * 1024 + b"kv_cache_usage_perc=0.5",
    ],
)
def test_a_malformed_report_counts_not_at_all(text: bytes) -> None:
    assert read_report(text) is None


def test_a_report_may_say_what_is_no_number_and_the_table_will_not_have_it() -> None:
    found = read_report(b'JSON {"named_metrics": {"kv_cache_usage_perc": NaN}}')
    assert found is not None
    assert found[2] is not None
    assert math.isnan(found[2])

"""The signal table and load reports against their oracle, under values and clocks of every kind."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.learner import Learner
from router.native.load_report import read_report
from router.native.loadtable import LoadTable
from router.native.signals import SIGNALS, SOURCES, VERDICTS, SignalTable
from tests.oracle import signals as oracle
from tests.support.figures import Figures

START_US = 10_000_000

odd = st.sampled_from(
    [math.nan, math.inf, -math.inf, -0.0, -1e-9, 1.0, 1.1, 1.25, 1.26, 60.0, 75.1, 1e6, 1.3e6]
)
values = st.floats(0, 1, width=32) | st.floats(width=32) | odd
pushes = st.lists(
    st.tuples(
        st.sampled_from(SIGNALS),
        values,
        st.integers(-20_000_000, 20_000),  # the stamp, from when it is written
        st.sampled_from(SOURCES),
        st.integers(0, 700_000),  # until then
    ),
    max_size=40,
)


@given(pushes, st.integers(0, 12_000_000), st.integers(0, 50), st.integers(0, 50))
def test_what_is_kept_and_what_it_is_worth_are_the_oracles(
    history: list[tuple[str, float, int, str, int]], later_us: int, in_flight: int, decoding: int
) -> None:
    table, row, now_us = SignalTable.create(2), oracle.Row(), START_US
    counts: dict[tuple[str, str], int] = {}
    for name, value, stamp_us, source, gap_us in history:
        now_us += gap_us
        expected = row.push(name, value, max(0, now_us + stamp_us), source, now_us)
        assert table.push([(1, name, value, now_us + stamp_us, source)], now_us) == [expected]
        if expected != "taken":
            counts[source, expected] = counts.get((source, expected), 0) + 1
    now_us += later_us
    read = table.read(1, now_us)
    assert {name: (age_us, source) for name, (_value, age_us, source) in read.items()} == {
        name: (max(0, now_us - stamp_ms * 1000), source)
        for name, (_value, stamp_ms, source) in row.told.items()
    }
    for name, (value, _age_us, _source) in read.items():
        assert value == pytest.approx(row.told[name][0], rel=1e-5, abs=1e-37)
    assert {key: count for key, count in table.rejected().items() if count} == counts
    assert table.read(0, now_us) == {}

    told = table.weigh(1, now_us, in_flight=in_flight, pending=max(0, in_flight - decoding))
    assert told["kv_weight"] == pytest.approx(row.weight("kv", now_us), abs=1e-5)
    assert told["power_weight"] == pytest.approx(row.weight("power", now_us), abs=1e-5)
    health = row.told.get("health", (1.0,))[0]
    assert told["sickness"] == pytest.approx((1 - health) * row.weight("health", now_us), abs=1e-5)
    assert told["rtt_s"] == pytest.approx(row.told.get("rtt_s", (-1.0,))[0], rel=1e-5, abs=1e-37)
    others = row.others(in_flight, max(0, in_flight - decoding), now_us)
    assert (told["others_waiting"], told["others_running"]) == pytest.approx(others, rel=1e-3, abs=1e-3)


@given(pushes, st.integers(0, 3_000_000))
def test_whatever_is_told_rows_are_finite_and_never_better_than_accounts_alone(
    history: list[tuple[str, float, int, str, int]], later_us: int
) -> None:
    """But for the distance, which a measurement may find to be less than was configured."""
    load = LoadTable.create(16, 1)
    learners = []
    for _ in range(2):
        learner = Learner.create(load.slot_count)
        learner.set_figures(0, Figures())
        learners.append(learner)
    told, alone = learners
    signals = SignalTable.create(load.slot_count)
    told.listen(signals)
    for _ in range(3):
        load.charge(0, 0, prompt_tokens=100_000, uncached_tokens=100_000, kv_tokens=115_000, work_us=1000)
    now_us = START_US
    for name, value, stamp_us, source, gap_us in history:
        now_us += gap_us
        signals.push([(0, name, value, now_us + stamp_us, source)], now_us)
        view, own = told.view(0, now_us + later_us, load), alone.view(0, now_us + later_us, load)
        assert all(math.isfinite(number) for number in view.values() if isinstance(number, float))
        assert view["barrier"] >= own["barrier"]
        assert view["power_barrier"] >= own["power_barrier"] == 0
        assert view["error"] >= own["error"]
        assert view["bias_s"] >= view["others_s"] >= 0
    assert (
        told.view(0, now_us + 30_000_000, load)["barrier"]
        == alone.view(0, now_us + 30_000_000, load)["barrier"]
    )


numbers = st.floats(0, 1e6).map(lambda number: round(number, 4)) | st.integers(0, 999)
others = st.dictionaries(
    st.sampled_from(["cpu_utilization", "eps", "rps_fractional", "x.y"]), numbers, max_size=3
)
names = ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc")
known = st.dictionaries(st.sampled_from(names), numbers, min_size=1)
spaces = st.sampled_from(["", " ", "  "])


def plain(found: tuple[float | None, ...] | None) -> list[float]:
    assert found is not None
    return [-1.0 if number is None else number for number in found]


@given(others, known, spaces)
def test_reports_in_text_are_read_as_the_oracle_reads_them(
    outer: dict[str, float], named: dict[str, float], space: str
) -> None:
    pairs = [f"{name}={number}" for name, number in outer.items()]
    pairs += [f"named_metrics.{name}={number!r}" for name, number in named.items()]
    text = ("TEXT " + f",{space}".join(pairs)).encode()
    assert plain(read_report(text)) == pytest.approx(plain(oracle.read_report(text)), rel=1e-5)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(others, known, junk, st.booleans())
def test_reports_in_json_are_read_as_the_oracle_reads_them(
    outer: dict[str, float], named: dict[str, float], rest: object, compact: bool
) -> None:
    report = {"application": rest, **outer, "named_metrics": named}
    separators = (",", ":") if compact else (", ", ": ")
    text = ("JSON " + json.dumps(report, separators=separators)).encode()
    assert plain(read_report(text)) == pytest.approx(plain(oracle.read_report(text)), rel=1e-5)


@given(st.binary(max_size=60) | st.text(alphabet='{}":,=.- 0123nae_', max_size=60).map(str.encode))
def test_any_bytes_are_a_report_or_none(text: bytes) -> None:
    for form in (b"", b"TEXT ", b"JSON ", b"JSON {", b'JSON {"named_metrics": {"kv_cache_usage_perc": '):
        found = read_report(form + text)
        assert found is None or any(number is not None for number in found)


def test_every_verdict_has_a_name() -> None:
    assert len(VERDICTS) == 8
    assert len(set(SignalTable.create(1).rejected())) == len(SOURCES) * (len(VERDICTS) - 1)

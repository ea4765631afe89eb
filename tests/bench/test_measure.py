"""How readings become a figure: clocks, starving, pairing, spread."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from bench.measure import (
    Meter,
    Reading,
    Series,
    Slice,
    SliceFailed,
    SliceLost,
    children,
    memory_bytes,
    paired_ratios,
    process_cpu_ns,
    quartiles,
    rss_bytes,
    summarise,
    take_rounds,
)


def make_slice(value: float, starved_ratio: float = 0.0) -> Slice:
    return Slice(value=value, unit_count=10, wall_s=1.0, starved_ratio=starved_ratio, busy_ratio=0.5)


def scripted(values: dict[str, list[Slice]], order: list[str]) -> Callable[[str], Slice]:
    def take(name: str) -> Slice:
        order.append(name)
        return values[name].pop(0)

    return take


def test_process_clocks_tell_of_this_process_and_not_of_one_that_is_gone() -> None:
    before = process_cpu_ns(os.getpid())
    sum(range(100_000))
    assert process_cpu_ns(os.getpid()) > before > 0
    assert process_cpu_ns(2**22 + 1) == 0
    assert rss_bytes([os.getpid()]) >= memory_bytes([os.getpid()]) > 0


def test_children_are_found_through_generations() -> None:
    assert os.getpid() in children(os.getppid())


def test_rounds_interleave_and_nobody_is_always_first() -> None:
    order: list[str] = []
    values = {name: [make_slice(1.0) for _ in range(3)] for name in "abc"}
    take_rounds(["a", "b", "c"], 3, scripted(values, order))
    assert "".join(order) == "abcbcacab"


def test_starved_slice_is_taken_again_and_counted() -> None:
    values = {"a": [make_slice(9.0, 0.5), make_slice(1.0), make_slice(1.2), make_slice(1.1)]}
    series = take_rounds(["a"], 3, scripted(values, []))
    assert [one.value for one in series["a"].kept.values()] == [1.0, 1.2, 1.1]
    summary = summarise(series, "a")["a"]
    assert not isinstance(summary, str)
    assert (summary.value, summary.kept_count, summary.discarded_count, summary.is_starved) == (
        1.1,
        3,
        1,
        False,
    )


def test_where_all_is_starved_the_least_starved_are_used_and_marked() -> None:
    starved = [0.9, 0.3, 0.8, 0.2]
    values = {"a": [make_slice(10 * ratio, ratio) for ratio in starved]}
    series = take_rounds(["a"], 2, scripted(values, []), retakes_max=2)
    summary = summarise(series, "a")["a"]
    assert not isinstance(summary, str)
    assert (summary.value, summary.is_starved) == (3.0, True)


def test_retakes_of_a_busy_machine_are_bounded() -> None:
    order: list[str] = []
    values = {name: [make_slice(1.0, 0.9) for _ in range(100)] for name in "ab"}
    take_rounds(["a", "b"], 4, scripted(values, order), retakes_max=3)
    assert len(order) == 2 * 2 * 4


def test_slice_that_the_machine_lost_is_taken_again() -> None:
    slices = [make_slice(1.0), make_slice(2.0), make_slice(3.0)]

    def take(name: str) -> Slice:
        if len(slices) == 2 and not lost:
            lost.append(name)
            raise SliceLost
        return slices.pop()

    lost: list[str] = []
    summary = summarise(take_rounds(["a"], 3, take), "a")["a"]
    assert not isinstance(summary, str)
    assert (summary.value, summary.kept_count, summary.discarded_count) == (2.0, 3, 1)


def test_failed_proxy_takes_no_further_part() -> None:
    def take(name: str) -> Slice:
        raise SliceFailed("status")

    series = take_rounds(["a"], 5, take)
    assert summarise(series, "a") == {"a": "status"}


def test_ratios_are_paired_within_a_round() -> None:
    base = Series(kept={0: make_slice(10.0), 1: make_slice(20.0), 2: make_slice(30.0), 3: make_slice(1.0)})
    mine = Series(kept={0: make_slice(5.0), 1: make_slice(10.0), 2: make_slice(15.0)})
    assert paired_ratios(mine, base) == ([0.5, 0.5, 0.5], True)


def test_too_few_clean_pairs_are_filled_up_with_the_least_starved_of_each_round() -> None:
    starved = [(1, make_slice(90.0, 0.9)), (1, make_slice(20.0, 0.1)), (2, make_slice(30.0, 0.2))]
    base = Series(kept={0: make_slice(10.0)}, discarded=starved)
    mine = Series(kept={0: make_slice(5.0), 1: make_slice(10.0), 2: make_slice(15.0)})
    assert paired_ratios(mine, base) == ([0.5, 0.5, 0.5], False)


def test_quartiles_of_one_and_of_many() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("shares_core", "expected"),
    [(False, 0.4), (True, 0.1)],
    ids=["own core: any wait", "shared core: only what the other of the two does not explain"],
)
def test_waiting_for_each_other_on_one_core_is_not_starving(shares_core: bool, expected: float) -> None:
    meter = Meter(data_pids=[], other_pids=[], cpu=0, shares_core=shares_core)
    zero = Reading(
        at_ns=0, cpu_ns=0, other_cpu_ns=0, wait_ns=0, load_cpu_ns=0, load_wait_ns=0, stolen_ticks=0
    )
    later = Reading(
        at_ns=1000,
        cpu_ns=500,
        other_cpu_ns=0,
        wait_ns=400,
        load_cpu_ns=300,
        load_wait_ns=350,
        stolen_ticks=0,
    )
    assert meter.starved_ratio(zero, later) == pytest.approx(expected)

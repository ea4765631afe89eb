"""Reports of routers become windows: what is new since the last look, by version and route."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.collect import EVERY_ROUTE, Collector, Window, sum_windows
from router import limits
from router.schema.link import Report, RouteCounts

BOUNDS = (1000, 2000)


def row(
    requests: int, *, version: int = 1, route: str = "chat", faults: int = 0, tokens: int = 0
) -> RouteCounts:
    return RouteCounts(
        route=route,
        version=version,
        requests=requests,
        faults=faults,
        output_tokens=tokens,
        cost_nano=2 * tokens,
        ttft_us=(requests, 0, 0) if requests else (),
    )


def report(*rows: RouteCounts, bounds: tuple[int, ...] = BOUNDS) -> Report:
    return Report(sequence=1, uptime_ms=1, bucket_bounds_us=bounds, routes=rows, endpoints=())


def requests(windows: dict[str, Window], route: str = EVERY_ROUTE) -> int:
    return windows[route].requests if route in windows else 0


def test_only_what_is_new_since_the_first_report_counts() -> None:
    collector = Collector(interval_s=0.0)
    collector.observe("a", "a1", report(row(100)), 0.0)
    collector.observe("a", "a1", report(row(107, faults=2)), 1.0)
    collector.advance(1.0)
    window = collector.since_mark(1)[EVERY_ROUTE]
    assert (window.requests, window.faults, window.ttft_us) == (7, 2, (7, 0, 0))


def test_a_lost_report_loses_nothing_and_one_that_comes_twice_adds_nothing() -> None:
    collector = Collector(interval_s=0.0)
    for now_s, count in enumerate((0, 5, 9, 9)):
        collector.observe("a", "a1", report(row(count)), now_s)
    collector.advance(4.0)
    collector.advance(5.0)
    assert requests(collector.since_mark(1)) == 9


def test_routers_and_routes_are_added_up_and_versions_are_not() -> None:
    collector = Collector(interval_s=0.0)
    for name in ("a", "b"):
        collector.observe(name, name, report(), 0.0)
        collector.observe(name, name, report(row(3), row(4, route="code"), row(5, version=2)), 1.0)
    collector.advance(1.0)
    assert requests(collector.since_mark(1)) == 14
    assert requests(collector.since_mark(1), "code") == 8
    assert requests(collector.since_mark(2)) == 10
    assert requests(collector.since_mark(3)) == 0


def test_a_mark_begins_anew_and_lately_does_not_mind() -> None:
    collector = Collector(interval_s=0.0)
    collector.observe("a", "a1", report(), 0.0)
    collector.observe("a", "a1", report(row(3)), 1.0)
    collector.mark(1.0)
    collector.observe("a", "a1", report(row(8)), 2.0)
    collector.advance(2.0)
    assert requests(collector.since_mark(1)) == 5
    assert requests(collector.lately(1)) == 8
    assert requests(collector.lately(1, 1)) == 5


def test_each_router_is_added_in_its_own_time_and_what_waits_at_a_mark_is_left_out() -> None:
    collector = Collector(interval_s=5.0)
    for now_s in range(8):
        collector.observe("a", "a1", report(row(now_s)), now_s)
    collector.advance(7.0)
    assert requests(collector.since_mark(1)) == 5
    collector.mark(7.0)
    for now_s in range(8, 13):
        collector.observe("a", "a1", report(row(now_s)), now_s)
    collector.forget("a1")
    collector.advance(13.0)
    assert requests(collector.since_mark(1)) == 5


def test_a_process_that_is_new_counts_from_its_first_report_on() -> None:
    collector = Collector(interval_s=0.0)
    collector.observe("a", "a1", report(), 0.0)
    collector.observe("a", "a1", report(row(3)), 1.0)
    collector.forget("a1")
    collector.observe("a", "a2", report(row(40)), 2.0)
    collector.observe("a", "a2", report(row(41)), 3.0)
    collector.advance(3.0)
    assert requests(collector.since_mark(1)) == 4


def test_counts_that_fall_begin_anew() -> None:
    collector = Collector(interval_s=0.0)
    collector.observe("a", "a1", report(row(50)), 0.0)
    collector.observe("a", "a1", report(row(2)), 1.0)
    collector.advance(1.0)
    assert requests(collector.since_mark(1)) == 0
    collector.observe("a", "a1", report(row(6)), 2.0)
    collector.advance(2.0)
    assert requests(collector.since_mark(1)) == 4
    assert [seen.began_anew_count for seen in collector.describe()] == [1]


def test_a_silent_router_is_shown_and_what_it_counted_meanwhile_is_left_out() -> None:
    collector = Collector(interval_s=0.0)
    silence_s = limits.REPORT_SILENCE_MS / 1000
    collector.observe("a", "a1", report(), 0.0)
    collector.observe("b", "b1", report(), silence_s)
    collector.advance(silence_s + 1)
    assert [(seen.router, seen.is_silent) for seen in collector.describe()] == [("a", True), ("b", False)]
    collector.observe("a", "a1", report(row(900)), silence_s + 2)
    collector.observe("a", "a1", report(row(901)), silence_s + 3)
    collector.advance(silence_s + 3)
    assert requests(collector.since_mark(1)) == 1
    assert not any(seen.is_silent for seen in collector.describe())


def test_a_row_that_is_not_reported_for_a_while_is_not_counted_twice() -> None:
    collector = Collector(interval_s=0.0)
    for now_s, rows in enumerate(((), (row(5),), (), (row(6),))):
        collector.observe("a", "a1", report(*rows), now_s)
        collector.advance(now_s)
    assert requests(collector.since_mark(1)) == 6


def test_histograms_of_another_release_are_left_out_and_its_counts_are_not() -> None:
    collector = Collector(interval_s=0.0)
    for name, bounds in (("a", BOUNDS), ("b", (500, 700))):
        collector.observe(name, name, report(bounds=bounds), 0.0)
        collector.observe(name, name, report(row(3), bounds=bounds), 1.0)
    collector.advance(1.0)
    window = collector.since_mark(1)[EVERY_ROUTE]
    assert (window.requests, window.ttft_us) == (6, (3, 0, 0))
    assert [seen.has_other_bounds for seen in collector.describe()] == [False, True]


def test_routers_are_bounded_and_the_one_heard_longest_ago_gives_way() -> None:
    collector = Collector(interval_s=0.0)
    for number in range(limits.LINK_ROUTERS_MAX + 1):
        collector.observe("r", f"r{number}", report(), number)
    assert len(collector.describe()) == limits.LINK_ROUTERS_MAX
    assert min(seen.heard_s for seen in collector.describe()) == 1


def test_what_costs_are_judged_by_adds_up() -> None:
    collector = Collector(interval_s=0.0)
    for now_s, tokens in enumerate((0, 10, 30)):
        collector.observe("a", "a1", report(row(1 + now_s, tokens=tokens)), now_s)
        collector.advance(now_s)
    window = collector.since_mark(1)[EVERY_ROUTE]
    assert (window.tokens, window.cost_nano, window.batch_count) == (30, 60, 2)
    assert (window.tokens_squared, window.cost_by_tokens, window.cost_squared) == (500, 1000, 2000)


def test_a_window_can_be_stored() -> None:
    window = Window(requests=3, bounds_us=BOUNDS, ttft_us=(1, 2, 0), cost_squared=1.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(window), type=Window) == window
    assert sum_windows([window, window]).ttft_us == (2, 4, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a1", "a2", "b1"]),
            st.lists(st.integers(0, 50), min_size=3, max_size=3),
            st.floats(0, 15),
            st.sampled_from(["", "advance", "mark", "forget"]),
        ),
        max_size=40,
    )
)
def test_nothing_negative_is_ever_counted(steps: list[tuple[str, list[int], float, str]]) -> None:
    collector = Collector(interval_s=0.0)
    now_s = 0.0
    for instance, counts, pause_s, then in steps:
        now_s += pause_s
        rows = RouteCounts(
            route="chat",
            version=1,
            requests=sum(counts),
            faults=counts[0],
            ttft_us=tuple(counts),
            itl_us=tuple(reversed(counts)),
        )
        collector.observe(instance[0], instance, report(rows), now_s)
        if then == "advance":
            collector.advance(now_s)
        elif then == "mark":
            collector.mark(now_s)
        elif then == "forget":
            collector.forget(instance)
        for window in (collector.since_mark(1)[EVERY_ROUTE], collector.lately(1)[EVERY_ROUTE]):
            assert min(window.requests, window.faults, *window.ttft_us, *window.itl_us, 0) == 0


@pytest.mark.parametrize("counts", [(1,), (1, 2), (1, 2, 3, 4)])
def test_a_histogram_that_does_not_fit_its_bounds_is_left_out(counts: tuple[int, ...]) -> None:
    collector = Collector(interval_s=0.0)
    collector.observe("a", "a1", report(), 0.0)
    odd = RouteCounts(route="chat", version=1, requests=4, faults=0, ttft_us=counts)
    collector.observe("a", "a1", report(odd), 1.0)
    collector.advance(1.0)
    window = collector.since_mark(1)[EVERY_ROUTE]
    assert (window.requests, window.ttft_us) == (4, ())

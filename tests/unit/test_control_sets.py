"""The board: what fails keeps its set, what goes away in a mass is held, what is new counts at once."""

from msgspec import structs

from control.discovery.sets import (
    Board,
    Confirm,
    Drain,
    EndpointSet,
    Event,
    HoldRule,
    Retain,
    Tick,
    fold,
    held,
)
from router import limits
from router.schema.config import Endpoint

EIGHT = tuple("abcdefgh")


def of(*hosts: str, source: str = "dns", at_s: float = 1.0, removed: tuple[str, ...] = ()) -> EndpointSet:
    endpoints = tuple(Endpoint(url=f"http://{host}:1", name=host) for host in hosts)
    return EndpointSet(source=source, pool="p", endpoints=endpoints, at_s=at_s, removed=frozenset(removed))


def failed(source: str = "dns", at_s: float = 2.0, reason: str = "no answer") -> EndpointSet:
    return EndpointSet(source=source, pool="p", endpoints=(), at_s=at_s, is_stale=True, reason=reason)


def after(*events: Event, rule: HoldRule = HoldRule()) -> Board:  # noqa: B008 - never changes
    board = Board(rule=rule)
    for event in events:
        board = fold(board, event)
    return board


def names(board: Board, source: str = "dns") -> str:
    return "".join(endpoint.name for endpoint in board.sources[source].endpoints)


def test_a_source_that_fails_keeps_its_last_set_and_is_stale_since_the_first_failure() -> None:
    board = after(of(*EIGHT), failed(at_s=5.0), failed(at_s=9.0, reason="still none"))
    state = board.sources["dns"]
    assert names(board) == "abcdefgh"
    assert (state.is_stale, state.stale_since_s, state.reason, state.told_s) == (True, 5.0, "still none", 1.0)
    state = fold(board, of(*EIGHT, at_s=10.0)).sources["dns"]
    assert (state.is_stale, state.reason, state.told_s) == (False, "", 10.0)


def test_what_is_remembered_of_a_source_counts_until_it_tells() -> None:
    remembered = structs.replace(of("a", "b"), is_stale=True, reason="not heard yet")
    board = after(remembered, failed())
    assert names(board) == "ab"
    assert board.sources["dns"].reason == "no answer"
    assert names(fold(board, of("a", "c"))) == "ac"
    assert names(fold(fold(board, of("a")), remembered)) == "a"


def test_few_that_go_away_go_at_once() -> None:
    assert names(after(of(*EIGHT), of("a", "b", "c", "d"))) == "abcd"
    assert names(after(of("a", "b"), of("a"))) == "a"


def test_a_mass_that_goes_away_is_held_and_what_is_new_comes_in_at_once() -> None:
    board = after(of(*EIGHT), of("a", "b", "c", "x", at_s=3.0))
    assert names(board) == "abcdefghx"
    assert held(board) == {"dns": ("d", "e", "f", "g", "h")}
    assert board.sources["dns"].held_since_s["d"] == 3.0


def test_all_that_go_away_are_held_however_few_they_were() -> None:
    assert held(after(of("a"), of())) == {"dns": ("a",)}
    assert held(after(of("a", "b"), of("c", "d"))) == {"dns": ("a", "b")}


def test_an_operator_confirms_what_is_held() -> None:
    board = after(of(*EIGHT), of("a"), Confirm(source="dns"), Confirm(source="unknown"))
    assert (names(board), held(board)) == ("a", {})
    assert names(fold(board, of("a", at_s=9.0))) == "a"


def test_what_comes_back_is_held_no_more_and_keeps_its_newest_definition() -> None:
    board = after(of(*EIGHT), of("a"), of(*EIGHT[:3]))
    assert held(board) == {"dns": ("d", "e", "f", "g", "h")}
    changed = Endpoint(url="http://d:2", name="d")
    board = fold(board, structs.replace(of(*EIGHT[:3]), endpoints=(*of(*EIGHT[:3]).endpoints, changed)))
    assert (names(board), held(board)) == ("abcd", {})  # half are gone, which is no mass
    assert board.sources["dns"].endpoints[3].url == "http://d:2"


def test_what_is_held_goes_by_itself_only_after_the_time_set_and_only_while_its_source_is_well() -> None:
    rule = HoldRule(confirm_after_s=60.0)
    board = after(of(*EIGHT), of("a", at_s=10.0), Tick(at_s=69.0), rule=rule)
    assert names(board) == "abcdefgh"
    assert names(fold(board, Tick(at_s=70.0))) == "a"
    board = fold(fold(board, failed(at_s=69.5)), Tick(at_s=500.0))
    assert names(board) == "abcdefgh"
    assert names(fold(fold(board, of("a", at_s=501.0)), Tick(at_s=501.0))) == "a"
    assert names(after(of(*EIGHT), of("a"), Tick(at_s=1e9))) == "abcdefgh"


def test_what_joins_the_held_later_is_held_as_long() -> None:
    rule = HoldRule(confirm_after_s=60.0)
    board = after(of(*EIGHT), of("a", "b", at_s=10.0), of("a", at_s=40.0), Tick(at_s=70.0), rule=rule)
    assert held(board) == {"dns": ("b",)}


def test_the_threshold_can_be_set() -> None:
    assert names(after(of(*EIGHT), of("a"), rule=HoldRule(ratio=0.9))) == "a"
    assert held(after(of("a", "b"), of("a"), rule=HoldRule(ratio=0.1, count_min=2))) == {"dns": ("b",)}


def test_what_somebody_took_out_is_not_held() -> None:
    board = after(of("a", "b"), of(removed=("a", "b")))
    assert (names(board), held(board)) == ("", {})
    board = after(of(*EIGHT), of("a", removed=("b",)))
    assert held(board) == {"dns": ("c", "d", "e", "f", "g", "h")}


def test_a_set_that_is_too_large_is_refused_whole() -> None:
    many = tuple(f"n{number}" for number in range(limits.ENDPOINTS_MAX + 1))
    board = after(of("a"), of(*many))
    assert names(board) == "a"
    assert board.sources["dns"].reason == "4097 endpoints; at most 4096 are taken"


def test_a_source_that_is_no_more_takes_its_endpoints_along() -> None:
    board = after(of("a"), of("b", source="file"), Retain(sources=frozenset(("file",))))
    assert list(board.sources) == ["file"]


def test_a_source_that_feeds_another_pool_now_begins_anew() -> None:
    board = after(of(*EIGHT), structs.replace(of("x"), pool="q"))
    assert (names(board), board.sources["dns"].pool, held(board)) == ("x", "q", {})


def test_a_drain_can_be_taken_back_and_a_source_may_drain_too() -> None:
    board = after(of("a", "b"), Drain(endpoint="a"))
    assert board.draining() == {"a"}
    told = structs.replace(of("a", "b"), draining=frozenset("b"))
    assert fold(board, told).draining() == {"a", "b"}
    assert fold(board, Drain(endpoint="a", is_draining=False)).draining() == frozenset()


def test_drains_are_bounded() -> None:
    board = Board(drained=frozenset(map(str, range(limits.ENDPOINTS_MAX))))
    assert fold(board, Drain(endpoint="one more")) is board


def test_boards_count_as_the_same_while_only_their_health_differs() -> None:
    board = after(of("a", "b"))
    assert fold(board, failed()).counts_as(board)
    assert fold(board, of("b", "a", at_s=7.0)).counts_as(board)
    assert fold(board, of(source="file")).counts_as(board)
    assert not fold(board, of("a")).counts_as(board)
    assert not fold(board, Drain(endpoint="a")).counts_as(board)

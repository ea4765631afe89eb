"""Whatever sources tell, in any order: nothing of a live source is lost, and no failure empties a pool."""

from hypothesis import given
from hypothesis import strategies as st

from control.discovery.merge import merged
from control.discovery.sets import Board, Confirm, EndpointSet, Event, HoldRule, Tick, fold
from router.schema.config import Endpoint, Pool
from router.schema.policy_document import PolicyDocument

HOSTS = [f"h{number}" for number in range(12)]
SOURCES = ["dns", "file", "http"]

hosts = st.lists(st.sampled_from(HOSTS), max_size=12)


ENDPOINTS = {name: Endpoint(url=f"http://{name}:1") for name in (*HOSTS, "static")}


def endpoints(names: list[str]) -> tuple[Endpoint, ...]:
    return tuple(ENDPOINTS[name] for name in names)


def told(source: str, names: list[str], is_stale: bool) -> EndpointSet:
    return EndpointSet(
        source=source, pool="p", endpoints=endpoints(names), at_s=0.0, is_stale=is_stale, reason="it says so"
    )


sets = st.builds(told, st.sampled_from(SOURCES), hosts, st.booleans())
events: st.SearchStrategy[Event] = (
    sets | st.builds(Confirm, source=st.sampled_from(SOURCES)) | st.builds(Tick, at_s=st.floats(0, 100))
)
rules = st.builds(
    HoldRule,
    ratio=st.floats(0.1, 1),
    count_min=st.integers(1, 8),
    confirm_after_s=st.none() | st.floats(0, 50),
)


def published(board: Board, *own: str) -> set[str]:
    document = PolicyDocument(pools=(Pool(name="p", endpoints=endpoints(list(own))),))
    return {endpoint.url for pool in merged(board, document).pools for endpoint in pool.endpoints}


@given(rules, st.lists(events, max_size=30))
def test_what_any_source_said_last_while_it_was_well_is_published(rule: HoldRule, row: list[Event]) -> None:
    board = Board(rule=rule)
    last: dict[str, EndpointSet] = {}
    for event in row:
        board = fold(board, event)
        if isinstance(event, EndpointSet) and not event.is_stale:
            last[event.source] = event
        wanted = {endpoint.url for said in last.values() for endpoint in said.endpoints}
        assert wanted <= published(board, "static")


@given(rules, st.lists(sets, max_size=20), st.lists(st.sampled_from(SOURCES), max_size=10))
def test_a_source_that_fails_keeps_what_it_had(
    rule: HoldRule, row: list[EndpointSet], failing: list[str]
) -> None:
    board = Board(rule=rule)
    for event in [*(told(source, ["h0", "h1"], False) for source in SOURCES), *row]:
        board = fold(board, event)
    for source in failing:
        before = board.sources[source].endpoints
        board = fold(fold(board, told(source, [], True)), Tick(at_s=1e9))
        assert board.sources[source].endpoints == before
        assert board.sources[source].is_stale


@given(rules.filter(lambda rule: rule.confirm_after_s is None), st.lists(sets, min_size=1, max_size=30))
def test_a_pool_that_only_sources_fill_is_never_empty_without_a_confirmation(
    rule: HoldRule, row: list[EndpointSet]
) -> None:
    board = fold(Board(rule=rule), told("dns", ["h0"], False))
    for event in row:
        board = fold(board, event)
        assert published(board)

"""What every source of endpoints last said, and what of it counts: the board, folded from events.

A source tells whole sets. One that fails keeps its last set and is shown as stale. One whose endpoints go
away in a mass is believed only when somebody confirms it, or after a time: an empty answer of DNS looks like
a fleet that died. What is new in the same set counts at once. Pure: time comes in with the events.

Invariant: an endpoint leaves the board only because its source, well, told a set without it; never because a
source failed. Neighbours: merge.py (board and document → what is published), file.py, dns.py and registry.py
(sources), watch.py (runs them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, assert_never

import msgspec
from msgspec import Struct, structs

from router import limits
from router.schema.config import Endpoint


class EndpointSet(Struct, frozen=True, kw_only=True):
    """What a source tells: all that it has for its pool, or that it does not know."""

    source: str
    pool: str
    endpoints: tuple[Endpoint, ...]
    at_s: float
    is_stale: bool = False
    """It failed: the endpoints count only where nothing was known of it."""
    reason: str = ""
    """Why it is stale."""
    draining: frozenset[str] = frozenset()
    """Names of those that shall get nothing new."""
    removed: frozenset[str] = frozenset()
    """Names of those that were taken out by somebody, and so need no confirmation."""


Tell = Callable[[EndpointSet], None]


class Source(Protocol):
    """Where endpoints come from."""

    name: str
    pool: str

    async def run(self, tell: Tell) -> None:
        """Tells a set at first, then whenever there may be another; ends only with its task."""


class Confirm(Struct, frozen=True, kw_only=True):
    """An operator says that what is held is gone."""

    source: str


class Drain(Struct, frozen=True, kw_only=True):
    """An operator says that an endpoint, of whatever source, shall get nothing new; or that it may again."""

    endpoint: str
    is_draining: bool = True


class Retain(Struct, frozen=True, kw_only=True):
    """The sources that there are from now on; others' endpoints go."""

    sources: frozenset[str]


class Tick(Struct, frozen=True, kw_only=True):
    """Time has passed."""

    at_s: float


Event = EndpointSet | Confirm | Drain | Retain | Tick


class HoldRule(Struct, frozen=True, kw_only=True):
    """When endpoints that go away are held, and for how long."""

    ratio: float = 0.5
    """More than this share of a source's endpoints at once is a mass ..."""
    count_min: int = 3
    """... where it had so many; all of them are one in any case."""
    confirm_after_s: float | None = None
    """Then they go by themselves, if their source still says so; None: only when confirmed."""

    def holds(self, gone_count: int, known_count: int) -> bool:
        """Whether so many of so many that are gone at once are a mass."""
        if gone_count == 0:
            return False
        return gone_count == known_count or (
            known_count >= self.count_min and gone_count > self.ratio * known_count
        )


class SourceState(Struct, frozen=True, kw_only=True):
    """One source on the board."""

    source: str
    pool: str
    endpoints: tuple[Endpoint, ...] = ()
    """Those that count, by name; the held ones among them."""
    draining: frozenset[str] = frozenset()
    held_since_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Names that its last set had no more."""
    told_s: float | None = None
    """When it was last well."""
    stale_since_s: float | None = None
    reason: str = ""

    @property
    def is_stale(self) -> bool:
        return self.stale_since_s is not None


class Board(Struct, frozen=True, kw_only=True):
    """All sources, by name, and what operators drain."""

    rule: HoldRule = HoldRule()
    sources: dict[str, SourceState] = msgspec.field(default_factory=dict)
    drained: frozenset[str] = frozenset()

    def in_order(self) -> list[SourceState]:
        """Sorted by name: what comes first wins where two have the same endpoint."""
        return [self.sources[name] for name in sorted(self.sources)]

    def draining(self) -> frozenset[str]:
        """Names of all endpoints that shall get nothing new, whoever said so."""
        return self.drained.union(*(state.draining for state in self.sources.values()))

    def counts_as(self, other: Board) -> bool:
        """Whether the same is published of both."""
        return self.draining() == other.draining() and [
            (state.source, state.pool, state.endpoints) for state in self.in_order() if state.endpoints
        ] == [(state.source, state.pool, state.endpoints) for state in other.in_order() if state.endpoints]


def fold(board: Board, event: Event) -> Board:
    """The board after `event`."""
    match event:
        case EndpointSet():
            return _with_source(board, _told(board, event))
        case Confirm():
            state = board.sources.get(event.source)
            return board if state is None else _with_source(board, _without(state, state.held_since_s))
        case Drain():
            name = frozenset((event.endpoint,))
            if event.is_draining and len(board.drained) >= limits.ENDPOINTS_MAX:
                return board
            drained = board.drained | name if event.is_draining else board.drained - name
            return structs.replace(board, drained=drained)
        case Retain():
            sources = {name: state for name, state in board.sources.items() if name in event.sources}
            return structs.replace(board, sources=sources)
        case Tick():
            return _after(board, event.at_s)
    assert_never(event)


def _with_source(board: Board, state: SourceState) -> Board:
    return structs.replace(board, sources={**board.sources, state.source: state})


def _told(board: Board, told: EndpointSet) -> SourceState:
    state = board.sources.get(told.source)
    if state is None or state.pool != told.pool:  # another pool: what it had there says nothing of here
        state = SourceState(source=told.source, pool=told.pool)
    if len(told.endpoints) > limits.ENDPOINTS_MAX:
        reason = f"{len(told.endpoints)} endpoints; at most {limits.ENDPOINTS_MAX} are taken"
        return _failed(state, told.at_s, reason)
    if told.is_stale:
        is_first = state.told_s is None and not state.endpoints
        state = structs.replace(state, endpoints=_by_name(told.endpoints)) if is_first else state
        return _failed(state, told.at_s, told.reason)
    known = {endpoint.name: endpoint for endpoint in state.endpoints if endpoint.name not in told.removed}
    present = {endpoint.name: endpoint for endpoint in _by_name(told.endpoints)}
    gone = {name: endpoint for name, endpoint in known.items() if name not in present}
    if not board.rule.holds(len(gone), len(known)):
        gone = {}
    return structs.replace(
        state,
        endpoints=_by_name((*present.values(), *gone.values())),
        draining=told.draining | (state.draining & gone.keys()),
        held_since_s={name: state.held_since_s.get(name, told.at_s) for name in gone},
        told_s=told.at_s,
        stale_since_s=None,
        reason="",
    )


def _failed(state: SourceState, at_s: float, reason: str) -> SourceState:
    since_s = at_s if state.stale_since_s is None else state.stale_since_s
    return structs.replace(state, stale_since_s=since_s, reason=reason or "it failed")


def _after(board: Board, now_s: float) -> Board:
    after_s = board.rule.confirm_after_s
    if after_s is None:
        return board
    for state in board.sources.values():
        due = [name for name, since_s in state.held_since_s.items() if now_s - since_s >= after_s]
        if due and not state.is_stale:  # one that fails now says nothing of what it had said
            board = _with_source(board, _without(state, due))
    return board


def _without(state: SourceState, names: Iterable[str]) -> SourceState:
    going = frozenset(names)
    return structs.replace(
        state,
        endpoints=tuple(endpoint for endpoint in state.endpoints if endpoint.name not in going),
        draining=state.draining - going,
        held_since_s={name: since_s for name, since_s in state.held_since_s.items() if name not in going},
    )


def _by_name(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Sorted; the first of one name stays."""
    first: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        first.setdefault(endpoint.name, endpoint)
    return tuple(first[name] for name in sorted(first))


def held(board: Board) -> Mapping[str, tuple[str, ...]]:
    """What waits for confirmation: source → names, of those that hold any."""
    return {
        state.source: tuple(sorted(state.held_since_s)) for state in board.in_order() if state.held_since_s
    }

"""Board and document → the document that is published: its own endpoints, and those that were found.

Of two endpoints with one name, or with one address in a pool, the first counts: the document's own, then the
sources' by name. What drains is left out, for a router lets streams on an endpoint that is gone come to their
end; but where nothing else is left in a pool, those that drain go on. Pure.

Invariant: no pool comes out empty, and none with more than the router takes: `MergeError`, and whoever
publishes keeps what was. The same board and document make the same bytes. Neighbours: sets.py, publish.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, structs

from control.discovery.sets import Board
from router import limits
from router.schema.address import EndpointUrl, parse_endpoint_url
from router.schema.config import Endpoint, Pool
from router.schema.kinds import Name
from router.schema.policy_document import PolicyDocument

OWN = "document"
"""The source that a document's own endpoints have in what is shown."""


class MergeError(ValueError):
    """There is no document: a pool would be empty, or there are too many endpoints."""


class LeftOut(Struct, frozen=True, kw_only=True):
    """An endpoint that a source has and that is not published, and why."""

    source: Name
    pool: Name
    endpoint: str
    reason: str


def merged(board: Board, document: PolicyDocument) -> PolicyDocument:
    """The document with the endpoints that there are now. Raises: MergeError."""
    return _merge(board, document)[0]


def left_out(board: Board, document: PolicyDocument) -> tuple[LeftOut, ...]:
    """What of the board `merged` does not take. Raises: MergeError."""
    return _merge(board, document)[1]


def _merge(board: Board, document: PolicyDocument) -> tuple[PolicyDocument, tuple[LeftOut, ...]]:
    draining = board.draining()
    pools = {pool.name: _Gathering(pool) for pool in document.pools}
    owners = {endpoint.name: OWN for pool in document.pools for endpoint in pool.endpoints}
    leavings: list[LeftOut] = []
    for state in board.in_order():
        gathering = pools.get(state.pool)
        for endpoint in state.endpoints:
            if gathering is None:
                reason = "the document has no pool of that name"
            elif endpoint.name in owners:
                reason = f"{owners[endpoint.name]} has that name"
            elif not gathering.take(endpoint):
                reason = "its address is in the pool already"
            else:
                owners[endpoint.name] = state.source
                continue
            leavings.append(
                LeftOut(source=state.source, pool=state.pool, endpoint=endpoint.name, reason=reason)
            )
    done = tuple(gathering.pool_without(draining) for gathering in pools.values())
    _check_counts(done)
    return structs.replace(document, pools=done), tuple(leavings)


def _check_counts(pools: Iterable[Pool]) -> None:
    endpoint_count = 0
    for pool in pools:
        if not pool.endpoints:
            raise MergeError(f"pool {pool.name!r} has no endpoint, in the document or from a source")
        endpoint_count += len(pool.endpoints)
    if endpoint_count > limits.ENDPOINTS_MAX:
        raise MergeError(f"{endpoint_count} endpoints; a router takes at most {limits.ENDPOINTS_MAX}")


class _Gathering:
    """One pool while its endpoints come together."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._endpoints = list(pool.endpoints)
        self._addresses = {_address(endpoint) for endpoint in pool.endpoints}

    def take(self, endpoint: Endpoint) -> bool:
        """Whether its address was not there yet; it is now."""
        address = _address(endpoint)
        if address in self._addresses:
            return False
        self._addresses.add(address)
        self._endpoints.append(endpoint)
        return True

    def pool_without(self, draining: frozenset[str]) -> Pool:
        going_on = tuple(endpoint for endpoint in self._endpoints if endpoint.name not in draining)
        return structs.replace(self._pool, endpoints=going_on or tuple(self._endpoints))


def _address(endpoint: Endpoint) -> EndpointUrl | str:
    try:
        return parse_endpoint_url(endpoint.url)
    except ValueError:
        return endpoint.url  # whoever puts the document in force says what is wrong with it

"""Board and document become one document: the document's own first, nothing twice, no pool empty."""

import pytest
from msgspec import structs

from control.discovery.merge import MergeError, left_out, merged
from control.discovery.sets import Board, Drain, EndpointSet, fold
from router import limits
from router.config import parse_document
from router.schema.config import Endpoint, Pool
from router.schema.policy_document import PolicyDocument, encode_document
from router.schema.validate import find_faults


def document(**pools: tuple[str, ...]) -> PolicyDocument:
    return PolicyDocument(
        pools=tuple(
            Pool(name=name, endpoints=tuple(Endpoint(url=f"http://{host}:1", name=host) for host in hosts))
            for name, hosts in pools.items()
        )
    )


def with_set(board: Board, source: str, pool: str, *endpoints: Endpoint) -> Board:
    return fold(board, EndpointSet(source=source, pool=pool, endpoints=endpoints, at_s=0.0))


def host(name: str, port: int = 1) -> Endpoint:
    return Endpoint(url=f"http://{name}:{port}", name=name)


def names(found: PolicyDocument) -> dict[str, list[str]]:
    return {pool.name: [endpoint.name for endpoint in pool.endpoints] for pool in found.pools}


def test_several_sources_feed_one_pool_behind_the_documents_own() -> None:
    board = with_set(with_set(Board(), "z", "p", host("c"), host("b")), "a", "p", host("e"))
    assert names(merged(board, document(p=("s",), q=("t",)))) == {"p": ["s", "e", "b", "c"], "q": ["t"]}


def test_the_order_in_which_sources_told_leaves_no_trace() -> None:
    one = with_set(with_set(Board(), "z", "p", host("c")), "a", "p", host("e"))
    other = with_set(with_set(Board(), "a", "p", host("e")), "z", "p", host("c"))
    wanted = document(p=("s",))
    assert encode_document(merged(one, wanted)) == encode_document(merged(other, wanted))


def test_the_documents_own_endpoint_wins_and_what_is_left_out_is_told() -> None:
    board = with_set(Board(), "dns", "p", host("s", 2), host("x"))
    found = merged(board, document(p=("s",)))
    assert [endpoint.url for endpoint in found.pools[0].endpoints] == ["http://s:1", "http://x:1"]
    (absent,) = left_out(board, document(p=("s",)))
    assert (absent.source, absent.endpoint, absent.reason) == ("dns", "s", "document has that name")


def test_one_address_is_in_a_pool_once_whatever_it_is_called() -> None:
    same = Endpoint(url="http://S:1/", name="alias")
    board = with_set(with_set(Board(), "a", "p", same), "b", "q", structs.replace(same, name="other"))
    found = merged(board, document(p=("s",), q=("t",)))
    assert names(found) == {"p": ["s"], "q": ["t", "other"]}
    assert [absent.reason for absent in left_out(board, document(p=("s",), q=("t",)))] == [
        "its address is in the pool already"
    ]


def test_a_name_is_taken_once_in_all_pools_since_routers_refuse_two() -> None:
    board = with_set(with_set(Board(), "a", "p", host("x")), "b", "q", host("x", 2))
    wanted = document(p=("s",), q=("t",))
    found = merged(board, wanted)
    assert names(found) == {"p": ["s", "x"], "q": ["t"]}
    assert [absent.reason for absent in left_out(board, wanted)] == ["a has that name"]
    own = parse_document("pools:\n- {name: x, endpoints: [{url: 'http://h:1'}]}\n")
    assert [fault for fault in find_faults(found.configured_by(own)) if "name" in fault.path] == []


def test_endpoints_for_a_pool_that_the_document_has_not_wait_until_it_has() -> None:
    board = with_set(Board(), "dns", "p", host("x"))
    assert names(merged(board, document(q=("t",)))) == {"q": ["t"]}
    assert left_out(board, document(q=("t",)))[0].reason == "the document has no pool of that name"


def test_what_drains_is_left_out_unless_nothing_else_is_left() -> None:
    board = fold(with_set(Board(), "dns", "p", host("x")), Drain(endpoint="s"))
    assert names(merged(board, document(p=("s",)))) == {"p": ["x"]}
    assert names(merged(fold(board, Drain(endpoint="x")), document(p=("s",)))) == {"p": ["s", "x"]}


def test_a_pool_without_any_endpoint_is_refused() -> None:
    with pytest.raises(MergeError, match="pool 'p' has no endpoint"):
        merged(Board(), document(p=()))
    assert names(merged(with_set(Board(), "dns", "p", host("x")), document(p=()))) == {"p": ["x"]}


def test_more_endpoints_than_a_router_takes_are_refused() -> None:
    many = tuple(host(f"n{number}") for number in range(limits.ENDPOINTS_MAX))
    with pytest.raises(MergeError, match="4097 endpoints; a router takes at most 4096"):
        merged(with_set(Board(), "dns", "p", *many), document(p=("s",)))

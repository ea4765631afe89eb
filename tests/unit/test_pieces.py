"""Tables travel in pieces, and come out as they went in."""

import json
from typing import Any

from router.config import parse_config
from router.native.preparation import at_once
from router.pieces import ENDPOINTS_PER_PIECE, let_go, put_together, take_apart
from router.snapshot import Tables, build_tables, route_names


def tables_of(endpoint_count: int, **more: Any) -> Tables:
    endpoints = [
        {"name": f"e{index}", "url": f"http://10.0.0.1:{index + 1}", "models": ["m"], **more}
        for index in range(endpoint_count)
    ]
    config = parse_config(json.dumps({"pools": [{"name": "p", "endpoints": endpoints}]}))
    slots = {f"e{index}": index for index in range(endpoint_count)}
    return build_tables(config, slots, dict.fromkeys(route_names(config), 0))


def test_what_is_put_together_is_what_was_taken_apart() -> None:
    more = {"auth": {"bearer": "k3y"}, "model_rewrite": {"m": "n"}, "price": {"gpu_hour": 2}}
    for count in (1, ENDPOINTS_PER_PIECE, ENDPOINTS_PER_PIECE + 1, 100):
        tables = tables_of(count, **more)
        assert at_once(put_together(take_apart(tables))) == tables


def test_a_step_decodes_no_more_than_one_piece() -> None:
    pieces = take_apart(tables_of(10 * ENDPOINTS_PER_PIECE))
    assert len(pieces.endpoints) == 10
    assert len(list(put_together(pieces))) == 10


def test_a_step_lets_no_more_go_than_one_piece() -> None:
    left = list(tables_of(3 * ENDPOINTS_PER_PIECE + 1).endpoints)
    sizes = [len(left) for _ in let_go(left)]
    assert sizes == [2 * ENDPOINTS_PER_PIECE + 1, ENDPOINTS_PER_PIECE + 1, 1, 0]

"""A snapshot is built aside in short steps, however many endpoints it has."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from router.config import parse_config
from router.native.pool import Endpoint
from router.native.preparation import Preparation, at_once
from router.native.routes import Snapshot
from router.snapshot import Tables, build_tables, route_names
from tests.support.scripted import Scripted

ENDPOINTS_PER_STEP = 64
MEMBERS_PER_STEP = 256
SLOT_COUNT = 4096


def tables_of(*pools: list[dict[str, Any]], policy: str = "p2c") -> Tables:
    named = [
        {"name": f"p{index}", "policy": {"type": policy}, "endpoints": endpoints}
        for index, endpoints in enumerate(pools)
    ]
    config = parse_config(json.dumps({"pools": named}))
    names = [endpoint.name for pool in config.pools for endpoint in pool.endpoints]
    slots = {name: slot for slot, name in enumerate(names)}
    return build_tables(config, slots, dict.fromkeys(route_names(config), 0))


def many(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"name": f"e{index}", "url": f"http://10.0.0.1:{index + 1}", "models": ["a", "b"], **more}
        for index in range(count)
    ]


def work_count(tables: Tables) -> int:
    """How much of a preparation another thread does."""
    count = 0
    for work in Preparation(SLOT_COUNT).preparing(tables, {}, {}):
        if work is not None:
            work()
            count += 1
    return count


def test_a_step_makes_a_bounded_number_of_endpoints() -> None:
    preparation = Preparation(SLOT_COUNT)
    sizes = [len(preparation.endpoints) for _ in preparation.preparing(tables_of(many(1000)), {}, {})]
    assert len(preparation.endpoints) == 1000
    assert max(after - before for before, after in itertools.pairwise([0, *sizes])) <= ENDPOINTS_PER_STEP


@pytest.mark.parametrize("count", [300, 1000, 3000])
def test_steps_over_members_of_targets_grow_with_their_number(count: int) -> None:
    tables = tables_of(many(count))
    endpoints = {entry.identity: Endpoint(entry) for entry in tables.endpoints}
    looked_at = 4 * count  # once for the names, then for the whole pool and each of two models
    assert len(list(Snapshot().building(tables, endpoints))) >= looked_at // (2 * MEMBERS_PER_STEP)


def test_rings_are_work_for_another_thread() -> None:
    endpoints = many(10)
    for policy, is_long in (("p2c", False), ("ring", True), ("maglev", True)):
        assert bool(work_count(tables_of(endpoints, policy=policy))) is is_long


def test_endpoints_with_the_same_tls_settings_load_their_files_once(tmp_path: Path) -> None:
    authority = str(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(authority)
    tls = {"url": "https://engine.test:1", "tls": {"ca_file": authority}}
    endpoints = [{**one, **tls, "url": f"https://engine-{one['name']}.test:1"} for one in many(50)]
    assert work_count(tables_of(endpoints)) == 1


def test_a_bad_file_refuses_and_names_it(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(bad))
    tables = tables_of([{"name": "e", "url": "https://engine.test:1", "tls": {"ca_file": str(bad)}}])
    bad.write_text("half")
    with pytest.raises(ValueError, match=r"ca\.pem"):
        at_once(Preparation(SLOT_COUNT).preparing(tables, {}, {}))


def test_what_is_unchanged_is_the_same_endpoint() -> None:
    before, after = many(3), many(3)
    after[1]["weight"] = 2
    old, new = Preparation(SLOT_COUNT), Preparation(SLOT_COUNT)
    at_once(old.preparing(tables_of(before), {}, {}))
    at_once(new.preparing(tables_of(after), old.endpoints, {}))
    kept = [
        identity for identity, endpoint in new.endpoints.items() if old.endpoints.get(identity) is endpoint
    ]
    assert sorted(identity.split("#")[0] for identity in kept) == ["e0", "e2"]


def test_an_address_found_while_a_snapshot_is_prepared_reaches_it() -> None:
    scripted = Scripted(endpoint_count=100)
    url = "http://engine.test:1"
    tables = tables_of([{"name": f"e{index}", "url": f"{url}/{index}"} for index in range(100)])
    preparing = scripted.core.preparing(tables)
    next(preparing)  # the first of them stand, and the last do not
    for index in range(100):
        scripted.core.set_addresses(f"{url}/{index}", [("10.0.0.1", 1)])
    scripted.core.activate(at_once(preparing))
    assert {row["addresses"] for row in scripted.core.debug_pools()} == {1}
    scripted.finish()


def test_a_preparation_that_is_given_up_changes_nothing() -> None:
    scripted = Scripted(endpoint_count=100)
    before = scripted.core.debug_pools()
    preparing = scripted.core.preparing(tables_of(many(100)))
    next(preparing)
    preparing.close()
    assert scripted.core.debug_pools() == before
    scripted.finish()


def test_a_slot_that_the_tables_do_not_have_refuses() -> None:
    scripted = Scripted(endpoint_count=1)
    with pytest.raises(ValueError, match="16 slots, and none is 16"):
        scripted.core.prepare(tables_of(many(100)))
    scripted.finish()

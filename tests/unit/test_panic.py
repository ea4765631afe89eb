"""When a pool takes ejections for its own mistake: when more than a share of who could answer is ejected."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scripted import Scripted

NOW_US = 1_000_000_000  # the script's clock begins here
GET = b"GET /v1/things HTTP/1.1\r\nHost: h\r\n\r\n"
FIRST_PORT = 9000


def endpoints(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"url": f"http://127.0.0.1:{FIRST_PORT + index}", **more} for index in range(count)]


def asked(ratio_max: float, regions: dict[str, int], ejected: range, **config: Any) -> set[int]:
    """The slots that a round of picks in turn asks, with so many endpoints in each region, these ejected."""
    of_regions = [region for region, count in regions.items() for _ in range(count)]
    pool = {
        "name": "main",
        "endpoints": [
            {**endpoint, "region": region}
            for endpoint, region in zip(endpoints(len(of_regions)), of_regions, strict=True)
        ],
        "policy": {"type": "round_robin"},
        "health": {"ejected_ratio_max": ratio_max},
    }
    world = Scripted(pools=[pool], **config)
    for slot in ejected:
        world.load.eject(slot, NOW_US, 60_000_000, 60_000_000)
    for _ in of_regions:
        world.driver.receive(world.driver.accept(), GET)
    ports = {world.driver.state(number)["port"] for number in world.driver.upstreams()}
    world.finish()
    return {port - FIRST_PORT for port in ports}


@pytest.mark.parametrize(
    ("ratio_max", "count"), [(0.29, 100), (0.57, 100), (0.07, 100), (0.5, 10), (0.1, 10)]
)
def test_the_share_itself_is_no_panic_and_one_more_is(ratio_max: float, count: int) -> None:
    share = round(ratio_max * count)
    for ejected_count, wanted in ((share, set(range(share, count))), (share + 1, set(range(count)))):
        assert asked(ratio_max, {"eu": count}, range(ejected_count)) == wanted


STRICT = {"routes": [{"name": "eu", "require": {"regions": ["eu"]}}]}


def test_ejections_of_those_who_may_not_answer_are_no_panic() -> None:
    assert asked(0.5, {"us": 6, "eu": 4}, range(7), **STRICT) == {7, 8, 9}


def test_the_share_is_of_those_who_may_answer() -> None:
    assert asked(0.5, {"eu": 4, "us": 6}, range(3), **STRICT) == {0, 1, 2, 3}
    assert asked(0.5, {"eu": 4, "us": 6}, range(3)) == set(range(3, 10))

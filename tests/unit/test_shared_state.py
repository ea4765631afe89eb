"""Who has which slot, and what a slot forgets when it changes hands."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import time

import pytest
from msgspec import structs

from router import limits, wire
from router.config import parse_config
from router.native.prefix import PrefixTable
from router.schema.config import Config, Route
from router.schema.engines import EngineFigures, figures_of
from router.shared_state import SharedState, Tables, watch_exit
from router.slots import SlotDirectory, SlotsExhausted

PREFIX_BYTES = 1 << 20


def configured(*names: str) -> Config:
    """A configuration with these endpoints."""
    endpoints = [{"name": name, "url": f"http://127.0.0.1:{9000 + ord(name)}"} for name in names]
    return parse_config(json.dumps({"version": 1, "pools": [{"name": "all", "endpoints": endpoints}]}))


def assigned(state: SharedState, *names: str) -> dict[str, int]:
    """Slots by endpoint after a configuration with these."""
    return state.assign(configured(*names))[0]


def ramp(state: SharedState, slot: int) -> float:
    """How much dearer work is made there for being new: 1 is not at all."""
    costs_nothing = dict.fromkeys(("input_price", "output_price", "second_price", "rtt_s"), 0.0)
    state.tables.learner.set_figures(slot, figures_of("8b-a100", EngineFigures(), slot, **costs_nothing))
    return state.tables.learner.view(slot, time.monotonic_ns() // 1000, state.load)["ramp"]


def test_an_endpoint_that_joins_others_starts_slowly_and_the_first_ones_do_not() -> None:
    state = SharedState.create(configured("a"))
    slots = assigned(state, "a", "b")
    assert [ramp(state, slots[name]) for name in "ab"] == [1, 1]
    slots = assigned(state, "a", "b", "c")
    assert [ramp(state, slots[name]) for name in "ab"] == [1, 1]
    assert ramp(state, slots["c"]) > 5


def test_an_endpoint_that_comes_back_starts_slowly_too() -> None:
    state = SharedState.create(configured("a"))
    assigned(state, "a", "b")
    assigned(state, "a")
    slots = assigned(state, "a", "b")
    assert ramp(state, slots["a"]) == 1
    assert ramp(state, slots["b"]) > 5


def test_signals_are_told_by_endpoint_and_a_slot_that_changes_hands_forgets_them() -> None:
    state = SharedState.create(configured("a"))
    slots = assigned(state, "a", "b")
    now_us = time.monotonic_ns() // 1000
    told = [("a", "kv", 0.5, now_us), ("gone", "kv", 0.5, now_us), ("b", "power", -1.0, now_us)]
    assert state.tell(told, "control") == ["taken", "negative"]
    assert state.tables.signals.read(slots["a"], now_us)["kv"][::2] == (0.5, "control")
    with pytest.raises(ValueError, match="no signal 'mood'; there are waiting"):
        state.tell([("a", "mood", 0.5, now_us)], "control")
    state.tables.signals.forget(slots["a"])
    assert state.tables.signals.read(slots["a"], now_us) == {}


def test_nothing_of_an_endpoint_is_left_to_the_one_that_gets_its_slot() -> None:
    state = SharedState.create(configured("a"))
    state.endpoints = SlotDirectory(2)
    slots, routes = state.assign(configured("a", "b"))
    tables, now_us = state.tables, time.monotonic_ns() // 1000
    for slot in slots.values():
        tables.load.eject(slot, now_us, 60_000_000, 60_000_000)
        tables.metrics.count_request(0, routes["default"], slot, 0)
        tables.prefix.insert([slot], [64], slot, 64, now_us)
        tables.residency.used(slot, 7, 10.0, 0.0, now_us)
        tables.sessions.put(slot, slot, now_us)
        tables.signals.push([(slot, "kv", 0.5, now_us, "poll")], now_us)
    known = [known_of(state, slot) for slot in slots.values()]
    assert known[0] == known[1]
    assert None not in known[0]
    assigned(state, "a")
    assert known_of(state, slots["b"]) == known[1], "until somebody else gets it"
    assert assigned(state, "a", "c")["c"] == slots["b"]
    assert known_of(state, slots["a"]) == known[0]
    assert set(known_of(state, slots["b"])) == {None}


def known_of(state: SharedState, slot: int) -> list[object]:
    """What each table holds of an endpoint; None: nothing."""
    tables, now_us = state.tables, time.monotonic_ns() // 1000
    place = tables.sessions.find(slot, now_us)
    return [
        tables.load.is_ejected(slot, now_us) or None,
        sum(count for _route, at, _outcome, count in tables.metrics.requests() if at == slot) or None,
        tables.prefix.match([slot], [64], [slot])[0] or None,
        tables.residency.is_resident(slot, 7, 1, now_us) or None,
        None if place is None else place[0] == slot,
        tables.signals.read(slot, now_us).keys() or None,
    ]


def test_a_route_that_gets_anothers_index_begins_at_nothing() -> None:
    def with_route(name: str) -> Config:
        return structs.replace(configured("a"), routes=(Route(name=name),))

    state = SharedState.create(configured("a"))
    state.routes = SlotDirectory(2)
    routes = state.assign(with_route("first"))[1]
    for index in routes.values():
        state.metrics.count_request(0, index, 0, 0)
    state.assign(configured("a"))
    assert state.assign(with_route("second"))[1]["second"] == routes["first"]
    assert [row[0] for row in state.metrics.requests()] == [routes["default"]]


def test_stable_and_canary_share_the_slots_of_endpoints_that_both_reach() -> None:
    state = SharedState.create(configured("a"))
    elsewhere = parse_config(
        json.dumps({"pools": [{"name": "all", "endpoints": [{"name": "b", "url": "http://127.0.0.1:1"}]}]})
    )
    slots = assigned(state, "a", "b")
    stable, canary = state.assign_both(configured("a", "b"), 0, configured("b", "c"), 7)
    assert stable.slots == slots
    assert canary.slots == {"b": slots["b"], "c": 2}
    stable, canary = state.assign_both(configured("a", "b"), 0, elsewhere, 8)
    assert stable.slots == slots
    assert canary.slots["b"] not in slots.values()
    assert state.endpoints.configured() == ("a", "b", "b@8")


def test_versions_are_counted_apart_and_the_last_ones_stay_to_be_seen() -> None:
    state, config = SharedState.create(configured("a")), configured("a")
    assert state.assign(config).routes == {"default": 0}
    stable, canary = state.assign_both(config, 1, config, 2)
    assert (stable.routes, canary.routes) == ({"default": 1}, {"default": 2})
    state.metrics.count_request(0, 2, 0, 0)
    assert state.assign(config, 2).routes == canary.routes
    assert len(state.metrics.requests()) == 1, "it goes on counting where it was"
    for version in range(3, 30):
        state.assign(config, version)
    assert len(state.routes.names()) <= 3 + limits.ROUTE_VERSIONS_KEPT
    assert {f"default@{version}" for version in range(26, 30)} <= set(state.routes.names())


def test_all_that_may_be_configured_fits_twice_and_can_be_replaced() -> None:
    def whole(first: int) -> Config:
        routes = tuple(Route(name=f"r{first + index}") for index in range(limits.ROUTES_MAX))
        return structs.replace(configured("a"), routes=routes)

    state = SharedState.create(configured("a"))
    for version in range(1, 9):
        state.assign_both(whole(0), 1, whole(version * limits.ROUTES_MAX), version + 1)
    for version in range(1, 9):
        state.assign_both(whole(0), 2 * version, whole(0), 2 * version + 1)


def test_where_there_are_too_few_indexes_for_the_routes_the_endpoints_are_as_before() -> None:
    state = SharedState.create(configured("a"))
    state.routes = SlotDirectory(1)
    assigned(state, "a")
    with pytest.raises(SlotsExhausted):
        state.assign(structs.replace(configured("a", "b"), routes=(Route(name="more"),)))
    assert state.endpoints.configured() == ("a",)
    slots = assigned(state, "a", "b")
    assert ramp(state, slots["b"]) > 5, "it joins only now"


def test_a_dead_workers_attempts_are_released_and_what_it_counted_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = SharedState.create(configured("a"))
    for column in (0, 1):
        state.load.charge(column, 3)
        state.metrics.count_request(column, 0, 3, 0)
    state.settle(1)
    assert state.load.in_flight_by_column()[:2] == [1, 0]
    assert state.metrics.columns() == [0]
    assert state.metrics.requests() == [(0, 3, 0, 2)]
    assert [record.message for record in caplog.records] == ["column 1: 1 attempts of a dead worker settled"]
    assert state.leave() == {}
    state.settle(0)
    assert state.load.in_flight_by_column()[:2] == [1, 0], "the next generation settles"


def test_columns_of_the_generation_before_are_settled_as_its_processes_exit() -> None:
    async def play() -> None:
        running = SharedState.create(configured("a"))
        state = SharedState(running.tables, running.endpoints, running.routes, [2], inherited=True)
        with (
            subprocess.Popen(["cat"], stdin=subprocess.PIPE) as first,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second,
        ):
            for column in (0, 1):
                state.load.charge(column, 3)
            before = len(os.listdir("/proc/self/fd"))
            state.settle_when_gone({0: first.pid, 1: second.pid})
            assert state.writers == {0: first.pid, 1: second.pid}
            first.communicate()
            while 0 in state.writers:
                await asyncio.sleep(0)
            assert state.load.in_flight_by_column()[:2] == [0, 1]
            assert state.leave() == {1: second.pid}
            second.communicate()
            while state.writers:
                await asyncio.sleep(0)
            assert state.load.in_flight_by_column()[:2] == [0, 1], "the next generation settles"
            assert len(os.listdir("/proc/self/fd")) == before - 2, "but for the pipes of the two"

    asyncio.run(asyncio.wait_for(play(), 30))


def test_one_process_after_the_other_is_waited_for() -> None:
    async def play() -> None:
        exited: list[int] = []
        for number in range(3):  # each with the descriptor that the one before has given back
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
                watch_exit(process.pid, functools.partial(exited.append, number))
                process.communicate()
                while exited != list(range(number + 1)):
                    await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_process_that_has_exited_already_is_settled_at_once() -> None:
    async def play() -> None:
        running = SharedState.create(configured("a"))
        state = SharedState(running.tables, running.endpoints, running.routes, [1], inherited=True)
        state.load.charge(0, 3)
        process = subprocess.Popen(["true"])
        process.wait()
        state.settle_when_gone({0: process.pid})
        assert (state.writers, state.load.total_in_flight()) == ({}, 0)

    asyncio.run(play())


def test_processes_that_count_in_memory_of_their_own_are_not_waited_for() -> None:
    state = SharedState.create(configured("a"))
    state.settle_when_gone({0: os.getpid()})
    assert state.writers == {}


def test_a_prefix_table_in_use_is_tended_and_an_empty_one_costs_no_memory() -> None:
    state = SharedState.create(configured("a"))
    state.tables = state.tables._replace(prefix=PrefixTable.create(4 << 20, 32))
    prefix = state.tables.prefix
    state.tend()
    assert prefix.used_bytes() < prefix.size_bytes // 4
    for start in range(0, 4000, 400):
        keys = [(start + index) * 0x9E3779B97F4A7C15 % 2**64 for index in range(400)]
        prefix.insert(keys, list(range(400)), 3, 400, 0)
    assert prefix.used_bytes() * 2 >= prefix.size_bytes
    state.tend()
    assert prefix.match(keys, list(range(400)), [3]) == [399]


@pytest.mark.parametrize("lost", ["prefix", "learner", "explained", "residency", "sessions", "signals"])
def test_a_table_of_another_version_is_made_anew_and_the_rest_is_kept(
    lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = Tables.create(1, PREFIX_BYTES)
    running.load.charge(0, 3)
    running.signals.push([(3, "kv", 0.5, 1, "poll")], 1)
    running.sessions.put(7, 3, 1)
    fds = running.fds()
    other = os.memfd_create("other")
    os.truncate(other, 8192)
    fds[Tables._fields.index(lost)] = other
    taken = Tables.attach(fds, 1, PREFIX_BYTES)
    os.close(other)
    assert taken.load.in_flight(3) == 1
    assert bool(taken.signals.read(3, 1)) == (lost != "signals")
    assert (taken.sessions.find(7, 1) is None) == (lost == "sessions")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["takeover"]


@pytest.mark.parametrize("lost", ["load", "metrics"])
def test_without_the_counts_there_is_no_takeover(lost: str) -> None:
    fds = Tables.create(1, PREFIX_BYTES).fds()
    other = os.memfd_create("other")
    os.truncate(other, 8192)
    fds[Tables._fields.index(lost)] = other
    with pytest.raises(ValueError, match="wrong magic"):
        Tables.attach(fds, 1, PREFIX_BYTES)
    os.close(other)


def test_a_prefix_table_of_another_size_is_made_anew_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Tables.create(1, PREFIX_BYTES)
    running.prefix.insert([9], [64], 3, 64, 0)
    assert Tables.attach(running.fds(), 1, PREFIX_BYTES).prefix.match([9], [64], [3]) == [64]
    assert not caplog.records
    larger = Tables.attach(running.fds(), 1, 2 * PREFIX_BYTES)
    assert larger.prefix.size_bytes == 2 * PREFIX_BYTES
    assert larger.prefix.match([9], [64], [3]) == [0]
    said = (
        f"takeover: prefixes.table_bytes is {2 * PREFIX_BYTES} and was {PREFIX_BYTES}; caches are learnt anew"
    )
    assert [record.message for record in caplog.records] == [said]


def test_a_takeover_goes_on_counting_while_columns_are_free_and_says_when_they_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = SharedState.create(configured("a"))
    running.load.charge(0, running.assign(configured("a"))[0]["a"])
    offer = wire.TakeoverOffer(
        pid=1,
        sockets=[],
        column_count=running.load.column_count,
        columns_in_use=list(running.columns),
        endpoints=running.dump(running.endpoints),
        routes=running.dump(running.routes),
    )
    most = limits.COLUMNS_MIN - 1
    taken = SharedState.inherit(offer, running.table_fds, structs.replace(configured("a"), workers=most))
    assert list(taken.columns) == list(range(1, limits.COLUMNS_MIN))
    assert taken.load.total_in_flight() == 1
    assert not caplog.records
    anew = SharedState.inherit(offer, running.table_fds, structs.replace(configured("a"), workers=most + 1))
    assert anew.load.total_in_flight() == 0
    assert caplog.records[0].message.startswith(f"takeover: {most} of {most + 1} columns are free for")
    assert caplog.records[0].message.endswith("counting starts anew")


@pytest.mark.parametrize("workers", [1, 9, limits.WORKERS_MAX])
def test_the_tables_have_room_for_four_generations(workers: int) -> None:
    state = SharedState.create(structs.replace(configured("a"), workers=workers))
    assert state.load.column_count == max(32, 4 * workers)

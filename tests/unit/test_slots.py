"""Slots stay with their endpoints over reloads; they change hands when nobody can mean the old one."""

from collections import defaultdict

import pytest

from router.slots import SlotDirectory, SlotsExhausted, name_and_version, name_in_version


def idle(slot: int) -> int:
    return 0


def test_endpoints_keep_their_slots_over_reloads_in_any_order() -> None:
    directory = SlotDirectory(8)
    first = directory.assign(["a", "b", "c"], idle)
    assert first.slots == {"a": 0, "b": 1, "c": 2}
    assert first.reused == ()
    second = directory.assign(["d", "c", "a"], idle)
    assert second.slots == {"d": 3, "c": 2, "a": 0}
    assert list(second.slots) == ["d", "c", "a"]


def test_repeated_identities_share_one_slot() -> None:
    assert SlotDirectory(1).assign(["a", "a"], idle).slots == {"a": 0}


def test_an_endpoint_that_comes_back_gets_its_old_slot_without_a_reset() -> None:
    directory = SlotDirectory(4)
    directory.assign(["a", "b"], idle)
    directory.assign(["b"], idle)
    again = directory.assign(["b", "a"], idle)
    assert again.slots == {"b": 1, "a": 0}
    assert again.reused == ()


def test_fresh_slots_go_first_and_then_the_longest_retired_idle_one() -> None:
    directory = SlotDirectory(4)
    directory.assign(["a", "b", "c"], idle)
    directory.assign(["b", "c"], idle)
    directory.assign(["c"], idle)
    assert directory.assign(["c", "d"], idle).slots["d"] == 3
    change = directory.assign(["c", "d", "e"], idle)
    assert (change.slots["e"], change.reused) == (0, (0,))


def test_past_so_many_retired_ones_theirs_are_taken_before_fresh_ones() -> None:
    directory = SlotDirectory(8)
    for version in range(4):
        assert directory.assign([f"a{version}"], idle, 2).slots == {f"a{version}": version}
    assert directory.assign(["a4"], idle, 2).slots == {"a4": 0}, "a0 is the third, and the first that retired"
    change = directory.assign(["a4", "a5", "a6"], idle, 2)
    assert (change.slots, change.reused) == ({"a4": 0, "a5": 4, "a6": 1}, (1,))


def test_names_and_versions_are_told_apart_again() -> None:
    for name, version in (("chat", 0), ("chat", 12), ("a.b:c/d", 1)):
        assert name_and_version(name_in_version(name, version)) == (name, version)
    assert name_in_version("chat", 0) == "chat"


def test_a_slot_is_not_reused_by_the_reload_that_drops_its_endpoint() -> None:
    directory = SlotDirectory(2)
    directory.assign(["a", "b"], idle)
    with pytest.raises(SlotsExhausted, match="2 endpoints and 1 still draining"):
        directory.assign(["b", "c"], idle)
    directory.assign(["b"], idle)
    assert directory.assign(["b", "c"], idle).slots == {"b": 1, "c": 0}


def test_a_slot_with_attempts_in_flight_is_not_reused() -> None:
    in_flight: defaultdict[int, int] = defaultdict(int, {0: 1})
    directory = SlotDirectory(2)
    directory.assign(["a", "b"], in_flight.__getitem__)
    directory.assign(["b"], in_flight.__getitem__)
    with pytest.raises(SlotsExhausted):
        directory.assign(["b", "c"], in_flight.__getitem__)
    in_flight[0] = 0
    assert directory.assign(["b", "c"], in_flight.__getitem__).reused == (0,)


def test_a_refused_reload_changes_nothing() -> None:
    directory = SlotDirectory(2)
    before = directory.assign(["a", "b"], idle)
    with pytest.raises(SlotsExhausted):
        directory.assign(["x", "y", "z"], idle)
    assert directory.names() == ("a", "b")
    assert directory.configured() == ("a", "b")
    assert directory.assign(["a", "b"], idle) == before


def test_a_directory_survives_a_takeover() -> None:
    directory = SlotDirectory(3)
    directory.assign(["a", "b"], idle)
    directory.assign(["b"], idle)
    heir = SlotDirectory.from_names(3, directory.names(), directory.configured())
    assert heir.slot("a") == 0
    assert heir.slot("nobody") is None
    change = heir.assign(["b", "c", "d"], idle)
    assert change.slots == {"b": 1, "c": 2, "d": 0}
    assert change.reused == (0,)

"""Canary, bake and roll back: what follows on what, and what never happens."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.collect import EVERY_ROUTE, Window
from control.guard import GuardSettings, Verdict
from control.rollout import (
    GUARD,
    Activate,
    Begin,
    CanaryStep,
    Command,
    Event,
    Freeze,
    Hold,
    Judged,
    Mark,
    Publish,
    Record,
    RefusedChangeError,
    Restarted,
    Resume,
    RollBack,
    RolloutState,
    Spread,
    Unfreeze,
    look,
    transition,
)

SETTINGS = GuardSettings(bake_ms=60_000, deadline_ms=600_000)
STEPS = (CanaryStep(ratio=0.1, hold_ms=10_000), CanaryStep(ratio=0.5, hold_ms=10_000), CanaryStep(ratio=1.0))
LATELY = {EVERY_ROUTE: Window(requests=500)}
HAVE = Spread(connected_count=2)
ALICE: dict[str, Any] = {"who": "alice", "why": "new weights"}
OfCommand = TypeVar("OfCommand", bound=Command)


def judged(action: str = "promote", reason: str = "because") -> Judged:
    return Judged(verdict=msgspec.convert({"action": action, "reason": reason}, Verdict), baseline=LATELY)


class Story:
    """A rollout to which things happen."""

    def __init__(self, stable: int = 1) -> None:
        self.state = RolloutState(stable=stable)
        self.now_s = 1000.0
        self.commands: list[Command] = []

    def happens(self, *events: Event, after_s: float = 0.0) -> "Story":
        self.now_s += after_s
        self.commands = []
        for event in events:
            self.state, commands = transition(self.state, event, self.now_s, SETTINGS)
            self.commands += commands
        return self

    def told(self, kind: type[OfCommand]) -> list[OfCommand]:
        return [command for command in self.commands if isinstance(command, kind)]

    def now(self) -> tuple[int, int | None, float, bool]:
        return self.state.stable, self.state.canary, self.state.ratio, self.state.is_baking


def canary() -> Story:
    return Story().happens(Begin(version=2, steps=STEPS, **ALICE), HAVE)


def baking() -> Story:
    return Story().happens(Activate(version=2, baseline=LATELY, **ALICE), HAVE)


def test_a_canary_begins_with_a_record_then_its_publication_then_new_windows() -> None:
    story = Story().happens(Begin(version=2, steps=STEPS, **ALICE))
    assert story.commands == [
        Record(
            why="new weights",
            who="alice",
            what="canary",
            before="version 1",
            after="version 1, canary 2 at 0.1",
        ),
        Publish(why="new weights", stable=1, canary=2, ratio=0.1),
        Mark(why="new weights"),
    ]


def test_a_good_canary_goes_step_by_step_to_all_and_bakes() -> None:
    story = canary().happens(judged(), after_s=9)
    assert story.now() == (1, 2, 0.1, False)
    assert story.happens(judged(), after_s=1).now() == (1, 2, 0.5, False)
    assert story.happens(HAVE, judged(), after_s=5).now() == (1, 2, 0.5, False)
    assert story.happens(judged(), after_s=10).now() == (2, None, 0.0, True)
    assert [(record.who, record.what) for record in story.told(Record)] == [(GUARD, "promote")]
    assert story.state.baseline == LATELY
    story.happens(HAVE, judged(), after_s=59)
    assert story.now() == (2, None, 0.0, True)
    assert story.happens(judged(), after_s=60).now() == (2, None, 0.0, False)
    assert [record.what for record in story.told(Record)] == ["bake"]
    assert story.told(Publish) == []


def test_a_bad_canary_is_taken_back_by_the_guard_and_stable_stays() -> None:
    story = canary().happens(judged("roll_back", "errors 9%"))
    assert story.now() == (1, None, 0.0, False)
    assert story.commands == [
        Record(
            why="errors 9%",
            who="guard",
            what="roll_back",
            before="version 1, canary 2 at 0.1",
            after="version 1",
        ),
        Publish(why="errors 9%", stable=1, canary=None, ratio=0.0),
        Mark(why="errors 9%"),
    ]


def test_a_version_that_turns_bad_while_it_bakes_is_taken_back() -> None:
    story = baking().happens(judged("roll_back"), after_s=59)
    assert story.now() == (1, None, 0.0, False)
    assert story.told(Publish)[0].stable == 1


def test_after_the_bake_the_guard_changes_nothing() -> None:
    story = baking().happens(judged(), after_s=60)
    assert story.happens(judged("roll_back")).commands == []
    assert story.now() == (2, None, 0.0, False)


def test_a_canary_that_a_router_does_not_have_does_not_go_on_but_can_be_taken_back() -> None:
    waits = Spread(connected_count=2, waits_for=("edge-2",))
    story = canary().happens(waits, judged(), after_s=100)
    assert story.now() == (1, 2, 0.1, False)
    story.happens(waits, judged(), after_s=500)
    assert "edge-2 does not have it" in story.state.held
    assert story.happens(judged("roll_back")).now() == (1, None, 0.0, False)


def test_the_hold_begins_when_all_routers_have_it() -> None:
    story = Story().happens(Begin(version=2, steps=STEPS, **ALICE))
    story.happens(Spread(connected_count=0), judged(), after_s=50)
    assert story.state.in_force_s is None
    story.happens(HAVE, judged(), after_s=50)
    assert story.now() == (1, 2, 0.1, False)
    assert story.happens(judged(), after_s=10).state.ratio == 0.5


def test_a_canary_without_traffic_waits_for_its_deadline_is_held_and_says_so() -> None:
    story = canary().happens(judged("keep", "0 requests so far, 200 are needed"), after_s=599)
    assert story.state.held == ""
    story.happens(judged("keep", "0 requests so far, 200 are needed"), after_s=1)
    assert story.state.held == "not decided in time: 0 requests so far, 200 are needed"
    assert [(record.who, record.what) for record in story.told(Record)] == [(GUARD, "hold")]
    assert story.happens(judged(), after_s=1).now() == (1, 2, 0.1, False)
    story.happens(Resume(**ALICE), judged())
    assert story.now() == (1, 2, 0.5, False)


def test_a_bake_without_traffic_ends_at_the_deadline_and_says_so() -> None:
    story = baking().happens(judged("keep", "3 requests so far"), after_s=599)
    assert story.state.is_baking
    story.happens(judged("keep", "3 requests so far"), after_s=1)
    assert story.now() == (2, None, 0.0, False)
    assert "undecided" in story.told(Record)[0].why


def test_a_canary_of_a_fixed_share_waits_for_a_person() -> None:
    story = Story().happens(Begin(version=2, steps=STEPS[:1], **ALICE), HAVE)
    story.happens(judged(), after_s=10)
    assert story.now() == (1, 2, 0.1, False)
    assert "last step" in story.state.held
    assert story.happens(Activate(version=2, baseline=LATELY, **ALICE)).now() == (2, None, 0.0, True)
    assert story.told(Record)[0].what == "promote"


def test_frozen_nothing_goes_on_by_itself_but_back() -> None:
    story = canary().happens(Freeze(**ALICE), judged(), after_s=100)
    assert story.now() == (1, 2, 0.1, False)
    assert story.happens(judged("roll_back")).now() == (1, None, 0.0, False)
    assert story.state.is_frozen
    assert not story.happens(Unfreeze(**ALICE)).state.is_frozen


def test_what_a_person_holds_stays_until_it_is_resumed() -> None:
    story = canary().happens(Hold(**ALICE), judged(), after_s=100)
    assert story.now() == (1, 2, 0.1, False)
    assert story.happens(Resume(**ALICE), judged()).now() == (1, 2, 0.5, False)


def test_rolling_back_goes_to_the_version_before_or_to_the_one_named() -> None:
    story = baking().happens(judged(), after_s=60)
    assert story.happens(RollBack(**ALICE)).now() == (1, None, 0.0, False)
    with pytest.raises(RefusedChangeError, match="name a version"):
        story.happens(RollBack(**ALICE))
    assert story.happens(RollBack(version=7, **ALICE)).now() == (7, None, 0.0, False)


def test_what_replaces_a_version_that_bakes_is_taken_back_to_the_last_one_that_had_baked() -> None:
    story = baking().happens(Activate(version=3, baseline={}, **ALICE))
    assert story.state.baseline == LATELY
    assert story.happens(judged("roll_back")).now() == (1, None, 0.0, False)


REFUSED = {
    "a second canary": (canary, Begin(version=3, steps=STEPS, **ALICE), "version 2 is a canary already"),
    "a canary beside a bake": (baking, Begin(version=3, steps=STEPS, **ALICE), "bakes"),
    "a canary of what all have": (Story, Begin(version=1, steps=STEPS, **ALICE), "in force for all"),
    "activating past a canary": (canary, Activate(version=3, baseline={}, **ALICE), "roll it back first"),
    "activating what all have": (Story, Activate(version=1, baseline={}, **ALICE), "in force for all"),
    "going elsewhere with a canary": (canary, RollBack(version=9, **ALICE), "takes it away"),
    "going back to where one is": (Story, RollBack(version=1, **ALICE), "in force for all"),
    "holding nothing": (Story, Hold(**ALICE), "no canary"),
    "no reason": (Story, Freeze(who="alice", why=""), "reason"),
    "steps that shrink": (Story, Begin(version=2, steps=STEPS[1::-1], **ALICE), "more than the one before"),
    "all at once": (Story, Begin(version=2, steps=STEPS[2:], **ALICE), "less than all"),
}


@pytest.mark.parametrize(("begin", "event", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(
    begin: Callable[[], Story], event: Event, message: str
) -> None:
    story = begin()
    before = story.state
    with pytest.raises(RefusedChangeError, match=message):
        story.happens(event)
    assert story.state == before


def test_a_restart_of_control_goes_on_where_it_was_and_time_away_does_not_count() -> None:
    story = canary().happens(Spread(connected_count=2), after_s=4)
    stored = msgspec.msgpack.encode(story.state)
    saved_s = story.now_s
    story.state, story.now_s = msgspec.msgpack.decode(stored, type=RolloutState), 7.0
    story.happens(Restarted(saved_s=saved_s))
    assert [(told.stable, told.canary, told.ratio) for told in story.told(Publish)] == [(1, 2, 0.1)]
    assert len(story.told(Mark)) == 1
    assert story.happens(judged(), after_s=5).now() == (1, 2, 0.1, False)
    assert story.happens(judged(), after_s=1).now() == (1, 2, 0.5, False)


def test_the_guard_looks_at_the_canary_beside_stable_and_at_a_bake_beside_the_window_before() -> None:
    windows = {1: {EVERY_ROUTE: Window(requests=900)}, 2: {EVERY_ROUTE: Window(requests=300, faults=300)}}
    assert look(RolloutState(stable=1), windows.__getitem__, SETTINGS, 1) is None
    for story in (canary(), baking()):
        verdict = look(story.state, windows.__getitem__, SETTINGS, 1)
        assert verdict is not None
        assert verdict.action == "roll_back"
        assert "stable 0.00%" in verdict.reason


versions = st.integers(1, 4)
events = st.one_of(
    versions.map(lambda version: Begin(version=version, steps=STEPS, **ALICE)),
    versions.map(lambda version: Begin(version=version, steps=STEPS[:2], **ALICE)),
    versions.map(lambda version: Activate(version=version, baseline=LATELY, **ALICE)),
    (st.none() | versions).map(lambda version: RollBack(version=version, **ALICE)),
    st.sampled_from([Freeze(**ALICE), Unfreeze(**ALICE), Hold(**ALICE), Resume(**ALICE)]),
    st.builds(Spread, connected_count=st.just(2), waits_for=st.sampled_from([(), (), ("a",)])),
    st.sampled_from(["promote", "promote", "keep", "roll_back"]).map(judged),
    st.builds(Restarted, saved_s=st.just(0.0)),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(events, st.sampled_from([0.0, 5.0, 70.0, 700.0])), max_size=40))
def test_whatever_happens_the_promises_hold(happened: list[tuple[Event, float]]) -> None:
    story = Story()
    for drawn, after_s in happened:
        before = story.state
        event = Restarted(saved_s=story.now_s) if isinstance(drawn, Restarted) else drawn
        try:
            story.happens(event, after_s=after_s)
        except RefusedChangeError:
            assert isinstance(event, Begin | Activate | RollBack | Hold | Resume)
            continue
        state = story.state
        assert all(command.why for command in story.commands)
        assert not (state.canary is not None and state.is_baking)
        assert state.canary != state.stable
        if before.canary is not None and state.canary is not None:
            assert state.canary == before.canary  # never two, one after the other without an end
            assert state.ratio >= before.ratio
        in_force = (state.stable, state.canary, state.ratio)
        if in_force != (before.stable, before.canary, before.ratio):
            assert (story.told(Publish)[-1].stable, story.told(Publish)[-1].canary) == in_force[:2]
            assert len(story.told(Record)) == len(story.told(Mark)) == 1
        if isinstance(event, Judged) and event.verdict.action == "roll_back" and story.commands:
            assert state.canary is None
            assert state.stable == (before.stable if before.canary is not None else before.previous)
            assert story.told(Record)[0].who == GUARD
        if before.is_frozen and isinstance(event, Judged) and event.verdict.action != "roll_back":
            assert state.stable == before.stable
            assert state.ratio == before.ratio
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=RolloutState) == state

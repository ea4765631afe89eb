"""How a version comes into force and goes again: stable, canary step by step, bake; a pure state machine.

    stable ─ begin ─► canary: step 0 ─► step 1 ─► ... ─► whole fleet, bake ─► stable
       ▲                 └── roll back: at any time ──────────┴──────► (the version that was stable before)

`transition` takes a state, an event and the time and gives the next state and commands: what routers shall
have, when windows begin anew, what the audit keeps. A step goes on once the guard says so, its hold is over
and every connected router has it. What the guard cannot decide by the deadline is held for a person; rolling
back is never held, nor frozen.

Invariant: there is one canary at most; its share only grows; what is rolled back to is what was stable;
every command says why. Neighbours: guard.py (verdicts), collect.py (windows); whoever runs this stores the
state before it publishes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

from control.collect import Routes, Window
from control.guard import GuardSettings, Verdict, judge
from router import limits
from router.schema.kinds import DAY_MS, Section

GUARD = "guard"  # who did it, in the audit, where no person did


class CanaryStep(Section, frozen=True, kw_only=True):
    """A share of the sessions, and how long it has to stand."""

    ratio: Annotated[float, Meta(gt=0, le=1, description="Of the sessions; 1: all, which is the promotion.")]
    hold_ms: Annotated[
        int, Meta(ge=0, le=30 * DAY_MS, description="At least so long, from when all routers have it.")
    ] = 300_000
    requests_min: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Of the canary in this step; absent: guard.requests_min."),
    ] = None


CanarySteps = Annotated[tuple[CanaryStep, ...], Meta(min_length=1, max_length=limits.CANARY_STEPS_MAX)]

DEFAULT_STEPS = tuple(CanaryStep(ratio=ratio) for ratio in (0.01, 0.1, 0.5, 1.0))


class RolloutState(Struct, frozen=True, kw_only=True):
    """Which versions are in force, and how far the change is. Stored whole; times are of one clock."""

    stable: int
    previous: int | None = None
    """To go back to: the last version that was stable before."""
    canary: int | None = None
    steps: tuple[CanaryStep, ...] = ()
    step_index: int = 0
    is_baking: bool = False
    begun_s: float = 0.0
    """When this step, or the bake, was decided."""
    in_force_s: float | None = None
    """When all connected routers had it first; None: they have not yet."""
    waits_for: tuple[str, ...] = ()
    """Connected routers that do not have it."""
    held: str = ""
    """Why it does not go on by itself."""
    is_frozen: bool = False
    """Nothing goes on by itself, and why is in the audit; a roll back does."""
    baseline: dict[str, Window] = msgspec.field(default_factory=dict)
    """In a bake: what the version before had counted."""

    @property
    def ratio(self) -> float:
        """Share of the sessions that the canary has."""
        return 0.0 if self.canary is None else self.steps[self.step_index].ratio

    def words(self) -> str:
        """For the audit and for people."""
        if self.canary is not None:
            return f"version {self.stable}, canary {self.canary} at {self.ratio:.3g}"
        return f"version {self.stable}" + (", baking" if self.is_baking else "")


class Event(Struct, frozen=True, kw_only=True):
    """What happened."""


class Asked(Event, frozen=True, kw_only=True):
    """A person, or a program for one, wants something."""

    who: str
    why: str


class Begin(Asked, frozen=True, kw_only=True):
    """Give a version to a share."""

    version: int
    steps: CanarySteps = DEFAULT_STEPS


class Activate(Asked, frozen=True, kw_only=True):
    """Give a version to all at once; of a canary this is its promotion."""

    version: int
    baseline: Routes
    """What stable counted lately."""


class RollBack(Asked, frozen=True, kw_only=True):
    """Take the canary away; without one, go back to `version`, or to the one before."""

    version: int | None = None


class Freeze(Asked, frozen=True, kw_only=True):
    """Nothing goes on by itself from here."""


class Unfreeze(Asked, frozen=True, kw_only=True):
    """It may again."""


class Hold(Asked, frozen=True, kw_only=True):
    """This step stays."""


class Resume(Asked, frozen=True, kw_only=True):
    """What was held goes on; its deadline begins anew."""


class Spread(Event, frozen=True, kw_only=True):
    """Which connected routers do not have what was published, and why where they said so."""

    connected_count: int
    waits_for: tuple[str, ...] = ()


class Judged(Event, frozen=True, kw_only=True):
    """The guard has looked."""

    verdict: Verdict
    baseline: Routes
    """What stable counted lately: what a bake that begins now compares with."""


class Restarted(Event, frozen=True, kw_only=True):
    """Control is back, with the state that it stored at `saved_s`; times do not count meanwhile."""

    saved_s: float


class Command(Struct, frozen=True, kw_only=True, tag=True):
    """What is to be done, in order."""

    why: str


class Publish(Command, frozen=True, kw_only=True):
    """Give routers these."""

    stable: int
    canary: int | None
    ratio: float


class Mark(Command, frozen=True, kw_only=True):
    """Begin windows anew (`Collector.mark`)."""


class Record(Command, frozen=True, kw_only=True):
    """Write into the audit."""

    who: str
    what: str
    before: str
    after: str


Outcome = tuple[RolloutState, tuple[Command, ...]]


class RefusedChangeError(ValueError):
    """It cannot be done now; the message says why, and what can."""


def transition(state: RolloutState, event: Event, now_s: float, settings: GuardSettings) -> Outcome:
    """The next state, and what is to be done about it.

    Raises: RefusedChangeError, for what was asked; never for what was judged or spread.
    """
    match event:
        case Begin():
            return _begin(state, event, now_s)
        case Activate():
            return _activate(state, event, now_s, settings)
        case RollBack():
            return _roll_back(state, event.version, event.who, event.why, now_s)
        case Freeze():
            return _noted(state, structs.replace(state, is_frozen=True), "freeze", event.who, event.why)
        case Unfreeze():
            return _noted(state, structs.replace(state, is_frozen=False), "unfreeze", event.who, event.why)
        case Hold():
            _need_canary(state)
            return _noted(state, structs.replace(state, held=event.why), "hold", event.who, event.why)
        case Resume():
            _need_canary(state)
            resumed = structs.replace(state, held="", begun_s=now_s)
            return _noted(state, resumed, "resume", event.who, event.why)
        case Spread():
            return _spread(state, event, now_s), ()
        case Judged():
            return _judged(state, event, now_s, settings)
        case Restarted():
            return _restarted(state, event, now_s)
        case _:
            raise AssertionError(f"{event} is no event of a rollout")


def look(
    state: RolloutState, windows: Callable[[int], Routes], settings: GuardSettings, route_count: int
) -> Verdict | None:
    """What the guard says of what is new; None where nothing is. `windows`: since the mark, of a version."""
    if state.canary is not None:
        shares = sum(1 for step in state.steps if step.ratio < 1)
        return judge(
            settings,
            windows(state.canary),
            windows(state.stable),
            window_count=shares + 1,
            route_count=route_count,
            requests_min=state.steps[state.step_index].requests_min,
        )
    if not state.is_baking:
        return None
    return judge(
        settings,
        windows(state.stable),
        state.baseline,
        window_count=max(1, sum(1 for step in state.steps if step.ratio < 1) + 1),
        route_count=route_count,
        margin=settings.bake_margin,
    )


def check_steps(steps: tuple[CanaryStep, ...]) -> None:
    """Raises: RefusedChangeError, for steps that do not grow, or that begin with all."""
    ratios = [step.ratio for step in steps]
    if not ratios or ratios[0] >= 1:
        raise RefusedChangeError("the first step of a canary is less than all: activate the version instead")
    if any(later <= earlier for earlier, later in itertools.pairwise(ratios)):
        raise RefusedChangeError(f"each step must be more than the one before, these are {ratios}")
    if len(steps) > limits.CANARY_STEPS_MAX:
        raise RefusedChangeError(f"{len(steps)} steps: at most {limits.CANARY_STEPS_MAX}")


def _begin(state: RolloutState, event: Begin, now_s: float) -> Outcome:
    if state.canary is not None:
        raise RefusedChangeError(f"version {state.canary} is a canary already: promote it or roll it back")
    if state.is_baking:
        raise RefusedChangeError(
            f"version {state.stable} bakes, and the guard can watch one change at a time: wait, or roll back"
        )
    if event.version == state.stable:
        raise RefusedChangeError(f"version {event.version} is in force for all")
    check_steps(event.steps)
    begun = structs.replace(
        state, canary=event.version, steps=event.steps, step_index=0, begun_s=now_s, in_force_s=None, held=""
    )
    return _changed(state, begun, "canary", event.who, event.why)


def _activate(state: RolloutState, event: Activate, now_s: float, settings: GuardSettings) -> Outcome:
    if state.canary not in {None, event.version}:
        raise RefusedChangeError(f"version {state.canary} is a canary: promote it or roll it back first")
    if event.version == state.stable:
        raise RefusedChangeError(f"version {event.version} is in force for all")
    what = "promote" if state.canary is not None else "activate"
    active = _activated(state, event.version, event.baseline, now_s, settings)
    return _changed(state, active, what, event.who, event.why)


def _activated(
    state: RolloutState, version: int, baseline: Routes, now_s: float, settings: GuardSettings
) -> RolloutState:
    """All have it. What had not baked yet is nothing to go back to."""
    is_baking = settings.bake_ms > 0
    return structs.replace(
        state,
        stable=version,
        previous=state.previous if state.is_baking else state.stable,
        canary=None,
        steps=state.steps if state.canary is not None else (),
        step_index=0,
        is_baking=is_baking,
        begun_s=now_s,
        in_force_s=None,
        held="",
        baseline=dict(state.baseline if state.is_baking else baseline) if is_baking else {},
    )


def _roll_back(state: RolloutState, version: int | None, who: str, why: str, now_s: float) -> Outcome:
    if state.canary is not None:
        if version not in {None, state.stable}:
            raise RefusedChangeError(f"there is a canary: rolling back takes it away, {state.stable} stays")
        return _changed(state, _settled(state, state.stable, state.previous, now_s), "roll_back", who, why)
    to = state.previous if version is None else version
    if to is None:
        raise RefusedChangeError("nothing is known to go back to: name a version")
    if to == state.stable:
        raise RefusedChangeError(f"version {to} is in force for all")
    return _changed(state, _settled(state, to, None, now_s), "roll_back", who, why)


def _settled(state: RolloutState, stable: int, previous: int | None, now_s: float) -> RolloutState:
    return RolloutState(stable=stable, previous=previous, begun_s=now_s, is_frozen=state.is_frozen)


def _spread(state: RolloutState, event: Spread, now_s: float) -> RolloutState:
    in_force_s = state.in_force_s
    if in_force_s is None and event.connected_count and not event.waits_for:
        in_force_s = now_s
    return structs.replace(state, waits_for=event.waits_for, in_force_s=in_force_s)


def _judged(state: RolloutState, event: Judged, now_s: float, settings: GuardSettings) -> Outcome:
    verdict = event.verdict
    if state.canary is None and not state.is_baking:
        return state, ()
    if verdict.action == "roll_back":
        if state.canary is None and state.previous is None:
            return state, ()
        return _roll_back(state, None, GUARD, verdict.reason, now_s)
    if state.canary is None:
        return _bake(state, verdict, now_s, settings)
    missing = _what_is_missing(state, verdict, now_s)
    if not missing and not state.is_frozen and not state.held:
        return _step(state, event, now_s, settings)
    is_late = (now_s - state.begun_s) * 1000 >= max(
        settings.deadline_ms, state.steps[state.step_index].hold_ms
    )
    if missing and is_late and not state.held:
        why = f"not decided in time: {missing}"
        return _noted(state, structs.replace(state, held=why), "hold", GUARD, why)
    return state, ()


def _what_is_missing(state: RolloutState, verdict: Verdict, now_s: float) -> str:
    """Before the canary's next step; nothing where it may go on."""
    step = state.steps[state.step_index]
    if state.waits_for or state.in_force_s is None:
        names = ", ".join(state.waits_for[:3]) or "any router"
        return f"{names} does not have it yet, of {max(1, len(state.waits_for))} like that"
    if verdict.action != "promote":
        return verdict.reason
    if (now_s - state.in_force_s) * 1000 < step.hold_ms:
        return f"its step stands for {step.hold_ms / 1000:g} s"
    return ""


def _step(state: RolloutState, event: Judged, now_s: float, settings: GuardSettings) -> Outcome:
    why = event.verdict.reason
    canary = state.canary
    assert canary is not None
    if state.step_index + 1 == len(state.steps):
        held = f"it has passed its last step and waits for a person: {why}"
        return _noted(state, structs.replace(state, held=held), "hold", GUARD, held)
    if state.steps[state.step_index + 1].ratio >= 1:
        active = _activated(state, canary, event.baseline, now_s, settings)
        return _changed(state, active, "promote", GUARD, why)
    following = structs.replace(state, step_index=state.step_index + 1, begun_s=now_s, in_force_s=None)
    return _changed(state, following, "step", GUARD, why)


def _bake(state: RolloutState, verdict: Verdict, now_s: float, settings: GuardSettings) -> Outcome:
    if state.in_force_s is not None and (now_s - state.in_force_s) * 1000 >= settings.bake_ms:
        if verdict.action == "promote":
            return _noted(state, _baked(state), "bake", GUARD, verdict.reason)
        if (now_s - state.begun_s) * 1000 >= max(settings.deadline_ms, settings.bake_ms):
            why = f"the bake ends undecided, and the version stays: {verdict.reason}"
            return _noted(state, _baked(state), "bake", GUARD, why)
    return state, ()


def _baked(state: RolloutState) -> RolloutState:
    return structs.replace(state, is_baking=False, baseline={}, steps=(), step_index=0)


def _restarted(state: RolloutState, event: Restarted, now_s: float) -> Outcome:
    shift_s = now_s - event.saved_s
    in_force_s = None if state.in_force_s is None else state.in_force_s + shift_s
    again = structs.replace(state, begun_s=state.begun_s + shift_s, in_force_s=in_force_s, waits_for=())
    return again, _commands(again, "control was restarted")


def _need_canary(state: RolloutState) -> None:
    if state.canary is None:
        raise RefusedChangeError("there is no canary")


def _commands(state: RolloutState, why: str) -> tuple[Command, ...]:
    return (Publish(why=why, stable=state.stable, canary=state.canary, ratio=state.ratio), Mark(why=why))


def _changed(before: RolloutState, after: RolloutState, what: str, who: str, why: str) -> Outcome:
    """What routers have changes: written down first, then published, then windows begin anew."""
    _, noted = _noted(before, after, what, who, why)
    return structs.replace(after, waits_for=()), (*noted, *_commands(after, why))


def _noted(before: RolloutState, after: RolloutState, what: str, who: str, why: str) -> Outcome:
    if not why:
        raise RefusedChangeError("a change needs a reason")
    return after, (Record(why=why, who=who, what=what, before=before.words(), after=after.words()),)

"""What is known of one endpoint's health, and what each piece of evidence makes of it: a pure state machine.

`after(health, event, settings)` takes what probes found, how requests fared, what engines say of their queues
and what operators want. A row of good or bad probes brings an endpoint up or down; the rest only says how
well it is. Saturation is not failure: whoever gets on with requests is never down for being slow to answer a
probe. What only one region of routers sees is the path's, not the endpoint's.

Invariant: time comes with the events and never goes back; a condition follows from the evidence alone.
Neighbours: health_settings.py (bounds), fleet_health.py (holds one for each endpoint), probe.py (asks).
"""

from __future__ import annotations

import math
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from control.health_settings import HealthSettings
from router import limits

REPORT_LAG_S = 2 * limits.REPORT_INTERVAL_MS / 1000
"""What a router says now may have happened this long ago, before a failure that is known already."""

LATENCY_WEIGHT = 0.3  # of the newest probe: five slow ones in a row, or one very slow one, show
FLAKY_WEIGHT = 0.1  # likewise of whether it failed ...
FLAKY_RATIO_MAX = 0.25  # ... so that every third or fourth failing shows, though never `fall` in a row
LOAD_FRESH_S = 10.0  # a queue that was told longer ago says nothing of now


class Condition(StrEnum):
    """How an endpoint is, in one word."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    WARMING = "warming"
    BUSY = "busy"
    DRAINING = "draining"
    DOWN = "down"


class Answer(StrEnum):
    """What a probe found."""

    OK = "ok"
    LOADING = "loading"  # it lives and says that its model is not there yet
    BUSY = "busy"  # it lives and says that it has too much to do
    REFUSED = "refused"  # no connection
    TIMED_OUT = "timed_out"
    CUT = "cut"  # connected, then closed or reset
    STATUS = "status"  # an answer that says it is not well
    UNREADABLE = "unreadable"  # an answer that no engine gives: HTML, a redirect, no HTTP
    REJECTED = "rejected"  # the question was wrong (a model it has not, a key): says nothing of its health


GOOD = (Answer.OK, Answer.BUSY)


class ProbeKind(StrEnum):
    """What was asked."""

    LIVENESS = "liveness"
    GENERATION = "generation"


class Probed(Struct, frozen=True, kw_only=True):
    """A probe came to an end."""

    at_s: float
    answer: Answer
    kind: ProbeKind = ProbeKind.LIVENESS
    latency_s: float = 0.0
    detail: str = ""
    """What it said, for people: `503: Loading model`."""


class Attempted(Struct, frozen=True, kw_only=True):
    """What the routers of one region did with it since they last reported."""

    at_s: float
    region: str
    attempts: int
    faults: int
    output_tokens: int = 0


class Loaded(Struct, frozen=True, kw_only=True):
    """What it says of its queue."""

    at_s: float
    waiting: int
    has_progressed: bool = False
    """Whether it made tokens since it last said."""


class Drained(Struct, frozen=True, kw_only=True):
    """An operator takes it out of use, or back."""

    at_s: float
    is_draining: bool
    by: str = ""


Event = Probed | Attempted | Loaded | Drained


class Streak(Struct, frozen=True, kw_only=True):
    """Probes of one kind, in a row."""

    is_up: bool | None = None
    good: int = 0
    bad: int = 0
    bad_since_s: float = 0.0
    detail: str = ""
    """Of the last bad one."""


class PathHealth(Struct, frozen=True, kw_only=True):
    """How requests from the routers of one region fare; counts fade with `fault_half_life_ms`."""

    region: str
    attempts: float = 0.0
    faults: float = 0.0
    seen_s: float = 0.0
    condition: Condition = Condition.UNKNOWN
    since_s: float = 0.0

    @property
    def fault_ratio(self) -> float:
        """Share of the attempts that failed."""
        return min(1.0, self.faults / self.attempts) if self.attempts > 0 else 0.0


class EndpointHealth(Struct, frozen=True, kw_only=True):
    """All that is known of one endpoint. Made by `unknown`, changed by `after` alone."""

    condition: Condition = Condition.UNKNOWN
    since_s: float = 0.0
    reason: str = "not probed yet"
    """Why it is so, for people."""
    seen_s: float = 0.0
    """Of the last event."""
    probed_s: float | None = None
    liveness: Streak = Streak()
    generation: Streak = Streak()
    is_loading: bool = False
    said_busy: bool = False
    """By the last probe."""
    latency_s: float | None = None
    """Of probes, smoothed."""
    flaky_ratio: float = 0.0
    """Share of probes that fail, smoothed."""
    waiting: int = 0
    waiting_s: float = -math.inf
    is_saturated: bool = False
    alive_s: float = -math.inf
    """When requests last got on."""
    is_draining: bool = False
    drained_by: str = ""
    is_held: bool = False
    """It comes and goes, and must stay good for longer."""
    penalty: float = 0.0
    """At `penalty_s`: changes of late, fading."""
    penalty_s: float = 0.0
    fault_ratio: float = 0.0
    """Of attempts from everywhere, where there are enough."""
    is_faulty: bool = False
    """Attempts fail in most regions that send any."""
    paths: tuple[PathHealth, ...] = ()


def unknown(now_s: float) -> EndpointHealth:
    """Of an endpoint that was never seen."""
    return EndpointHealth(since_s=now_s, seen_s=now_s, penalty_s=now_s)


def after(health: EndpointHealth, event: Event, settings: HealthSettings) -> EndpointHealth:
    """The health that `event` leaves behind. An event from before the last one counts as of that moment."""
    now_s = max(event.at_s, health.seen_s)
    before = works(health)
    match event:
        case Probed():
            health = _after_probe(health, event, now_s, settings)
        case Attempted():
            health = _after_attempts(health, event, now_s, settings)
        case Loaded():
            health = _after_load(health, event, now_s)
        case Drained():
            health = replace(health, is_draining=event.is_draining, drained_by=event.by)
    health = _damped(_judged(health, now_s, settings), before, now_s, settings)
    condition, reason = _conclusion(health, settings)
    since_s = health.since_s if condition is health.condition else now_s
    return replace(health, condition=condition, reason=reason, since_s=since_s, seen_s=now_s)


def works(health: EndpointHealth) -> bool | None:
    """What probes say, undamped: it would answer a request, it would not, or too few have looked."""
    if health.liveness.is_up:
        return health.generation.is_up is not False
    return health.liveness.is_up


def health_value(health: EndpointHealth, region: str = "") -> float:
    """What routers of `region` are told: 1 for good, 0 for gone; the score takes the rest for a share of
    attempts that fail. Busy is 1: a queue has its own signal and would count twice. Unknown, too.
    """
    match health.condition:
        case Condition.DOWN | Condition.DRAINING:
            return 0.0
        case Condition.WARMING:
            return 0.1
        case Condition.DEGRADED:
            value = min(0.5, 1 - health.fault_ratio) if health.is_faulty else 0.5
        case _:
            value = 1.0
    path = next((path for path in health.paths if path.region == region), None)
    if path is not None and path.condition is Condition.DEGRADED:
        return min(value, 1 - path.fault_ratio)
    return value


def is_left_out(health: EndpointHealth) -> bool:
    """Whether snapshots go without it. Only an operator's word does that: what merely looks down stays, so
    that a control that is wrong about the whole fleet costs nothing but order.
    """
    return health.condition is Condition.DRAINING


def _after_probe(
    health: EndpointHealth, event: Probed, now_s: float, settings: HealthSettings
) -> EndpointHealth:
    if event.kind is ProbeKind.GENERATION:
        return _after_generation(health, event, now_s, settings)
    health = replace(health, probed_s=now_s, said_busy=event.answer is Answer.BUSY)
    if event.answer is Answer.REJECTED:
        return health
    if event.answer is Answer.LOADING:
        # Its own word, at once: it was restarted, or changes its model.
        is_up = None if health.liveness.is_up is None else False
        return replace(health, is_loading=True, liveness=Streak(is_up=is_up, detail=event.detail))
    is_good = event.answer in GOOD
    streak = _counted(health, health.liveness, event, now_s, settings)
    if streak.bad >= settings.fall and not streak.is_up:
        # What comes back is another process: how this one was says nothing of it.
        return replace(
            health,
            liveness=streak,
            generation=Streak(),
            is_loading=False,
            is_saturated=False,
            latency_s=None,
            flaky_ratio=0.0,
        )
    return replace(
        health,
        liveness=streak,
        is_loading=health.is_loading and streak.good < settings.rise and streak.bad < settings.fall,
        latency_s=_smoothed_latency(health, event)
        if is_good or event.answer is Answer.TIMED_OUT
        else health.latency_s,
        flaky_ratio=health.flaky_ratio + ((not is_good) - health.flaky_ratio) * FLAKY_WEIGHT,
    )


def _smoothed_latency(health: EndpointHealth, event: Probed) -> float:
    seen_s = max(event.latency_s, 0.0)
    known_s = health.latency_s
    return seen_s if known_s is None else known_s + (seen_s - known_s) * LATENCY_WEIGHT


def _after_generation(
    health: EndpointHealth, event: Probed, now_s: float, settings: HealthSettings
) -> EndpointHealth:
    match event.answer:
        case Answer.REJECTED | Answer.LOADING | Answer.BUSY:
            return health  # not asked rightly, or no more than a health probe says
        case Answer.OK:
            health = replace(health, alive_s=now_s)
    return replace(health, generation=_counted(health, health.generation, event, now_s, settings))


def _counted(
    health: EndpointHealth, streak: Streak, event: Probed, now_s: float, settings: HealthSettings
) -> Streak:
    if event.answer in GOOD:
        good = streak.good + 1
        return Streak(is_up=True if good >= settings.rise else streak.is_up, good=good)
    streak = Streak(
        is_up=streak.is_up,
        bad=streak.bad + 1,
        bad_since_s=streak.bad_since_s if streak.bad else now_s,
        detail=event.detail or event.answer.replace("_", " "),
    )
    if streak.bad < settings.fall:
        return streak
    return replace(streak, is_up=_gets_on(health, streak, event.answer, now_s, settings))


def _gets_on(
    health: EndpointHealth, streak: Streak, answer: Answer, now_s: float, settings: HealthSettings
) -> bool:
    """Whether it answers requests, of late and since probes began to fail: more than any probe can show.

    It is up then, whatever its health page or the way from here to it is like. One that is full is expected
    to be slow to answer probes: what it did before they timed out counts too.
    """
    if now_s - health.alive_s > settings.life_ms / 1000:
        return False
    if health.is_saturated and answer is Answer.TIMED_OUT:
        return True
    return health.alive_s > streak.bad_since_s + REPORT_LAG_S


def _after_attempts(
    health: EndpointHealth, event: Attempted, now_s: float, settings: HealthSettings
) -> EndpointHealth:
    attempts = max(event.attempts, 0)
    faults = min(max(event.faults, 0), attempts)
    if attempts > faults or event.output_tokens > 0:
        health = replace(health, alive_s=now_s)
    path = next(
        (path for path in health.paths if path.region == event.region),
        PathHealth(region=event.region, seen_s=now_s, since_s=now_s),
    )
    path = _faded(path, now_s, settings)
    path = replace(path, attempts=path.attempts + attempts, faults=path.faults + faults, seen_s=now_s)
    others = [other for other in health.paths if other.region != event.region]
    if len(others) >= limits.REGIONS_PER_ENDPOINT_MAX:
        others.remove(min(others, key=lambda other: other.seen_s))
    return replace(health, paths=(*others, path))


def _after_load(health: EndpointHealth, event: Loaded, now_s: float) -> EndpointHealth:
    alive_s = now_s if event.has_progressed else health.alive_s
    return replace(health, waiting=max(event.waiting, 0), waiting_s=now_s, alive_s=alive_s)


def _faded(path: PathHealth, now_s: float, settings: HealthSettings) -> PathHealth:
    keep = 0.5 ** ((now_s - path.seen_s) / (settings.fault_half_life_ms / 1000))
    return replace(path, attempts=path.attempts * keep, faults=path.faults * keep, seen_s=now_s)


def _judged(health: EndpointHealth, now_s: float, settings: HealthSettings) -> EndpointHealth:
    """With what follows from counts and queues: which paths fail, whether it is the endpoint, if it is full.

    One that is avoided gets no attempts, so what is held against it fades until it is tried again.
    """
    faded = [_faded(path, now_s, settings) for path in health.paths]
    telling = [path for path in faded if path.attempts >= settings.attempts_min]
    failing = [path for path in telling if path.fault_ratio > settings.fault_ratio_max]
    # Where most regions see failures it is the endpoint; with one region alone nothing tells them apart.
    is_faulty = 2 * len(failing) > len(telling)
    attempts = sum(path.attempts for path in telling)
    is_told = now_s - health.waiting_s <= LOAD_FRESH_S
    waiting_min = settings.busy_waiting_min / (2 if health.is_saturated else 1)
    return replace(
        health,
        paths=tuple(_path_judged(path, path in telling, path in failing, now_s) for path in faded),
        is_faulty=is_faulty,
        fault_ratio=sum(path.faults for path in telling) / attempts if attempts else 0.0,
        is_saturated=is_told and health.waiting >= waiting_min,
        generation=health.generation if settings.generation.is_on else Streak(),
    )


def _path_judged(path: PathHealth, is_telling: bool, is_failing: bool, now_s: float) -> PathHealth:
    condition = Condition.DEGRADED if is_failing else Condition.HEALTHY if is_telling else Condition.UNKNOWN
    return path if condition is path.condition else replace(path, condition=condition, since_s=now_s)


def _damped(
    health: EndpointHealth, before: bool | None, now_s: float, settings: HealthSettings
) -> EndpointHealth:
    damping = settings.damping
    penalty = health.penalty * 0.5 ** ((now_s - health.penalty_s) / (damping.half_life_ms / 1000))
    now = works(health)
    # What an operator does to an endpoint that is drained is no flapping.
    if before is not None and now is not None and now is not before and not health.is_draining:
        penalty = min(penalty + 1, damping.penalty_max)
    bound = damping.reuse_below if health.is_held else damping.suppress_above
    return replace(health, penalty=penalty, penalty_s=now_s, is_held=penalty > bound)


def _conclusion(health: EndpointHealth, settings: HealthSettings) -> tuple[Condition, str]:
    """The condition and its reason; the first that holds, the one that matters most first."""
    liveness, generation = health.liveness, health.generation
    if health.is_draining:
        by = f" by {health.drained_by}" if health.drained_by else ""
        return Condition.DRAINING, f"taken out of use{by}; requests that run go on"
    if health.is_loading and liveness.good:
        return Condition.WARMING, f"it has loaded its model: {liveness.good} of {settings.rise} good probes"
    if health.is_loading:
        return Condition.WARMING, _with_detail("it loads its model", liveness.detail)
    if liveness.is_up is False:
        if liveness.good:
            return Condition.DOWN, f"answers again: {liveness.good} of {settings.rise} good probes"
        return Condition.DOWN, _with_detail(f"{liveness.bad} probes failed in a row", liveness.detail)
    if liveness.is_up is None:
        if liveness.bad:
            return Condition.UNKNOWN, _with_detail("no good probe yet", liveness.detail)
        return Condition.UNKNOWN, f"{liveness.good} of {settings.rise} good probes so far"
    if generation.is_up is False:
        text = f"health probes are good, but {generation.bad} tries to generate a token failed"
        if generation.good:
            text = f"generates again: {generation.good} of {settings.rise} good tries"
        return Condition.DOWN, _with_detail(text, generation.detail)
    if health.is_held:
        wait_s = _held_for_s(health, settings)
        return Condition.DOWN, f"it comes and goes: must stay good for {math.ceil(wait_s)} s more"
    return _shade(health, settings)


def _shade(health: EndpointHealth, settings: HealthSettings) -> tuple[Condition, str]:
    """Of an endpoint that is up: how well it is."""
    is_failing = health.liveness.bad >= settings.fall
    if health.is_saturated:
        return Condition.BUSY, f"{health.waiting} requests wait in its queue"
    if health.said_busy:
        return Condition.BUSY, "it says that it has too much to do"
    if is_failing:
        text = f"{health.liveness.bad} probes failed in a row, yet it answers requests"
        return Condition.DEGRADED, _with_detail(text, health.liveness.detail)
    if health.is_faulty:
        return Condition.DEGRADED, f"{health.fault_ratio:.0%} of attempts fail though probes are good"
    if health.flaky_ratio > FLAKY_RATIO_MAX:
        return Condition.DEGRADED, f"{health.flaky_ratio:.0%} of probes fail, though not enough in a row"
    if health.latency_s is not None and health.latency_s > settings.slow_ms / 1000:
        return Condition.DEGRADED, f"probes take {health.latency_s:.1f} s"
    failing = [path.region or "(none)" for path in health.paths if path.condition is Condition.DEGRADED]
    if failing:
        return Condition.HEALTHY, f"well, but attempts fail from {', '.join(sorted(failing))}"
    return Condition.HEALTHY, "probes are good"


def _held_for_s(health: EndpointHealth, settings: HealthSettings) -> float:
    ratio = health.penalty / settings.damping.reuse_below
    return max(0.0, math.log2(ratio) * settings.damping.half_life_ms / 1000) if ratio > 1 else 0.0


def _with_detail(text: str, detail: str) -> str:
    return f"{text}: {detail}" if detail else text

"""How endpoints are probed and judged: the `health` section of control's own configuration.

Defaults hold for engines on one's own network; an engine's row in `engines` changes them for its endpoints
alone. Invariant: an endpoint that dies is down after `fall` probes, some six seconds, and what is refused or
reset ejects it in the routers before that. Neighbours: health.py judges by these, health_checker.py probes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, field

from router import limits
from router.schema.config import Engine
from router.schema.kinds import Milliseconds, Section

Count = Annotated[int, Meta(ge=1, le=1000)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Path = Annotated[str, Meta(max_length=1024, pattern=r"^(/[!-~]*)?$")]


class GenerationApi(StrEnum):
    """Which question a generation probe asks."""

    COMPLETIONS = "completions"
    CHAT = "chat"


class Damping(Section, frozen=True, kw_only=True):
    """What is done about endpoints that come and go (after RFC 2439, which damps routes of networks)."""

    half_life_ms: Annotated[
        Milliseconds, Meta(description="Time in which the penalty of one that stays put halves.")
    ] = 60_000
    suppress_above: Annotated[
        float,
        Meta(ge=1, le=1000, description="A penalty above it, 1 for each change, holds the endpoint down."),
    ] = 3.0
    reuse_below: Annotated[
        float, Meta(gt=0, le=1000, description="It is held until its penalty is below this.")
    ] = 1.5
    penalty_max: Annotated[
        float, Meta(ge=1, le=1000, description="However often it flaps: bounds how long it is held.")
    ] = 6.0

    def __post_init__(self) -> None:
        if not self.reuse_below < self.suppress_above < self.penalty_max:
            raise ValueError("reuse_below must be less than suppress_above, and that less than penalty_max")


class Generation(Section, frozen=True, kw_only=True):
    """A real request for one token, now and then: it finds what is green and does not work."""

    is_on: Annotated[bool, Meta(description="Whether it is asked at all; it costs the engine a prefill.")] = (
        False
    )
    interval_ms: Annotated[Milliseconds, Meta(description="How often, on average.")] = 30_000
    timeout_ms: Annotated[Milliseconds, Meta(description="An answer that takes longer is none.")] = 15_000
    api: Annotated[
        GenerationApi | None,
        Meta(description="Which API; absent: `chat` for providers (`openai`), `completions` for the rest."),
    ] = None
    model: Annotated[
        str,
        Meta(
            max_length=limits.MODEL_BYTES_MAX,
            description="Asked for; empty: the endpoint's first. One without models is then not asked.",
        ),
    ] = ""


class EngineProbe(Section, frozen=True, kw_only=True):
    """What is different for the endpoints of one engine; what is absent is not."""

    path: Annotated[Path | None, Meta(description="Asked with GET; empty: a TCP connection is all..")] = None
    interval_ms: Annotated[Milliseconds | None, Meta(description="How often, on average.")] = None
    timeout_ms: Annotated[Milliseconds | None, Meta(description="An answer that takes longer is none.")] = (
        None
    )
    slow_ms: Annotated[Milliseconds | None, Meta(description="Slower answers degrade.")] = None


ENGINE_DEFAULTS = {
    # A provider counts requests against a quota and is far away: asked seldom, and given time.
    Engine.OPENAI: EngineProbe(interval_ms=15_000, timeout_ms=5_000, slow_ms=3_000),
}


class HealthSettings(Section, frozen=True, kw_only=True):
    """How endpoints are probed, and what makes them healthy, degraded, busy or down."""

    interval_ms: Annotated[Milliseconds, Meta(description="How often each is probed, on average.")] = 2_000
    timeout_ms: Annotated[Milliseconds, Meta(description="An answer that takes longer is none.")] = 2_000
    jitter_ratio: Annotated[
        Ratio,
        Meta(description="Intervals vary by so much of themselves, so that probes never march in step."),
    ] = 0.2
    rise: Annotated[Count, Meta(description="Good probes in a row that bring an endpoint up.")] = 2
    fall: Annotated[Count, Meta(description="Bad probes in a row that take it down.")] = 3
    slow_ms: Annotated[
        Milliseconds, Meta(description="Probes that take longer on average make it degraded.")
    ] = 1_000
    busy_waiting_min: Annotated[
        Count, Meta(description="So many requests waiting in its queue make it busy; half as many end that.")
    ] = 16
    fault_ratio_max: Annotated[
        Ratio, Meta(description="A larger share of failed attempts makes an endpoint or path degraded.")
    ] = 0.1
    attempts_min: Annotated[
        Count, Meta(description="With fewer attempts of late their failures say nothing.")
    ] = 20
    fault_half_life_ms: Annotated[Milliseconds, Meta(description="Attempts count half after this.")] = 30_000
    life_ms: Annotated[
        Milliseconds,
        Meta(
            description="Who answered a request, or got on with one, within this is not down, whatever "
            "probes say."
        ),
    ] = 15_000
    at_once_max: Annotated[
        Annotated[int, Meta(ge=1, le=limits.PROBES_AT_ONCE_MAX)],
        Meta(description="Probes that may be open at once, all endpoints together."),
    ] = limits.PROBES_AT_ONCE_DEFAULT
    lag_ms: Annotated[
        Milliseconds,
        Meta(
            description="What was asked while the prober itself was held up for longer than this is thrown "
            "away."
        ),
    ] = 500  # a quarter of the time-out: a shorter lag makes no answer late
    damping: Annotated[Damping, Meta(description="What is done about endpoints that come and go.")] = field(
        default_factory=Damping
    )
    generation: Annotated[Generation, Meta(description="A real request for one token, now and then.")] = (
        field(default_factory=Generation)
    )
    engines: Annotated[
        dict[Engine, EngineProbe], Meta(description="What is different, by engine: `openai: {...}`.")
    ] = field(default_factory=dict)

    def of(self, engine: Engine) -> HealthSettings:
        """These settings with what is different for `engine` put in."""
        own, usual = self.engines.get(engine, EngineProbe()), ENGINE_DEFAULTS.get(engine, EngineProbe())
        return msgspec.structs.replace(
            self,
            interval_ms=own.interval_ms or usual.interval_ms or self.interval_ms,
            timeout_ms=own.timeout_ms or usual.timeout_ms or self.timeout_ms,
            slow_ms=own.slow_ms or usual.slow_ms or self.slow_ms,
        )

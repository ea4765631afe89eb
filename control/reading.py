"""What an engine said of itself at one moment, in our words.

Invariant: None is "not known", which is never the same as 0; a number is finite, not negative and within its
bound. Neighbours: dialects.py, load_pages.py and gpu_power.py make readings, scrape.py passes them on,
cost.py subtracts counters of two of them.
"""

from __future__ import annotations

import math
from operator import attrgetter

from msgspec import Struct

REQUESTS_MAX = 1e6  # REQUESTS_MAX of router/native/signals: more is no count of requests
TOLERATED = (
    1.25  # TOLERATED of the same: a share that much above its bound is rounded, beyond it is another unit
)


class Fact(Struct, frozen=True):
    """One word of a reading."""

    kind: str
    """A field of `Reading`. `waiting`, `running`, `kv` and `power` are signals of the link."""
    value: float


class Reading(Struct, frozen=True, kw_only=True):
    """One engine at one moment."""

    waiting: float | None = None
    """Requests in its queues."""
    running: float | None = None
    """Requests in its batch; requests of either kind where it does not tell them apart."""
    kv: float | None = None
    """Share of the fullest KV cache that is in use."""
    power: float | None = None
    """Draw / limit of the GPU that is nearest to it; 1 where one is held back for power or heat."""
    watts: float | None = None
    """Draw of all its GPUs."""
    gpu_use: float | None = None
    """Share of the time that its busiest GPU computes."""
    preemptions: float | None = None
    """Counters since the engine started, of which only differences mean something."""
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    generation_tokens: float | None = None
    slots: float | None = None
    """Requests that it takes at once, where it says so."""
    kv_tokens: float | None = None
    """What its KV cache holds, where it says so."""
    models: tuple[str, ...] | None = None
    """Names of models in memory."""

    def facts(self) -> tuple[Fact, ...]:
        """What is known and is a number."""
        told = zip(KINDS, _values(self), strict=True)
        return tuple([Fact(kind, value) for kind, value in told if value is not None])


KINDS = tuple(name for name in Reading.__struct_fields__ if name != "models")

_values = attrgetter(*KINDS)


def requests(value: float | None) -> float | None:
    """As a number of requests."""
    return value if value is not None and 0 <= value <= REQUESTS_MAX else None


def ratio(value: float | None) -> float | None:
    """As a share of something."""
    if value is None or not math.isfinite(value) or not 0 <= value <= TOLERATED:
        return None
    return min(value, 1.0)

"""The plain reading of the residency table, for one writer: what router/native/residency.pyx must answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MODELS_MAX = 8
LOAD_S_MAX = 3600.0
INTERVAL_MAX_US = 2**32 - 1
INTERVAL_COUNT = 8
HARMED_MAX = 32.0
LATE_LOADS_MAX = 4.0


def clamped(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LOAD_S_MAX)


@dataclass
class Use:
    """Of one model at one endpoint. `ready_us` None: it has answered."""

    used_us: int
    ready_us: int | None
    load_s: float
    interval_us: int


@dataclass
class Slot:
    """The models that one endpoint was asked for last."""

    uses: dict[int, Use] = field(default_factory=dict)

    def is_resident(self, model: int, models_max: int, now_us: int) -> bool:
        use = self.uses.get(model)
        return use is not None and not self._left_s(use, now_us) and self._later(model, now_us) < models_max

    def wait_s(self, model: int, load_s: float, models_max: int, now_us: int) -> float:
        load_s = clamped(load_s)
        if not model or not models_max:
            return 0.0
        use = self.uses.get(model)
        if use is not None:
            if self._left_s(use, now_us):
                return self._left_s(use, now_us)
            if self._later(model, now_us) < models_max:
                late_us = 0 if use.ready_us is None else now_us - use.ready_us
                return min(clamped(late_us / 1e6), LATE_LOADS_MAX * load_s)
        if not load_s:
            return 0.0
        return load_s + max((self._left_s(other, now_us) for other in self.uses.values()), default=0.0)

    def must_load(self, model: int, models_max: int, now_us: int) -> bool:
        """It is neither there nor planned."""
        use = self.uses.get(model)
        is_planned = use is not None and self._left_s(use, now_us) > 0
        return (
            bool(model and models_max) and not is_planned and not self.is_resident(model, models_max, now_us)
        )

    def harm_s(self, model: int, models_max: int, now_us: int) -> float:
        """Of a model that must be loaded."""
        others = [other for other in self.uses if other != model]
        last = [self.uses[other] for other in others if self._later(other, now_us) == models_max - 1]
        if not last:
            return 0.0
        out = min(last, key=lambda use: use.used_us)
        return out.load_s * min(out.load_s / self._interval_s(out, now_us), HARMED_MAX)

    def used(self, model: int, load_s: float, wait_s: float, now_us: int) -> None:
        if not model:
            return
        known = self.uses.get(model)
        interval_us = INTERVAL_MAX_US
        if known is None and len(self.uses) == MODELS_MAX:
            del self.uses[min(self.uses, key=lambda other: self.uses[other].used_us)]
        if known is not None:
            since_us = min(now_us - known.used_us, INTERVAL_MAX_US)
            interval_us = known.interval_us
            if interval_us >= INTERVAL_MAX_US:
                interval_us = since_us
            else:
                interval_us += since_us // INTERVAL_COUNT - interval_us // INTERVAL_COUNT
        ready_us = known.ready_us if known is not None else None
        if wait_s > 0:
            ready_us = now_us + int(clamped(wait_s) * 1e6) | 1
        self.uses[model] = Use(now_us, ready_us, clamped(load_s), interval_us)

    def seen(self, model: int) -> None:
        if model in self.uses:
            self.uses[model].ready_us = None

    def _later(self, model: int, now_us: int) -> int:
        used_us = self.uses[model].used_us
        others = [use for other, use in self.uses.items() if other != model]
        return sum(use.used_us > used_us or self._left_s(use, now_us) > 0 for use in others)

    @staticmethod
    def _left_s(use: Use, now_us: int) -> float:
        return 0.0 if use.ready_us is None else clamped((use.ready_us - now_us) / 1e6)

    @staticmethod
    def _interval_s(use: Use, now_us: int) -> float:
        known_us = use.interval_us if use.interval_us < INTERVAL_MAX_US else use.load_s * 1e6
        return max(known_us, now_us - use.used_us) / 1e6 + 1e-3

"""Signals and load reports, slow and obvious: what native/signals and native/load_report must answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

AHEAD_US_MAX = 10_000
BOUNDS = {"waiting": 1e6, "running": 1e6, "kv": 1.0, "power": 1.0, "rtt_s": 60.0, "health": 1.0}
STALE_S = {"kv": 5.0, "power": 5.0, "health": 10.0}


@dataclass
class Row:
    """The signals of one endpoint: (value, stamp in milliseconds, source)."""

    told: dict[str, tuple[float, int, str]] = field(default_factory=dict)

    def push(self, name: str, value: float, stamp_us: int, source: str, now_us: int) -> str:
        bound = BOUNDS[name]
        if math.isnan(value):
            return "not_a_number"
        if value < 0:
            return "negative"
        if value > 1.25 * bound:
            return "too_large"
        if stamp_us > now_us + AHEAD_US_MAX:
            return "from_the_future"
        stamp_ms = max(1, min(stamp_us, now_us) // 1000)
        if name in self.told and stamp_ms < self.told[name][1]:
            return "out_of_order"
        self.told[name] = (min(value, bound), stamp_ms, source)
        return "clamped" if value > bound else "taken"

    def weight(self, name: str, now_us: int) -> float:
        if name not in self.told:
            return 0.0
        return max(0.0, 1 - self.age_s(name, now_us) / STALE_S[name])

    def age_s(self, name: str, now_us: int) -> float:
        return max(0, now_us - self.told[name][1] * 1000) / 1e6

    def others(self, in_flight: float, pending: float, now_us: int) -> tuple[float, float]:
        """(waiting, running) beyond the router's own, when the signals are seen for the first time."""
        ages = {name: self.age_s(name, now_us) for name in ("waiting", "running") if name in self.told}
        fresh = {name: self.told[name][0] for name, age_s in ages.items() if age_s < 1}
        if not fresh:
            return 0.0, 0.0
        waiting = max(0.0, fresh.get("waiting", 0) - pending)
        running = max(0.0, sum(fresh.values()) - in_flight - waiting)
        left = math.exp(-min(ages.values()) / 0.2)
        return waiting * left, running * left


def read_report(text: bytes) -> tuple[float | None, float | None, float | None] | None:
    """(waiting, running, kv) of a well-formed report."""
    form, _, rest = text.decode("latin-1").partition(" ")
    found: dict[str, float | str]
    if form == "JSON":
        members = json.loads(rest)
        found = {**members, **members.get("named_metrics", {})}
    else:
        found = {}
        for pair in rest.split(","):
            name, _, value = pair.strip().partition("=")
            found[name.removeprefix("named_metrics.")] = value

    def number(*names: str) -> float | None:
        return next((float(found[name]) for name in names if name in found), None)

    return (
        number("num_requests_waiting"),
        number("num_requests_running"),
        number("kv_cache_usage_perc", "kv_cache_utilization"),
    )

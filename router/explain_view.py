"""Explained decisions as /debug/explain shows them: records of the ring with names in place of numbers.

Read from shared memory alone, so it costs the workers nothing and answers when they are busy. Neighbours:
native/explain (the ring, and what each reason means), supervisor.py calls this, explain_report.py prints it.
"""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.schema.policies import POLICIES
from router.slots import name_and_version

SIGNIFICANT_DIGITS = 6  # float32 has 7; more would show digits that nobody computed

_POLICIES = {policy.KIND: name for name, policy in POLICIES.items()}


def describe_decisions(
    records: Iterable[Mapping[str, Any]],
    *,
    endpoints: Sequence[str],
    routes: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows for JSON, in the order of `records`, which are as ExplainRing gives them.

    `endpoints` are by slot, `routes` by index in the metrics, as slots.name_in_version makes them; what has
    no name there is shown as its number.
    """
    return [
        _decision(record, [_candidate(candidate, endpoints) for candidate in record["shown"]], routes)
        for record in records
        if record["shown"]
    ]


def _decision(
    record: Mapping[str, Any], shown: list[dict[str, Any]], routes: Sequence[str]
) -> dict[str, Any]:
    route, version = name_and_version(_name(routes, record["route"]))
    return {
        "request_id": record["request_id"],
        "time": _time(record["wall_us"]),
        "route": route,
        **({"version": version} if version else {}),
        "policy": _POLICIES.get(record["policy"], str(record["policy"])),
        "attempt": record["attempt"],
        "reason": record["reason"],
        "candidates": record["candidates"],
        "eligible": record["eligible"],
        "prompt_tokens": record["prompt_tokens"],
        "output_tokens": record["output_tokens"],
        "has_session": record["has_session"],
        "session": record["session"],
        "session_tokens": record["session_tokens"],
        "winner": shown[0],
        "runners_up": shown[1:],
    }


def _candidate(candidate: Mapping[str, Any], endpoints: Sequence[str]) -> dict[str, Any]:
    terms = candidate["terms"]
    return {
        "endpoint": _name(endpoints, candidate["slot"]),
        "score": _number(candidate["score"]),
        "terms": None if terms is None else {name: _number(value) for name, value in terms.items()},
        "sum": None if terms is None else _number(sum(terms.values())),
        "in_flight": candidate["in_flight"],
        "queued_s": _number(candidate["queued_s"]),
        "hit_tokens": round(candidate["hit_tokens"]),
        **({"model": candidate["model"]} if candidate.get("model") else {}),
    }


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) and names[number] else str(number)


def _number(value: float | None) -> float | None:
    """None too for what is no number: JSON has no word for infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _time(wall_us: int) -> str:
    moment = datetime.datetime.fromtimestamp(wall_us / 1e6, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Endpoints as /debug/endpoints shows them: the configuration joined with the shared tables.

Read from the tables alone, so it costs the workers nothing and answers when they are busy. Neighbours:
supervisor.py calls it, metrics.py shows the same numbers to Prometheus.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from router.errors import OUTCOMES, Cause
from router.native.loadtable import LoadTable
from router.native.metrics import HISTOGRAM_KINDS, MetricsTable
from router.native.signals import SignalTable
from router.schema.config import Config

_ERRORS = frozenset(int(cause) for cause in Cause if OUTCOMES[cause].counts_against_endpoint)


def describe_endpoints(
    config: Config, slots: Mapping[str, int], load: LoadTable, metrics: MetricsTable, signals: SignalTable
) -> list[dict[str, Any]]:
    """One row per configured endpoint, in the order configured."""
    now_us = time.monotonic_ns() // 1000
    request_counts: Counter[int] = Counter()
    error_counts: Counter[int] = Counter()
    for _route, slot, outcome, count in metrics.requests():
        request_counts[slot] += count
        if outcome in _ERRORS:
            error_counts[slot] += count
    rows = []
    for pool in config.pools:
        for endpoint in pool.endpoints:
            slot = slots[endpoint.name]
            view = load.view(slot)
            ttft = metrics.histogram(HISTOGRAM_KINDS["endpoint_ttft"], slot)
            itl = metrics.histogram(HISTOGRAM_KINDS["endpoint_itl"], slot)
            rows.append(
                {
                    "name": endpoint.name,
                    "url": endpoint.url,
                    "pool": pool.name,
                    "models": list(endpoint.models),
                    "slot": slot,
                    "in_flight": view["in_flight"],
                    "pending": view["pending"],
                    "queued_tokens": view["queued_tokens"],
                    "queued_work_ms": _ms(view["queued_work_us"]),
                    "kv_tokens": view["kv_tokens"],
                    "oldest_pending_age_ms": _ms(
                        max(0, now_us - view["oldest_pending_us"]) if view["pending"] else 0
                    ),
                    "requests": request_counts[slot],
                    "errors": error_counts[slot],
                    "error_ratio": round(view["error_ratio"], 4),
                    "ttft_ms": _ms(view["ttft_us"]),
                    "ttft_ms_p50": _ms(ttft.quantile_us(0.5)),
                    "ttft_ms_p95": _ms(ttft.quantile_us(0.95)),
                    "itl_ms": _ms(view["itl_us"]),
                    "itl_ms_p50": _ms(itl.quantile_us(0.5)),
                    "itl_ms_p95": _ms(itl.quantile_us(0.95)),
                    "ejected_for_ms": _ms(max(0, view["ejected_until_us"] - now_us)),
                    "signals": {
                        name: {"value": float(f"{value:.5g}"), "age_ms": _ms(age_us), "source": source}
                        for name, (value, age_us, source) in signals.read(slot, now_us).items()
                    },
                }
            )
    return rows


def _ms(value_us: float) -> float:
    return round(value_us / 1000, 3)

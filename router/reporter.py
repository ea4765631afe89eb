"""What a router reports to control: what its routes and endpoints have counted since it started.

Counts only grow, so a report that is lost loses nothing: the next one has it all. Invariant: read from the
shared tables alone; no worker is asked. Neighbours: supervisor.py (whose tables), schema/link.py (the form),
subscriber.py (sends it).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from router import limits
from router.errors import OUTCOMES, Cause
from router.native.loadtable import LoadTable
from router.native.metrics import HISTOGRAM_KINDS, ROUTE_ENDINGS, MetricsTable
from router.native.signals import SignalTable
from router.schema.link import EndpointCounts, Report, RouteCounts

# Of a histogram in a report: a tenth of a millisecond to ten minutes, four to an octave. A quantile read from
# these is right within a tenth.
BUCKET_BOUNDS_US = tuple(round(100 * 2 ** (step / 4)) for step in range(91))

_FAULTS = frozenset(int(cause) for cause in Cause if OUTCOMES[cause].counts_against_endpoint)


def build_report(
    metrics: MetricsTable,
    load: LoadTable,
    signals: SignalTable,
    *,
    slots: Mapping[str, int],
    routes: Mapping[tuple[str, int], int],
    sequence: int,
    uptime_ms: int,
) -> Report:
    """The report of now. `routes` are indexes in the metrics by name and version."""
    now_us = time.monotonic_ns() // 1000
    faults_by_slot: Counter[int] = Counter()
    for _route, slot, outcome, count in metrics.requests():
        if outcome in _FAULTS:
            faults_by_slot[slot] += count
    endpoints = []
    for name, slot in slots.items():
        view = load.view(slot)
        told = signals.read(slot, now_us).get("rtt_s")
        endpoints.append(
            EndpointCounts(
                endpoint=name,
                attempts=view["attempts"],
                faults=faults_by_slot[slot],
                in_flight=view["in_flight"],
                is_ejected=view["ejected_until_us"] > now_us,
                rtt_s=told[0] if told is not None and told[2] == "local" else None,
            )
        )
    return Report(
        sequence=sequence,
        uptime_ms=uptime_ms,
        bucket_bounds_us=BUCKET_BOUNDS_US,
        routes=tuple(
            _count_route(metrics, name, version, index) for (name, version), index in routes.items()
        ),
        endpoints=tuple(endpoints[: limits.ENDPOINTS_MAX]),
        loop_lag_us=metrics.counters()["loop_lag_us"],
    )


def _count_route(metrics: MetricsTable, name: str, version: int, index: int) -> RouteCounts:
    counted = metrics.route_counters(index)
    return RouteCounts(
        route=name,
        version=version,
        requests=sum(counted[ended] for ended in ROUTE_ENDINGS),
        faults=counted["upstream"] + counted["router"],
        refused=counted["refused"] + counted["policy"],
        prompt_tokens=counted["prompt_tokens"],
        output_tokens=counted["completion_tokens"],
        cost_nano=counted["cost_nano"],
        ttft_us=_buckets(metrics, "route_ttft", index),
        itl_us=_buckets(metrics, "route_itl", index),
    )


def _buckets(metrics: MetricsTable, kind: str, index: int) -> tuple[int, ...]:
    """Counts between neighbouring bounds, the last one beyond them all; empty without samples."""
    histogram = metrics.histogram(HISTOGRAM_KINDS[kind], index)
    if histogram.count == 0:
        return ()
    cumulative = [*histogram.cumulative(BUCKET_BOUNDS_US), histogram.count]
    return tuple(here - before for before, here in zip([0, *cumulative], cumulative, strict=False))

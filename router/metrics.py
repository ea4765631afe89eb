"""The Prometheus page: what all workers counted, under stable names.

Invariant: every label value comes from the configuration or from a closed set, so the number of series is
bounded by what the operator configured; nothing a client sends becomes a label. Totals never go back, also
when workers die (native/metrics folds them), and each of the page's sums covers all workers. Neighbours:
native/metrics and native/loadtable hold the numbers, errors.py names outcomes and sides, the supervisor knows
the names and serves the page on the admin port.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from router import limits
from router.errors import NOBODY, UNKNOWN, outcome_labels
from router.native.histogram import Histogram
from router.native.loadtable import LoadTable
from router.native.metrics import HISTOGRAM_KINDS, NO_INDEX, ROUTE_ENDINGS, MetricsTable
from router.native.signals import SignalTable
from router.native.switching import SWITCH_REASONS
from router.slots import name_and_version

# In seconds, 1-2.5-5 a decade like the engines' own histograms, so that both fit one graph: from a cached
# prompt on an idle engine to a client's usual patience.
TTFT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# From a small model's step to a stalled stream.
ITL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
E2E_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# From one pick to a retry after a connect timeout.
ROUTER_TIME_BUCKETS_S = (
    *(0.000_001, 0.000_002_5, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1),
)

# counter of native/metrics -> (name without prefix and _total, help)
_COUNTERS = {
    "connections_accepted": ("connections_accepted", "Client connections accepted."),
    "upstream_connects": ("upstream_connects", "Connections opened to endpoints."),
    "upstream_reuses": ("upstream_reuses", "Attempts that took a kept-alive connection."),
    "stale_replaced": (
        "stale_connections_replaced",
        "Kept-alive connections found dead when used and replaced.",
    ),
    "retries": ("retries", "Attempts after the first one of an exchange."),
    "events": ("stream_events", "Server-sent events relayed."),
    "log_lines_dropped": ("log_lines_dropped", "Access-log lines dropped because the disk was too slow."),
    "handovers": ("handovers", "Connections handed to the slow path."),
    "body_facts_slow": ("body_facts_slow", "Bodies the native scan was in doubt about."),
    "unfinished_streams": ("unfinished_streams", "Streams that ended cleanly but without their end event."),
    "picks_failed": ("picks_failed", "Picks for which no endpoint was eligible."),
    "accept_pauses": ("accept_pauses", "Times accepting paused because descriptors or connections ran out."),
    "tls_handshakes": ("tls_handshakes", "TLS handshakes with clients completed."),
    "tls_failures": ("tls_failures", "TLS handshakes with clients that failed."),
}
# counters shown as one metric with a label: name -> (help, label, {label value: counter})
_LABELLED_COUNTERS = {
    "bytes": (
        "Bytes relayed, by direction.",
        "direction",
        {"from_clients": "bytes_from_clients", "to_clients": "bytes_to_clients"},
    ),
    "tokens": (
        "Tokens as engines report them in usage objects, by kind.",
        "kind",
        {"prompt": "prompt_tokens", "completion": "completion_tokens", "cached": "cached_tokens"},
    ),
    "protocol_errors": (
        "Messages refused for breaking HTTP, by side.",
        "side",
        {"downstream": "protocol_errors_downstream", "upstream": "protocol_errors_upstream"},
    ),
    "alias_requests": (
        "Requests for aliases, by the place in its alias's list of the model that was asked last.",
        "place",
        {str(place): f"alias_place_{place}" for place in range(1, limits.ALIAS_MODELS_MAX + 1)},
    ),
    "session_picks": (
        "Decisions of sessions by what became of them: new, stayed, or why they left their endpoint.",
        "reason",
        {reason: f"session_{reason}" for reason in SWITCH_REASONS if reason},
    ),
}
_GAUGES = {
    "connections_open": ("connections_open", "Client connections open."),
    "requests_in_flight": ("requests_in_flight", "Exchanges begun and not finished."),
    "buffered_bytes": ("buffered_bytes", "Request body bytes held for a retry."),
    "views_partial": (
        "views_partial",
        "Workers that score by ratios, since queues in which others had requests are not told any more.",
    ),
    "upstream_open": ("upstream_connections_open", "Connections to endpoints, idle ones included."),
    "upstream_idle": ("upstream_connections_idle", "Kept-alive connections to endpoints waiting for use."),
}


_TOKEN_KINDS = ("prompt", "completion", "cached")


class Facts(Struct, frozen=True, kw_only=True):
    """What the tables do not know: names, versions and the time."""

    routes: Sequence[str]
    """By metric index, as slots.name_in_version makes them, retired ones included."""
    endpoints: Sequence[str]
    """By slot, draining ones included."""
    now_us: int
    """Monotonic, the clock that ejections are told in."""
    config_version: int = 0
    policy_version: int = 0
    """Of stable; 0: of a file."""
    canary_version: int | None = None
    """None: there is no canary."""
    canary_ratio: float = 0.0
    build_version: str = ""


def render(metrics: MetricsTable, load: LoadTable, signals: SignalTable, facts: Facts) -> bytes:
    """The page in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(metrics, load, signals, facts))
    return generate_latest(registry)


def describe_metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name as it is scraped, type, labels and meaning of every metric, in the order of the page."""
    nothing = Facts(routes=(), endpoints=(), now_us=0)
    tables = MetricsTable.create(1, 1, 1), LoadTable.create(1, 1), SignalTable.create(1)
    for family in _Page(*tables, nothing).collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield (
            family.name + suffix,
            family.type,
            tuple(getattr(family, "_labelnames", ())),
            family.documentation,
        )


class _Page(Collector):
    def __init__(self, metrics: MetricsTable, load: LoadTable, signals: SignalTable, facts: Facts) -> None:
        self._metrics = metrics
        self._load = load
        self._signals = signals
        self._facts = facts

    def describe(self) -> list[Metric]:
        return []  # else registering would collect once

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._routes()
        yield from self._latencies()
        yield from self._endpoints()
        yield from self._told()
        yield from self._counters()
        yield from self._workers()
        build = InfoMetricFamily("fairlead_build", "The running build.")
        build.add_metric([], {"version": self._facts.build_version})
        yield build
        yield _gauge("config_version", "Version of the configuration in force.", self._facts.config_version)
        versions = GaugeMetricFamily(
            "fairlead_policy_version",
            "Version of the policy, as control numbers it; 0: of a file. With a canary, of that too.",
            labels=("variant",),
        )
        versions.add_metric(("stable",), self._facts.policy_version)
        if self._facts.canary_version is not None:
            versions.add_metric(("canary",), self._facts.canary_version)
        yield versions
        yield _gauge("canary_ratio", "Share of the sessions that get the canary.", self._facts.canary_ratio)

    def _requests(self) -> Iterator[Metric]:
        counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        for row, slot, outcome, count in self._metrics.requests():
            route, *version = _route_labels(_name(self._facts.routes, row))
            counts[route, _name(self._facts.endpoints, slot), *outcome_labels(outcome), *version] += count
        family = CounterMetricFamily(
            "fairlead_requests",
            "Exchanges finished, by how they ended and whose side that was.",
            labels=("route", "endpoint", "outcome", "side", "version"),
        )
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family
        yield _counter(
            "request_series_overflow",
            "Requests that are missing above because too many label combinations were in use.",
            self._metrics.requests_overflow(),
        )

    def _routes(self) -> Iterator[Metric]:
        requests, tokens, cost = (
            CounterMetricFamily(f"fairlead_route_{name}", text, labels=labels)
            for name, text, labels in (
                ("requests", "Exchanges finished: completed, refused by the endpoint (4xx), or who failed.",
                 ("route", "ended", "version")),
                ("tokens", "Tokens as engines report them in usage objects, by kind.",
                 ("route", "kind", "version")),
                ("cost", "What these cost by the endpoints' prices per token.", ("route", "version")),
            )
        )  # fmt: skip
        for index, row in enumerate(self._facts.routes[: self._metrics.route_count_max]):
            counted = self._metrics.route_counters(index)
            route, *version = _route_labels(row)
            for ended in ROUTE_ENDINGS:
                if counted[ended]:  # a series that was never counted would only fill the page
                    requests.add_metric((route, ended, *version), counted[ended])
            for kind in _TOKEN_KINDS:
                if counted[f"{kind}_tokens"]:
                    tokens.add_metric((route, kind, *version), counted[f"{kind}_tokens"])
            if counted["cost_nano"]:
                cost.add_metric((route, *version), counted["cost_nano"] / 1e9)
        yield requests
        yield tokens
        yield cost

    def _latencies(self) -> Iterator[Metric]:
        route, endpoint = ("route", "version"), ("endpoint",)
        routes = [_route_labels(row) for row in self._facts.routes]
        endpoints: list[tuple[str, ...]] = [(name,) for name in self._facts.endpoints]
        for name, text, labels, names, kind, buckets_s in (
            ("time_to_first_token", "Request head complete to first answer byte.",
             route, routes, "route_ttft", TTFT_BUCKETS_S),
            ("route_inter_token_latency", "Time between stream events.",
             route, routes, "route_itl", ITL_BUCKETS_S),
            ("e2e_request_latency", "Request head complete to last answer byte.",
             route, routes, "route_e2e", E2E_BUCKETS_S),
            ("router_time", "Request head complete to request handed to the kernel: what the router adds.",
             route, routes, "route_router_time", ROUTER_TIME_BUCKETS_S),
            ("endpoint_time_to_first_token", "Request sent to first answer byte.",
             endpoint, endpoints, "endpoint_ttft", TTFT_BUCKETS_S),
            ("inter_token_latency", "Time between stream events.",
             endpoint, endpoints, "endpoint_itl", ITL_BUCKETS_S),
        ):  # fmt: skip
            merged: dict[tuple[str, ...], Histogram] = {}
            for index, value in enumerate(names):
                histogram = self._metrics.histogram(HISTOGRAM_KINDS[kind], index)
                if histogram.count:  # a series that was never observed would only fill the page
                    merged.setdefault(value, Histogram()).merge(histogram)
            family = HistogramMetricFamily(f"fairlead_{name}_seconds", text, labels=labels)
            for value, histogram in merged.items():
                family.add_metric(value, _buckets(histogram, buckets_s), histogram.sum_us / 1e6)
            yield family

    def _endpoints(self) -> Iterator[Metric]:
        slots = range(min(len(self._facts.endpoints), self._load.slot_count))
        views = {self._facts.endpoints[slot]: self._load.view(slot) for slot in slots}

        def per_endpoint(name: str, text: str, value: Callable[[str], float]) -> GaugeMetricFamily:
            family = GaugeMetricFamily(f"fairlead_endpoint_{name}", text, labels=("endpoint",))
            for endpoint in views:
                family.add_metric((endpoint,), value(endpoint))
            return family

        now_us = self._facts.now_us
        yield per_endpoint(
            "in_flight", "Attempts open, over all workers.", lambda name: views[name]["in_flight"]
        )
        yield per_endpoint(
            "pending", "Attempts not yet at their first token.", lambda name: views[name]["pending"]
        )
        yield per_endpoint(
            "queued_prompt_tokens",
            "Prompt tokens of these that are not believed to be cached there.",
            lambda name: views[name]["queued_tokens"],
        )
        yield per_endpoint(
            "queued_work_seconds",
            "The same as the time that its engine is believed to need for them.",
            lambda name: views[name]["queued_work_us"] / 1e6,
        )
        yield per_endpoint(
            "kv_tokens",
            "Prompt and expected output tokens of all attempts open there.",
            lambda name: views[name]["kv_tokens"],
        )
        yield per_endpoint(
            "ejected",
            "1 while the endpoint is passed over after failures.",
            lambda name: float(now_us < views[name]["ejected_until_us"]),
        )
        yield per_endpoint(
            "ttft_ewma_seconds",
            "Time to first token as picks see it; 0 when never observed.",
            lambda name: views[name]["ttft_us"] / 1e6,
        )
        yield per_endpoint(
            "itl_ewma_seconds",
            "Inter-token latency as picks see it; 0 when never observed.",
            lambda name: views[name]["itl_us"] / 1e6,
        )
        yield per_endpoint(
            "error_ratio", "Failures among recent attempts.", lambda name: views[name]["error_ratio"]
        )
        attempts = CounterMetricFamily(
            "fairlead_endpoint_attempts", "Attempts begun at the endpoint.", labels=("endpoint",)
        )
        for endpoint, view in views.items():
            attempts.add_metric((endpoint,), view["attempts"])
        yield attempts
        yield _counter(
            "load_underflows", "Releases without a charge: anything but 0 is a bug.", self._load.underflows()
        )

    def _told(self) -> Iterator[Metric]:
        values = GaugeMetricFamily(
            "fairlead_endpoint_signal",
            "What was last told of the endpoint: requests, shares of KV cache and power, seconds, health.",
            labels=("endpoint", "signal"),
        )
        ages = GaugeMetricFamily(
            "fairlead_endpoint_signal_age_seconds",
            "How long ago that was; what is old does not count any more.",
            labels=("endpoint", "signal"),
        )
        for slot, endpoint in enumerate(self._facts.endpoints[: self._signals.slot_count]):
            for name, (value, age_us, _source) in self._signals.read(slot, self._facts.now_us).items():
                values.add_metric((endpoint, name), value)
                ages.add_metric((endpoint, name), age_us / 1e6)
        yield values
        yield ages
        rejected = CounterMetricFamily(
            "fairlead_signals_rejected",
            "Signals that were not taken as they came, by who told them and why.",
            labels=("source", "reason"),
        )
        for labels, count in self._signals.rejected().items():
            rejected.add_metric(labels, count)
        yield rejected

    def _counters(self) -> Iterator[Metric]:
        counters = self._metrics.counters()
        for counter, (name, text) in _COUNTERS.items():
            yield _counter(name, text, counters[counter])
        for name, (text, label, values) in _LABELLED_COUNTERS.items():
            family = CounterMetricFamily(f"fairlead_{name}", text, labels=(label,))
            for value, counter in values.items():
                family.add_metric((value,), counters[counter])
            yield family
        for counter, (name, text) in _GAUGES.items():
            yield _gauge(name, text, counters[counter])

    def _workers(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "fairlead_loop_lag_seconds", "How late the event loop last ran a timer.", labels=("worker",)
        )
        rss = GaugeMetricFamily("fairlead_resident_memory_bytes", "Resident memory.", labels=("worker",))
        columns = self._metrics.columns()
        for column in columns:
            counters = self._metrics.column_counters(column)
            lag.add_metric((str(column),), counters["loop_lag_us"] / 1e6)
            rss.add_metric((str(column),), counters["rss_bytes"])
        yield lag
        yield rss
        yield _gauge("workers", "Workers that count.", len(columns))


def _name(names: Sequence[str], index: int) -> str:
    if index == NO_INDEX:
        return NOBODY
    return names[index] if index < len(names) else UNKNOWN


def _route_labels(row: str) -> tuple[str, ...]:
    """The route, and its version where it has one: an absent label is what 0 looks like."""
    name, version = name_and_version(row)
    return (name, str(version)) if version else (name,)


def _buckets(histogram: Histogram, boundaries_s: Sequence[float]) -> list[tuple[str, float]]:
    counts = histogram.cumulative([boundary_s * 1e6 for boundary_s in boundaries_s])
    buckets: list[tuple[str, float]] = [
        (repr(boundary_s), count) for boundary_s, count in zip(boundaries_s, counts, strict=True)
    ]
    return [*buckets, ("+Inf", histogram.count)]


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"fairlead_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fairlead_{name}", text, value=value)

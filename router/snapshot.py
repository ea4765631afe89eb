"""Config → the plain tables that the native core is built from: everything resolved, nothing left to look up.

Names become indexes, milliseconds microseconds, absent fields of routes the global values; the implicit last
route, which sends what nothing else matched to the pool that serves its model, is written out. Invariant:
equal configurations give equal tables, and an endpoint's identity changes exactly when its connections must
not be reused. No table knows itself, so the collector of cycles need not look at thousands of them, which
would hold traffic up. Neighbours: schema/config.py (from), pieces.py (how they travel), _fastpath.Core (to).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

from msgspec import Struct, json, structs

from router import limits
from router.errors import OUTCOMES, Cause, Side, outcome_labels
from router.resolver import is_literal
from router.schema import config as schema
from router.schema.address import parse_endpoint_url
from router.schema.aliases import AliasModel, quality_costs_ms
from router.schema.eligibility import Condition, Requirement, conditions_of, distinct_conditions
from router.schema.engines import FigureTables, figures_of
from router.schema.policies import HashKey, KeyedPolicy, Policy
from router.schema.timeouts import Timeouts, effective_timeouts

DEFAULT_ROUTE = "default"

# key_source of native/routes.pxd.
_KEY_SOURCES = {HashKey.HEADER: 1, HashKey.USER: 2, HashKey.PROMPT: 3}
_NO_KEY = 0
# Of route_counter in native/metrics.pxd.
_REFUSED = 5
# load_report_use of native/pool.pxd.
_LOAD_REPORTS = {schema.LoadReport.UNTOUCHED: 0, schema.LoadReport.READ: 1, schema.LoadReport.SHOW: 2}


class TlsTables(Struct, frozen=True, kw_only=True, gc=False):
    """TLS towards an endpoint."""

    verify: bool
    ca_file: str | None
    cert: str | None
    key: str | None
    server_name: str


class EndpointTables(Struct, frozen=True, kw_only=True, gc=False):
    """One endpoint; `slot` is its place in the load table."""

    identity: str
    identity_hash: int
    name: str
    url: str
    slot: int
    weight: float
    models: tuple[str, ...]
    authority: str
    path_prefix: str
    key_line: str
    passes_client_key: bool
    load_report: int
    in_flight_max: int
    connections_max: int
    idle_max: int
    tls: TlsTables | None
    rewrites: dict[
        str, tuple[str, str]
    ]  # to the engine's name, and that as it stands in JSON, without quotes
    addresses: tuple[tuple[str, int], ...]
    figures: FigureTables | None = None
    loads_s: dict[str, float] = {}
    models_max: int = 0
    features: int = 0  # a bit for each of `Tables.conditions` that it meets


class PolicyTables(Struct, frozen=True, kw_only=True, gc=False):
    """How one of a pool's endpoints is picked."""

    kind: int
    knobs: tuple[float, ...] = ()
    key_source: int = _NO_KEY
    key_header: str = ""


class PoolTables(Struct, frozen=True, kw_only=True, gc=False):
    """Endpoints by index into `Tables.endpoints`."""

    name: str
    endpoints: tuple[int, ...]
    policy: PolicyTables
    is_default: bool
    ejected_ratio_max: float = 1.0


class TimeoutsTables(Struct, frozen=True, kw_only=True, gc=False):
    """Microseconds; 0 is no bound."""

    connect_us: int
    tls_us: int
    body_us: int
    first_byte_us: int
    idle_us: int
    total_us: int
    write_stall_us: int


class RouteTables(Struct, frozen=True, kw_only=True, gc=False):
    """A route: empty patterns match all, `pool` None is by model, `index` is its place in the metrics.

    `required` and the numbers of `may_require` are bits of `Tables.conditions`. `cost_weight_s` is 0 where
    the policy says, and below 0 for none.
    """

    name: str
    index: int
    host: str
    path: str
    model: str
    headers: tuple[tuple[str, str], ...]
    pool: int | None
    policy: PolicyTables | None
    timeouts: TimeoutsTables
    exposes_endpoint: bool
    ttft_target_s: float
    cost_weight_s: float = 0.0
    required: int = 0
    may_require: tuple[tuple[str, int], ...] = ()


class AliasModelTables(Struct, frozen=True, kw_only=True, gc=False):
    """A model behind an alias; `json_name` is its name as it stands in JSON, without quotes."""

    name: str
    json_name: str
    quality_s: float


class AliasTables(Struct, frozen=True, kw_only=True, gc=False):
    """A name that several models may answer for, the best first."""

    name: str
    models: tuple[AliasModelTables, ...]


class Tables(Struct, frozen=True, kw_only=True):
    """All of it, in the order of the configuration."""

    endpoints: tuple[EndpointTables, ...]
    pools: tuple[PoolTables, ...]
    routes: tuple[RouteTables, ...]
    timeouts: TimeoutsTables
    models: tuple[str, ...]
    aliases: tuple[AliasTables, ...] = ()
    conditions: tuple[str, ...] = ()
    explain_ratio: float = 0.0
    version: int = 0  # of the policy; 0: a file has none
    prompt_block_bytes: int = limits.PROMPT_BLOCK_BYTES_DEFAULT


class CoreOptions(Struct, frozen=True, kw_only=True):
    """Bounds and switches that a worker keeps for life."""

    head_bytes_max: int
    target_bytes_max: int
    body_bytes_max: int
    retry_buffer_bytes_max: int
    buffered_bytes_max: int
    pipelined_bytes_max: int
    connections_max: int
    interim_max: int
    head_us: int
    tls_us: int
    keep_alive_us: int
    upstream_idle_us: int
    eject_base_us: int
    eject_max_us: int
    log_bytes_max: int
    logs: bool
    trusted_networks: tuple[str, ...]
    cause_names: list[str]
    counts_against_endpoint: list[bool]
    sides: list[int]  # by cause: route_counter of native/metrics.pxd
    seed: int

    @classmethod
    def of(cls, config: schema.Config) -> CoreOptions:
        """The options of a worker under `config`."""
        bounds, timeouts = config.limits, config.timeouts
        return cls(
            head_bytes_max=bounds.head_bytes_max,
            target_bytes_max=bounds.target_bytes_max,
            body_bytes_max=bounds.body_bytes_max,
            retry_buffer_bytes_max=bounds.retry_buffer_bytes_max,
            buffered_bytes_max=bounds.buffered_body_bytes_max,
            pipelined_bytes_max=limits.PIPELINED_BYTES_MAX,
            connections_max=limits.downstream_connections_max(bounds.downstream_connections_max),
            interim_max=limits.INTERIM_RESPONSES_MAX,
            head_us=timeouts.head_ms * 1000,
            tls_us=timeouts.tls_ms * 1000,
            keep_alive_us=timeouts.keep_alive_ms * 1000,
            upstream_idle_us=timeouts.upstream_idle_ms * 1000,
            eject_base_us=limits.EJECT_BASE_MS * 1000,
            eject_max_us=limits.EJECT_MAX_MS * 1000,
            log_bytes_max=config.access_log.buffer_bytes_max,
            logs=config.access_log.path is not None,
            trusted_networks=config.trusted_proxies,
            cause_names=[outcome_labels(number)[0] for number in range(max(Cause) + 1)],
            counts_against_endpoint=[
                number in OUTCOMES and OUTCOMES[Cause(number)].counts_against_endpoint
                for number in range(max(Cause) + 1)
            ],
            sides=[_ended_on(number) for number in range(max(Cause) + 1)],
            seed=int.from_bytes(os.urandom(8), "little") | 1,
        )


def _ended_on(number: int) -> int:
    if number == Cause.NONE or number not in OUTCOMES:
        return 0
    return _REFUSED if number == Cause.UPSTREAM_4XX else 1 + list(Side).index(OUTCOMES[Cause(number)].side)


def route_names(config: schema.Config) -> list[str]:
    """What requests are counted by: the configured routes, then the one that takes what matches none."""
    return [*(route.name for route in config.routes), DEFAULT_ROUTE]


def build_tables(
    config: schema.Config, slots: Mapping[str, int], routes: Mapping[str, int], version: int = 0
) -> Tables:
    """The tables of `config`, with slots of the load table by endpoint and indexes in the metrics by route;
    `version` is what is shown beside its requests, 0 for none.

    Raises: ValueError when an endpoint has no slot or a route no index.
    """
    endpoints: list[EndpointTables] = []
    pools: list[PoolTables] = []
    conditions = distinct_conditions(
        one for route in config.routes for one in (route.require, *route.may_require.values())
    )
    for pool in config.pools:
        first = len(endpoints)
        endpoints += [_endpoint(endpoint, config.limits, slots, conditions) for endpoint in pool.endpoints]
        pools.append(
            PoolTables(
                name=pool.name,
                endpoints=tuple(range(first, len(endpoints))),
                policy=_policy(pool.policy),
                is_default=pool is config.default_pool,
                ejected_ratio_max=pool.health.ejected_ratio_max,
            )
        )
    indexes = {pool.name: index for index, pool in enumerate(config.pools)}
    missing = [name for name in route_names(config) if name not in routes]
    if missing:
        raise ValueError(f"route {missing[0]} has no index in the metrics")
    rules = [
        _route(route, routes[route.name], config.timeouts, indexes, conditions)
        for route in (*config.routes, schema.Route(name=DEFAULT_ROUTE))
    ]
    return Tables(
        endpoints=tuple(endpoints),
        pools=tuple(pools),
        routes=tuple(rules),
        timeouts=_timeouts(config.timeouts),
        models=tuple(sorted({*config.aliases, *(model for one in endpoints for model in one.models)})),
        aliases=tuple(_alias(name, models) for name, models in config.aliases.items()),
        conditions=tuple(map(str, conditions)),
        explain_ratio=config.explain.sample_ratio,
        version=version,
        prompt_block_bytes=config.prefixes.block_bytes,
    )


def _in_json(text: str) -> str:
    return json.encode(text).decode()[1:-1]


def _alias(name: str, models: tuple[str | AliasModel, ...]) -> AliasTables:
    costs_ms = quality_costs_ms(models)
    return AliasTables(
        name=name,
        models=tuple(
            AliasModelTables(name=model, json_name=_in_json(model), quality_s=cost / 1e3)
            for model, cost in costs_ms.items()
        ),
    )


def _bits(met: Iterable[bool]) -> int:
    return sum(1 << bit for bit, is_met in enumerate(met) if is_met)


def _endpoint(
    endpoint: schema.Endpoint, bounds: schema.Limits, slots: Mapping[str, int], conditions: list[Condition]
) -> EndpointTables:
    url = parse_endpoint_url(endpoint.url)
    if endpoint.name not in slots:
        raise ValueError(f"endpoint {endpoint.name} has no slot in the load table")
    bearer = "" if endpoint.auth.bearer is None else endpoint.auth.bearer.reveal()
    tls = None
    if url.is_tls:
        tls = TlsTables(
            verify=endpoint.tls.verify,
            ca_file=endpoint.tls.ca_file,
            cert=endpoint.tls.cert_file,
            key=endpoint.tls.key_file,
            server_name=endpoint.tls.server_name or url.host,
        )
    tables = EndpointTables(
        identity="",
        identity_hash=_hash64(endpoint.name),
        name=endpoint.name,
        url=endpoint.url,
        slot=slots[endpoint.name],
        weight=endpoint.weight,
        models=endpoint.models,
        authority=endpoint.host or url.authority,
        path_prefix=url.path_prefix,
        key_line=f"Authorization: Bearer {bearer}\r\n" if bearer else "",
        passes_client_key=endpoint.auth.pass_client_key and not bearer,
        load_report=_LOAD_REPORTS[endpoint.load_report],
        in_flight_max=endpoint.capacity.in_flight_max or 0,
        connections_max=endpoint.capacity.connections_max or bounds.upstream_connections_per_endpoint_max,
        idle_max=bounds.idle_upstream_connections_per_endpoint_max,
        tls=tls,
        rewrites={model: (name, _in_json(name)) for model, name in endpoint.model_rewrite.items()},
        addresses=((url.host, url.port),) if is_literal(url.host) else (),
    )
    digest = hashlib.sha256(json.encode(tables)).hexdigest()
    # What comes after the digest may change under open connections: what is believed of an engine, say.
    return structs.replace(
        tables,
        identity=f"{endpoint.name}#{digest[:32]}",
        figures=_figures(endpoint, tables.slot),
        loads_s={model: load_ms / 1e3 for model, load_ms in endpoint.model_load_ms.items()},
        models_max=(endpoint.models_resident_max or 1) if endpoint.model_load_ms else 0,
        features=_bits(condition.is_met_by(endpoint) for condition in conditions),
    )


def _figures(endpoint: schema.Endpoint, slot: int) -> FigureTables:
    price = endpoint.price
    return figures_of(
        endpoint.engine_class,
        endpoint.figures,
        slot,
        input_price=(price.input_per_million_tokens or 0.0) / 1e6,
        output_price=(price.output_per_million_tokens or 0.0) / 1e6,
        second_price=(price.gpu_hour or 0.0) / 3600.0,
        rtt_s=endpoint.rtt_ms / 1e3,
    )


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _policy(policy: Policy) -> PolicyTables:
    if isinstance(policy, KeyedPolicy):
        return PolicyTables(
            kind=policy.KIND,
            knobs=policy.knobs(),
            key_source=_KEY_SOURCES[policy.key],
            key_header=policy.header,
        )
    return PolicyTables(kind=policy.KIND, knobs=policy.knobs())


def _timeouts(timeouts: Timeouts) -> TimeoutsTables:
    return TimeoutsTables(
        **{
            name: getattr(timeouts, name.replace("_us", "_ms")) * 1000
            for name in TimeoutsTables.__struct_fields__
        }
    )


def _route(
    route: schema.Route,
    index: int,
    timeouts: Timeouts,
    indexes: Mapping[str, int],
    conditions: list[Condition],
) -> RouteTables:
    def required(requirement: Requirement) -> int:
        wanted = conditions_of(requirement)
        return _bits(condition in wanted for condition in conditions)

    return RouteTables(
        name=route.name,
        index=index,
        host=route.match.host or "",
        path=route.match.path or "",
        model=route.match.model or "",
        headers=tuple(route.match.headers.items()),
        pool=None if route.pool is None else indexes[route.pool],
        policy=None if route.policy is None else _policy(route.policy),
        timeouts=_timeouts(effective_timeouts(timeouts, route.timeouts)),
        exposes_endpoint=route.expose_endpoint,
        ttft_target_s=(route.ttft_target_ms or 0) / 1000,
        cost_weight_s=0.0 if route.cost_weight is None else route.cost_weight or -1.0,
        required=required(route.require),
        may_require=tuple((name, required(one)) for name, one in route.may_require.items()),
    )

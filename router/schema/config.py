"""The configuration: one frozen schema, and the source of docs/reference/configuration.md.

Every field has its bounds and its description here, so that `fairlead check`, the JSON Schema and the
reference page cannot disagree. What one field cannot say (names that refer to each other, contradictions)
is in validate.py; how a file becomes this is in router/config.py.

Invariant: a `Config` that router/config.py returned is whole and consistent; nobody checks it again. It
never changes: a reload makes another one. Units end the names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field
from msgspec.structs import force_setattr

from router import limits
from router.schema.address import parse_endpoint_url
from router.schema.aliases import AliasModels
from router.schema.control_link import ControlLink
from router.schema.eligibility import Requirement
from router.schema.engines import CLASSES, EngineFigures
from router.schema.kinds import (
    DAY_MS,
    FilePath,
    LabelValue,
    Milliseconds,
    MillisecondsOrOff,
    ModelName,
    Name,
    Pattern,
    Price,
    Section,
)
from router.schema.listening import Admin, Listener
from router.schema.policies import FiveAxis, HeaderName, Policy
from router.schema.secret import Secret
from router.schema.timeouts import RouteTimeouts, Timeouts


class Limits(Section, frozen=True, kw_only=True):
    """Bounds; `router/limits.py` has the reason for each default. Per worker where nothing else is said."""

    head_bytes_max: Annotated[
        int,
        Meta(ge=1024, le=limits.HEAD_BYTES_MAX, description="Request or response head; more is 431 or 502."),
    ] = limits.HEAD_BYTES_DEFAULT
    target_bytes_max: Annotated[
        int, Meta(ge=256, le=limits.TARGET_BYTES_MAX, description="Request target; more is 414.")
    ] = limits.TARGET_BYTES_DEFAULT
    body_bytes_max: Annotated[
        int, Meta(ge=1024, le=limits.BODY_BYTES_MAX, description="Request body; more is 413.")
    ] = limits.BODY_BYTES_DEFAULT
    retry_buffer_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.RETRY_BUFFER_BYTES_MAX,
            description="A body up to this size is held so that another endpoint can be tried; a "
            "larger one is cut through.",
        ),
    ] = limits.RETRY_BUFFER_BYTES_DEFAULT
    buffered_body_bytes_max: Annotated[
        int,
        Meta(
            ge=limits.MIB,
            le=limits.BUFFERED_BODY_BYTES_MAX,
            description="All held bodies together; past it new ones are refused with 503.",
        ),
    ] = limits.BUFFERED_BODY_BYTES_DEFAULT
    downstream_connections_max: Annotated[
        int,
        Meta(
            ge=limits.DOWNSTREAM_CONNECTIONS_MIN,
            le=limits.DOWNSTREAM_CONNECTIONS_MAX,
            description="Client connections; lowered at start to what the open-files limit allows.",
        ),
    ] = limits.DOWNSTREAM_CONNECTIONS_DEFAULT
    upstream_connections_per_endpoint_max: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.UPSTREAM_CONNECTIONS_PER_ENDPOINT_MAX,
            description="Connections to one endpoint; `capacity.connections_max` of an endpoint "
            "overrides it.",
        ),
    ] = limits.UPSTREAM_CONNECTIONS_PER_ENDPOINT_DEFAULT
    idle_upstream_connections_per_endpoint_max: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.UPSTREAM_CONNECTIONS_PER_ENDPOINT_MAX,
            description="Of these, how many are kept open for reuse; 0 closes each after its answer.",
        ),
    ] = limits.IDLE_UPSTREAM_CONNECTIONS_PER_ENDPOINT_DEFAULT


class Engine(StrEnum):
    """The software of an endpoint. A note for now: nothing is done by it yet."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TGI = "tgi"
    TRTLLM = "trtllm"
    TRITON = "triton"
    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"
    OTHER = "other"


class LoadReport(StrEnum):
    """What is done about the load reports that an engine can add to its answers (ORCA)."""

    UNTOUCHED = "untouched"
    READ = "read"
    SHOW = "show"


EngineClass = StrEnum("EngineClass", [(name, name) for name in CLASSES])  # type: ignore[misc]
EngineClass.__doc__ = "Model size and machine of an engine whose figures are known."


class Capacity(Section, frozen=True, kw_only=True):
    """What one endpoint is given at most."""

    connections_max: Annotated[
        Annotated[int, Meta(ge=1, le=limits.UPSTREAM_CONNECTIONS_PER_ENDPOINT_MAX)] | None,
        Meta(
            description="Connections of one worker; absent: `limits.upstream_connections_per_endpoint_max`.",
        ),
    ] = None
    in_flight_max: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(
            description="Requests in flight, all workers together; absent: as many as connections.",
        ),
    ] = None


class EndpointPrice(Section, frozen=True, kw_only=True):
    """What its work costs, in any one currency: by tokens, or by the hour."""

    input_per_million_tokens: Annotated[
        Price | None, Meta(description="Price of a million prompt tokens.")
    ] = None
    output_per_million_tokens: Annotated[
        Price | None, Meta(description="Price of a million generated tokens.")
    ] = None
    gpu_hour: Annotated[Price | None, Meta(description="Price of an hour of the machine, busy or not.")] = (
        None
    )


class EndpointTls(Section, frozen=True, kw_only=True):
    """TLS towards an https endpoint."""

    verify: Annotated[
        bool, Meta(description="Check the certificate and its name. `false` trusts anyone on the way.")
    ] = True
    ca_file: Annotated[
        FilePath | None, Meta(description="PEM file of trusted authorities; absent: the system's.")
    ] = None
    server_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=253)] | None,
        Meta(description="Name sent as SNI and checked in the certificate; absent: the URL's host."),
    ] = None
    cert_file: Annotated[FilePath | None, Meta(description="PEM file of our own client certificate.")] = None
    key_file: Annotated[FilePath | None, Meta(description="PEM file of that certificate's key.")] = None


class EndpointAuth(Section, frozen=True, kw_only=True):
    """The key an endpoint is called with. Clients' keys stop here unless `pass_client_key` says otherwise."""

    bearer: Annotated[
        Secret | None,
        Meta(description="Sent as `Authorization: Bearer`; `file:/path`, `${ENV}` or the key itself."),
    ] = None
    pass_client_key: Annotated[
        bool,
        Meta(
            description="Pass the client's Authorization, x-api-key, api-key and x-goog-api-key on to this "
            "endpoint."
        ),
    ] = False


class Endpoint(Section, frozen=True, kw_only=True):
    """One address that serves models."""

    url: Annotated[
        str,
        Meta(
            description="`http` or `https`, host and port. A path is put before the path of every request.",
            examples=["http://10.0.0.1:8000", "https://llm.example/tenant-a"],
        ),
    ]
    name: Annotated[
        str,
        Meta(
            max_length=limits.NAME_BYTES_MAX,
            pattern=r"^([A-Za-z0-9\[][A-Za-z0-9._:\[\]/-]*)?$",
            extra={"expected": f"a name: up to {limits.NAME_BYTES_MAX} letters, digits and . _ : / - [ ]"},
            description="Shown in metrics and logs, unique among all endpoints; empty: `host:port` "
            "of the URL.",
        ),
    ] = ""
    models: Annotated[
        tuple[ModelName, ...],
        Meta(max_length=limits.MODELS_MAX, description="Names clients may ask for here; empty: any."),
    ] = ()
    model_rewrite: Annotated[
        dict[ModelName, ModelName],
        Meta(
            max_length=limits.MODELS_MAX, description="Client's name for a model → the engine's name for it."
        ),
    ] = field(default_factory=dict)
    engine: Annotated[Engine, Meta(description="The software; nothing depends on it yet.")] = Engine.OTHER
    load_report: Annotated[
        LoadReport,
        Meta(
            description="Load reports in its answers (`endpoint-load-metrics`, of vLLM and Triton). "
            "`read`: asked for, weighed, and taken out; `show`: asked for, weighed, and passed on."
        ),
    ] = LoadReport.UNTOUCHED
    region: Annotated[
        str,
        Meta(
            max_length=limits.NAME_BYTES_MAX,
            description="Region, which routes may `require`. How far it is, is `rtt_ms`.",
        ),
    ] = ""
    zone: Annotated[
        str,
        Meta(
            max_length=limits.NAME_BYTES_MAX,
            description="Zone within the region; nothing depends on it yet.",
        ),
    ] = ""
    labels: Annotated[
        dict[Name, LabelValue],
        Meta(max_length=limits.LABELS_MAX, description="Free labels, to select endpoints by."),
    ] = field(default_factory=dict)
    capabilities: Annotated[
        tuple[Name, ...],
        Meta(
            max_length=limits.CAPABILITIES_MAX,
            description="What it can do, in words of your own: `tools`, `vision`, `json_schema` ... Routes "
            "may require them.",
        ),
    ] = ()
    weight: Annotated[
        float,
        Meta(gt=0, le=10_000, description="Share of the traffic relative to the pool's other endpoints."),
    ] = 1.0
    capacity: Annotated[Capacity, Meta(description="Bounds of this endpoint.")] = field(
        default_factory=Capacity
    )
    price: Annotated[EndpointPrice, Meta(description="What it costs.")] = field(default_factory=EndpointPrice)
    engine_class: Annotated[
        EngineClass | None,
        Meta(description="Model size and machine, as a first guess of its speed; absent: it is learnt."),
    ] = None
    figures: Annotated[EngineFigures, Meta(description="Its speed, where it is known better.")] = field(
        default_factory=EngineFigures
    )
    model_load_ms: Annotated[
        dict[ModelName, MillisecondsOrOff],
        Meta(
            max_length=limits.MODELS_MAX,
            description="Models that are loaded when they are asked for, and how long that takes; the others "
            "are always in memory.",
        ),
    ] = field(default_factory=dict)
    models_resident_max: Annotated[
        Annotated[int, Meta(ge=1, le=limits.MODELS_RESIDENT_MAX)] | None,
        Meta(description="How many of those are in memory at once; absent: 1."),
    ] = None
    rtt_ms: Annotated[
        float, Meta(ge=0, le=60_000, description="Round trip to it, until one has been measured.")
    ] = 0.0
    tls: Annotated[EndpointTls, Meta(description="How TLS is spoken, for an https URL.")] = field(
        default_factory=EndpointTls
    )
    auth: Annotated[EndpointAuth, Meta(description="The key it is called with.")] = field(
        default_factory=EndpointAuth
    )
    host: Annotated[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=261,
                pattern=r"^[A-Za-z0-9.:\[\]_-]+$",
                extra={"expected": "host or host:port"},
            ),
        ]
        | None,
        Meta(description="Host header it is sent; absent: the URL's host and port."),
    ] = None

    def __post_init__(self) -> None:
        if not self.name:
            try:
                name = parse_endpoint_url(self.url).host_port
            except ValueError:
                name = self.url  # validate.py reports the URL
            force_setattr(self, "name", name)


class Health(Section, frozen=True, kw_only=True):
    """When endpoints of a pool are passed over."""

    ejected_ratio_max: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="With more than this share of the endpoints ejected that serve the model and have "
            "what is required, ejections are ignored; 1: only with all of them.",
        ),
    ] = 1.0


class Pool(Section, frozen=True, kw_only=True):
    """Endpoints that stand in for each other."""

    name: Annotated[Name, Meta(description="Unique among pools.")]
    endpoints: Annotated[
        tuple[Endpoint, ...], Meta(min_length=1, max_length=limits.ENDPOINTS_MAX, description="At least one.")
    ]
    policy: Annotated[Policy, Meta(description="How one of them is picked.")] = field(
        default_factory=FiveAxis
    )
    health: Annotated[Health, Meta(description="When endpoints are passed over.")] = field(
        default_factory=Health
    )
    default: Annotated[
        bool,
        Meta(
            description="Takes requests that name no model and match no route. The only pool is the "
            "default anyway."
        ),
    ] = False


class EndpointList(Section, frozen=True, kw_only=True):
    """A file of endpoints that are found in it, and not written in the configuration."""

    endpoints: Annotated[
        tuple[Endpoint, ...], Meta(max_length=limits.ENDPOINTS_MAX, description="As in a pool; may be none.")
    ] = ()


class RouteMatch(Section, frozen=True, kw_only=True):
    """What a request must look like; every field given must match, an empty match takes all."""

    host: Annotated[
        Pattern | None,
        Meta(description="Host without port, any case; `*.example.com` takes every name below it."),
    ] = None
    path: Annotated[
        Pattern | None,
        Meta(description="Glob over the path without its query; `*` also takes slashes: `/v1/audio/*`."),
    ] = None
    model: Annotated[Pattern | None, Meta(description="Glob over the model's name: `llama-*`.")] = None
    headers: Annotated[
        dict[HeaderName, Pattern],
        Meta(max_length=limits.HEADER_MATCHES_MAX, description="Header name → glob over its value."),
    ] = field(default_factory=dict)


class Route(Section, frozen=True, kw_only=True):
    """What applies to some of the requests. The first route that matches counts."""

    name: Annotated[Name, Meta(description="Unique among routes; a label of metrics.")]
    match: Annotated[RouteMatch, Meta(description="Which requests.")] = field(default_factory=RouteMatch)
    pool: Annotated[
        Name | None, Meta(description="Where they go; absent: to the pool that serves the model.")
    ] = None
    policy: Annotated[Policy | None, Meta(description="In place of the pool's own.")] = None
    ttft_target_ms: Annotated[
        Milliseconds | None,
        Meta(
            description="Time to the first token that these requests should have, 95 in a hundred. "
            "`five_axis` then takes the cheapest endpoint that keeps it; absent: the fastest."
        ),
    ] = None
    cost_weight: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)] | None,
        Meta(
            description="Seconds that a unit of currency is worth to whoever asks here; absent: as "
            "`five_axis` is set."
        ),
    ] = None
    require: Annotated[Requirement, Meta(description="Which endpoints may answer at all.")] = field(
        default_factory=Requirement
    )
    may_require: Annotated[
        dict[Name, Requirement],
        Meta(
            max_length=limits.MAY_REQUIRE_MAX,
            description="What clients may require on top, by these names in `x-fairlead-require`.",
        ),
    ] = field(default_factory=dict)
    timeouts: Annotated[RouteTimeouts, Meta(description="In place of the global ones.")] = field(
        default_factory=RouteTimeouts
    )
    expose_endpoint: Annotated[
        bool,
        Meta(
            description="Tell the client in `x-fairlead-endpoint` which endpoint answered, in "
            "`x-fairlead-model` which model (of those that endpoints list), in `x-fairlead-reason` why "
            "that one, and in `x-fairlead-session` what became of its session."
        ),
    ] = False


STDOUT_NAMES = ("stdout", "-")  # in place of a file's name; ./stdout is a file


class AccessLog(Section, frozen=True, kw_only=True):
    """One JSON line per request. Traffic never waits for it: a slow disk loses lines, which are counted."""

    path: Annotated[
        FilePath | None,
        Meta(
            description="`stdout` (or `'-'`) for standard output, or a file, which is reopened on SIGUSR1; "
            "absent: no access log."
        ),
    ] = None
    buffer_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * limits.KIB,
            le=limits.ACCESS_LOG_BUFFER_BYTES_MAX,
            description="Lines waiting for the disk, per worker.",
        ),
    ] = limits.ACCESS_LOG_BUFFER_BYTES_DEFAULT


class Explain(Section, frozen=True, kw_only=True):
    """Which decisions are recorded, to be told by `fairlead explain`."""

    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of the requests, besides those with the header `x-fairlead-explain`; "
            "0: only those.",
        ),
    ] = 0.01


class Prefixes(Section, frozen=True, kw_only=True):
    """What is remembered of prompts, to know which endpoint has computed the beginning of one already."""

    block_bytes: Annotated[
        int,
        Meta(
            ge=limits.PROMPT_BLOCK_BYTES_MIN,
            le=limits.PROMPT_BLOCK_BYTES_MAX,
            description="A prompt is known by its beginnings, which end after each so many bytes at first "
            "and further apart as it grows. Rounded up to a power of two. With smaller ones, what was known "
            "of caches has to be learnt anew.",
        ),
    ] = limits.PROMPT_BLOCK_BYTES_DEFAULT
    table_bytes: Annotated[
        int,
        Meta(
            ge=limits.PREFIX_TABLE_BYTES_MIN,
            le=limits.PREFIX_TABLE_BYTES_MAX,
            description="Memory for them, shared by all workers and taken as it is used: 64 bytes for each. "
            "Cannot change in a running process; an upgrade that changes it begins with an empty table.",
        ),
    ] = limits.PREFIX_TABLE_BYTES_DEFAULT


class Drain(Section, frozen=True, kw_only=True):
    """What happens on SIGTERM."""

    propagation_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="/readyz fails this long before listeners close, so that balancers look "
            "away first (Kubernetes: 5000).",
        ),
    ] = 0
    deadline_ms: Annotated[
        int, Meta(ge=0, le=DAY_MS, description="Open streams may go on this long after; then they are cut.")
    ] = 30_000


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    version: Annotated[int, Meta(ge=1, le=1, description="Of this format.")] = 1
    listeners: Annotated[
        tuple[Listener, ...],
        Meta(min_length=1, max_length=limits.LISTENERS_MAX, description="Where clients connect."),
    ] = field(default_factory=lambda: (Listener(address="127.0.0.1:8080"),))
    admin: Annotated[Admin, Meta(description="Where operators connect.")] = field(default_factory=Admin)
    workers: Annotated[
        int, Meta(ge=1, le=limits.WORKERS_MAX, description="Processes that carry traffic.")
    ] = 1
    limits: Annotated[Limits, Meta(description="Bounds.")] = field(default_factory=Limits)
    timeouts: Annotated[Timeouts, Meta(description="Timeouts of every request.")] = field(
        default_factory=Timeouts
    )
    pools: Annotated[
        tuple[Pool, ...],
        Meta(
            max_length=limits.POOLS_MAX,
            description="The endpoints, in groups. Needed, but where `control` is given: then what is here "
            "holds until its first snapshot.",
        ),
    ] = ()
    routes: Annotated[
        tuple[Route, ...],
        Meta(
            max_length=limits.ROUTES_MAX, description="Exceptions; without any, the model decides the pool."
        ),
    ] = ()
    aliases: Annotated[
        dict[ModelName, AliasModels],
        Meta(
            max_length=limits.ALIASES_MAX,
            description="Names that clients may ask for → the models that may answer, the best first.",
        ),
    ] = field(default_factory=dict)
    prefixes: Annotated[Prefixes, Meta(description="What is remembered of prompts.")] = field(
        default_factory=Prefixes
    )
    access_log: Annotated[AccessLog, Meta(description="One line per request.")] = field(
        default_factory=AccessLog
    )
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            max_length=limits.TRUSTED_PROXIES_MAX,
            description="Networks (CIDR) whose X-Forwarded-* and Forwarded headers are believed; "
            "from others they are replaced.",
            examples=[["10.0.0.0/8", "fd00::/8"]],
        ),
    ] = ()
    runtime_dir: Annotated[
        FilePath | None,
        Meta(
            description="Folder of the control socket that reload and upgrade use; absent: "
            "`$XDG_RUNTIME_DIR/fairlead`, "
            "else a private folder below the system's temporary one."
        ),
    ] = None
    explain: Annotated[Explain, Meta(description="Decisions that are recorded.")] = field(
        default_factory=Explain
    )
    drain: Annotated[Drain, Meta(description="Graceful end.")] = field(default_factory=Drain)
    control: Annotated[
        ControlLink | None,
        Meta(description="The control process that policy comes from; absent: this file has it."),
    ] = None

    @property
    def default_pool(self) -> Pool | None:
        """The pool of requests that name no model: the one marked, else the only one there is."""
        for pool in self.pools:
            if pool.default:
                return pool
        return self.pools[0] if len(self.pools) == 1 else None

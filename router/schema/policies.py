"""Every policy that can pick an endpoint, and its knobs: the one table that all else reads.

The classes are the table: a policy's name is its tag, its number `KIND` (policy_kind of native/policy.pxd),
where its rule comes from `SOURCE`, and its knobs are its numbers in the order of the fields, which is
their order in native code (native/policy.pxd, held equal by a test). Defaults are the originals'.
The configuration decodes these classes, docs/reference/policies.md prints them, the simulator parses
`name:knob=value` by them.

Invariant: whatever is decoded here is within its bounds; nobody checks a knob again. Neighbours:
config.py (pools and routes have a policy), snapshot.py (which makes native tables of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, ClassVar, get_args

import msgspec
from msgspec import Meta, Struct

from router.schema.words import describe, fields_of, nearest

HeaderName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
        extra={"expected": "a header's name"},
    ),
]


class HashKey(StrEnum):
    """What makes two requests go to the same endpoint."""

    HEADER = "header"  # the value of the header that `header` names
    USER = "user"  # the body's `user` field
    PROMPT = "prompt"  # the first KiB of the prompt, where a conversation's turns agree


class BasePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What all policies have."""

    KIND: ClassVar[int]
    SOURCE: ClassVar[str]
    DIVIDES_BY_WEIGHT: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        """As configurations write it."""
        return str(cls.__struct_config__.tag)

    @classmethod
    def knob_names(cls) -> tuple[str, ...]:
        """In the order of native code."""
        return tuple(name for name in cls.__struct_fields__ if name not in ("key", "header"))

    def knobs(self) -> tuple[float, ...]:
        """The numbers native code is set with."""
        return tuple(float(getattr(self, name)) for name in self.knob_names())


class KeyedPolicy(BasePolicy, frozen=True, kw_only=True):
    """What policies have that look at a request's key."""

    key: Annotated[
        HashKey,
        Meta(
            description="`header`, the body's `user`, or the beginning of the `prompt`. A request "
            "without it goes anywhere."
        ),
    ] = HashKey.PROMPT
    header: Annotated[HeaderName, Meta(description="The header's name, used when `key` is `header`.")] = (
        "x-session-id"
    )


class RoundRobin(BasePolicy, frozen=True, kw_only=True, tag="round_robin"):
    """Each in turn. Blind to load and weight: for endpoints and requests that are all alike."""

    KIND: ClassVar[int] = 1
    SOURCE: ClassVar[str] = "the oldest there is"


class Random(BasePolicy, frozen=True, kw_only=True, tag="random"):
    """Any, all alike."""

    KIND: ClassVar[int] = 5
    SOURCE: ClassVar[str] = "the simplest there is"


class Weighted(BasePolicy, frozen=True, kw_only=True, tag="weighted"):
    """Any, by weight."""

    KIND: ClassVar[int] = 6
    SOURCE: ClassVar[str] = "BerriAI/litellm: docs/my-website/docs/routing.md (simple-shuffle)"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class P2c(BasePolicy, frozen=True, kw_only=True, tag="p2c"):
    """The less busy of two endpoints chosen at random: in-flight requests divided by weight."""

    KIND: ClassVar[int] = 0
    SOURCE: ClassVar[str] = (
        "Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 2001"
    )
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class LeastInFlight(BasePolicy, frozen=True, kw_only=True, tag="least_in_flight"):
    """The least busy of all: in-flight requests divided by weight."""

    KIND: ClassVar[int] = 4
    SOURCE: ClassVar[str] = "envoyproxy/envoy: LEAST_REQUEST with a full scan"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class PeakEwma(BasePolicy, frozen=True, kw_only=True, tag="peak_ewma"):
    """Of two chosen at random the one of lower latency times (pending + 1); peaks count at once and fade."""

    KIND: ClassVar[int] = 9
    SOURCE: ClassVar[str] = "tower-rs/tower: tower/src/load/peak_ewma.rs, as linkerd2-proxy sets it"

    decay_ms: Annotated[
        float, Meta(gt=0, le=3_600_000, description="A latency fades by 1/e in so many milliseconds.")
    ] = 10_000.0
    first_guess_ms: Annotated[
        float, Meta(gt=0, le=3_600_000, description="Latency of an endpoint that has not answered yet.")
    ] = 30.0


class Prequal(BasePolicy, frozen=True, kw_only=True, tag="prequal"):
    """Of a sample, those with many in flight are hot; the cold one of least latency wins."""

    KIND: ClassVar[int] = 10
    SOURCE: ClassVar[str] = "arXiv 2312.10172 (NSDI 2024)"

    pool: Annotated[
        int,
        Meta(ge=1, le=64, description="Endpoints looked at; the original's word, not the configuration's."),
    ] = 16
    q_rif: Annotated[
        float, Meta(ge=0, le=1, description="Quantile of their in-flight counts above which one is hot.")
    ] = 0.84


class Rendezvous(KeyedPolicy, frozen=True, kw_only=True, tag="rendezvous"):
    """The same key to the same endpoint; one that goes moves only its own keys. Blind to load."""

    KIND: ClassVar[int] = 2
    SOURCE: ClassVar[str] = "Schindelhauer, Schomaker, Weighted Distributed Hash Tables, SPAA 2005"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class Ring(KeyedPolicy, frozen=True, kw_only=True, tag="ring"):
    """The same key to the same endpoint, by the next of 100 points per weight on a ring. Blind to load."""

    KIND: ClassVar[int] = 7
    SOURCE: ClassVar[str] = "Karger et al., Consistent Hashing and Random Trees, STOC 1997"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class BoundedRing(KeyedPolicy, frozen=True, kw_only=True, tag="bounded_ring"):
    """The same key to the same endpoint unless that has more than its share; then to the next on the ring."""

    KIND: ClassVar[int] = 3
    SOURCE: ClassVar[str] = "arXiv 1608.01350; lightseekorg/smg: model_gateway/src/policies/prefix_hash.rs"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True

    load_factor: Annotated[
        float,
        Meta(
            ge=1.0,
            le=10.0,
            description="Most in-flight requests an endpoint takes, as a multiple of the mean.",
        ),
    ] = 1.25


class Maglev(KeyedPolicy, frozen=True, kw_only=True, tag="maglev"):
    """The same key to the same endpoint, by a table of 65,537 entries. Blind to load."""

    KIND: ClassVar[int] = 8
    SOURCE: ClassVar[str] = "Eisenbud et al., Maglev, NSDI 2016; envoyproxy/envoy: MAGLEV"
    DIVIDES_BY_WEIGHT: ClassVar[bool] = True


class SmgCacheAware(BasePolicy, frozen=True, kw_only=True, tag="smg_cache_aware"):
    """The longest cached prefix when that is much of the prompt and load is balanced, else the least busy."""

    KIND: ClassVar[int] = 11
    SOURCE: ClassVar[str] = "lightseekorg/smg: model_gateway/src/policies/cache_aware.rs"

    cache_threshold: Annotated[
        float, Meta(ge=0, le=1, description="Share of the prompt that must be cached to go there.")
    ] = 0.5
    balance_abs: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Out of balance: most - least in flight is above this, ..."),
    ] = 32
    balance_rel: Annotated[
        float, Meta(ge=1, le=1000, description="... and most is above this multiple of least.")
    ] = 1.1


class Loadaware(BasePolicy, frozen=True, kw_only=True, tag="loadaware"):
    """Most of: cached share of the prompt - beta times (in flight - mean) / mean."""

    KIND: ClassVar[int] = 12
    SOURCE: ClassVar[str] = "vllm-project/production-stack: src/vllm_router/routers/routing_logic.py (#1035)"

    beta: Annotated[
        float, Meta(ge=0, le=1000, description="What a load twice the mean costs, in whole cached prompts.")
    ] = 1.0


class Llmd(BasePolicy, frozen=True, kw_only=True, tag="llmd"):
    """Most of a weighted sum: cached share of the prompt, short queue, free KV cache (polled)."""

    KIND: ClassVar[int] = 13
    SOURCE: ClassVar[str] = "llm-d/llm-d-router: pkg/epp/config/loader/defaults.go"

    prefix_weight: Annotated[float, Meta(ge=0, le=1000, description="Of the cached share of the prompt.")] = (
        3.0
    )
    queue_weight: Annotated[
        float,
        Meta(ge=0, le=1000, description="Of the place between the longest queue (0) and the shortest (1)."),
    ] = 2.0
    kv_weight: Annotated[float, Meta(ge=0, le=1000, description="Of the free share of the KV cache.")] = 2.0
    poll_ms: Annotated[
        float, Meta(ge=0, le=600_000, description="How old queue and KV figures get; 0: exact counts.")
    ] = 50.0


class Sticky(BasePolicy, frozen=True, kw_only=True, tag="sticky"):
    """Among those that hold most of the prompt, until they are saturated: the least uncached tokens to do."""

    KIND: ClassVar[int] = 14
    SOURCE: ClassVar[str] = (
        "llm-d/llm-d-router: pkg/epp/framework/plugins/scheduling/filter/prefixcacheaffinity, "
        "scorer/tokenload"
    )

    affinity_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Cached share of the prompt that makes an endpoint a holder.")
    ] = 0.8
    saturated_tokens: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Holders with so many more tokens queued than the others are let go of.",
        ),
    ] = 286_720.0


class Dynamo(BasePolicy, frozen=True, kw_only=True, tag="dynamo"):
    """Least of: blocks to prefill, less those cached, + blocks in KV."""

    KIND: ClassVar[int] = 15
    SOURCE: ClassVar[str] = "ai-dynamo/dynamo: lib/kv-router/src/scheduling/selector/default.rs"

    overlap_credit: Annotated[float, Meta(ge=0, le=1000, description="Of each cached block.")] = 1.0
    credit_decay: Annotated[
        float,
        Meta(ge=0, le=1000, description="How a queue, in prompts like this one, wears that credit off."),
    ] = 0.0
    prefill_scale: Annotated[float, Meta(ge=0, le=1000, description="Of blocks to prefill.")] = 1.0
    request_weight: Annotated[
        float, Meta(ge=0, le=1e6, description="Blocks that each request in flight counts for.")
    ] = 0.0
    temperature: Annotated[
        float, Meta(ge=0, le=1000, description="Of the softmax over costs; 0: the least.")
    ] = 0.0
    block_tokens: Annotated[int, Meta(ge=1, le=65_536, description="Tokens of a block.")] = 16


class Lmetric(BasePolicy, frozen=True, kw_only=True, tag="lmetric"):
    """Least of: (queued + own uncached tokens) times (in flight + 1)."""

    KIND: ClassVar[int] = 16
    SOURCE: ClassVar[str] = "arXiv 2603.15202"

    queue_weight: Annotated[
        float, Meta(ge=0, le=1000, description="Of queued tokens; 0: own tokens alone.")
    ] = 1.0


class Smetric(BasePolicy, frozen=True, kw_only=True, tag="smetric"):
    """The holder of the longest prefix while it meets the target, else least of tokens times in flight."""

    KIND: ClassVar[int] = 17
    SOURCE: ClassVar[str] = "vllm-project/router: src/policies/smetric.rs"

    hit_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Cached share of the prompt that makes an endpoint its holder.")
    ] = 0.5
    slack: Annotated[float, Meta(gt=0, le=1000, description="Multiple of the target that is still good.")] = (
        1.0
    )
    ttft_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Target for the time to first token of an empty prompt, ...")
    ] = 1.0
    ttft_s_per_1k: Annotated[
        float, Meta(ge=0, le=86_400, description="... and for each 1,000 tokens of it more.")
    ] = 0.0625


class Mooncake(BasePolicy, frozen=True, kw_only=True, tag="mooncake"):
    """Least predicted time of queue and prefill, as each engine's class is calibrated."""

    KIND: ClassVar[int] = 18
    SOURCE: ClassVar[str] = "kvcache-ai/Mooncake: FAST 2025 paper, Algorithm 1 (arXiv 2407.00079)"


class FiveAxis(KeyedPolicy, frozen=True, kw_only=True, tag="five_axis"):
    """Least of one score, in seconds, over time to first token, cost per token, model affinity, capacity and
    power headroom, proximity and health."""

    KIND: ClassVar[int] = 19
    SOURCE: ClassVar[str] = "this project: docs/explanation/decision.md"

    key: Annotated[
        HashKey,
        Meta(
            description="What names a session: `header`, the body's `user`, or (`prompt`, and for a request "
            "without the other) its conversation, up to the end of the first user message."
        ),
    ] = HashKey.PROMPT
    beta: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Of the prefill's time, for each answer that waits for it: what delays count against "
            "waits for first tokens, each relative to what is usual.",
        ),
    ] = 1.25
    gamma: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Of the time that decoding the answer takes; what it takes alone, by a third.",
        ),
    ] = 0.3
    kappa: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Of a token's mean prefill, for each time that what is cached is asked for again.",
        ),
    ] = 3.0
    band_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Scores so near to the least count as equal, ...")
    ] = 0.02
    band_ms: Annotated[float, Meta(ge=0, le=60_000, description="... and so many milliseconds more.")] = 2.0
    cost_weight: Annotated[
        float, Meta(ge=0, le=1e9, description="Seconds that a unit of currency is worth.")
    ] = 0.0
    barrier_s: Annotated[
        float, Meta(ge=0, le=3600, description="Of a KV cache beyond four fifths, in seconds.")
    ] = 0.15
    error_s: Annotated[float, Meta(ge=0, le=3600, description="What a failed attempt costs, in seconds.")] = (
        6.0
    )
    ratio_mode: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="Ratios in place of times: 1 always, -1 never, 0 while the view is partial.",
        ),
    ] = 0.0
    slo_penalty: Annotated[
        float, Meta(ge=0, le=1e6, description="For each second by which a target would be missed.")
    ] = 100.0
    switch_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=600_000,
            description="What it costs that a session leaves its endpoint; 0: sessions are free to go.",
        ),
    ] = 20.0
    session_s: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="How long a session is remembered after its last request; 0: not at all.",
        ),
    ] = 3600.0
    eta: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Of the mean prefill of what is driven out of a cache, for each who waits for it.",
        ),
    ] = 4.0
    power_s: Annotated[
        float, Meta(ge=0, le=3600, description="Of power beyond four fifths of its limit, in seconds.")
    ] = 0.15
    phi: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Of the queue that a prefill lengthens, for each usual wait that it lasts: what "
            "delays whoever comes after it.",
        ),
    ] = 0.2


Policy = (
    RoundRobin
    | Random
    | Weighted
    | P2c
    | LeastInFlight
    | PeakEwma
    | Prequal
    | Rendezvous
    | Ring
    | BoundedRing
    | Maglev
    | SmgCacheAware
    | Loadaware
    | Llmd
    | Sticky
    | Dynamo
    | Lmetric
    | Smetric
    | Mooncake
    | FiveAxis
)

POLICIES: dict[str, type[BasePolicy]] = {policy.name(): policy for policy in get_args(Policy)}
"""By name, in the order they are shown in."""


class PolicyError(ValueError):
    """A policy that there is not, or one set as it cannot be."""


def policy_names() -> list[str]:
    """The policies' names as a configuration writes them."""
    return list(POLICIES)


def read_policy(text: str) -> Policy:
    """The policy that `name` or `name:knob=value:knob=value` stands for.

    Raises: PolicyError, with the nearest known name.
    """
    name, *settings = text.split(":")
    policy = POLICIES.get(name)
    if policy is None:
        raise PolicyError(f"unknown policy {name!r}{_guess(name, POLICIES)}; there are {', '.join(POLICIES)}")
    values: dict[str, object] = {"type": name}
    for setting in settings:
        knob, equals, number = setting.partition("=")
        if not equals:
            raise PolicyError(f"{name}: {setting!r} is not knob=value")
        if knob not in policy.__struct_fields__:
            known = ", ".join(policy.__struct_fields__) or "none"
            raise PolicyError(
                f"{name} has no knob {knob!r}{_guess(knob, policy.__struct_fields__)}; it has: {known}"
            )
        if knob in values:
            raise PolicyError(f"{name}: {knob} is given twice")
        values[knob] = number if knob in ("key", "header") else _number(name, knob, number)
        try:
            msgspec.convert(values, policy)
        except msgspec.ValidationError:
            wanted = describe(fields_of(policy)[knob].type)
            raise PolicyError(f"{name}: {knob} is {number}; it must be {wanted}") from None
    return msgspec.convert(values, Policy)  # type: ignore[no-any-return]


def parse_policy(text: str) -> tuple[int, tuple[float, ...]]:
    """(kind, knobs) of what `read_policy` reads: what native code is set with.

    Raises: PolicyError.
    """
    policy = read_policy(text)
    return policy.KIND, policy.knobs()


def _number(name: str, knob: str, text: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise PolicyError(f"{name}: {knob} is {text!r}; it must be a number") from None
    return int(value) if value.is_integer() else value


def _guess(word: str, known: Iterable[str]) -> str:
    guess = nearest(word, known)
    return f", did you mean {guess!r}?" if guess else ""

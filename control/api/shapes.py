"""What the API is called with and what it answers: the bodies, as structs.

Invariant: a field that is here is in the OpenAPI document, and none has a secret. Neighbours:
policy_operations.py and live_operations.py (fill them), control/cli.py (prints them).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from router import limits

MESSAGE_CHARS_MAX = 2_000
PAGE_MAX = 500  # rows of one answer
PAGE_DEFAULT = 50

Message = Annotated[str, Meta(max_length=MESSAGE_CHARS_MAX, description="Why, for the audit record.")]
VersionNumber = Annotated[int, Meta(ge=1, description="Of a version.")]
SourceText = Annotated[
    str, Meta(max_length=limits.CONFIG_BYTES_MAX, description="The configuration file, YAML or JSON.")
]
FileName = Annotated[
    str, Meta(max_length=4096, description="Its name, for messages; one that ends in .json is JSON.")
]
Wait = Annotated[
    int, Meta(ge=0, le=30_000, description="How long to wait for the routers' acks; 0: not at all.")
]
Ratio = Annotated[float, Meta(gt=0, le=1, description="Share of the sessions.")]


class _Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DocumentBody(_Body, frozen=True, kw_only=True):
    """A document to look at."""

    source: Annotated[
        str,
        Meta(max_length=limits.CONFIG_BYTES_MAX, description="The configuration file's text, YAML or JSON."),
    ]
    file: Annotated[
        str, Meta(max_length=4096, description="Its name, for messages; one that ends in .json is JSON.")
    ] = "policy.yaml"


class PushBody(_Body, frozen=True, kw_only=True):
    """A document to keep as the next version."""

    source: Annotated[
        str,
        Meta(max_length=limits.CONFIG_BYTES_MAX, description="The configuration file's text, YAML or JSON."),
    ]
    file: Annotated[
        str, Meta(max_length=4096, description="Its name, for messages; one that ends in .json is JSON.")
    ] = "policy.yaml"
    message: Message = ""
    parent: Annotated[
        int | None,
        Meta(description="The newest version that the author has seen; with a newer one: a conflict."),
    ] = None


class ActivateBody(_Body, frozen=True, kw_only=True):
    """Puts a version in force everywhere."""

    version: VersionNumber
    message: Message = ""
    wait_ms: Annotated[
        int,
        Meta(ge=0, le=30_000, description="How long to wait for the connected routers' acks; 0: not at all."),
    ] = 0


class CanaryBody(_Body, frozen=True, kw_only=True):
    """Gives a version to a share of the sessions."""

    version: VersionNumber
    ratio: Ratio
    message: Message = ""
    wait_ms: Wait = 0


class ReasonBody(_Body, frozen=True, kw_only=True):
    """A change that needs only its reason."""

    message: Message = ""
    wait_ms: Wait = 0


class RollbackBody(_Body, frozen=True, kw_only=True):
    """Back to what was in force before, or to a version by its number."""

    version: Annotated[int | None, Meta(description="Absent: what was in force before.")] = None
    message: Message = ""
    wait_ms: Wait = 0


class PageQuery(_Body, frozen=True, kw_only=True):
    """Which rows."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="At most so many.")] = PAGE_DEFAULT
    before: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Those below it: `next` of the page before.")
    ] = None


class DiffQuery(_Body, frozen=True, kw_only=True):
    """Two versions."""

    old: Annotated[int, Meta(ge=0, description="0: what is in force.")] = 0
    new: Annotated[int, Meta(ge=0, description="0: the newest.")] = 0


class VersionRow(Struct, frozen=True, kw_only=True):
    """One version, without its document."""

    version: int
    hash: str
    parent: int
    author: str
    message: str
    created_at: str
    state: str
    """stable, canary, or nothing."""


class VersionPage(Struct, frozen=True, kw_only=True):
    """Versions, the newest first."""

    versions: list[VersionRow]
    next: int | None = None


class VersionWhole(Struct, frozen=True, kw_only=True):
    """One version with what was pushed."""

    version: int
    hash: str
    parent: int
    author: str
    message: str
    created_at: str
    state: str
    source: str


class Finding(Struct, frozen=True, kw_only=True):
    """Something about a document that whoever activates it should know."""

    severity: str
    """error: it cannot be served; warning: it can, and is probably not meant."""
    path: str
    message: str


class Findings(Struct, frozen=True, kw_only=True):
    """What validation found; without errors the document can be pushed."""

    findings: list[Finding]
    left_out: list[str]
    """Sections that are each router's own."""


class Difference(Struct, frozen=True, kw_only=True):
    """Two versions, line by line."""

    old: int
    new: int
    lines: list[str]


class PolicyAnswer(Struct, frozen=True, kw_only=True):
    """What is desired, and how far it has come."""

    revision: int
    stable: int
    canary: int | None
    canary_ratio: float
    previous: int | None
    """What a rollback goes back to."""
    is_frozen: bool
    sequence: int
    snapshot: str
    routers_applied: int
    routers_connected: int
    guard: str = ""
    """What the guard said of the canary at its last look."""
    waited_ms: float = 0.0


class RouterRow(Struct, frozen=True, kw_only=True):
    """One connected router."""

    router: str
    instance: str
    region: str
    release: str
    peer: str
    connected_at: str
    sequence: int
    is_current: bool
    refusal: str
    apply_ms: float
    reported_ago_ms: int | None
    loop_lag_ms: float


class RouterList(Struct, frozen=True, kw_only=True):
    """The connected routers, by name."""

    routers: list[RouterRow]


class AuditRow(Struct, frozen=True, kw_only=True):
    """One record of the chain."""

    number: int
    at: str
    actor: str
    action: str
    old: str
    new: str
    why: str
    previous_hash: str
    hash: str


class AuditPage(Struct, frozen=True, kw_only=True):
    """Records, the newest first."""

    records: list[AuditRow]
    next: int | None = None


class AuditVerdict(Struct, frozen=True, kw_only=True):
    """Whether the chain is whole."""

    is_whole: bool
    records: int
    faults: list[str]


class StatusAnswer(Struct, frozen=True, kw_only=True):
    """Control at a glance."""

    name: str
    release: str
    uptime_s: int
    public_key: str
    store: str
    """ok, or why it takes no changes."""
    policy: PolicyAnswer
    tasks: dict[str, int]
    """Name → how often it failed and was begun again."""

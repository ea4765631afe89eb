"""Which endpoints may answer at all: what routes require of them, taken apart into single conditions.

A requirement is a conjunction: one of some regions, labels with their values, capabilities. Each part is a
condition, and each different condition of a configuration is a bit (snapshot.py), so that a pick asks an
endpoint for all of them with one AND. Invariant: nothing relaxes a condition, neither a retry nor the panic
when every endpoint is ejected. Neighbours: config.py (routes and endpoints), validate.py (conditions that
nobody meets).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, Protocol

from msgspec import Meta, field

from router import limits
from router.schema.kinds import LabelValue, Name, Section


class Requirement(Section, frozen=True, kw_only=True):
    """What an endpoint must have to be picked; every field given must hold. Never relaxed."""

    regions: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=limits.NAME_BYTES_MAX)], ...],
        Meta(max_length=limits.LABELS_MAX, description="Its `region` is one of these."),
    ] = ()
    labels: Annotated[
        dict[Name, LabelValue],
        Meta(max_length=limits.LABELS_MAX, description="It has all of these labels, with these values."),
    ] = field(default_factory=dict)
    capabilities: Annotated[
        tuple[Name, ...],
        Meta(max_length=limits.CAPABILITIES_MAX, description="It has all of these capabilities."),
    ] = ()


class Described(Protocol):
    """What a condition looks at: an endpoint of the configuration."""

    @property
    def region(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def capabilities(self) -> tuple[str, ...]: ...


class Condition(NamedTuple):
    """One thing an endpoint must have. `key` is a label's; `values` are the regions, any of which will do."""

    kind: str
    key: str
    values: tuple[str, ...]

    def is_met_by(self, endpoint: Described) -> bool:
        if self.kind == "region":
            return endpoint.region in self.values
        if self.kind == "label":
            return endpoint.labels.get(self.key) == self.values[0]
        return self.values[0] in endpoint.capabilities

    def __str__(self) -> str:
        key = f"{self.key}=" if self.key else ""
        return f"{self.kind} {key}{' or '.join(self.values)}"


def conditions_of(requirement: Requirement) -> list[Condition]:
    """The conditions that together are `requirement`."""
    found = [Condition("region", "", tuple(sorted(set(requirement.regions))))] if requirement.regions else []
    found += [Condition("label", key, (value,)) for key, value in requirement.labels.items()]
    found += [Condition("capability", "", (word,)) for word in dict.fromkeys(requirement.capabilities)]
    return found


def distinct_conditions(requirements: Iterable[Requirement]) -> list[Condition]:
    """The conditions of them all, each once, in their order."""
    return list(dict.fromkeys(found for one in requirements for found in conditions_of(one)))

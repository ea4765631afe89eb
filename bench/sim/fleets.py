"""Fleets: which endpoints there are, where, at what price, and how many routers stand before them.

A fleet is a small YAML file; those of the evaluation plan lie in fleets/ and go by name. Invariant: what a
fleet leaves out has the default written here, and what it says and nobody knows is refused with the nearest
word that is known. Neighbours: router/schema/engines.py (engine classes), run.py (builds a simulation of it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta, Struct, structs

from router.schema.aliases import AliasModel, AliasModels, quality_costs_ms
from router.schema.engines import CLASSES, OVERHEAD_MS, EngineFigures
from router.schema.words import nearest

FOLDER = Path(__file__).parent / "fleets"

GPU_PRICES_PER_H = {"a100": 2.21, "h100": 4.02, "l40s": 1.80}
"""Currency units per GPU and hour, on demand: as vllm-project/semantic-router's fleet simulator has them."""
SPOT_PRICE_RATIO = 0.4
LOAD_S_DEFAULT = 22.7
"""To load a base model: the median of Alibaba's generative-AI trace; 45 s at its 95th percentile."""
ADAPTER_LOAD_S = 4.4
"""To load a LoRA adapter: the same source; 6.8 s at its 95th percentile."""

_Positive = Annotated[float, Meta(gt=0)]
_NotNegative = Annotated[float, Meta(ge=0)]


class FleetError(Exception):
    """A fleet that cannot be read or meant."""


class EndpointGroup(Struct, frozen=True, forbid_unknown_fields=True, rename={"engine_class": "class"}):
    """Endpoints that are alike. What a group leaves out it has from `defaults`."""

    engine_class: str
    count: Annotated[int, Meta(ge=1, le=4096)] = 1
    name: str = ""
    """Of each, with a number behind it; the class when there is none."""
    speed: _Positive = 1.0
    """Times as fast as its class."""
    known: bool = True
    """Whether routers are told its class; else they begin with the default's figures, and learn."""
    kv_tokens: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    """In place of the class's."""
    price_per_h: _NotNegative | None = None
    """Of a machine; None: of its GPUs, on demand."""
    spot: bool = False
    """At SPOT_PRICE_RATIO of the price."""
    input_price: _NotNegative = 0.0
    """Per million prompt tokens, on top of the machine's hours."""
    output_price: _NotNegative = 0.0
    region: str = "near"
    weight: _Positive = 1.0
    """For policies that go by configured weights."""
    models: dict[str, _NotNegative] = {}
    """Seconds to load each. Empty: every model of the trace, always there."""
    resident: tuple[str, ...] = ()
    """Of these, those in memory from the beginning."""
    models_max: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """In memory at once; None: as many as are resident from the beginning."""
    power_cap: Annotated[float, Meta(ge=0.1, le=1)] = 1.0
    """Share of its power limit that it may draw. One that would draw more is clocked down."""
    power_brake: Annotated[float, Meta(ge=1, le=100)] | None = None
    """Steps take so many times as long while it would draw more, as under a facility's power brake; None:
    as many times as it would draw too much, as under a cap that the GPU itself keeps."""
    chunk_tokens: Annotated[int, Meta(ge=16, le=1 << 20)] = 2048
    """Computed in one step: vLLM's default of max_num_batched_tokens."""
    sequences_max: Annotated[int, Meta(ge=1, le=65536)] = 256
    """Running at once: vLLM's default of max_num_seqs."""


class Replicas(Struct, frozen=True, forbid_unknown_fields=True):
    """Routers, and what they tell each other."""

    count: Annotated[int, Meta(ge=1, le=64)] = 1
    gossip_ms: _NotNegative = 100.0
    """Between two tellings of one's own share of the load, and what was given to whom since; 0: never."""
    by_session: bool = False
    """Whether requests of one session come to one router; else they come to any."""


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """All that a trace runs on."""

    endpoints: Annotated[tuple[EndpointGroup, ...], Meta(min_length=1)]
    name: str = ""
    regions: dict[str, _NotNegative] = msgspec.field(default_factory=lambda: {"near": 2.0})
    """Round trip from the router, in ms."""
    replicas: Replicas = Replicas()
    poll_ms: _NotNegative = 0.0
    """Between two readings of the engines' queues, caches and power; 0: they are not known."""
    aliases: dict[str, AliasModels] = {}
    """Names that stand for several models, in order of preference; as in a router's configuration."""

    def models(self) -> list[str]:
        """All that its endpoints name."""
        return sorted({name for group in self.endpoints for name in group.models})

    def costs_s(self, name: str) -> dict[str, float]:
        """The models that may answer to a name, in order, and what each costs in quality."""
        if name not in self.aliases:
            return {name: 0.0}
        return {model: cost / 1000 for model, cost in quality_costs_ms(self.aliases[name]).items()}

    def endpoint_count(self) -> int:
        return sum(group.count for group in self.endpoints)

    def groups(self) -> list[EndpointGroup]:
        """The group of each endpoint, in order."""
        return [group for group in self.endpoints for _ in range(group.count)]

    def endpoint_names(self) -> list[str]:
        names: list[str] = []
        for group in self.endpoints:
            stem = group.name or group.engine_class
            taken = sum(name.rpartition("-")[0] == stem for name in names)
            names += [f"{stem}-{taken + number}" for number in range(group.count)]
        return names


def price_per_h(group: EndpointGroup) -> float:
    """Of one machine of the group, by its GPUs when the fleet does not say."""
    price = group.price_per_h
    if price is None:
        found = re.search(r"(a100|h100|l40s)(?:-tp(\d+))?$", group.engine_class)
        price = GPU_PRICES_PER_H[found[1]] * int(found[2] or 1) if found else 0.0
    return price * (SPOT_PRICE_RATIO if group.spot else 1.0)


def kv_tokens(group: EndpointGroup) -> int:
    return group.kv_tokens if group.kv_tokens is not None else CLASSES[group.engine_class][5]


def timing(group: EndpointGroup) -> tuple[float, float, float, float, float, int, float]:
    """Of the step model: floor, base, per token, pair and context token in ms; KV tokens; overhead in ms."""
    floor_ms, base_ms, token_ms, pair_ms, context_ms = (
        figure / group.speed for figure in CLASSES[group.engine_class][:5]
    )
    return floor_ms, base_ms, token_ms, pair_ms, context_ms, kv_tokens(group), OVERHEAD_MS / group.speed


def figures(group: EndpointGroup) -> EngineFigures:
    """What routers are told of such an engine beside its class: what differs from it."""
    if group.speed == 1.0 or not group.known:
        return EngineFigures(kv_tokens=group.kv_tokens)
    floor_ms, base_ms, token_ms, pair_ms, context_ms, _, _ = timing(group)
    return EngineFigures(
        prefill_us_per_token=token_ms * 1e3,
        prefill_pair_ps=pair_ms * 1e9,
        step_floor_us=floor_ms * 1e3,
        step_base_us=base_ms * 1e3,
        context_ns_per_token=context_ms * 1e6,
        kv_tokens=group.kv_tokens,
    )


def shipped_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_fleet(name_or_path: str) -> Fleet:
    """A shipped fleet by its name, or one of a file.

    Raises: FleetError, which names the nearest known word when one is unknown.
    """
    path = Path(name_or_path)
    is_file = path.suffix in (".yaml", ".yml") or "/" in name_or_path
    if not is_file:
        path = FOLDER / f"{name_or_path}.yaml"
        if name_or_path not in shipped_names():
            raise FleetError(_unknown("fleet", name_or_path, shipped_names()))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise FleetError(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise FleetError(f"{path}: is not UTF-8") from exc
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f"{mark.line + 1}: " if mark else " "
        raise FleetError(f"{path}:{line}{getattr(exc, 'problem', None) or exc}") from exc
    return read_fleet(value, str(path), path.stem)


def read_fleet(value: Any, source: str, name: str = "") -> Fleet:
    """A fleet of plain dicts and lists; `source` is what messages begin with.

    Raises: FleetError.
    """
    if not isinstance(value, dict):
        raise FleetError(f"{source}: is not a mapping with {', '.join(_keys(Fleet))}")
    value = {"name": name} | value
    defaults = value.pop("defaults", {})
    _check_keys(defaults, _keys(EndpointGroup), f"{source}: defaults")
    _check_keys(value, [*_keys(Fleet), "defaults"], source)
    _check_keys(value.get("replicas", {}), _keys(Replicas), f"{source}: replicas")
    groups = value.get("endpoints")
    if not isinstance(groups, list):
        raise FleetError(f"{source}: endpoints is not a list of groups")
    for number, group in enumerate(groups):
        _check_keys(group, _keys(EndpointGroup), f"{source}: endpoints[{number}]")
    aliases = value.get("aliases", {})
    for alias, entries in aliases.items() if isinstance(aliases, dict) else ():
        for place, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                _check_keys(entry, _keys(AliasModel), f"{source}: aliases.{alias}[{place}]")
    try:
        fleet = msgspec.convert(value | {"endpoints": [defaults | group for group in groups]}, Fleet)
    except msgspec.ValidationError as exc:
        raise FleetError(f"{source}: {str(exc).replace(' - at `$.', ' in `')}") from exc
    _check_aliases(fleet, source)
    for number, group in enumerate(fleet.endpoints):
        where = f"{source}: endpoints[{number}]"
        if group.engine_class not in CLASSES:
            raise FleetError(f"{where}: {_unknown('class', group.engine_class, list(CLASSES))}")
        if group.region not in fleet.regions:
            raise FleetError(f"{where}: {_unknown('region', group.region, list(fleet.regions))}")
        for model in group.resident:
            if model not in group.models:
                raise FleetError(f"{where}: resident: {_unknown('model', model, list(group.models))}")
        if group.models_max is not None and len(group.resident) > group.models_max:
            raise FleetError(
                f"{where}: {len(group.resident)} models are resident, models_max {group.models_max}"
            )
    return fleet


def _check_aliases(fleet: Fleet, source: str) -> None:
    models = fleet.models()
    for alias, entries in fleet.aliases.items():
        where = f"{source}: aliases.{alias}"
        if alias in models:
            raise FleetError(f"{where}: endpoints have a model of that name")
        if len(fleet.costs_s(alias)) != len(entries):
            raise FleetError(f"{where}: names a model twice")
        for model in fleet.costs_s(alias):
            if model not in models:
                raise FleetError(f"{where}: {_unknown('model', model, models or ['none: no endpoint says'])}")


def _keys(kind: type[Struct]) -> list[str]:
    return [field.encode_name for field in structs.fields(kind)]


def _check_keys(value: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(value, dict):
        raise FleetError(f"{where}: is not a mapping")
    for key in value:
        if key not in known:
            raise FleetError(f"{where}: {_unknown('key', str(key), known)}")


def _unknown(what: str, word: str, known: Sequence[str]) -> str:
    guess = nearest(word, known)
    return f"unknown {what} {word!r}; " + (f"{guess!r} perhaps" if guess else f"one of: {', '.join(known)}")

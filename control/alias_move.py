"""A document in which an alias's answers come from another model: what a move of an alias is made of.

The new document becomes a version like any other, so that a canary, the guard and a roll back move an alias
as they move anything: who has the canary has the new model, by session. Invariant: nothing but the one alias
changes, and in it no other model's cost in quality. Neighbours: rollout.py (moves versions),
schema/aliases.py (what an alias is).
"""

from __future__ import annotations

from msgspec import structs

from router.schema.aliases import AliasModel, quality_costs_ms
from router.schema.policy_document import PolicyDocument


class AliasMoveError(ValueError):
    """It cannot be moved so; the message says why."""


def alias_move(
    document: PolicyDocument, alias: str, to_model: str, *, from_model: str | None = None
) -> PolicyDocument:
    """`document` with `to_model` where `from_model` stood in the alias's list; absent: where its first did.

    A `to_model` that stood elsewhere in that list leaves its old place. Raises: AliasMoveError.
    """
    entries = document.aliases.get(alias)
    if entries is None:
        known = ", ".join(sorted(document.aliases)) or "none"
        raise AliasMoveError(f"there is no alias {alias}; there are: {known}")
    if to_model in document.aliases:
        raise AliasMoveError(f"{to_model} is an alias itself: an alias moves to a model")
    names = [_model_of(entry) for entry in entries]
    leaving = names[0] if from_model is None else from_model
    if leaving not in names:
        raise AliasMoveError(f"{leaving} is no model of alias {alias}; these are: {', '.join(names)}")
    if leaving == to_model:
        raise AliasMoveError(f"{to_model} answers for alias {alias} there already")
    served = [set(endpoint.models) for pool in document.pools for endpoint in pool.endpoints]
    if all(models and to_model not in models for models in served):
        raise AliasMoveError(f"no endpoint serves {to_model}")
    if to_model in names:  # costs are by place, and places change
        costs = quality_costs_ms(entries)
        entries = tuple(AliasModel(model=name, quality_cost_ms=costs[name]) for name in names)
    moved = tuple(
        _renamed(entry, to_model) if name == leaving else entry
        for entry, name in zip(entries, names, strict=True)
        if name != to_model
    )
    return structs.replace(document, aliases={**document.aliases, alias: moved})


def _model_of(entry: str | AliasModel) -> str:
    return entry if isinstance(entry, str) else entry.model


def _renamed(entry: str | AliasModel, model: str) -> str | AliasModel:
    return model if isinstance(entry, str) else structs.replace(entry, model=model)

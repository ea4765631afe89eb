"""Aliases: names that clients may ask for, and the models that may answer, in order.

What one of them costs in quality is a time, because a score is: the model whose score and cost together are
least answers. Invariant: an alias is no model's name, so that nobody has to guess which of the two is meant
(validate.py). Neighbours: config.py (holds them), snapshot.py (which makes tables of them).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from router import limits
from router.schema.kinds import MillisecondsOrOff, ModelName, Section

# What a model costs in quality for each place down an alias's list. A 70B model is behind an 8B one by one to
# two seconds of score while both are idle: more than that, so that the order alone means something.
QUALITY_COST_STEP_MS = 5_000


class AliasModel(Section, frozen=True, kw_only=True):
    """One of the models that stand behind an alias."""

    model: Annotated[ModelName, Meta(description="A name that endpoints serve.")]
    quality_cost_ms: Annotated[
        MillisecondsOrOff | None,
        Meta(
            description="How much longer one would rather wait than have this model's answer; models with "
            "the same number are as good. Absent: 5000 for each place down the list."
        ),
    ] = None


AliasModels = Annotated[
    tuple[ModelName | AliasModel, ...],
    Meta(min_length=1, max_length=limits.ALIAS_MODELS_MAX),
]


def quality_costs_ms(models: tuple[str | AliasModel, ...]) -> dict[str, int]:
    """The models of an alias in order, each with what its answer costs in quality."""
    costs = {}
    for place, entry in enumerate(models):
        candidate = AliasModel(model=entry) if isinstance(entry, str) else entry
        cost = candidate.quality_cost_ms
        costs[candidate.model] = place * QUALITY_COST_STEP_MS if cost is None else cost
    return costs

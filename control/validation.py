"""What is doubtful about a document that could be served: seen against the fleet as it is now.

That a document is well-formed, refers to nothing that is not there, has no route behind one that takes all
its requests, and requires nothing that nobody meets, router/config.py has seen to. What is left hangs on the
fleet: a pool whose endpoints are all down, a model that no endpoint has. Invariant: nothing here asks the
network; what is known of the fleet comes in. Neighbours: api/policy_operations.py (`validate`), health.py and
scrape.py (what is known).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set

from msgspec import Struct

from router.schema.config import Endpoint
from router.schema.policy_document import PolicyDocument


class Doubt(Struct, frozen=True, kw_only=True):
    """Something that whoever activates the document should know."""

    path: str
    message: str


class FleetFacts(Struct, frozen=True, kw_only=True):
    """What is known of endpoints, by their names; one that nothing is known of is not held to be down."""

    down: Mapping[str, str] = {}
    """Those that cannot take requests now → why."""
    models: Mapping[str, Set[str]] = {}
    """What engines say they serve."""


def doubts_of(document: PolicyDocument, facts: FleetFacts) -> list[Doubt]:
    """All of them, in the order of the document."""
    return [
        *_pool_doubts(document, facts),
        *_model_doubts(document, facts),
        *_route_doubts(document),
    ]


def _pool_doubts(document: PolicyDocument, facts: FleetFacts) -> Iterator[Doubt]:
    for index, pool in enumerate(document.pools):
        reasons = {endpoint.name: facts.down.get(endpoint.name) for endpoint in pool.endpoints}
        if reasons and all(reason is not None for reason in reasons.values()):
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            yield Doubt(path=f"pools[{index}]", message=f"no endpoint of {pool.name!r} is healthy ({why})")


def _model_doubts(document: PolicyDocument, facts: FleetFacts) -> Iterator[Doubt]:
    for pool_index, pool in enumerate(document.pools):
        for index, endpoint in enumerate(pool.endpoints):
            served = facts.models.get(endpoint.name)
            if served is None:
                continue
            for model in endpoint.models:
                wanted = endpoint.model_rewrite.get(model, model)
                if wanted not in served and model not in endpoint.model_load_ms:
                    yield Doubt(
                        path=f"pools[{pool_index}].endpoints[{index}].models",
                        message=f"the engine at {endpoint.url} does not serve {wanted!r}; "
                        f"it has {_some(served)}",
                    )


def _route_doubts(document: PolicyDocument) -> Iterator[Doubt]:
    endpoints = [endpoint for pool in document.pools for endpoint in pool.endpoints]
    for index, route in enumerate(document.routes):
        pattern = route.match.model
        if pattern is not None and not _may_serve(pattern, document, endpoints):
            yield Doubt(
                path=f"routes[{index}].match.model",
                message=f"no endpoint has a model that matches {pattern!r}; there are "
                f"{_some({model for endpoint in endpoints for model in endpoint.models})}",
            )


def _may_serve(pattern: str, document: PolicyDocument, endpoints: Iterable[Endpoint]) -> bool:
    """Whether a request for a model that matches can be answered; an endpoint without a list serves any."""
    names = set(document.aliases)
    for endpoint in endpoints:
        if not endpoint.models:
            return True
        names.update(endpoint.models)
    return any(_matches(name, pattern) for name in names)


def _matches(text: str, pattern: str) -> bool:
    """As routes match: `*` is any text, everything else is itself."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _some(names: Set[str]) -> str:
    shown = sorted(names)[:5]
    return (", ".join(shown) + (", ..." if len(names) > len(shown) else "")) or "none"

"""How long each thing may take: for all requests, and what a route changes of that.

Invariant: a route's timeouts are whole before anybody waits by them (`effective_timeouts`). Neighbours:
config.py (holds both), validate.py (contradictions), snapshot.py (microseconds).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from router.schema.kinds import Milliseconds, MillisecondsOrOff, Section


class Timeouts(Section, frozen=True, kw_only=True):
    """How long each thing may take, in milliseconds."""

    connect_ms: Annotated[
        Milliseconds, Meta(description="TCP connection to an endpoint, all its addresses together.")
    ] = 2_000
    tls_ms: Annotated[Milliseconds, Meta(description="TLS handshake, on either side.")] = 5_000
    head_ms: Annotated[Milliseconds, Meta(description="A request head, from its first byte to its last.")] = (
        10_000
    )
    body_ms: Annotated[Milliseconds, Meta(description="Gap between two reads of a request body.")] = 30_000
    first_byte_ms: Annotated[
        Milliseconds,
        Meta(description="From the request sent to the first byte of the answer: queueing and prefill."),
    ] = 300_000
    idle_ms: Annotated[
        Milliseconds, Meta(description="Gap between two reads of an answer that has begun.")
    ] = 60_000
    total_ms: Annotated[
        MillisecondsOrOff,
        Meta(description="The whole exchange, from its head to the last byte; 0 is no bound."),
    ] = 600_000
    keep_alive_ms: Annotated[
        Milliseconds, Meta(description="How long an idle client connection is kept.")
    ] = 75_000
    upstream_idle_ms: Annotated[
        Milliseconds,
        Meta(
            description="How long an idle endpoint connection is kept; shorter than the engine's "
            "own keep-alive."
        ),
    ] = 4_000  # uvicorn's engines (vLLM, SGLang) and llama.cpp close after 5 s
    write_stall_ms: Annotated[
        Milliseconds, Meta(description="How long a peer may take nothing of what is waiting for it.")
    ] = 60_000


class RouteTimeouts(Section, frozen=True, kw_only=True):
    """What a route changes of `timeouts`; an absent field keeps the global value."""

    connect_ms: Annotated[Milliseconds | None, Meta(description="As `timeouts.connect_ms`.")] = None
    tls_ms: Annotated[Milliseconds | None, Meta(description="As `timeouts.tls_ms`, towards endpoints.")] = (
        None
    )
    body_ms: Annotated[
        Milliseconds | None,
        Meta(
            description="As `timeouts.body_ms`, from the pick on: for bodies that are cut through. "
            "Before it, the model and so the route are not known."
        ),
    ] = None
    first_byte_ms: Annotated[Milliseconds | None, Meta(description="As `timeouts.first_byte_ms`.")] = None
    idle_ms: Annotated[Milliseconds | None, Meta(description="As `timeouts.idle_ms`.")] = None
    total_ms: Annotated[MillisecondsOrOff | None, Meta(description="As `timeouts.total_ms`.")] = None
    write_stall_ms: Annotated[Milliseconds | None, Meta(description="As `timeouts.write_stall_ms`.")] = None


def effective_timeouts(timeouts: Timeouts, route: RouteTimeouts) -> Timeouts:
    """The timeouts of a route: its own fields, and the global ones where it has none."""
    values = {name: getattr(timeouts, name) for name in timeouts.__struct_fields__}
    for name in route.__struct_fields__:
        value = getattr(route, name)
        if value is not None:
            values[name] = value
    return Timeouts(**values)

"""One run: a trace on a fleet under a policy, and the columns that come of it.

    recording = read_trace(Path("conversation.jsonl.gz"), Format.MOONCAKE)
    trace = replay(recording, speed=1.0, seed=1)
    outcome = simulate(trace, load_fleet("hom-8xa100"), "lmetric", seed=1)
    figures = measure(outcome)        # of bench.sim.measures

Invariant: the same arguments give the same columns, byte for byte. Neighbours: simulation.pyx (native),
measures.py (figures), sweep.py (many runs).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.sim import fleets, keys
from bench.sim.fleets import Fleet
from bench.sim.simulation import Simulation
from bench.sim.traces import Trace
from router.native.decision import Decider
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable
from router.schema.engines import figures_of
from router.schema.policies import parse_policy

WARM_UP_RATIO = 0.1
"""Of the requests, by arrival: left out of every figure."""
PREFIX_TABLE_BYTES = 64 << 20
"""Half a million keys: several times what any shipped trace has alive."""
SESSION_TABLE_BYTES = 4 << 20
"""A quarter of a million sessions, likewise."""


class FaultKind(IntEnum):
    """fault_kind of world.pxd."""

    SLOW = 0
    CRASH = 1
    HANG = 2
    FLAP = 3
    ERRORS = 4
    SIGNALS = 5
    REJOIN = 6


class Fault(NamedTuple):
    """Something goes wrong with an endpoint (-1: with all) for a while."""

    kind: FaultKind
    endpoint: int
    start_s: float
    end_s: float


class State(IntEnum):
    """request_state of request.pxd, as far as a finished run has them."""

    DONE = 3
    FAILED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What requests ask of the router beside an answer."""

    ttft_target_s: float = 0.0
    """0: no target."""
    ttft_target_token_s: float = 0.0
    """More of it per prompt token."""
    cost_weight_s: float = 0.0
    """Seconds that a unit of currency is worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Everything a run tells; columns are [request_count], times in us since its begin."""

    trace: Trace
    fleet: Fleet
    policy: str
    seed: int
    faults: tuple[Fault, ...]
    arrival_us: NDArray[np.int64]
    picked_us: NDArray[np.int64]
    """Of the last attempt."""
    first_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    """Of the last attempt; -1: there was nobody to ask."""
    models: tuple[str, ...]
    """All that may answer to what the trace asks for."""
    model: NDArray[np.int32]
    """Index into `models`: who answers, or was to, of the last attempt."""
    cached_tokens: NDArray[np.int32]
    state: NDArray[np.uint8]
    failure: NDArray[np.uint8]
    attempt_count: NDArray[np.uint8]
    measured: NDArray[np.bool_]
    """Not in the warm-up."""
    busy_s: NDArray[np.float64]
    """[endpoint_count], of the measured part: time in steps."""
    preemption_count: NDArray[np.int64]
    """[endpoint_count], of the whole run."""
    step_count: int
    pick_count: int


def simulate(
    trace: Trace,
    fleet: Fleet,
    policy: str,
    *,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    asking: Asking | None = None,
) -> Outcome:
    """Runs the trace to its end under a policy, `name` or `name:knob=value:knob=value`.

    Raises: router.schema.policies.PolicyError; FleetError when nobody has one of the trace's models.
    """
    asking = asking or Asking()
    kind, knobs = parse_policy(policy)
    deciders = _deciders(fleet)
    models = _models(fleet, trace)
    simulation = Simulation(
        len(trace), fleet.endpoint_count(), len(models), deciders, seed, fleet.replicas.by_session
    )
    simulation.set_policy(
        kind,
        knobs,
        ttft_target_s=asking.ttft_target_s,
        ttft_target_token_s=asking.ttft_target_token_s,
        cost_weight_s=asking.cost_weight_s,
    )
    _set_endpoints(simulation, fleet, models, trace.block_tokens)
    _tell_residents(deciders, fleet, models)
    simulation.set_names(
        [
            [(models.index(model), cost_s) for model, cost_s in fleet.costs_s(name).items()]
            for name in trace.models
        ]
    )
    _set_requests(simulation, trace)
    simulation.set_faults(
        [(kind, at, round(start * 1e6), round(end * 1e6)) for kind, at, start, end in faults]
    )
    simulation.set_timers(
        round(fleet.replicas.gossip_ms * 1000), round(fleet.poll_ms * 1000), int(len(trace) * WARM_UP_RATIO)
    )
    simulation.run()
    return _outcome(
        simulation,
        trace=trace,
        fleet=fleet,
        models=models,
        policy=policy,
        seed=seed,
        faults=tuple(faults),
    )


def _models(fleet: Fleet, trace: Trace) -> tuple[str, ...]:
    """All that may answer to what the trace asks for."""
    return tuple(dict.fromkeys(model for name in trace.models for model in fleet.costs_s(name)))


def _deciders(fleet: Fleet) -> list[Decider]:
    """One per replica, each with tables of its own: what another replica has learnt it does not know."""
    count = fleet.replicas.count
    found = []
    for column in range(count):
        load = LoadTable.create(fleet.endpoint_count(), count)
        prefix = PrefixTable.create(PREFIX_TABLE_BYTES, load.slot_count)
        residency = ResidencyTable.create(load.slot_count)
        sessions = SessionTable.create(SESSION_TABLE_BYTES, load.slot_count)
        learner = Learner.create(load.slot_count)
        learner.listen(SignalTable.create(load.slot_count))
        found.append(Decider(load, prefix, learner, column, residency, sessions))
    return found


def _set_endpoints(simulation: Simulation, fleet: Fleet, models: tuple[str, ...], block_tokens: int) -> None:
    groups = fleet.groups()
    names = fleet.endpoint_names()
    candidates: list[list[int]] = [[] for _ in models]
    for index, group in enumerate(groups):
        for number, name in enumerate(models):
            if not group.models or not name or name in group.models:
                candidates[number].append(index)
        simulation.set_endpoint(
            index,
            timing=fleets.timing(group),
            block_tokens=block_tokens,
            sequences_max=group.sequences_max,
            chunk_tokens=group.chunk_tokens,
            rtt_us=round(fleet.regions[group.region] * 1000),
            loads_us=[round(group.models.get(name, 0.0) * 1e6) for name in models],
            resident=[not group.models or not name or name in group.resident for name in models],
            resident_max=_models_max(group, models),
            power_cap=group.power_cap,
            power_brake=group.power_brake or 0.0,
        )
        figures = figures_of(
            group.engine_class if group.known else None,
            fleets.figures(group),
            index,
            input_price=group.input_price / 1e6,
            output_price=group.output_price / 1e6,
            second_price=fleets.price_per_h(group) / 3600,
            rtt_s=fleet.regions[group.region] / 1000,
        )
        simulation.set_figures(index, **msgspec.structs.asdict(figures))
    identities = [zlib.crc32(name.encode()) * 0x9E3779B97F4A7C15 % (1 << 64) for name in names]
    for number, slots in enumerate(candidates):
        model = models[number]
        if not slots:
            raise fleets.FleetError(f"no endpoint of fleet {fleet.name!r} can serve {model!r}")
        loads = model and any(groups[slot].models for slot in slots)
        simulation.set_candidates(
            number,
            slots,
            [groups[slot].weight for slot in slots],
            [identities[slot] for slot in slots],
            [groups[slot].models.get(model, 0.0) for slot in slots] if loads else (),
            [_places(groups[slot], models) for slot in slots] if loads else (),
        )


def _tell_residents(deciders: Sequence[Decider], fleet: Fleet, models: tuple[str, ...]) -> None:
    """What is loaded when a run begins the routers have seen in use before."""
    for decider in deciders:
        for slot, group in enumerate(fleet.groups()):
            for number, model in enumerate(models):
                if model in group.resident and decider.residency is not None:
                    decider.residency.used(slot, number + 1, group.models[model], 0.0, 1)


def _places(group: fleets.EndpointGroup, models: tuple[str, ...]) -> int:
    """How many models take turns in its memory; 0: none has to."""
    return _models_max(group, models) if group.models else 0


def _models_max(group: fleets.EndpointGroup, models: tuple[str, ...]) -> int:
    """How many models are in memory at once. A trace without models asks for whatever is there."""
    if not group.models or models == ("",):
        return len(models)
    return group.models_max or max(1, len(group.resident))


def _set_requests(simulation: Simulation, trace: Trace) -> None:
    deepest = int(np.diff(trace.block_offset).max(initial=0))
    bounds = keys.boundaries(trace.block_tokens, deepest)
    key_offset, key_values = keys.at_boundaries(trace.block_offset, trace.blocks, bounds)
    block_offset, blocks = keys.with_answers(
        trace.block_offset,
        trace.blocks,
        block_tokens=trace.block_tokens,
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        next_turn=trace.next_turn,
    )
    simulation.set_requests(
        trace.arrival_us,
        trace.follows,
        trace.prompt_tokens,
        trace.output_tokens,
        trace.model,
        trace.session,
        block_offset,
        blocks,
        key_offset,
        key_values,
        (bounds * trace.block_tokens).astype(np.uint32),
    )


def _outcome(
    simulation: Simulation,
    *,
    trace: Trace,
    fleet: Fleet,
    models: tuple[str, ...],
    policy: str,
    seed: int,
    faults: tuple[Fault, ...],
) -> Outcome:
    count = len(trace)
    arrival_us, picked_us, first_us, end_us = (np.zeros(count, np.int64) for _ in range(4))
    endpoint, model, cached_tokens = (np.zeros(count, np.int32) for _ in range(3))
    state, failure, attempt_count = (np.zeros(count, np.uint8) for _ in range(3))
    simulation.read_requests(
        arrival_us, picked_us, first_us, end_us, endpoint, model, cached_tokens, state, failure, attempt_count
    )
    engines = np.asarray([row[:4] for row in simulation.engines()], dtype=np.int64)
    return Outcome(
        trace=trace,
        fleet=fleet,
        policy=policy,
        seed=seed,
        faults=faults,
        arrival_us=arrival_us,
        picked_us=picked_us,
        first_us=first_us,
        end_us=end_us,
        endpoint=endpoint,
        models=models,
        model=model,
        cached_tokens=cached_tokens,
        state=state,
        failure=failure,
        attempt_count=attempt_count,
        measured=arrival_us >= simulation.mark_us,
        busy_s=(engines[:, 0] - engines[:, 1]) / 1e6,
        preemption_count=engines[:, 2],
        step_count=int(engines[:, 3].sum()),
        pick_count=simulation.pick_count,
    )

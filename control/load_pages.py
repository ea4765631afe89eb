"""Pages in which engines tell their load as JSON, in our words.

They stand in where metrics are switched off, and are cheaper than those. Each is read by the fields that
matter and its other fields are passed over. Invariant: as in reading.py, and a page that cannot be right is
an error: an engine that says it has no memory is not ready, one of no parts is broken. Neighbour: dialects.py
names them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from control.reading import Reading, ratio, requests
from router import limits


class LoadPageError(ValueError):
    """Why a page says nothing of use."""


class NotReadyError(LoadPageError):
    """The engine is up and cannot serve yet."""


_Requests = Annotated[int, Meta(ge=0)]


class _SglangQueues(Struct):
    grammar: _Requests = 0


class _SglangLoad(Struct):
    num_running_reqs: _Requests
    num_waiting_reqs: _Requests
    max_total_num_tokens: int
    num_used_tokens: int | None = None
    token_usage: float | None = None
    queues: _SglangQueues | None = None


class _SglangLoads(Struct):
    loads: list[_SglangLoad]


class _VllmLoad(Struct):
    server_load: _Requests


class _OllamaModel(Struct):
    name: str = ""
    model: str = ""


class _OllamaPs(Struct):
    models: list[_OllamaModel]


class _LlamacppSlot(Struct):
    is_processing: bool | None = None
    state: int | None = None
    """Of builds before is_processing: 0 idle, 1 processing."""


class _LlamacppGeneration(Struct):
    n_ctx: int | None = None


class _LlamacppProps(Struct):
    total_slots: int | None = None
    default_generation_settings: _LlamacppGeneration = field(default_factory=_LlamacppGeneration)


_sglang_loads = msgspec.json.Decoder(_SglangLoads)
_vllm_load = msgspec.json.Decoder(_VllmLoad)
_ollama_ps = msgspec.json.Decoder(_OllamaPs)
_llamacpp_slots = msgspec.json.Decoder(list[_LlamacppSlot])
_llamacpp_props = msgspec.json.Decoder(_LlamacppProps)


def read_sglang_loads(body: bytes) -> Reading:
    """`/v1/loads`: one entry per data-parallel rank. Raises: NotReadyError, ValueError."""
    loads = _sglang_loads.decode(body).loads
    if not loads:
        raise LoadPageError("no rank answers: its schedulers are gone")
    if any(load.max_total_num_tokens <= 0 for load in loads):
        raise NotReadyError("not ready: it has no KV cache yet")
    usages = [
        load.num_used_tokens / load.max_total_num_tokens
        if load.num_used_tokens is not None
        else load.token_usage
        for load in loads
    ]
    known = [usage for usage in usages if usage is not None]
    waiting = sum(load.num_waiting_reqs + (load.queues.grammar if load.queues else 0) for load in loads)
    return Reading(
        waiting=requests(waiting),
        running=requests(sum(load.num_running_reqs for load in loads)),
        kv=ratio(max(known)) if len(known) == len(loads) else None,
        kv_tokens=float(sum(load.max_total_num_tokens for load in loads)),
    )


def read_vllm_load(body: bytes) -> Reading:
    """`/load`: requests of any state; always 0 unless vLLM was told to count, so that a 0 says nothing."""
    server_load = _vllm_load.decode(body).server_load
    return Reading(running=requests(float(server_load)) if server_load else None)


def read_ollama_ps(body: bytes) -> Reading:
    """`/api/ps`: the models in memory."""
    models = (model.model or model.name for model in _ollama_ps.decode(body).models[: limits.MODELS_MAX])
    return Reading(models=tuple(dict.fromkeys(filter(None, models))))


def read_llamacpp_slots(body: bytes) -> Reading:
    """`/slots`: how many there are and are busy; what waits for one is not told."""
    slots = _llamacpp_slots.decode(body)
    if not slots:
        raise NotReadyError("not ready: it has no slots yet")
    states = [bool(slot.state) if slot.is_processing is None else slot.is_processing for slot in slots]
    is_told = all(slot.is_processing is not None or slot.state is not None for slot in slots)
    return Reading(running=requests(float(sum(states))) if is_told else None, slots=float(len(slots)))


def read_llamacpp_props(body: bytes) -> Reading:
    """`/props`: what it is made for; says nothing of its load."""
    props = _llamacpp_props.decode(body)
    slots, context = props.total_slots, props.default_generation_settings.n_ctx
    is_known = slots is not None and slots > 0 and context is not None and context > 0
    return Reading(
        slots=float(slots) if slots is not None and slots > 0 else None,
        kv_tokens=float(slots * context) if is_known and slots and context else None,
    )

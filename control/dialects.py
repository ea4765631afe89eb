"""What model servers call things, old and new, and what those are in our words.

`DIALECTS` is a table with one row per server: which pages to ask for, and the names in them. A word's names
are alternatives, the best first; `also` are added to it where they are there. Several series of one name are
the parts of one engine: queues and counters of data-parallel ranks add up, of their KV caches the fullest
counts, since a request that meets it waits. Tensor- and pipeline-parallel ranks tell of the same requests, so
among those only the largest value counts.

Invariant: what is not known is None and never 0, for a false zero draws traffic; what is known is finite, not
negative and within its bound. The names are those of each server's documentation and metrics code.
Neighbours: exposition.py (reads the text), load_pages.py (pages in JSON), gpu_power.py (watts), scrape.py
(asks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from msgspec import Struct

from control.exposition import Sample, Wanted
from control.gpu_power import GPU_WANTED, power_reading, read_gpus
from control.load_pages import (
    read_llamacpp_props,
    read_llamacpp_slots,
    read_ollama_ps,
    read_sglang_loads,
    read_vllm_load,
)
from control.reading import Reading, ratio, requests

COPIES = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "attn_tp_rank"})
"""Labels by which series differ that tell of the same requests."""

PARTS = frozenset({"priority"})
"""Labels of series that are parts of the one in which they are empty (SGLang's queues by priority)."""


@cache
def _series(text: str) -> tuple[str, str, str]:
    """Name, label and its value; the latter two empty where any series is meant."""
    name, _, where = text.partition("{")
    label, _, value = where.rstrip("}").partition("=")
    return name, label, value


class Page(NamedTuple):
    """One address of an engine, and how its answer is read; `read` None: the text format."""

    path: str
    read: Callable[[bytes], Reading] | None = None


class Dialect(Struct, frozen=True, kw_only=True):
    """One row: names as they stand in the text, `name{label=value}` where one series of several is meant."""

    engine: str
    pages: tuple[Page, ...]
    """The first that is served tells the load; the others stand in for it."""
    seldom: Page | None = None
    """Asked for now and then: counters, or sizes, that the first of `pages` has not."""
    has_gpus: bool = False
    """Its text tells of GPUs, too."""
    waiting: tuple[str, ...] = ()
    also_waiting: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    kv: tuple[str, ...] = ()
    preemptions: tuple[str, ...] = ()
    prompt_tokens: tuple[str, ...] = ()
    cached_tokens: tuple[str, ...] = ()
    generation_tokens: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All of them, without labels."""
        gauges = (*self.waiting, *self.also_waiting, *self.running, *self.kv)
        counters = (*self.preemptions, *self.prompt_tokens, *self.cached_tokens, *self.generation_tokens)
        names = dict.fromkeys(_series(text)[0] for text in gauges + counters)
        return (*names, *GPU_WANTED.names.values()) if self.has_gpus else tuple(names)

    def read(self, samples: Sequence[Sample]) -> Reading:
        """What one page says in our words."""
        gpus = power_reading(read_gpus(samples)) if self.has_gpus else Reading()
        series: dict[str, list[Sample]] = {}
        for sample in samples:
            series.setdefault(sample.name, []).append(sample)
        waiting = _combined(series, self.waiting, sum)
        if waiting is not None:
            waiting += sum(filter(None, (_combined(series, (name,), sum) for name in self.also_waiting)))
        return Reading(
            waiting=requests(waiting),
            running=requests(_combined(series, self.running, sum)),
            kv=ratio(_combined(series, self.kv, max)),
            preemptions=_combined(series, self.preemptions, sum),
            prompt_tokens=_combined(series, self.prompt_tokens, sum),
            cached_tokens=_combined(series, self.cached_tokens, sum),
            generation_tokens=_combined(series, self.generation_tokens, sum),
            power=gpus.power,
            watts=gpus.watts,
            gpu_use=gpus.gpu_use,
        )


DIALECTS: dict[str, Dialect] = {
    dialect.engine: dialect
    for dialect in (
        Dialect(
            engine="vllm",
            pages=(Page("/metrics"), Page("/load", read_vllm_load)),
            waiting=("vllm:num_requests_waiting",),
            also_waiting=("vllm:num_requests_swapped",),  # V0: taken out of the batch again
            running=("vllm:num_requests_running",),
            kv=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the second until 0.9
            preemptions=("vllm:num_preemptions_total", "vllm:num_preemptions"),
            prompt_tokens=("vllm:prompt_tokens_total", "vllm:prompt_tokens"),
            cached_tokens=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
            generation_tokens=("vllm:generation_tokens_total", "vllm:generation_tokens"),
        ),
        Dialect(
            # Its gauges are set when it logs, every 40 steps of decoding by default; /v1/loads says what is.
            engine="sglang",
            pages=(Page("/v1/loads", read_sglang_loads), Page("/metrics")),
            seldom=Page("/metrics"),
            waiting=("sglang:num_queue_reqs",),
            also_waiting=("sglang:num_grammar_queue_reqs",),
            running=("sglang:num_running_reqs",),
            kv=("sglang:full_token_usage", "sglang:token_usage"),  # the second is rounded
            preemptions=("sglang:num_retracted_requests_total",),
            prompt_tokens=("sglang:prompt_tokens_total",),
            cached_tokens=("sglang:cached_tokens_total",),
            generation_tokens=("sglang:generation_tokens_total",),
        ),
        Dialect(
            engine="trtllm",
            pages=(Page("/prometheus/metrics"), Page("/metrics")),
            waiting=("trtllm_num_requests_waiting",),
            running=("trtllm_num_requests_running",),
            kv=("trtllm_kv_cache_utilization",),
        ),
        Dialect(
            engine="triton",
            pages=(Page("/metrics"),),
            has_gpus=True,
            waiting=("nv_trt_llm_request_metrics{request_type=waiting}",),
            running=("nv_trt_llm_request_metrics{request_type=scheduled}",),
            kv=("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",),
        ),
        Dialect(
            engine="tgi",
            pages=(Page("/metrics"),),
            waiting=("tgi_queue_size",),
            running=("tgi_batch_current_size",),
            prompt_tokens=("tgi_request_input_length_sum",),
            generation_tokens=("tgi_request_generated_tokens_sum",),
        ),
        Dialect(
            engine="llamacpp",
            pages=(Page("/metrics"), Page("/slots", read_llamacpp_slots)),
            seldom=Page("/props", read_llamacpp_props),
            waiting=("llamacpp:requests_deferred",),
            running=("llamacpp:requests_processing",),
            kv=("llamacpp:kv_cache_usage_ratio",),  # gone in newer builds
            prompt_tokens=("llamacpp:prompt_tokens_total",),
            generation_tokens=("llamacpp:tokens_predicted_total",),
        ),
        Dialect(engine="ollama", pages=(Page("/api/ps", read_ollama_ps),)),
    )
}
"""By the engine's name in the configuration."""

WANTED: dict[str, Wanted] = {
    engine: Wanted(dialect.names()) for engine, dialect in DIALECTS.items() if dialect.names()
}

WANTED_ANY = Wanted(name for dialect in DIALECTS.values() for name in dialect.names())
"""For a page of which it is not known whose it is."""


def recognise(samples: Sequence[Sample]) -> Dialect | None:
    """Whose names these are, by most of them; None: nobody's."""
    names = {sample.name for sample in samples}
    counts = {engine: len(names.intersection(dialect.names())) for engine, dialect in DIALECTS.items()}
    engine = max(counts, key=lambda engine: counts[engine])
    return DIALECTS[engine] if counts[engine] else None


def _combined(
    series: dict[str, list[Sample]], names: tuple[str, ...], combine: Callable[[Iterable[float]], float]
) -> float | None:
    """Of the first of these names that is there: its parts by `combine`, each part by its largest copy."""
    for text in names:
        name, label, value = _series(text)
        if name not in series:
            continue
        parts: dict[frozenset[tuple[str, str]], float] = {}
        for sample in series[name]:
            if label and sample.labels.get(label) != value:
                continue
            if not PARTS.isdisjoint(sample.labels) and any(map(sample.labels.get, PARTS)):
                continue
            if not math.isfinite(sample.value) or sample.value < 0:
                return None  # half of a sum is no sum
            key = frozenset(item for item in sample.labels.items() if item[0] not in COPIES)
            parts[key] = max(parts.get(key, 0.0), sample.value)
        if parts:
            combined = combine(parts.values())
            return combined if math.isfinite(combined) else None
    return None

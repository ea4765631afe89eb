"""The loads, each as a function that puts one on a running proxy and returns what it cost.

A load opens its own client connections, lets the proxy warm up, reads clocks, runs, reads clocks, and goes
away in good order; the proxies' kept-alive upstream connections stay from slice to slice. Whatever a proxy
answers is checked byte for byte by the peer: one error and the slice has no figure. Neighbours: native.peer
(both sides of the proxy), measure (clocks), compare (which proxies, how many rounds).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from bench.measure import Meter, Reading, Slice, SliceFailed, SliceLost, memory_bytes, rss_bytes
from bench.messages import messages
from bench.native.peer import Peer
from bench.peers.base import Running

OPEN_SECONDS_MAX = 30.0  # LiteLLM takes some seconds for 256 streams
SETTLE_SECONDS_MAX = 10.0
WARM_SECONDS = 0.15
LOST_RATIO_MIN = 0.5  # a slice without a single unit is the machine's doing when it was starved for this much

REQUEST_CONNECTIONS = 32
LOCKSTEP_STREAMS = 32
PACED_STREAMS = 256
PACED_INTERVAL_MS = 20.0
MANY_INTERVAL_MS = 500.0  # 10,000 streams: 20,000 events a second, a third of a core
MEMORY_STREAMS_FEW = 200
MEMORY_STREAMS_MANY = 1200
SOAK_EVENTS_PER_STREAM = 16


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Where the proxy runs, and where clients and engines do."""

    proxy: int
    load: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a load needs: the peer, the cores, how long to measure."""

    peer: Peer
    cores: Cores
    seconds: float

    def place(self, *, shares_core: bool) -> None:
        """Puts this process on its own core, or on the proxy's."""
        os.sched_setaffinity(0, {self.cores.proxy if shares_core else self.cores.load})

    def shares_core(self) -> bool:
        """Whether this process is on the proxy's core."""
        return self.cores.proxy in os.sched_getaffinity(0)

    def meter(self, running: Running) -> Meter:
        """Clocks of a proxy's processes."""
        data_pids, other_pids = running.pids()
        return Meter(
            data_pids=data_pids,
            other_pids=other_pids,
            cpu=self.cores.proxy,
            shares_core=self.shares_core(),
        )


def errors_text(peer: Peer) -> str:
    """What went wrong, in words."""
    return ", ".join(f"{count} x {name}" for name, count in peer.errors.items()) or "no progress"


def check(peer: Peer, running: Running) -> None:
    """Raises SliceFailed unless everything that came was right."""
    if peer.errors:
        raise SliceFailed(f"{errors_text(peer)} {running.last_words()}".strip())
    if running.is_verbatim and peer.counts["bodies_changed"]:
        raise SliceFailed(f"{peer.counts['bodies_changed']} request bodies changed on the way")


@contextlib.contextmanager
def open_clients(
    stage: Stage,
    running: Running,
    count: int,
    *,
    is_streaming: bool,
    uses_tls: bool = False,
    pace: str = "held",
    interval_ms: float = 0.0,
    events_per_stream: int = 0,
) -> Iterator[Peer]:
    """Clients with their first answers (or stream heads) in; at the end they finish what they have and go.

    Raises: SliceFailed when they do not get that far, or anything was wrong by the end.
    """
    peer = stage.peer
    port = running.tls_port if uses_tls else running.port
    if port is None:
        raise SliceFailed("no TLS listener")
    peer.use_messages(**messages(is_streaming=is_streaming, host=f"127.0.0.1:{port}"))
    peer.open_clients(
        port,
        count,
        uses_tls=uses_tls,
        is_verbatim=running.is_verbatim,
        pace=pace,
        interval_ms=interval_ms,
        events_per_stream=events_per_stream,
        group=running.group,
    )
    try:
        if is_streaming and not events_per_stream:
            is_open = peer.run(OPEN_SECONDS_MAX, streams=count)
        else:
            is_open = peer.run(OPEN_SECONDS_MAX, requests=count)
        if not is_open:
            raise SliceFailed(
                f"{count} clients could not open: {errors_text(peer)} {running.last_words()}".strip()
            )
        check(peer, running)
        yield peer
        check(peer, running)
        if is_streaming:
            peer.finish_streams()
        peer.stop_asking()
        if not peer.run(SETTLE_SECONDS_MAX, all_resting=True):
            raise SliceFailed("answers did not end")
        check(peer, running)
        if is_streaming and not events_per_stream and peer.counts["streams_done"] != count:
            raise SliceFailed(f"{peer.counts['streams_done']} of {count} streams ended well")
    finally:
        peer.close_clients()


def _slice(
    meter: Meter,
    before: Reading,
    after: Reading,
    unit_count: int,
    *,
    value: float | None = None,
    note: str = "",
) -> Slice:
    starved_ratio = meter.starved_ratio(before, after)
    if unit_count <= 0:
        if starved_ratio > LOST_RATIO_MIN:
            raise SliceLost
        raise SliceFailed(f"nothing came through (starved {starved_ratio:.0%})")
    cpu_ns = after.cpu_ns - before.cpu_ns
    wall_ns = after.at_ns - before.at_ns
    return Slice(
        value=cpu_ns / 1000 / unit_count if value is None else value,
        unit_count=unit_count,
        wall_s=wall_ns / 1e9,
        starved_ratio=starved_ratio,
        busy_ratio=cpu_ns / wall_ns,
        other_cpu_us=(after.other_cpu_ns - before.other_cpu_ns) / 1000 / unit_count,
        note=note,
    )


def take_request(stage: Stage, running: Running, *, uses_tls: bool = False) -> Slice:
    """CPU per request: each connection asks again as soon as it is answered."""
    with open_clients(stage, running, REQUEST_CONNECTIONS, is_streaming=False, uses_tls=uses_tls) as peer:
        peer.run(WARM_SECONDS)
        meter = stage.meter(running)
        before, requests = meter.read(), peer.counts["requests"]
        peer.run(stage.seconds)
        after, counts = meter.read(), peer.counts
        note = f"{counts['reconnects']} reconnects" if counts["reconnects"] else ""
        return _slice(meter, before, after, counts["requests"] - requests, note=note)


def take_lockstep(stage: Stage, running: Running) -> Slice:
    """CPU per event when every stream's next event waits for the last ones of all: none merge on the way."""
    with open_clients(stage, running, LOCKSTEP_STREAMS, is_streaming=True, pace="lockstep") as peer:
        peer.run(WARM_SECONDS)
        meter = stage.meter(running)
        before, events = meter.read(), peer.counts["events"]
        peer.run(stage.seconds)
        after, counts = meter.read(), peer.counts
        return _slice(meter, before, after, counts["events"] - events)


def take_paced(
    stage: Stage,
    running: Running,
    *,
    stream_count: int = PACED_STREAMS,
    interval_ms: float = PACED_INTERVAL_MS,
) -> Slice:
    """CPU per event when each stream has one every interval, evenly spread."""
    with open_clients(
        stage, running, stream_count, is_streaming=True, pace="timed", interval_ms=interval_ms
    ) as peer:
        peer.run(WARM_SECONDS)
        meter = stage.meter(running)
        before, events = meter.read(), peer.counts["events"]
        peer.run(stage.seconds)
        after, counts = meter.read(), peer.counts
        event_count = counts["events"] - events
        expected = stream_count * (after.at_ns - before.at_ns) / 1e6 / interval_ms
        note = f"{event_count / expected:.0%} of the pace" if event_count < 0.95 * expected else ""
        return _slice(meter, before, after, event_count, note=note)


def take_latency(stage: Stage, running: Running) -> Slice:
    """The median round trip of one connection."""
    with open_clients(stage, running, 1, is_streaming=False) as peer:
        peer.run(WARM_SECONDS)
        meter = stage.meter(running)
        before = meter.read()
        peer.run(stage.seconds, records_latency=True)
        after, latencies_us = meter.read(), peer.latencies_us()
        middle_us = latencies_us[len(latencies_us) // 2] if latencies_us else 0.0
        return _slice(meter, before, after, len(latencies_us), value=middle_us)


def take_tls(stage: Stage, running: Running) -> Slice:
    """CPU per request over TLS connections that stay open."""
    return take_request(stage, running, uses_tls=True)


def stream_memory_kib(
    stage: Stage, running: Running, *, few: int = MEMORY_STREAMS_FEW, many: int = MEMORY_STREAMS_MANY
) -> float:
    """User memory per open stream: what `many` idle streams take more than `few`, after one event each."""
    taken: list[int] = []
    data_pids, _ = running.pids()
    for count in (few, many):
        with open_clients(stage, running, count, is_streaming=True):
            taken.append(memory_bytes(data_pids))
    return (taken[1] - taken[0]) / (many - few) / 1024


@dataclass(frozen=True, kw_only=True)
class ManyStreams:
    """How a proxy bore a great many paced streams."""

    stream_count: int
    rss_mib: float
    cpu_us_per_event: float
    busy_ratio: float
    starved_ratio: float
    note: str


def carry_many(
    stage: Stage, running: Running, stream_count: int, *, interval_ms: float = MANY_INTERVAL_MS
) -> ManyStreams:
    """RSS and CPU with `stream_count` paced streams open; any error is a failure."""
    with open_clients(
        stage, running, stream_count, is_streaming=True, pace="timed", interval_ms=interval_ms
    ) as peer:
        peer.run(max(WARM_SECONDS, interval_ms / 1000))
        meter = stage.meter(running)
        before, events = meter.read(), peer.counts["events"]
        peer.run(max(stage.seconds, interval_ms * 3 / 1000))
        after, counts = meter.read(), peer.counts
        event_count = counts["events"] - events
        slice_ = _slice(meter, before, after, event_count)
        rss_mib = rss_bytes(meter.data_pids) / 1048576
        expected = stream_count * (after.at_ns - before.at_ns) / 1e6 / interval_ms
        note = f"{event_count / expected:.0%} of the pace" if event_count < 0.95 * expected else ""
    return ManyStreams(
        stream_count=stream_count,
        rss_mib=rss_mib,
        cpu_us_per_event=slice_.value,
        busy_ratio=slice_.busy_ratio,
        starved_ratio=slice_.starved_ratio,
        note=note,
    )


def soak_once(stage: Stage, running: Running, seconds: float, idle_seconds: float) -> float:
    """RSS in MiB after a while of mixed load and a moment of rest.

    A third each of closed-loop requests, short streams one after the other, and paced streams whose clients
    all go away in the middle, which is what leaks in proxies.
    """
    part = seconds / 3
    with open_clients(stage, running, REQUEST_CONNECTIONS, is_streaming=False) as peer:
        peer.run(part)
    with open_clients(
        stage,
        running,
        REQUEST_CONNECTIONS,
        is_streaming=True,
        pace="timed",
        interval_ms=1.0,
        events_per_stream=SOAK_EVENTS_PER_STREAM,
    ) as peer:
        peer.run(part)
    peer = stage.peer
    peer.open_clients(
        running.port,
        PACED_STREAMS,
        is_verbatim=running.is_verbatim,
        pace="timed",
        interval_ms=PACED_INTERVAL_MS,
        group=running.group,
    )
    try:
        peer.run(part)
        check(peer, running)
    finally:
        peer.close_clients()
    # Every stream must be cancelled at its engine, too: a proxy that goes on reading for nobody has failed.
    if not peer.run(SETTLE_SECONDS_MAX, engine_streams=0):
        raise SliceFailed(f"{peer.counts['engine_streams']} streams went on after their clients had gone")
    peer.run(idle_seconds)
    return rss_bytes(running.pids()[0]) / 1048576

"""`fairlead bench`: Fairlead beside other proxies, in one run, on this machine. Its subcommands play traces.

All proxies of a run are up at once, each pinned to the proxy core; this process plays clients and engines on
the other core and takes slices in interleaved rounds. Memory, many streams and the soak start their proxy
afresh, since a heap remembers. A peer that is not there is skipped with a line that says what to install.
Exit code 0: measured; 1: a bound was missed and --strict is on; 2: usage.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from bench import measure, report, scenarios, snapshot
from bench.goals import PICK_BOUNDS_NS, SCORE_BOUNDS_NS, Scenario, figures_of
from bench.measure import Series, Slice, SliceFailed, SliceLost, Summary
from bench.messages import messages
from bench.native.peer import Peer
from bench.peers import BASE, all_peers
from bench.peers.base import PeerProxy, Running, Site
from bench.peers.certificate import make_certificate
from bench.peers.fairlead import CONFIG_NAME
from bench.scenarios import Cores, Stage

ENGINE_COUNT = 4
MANY_STREAMS = 10_000
FILES_RESERVED = 128  # descriptors of a process that are not connections
READY_SECONDS_MAX = 60.0  # LiteLLM imports for half of it on a slow machine
SLOW_ROUNDS_MAX = 2

Outcome = Summary | str  # a figure, or why there is none


@dataclass(kw_only=True)
class Bench:
    """One run: who is measured, on what, and what came of it."""

    stage: Stage
    peers: Sequence[PeerProxy]
    folder: Path
    certificate: tuple[Path, Path] | None
    connection_count_max: int
    round_count: int
    starved_ratio_max: float
    soak_seconds: float
    soak_idle_seconds: float
    soak_times: int
    soak_names: Sequence[str]
    stream_count: int = MANY_STREAMS
    snapshot_count: int = snapshot.SNAPSHOT_COUNT
    snapshot_size: dict[str, int] = field(default_factory=dict)
    failed_starts: dict[str, str] = field(default_factory=dict)
    _start_count: int = 0

    def site(self, peer: PeerProxy) -> Site:
        """A fresh folder for one start of a proxy."""
        self._start_count += 1
        folder = self.folder / f"{peer.name}-{self._start_count}"
        folder.mkdir()
        certificate, key = self.certificate or (None, None)
        return Site(
            folder=folder,
            engine_ports=self.stage.peer.engine_ports(self.peers.index(peer)),
            cpu=self.stage.cores.proxy,
            connection_count_max=self.connection_count_max,
            certificate=certificate,
            key=key,
        )

    @contextlib.contextmanager
    def started(self, peer: PeerProxy) -> Iterator[Running]:
        """A proxy that has answered a request; gone at the end.

        Raises: SliceFailed when it does not come up.
        """
        running = peer.start(self.site(peer))
        running.group = self.peers.index(peer)
        try:
            self._wait_ready(running)
            yield running
        finally:
            running.stop()

    def _wait_ready(self, running: Running) -> None:
        until = time.monotonic() + READY_SECONDS_MAX
        mine = self.stage.peer
        mine.use_messages(**messages(is_streaming=False, host=f"127.0.0.1:{running.port}"))
        while time.monotonic() < until:
            if running.process is not None and running.process.poll() is not None:
                break
            mine.open_clients(
                running.port, 1, is_verbatim=running.is_verbatim, asks_again=False, group=running.group
            )
            mine.run(5.0, requests=1)
            answered = mine.counts["requests"] == 1
            mine.close_clients()
            mine.run(0.02)  # health checks of the proxies that make them
            if answered:
                return
        raise SliceFailed(f"did not come up: {running.last_words()}")


TAKES = {
    "request": scenarios.take_request,
    "lockstep": scenarios.take_lockstep,
    "paced": scenarios.take_paced,
    "paced_one_core": scenarios.take_paced,
    "latency": scenarios.take_latency,
    "latency_one_core": scenarios.take_latency,
    "tls": scenarios.take_tls,
}


def run_rounds(bench: Bench, wanted: Sequence[Scenario]) -> dict[str, dict[str, Outcome]]:
    """The figures taken in interleaved rounds, by figure and proxy; all proxies are up the whole time."""
    results: dict[str, dict[str, Outcome]] = {}
    keys = [figure.key for scenario in wanted for figure in figures_of(scenario) if figure.key in TAKES]
    if not keys:
        return results
    with contextlib.ExitStack() as stack:
        running: dict[str, Running] = {}
        for peer in bench.peers:
            try:
                running[peer.name] = stack.enter_context(bench.started(peer))
            except SliceFailed as exc:
                bench.failed_starts[peer.name] = str(exc)
        by_name = {peer.name: peer for peer in bench.peers}
        for key in keys:
            scenario = next(one for one in Scenario if key in [figure.key for figure in figures_of(one)])
            names = [name for name in running if scenario not in by_name[name].lacks]
            results[key] = _one_figure(bench, key, names, running, by_name)
    return results


def _one_figure(
    bench: Bench, key: str, names: list[str], running: dict[str, Running], by_name: dict[str, PeerProxy]
) -> dict[str, Outcome]:
    if key == "tls" and bench.certificate is None:
        return dict.fromkeys(names, "no certificate: pip install trustme")
    report.progress(f"{key}: {', '.join(names)}")
    bench.stage.place(shares_core=key.endswith("_one_core"))
    try:
        fast = [name for name in names if not by_name[name].is_slow]
        slow = [name for name in names if by_name[name].is_slow]
        series: dict[str, Series] = {}
        slow_round_count = min(bench.round_count, SLOW_ROUNDS_MAX)
        for group, round_count in ((fast, bench.round_count), (slow, slow_round_count)):
            if group:
                series |= measure.take_rounds(
                    group,
                    round_count,
                    lambda name: TAKES[key](bench.stage, running[name]),
                    starved_ratio_max=bench.starved_ratio_max,
                    on_slice=lambda name, index, one: report.progress(
                        _slice_line(key, name, index, one), detail=True
                    ),
                )
    finally:
        bench.stage.place(shares_core=False)
    if key.startswith("latency"):
        series = _added(series)
    return dict(measure.summarise(series, BASE))


def _slice_line(key: str, name: str, round_index: int, one: Slice) -> str:
    return (
        f"  {key} round {round_index + 1} {name}: {one.value:.2f} over {one.unit_count}, "
        f"starved {one.starved_ratio:.1%}, busy {one.busy_ratio:.0%} {one.note}"
    )


def _added(series: dict[str, Series]) -> dict[str, Series]:
    """Round trips less that without a proxy."""
    direct = series.pop("direct", None)
    if direct is None or not direct.used:
        return series
    base_us = measure.quartiles([one.value for one in direct.used])[1]
    note = f"{base_us:.1f} us without a proxy"
    for mine in series.values():
        mine.kept = {
            index: replace(one, value=one.value - base_us, note=note) for index, one in mine.kept.items()
        }
        mine.discarded = [
            (index, replace(one, value=one.value - base_us, note=note)) for index, one in mine.discarded
        ]
    return series


def _single(value: float, *, starved_ratio: float = 0.0, bound: float = 1.0, note: str = "") -> Summary:
    """A figure that was taken once."""
    return Summary(
        value=value,
        value_low=value,
        value_high=value,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
        ratio_is_starved=False,
        kept_count=1,
        discarded_count=0,
        is_starved=starved_ratio > bound,
        busy_ratio=0.0,
        unit_count=1,
        other_cpu_us=0.0,
        note=note,
    )


def run_fresh(bench: Bench, scenario: Scenario) -> dict[str, dict[str, Outcome]]:
    """Memory, many streams, snapshots or the soak: every proxy started afresh and measured alone."""
    results: dict[str, dict[str, Outcome]] = {figure.key: {} for figure in figures_of(scenario)}
    for peer in bench.peers:
        if scenario in peer.lacks or (scenario is Scenario.SOAK and peer.name not in bench.soak_names):
            continue
        if scenario is Scenario.SNAPSHOT and peer.name != report.JUDGED:
            continue
        report.progress(f"{scenario}: {peer.name}")
        try:
            with bench.started(peer) as running:
                for key, outcome in _measure_fresh(bench, scenario, running).items():
                    results[key][peer.name] = outcome
        except (SliceFailed, SliceLost) as exc:
            for by_peer in results.values():
                by_peer[peer.name] = str(exc) or "the machine was too busy"
        bench.stage.peer.run(0.1)  # engines hear of the proxy's end
    for by_peer in results.values():
        _add_ratios(by_peer)
    return results


def _measure_fresh(bench: Bench, scenario: Scenario, running: Running) -> dict[str, Outcome]:
    stage = bench.stage
    if scenario is Scenario.MEMORY:
        few, many = scenarios.MEMORY_STREAMS_FEW, scenarios.MEMORY_STREAMS_MANY
        scale = min(1.0, bench.connection_count_max / many)
        value = scenarios.stream_memory_kib(stage, running, few=int(few * scale), many=int(many * scale))
        return {"memory": _single(value)}
    if scenario is Scenario.MANY:
        stream_count = min(bench.stream_count, bench.connection_count_max)
        many_streams = scenarios.carry_many(stage, running, stream_count)
        cut = "the limit of open files allows a proxy no more" if stream_count < bench.stream_count else ""
        notes = [f"{stream_count} streams", cut, many_streams.note]
        starved, bound = many_streams.starved_ratio, bench.starved_ratio_max
        note = ", ".join(filter(None, notes))
        return {
            "many": _single(many_streams.rss_mib, note=note),
            "many_cpu": _single(many_streams.cpu_us_per_event, starved_ratio=starved, bound=bound),
        }
    if scenario is Scenario.SNAPSHOT:
        assert running.log is not None
        path = running.log.with_name(CONFIG_NAME)
        applied = snapshot.apply_many(stage, running, path, bench.snapshot_count, **bench.snapshot_size)
        return {
            "snapshot_gap": _single(max(applied.gap_ms), note=applied.note()),
            "snapshot_apply": _single(max(applied.apply_ms)),
            "snapshot_step": _single(max(applied.step_ms)),
        }
    rss_mib = []
    for turn in range(bench.soak_times):
        rss_mib.append(scenarios.soak_once(stage, running, bench.soak_seconds, bench.soak_idle_seconds))
        report.progress(f"  soak {turn + 1} {running.name}: RSS {rss_mib[-1]:.1f} MiB", detail=True)
    after_second = rss_mib[min(1, len(rss_mib) - 1)]
    growth = (max(rss_mib[-1], after_second) / after_second - 1) * 100
    return {"soak": _single(growth, note="RSS MiB: " + " ".join(f"{one:.1f}" for one in rss_mib))}


def _add_ratios(by_peer: dict[str, Outcome]) -> None:
    """Ratios of figures taken once."""
    base = by_peer.get(BASE)
    if not isinstance(base, Summary) or base.value <= 0:
        return
    for name, outcome in by_peer.items():
        if isinstance(outcome, Summary):
            ratio = outcome.value / base.value
            by_peer[name] = replace(outcome, ratio=ratio, ratio_low=ratio, ratio_high=ratio)


def run_pick() -> dict[str, dict[str, Outcome]]:
    """Nanoseconds per pick, of Fairlead only."""
    try:
        from bench.micro.pick_cost import POLICY_LEAST_IN_FLIGHT, POLICY_P2C, pick_ns, score_ns
    except ImportError as exc:
        return {figure.key: {"fairlead": f"not built: {exc}"} for figure in figures_of(Scenario.PICK)}
    results: dict[str, dict[str, Outcome]] = {}
    for count, _, _ in PICK_BOUNDS_NS:
        results[f"pick_{count}"] = {"fairlead": _single(pick_ns(POLICY_P2C, count))}
        results[f"scan_{count}"] = {"fairlead": _single(pick_ns(POLICY_LEAST_IN_FLIGHT, count))}
    for count, _, _ in SCORE_BOUNDS_NS:
        p50_ns, p99_ns = score_ns(count)
        results[f"score_{count}_p50"] = {"fairlead": _single(p50_ns)}
        results[f"score_{count}_p99"] = {"fairlead": _single(p99_ns)}
    return results


def choose_cores() -> Cores:
    """The proxy on the highest core this process may use (the lowest takes interrupts), the load beside."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(proxy=allowed[-1], load=allowed[-2] if len(allowed) > 1 else allowed[-1])


def raise_file_limit() -> int:
    """Opens as many files as this user may; the client connections one process can then relay.

    A relayed stream is two descriptors in the worker that carries it, as in the process that plays its client
    and its engine: dividing the load would not let a worker carry more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(MANY_STREAMS + 64, (hard - FILES_RESERVED) // 2)


def available(names: Sequence[str], installs: bool) -> tuple[list[PeerProxy], dict[str, str]]:
    """The proxies that can be measured, and for the others what to install."""
    found, skipped = [], {}
    for peer in all_peers():
        if names and peer.name not in names:
            continue
        what = peer.missing(installs)
        if what is None:
            found.append(peer)
        else:
            skipped[peer.name] = what
    return found, skipped


def _split(kind: str, text: str, known: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise click.BadParameter(f"{kind} {word!r} is not one of {', '.join(known)}")
    return words


DEFAULT_SCENARIOS = ",".join(one for one in Scenario if one is not Scenario.SOAK)


class _Bench(click.Group):
    """The comparison itself, and what plays traces, imported when it is asked for: it wants numpy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["real", "sim"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            match cmd_name:
                case "sim":
                    from bench.sim.cli import sim

                    return sim
                case "real":
                    from bench.real.cli import real

                    return real
        except ImportError as exc:
            raise click.ClickException(f"the simulator cannot be loaded: {exc}") from exc
        return None


@click.group(cls=_Bench, invoke_without_command=True, context_settings={"show_default": True})
@click.option("--only", default="", help="Proxies, comma-separated.  [all]")
@click.option("--scenario", "scenario_text", default=DEFAULT_SCENARIOS, help="Scenarios, comma-separated.")
@click.option("--rounds", default=7, type=click.IntRange(1, 1000), help="Interleaved rounds.")
@click.option("--seconds", default=0.5, type=click.FloatRange(0.01, 600), help="Of one slice.")
@click.option("--starved-max", default=measure.STARVED_RATIO_MAX, help="Wait for a core, of the wall time.")
@click.option("--streams", default=MANY_STREAMS, type=click.IntRange(1), help="Of the scenario `many`.")
@click.option(
    "--soak-seconds", default=60.0, type=click.FloatRange(0.3, 3600), help="Of one load of the soak."
)
@click.option("--soak-idle", default=2.0, type=click.FloatRange(0, 3600), help="Seconds of rest after it.")
@click.option("--soak-times", default=10, type=click.IntRange(2, 1000), help="Loads of the soak.")
@click.option("--install/--no-install", default=True, help="Fetch peers that come as wheels.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results there.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write tables there.")
@click.option("--strict", is_flag=True, help="Exit with 1 when Fairlead misses what it must reach.")
@click.option("--verbose", is_flag=True, help="Every slice as it is taken.")
def compare(
    *,
    only: str,
    scenario_text: str,
    rounds: int,
    seconds: float,
    starved_max: float,
    streams: int,
    soak_seconds: float,
    soak_idle: float,
    soak_times: int,
    install: bool,
    json_path: Path | None,
    markdown_path: Path | None,
    strict: bool,
    verbose: bool,
) -> None:
    """Measure Fairlead beside nginx, HAProxy, Envoy and other routers on this machine; or simulate."""
    if click.get_current_context().invoked_subcommand:
        return
    names = _split("proxy", only, [peer.name for peer in all_peers()])
    wanted = [Scenario(word) for word in _split("scenario", scenario_text, list(Scenario))]
    if names and Scenario.LATENCY in wanted:
        names.append("direct")
    report.set_verbose(verbose)
    connection_count_max = raise_file_limit()
    peers, skipped = available(names, install)
    for name, what in skipped.items():
        report.progress(f"{name} is skipped: {what}")
    results: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        mine = Peer(ENGINE_COUNT, max(connection_count_max, 1), len(peers))
        stage = Stage(peer=mine, cores=choose_cores(), seconds=seconds)
        stage.place(shares_core=False)
        bench = Bench(
            stage=stage,
            peers=peers,
            folder=Path(folder),
            certificate=make_certificate(Path(folder)) if Scenario.TLS in wanted else None,
            connection_count_max=connection_count_max,
            round_count=rounds,
            starved_ratio_max=starved_max,
            soak_seconds=soak_seconds,
            soak_idle_seconds=soak_idle,
            soak_times=soak_times,
            soak_names=names or ["fairlead"],
            stream_count=streams,
        )
        results |= run_rounds(bench, wanted)
        for scenario in (Scenario.MEMORY, Scenario.MANY, Scenario.SNAPSHOT, Scenario.SOAK):
            if scenario in wanted:
                results |= run_fresh(bench, scenario)
    if Scenario.PICK in wanted:
        results |= run_pick()
    outcome = report.Report(
        machine=report.machine_facts(stage.cores),
        versions={peer.name: peer.version() for peer in peers if peer.name != "direct"},
        skipped=skipped | bench.failed_starts,
        command="python -m bench.compare " + " ".join(sys.argv[1:]),
        rounds=rounds,
        seconds=seconds,
        starved_ratio_max=starved_max,
        results=results,
    )
    report.print_tables(outcome)
    if json_path:
        json_path.write_bytes(report.to_json(outcome))
    if markdown_path:
        markdown_path.write_text(report.to_markdown(outcome))
    sys.exit(1 if strict and report.missed(outcome) else 0)


if __name__ == "__main__":
    compare()

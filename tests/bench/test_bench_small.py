"""Every load of the bench, tiny: that it runs and checks what it says, never how fast.

The floor relay always takes part; Fairlead where it is built. No assertion is about a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import compare, scenarios
from bench.goals import Scenario
from bench.measure import SliceFailed, Summary
from bench.messages import messages
from bench.native.peer import Peer
from bench.peers.base import PeerProxy, Running, Site
from bench.peers.certificate import make_certificate
from bench.peers.fairlead import Fairlead
from bench.peers.floor import Floor
from bench.scenarios import Cores, Stage
from tests.support.command import run_command

CONNECTIONS_MAX = 300


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """The bench pins its process and raises its file limit; tests after it must not notice."""
    cpus, files = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    os.sched_setaffinity(0, cpus)
    resource.setrlimit(resource.RLIMIT_NOFILE, files)


def make_stage() -> Stage:
    cpu = min(os.sched_getaffinity(0))
    # Long against the turns that others get on this core: a slice in which nothing comes through is an error.
    return Stage(peer=Peer(2, CONNECTIONS_MAX), cores=Cores(proxy=cpu, load=cpu), seconds=0.25)


def make_bench(stage: Stage, folder: Path, *proxies: PeerProxy) -> compare.Bench:
    return compare.Bench(
        stage=stage,
        peers=proxies,
        folder=folder,
        certificate=make_certificate(folder),
        connection_count_max=CONNECTIONS_MAX,
        round_count=1,
        starved_ratio_max=1e9,
        soak_seconds=0.15,
        soak_idle_seconds=0.0,
        soak_times=2,
        soak_names=[],
    )


@pytest.fixture(params=[Floor, Fairlead], ids=["floor", "fairlead"])
def proxy(request: pytest.FixtureRequest) -> PeerProxy:
    one: PeerProxy = request.param()
    what = one.missing(installs=False)
    if what is not None:
        pytest.skip(f"{one.name}: {what}")
    return one


@pytest.fixture
def stage() -> Stage:
    return make_stage()


@pytest.fixture
def running(stage: Stage, proxy: PeerProxy, tmp_path: Path) -> Iterator[Running]:
    with make_bench(stage, tmp_path, proxy).started(proxy) as one:
        yield one


def test_a_snapshot_is_put_in_force_under_traffic(stage: Stage, tmp_path: Path) -> None:
    proxy = Fairlead()
    what = proxy.missing(installs=False)
    if what is not None:
        pytest.skip(what)
    bench = make_bench(stage, tmp_path, proxy)
    bench.snapshot_count, bench.snapshot_size = 1, {"endpoint_count": 80, "route_count": 3}
    results = compare.run_fresh(bench, Scenario.SNAPSHOT)
    assert set(results) == {"snapshot_gap", "snapshot_apply", "snapshot_step"}
    for by_peer in results.values():
        assert isinstance(by_peer["fairlead"], Summary), by_peer
        assert by_peer["fairlead"].value > 0


def test_each_load_gives_a_figure_from_checked_answers(stage: Stage, running: Running) -> None:
    for take in (scenarios.take_request, scenarios.take_lockstep, scenarios.take_latency):
        assert take(stage, running).unit_count > 0
    assert scenarios.take_paced(stage, running, stream_count=8, interval_ms=2.0).unit_count > 0


def test_tls_load_gives_a_figure(stage: Stage, running: Running) -> None:
    if running.tls_port is None:
        pytest.skip("speaks no TLS")
    assert scenarios.take_tls(stage, running).unit_count > 0


def test_memory_and_many_streams_end_every_stream(stage: Stage, running: Running) -> None:
    scenarios.stream_memory_kib(stage, running, few=4, many=16)
    many = scenarios.carry_many(stage, running, 20, interval_ms=5.0)
    assert many.stream_count == 20
    assert many.rss_mib > 0


def test_soak_leaves_no_stream_behind(stage: Stage, running: Running) -> None:
    assert scenarios.soak_once(stage, running, 0.15, 0.0) > 0
    assert stage.peer.counts["engine_streams"] == 0


def test_a_proxy_that_changes_bytes_has_no_figure(stage: Stage) -> None:
    with (
        _server(lambda _: messages(is_streaming=False)["answer"].replace(b"quick", b"quack")) as port,
        pytest.raises(SliceFailed, match="content"),
    ):
        scenarios.take_request(stage, Running(name="liar", port=port))


def test_a_proxy_that_closes_early_has_no_figure(stage: Stage) -> None:
    with (
        _server(lambda _: messages(is_streaming=False)["answer"][:-1]) as port,
        pytest.raises(SliceFailed, match="closed early"),
    ):
        scenarios.take_request(stage, Running(name="hasty", port=port))


def test_a_proxy_that_sends_too_much_has_no_figure(stage: Stage) -> None:
    with (
        _server(lambda _: messages(is_streaming=False)["answer"] + b"HTTP/1.1 200 OK\r\n\r\n") as port,
        pytest.raises(SliceFailed, match="excess"),
    ):
        scenarios.take_request(stage, Running(name="chatty", port=port))


def test_a_proxy_that_refuses_has_no_figure(stage: Stage) -> None:
    with (
        _server(lambda _: b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n") as port,
        pytest.raises(SliceFailed, match="status"),
    ):
        scenarios.take_request(stage, Running(name="shy", port=port))


def test_requests_that_arrive_changed_are_counted(stage: Stage, tmp_path: Path) -> None:
    floor = Floor()
    with make_bench(stage, tmp_path, floor).started(floor) as running:
        sent = messages(is_streaming=False)
        sent["request"] = sent["request"].replace(b"helpful", b"hopeful")
        stage.peer.use_messages(**sent)
        stage.peer.open_clients(running.port, 1)
        assert stage.peer.run(10.0, requests=1)
        with pytest.raises(SliceFailed, match="changed"):
            scenarios.check(stage.peer, running)
        stage.peer.close_clients()


def test_peer_speaks_tls(stage: Stage, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    if certificate is None:
        pytest.skip("trustme is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with _server(lambda _: messages(is_streaming=False)["answer"], context) as port:
        sent = messages(is_streaming=False, host=f"127.0.0.1:{port}")
        stage.peer.use_messages(**sent)
        stage.peer.open_clients(port, 2, uses_tls=True, asks_again=False)
        assert stage.peer.run(10.0, requests=2)
        assert stage.peer.errors == {}
        stage.peer.close_clients()


def test_other_groups_engines_do_not_count() -> None:
    peer = Peer(1, 4, 2)
    peer.use_messages(**messages(is_streaming=True))
    (port,) = peer.engine_ports(1)
    peer.open_clients(port, 1, group=0)
    peer.run(10.0, requests=1)
    assert peer.counts["streams_open"] == peer.counts["engine_streams"] == 0
    peer.close_clients()


def test_command_measures_and_writes_its_report(tmp_path: Path) -> None:
    json_path, markdown_path = tmp_path / "report.json", tmp_path / "report.md"
    done = run_command(
        "bench", "--only", "floor", "--scenario", "request,lockstep,latency,memory,many,soak",
        "--rounds", "1", "--seconds", "0.1", "--streams", "20", "--soak-seconds", "0.3", "--soak-times", "2",
        "--soak-idle", "0", "--no-install", "--starved-max", "1000",
        "--json", json_path, "--markdown", markdown_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    results = json.loads(json_path.read_bytes())["results"]
    assert all(
        "value" in results[key]["floor"]
        for key in ("request", "lockstep", "latency", "memory", "many", "soak")
    )
    assert "CPU per request" in markdown_path.read_text()


def test_command_refuses_unknown_names() -> None:
    assert run_command("bench", "--only", "ngins").exit_code == 2


def test_absent_peers_are_skipped_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.nginx.find_command", lambda _: None)
    found, skipped = compare.available(["nginx", "floor"], installs=False)
    assert [peer.name for peer in found] == ["floor"]
    assert skipped == {"nginx": "apt-get install nginx-light"}


def test_a_proxy_that_does_not_come_up_is_told_with_its_last_words(stage: Stage, tmp_path: Path) -> None:
    class Broken(Floor):
        def start(self, site: Site) -> Running:
            from bench.peers.base import PYTHON, free_ports, spawn

            (port,) = free_ports(1)
            process, log = spawn([PYTHON, "-c", "raise SystemExit('no such option')"], site)
            return Running(name=self.name, port=port, process=process, log=log)

    broken = Broken()
    with (
        pytest.raises(SliceFailed, match="no such option"),
        make_bench(stage, tmp_path, broken).started(broken),
    ):
        pass


@contextlib.contextmanager
def _server(answer_to: Callable[[bytes], bytes], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answers every request with what the function gives, then closes; one connection at a time."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                wrapped = context.wrap_socket(connection, server_side=True) if context else connection
                held = b""
                while b"\r\n\r\n" not in held or len(held.partition(b"\r\n\r\n")[2]) < 400:
                    piece = wrapped.recv(65536)
                    if not piece:
                        break
                    held += piece
                wrapped.sendall(answer_to(held))
                wrapped.shutdown(socket.SHUT_WR)
                while wrapped.recv(65536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)

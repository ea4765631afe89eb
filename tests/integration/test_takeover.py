"""A new process takes the sockets and tables over from a running one, and no request notices."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.integration.processes import (
    BOUND_S,
    HERE,
    REAL,
    Router,
    endpoint,
    read_until,
    router,
    wait_gone,
    wait_until,
)
from tests.support.raw_peer import Endpoint, chat, dial, request
from tests.support.router_process import Metrics, one_pool


def test_the_new_process_serves_on_the_same_port_and_the_old_one_exits_with_0(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        old = fairlead.start()
        traffic, admin = fairlead.traffic, fairlead.admin
        old_pids = fairlead.worker_pids()
        new = fairlead.start("--takeover")
        assert old.wait(BOUND_S) == 0
        assert (fairlead.traffic, fairlead.admin) == (traffic, admin)
        assert fairlead.get("/who")[1]["pid"] not in old_pids
        assert {row["pid"] for row in fairlead.workers()}.isdisjoint(old_pids)
        assert new.poll() is None


def test_no_request_fails_during_takeovers_under_load(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        process = fairlead.start()
        stop = threading.Event()
        counts: list[int] = []
        failures: list[Exception] = []

        def load(keep_alive: bool) -> None:
            connection = http.client.HTTPConnection(*fairlead.traffic, timeout=BOUND_S)
            count = 0
            while not stop.is_set():
                try:
                    connection.request("GET", "/who")
                    assert connection.getresponse().read()
                except (OSError, http.client.HTTPException, AssertionError) as exc:
                    failures.append(exc)
                    break
                count += 1
                if not keep_alive:
                    connection.close()
            counts.append(count)

        threads = [threading.Thread(target=load, args=(index % 2 == 0,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            successor = fairlead.start("--takeover")
            assert process.wait(BOUND_S) == 0
            process = successor
        stop.set()
        for thread in threads:
            thread.join(BOUND_S)
        assert failures == []
        assert len(counts) == 6
        assert min(counts) > 0


def test_an_open_stream_finishes_in_the_old_process(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        held = fairlead.hold()
        fairlead.start("--takeover")
        assert fairlead.get("/who")[0] == 200
        assert old.poll() is None
        held.sendall(b"x")
        assert read_until(held, b"0\r\n\r\n").endswith(b"done\r\n0\r\n\r\n")
        assert old.wait(BOUND_S) == 0


def test_a_new_process_that_cannot_start_leaves_the_old_one_as_it_was(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        pids = fairlead.worker_pids()
        kept = fairlead.connect()
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("unstartable")]}])
        new = fairlead.start("--takeover", wait=False)
        assert new.wait(BOUND_S) == 1
        kept.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_until(kept, b"}")
        assert b"200 OK" in answer
        assert b"Connection: close" not in answer
        assert fairlead.worker_pids() == pids
        assert fairlead.get("/readyz", fairlead.admin)[0] == 200
        assert old.poll() is None
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("good")]}])
        fairlead.start("--takeover")  # The failed one does not stand in the way.
        assert old.wait(BOUND_S) == 0


def test_listeners_and_workers_may_change_in_a_takeover(tmp_path: Path) -> None:
    path = tmp_path / "more.sock"
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        traffic = fairlead.traffic
        fairlead.write_config(workers=3, listeners=[{"address": "127.0.0.1:0"}, {"address": f"unix:{path}"}])
        fairlead.start("--takeover")
        assert old.wait(BOUND_S) == 0
        assert fairlead.traffic == traffic
        fairlead.wait_answering(3)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(BOUND_S)
            sock.connect(str(path))
            sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in read_until(sock, b"}")


def test_fewer_workers_take_over_every_accept_queue(tmp_path: Path) -> None:
    with router(tmp_path, workers=3) as fairlead:
        old = fairlead.start()
        fairlead.write_config(workers=1)
        fairlead.start("--takeover")
        assert old.wait(BOUND_S) == 0
        for _ in range(20):  # The kernel spreads these over all three queues.
            assert fairlead.get("/who")[0] == 200


def test_the_shared_tables_go_on_and_the_old_columns_are_settled(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        fairlead.start("--takeover")
        assert old.wait(BOUND_S) == 0
        assert [row["column"] for row in fairlead.workers()] == [1]
        second = fairlead.processes[-1]
        fairlead.start("--takeover")
        assert second.wait(BOUND_S) == 0
        assert [row["column"] for row in fairlead.workers()] == [0]
        assert "counting starts anew" not in fairlead.stderr()


def test_more_workers_go_on_counting_in_the_same_tables(tmp_path: Path) -> None:
    with Counted(tmp_path) as counted:
        counted.ask()
        with counted.held():
            counted.take_over(workers=2)
            counted.ask()
            counted.take_over(workers=3)
            counted.assert_counts(finished=2, in_flight=1)
        counted.assert_counts(finished=3, in_flight=0)


def test_upgrades_while_earlier_generations_drain_go_on_counting(tmp_path: Path) -> None:
    with Counted(tmp_path) as counted, counted.held():
        counted.take_over()
        with counted.held():
            counted.take_over()
            with counted.held():
                counted.take_over()
                counted.ask()
                counted.assert_counts(finished=1, in_flight=3)
            counted.assert_counts(finished=2, in_flight=2)


class Counted:
    """Real routers over one endpoint, each taking over from the one before, and what the last one counts."""

    def __init__(self, folder: Path) -> None:
        self._undo = contextlib.ExitStack()
        self._endpoint = self._undo.enter_context(Endpoint())
        config = one_pool([self._endpoint.url], drain={"deadline_ms": 1000 * int(BOUND_S)})
        self.fairlead = self._undo.enter_context(router(folder, REAL, **config))

    def __enter__(self) -> Counted:
        self.fairlead.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._undo.close()

    def ask(self) -> None:
        """A request and its whole answer."""
        with self.held():
            pass

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A request whose answer ends with the block."""
        with dial(self.fairlead.traffic) as client:
            client.send(request(chat()))
            with self._endpoint.accept() as engine:
                engine.take_request()
                yield
                engine.send_response(b"{}", connection="close")
                assert client.take_response()[0] == 200

    def take_over(self, **changes: int) -> None:
        self.fairlead.write_config(**changes)
        self.fairlead.start("--takeover")
        assert "starts anew" not in self.fairlead.stderr()

    def assert_counts(self, *, finished: int, in_flight: int) -> None:
        def seen() -> tuple[float, int]:
            page = self.fairlead.get("/metrics", self.fairlead.admin)[1].decode()
            rows = self.fairlead.get("/debug/endpoints", self.fairlead.admin)[1]
            return Metrics(page).sum("fairlead_requests_total"), sum(row["in_flight"] for row in rows)

        wait_until(lambda: seen() == (finished, in_flight), f"{finished} finished, {in_flight} in flight")


def test_takeover_with_nobody_there_is_a_plain_start(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start("--takeover")
        assert fairlead.get("/who")[0] == 200
        assert "starting afresh" in fairlead.stderr()


def test_the_upgrade_command_starts_a_successor_with_the_same_arguments(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        done = _run_upgrade_command(fairlead)
        assert old.wait(BOUND_S) == 0
        fairlead.wait_notified("READY=1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"process {old.pid} drains\n")
        pid = int(done.stdout.split()[2])
        try:
            assert fairlead.get("/who")[0] == 200
            assert f"fairlead.supervisor[{pid}] ready" in fairlead.stderr()  # It logs where the old one did.
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid)


def test_an_upgrade_that_fails_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        old = fairlead.start()
        fairlead.write_config(pools=[{"name": "main", "endpoints": [endpoint("unstartable")]}])
        done = _run_upgrade_command(fairlead)
        assert done.returncode == 1
        assert f"process {old.pid} goes on serving" in done.stderr
        assert fairlead.get("/who")[0] == 200


def _run_upgrade_command(fairlead: Router) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from router.app import request_upgrade;"
        "sys.exit(request_upgrade(admin_address='127.0.0.1:0', "
        f"runtime_dir={fairlead.config['runtime_dir']!r},"
        f"command=[sys.executable, {str(HERE / 'fake_serve.py')!r}]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND_S, check=False
    )

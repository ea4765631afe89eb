"""Workers are started, watched and replaced; the admin port tells how things are."""

import os
import signal
import socket
from pathlib import Path

from tests.integration.processes import BOUND_S, endpoint, read_until, router, wait_gone, wait_until


def test_all_workers_accept_once_the_router_is_ready(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        assert fairlead.wait_answering(2) == fairlead.worker_pids()


def test_a_killed_worker_is_replaced_and_its_queue_is_served(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        (old,) = fairlead.worker_pids()
        os.kill(old, signal.SIGSTOP)
        waiting = fairlead.connect()  # In the accept queue of a worker that does not accept.
        waiting.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(old, signal.SIGKILL)
        answer = read_until(waiting, b"}")
        assert b"200 OK" in answer
        assert str(old).encode() not in answer
        (row,) = fairlead.workers()
        assert row["restart_count"] == 1
        assert "killed by SIGKILL" in fairlead.stderr()


def test_other_workers_keep_their_streams_when_one_dies(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        fairlead.start()
        held: dict[int, socket.socket] = {}
        while len(held) < 2:
            pid, sock = fairlead.hold_at_worker()
            held.setdefault(pid, sock)
        victim, other = held
        os.kill(victim, signal.SIGKILL)
        wait_gone(victim)
        held[other].sendall(b"x")
        assert read_until(held[other], b"0\r\n\r\n").endswith(b"0\r\n\r\n")


def test_a_stuck_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start("--stuck-after=1.5")
        (old,) = fairlead.worker_pids()
        os.kill(old, signal.SIGSTOP)
        wait_gone(old)
        assert fairlead.get("/who")[1]["pid"] != old
        assert "has been silent" in fairlead.stderr()


def test_workers_exit_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        supervisor = fairlead.start()
        pids = fairlead.worker_pids()
        supervisor.kill()
        for pid in pids:
            wait_gone(pid)


def test_a_worker_that_cannot_start_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    with router(tmp_path, pools=[{"name": "main", "endpoints": [endpoint("unstartable")]}]) as fairlead:
        process = fairlead.start(wait=False)
        assert process.wait(BOUND_S) == 1
        assert "endpoint unstartable: this core does not start" in fairlead.stderr()


def test_an_address_in_use_is_a_clear_error_and_not_shared(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with router(tmp_path, listeners=[{"address": address}]) as fairlead:
            process = fairlead.start(wait=False)
            assert process.wait(BOUND_S) == 1
            assert f"cannot listen on {address}: Address already in use" in fairlead.stderr()


def test_unix_sockets_and_ipv6_are_listened_on(tmp_path: Path) -> None:
    path = tmp_path / "traffic.sock"
    listeners = [{"address": "[::1]:0"}, {"address": f"unix:{path}"}]
    with router(tmp_path, listeners=listeners, workers=2) as fairlead:
        fairlead.start()
        assert fairlead.get("/who")[0] == 200
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(BOUND_S)
            sock.connect(str(path))
            sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in read_until(sock, b"}")


def test_systemd_sockets_are_used_when_their_address_is_configured(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        address = f"127.0.0.1:{passed.getsockname()[1]}"
        with router(tmp_path, listeners=[{"address": address}], workers=2) as fairlead:
            fairlead.start(listen_fds=[passed.fileno()])
            assert fairlead.traffic == passed.getsockname()
            assert fairlead.get("/who")[0] == 200


def test_probes_and_debug_pages_answer_while_every_worker_is_stopped(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        (pid,) = fairlead.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            assert fairlead.get("/livez", fairlead.admin)[0] == 200
            assert fairlead.get("/readyz", fairlead.admin)[0] == 200
            assert fairlead.get("/metrics", fairlead.admin)[0] == 200
            assert fairlead.get("/debug/endpoints", fairlead.admin)[1][0]["name"] == "one"
            assert fairlead.get("/debug/pools", fairlead.admin) == (200, [])
        finally:
            os.kill(pid, signal.SIGCONT)


def test_debug_pages_show_workers_pools_and_a_redacted_configuration(tmp_path: Path) -> None:
    pools = [{"name": "main", "endpoints": [endpoint("one", auth={"bearer": "hunter2"})]}]
    with router(tmp_path, pools=pools) as fairlead:
        fairlead.start()
        status, config = fairlead.get("/debug/config", fairlead.admin)
        assert status == 200
        assert "hunter2" not in str(config)
        assert fairlead.get("/debug/pools", fairlead.admin)[1] == [
            {"worker": 0, "endpoint": "one", "open": 0, "idle": 0}
        ]
        (row,) = fairlead.workers()
        assert row["state"] == "ready"


def test_admin_pages_but_the_probes_ask_for_the_token(tmp_path: Path) -> None:
    with router(tmp_path, admin={"address": "127.0.0.1:0", "token": "s3cret"}) as fairlead:
        fairlead.start()
        assert fairlead.get("/livez", fairlead.admin)[0] == 200
        assert fairlead.get("/readyz", fairlead.admin)[0] == 200
        status, body = fairlead.get("/metrics", fairlead.admin)
        assert (status, body["error"]["code"]) == (401, "unauthorized")
        for given, expected in (("Bearer s3cret", 200), ("Bearer wrong", 401), ("s3cret", 401)):
            headers = {"Authorization": given}
            assert fairlead.request("GET", "/metrics", fairlead.admin, headers)[0] == expected


def test_admin_errors_have_the_openai_shape(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        for method, path, headers, expected in (
            ("GET", "/nothing", {}, (404, "not_found")),
            ("DELETE", "/livez", {}, (405, "method_not_allowed")),
            ("POST", "/reload", {"Origin": "http://evil.example"}, (403, "forbidden")),
        ):
            status, body = fairlead.request(method, path, fairlead.admin, headers)
            assert (status, body["error"]["code"]) == expected
            assert body["error"]["type"] == "invalid_request_error"


def test_models_are_answered_on_the_traffic_port(tmp_path: Path) -> None:
    pools = [{"name": "main", "endpoints": [endpoint("one", models=["m2", "m1"])]}]
    with router(tmp_path, pools=pools) as fairlead:
        fairlead.start()
        status, body = fairlead.get("/v1/models")
        assert status == 200
        assert [model["id"] for model in body["data"]] == ["m1", "m2"]
        assert fairlead.get("/v1/models/m1")[1]["id"] == "m1"
        assert fairlead.get("/v1/models/m3")[0] == 404


def test_the_access_log_gets_a_line_per_request_and_follows_rotation(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with router(tmp_path, access_log={"path": str(log)}) as fairlead:
        supervisor = fairlead.start()
        fairlead.get("/who?first")
        wait_until(lambda: "first" in log.read_text(), "the line is written")
        log.rename(tmp_path / "access.log.1")
        supervisor.send_signal(signal.SIGUSR1)
        wait_until(log.exists, "the file is there again")
        fairlead.get("/who?second")
        wait_until(lambda: "second" in log.read_text(), "the line is in the new file")


def test_a_second_router_on_the_same_control_socket_is_refused(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        fairlead.start()
        second = fairlead.start(wait=False)
        assert second.wait(BOUND_S) == 1
        assert "another router answers at" in fairlead.stderr()
        assert fairlead.get("/who")[0] == 200


def test_stale_control_and_traffic_sockets_of_a_killed_router_do_not_hinder_the_next(tmp_path: Path) -> None:
    with router(tmp_path, listeners=[{"address": f"unix:{tmp_path}/traffic.sock"}]) as fairlead:
        first = fairlead.start(wait=False)
        fairlead.wait_notified("READY=1", first)
        first.kill()
        assert first.wait(BOUND_S) == -signal.SIGKILL
        second = fairlead.start(wait=False)
        fairlead.wait_notified("READY=1", second)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(BOUND_S)
            sock.connect(f"{tmp_path}/traffic.sock")
            sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in read_until(sock, b"}")

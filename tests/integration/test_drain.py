"""SIGTERM: readiness fails, nothing new is taken, what is open finishes up to the deadline, exit 0."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.processes import BOUND_S, read_until, router, wait_gone, wait_until


def test_an_idle_router_exits_with_0(tmp_path: Path) -> None:
    with router(tmp_path, workers=2) as fairlead:
        process = fairlead.start()
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0


def test_an_open_stream_finishes_while_new_connections_are_refused(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        process = fairlead.start()
        held = fairlead.hold()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _can_connect(fairlead.traffic), "new connections are refused")
        status, body = fairlead.get("/readyz", fairlead.admin)
        assert (status, body["reasons"][0]) == (503, "draining")
        assert process.poll() is None
        held.sendall(b"x")
        assert read_until(held, b"0\r\n\r\n").endswith(b"4\r\ndone\r\n0\r\n\r\n")
        assert process.wait(BOUND_S) == 0


def test_a_stream_is_cut_at_the_deadline(tmp_path: Path) -> None:
    with router(tmp_path, drain={"deadline_ms": 300}) as fairlead:
        process = fairlead.start()
        held = fairlead.hold()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            held.recv(100)
        assert process.wait(BOUND_S) == 0


def test_readiness_fails_while_connections_are_still_taken_for_the_propagation_time(tmp_path: Path) -> None:
    with router(tmp_path, drain={"propagation_ms": 600_000}) as fairlead:
        process = fairlead.start()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: fairlead.get("/readyz", fairlead.admin)[0] == 503, "readiness fails")
        assert fairlead.get("/who")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    with router(tmp_path, drain={"deadline_ms": 600_000}) as fairlead:
        process = fairlead.start()
        held = fairlead.hold()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: not _can_connect(fairlead.traffic), "draining")
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND_S) == 0
        with pytest.raises(ConnectionResetError):
            held.recv(100)


def test_a_stopped_worker_does_not_hold_up_the_fast_exit(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        process = fairlead.start()
        (pid,) = fairlead.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        fairlead.wait_notified("STOPPING=1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
        wait_gone(pid)


def test_an_idle_keep_alive_connection_may_send_one_last_request(tmp_path: Path) -> None:
    with router(tmp_path) as fairlead:
        process = fairlead.start()
        kept = fairlead.connect()
        kept.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close" not in read_until(kept, b"}")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _can_connect(fairlead.traffic), "draining")
        kept.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Connection: close" in read_until(kept, b"}")
        assert kept.recv(10) == b""
        assert process.wait(BOUND_S) == 0


def _can_connect(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=BOUND_S):
            return True
    except ConnectionRefusedError:
        return False

"""The demo as a user runs it: engines, router, one answer, load, a summary; nothing is left behind."""

import contextlib
import re
import signal
import socket
import subprocess
import sys

COMMAND = [sys.executable, "-m", "bench.demo", "--port", "0", "--admin-port", "0"]


def test_a_bounded_demo_carries_load_without_a_failure() -> None:
    run = subprocess.run(
        [*COMMAND, "--seconds", "1", "--load", "20"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "base_url=http://127.0.0.1:" in run.stdout
    assert re.search(r"answer: +\w+ \w+", run.stdout)
    assert re.search(r"\d+ streams finished, 0 failed, TTFT p50 ", run.stdout)
    assert len(set(re.findall(r"engine=(8b-\S+)", run.stdout))) == 3


def test_a_demo_without_end_stops_at_an_interrupt_and_takes_the_router_with_it() -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        port = 0
        seen = []
        for line in process.stdout:
            seen.append(line)
            if address := re.search(r"base_url=http://127\.0\.0\.1:(\d+)/v1", line):
                port = int(address[1])
            if line.startswith("ttft:"):
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0, "".join(seen) + rest
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            raise AssertionError("the router still listens")
    finally:
        process.kill()
        process.communicate()

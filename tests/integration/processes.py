"""Real router processes for tests: started with a configuration, waited for by sd_notify, spoken to over
HTTP.

Everything waits on an event (a datagram, a socket, a process's end) with one generous bound; nothing sleeps.
Every process is ended with the test.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

BOUND_S = 30.0  # for any one event: only a broken build needs it
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FAKE = (sys.executable, str(HERE / "fake_serve.py"))  # workers with the fake core
REAL = (sys.executable, "-m", "router", "serve", "--config")


class Router:
    """One router: its files in `folder`, its processes, its addresses once it is ready."""

    def __init__(self, folder: Path, config: dict[str, Any], command: Sequence[str]) -> None:
        self.folder = folder
        self._command = command
        self.config = {
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "runtime_dir": str(folder / "run"),
            **({} if "control" in config else {"pools": [{"name": "main", "endpoints": [endpoint("one")]}]}),
            **config,
        }
        self.config_path = folder / "fairlead.yaml"
        self.write_config()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.traffic = ("", 0)
        self.admin = ("", 0)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify_path = folder / "notify"
        self._notify.bind(str(self._notify_path))
        self.stderr_path = folder / "stderr"

    def write_config(self, **changes: Any) -> None:
        """Puts the configuration, with changes, in the file: whole, by rename."""
        self.config = {**self.config, **changes}
        aside = self.config_path.with_suffix(".new")
        aside.write_text(yaml.safe_dump(self.config))
        aside.rename(self.config_path)

    def start(
        self,
        *arguments: str,
        wait: bool = True,
        listen_fds: Sequence[int] = (),
        stdout: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a supervisor; returns once it is ready, unless told not to wait.

        `listen_fds` are passed as systemd does: from descriptor 3 on, named by variables.
        """
        with self.stderr_path.open("ab") as stderr:
            process = subprocess.Popen(
                [*self._command, str(self.config_path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "NOTIFY_SOCKET": str(self._notify_path),
                    "FAKE_SERVE_LISTEN_FDS": ",".join(map(str, listen_fds)),
                },
                pass_fds=listen_fds,
            )
        self.processes.append(process)
        if wait:
            status = self.wait_notified("READY=1", process)
            traffic, admin = status.split("STATUS=traffic ")[1].split("; admin ")
            self.traffic = split_address(traffic.split(", ")[0])
            self.admin = split_address(admin)
        return process

    def wait_notified(self, wanted: str, process: subprocess.Popen[bytes] | None = None) -> str:
        """The next sd_notify message that contains `wanted`."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            if select.select([self._notify], [], [], 0.5)[0]:
                message = self._notify.recv(4096).decode()
                if wanted in message:
                    return message
            elif process is not None and process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode}:\n{self.stderr()}")
        raise AssertionError(f"no {wanted}:\n{self.stderr()}")

    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def get(self, path: str, address: tuple[str, int] | None = None) -> tuple[int, Any]:
        """Status and JSON of one GET on a connection of its own."""
        return self.request("GET", path, address)

    def request(
        self,
        method: str,
        path: str,
        address: tuple[str, int] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*(address or self.traffic), timeout=BOUND_S)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            body = response.read()
        is_json = "json" in (response.getheader("Content-Type") or "")
        return response.status, json.loads(body) if is_json else body

    def workers(self) -> list[dict[str, Any]]:
        """/debug/workers."""
        return list(self.get("/debug/workers", self.admin)[1])

    def worker_pids(self) -> set[int]:
        """Of the workers that are ready."""
        return {row["pid"] for row in self.workers() if row["state"] == "ready"}

    def wait_answering(self, count: int) -> set[int]:
        """Asks until so many workers have answered; their pids."""
        seen: set[int] = set()

        def ask() -> bool:
            seen.add(self.get("/who")[1]["pid"])
            return len(seen) == count

        wait_until(ask, f"{count} workers answer")
        return seen

    def connect(self) -> socket.socket:
        return socket.create_connection(self.traffic, timeout=BOUND_S)

    def hold(self) -> socket.socket:
        """A connection whose answer has begun and goes on until one byte is sent on it."""
        return self.hold_at_worker()[1]

    def hold_at_worker(self) -> tuple[int, socket.socket]:
        """As `hold`, with the process that holds it."""
        sock = self.connect()
        sock.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        head = read_until(sock, b"begin\r\n")
        return int(head.split(b"X-Pid: ")[1].split(b"\r\n")[0]), sock

    def end(self) -> None:
        """Kills what is left; the workers drain and exit when their supervisor is gone."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._notify.close()


@contextlib.contextmanager
def router(folder: Path, command: Sequence[str] = FAKE, **config: Any) -> Iterator[Router]:
    """A router that is not started yet; ended with the block."""
    made = Router(folder, config, command)
    try:
        yield made
    finally:
        made.end()


def endpoint(name: str, **settings: Any) -> dict[str, Any]:
    """One nobody listens at; its name tells the fake core how to behave."""
    return {"name": name, "url": f"http://127.0.0.1:9/{name}", **settings}


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Bytes up to and with `end`, or up to the end of the stream."""
    received = b""
    while end not in received:
        data = sock.recv(65536)
        if not data:
            break
        received += data
    return received


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Asks a live system again until it is so: for states that nothing announces."""
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        select.select([], [], [], 0.02)


def wait_gone(pid: int) -> None:
    """Returns when process `pid`, which need not be a child, has exited."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], BOUND_S)[0], f"process {pid} does not exit"
    finally:
        os.close(pidfd)

"""What the measured proxies share: being there or not, starting pinned to a core, stopping.

Invariant: only processes started here are ever signalled, and by their own id.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure

STOP_SECONDS = 5.0  # a proxy that has not gone by then is killed


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where and how a proxy is to run.

    folder: its own temporary folder; engine_ports: upstreams on 127.0.0.1
    connection_count_max: client connections it must take
    certificate, key: PEM files, or None when TLS is not measured
    """

    folder: Path
    engine_ports: Sequence[int]
    cpu: int
    connection_count_max: int
    certificate: Path | None
    key: Path | None


@dataclass(kw_only=True)
class Running:
    """A started proxy."""

    name: str
    port: int
    tls_port: int | None = None
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    has_master: bool = False  # the first process only watches over the others
    is_verbatim: bool = True
    group: int = 0  # of the engines it was given
    _family: list[int] = field(default_factory=list)

    def pids(self) -> tuple[list[int], list[int]]:
        """Processes that carry traffic, and those that watch over them."""
        if self.process is None:
            return [], []
        family = [self.process.pid, *measure.children(self.process.pid)]
        self._family = family
        return (family[1:], family[:1]) if self.has_master else (family, [])

    def last_words(self) -> str:
        """The end of what it logged, for a message about its failure."""
        if self.log is None or not self.log.exists():
            return ""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-2:])[-200:]

    def stop(self) -> None:
        """Ends it and its children; returns when they are gone."""
        if self.process is None:
            return
        self.pids()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in self._family[1:]:
            if _is_child_left(pid, self._family):
                os.kill(pid, signal.SIGKILL)


def _is_child_left(pid: int, family: Sequence[int]) -> bool:
    """Whether a child outlived its parent: it is there, and in a process group of ours, so no stranger."""
    try:
        group = os.getpgid(pid)
    except ProcessLookupError:
        return False
    return group in family


class PeerProxy(ABC):
    """A proxy that can be measured."""

    name: str
    is_verbatim = True  # passes payload bytes unchanged
    is_slow = False  # measured in few rounds
    lacks: frozenset[str] = frozenset()  # scenarios it cannot take part in

    @abstractmethod
    def missing(self, installs: bool) -> str | None:
        """What to install to measure it; None when it is there. May fetch a wheel when `installs`."""

    @abstractmethod
    def version(self) -> str:
        """Its version, as it says itself; only asked when nothing is missing."""

    @abstractmethod
    def start(self, site: Site) -> Running:
        """Starts it; the caller waits until it answers."""


def find_command(name: str) -> str | None:
    """A program on the path or where Debian keeps servers."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def command_output(arguments: Sequence[str]) -> str:
    """What a program prints about itself."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago: for programs that cannot be asked which port 0 gave them."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def spawn(
    arguments: Sequence[str],
    site: Site,
    *,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts a program on the site's core in a session of its own; its output goes to a log file there."""
    log = site.folder / "output.log"
    own_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {site.cpu})  # inherited: the program never runs anywhere else
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder or site.folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, own_cpus)
    return process, log


def python_environment() -> dict[str, str]:
    """An environment in which another Python finds this very package."""
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}


def wait_listening(port: int, seconds_max: float) -> bool:
    """Whether something accepts on a loopback port in time."""
    until = time.monotonic() + seconds_max
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


PYTHON = sys.executable

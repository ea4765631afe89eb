"""Real engines under test: where they are, what they serve, how many requests they say they hold.

Two ways to have them. `FAIRLEAD_REALSERVER` names a script that starts and stops them:
`SCRIPT vllm PORT [FLAGS]` and `SCRIPT llamacpp PORT [FLAGS]` return when the server answers /health,
`SCRIPT stop PORT` ends it. `E2E_VLLM=URL` and `E2E_LLAMACPP=URL[,URL]` name running ones, which are left as
they are. Without either the tests skip themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_BOUND_S = 600.0  # vLLM loads torch: half a minute on an idle machine, many on a busy one
ANSWER_BOUND_S = 120.0  # of one request, tiny model, busy machine

# A slot's context long enough for an answer that is still being made when a test cancels it.
LLAMACPP_CONTEXT = ("-c", "32768")
LLAMACPP_EMBEDDINGS = ("--embeddings", "--pooling", "mean", "-c", "2048", "-np", "1")

# Requests an engine holds: those it works on, and those that wait for a place.
RUNNING = {"vllm": "vllm:num_requests_running", "llamacpp": "llamacpp:requests_processing"}
PLACES = {"vllm": 16, "llamacpp": 4}  # --max-num-seqs and -np that the script, or who started them, gave
WAITING = {"vllm": "vllm:num_requests_waiting", "llamacpp": "llamacpp:requests_deferred"}


@dataclass(frozen=True)
class RealEngine:
    """One server that runs: `kind` is the configuration's word for it, `model` its own name for its model."""

    kind: str
    url: str
    model: str

    @classmethod
    def at(cls, kind: str, url: str) -> RealEngine:
        with urllib.request.urlopen(url + "/v1/models", timeout=ANSWER_BOUND_S) as answer:
            return cls(kind, url, json.load(answer)["data"][0]["id"])

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def running(self) -> int:
        return self._gauge(RUNNING[self.kind])

    def waiting(self) -> int:
        return self._gauge(WAITING[self.kind])

    def holds_nothing(self) -> bool:
        return self.running() == self.waiting() == 0

    def _gauge(self, name: str) -> int:
        with urllib.request.urlopen(self.url + "/metrics", timeout=ANSWER_BOUND_S) as answer:
            page = answer.read().decode()
        for family in text_string_to_metric_families(page):
            if family.name == name:
                return int(sum(sample.value for sample in family.samples))
        raise AssertionError(f"{self.url}/metrics has no {name}")


@dataclass(frozen=True)
class Engines:
    """One vLLM, two llama.cpp, and one llama.cpp that makes embeddings where we may start one."""

    vllm: RealEngine
    llamacpp: tuple[RealEngine, ...]
    embedder: RealEngine | None

    @property
    def generating(self) -> tuple[RealEngine, ...]:
        return (self.vllm, *self.llamacpp)

    def by_kind(self, kind: str) -> RealEngine:
        return self.vllm if kind == "vllm" else self.llamacpp[0]


def why_not() -> str:
    """Why there are no real engines to test against; empty: there are."""
    script = os.environ.get("FAIRLEAD_REALSERVER", "")
    if "PYTEST_XDIST_WORKER" in os.environ:
        return "real engines are started once, by one process: run `make e2e`"
    if os.environ.get("E2E_VLLM") and os.environ.get("E2E_LLAMACPP"):
        return ""
    if not script:
        return (
            "no real engines: set FAIRLEAD_REALSERVER to a start script, or E2E_VLLM and E2E_LLAMACPP to URLs"
        )
    if not os.access(script, os.R_OK):
        return f"no real engines: FAIRLEAD_REALSERVER={script} cannot be read"
    return ""


@contextlib.contextmanager
def real_engines() -> Iterator[Engines]:
    """The engines, up; those started here are stopped with the block."""
    if os.environ.get("E2E_VLLM") and os.environ.get("E2E_LLAMACPP"):
        urls = os.environ["E2E_LLAMACPP"].split(",")
        yield Engines(
            RealEngine.at("vllm", os.environ["E2E_VLLM"].rstrip("/")),
            tuple(RealEngine.at("llamacpp", url.rstrip("/")) for url in urls),
            None,
        )
        return
    with contextlib.ExitStack() as stack:
        embedder = stack.enter_context(_started("llamacpp", *LLAMACPP_EMBEDDINGS))
        llamacpp = tuple(stack.enter_context(_started("llamacpp", *LLAMACPP_CONTEXT)) for _ in range(2))
        yield Engines(stack.enter_context(_started("vllm")), llamacpp, embedder)


@contextlib.contextmanager
def _started(kind: str, *flags: str) -> Iterator[RealEngine]:
    port = str(_free_port())
    try:
        _run(kind, port, *flags)
        yield RealEngine.at(kind, f"http://127.0.0.1:{port}")
    finally:
        _run("stop", port)


def _run(*arguments: str) -> None:
    run = subprocess.run(
        ["bash", os.environ["FAIRLEAD_REALSERVER"], *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={"REALSERVER_WAIT": str(int(START_BOUND_S)), **os.environ},
        timeout=START_BOUND_S + 30,
        check=False,
    )
    assert run.returncode == 0, f"{arguments}: {run.stdout.decode(errors='replace')}"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def messages(text: str = "hello there") -> Any:
    return [{"role": "user", "content": text}]

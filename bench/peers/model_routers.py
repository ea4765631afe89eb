"""The Rust routers that vLLM and SGLang ship as wheels, of one descent: their options differ in one value."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from bench.peers.base import PeerProxy, Running, Site, free_ports, spawn
from bench.peers.wheels import missing_wheel, wheel_folder, wheel_version

PROBE = "bin/python"


class ModelRouter(PeerProxy):
    """One runtime thread; round robin, since its power of two polls engines for their load."""

    requirement: ClassVar[str]
    is_verbatim = False  # parses the body and writes it again
    lacks = frozenset({"tls"})

    @abstractmethod
    def requests_max(self, site: Site) -> int:
        """At once; -1: no bound."""

    def missing(self, installs: bool) -> str | None:
        return missing_wheel(self.name, self.requirement, PROBE, installs)

    def version(self) -> str:
        return wheel_version(self.name, self.name)

    def start(self, site: Site) -> Running:
        port, metrics_port = free_ports(2)
        module = self.name.replace("-", "_")
        arguments = [
            str(wheel_folder(self.name) / "bin" / "python"), "-m", f"{module}.launch_router",
            "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "error",
            "--prometheus-port", str(metrics_port), "--disable-retries", "--disable-circuit-breaker",
            "--max-concurrent-requests", str(self.requests_max(site)),
            "--worker-urls", *[f"http://127.0.0.1:{engine_port}" for engine_port in site.engine_ports],
        ]  # fmt: skip
        process, log = spawn(arguments, site, environment={"TOKIO_WORKER_THREADS": "1"})
        return Running(name=self.name, port=port, process=process, log=log, is_verbatim=self.is_verbatim)


class VllmRouter(ModelRouter):
    """vLLM's own router."""

    name = "vllm-router"
    requirement = "vllm-router==0.1.17"

    def requests_max(self, site: Site) -> int:
        return site.connection_count_max


class SglangRouter(ModelRouter):
    """SGLang's own router."""

    name = "sglang-router"
    requirement = "sglang-router==0.3.2"

    def requests_max(self, site: Site) -> int:
        return -1

"""vllm-router, vLLM's own router (Rust), from its wheel."""

from __future__ import annotations

from bench.peers.base import PeerProxy, Running, Site, free_ports, spawn
from bench.peers.wheels import missing_wheel, wheel_folder, wheel_version

REQUIREMENT = "vllm-router==0.1.17"
PROBE = "bin/python"


class VllmRouter(PeerProxy):
    """One runtime thread; round robin, since its power of two polls engines for their load."""

    name = "vllm-router"
    is_verbatim = False  # parses the body and writes it again
    lacks = frozenset({"tls"})

    def missing(self, installs: bool) -> str | None:
        return missing_wheel(self.name, REQUIREMENT, PROBE, installs)

    def version(self) -> str:
        return wheel_version(self.name, self.name)

    def start(self, site: Site) -> Running:
        port, metrics_port = free_ports(2)
        arguments = [
            str(wheel_folder(self.name) / "bin" / "python"), "-m", "vllm_router.launch_router",
            "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "error",
            "--prometheus-port", str(metrics_port), "--disable-retries", "--disable-circuit-breaker",
            "--max-concurrent-requests", str(site.connection_count_max),
            "--worker-urls", *[f"http://127.0.0.1:{engine_port}" for engine_port in site.engine_ports],
        ]  # fmt: skip
        process, log = spawn(arguments, site, environment={"TOKIO_WORKER_THREADS": "1"})
        return Running(name=self.name, port=port, process=process, log=log, is_verbatim=False)

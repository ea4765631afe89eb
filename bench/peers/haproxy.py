"""HAProxy from Debian's packages."""

from __future__ import annotations

import re

from bench.peers.base import PeerProxy, Running, Site, command_output, find_command, free_ports, spawn


class HAProxy(PeerProxy):
    """One thread, leastconn, upstream connections shared and reused, no log."""

    name = "haproxy"

    def missing(self, installs: bool) -> str | None:
        return None if find_command("haproxy") else "apt-get install haproxy"

    def version(self) -> str:
        found = re.search(r"version (\S+)", command_output([str(find_command("haproxy")), "-v"]))
        return found.group(1) if found else "?"

    def start(self, site: Site) -> Running:
        port, tls_port = free_ports(2)
        pem = site.folder / "haproxy.pem"
        tls = ""
        if site.certificate and site.key:
            pem.write_text(site.certificate.read_text() + site.key.read_text())
            tls = f"  bind 127.0.0.1:{tls_port} ssl crt {pem} alpn http/1.1 backlog 4096\n"
        servers = "\n".join(
            f"  server e{index} 127.0.0.1:{engine_port}"
            for index, engine_port in enumerate(site.engine_ports)
        )
        # option http-no-delay: without it a chunked answer is held back for the next chunk (MSG_MORE).
        config = f"""
global
  nbthread 1
  maxconn {site.connection_count_max}
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{port} backlog 4096
{tls}
  maxconn {site.connection_count_max}
  default_backend engines
backend engines
  balance leastconn
{servers}
"""
        path = site.folder / "haproxy.cfg"
        path.write_text(config)
        process, log = spawn([str(find_command("haproxy")), "-db", "-f", str(path)], site)
        return Running(
            name=self.name, port=port, tls_port=tls_port if tls else None, process=process, log=log
        )

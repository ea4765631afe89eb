"""nginx from Debian's packages: what every ratio is to."""

from __future__ import annotations

import os
import re

from bench.peers.base import PeerProxy, Running, Site, command_output, find_command, free_ports, spawn


class Nginx(PeerProxy):
    """One worker, least_conn, kept-alive upstreams, answers not buffered, no access log."""

    name = "nginx"

    def missing(self, installs: bool) -> str | None:
        return None if find_command("nginx") else "apt-get install nginx-light"

    def version(self) -> str:
        found = re.search(r"nginx/(\S+)", command_output([str(find_command("nginx")), "-v"]))
        return found.group(1) if found else "?"

    def start(self, site: Site) -> Running:
        port, tls_port = free_ports(2)
        servers = "\n".join(f"    server 127.0.0.1:{engine_port};" for engine_port in site.engine_ports)
        tls = ""
        if site.certificate:
            tls = (
                f"    listen 127.0.0.1:{tls_port} ssl backlog=4096;\n"
                f"    ssl_certificate {site.certificate};\n    ssl_certificate_key {site.key};\n"
                "    ssl_protocols TLSv1.2 TLSv1.3;\n"
            )
        paths = "\n".join(
            f"  {kind}_temp_path {site.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Both sides of every exchange are connections of the worker. nginx closes idle clients when less than
        # a sixteenth is left, so there is an eighth more.
        connections = site.connection_count_max * 9 // 4 + 512
        config = f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {site.folder}/nginx.pid;
error_log {site.folder}/error.log warn;
events {{
  worker_connections {connections};
}}
http {{
{paths}
  access_log off;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  upstream engines {{
    least_conn;
{servers}
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
{tls}
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 3600s;
    }}
  }}
}}
"""
        path = site.folder / "nginx.conf"
        path.write_text(config)
        process, log = spawn([str(find_command("nginx")), "-c", str(path), "-p", str(site.folder)], site)
        return Running(
            name=self.name,
            port=port,
            tls_port=tls_port if site.certificate else None,
            process=process,
            log=log,
            has_master=True,
        )

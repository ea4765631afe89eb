"""The floor: the bare epoll relay of native.relay, in a process of its own.

`python -m bench.peers.floor PORT UPSTREAM_PORT...` relays until it is killed.
"""

from __future__ import annotations

import signal
import sys

from bench.peers.base import PYTHON, PeerProxy, Running, Site, free_ports, python_environment, spawn


class Floor(PeerProxy):
    """Bytes both ways with no HTTP: below this no proxy on this kernel can go."""

    name = "floor"
    lacks = frozenset({"tls"})

    def missing(self, installs: bool) -> str | None:
        return None

    def version(self) -> str:
        return "bare epoll relay"

    def start(self, site: Site) -> Running:
        (port,) = free_ports(1)
        arguments = [PYTHON, "-m", "bench.peers.floor", str(port), *map(str, site.engine_ports)]
        process, log = spawn(arguments, site, environment=python_environment())
        return Running(name=self.name, port=port, process=process, log=log)


if __name__ == "__main__":
    from bench.native.relay import serve

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(int(sys.argv[1]), [int(word) for word in sys.argv[2:]])

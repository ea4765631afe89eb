"""No proxy at all: clients talk to an engine, which is what added latency is measured from."""

from __future__ import annotations

from bench.peers.base import PeerProxy, Running, Site


class Direct(PeerProxy):
    """The first engine itself; it has no CPU to account for, so it takes part in latency only."""

    name = "direct"
    lacks = frozenset({"request", "lockstep", "paced", "tls", "memory", "many", "soak"})

    def missing(self, installs: bool) -> str | None:
        return None

    def version(self) -> str:
        return "no proxy"

    def start(self, site: Site) -> Running:
        return Running(name=self.name, port=site.engine_ports[0])

"""The proxies that are measured side by side, one small module each.

A module says what its proxy needs, writes its configuration into a temporary folder, and starts it; base.py
holds what they share. Every one runs with a single worker, least connections (or the nearest it has),
kept-alive upstreams, no buffering of answers and no access log. Order here is the order of the report.
"""

from bench.peers.base import PeerProxy
from bench.peers.direct import Direct
from bench.peers.envoy import Envoy
from bench.peers.fairlead import Fairlead, FairleadP2c
from bench.peers.floor import Floor
from bench.peers.haproxy import HAProxy
from bench.peers.litellm import LiteLLM
from bench.peers.model_routers import SglangRouter, VllmRouter
from bench.peers.nginx import Nginx

BASE = "nginx"  # what ratios are to


def all_peers() -> list[PeerProxy]:
    """Every proxy this bench knows, installed or not."""
    return [
        Nginx(),
        Fairlead(),
        FairleadP2c(),
        Floor(),
        HAProxy(),
        Envoy(),
        SglangRouter(),
        VllmRouter(),
        LiteLLM(),
        Direct(),
    ]

"""Policies as the simulator's command line names them: `name` or `name:knob=value:knob=value`.

Neighbour: router/schema/policies.py, which knows names, knobs, their ranges and defaults.
"""

from __future__ import annotations

from typing import NamedTuple


class SimPolicy(NamedTuple):
    """A policy and what it is set with."""

    text: str
    """As it was asked for; what tables and the JSON call it."""
    kind: int
    """policy_kind of router/native/pick.pxd."""
    knobs: tuple[float, ...]


class PolicyError(Exception):
    """No such policy or knob, or a value out of range."""

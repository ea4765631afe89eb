"""The policies that need no view, slow and obvious: what a native pick must answer for the same request."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

MASK = (1 << 64) - 1
STEP = 0xA0761D6478BD642F
XOR = 0xE7037ED1A0B428DB
FOLD = 0x9E3779B97F4A7C15


class Policy(IntEnum):
    P2C = 0
    ROUND_ROBIN = 1
    RENDEZVOUS = 2
    BOUNDED_RING = 3
    LEAST_IN_FLIGHT = 4
    RANDOM = 5
    WEIGHTED = 6
    RING = 7
    MAGLEV = 8


@dataclass(frozen=True)
class Candidate:
    identity: int
    weight: float = 1.0
    in_flight: int = 0
    is_ejected: bool = False
    features: int = 0

    @property
    def load(self) -> np.float32:
        return np.float32(self.in_flight) / np.float32(self.weight)


@dataclass(frozen=True)
class Request:
    random: int = 0
    key: int = 0
    excluded: frozenset[int] = field(default_factory=frozenset)
    load_factor: float = 1.25
    required: int = 0


def fold(a: int, b: int) -> int:
    product = a * b
    return (product & MASK) ^ (product >> 64)


def hash_pair(a: int, b: int) -> int:
    return fold(fold(a ^ STEP, b ^ XOR), FOLD)


class Words:
    """wyrand from a seed."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = (self.state + STEP) & MASK
        return fold(self.state, self.state ^ XOR)

    def below(self, count: int) -> int:
        return (self.next() >> 32) * count >> 32


def eligible(candidates: list[Candidate], request: Request) -> set[int]:
    """Positions that may win: with what is required, neither excluded nor ejected; ejected ones when no other
    is left.
    """
    left = {
        position
        for position, candidate in enumerate(candidates)
        if position not in request.excluded and candidate.features & request.required == request.required
    }
    return {position for position in left if not candidates[position].is_ejected} or left


def asks_each(candidates: list[Candidate], request: Request) -> bool:
    """Whether candidates are looked at one by one: somebody is out, and not only because all are ejected."""
    if request.excluded or request.required:
        return True
    return any(c.is_ejected for c in candidates) and not all(c.is_ejected for c in candidates)


def p2c(candidates: list[Candidate], request: Request) -> int:
    count = len(candidates)
    left = eligible(candidates, request)
    if not left:
        return -1
    if len(left) == 1:
        return left.pop()
    if asks_each(candidates, request):
        first, second = _draw_two(count, left, request.random)
    else:
        first = (request.random >> 32) * count >> 32
        second = ((request.random & 0xFFFFFFFF) >> 1) * (count - 1) >> 31
        second += second >= first
    a, b = candidates[first], candidates[second]
    load_a, load_b = a.in_flight * np.float32(b.weight), b.in_flight * np.float32(a.weight)
    if load_a == load_b:
        return (first, second)[request.random & 1]
    return first if load_a < load_b else second


def _draw_two(count: int, left: set[int], random: int) -> tuple[int, int]:
    words = Words(random)
    pair: list[int] = []
    if count > 16:
        for _ in range(16):
            position = words.below(count)
            if position in left and position not in pair:
                pair.append(position)
                if len(pair) == 2:
                    return pair[0], pair[1]
    pair = []
    for seen, position in enumerate(sorted(left), 1):
        if seen <= 2:
            pair.append(position)
        elif (place := words.below(seen)) < 2:
            pair[place] = position
    return pair[0], pair[1]


def uniform(candidates: list[Candidate], request: Request) -> int:
    count, left = len(candidates), eligible(candidates, request)
    if not left:
        return -1
    if not asks_each(candidates, request):
        return (request.random >> 32) * count >> 32
    words, winner = Words(request.random), -1
    if count > 16:
        for _ in range(8):
            if (position := words.below(count)) in left:
                return position
    for seen, position in enumerate(sorted(left), 1):
        if seen == 1 or words.below(seen) == 0:
            winner = position
    return winner


def round_robin(candidates: list[Candidate], request: Request, turn: int) -> int:
    left = eligible(candidates, request)
    for step in range(len(candidates)):
        if (position := (turn + step) % len(candidates)) in left:
            return position
    return -1


def least(candidates: list[Candidate], request: Request) -> set[int]:
    """Everyone who may win."""
    left = eligible(candidates, request)
    lowest = min((candidates[position].load for position in left), default=None)
    return {position for position in left if candidates[position].load == lowest}


def rendezvous_cost(candidate: Candidate, key: int) -> float:
    """-ln(u) / weight for a uniform u: the lowest wins."""
    mixed = fold(key ^ XOR, FOLD)
    low = (candidate.identity ^ mixed) & 0xFFFFFFFF
    high = (candidate.identity ^ mixed) >> 32
    low ^= low >> 16
    low = low * 0x7FEB352D & 0xFFFFFFFF
    low = ((low ^ low >> 15) + high) & 0xFFFFFFFF
    low ^= low >> 16
    low = low * 0x846CA68B & 0xFFFFFFFF
    return -math.log1p(-min((low >> 1) + 0.5, 2**31 * (1 - 2**-24)) / 2**31) / candidate.weight


def ring(candidates: list[Candidate], points_per_weight: int) -> list[tuple[int, int]]:
    points = []
    for position, candidate in enumerate(candidates):
        for index in range(max(1, int(points_per_weight * candidate.weight + 0.5))):
            points.append((hash_pair(candidate.identity, index), candidate.identity, position))
    return [(point, position) for point, _, position in sorted(points)]


def place_of(request: Request) -> int:
    return fold((request.key or request.random) ^ XOR, FOLD)


def consistent_ring(candidates: list[Candidate], request: Request, points_per_weight: int) -> int:
    left, place = eligible(candidates, request), place_of(request)
    points = ring(candidates, points_per_weight)
    start = next((index for index, (point, _) in enumerate(points) if point >= place), 0)
    return next((owner for _, owner in points[start:] + points[:start] if owner in left), -1)


def maglev_table(candidates: list[Candidate]) -> list[int]:
    """Eisenbud et al., 3.4, in rounds; an entry is a candidate's position."""
    entries, weight_max = 65537, max(candidate.weight for candidate in candidates)
    order = sorted(range(len(candidates)), key=lambda position: candidates[position].identity)
    at = {i: hash_pair(candidates[i].identity, 0) % entries for i in order}
    skip = {i: hash_pair(candidates[i].identity, 1) % (entries - 1) + 1 for i in order}
    due = dict.fromkeys(order, 0.0)
    table, filled, turn = [-1] * entries, 0, 0
    while filled < entries:
        for position in order:
            if due[position] > turn or filled == entries:
                continue
            due[position] += weight_max / candidates[position].weight
            while table[at[position]] >= 0:
                at[position] = (at[position] + skip[position]) % entries
            table[at[position]] = position
            filled += 1
        turn += 1
    return table


def maglev(candidates: list[Candidate], request: Request, table: list[int]) -> int | None:
    """None: a rendezvous decides."""
    left, place = eligible(candidates, request), place_of(request)
    for _ in range(16):
        if (owner := table[(place >> 32) * len(table) >> 32]) in left:
            return owner
        place = fold(place ^ XOR, FOLD)
    return None


def bounded_ring(candidates: list[Candidate], request: Request, points_per_weight: int) -> int:
    left = eligible(candidates, request)
    if not left:
        return -1
    total = sum(candidates[position].in_flight for position in left)
    weight_total = sum(candidates[position].weight for position in left)
    place = place_of(request)
    points = ring(candidates, points_per_weight)
    start = next((index for index, (point, _) in enumerate(points) if point >= place), 0)
    for _, owner in points[start:] + points[:start]:
        share = max(request.load_factor, 1.0) * (total + 1) / weight_total * candidates[owner].weight
        if owner in left and candidates[owner].in_flight < math.ceil(share):
            return owner
    raise AssertionError("capacities sum to more than the total: somebody must be under his share")

"""The plain reading of the prefix table that router/native/prefix.pyx is held equal to, for one writer.

Buckets of entries as Python objects, each chain walked once per candidate. Numbers that show in answers
(units of age, float32 of trust) are the native ones.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

WAYS = 4
OWNERS_MAX = 12
DEPTH_MAX = 512
CAPACITY_DEFAULT_TOKENS = 1 << 19
CAPACITY_UNITS = 256
AGE_MAX = 320
AGED = range(160, 481)
EVICTION_PRIOR = 0.1
FRACTION = 1 << 32
STAMPS = 1 << 16
TOUCH_SHIFT = 18
EVERYWHERE_FRESH_MIN = 6
REPORTED_TOKENS_MIN = 64
TRUST_MIN = 0.05
TRUST_WEIGHT = 0.0625
DISTRUST_WEIGHT = 0.00390625
UNCACHED_TOKENS_MAX = 1 << 22
SPREAD = 0x9E3779B97F4A7C15


def single(value: float) -> float:
    """As float32 keeps it."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


@dataclass
class Claim:
    slot: int
    stamp: int


@dataclass
class Entry:
    key: int
    touch: int
    claims: list[Claim]
    is_everywhere: bool = False


@dataclass
class Table:
    bucket_count: int
    slot_count: int
    clocks: list[int] = field(init=False)
    trust: list[float] = field(init=False)
    capacities: list[int] = field(init=False)
    aged: list[float] = field(init=False)
    taken: list[float] = field(init=False)
    eviction: list[float] = field(init=False)
    buckets: dict[int, list[Entry | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clocks = [0] * self.slot_count
        self.trust = [1.0] * self.slot_count
        self.capacities = [0] * self.slot_count
        self.aged = [0.0] * self.slot_count
        self.eviction = [0.0] * self.slot_count
        self.taken = [0.0] * self.slot_count

    def bucket(self, key: int) -> list[Entry | None]:
        spread = (key ^ key >> 32) * SPREAD % (1 << 64)
        spread = (spread ^ spread >> 32) * SPREAD % (1 << 64)
        index = (spread >> 32) * self.bucket_count >> 32
        return self.buckets.setdefault(index, [None] * WAYS)

    def find(self, key: int) -> Entry | None:
        return next((entry for entry in self.bucket(key) if entry is not None and entry.key == key), None)

    def stamp(self, slot: int) -> int:
        return self.clocks[slot] // FRACTION % STAMPS

    def age(self, claim: Claim) -> int:
        return (self.stamp(claim.slot) - claim.stamp) % STAMPS

    def fresh_slots(self, entry: Entry) -> set[int]:
        return {claim.slot for claim in entry.claims if self.age(claim) <= AGE_MAX}

    def has(self, entry: Entry, slot: int) -> bool:
        fresh = self.fresh_slots(entry)
        return slot in fresh or (entry.is_everywhere and len(fresh) >= EVERYWHERE_FRESH_MIN)

    def match(self, keys: Sequence[int], tokens: Sequence[int], slots: Sequence[int]) -> list[float]:
        hits = []
        for slot in slots:
            hit = 0
            for key, end in zip(keys[:DEPTH_MAX], tokens, strict=False):
                entry = self.find(key)
                if entry is None or not self.has(entry, slot):
                    break
                hit = end
            hits.append(single(hit * self.trust[slot]))
        return hits

    def capacity(self, slot: int) -> int:
        return self.capacities[slot] or CAPACITY_DEFAULT_TOKENS

    def move(self, slot: int, uncached_tokens: int) -> None:
        moved = min(uncached_tokens, UNCACHED_TOKENS_MAX) * CAPACITY_UNITS * FRACTION // self.capacity(slot)
        self.clocks[slot] += min(moved, (AGE_MAX + 1) * FRACTION)

    def insert(
        self, keys: Sequence[int], tokens: Sequence[int], slot: int, uncached_tokens: int, now_us: int
    ) -> None:
        self.move(slot, uncached_tokens)
        kept = 1 - min(uncached_tokens / self.capacity(slot), 1.0)
        self.aged[slot] *= kept
        self.taken[slot] = self.taken[slot] * kept + uncached_tokens
        touch = (now_us >> TOUCH_SHIFT) % STAMPS
        for key, begin, end in zip(keys[:DEPTH_MAX], [0, *tokens], tokens, strict=False):
            entry = self.find(key)
            if entry is not None and any(c.slot == slot and self.age(c) in AGED for c in entry.claims):
                self.aged[slot] += end - begin
            if entry is None:
                self.replace(key, slot, touch)
            else:
                self.claim(entry, slot)
                entry.touch = touch
        ratio = self.aged[slot] / (self.taken[slot] + EVICTION_PRIOR * self.capacity(slot))
        self.eviction[slot] = min(ratio, 1.0) ** 2

    def replace(self, key: int, slot: int, touch: int) -> None:
        bucket = self.bucket(key)

        def idle(way: int) -> int:
            entry = bucket[way]
            return STAMPS if entry is None else (touch - entry.touch) % STAMPS

        bucket[max(range(WAYS), key=idle)] = Entry(key, touch, [Claim(slot, self.stamp(slot))])

    def claim(self, entry: Entry, slot: int) -> None:
        fresh = self.fresh_slots(entry)
        claim = Claim(slot, self.stamp(slot))
        place = next((place for place, known in enumerate(entry.claims) if known.slot == slot), None)
        if slot in fresh and place is not None:
            entry.claims[place] = claim
            return
        if place is None:
            oldest = max(range(len(entry.claims)), key=lambda place: self.age(entry.claims[place]))
            if self.age(entry.claims[oldest]) > AGE_MAX:
                place = oldest
            elif len(entry.claims) < OWNERS_MAX:
                place = len(entry.claims)
                entry.claims.append(claim)
            else:
                place = oldest
                entry.is_everywhere = True
        entry.claims[place] = claim
        if len(fresh) < EVERYWHERE_FRESH_MIN:
            entry.is_everywhere = False

    def reported(self, slot: int, expected_tokens: int, reported_tokens: int, missed_tokens: int) -> None:
        self.move(slot, missed_tokens)
        if expected_tokens < REPORTED_TOKENS_MIN:
            return
        ratio = single(min(1.0, reported_tokens / expected_tokens))
        weight = TRUST_WEIGHT if ratio > self.trust[slot] else DISTRUST_WEIGHT
        trust = single(self.trust[slot] + single(single(ratio - self.trust[slot]) * weight))
        self.trust[slot] = max(trust, single(TRUST_MIN))

    def forget(self, slot: int) -> None:
        self.clocks[slot] += (AGE_MAX + 1) * FRACTION
        self.trust[slot] = 1.0
        self.aged[slot] = self.taken[slot] = self.eviction[slot] = 0.0

    def set_capacity(self, slot: int, capacity_tokens: int) -> None:
        self.capacities[slot] = capacity_tokens

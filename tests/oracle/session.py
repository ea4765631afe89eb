"""The plain reading of the session table, for one writer: what router/native/session.pyx may answer.

The table forgets whom it has no room for, so the oracle says what is true of a session if it is remembered,
and whether it must be: the four that were last put into a line are always there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

TICK_US = 1 << 20
WAYS = 4
PROMPT_TOKENS_MAX = (1 << 20) - 1


def tick(now_us: int) -> int:
    return max(now_us // TICK_US, 1)


@dataclass
class Place:
    slot: int
    model: int
    prompt_tokens: int
    tick: int


@dataclass
class Sessions:
    line_of: Callable[[int], int]
    places: dict[int, Place] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)

    def put(self, key: int, slot: int, now_us: int, model: int, prompt_tokens: int) -> None:
        self.places[key] = Place(slot, model % (1 << 16), min(prompt_tokens, PROMPT_TOKENS_MAX), tick(now_us))

    def forget(self, slot: int, now_us: int) -> None:
        self.since[slot] = tick(now_us)

    def find(self, key: int, now_us: int, remembered_s: float) -> tuple[int, int, int] | None:
        """What the table says if it has not let the session go."""
        place = self.places.get(key)
        if place is None or place.tick <= self.since.get(place.slot, 0):
            return None
        if tick(now_us) - place.tick > int(remembered_s * 1e6 / TICK_US):
            return None
        return place.slot, place.model, place.prompt_tokens

    def must_be_there(self, key: int) -> bool:
        """Whether fewer than four others of its line were seen in its last second or since."""
        place = self.places.get(key)
        if place is None:
            return False
        rivals = [
            other
            for other in self.places
            if other != key
            and self.line_of(other) == self.line_of(key)
            and self.places[other].tick >= place.tick
        ]
        return len(rivals) < WAYS

"""When which page is asked for next: spread over the interval, later after failures, never twice at once.

Pure: the time comes in. A new page's first turn is anywhere in its period, so that five hundred of them make
an even stream and not a volley; every turn is a little early or late, so that pages do not fall into step
with each other or with what engines do once a second. A page that fails is asked for half as often with each
failure in a row. Invariant: a page that is out comes back by `done` and is not due meanwhile; what was missed
(a stall, no room) is not made up for. Neighbour: scrape.py.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass

JITTER_RATIO = 0.1  # either way, of a period: two pages in step are apart again some ten turns later
DOUBLINGS_MAX = 16  # any backoff's bound is reached long before


@dataclass(slots=True)
class _Turn:
    period_s: float
    due_s: float
    serial: int
    failures: int = 0
    is_out: bool = False


class Schedule:
    """Turns of pages, by key."""

    def __init__(self, *, backoff_max_s: float, random_: random.Random) -> None:
        self._backoff_max_s = backoff_max_s
        self._random = random_
        self._turns: dict[str, _Turn] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._serial = 0

    def set(self, periods_s: Mapping[str, float], now_s: float) -> None:
        """From now on these and no others; those that are known already keep their turns."""
        for key in self._turns.keys() - periods_s.keys():
            del self._turns[key]
        for key, period_s in periods_s.items():
            if key in self._turns:
                self._turns[key].period_s = period_s
            else:
                self._serial += 1
                due_s = now_s + self._random.uniform(0, period_s)
                self._turns[key] = _Turn(period_s, due_s, self._serial)
                heapq.heappush(self._heap, (due_s, self._serial, key))

    def take(self, now_s: float, count_max: int) -> list[tuple[str, int]]:
        """Whose turn it is, each with the number that `done` is told; they are out from now on."""
        taken: list[tuple[str, int]] = []
        while self._heap and self._heap[0][0] <= now_s and len(taken) < count_max:
            _, serial, key = heapq.heappop(self._heap)
            turn = self._turns.get(key)
            if turn is not None and turn.serial == serial:
                turn.is_out = True
                taken.append((key, serial))
        return taken

    def done(self, key: str, serial: int, now_s: float, *, is_well: bool) -> None:
        """One that was out is back; nothing happens where it has been taken off meanwhile."""
        turn = self._turns.get(key)
        if turn is None or turn.serial != serial or not turn.is_out:
            return
        turn.is_out = False
        turn.failures = 0 if is_well else turn.failures + 1
        if is_well:
            jitter = self._random.uniform(1 - JITTER_RATIO, 1 + JITTER_RATIO)
            turn.due_s += turn.period_s * jitter
            if turn.due_s < now_s:
                turn.due_s = now_s + self._random.uniform(0, turn.period_s)
        else:
            pause_s = turn.period_s * 2 ** min(turn.failures, DOUBLINGS_MAX)
            most_s = max(self._backoff_max_s, turn.period_s)
            turn.due_s = now_s + min(pause_s, most_s) * self._random.uniform(0.5, 1.0)
        heapq.heappush(self._heap, (turn.due_s, serial, key))

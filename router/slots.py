"""Which slot of the load table an endpoint has, kept over reloads and takeovers.

Invariant: a slot belongs to one endpoint for as long as that endpoint is configured or has attempts in
flight, and is given to another one at the earliest by the reload after the one that dropped it, so that a
worker still on the snapshot before cannot charge a stranger. Only the supervisor holds a directory; workers
get the slots in their snapshot. Routes get their metric indexes the same way, one for each version of the
policy, so that what a version counted stays apart. Neighbours: native/loadtable, native/metrics (reset what
is reused), supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

_VERSION_MARK = "@"  # in no name that a configuration may give


def name_in_version(name: str, version: int) -> str:
    """What `name` is called in a directory that tells versions of the policy apart; 0 is none."""
    return f"{name}{_VERSION_MARK}{version}" if version else name


def name_and_version(name: str) -> tuple[str, int]:
    """What `name_in_version` was given."""
    plain, _, version = name.partition(_VERSION_MARK)
    return plain, int(version) if version else 0


class SlotsExhausted(Exception):
    """More endpoints, with those still draining, than the table has slots."""


class Assignment(Struct, frozen=True, kw_only=True):
    """The outcome of one reload."""

    slots: dict[str, int]
    """Slot by endpoint identity, in the order configured."""
    reused: tuple[int, ...]
    """Slots that were another endpoint's: reset load and metrics there before workers get the snapshot."""


class SlotDirectory:
    """Endpoint identity -> slot, for at most `slot_count` endpoints, draining ones included."""

    def __init__(self, slot_count: int) -> None:
        self._slot_count = slot_count
        self._names: list[str] = []  # by slot: slots are taken from the front
        self._slots: dict[str, int] = {}
        self._retired: dict[str, None] = {}  # no longer configured, longest retired first

    @classmethod
    def from_names(cls, slot_count: int, names: Sequence[str], configured: Iterable[str]) -> SlotDirectory:
        """The directory that gave `names()` in the process taken over from; what is not configured drains."""
        directory = cls(slot_count)
        directory._names = list(names)
        directory._slots = {name: slot for slot, name in enumerate(names)}
        kept = set(configured)
        directory._retired = dict.fromkeys(name for name in names if name not in kept)
        return directory

    def names(self) -> tuple[str, ...]:
        """The endpoint of each slot given so far, draining and retired ones included."""
        return tuple(self._names)

    def configured(self) -> tuple[str, ...]:
        """The endpoints of the last assignment, by slot."""
        return tuple(name for name in self._names if name not in self._retired)

    def slot(self, identity: str) -> int | None:
        return self._slots.get(identity)

    def assign(
        self,
        identities: Iterable[str],
        in_flight: Callable[[int], int],
        retired_max: int | None = None,
    ) -> Assignment:
        """Gives every identity its slot, all or nothing.

        Endpoints seen before keep theirs; new ones get a fresh slot, else the one retired longest ago with
        nothing in flight. `in_flight(slot)` is the load table's sum. Past `retired_max` retired ones, theirs
        are taken before fresh ones.

        Raises:
            SlotsExhausted: nothing has changed then.
        """
        wanted = dict.fromkeys(identities)
        new = [name for name in wanted if name not in self._slots]
        fresh_max = self._slot_count - len(self._names)
        reused_count = len(new) - min(len(new), fresh_max)
        if retired_max is not None:
            reused_count = max(reused_count, min(len(new), len(self._retired) - retired_max))
        free: list[str] = []
        for name in self._retired:
            if len(free) >= reused_count:
                break
            if name not in wanted and in_flight(self._slots[name]) == 0:
                free.append(name)
        fresh_count = len(new) - len(free)
        if fresh_count > fresh_max:
            draining_count = len(self._names) - len(wanted) + len(new)
            raise SlotsExhausted(
                f"{len(wanted)} endpoints and {draining_count} still draining need more than the load table's"
                f" {self._slot_count} slots"
            )
        reused = []
        for index, name in enumerate(new):
            if index < fresh_count:
                slot = len(self._names)
                self._names.append(name)
            else:
                predecessor = free[index - fresh_count]
                slot = self._slots.pop(predecessor)
                del self._retired[predecessor]
                self._names[slot] = name
                reused.append(slot)
            self._slots[name] = slot
        for name in self._names:
            if name in wanted:
                self._retired.pop(name, None)
            else:
                self._retired.setdefault(name)
        return Assignment(slots={name: self._slots[name] for name in wanted}, reused=tuple(reused))

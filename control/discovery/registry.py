"""Endpoints that add themselves, or are added by hand, over HTTP: each for a lease, or until it is removed.

A registrant adds itself again before its lease ends; one that died does not, and leaves. What is kept of a
registration holds no time: after a restart of control every lease begins anew, since nobody could renew it
meanwhile, and a clock that jumps ends none.

Invariant: what is saved is saved before it counts, so that a full disk refuses an addition instead of
forgetting it later. Neighbours: the HTTP handlers (call it), the store (keeps registrations), sets.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

from msgspec import Struct, structs

from control.discovery.sets import EndpointSet, Tell
from router import limits
from router.schema.config import Endpoint

SETTLE_S = 0.02  # between a change and the set that has it: a storm of additions is a few sets


class Registration(Struct, frozen=True, kw_only=True):
    """What is kept of an endpoint that was added."""

    endpoint: Endpoint
    lease_s: float | None = None
    """From one addition to the end of it; None: until it is removed."""
    is_draining: bool = False


class Addition(StrEnum):
    """What became of an endpoint that was added."""

    NEW = "new"
    CHANGED = "changed"
    RENEWED = "renewed"


class RegistryFullError(Exception):
    """There are as many endpoints as there may be; the message says how many."""


class LeaseError(ValueError):
    """A lease that is too short or too long; the message says what it may be."""


class Registry:
    """The endpoints of one source, and when each leaves."""

    def __init__(
        self,
        source: str,
        pool: str,
        *,
        registered: Iterable[Registration] = (),
        now_s: float,
        save: Callable[[Registration], None],
        forget: Callable[[str], None],
        registrations_max: int = limits.ENDPOINTS_MAX,
    ) -> None:
        """`registered` is what `save` was given and `forget` was not; both may raise, and nothing changes."""
        self.source = source
        self.pool = pool
        self.changed = asyncio.Event()
        """Set with each change of the set."""
        self._save = save
        self._forget = forget
        self._registrations_max = registrations_max
        self._registrations: dict[str, Registration] = {}
        self._ends_s: dict[str, float] = {}
        self._told: frozenset[str] = frozenset()
        self._removed: set[str] = set()  # of those that were told
        for registration in registered:
            self._take(registration, now_s)

    def add(self, endpoint: Endpoint, lease_s: float | None, now_s: float) -> Addition:
        """Adds `endpoint`, or renews its lease; adding ends a drain only of one that had left.

        Raises: RegistryFullError, LeaseError, what `save` raises.
        """
        if lease_s is not None and not limits.LEASE_S_MIN <= lease_s <= limits.LEASE_S_MAX:
            raise LeaseError(
                f"a lease of {lease_s:g} s; it lasts {limits.LEASE_S_MIN} to {limits.LEASE_S_MAX} s"
            )
        old = self._registrations.get(endpoint.name)
        if old is None and len(self._registrations) >= self._registrations_max:
            raise RegistryFullError(f"there are {self._registrations_max} endpoints already")
        is_draining = old is not None and old.is_draining
        registration = Registration(endpoint=endpoint, lease_s=lease_s, is_draining=is_draining)
        if registration == old:
            self._renew(registration, now_s)
            return Addition.RENEWED
        self._save(registration)
        self._take(registration, now_s)
        self.changed.set()
        return Addition.NEW if old is None else Addition.CHANGED

    def drain(self, name: str, *, is_draining: bool = True) -> bool:
        """Whether there is one of that name; it gets nothing new from now on, or may again."""
        old = self._registrations.get(name)
        if old is not None and old.is_draining != is_draining:
            registration = structs.replace(old, is_draining=is_draining)
            self._save(registration)
            self._registrations[name] = registration
            self.changed.set()
        return old is not None

    def remove(self, name: str) -> bool:
        """Whether there was one of that name; there is none any more."""
        if name not in self._registrations:
            return False
        self._leave(name)
        if name in self._told:
            self._removed.add(name)
        self.changed.set()
        return True

    def expire(self, now_s: float) -> tuple[str, ...]:
        """Names of those whose lease has ended, who leave."""
        ended = tuple(name for name, end_s in self._ends_s.items() if end_s <= now_s)
        for name in ended:
            self._leave(name)
        return ended

    def next_end_s(self) -> float | None:
        """When the next lease ends; None: none ever does."""
        return min(self._ends_s.values(), default=None)

    def registrations(self) -> list[Registration]:
        """All, by name."""
        return [self._registrations[name] for name in sorted(self._registrations)]

    def take_set(self, now_s: float) -> EndpointSet:
        """What the source has to tell. Who was removed is told once."""
        registrations = self.registrations()
        removed = frozenset(self._removed)
        self._removed.clear()
        self._told = frozenset(self._registrations)
        self.changed.clear()
        return EndpointSet(
            source=self.source,
            pool=self.pool,
            endpoints=tuple(registration.endpoint for registration in registrations),
            draining=frozenset(
                registration.endpoint.name for registration in registrations if registration.is_draining
            ),
            removed=removed,
            at_s=now_s,
        )

    def _take(self, registration: Registration, now_s: float) -> None:
        self._registrations[registration.endpoint.name] = registration
        self._removed.discard(registration.endpoint.name)
        self._renew(registration, now_s)

    def _renew(self, registration: Registration, now_s: float) -> None:
        name = registration.endpoint.name
        if registration.lease_s is None:
            self._ends_s.pop(name, None)
        else:
            self._ends_s[name] = now_s + registration.lease_s

    def _leave(self, name: str) -> None:
        self._forget(name)
        del self._registrations[name]
        self._ends_s.pop(name, None)


class RegistrySource:
    """The task that tells a registry's sets and ends its leases."""

    def __init__(
        self, registry: Registry, *, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self.name = registry.source
        self.pool = registry.pool
        self.registry = registry
        self._now = now
        self._sleep = sleep

    async def run(self, tell: Tell) -> None:
        """Tells the set at first and after each change."""
        while True:
            self.registry.expire(self._now())
            tell(self.registry.take_set(self._now()))
            await self._until_change()
            await self._sleep(SETTLE_S)

    async def _until_change(self) -> None:
        """Until somebody changes the set or a lease has ended, however often leases are renewed meanwhile."""
        while not self.registry.changed.is_set():
            end_s = self.registry.next_end_s()
            if end_s is not None and end_s <= self._now():
                return
            try:
                async with asyncio.timeout(None if end_s is None else end_s - self._now()):
                    await self.registry.changed.wait()
            except TimeoutError:
                continue

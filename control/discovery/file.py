"""Endpoints in a file that somebody else writes: looked at every second, read once it keeps still.

What says that a file is another one is the inode, size and time of change of what the path leads to: so it
does not matter whether it was written over, renamed into place by an editor, or is behind the links that a
ConfigMap swaps. It is read when two looks agree, and again when it changed while it was read.

Invariant: a file that is missing, half written or wrong takes no endpoint away. Neighbours: sets.py (what
that means), router/config.py (reads it, with file and line in what is wrong).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from msgspec import Struct

from control.discovery.sets import EndpointSet, Tell
from router.config import ConfigError, read_endpoints
from router.schema.config import Endpoint


class Look(Struct, frozen=True):
    """What tells one content of a path from the next."""

    device: int
    inode: int
    changed_ns: int
    size_bytes: int


class FileWatch:
    """When to read a file, by what it looks like."""

    def __init__(self) -> None:
        self._seen: Look | None = None
        self._read: Look | None = None

    def wants_reading(self, look: Look) -> bool:
        """Whether it is not what was read last, and keeps still; at first it is not waited for."""
        is_still = self._seen in (look, None)
        self._seen = look
        return is_still and look != self._read

    def was_read(self, before: Look, after: Look) -> bool:
        """Whether what was read between these is one content; else it is to be read again."""
        self._seen = after
        if before == after:
            self._read = after
        return before == after

    def is_lost(self) -> None:
        """It cannot be looked at: whatever comes next is to be read."""
        self._seen = self._read = None


class FileSource:
    """One file."""

    def __init__(
        self,
        name: str,
        pool: str,
        path: str,
        *,
        interval_s: float = 1.0,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.name = name
        self.pool = pool
        self._path = path
        self._interval_s = interval_s
        self._now = now
        self._sleep = sleep
        self._watch = FileWatch()

    async def run(self, tell: Tell) -> None:
        """Tells what is in the file at first, then what is in it after each change."""
        self._watch.is_lost()  # begun again after a failure, it tells its set again
        while True:
            told = await asyncio.to_thread(self.look)  # a file system may hang, and YAML takes its time
            if told is not None:
                tell(told)
            await self._sleep(self._interval_s)

    def look(self) -> EndpointSet | None:
        """The set in the file, or what is wrong with it; None where there is nothing new to tell."""
        try:
            before = _look(self._path)
            if not self._watch.wants_reading(before):
                return None
            told = self._read()
            return told if self._watch.was_read(before, _look(self._path)) else None
        except OSError as exc:
            self._watch.is_lost()
            return self._set((), f"{self._path}: {exc.strerror}")

    def _read(self) -> EndpointSet:
        try:
            return self._set(read_endpoints(self._path))
        except ConfigError as exc:
            return self._set((), str(exc))

    def _set(self, endpoints: tuple[Endpoint, ...], reason: str = "") -> EndpointSet:
        return EndpointSet(
            source=self.name,
            pool=self.pool,
            endpoints=endpoints,
            at_s=self._now(),
            is_stale=bool(reason),
            reason=reason,
        )


def _look(path: str) -> Look:
    found = os.stat(path)
    return Look(found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size)

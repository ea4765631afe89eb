"""Tasks that go on: one that fails is logged, counted and begun again, the later the more often it fails.

A probe that meets an answer nobody thought of must not end health checking, and neither must a configuration
that changes under it. Invariant: a watched task ends by being stopped, by returning, or not at all.
Neighbours: whoever runs something for as long as control does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from router import limits

logger = logging.getLogger("fairlead.control")

Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Watched:
    """One task as `Supervision.describe` shows it."""

    name: str
    failure_count: int = 0
    failure: str = ""  # the last one
    is_running: bool = False


class Supervision:
    """The tasks of one part of control."""

    def __init__(self, *, sleep: Sleep = asyncio.sleep, seed: int | None = None) -> None:
        self._sleep = sleep
        self._random = random.Random(seed)  # noqa: S311 - spreads restarts, guards nothing
        self._watched: dict[str, Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `work` until it returns; one of that `name` that runs already is ended first."""
        self.stop(name)
        self._watched[name] = Watched(name)
        self._tasks[name] = asyncio.get_running_loop().create_task(self._watch(name, work), name=name)

    def stop(self, name: str) -> None:
        """Cancels the task of that name, if there is one; it is gone from `describe` at once."""
        task = self._tasks.pop(name, None)
        self._watched.pop(name, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancels all and returns when all have ended."""
        tasks = list(self._tasks.values())
        for name in list(self._tasks):
            self.stop(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def names(self) -> list[str]:
        """Of the tasks that were started and not stopped, in the order of their start."""
        return list(self._watched)

    def describe(self) -> list[Watched]:
        """Each task and how it fares."""
        return list(self._watched.values())

    async def _watch(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        watched = self._watched[name]
        while True:
            watched.is_running = True
            try:
                await work()
                return
            except Exception as exc:
                watched.failure_count += 1
                watched.failure = f"{type(exc).__name__}: {exc}"
                logger.exception("%s failed, %d times so far; it is begun again", name, watched.failure_count)
            finally:
                watched.is_running = False
            doubled = limits.RESTART_BACKOFF_MIN_MS * 2 ** min(watched.failure_count - 1, 10)
            pause_s = min(doubled, limits.RESTART_BACKOFF_MAX_MS) / 1000
            await self._sleep(pause_s * self._random.uniform(0.5, 1.0))

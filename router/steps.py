"""Long work in short steps: a worker's loop carries traffic, and nothing else may keep it for long.

Work is a generator that yields after a bounded number of entries; the loop turns between two steps. What
cannot be cut is yielded as a callable that holds the interpreter for moments only, and is done on another
thread. Invariant: between two turns of the loop there is one step and no more. Neighbours: worker.py (takes
them), native/preparation.pyx and pieces.py (are cut).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[Callable[[], object] | None, None, T]


class Stepper:
    """Takes steps on the running loop; `longest_us` is in CPU time, which a busy machine does not blur."""

    def __init__(self) -> None:
        self.longest_us = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Counts what is done inside as one step."""
        before_ns = time.thread_time_ns()
        try:
            yield
        finally:
            self.longest_us = max(self.longest_us, (time.thread_time_ns() - before_ns) // 1000)

    async def take(self, steps: Steps[T]) -> T:
        """What `steps` returns. Raises: what it raises, or its work."""
        while True:
            try:
                with self.one():
                    work = next(steps)
            except StopIteration as end:
                value: T = end.value
                return value
            if work is None:
                await asyncio.sleep(0)
            else:
                await asyncio.get_running_loop().run_in_executor(None, work)

"""A snapshot built aside in steps; the core makes and activates its own."""

from collections.abc import Callable, Generator
from typing import TypeVar

from router.native.pool import Endpoint
from router.snapshot import Tables

T = TypeVar("T")

class Preparation:
    """Empty until `preparing` has run, for tables with so many slots."""

    def __init__(self, slot_count: int) -> None: ...
    @property
    def endpoints(self) -> dict[str, Endpoint]: ...
    def preparing(
        self,
        tables: Tables,
        known: dict[str, Endpoint],
        addresses: dict[str, list[tuple[str, int]]],
        canary: Tables | None = None,
        canary_ratio: float = 0.0,
    ) -> Generator[Callable[[], object] | None]:
        """Makes it, in steps, taking over from the endpoints `known` by identity what has not changed.

        Another thread may do the work that it yields. Raises: ValueError, MemoryError.
        """

def at_once(steps: Generator[Callable[[], object] | None, None, T]) -> T:
    """What a generator of steps returns, all its work done here and now."""

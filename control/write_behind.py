"""What is kept of things that change often: taken at once, written soon, many in one transaction.

Ten thousand registrations in a storm are a handful of synced writes, and nobody who registers waits for a
disk. The price: what was set in the moment before control dies may be lost; with leases it comes again.
Invariant: what was set is written in the end, the newest of each name, unless control ends before the disk
recovers; nothing that was not set ever is. Neighbours: store.py (keeps items), discovery/registrations.py,
supervision.py (runs `run`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from control.store import Store, StoreUnavailableError
from router import limits


class WriteBehind:
    """Items on their way to a store."""

    def __init__(self, store: Store, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._pending: dict[tuple[str, str], bytes | None] = {}
        self._is_due = asyncio.Event()
        self._trouble = ""

    @property
    def pending_count(self) -> int:
        """Items that are not written yet."""
        return len(self._pending)

    def refuse_if_troubled(self) -> None:
        """Raises StoreUnavailableError while nothing is written: for what must not be taken on then."""
        if self._trouble:
            raise StoreUnavailableError(self._trouble)
        if len(self._pending) >= limits.STORE_PENDING_ITEMS_MAX:
            raise StoreUnavailableError(f"{len(self._pending)} changes wait to be written already")

    def set(self, kind: str, name: str, data: bytes | None) -> None:
        """Keeps `data` under that name from now on; None: nothing any more. Never refused."""
        self._pending[kind, name] = data
        self._is_due.set()

    async def run(self) -> None:
        """Writes what is set, until cancelled."""
        while True:
            await self._is_due.wait()
            try:
                await self.write()
            except StoreUnavailableError:
                await self._sleep(limits.STORE_RETRY_MS / 1000)

    async def write(self) -> None:
        """Writes all that is set by now, and what is set meanwhile.

        Raises: StoreUnavailableError; nothing is lost then.
        """
        while self._pending:
            batch = dict(itertools.islice(self._pending.items(), limits.STORE_BATCH_ITEMS_MAX))
            try:
                await self._store.keep(batch)
            except StoreUnavailableError as exc:
                self._trouble = str(exc)
                raise
            self._trouble = ""
            for key, data in batch.items():
                if key in self._pending and self._pending[key] is data:  # else it was set anew meanwhile
                    del self._pending[key]
        self._is_due.clear()

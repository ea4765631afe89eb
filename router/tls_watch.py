"""Certificate files that change are noticed, checked as a pair, and given to the workers.

A stat each second is enough and cannot break on overlay, NFS or Kubernetes' symlink swaps. Invariant: only a
pair that loads is passed on; a bad or half-written one is logged once and the old one stays in use until the
files change again. Neighbour: supervisor.py owns one and tells the workers.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Mapping

POLL_S = 1.0

Pair = tuple[str, str]  # certificate path, key path
Fingerprint = tuple[tuple[int, int, int] | None, ...]

logger = logging.getLogger("fairlead.supervisor")


def fingerprint(pair: Pair) -> Fingerprint:
    """Changes when either file is replaced or written; a missing file is None."""
    found: list[tuple[int, int, int] | None] = []
    for path in pair:
        try:
            info = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((info.st_mtime_ns, info.st_size, info.st_ino))
    return tuple(found)


def check_pair(pair: Pair) -> None:
    """Raises: OSError (ssl.SSLError among them) when the files are not a certificate and its key."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)


class TlsWatch:
    """Watches one pair per listener index and calls `on_change(listener_index, pair)` for good new ones."""

    def __init__(self, on_change: Callable[[int, Pair], None]) -> None:
        self._on_change = on_change
        self._pairs: dict[int, Pair] = {}
        self._seen: dict[int, Fingerprint] = {}

    def watch(self, pairs: Mapping[int, Pair]) -> None:
        """The listeners from now on, as their files are now."""
        self._pairs = dict(pairs)
        self._seen = {index: fingerprint(pair) for index, pair in self._pairs.items()}

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._pairs:
                await self.poll()

    async def poll(self) -> None:
        """Looks at every pair once, off the loop: the files may be on a slow mount."""
        loop = asyncio.get_running_loop()
        for index, pair in list(self._pairs.items()):
            now = await loop.run_in_executor(None, fingerprint, pair)
            if now == self._seen.get(index) or self._pairs.get(index) != pair:
                continue
            self._seen[index] = now
            try:
                await loop.run_in_executor(None, check_pair, pair)
            except OSError as exc:
                logger.error(
                    "listener %d: certificate %s with key %s is no good (%s); the old one stays in use",
                    index,
                    *pair,
                    exc.strerror or exc,
                )
                continue
            logger.info("listener %d: certificate %s has changed and is in use now", index, pair[0])
            self._on_change(index, pair)

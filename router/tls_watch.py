"""Certificate files that change are noticed, checked together, and given to the workers.

A stat each second is enough and cannot break on overlay, NFS or Kubernetes' symlink swaps. Invariant: only
files that load are passed on; bad or half-written ones are logged once and the old ones stay in use until the
files change again. Neighbour: supervisor.py owns one and tells the workers.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple

from router.schema.config import Config

POLL_S = 1.0

Fingerprint = tuple[tuple[int, int, int] | None, ...]

logger = logging.getLogger("fairlead.supervisor")


class TlsUser(NamedTuple):
    """Who uses certificate files: a listener by its index, or an endpoint by its name."""

    listener_index: int = -1
    endpoint: str = ""

    def __str__(self) -> str:
        return f"endpoint {self.endpoint}" if self.endpoint else f"listener {self.listener_index}"


class TlsFiles(NamedTuple):
    """Paths of PEM files; empty where there is none."""

    certificate: str = ""
    key: str = ""
    authorities: str = ""

    def __str__(self) -> str:
        named = {"certificate": self.certificate, "key": self.key, "CA file": self.authorities}
        return " with ".join(f"{what} {path}" for what, path in named.items() if path)


def tls_files(config: Config) -> dict[TlsUser, TlsFiles]:
    """The certificate files that `config` names, by who uses them."""
    listeners = {
        TlsUser(listener_index=index): TlsFiles(listener.tls.cert, listener.tls.key)
        for index, listener in enumerate(config.listeners)
        if listener.tls is not None
    }
    endpoints = {
        TlsUser(endpoint=endpoint.name): TlsFiles(
            endpoint.tls.cert_file or "", endpoint.tls.key_file or "", endpoint.tls.ca_file or ""
        )
        for pool in config.pools
        for endpoint in pool.endpoints
        if endpoint.url.startswith("https:")
    }
    return listeners | {user: files for user, files in endpoints.items() if any(files)}


def fingerprint(files: TlsFiles) -> Fingerprint:
    """Changes when a file is replaced or written; a missing file is None."""
    found: list[tuple[int, int, int] | None] = []
    for path in filter(None, files):
        try:
            info = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((info.st_mtime_ns, info.st_size, info.st_ino))
    return tuple(found)


def check_files(files: TlsFiles) -> None:
    """Raises: OSError (ssl.SSLError among them) when a certificate, its key or authorities do not load."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files.certificate:
        context.load_cert_chain(files.certificate, files.key or None)
    if files.authorities:
        context.load_verify_locations(files.authorities)


class TlsWatch:
    """Watches the files of each user and calls `on_change(user, files)` for good new ones."""

    def __init__(self, on_change: Callable[[TlsUser, TlsFiles], None]) -> None:
        self._on_change = on_change
        self._files: dict[TlsUser, TlsFiles] = {}
        self._seen: dict[TlsUser, Fingerprint] = {}

    def new_among(self, files: Mapping[TlsUser, TlsFiles]) -> dict[TlsUser, Fingerprint]:
        """The users that are not watched or had other files, with what those are like now."""
        return {user: fingerprint(named) for user, named in files.items() if self._files.get(user) != named}

    def watch(self, files: Mapping[TlsUser, TlsFiles], new: Mapping[TlsUser, Fingerprint]) -> None:
        """The users from now on: those `new_among` them as they were before somebody loaded them."""
        self._files = dict(files)
        self._seen = {user: new[user] if user in new else self._seen[user] for user in self._files}

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._files:
                await self.poll()

    async def poll(self) -> None:
        """Looks at all files once, off the loop: they may be on a slow mount."""
        loop = asyncio.get_running_loop()
        for user, files in list(self._files.items()):
            now = await loop.run_in_executor(None, fingerprint, files)
            if now == self._seen.get(user) or self._files.get(user) != files:
                continue
            self._seen[user] = now
            try:
                await loop.run_in_executor(None, check_files, files)
            except OSError as exc:
                reason = exc.strerror or exc
                logger.error("%s: %s is no good (%s); the old one stays in use", user, files, reason)
                continue
            logger.info("%s: %s has changed and is in use now", user, files)
            self._on_change(user, files)

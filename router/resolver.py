"""Endpoint host names → addresses, looked up off the request path and repeated; the last good answer is kept.

The native core never resolves: it connects to what `set_addresses` last said. Invariant: an endpoint that has
resolved once keeps addresses however long DNS is away. Neighbours: worker.py owns one; the system resolver
decides what is cached.
"""

import asyncio
import functools
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable

from router import limits
from router.schema.address import parse_endpoint_url

LOOKUPS_AT_ONCE_MAX = 4  # libuv has four threads for them; more would only queue behind those
LOOKUP_TIMEOUT_S = 10.0  # resolv.conf's default is 5 s a server, two tries

Address = tuple[str, int]
SetAddresses = Callable[[str, list[Address]], None]

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=limits.ENDPOINTS_MAX)
def is_literal(host: str) -> bool:
    """Whether `host` is an IP address and needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Resolver:
    """Keeps the addresses of a set of endpoint URLs fresh; those that name an address have no place in it."""

    def __init__(self, set_addresses: SetAddresses, refresh_s: float = limits.DNS_REFRESH_MS / 1000) -> None:
        self._set_addresses = set_addresses
        self._refresh_s = refresh_s
        self._urls: list[str] = []  # watched: refreshed
        self._wanted: set[str] = set()  # these and those being prepared: told to the core
        self._known: dict[str, list[Address]] = {}
        self._failing: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def prepare(self, urls: Iterable[str], timeout_s: float) -> None:
        """Looks up names not known yet and tells what it finds; after `timeout_s` it goes on by itself."""
        new = [url for url in dict.fromkeys(urls) if url not in self._known]
        self._wanted.update(new)
        if new:
            await asyncio.wait([asyncio.ensure_future(self._look_up_all(new))], timeout=timeout_s)

    def watch(self, urls: Iterable[str]) -> None:
        """The endpoints from now on, which have been prepared or are of the start."""
        self._urls = list(dict.fromkeys(urls))
        self._wanted = set(self._urls)
        self._known = {url: self._known[url] for url in self._urls if url in self._known}
        self._failing &= self._wanted

    async def refresh(self) -> None:
        """Looks every name up once."""
        await self._look_up_all(self._urls)

    def start(self) -> None:
        """Repeats `refresh` until `close`."""
        self._task = asyncio.create_task(self._repeat(), name="resolver")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self.refresh()

    async def _look_up_all(self, urls: Iterable[str]) -> None:
        waiting = iter(urls)  # shared: each takes the next one when it has done one

        async def look_up_some() -> None:
            for url in waiting:
                await self._look_up(url)

        await asyncio.gather(*(look_up_some() for _ in range(LOOKUPS_AT_ONCE_MAX)))

    async def _look_up(self, url: str) -> None:
        endpoint = parse_endpoint_url(url)
        host, port = endpoint.host, endpoint.port
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as exc:
            self._report_failure(url, host, exc)
            return
        # The order is the system's (RFC 6724): the core tries them in turn.
        addresses = list(dict.fromkeys((str(info[4][0]), port) for info in found))[: limits.DNS_ADDRESSES_MAX]
        if not addresses:
            self._report_failure(url, host, OSError("no address"))
            return
        if url in self._failing:
            self._failing.discard(url)
            logger.info("endpoint %s: %s resolves again", url, host)
        # Round-robin DNS turns the order at every look-up: that is no change.
        if url in self._wanted and set(self._known.get(url, ())) != set(addresses):
            self._known[url] = addresses
            self._set_addresses(url, addresses)

    def _report_failure(self, url: str, host: str, exc: Exception) -> None:
        if url in self._failing:
            return
        self._failing.add(url)
        kept = (
            "its last addresses stay in use" if url in self._known else "it gets no traffic until it resolves"
        )
        logger.warning("endpoint %s: cannot resolve %s (%s); %s", url, host, str(exc) or "timed out", kept)

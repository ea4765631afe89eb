"""The model names clients may ask for right now: what GET /v1/models lists.

Configured names count for a pool as long as one of its endpoints is not ejected. Endpoints configured without
names serve any model; what they have is asked of them, briefly, and the last good answer is kept. Invariant:
an endpoint that is down makes the list shorter at worst, never an error. Neighbour: slowpath.py answers with
it.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable

import aiohttp
import msgspec

from router import limits
from router.native.loadtable import LoadTable
from router.snapshot import EndpointTables, Tables

ASK_TIMEOUT_S = 2.0  # engines answer this from memory
ASK_BYTES_MAX = 1 << 20  # a list of 4,096 models is 500 KiB
ASKED_AT_ONCE_MAX = 32  # endpoints without names; a list needs no more of them
KEPT_S = 30.0  # names change when an engine restarts

logger = logging.getLogger(__name__)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


_decoder = msgspec.json.Decoder(_Models)


class ModelList:
    """The list of one worker; `tables()` is what it serves now."""

    def __init__(
        self,
        tables: Callable[[], Tables],
        load: LoadTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._load = load
        self._clock = clock
        self._asked: dict[str, tuple[float, list[str]]] = {}  # endpoint name → when, names
        self._session: aiohttp.ClientSession | None = None

    async def names(self) -> list[str]:
        """Sorted, each once; aliases of which a model is there among them."""
        tables = self._tables()
        now_us = int(self._clock() * 1e6)
        found: set[str] = set()
        nameless: list[EndpointTables] = []
        for pool in tables.pools:
            members = [tables.endpoints[index] for index in pool.endpoints]
            alive = [endpoint for endpoint in members if not self._load.is_ejected(endpoint.slot, now_us)]
            if alive:
                found.update(name for endpoint in members for name in endpoint.models)
                nameless += [endpoint for endpoint in alive if not endpoint.models]
        names = {endpoint.name for endpoint in tables.endpoints}
        self._asked = {name: entry for name, entry in self._asked.items() if name in names}
        answers = await asyncio.gather(*(self._ask(endpoint) for endpoint in nameless[:ASKED_AT_ONCE_MAX]))
        for answer in answers:
            found.update(answer)
        found.update(
            alias.name for alias in tables.aliases if any(model.name in found for model in alias.models)
        )
        return sorted(found)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, endpoint: EndpointTables) -> list[str]:
        asked_at, names = self._asked.get(endpoint.name, (float("-inf"), []))
        now = self._clock()
        if names and now - asked_at < KEPT_S:
            return names
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S))
        headers = {"Host": endpoint.authority}
        if endpoint.key_line:
            field, _, value = endpoint.key_line.strip().partition(": ")
            headers[field] = value
        url = endpoint.url.rstrip("/") + "/v1/models"
        try:
            context = await asyncio.to_thread(_tls_context, endpoint)
            name = endpoint.tls.server_name if endpoint.tls is not None else None
            async with self._session.get(url, headers=headers, ssl=context, server_hostname=name) as response:
                body = bytearray()
                async for data in response.content.iter_any():
                    body += data
                    if len(body) > ASK_BYTES_MAX:
                        raise aiohttp.ClientPayloadError("the list is too long")
            if response.status == 200:
                names = [model.id for model in _decoder.decode(body).data][: limits.MODELS_MAX]
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as exc:
            logger.debug("endpoint %s: no model list (%s)", endpoint.name, exc)
        self._asked[endpoint.name] = (now, names)
        return names


def _tls_context(endpoint: EndpointTables) -> ssl.SSLContext | bool:
    """How the endpoint is spoken to, as the core does. Raises: OSError for files that do not load."""
    tls = endpoint.tls
    if tls is None:
        return False
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    return context

"""One page over HTTP: its bytes go to a reader as they come, within bounds, or there is a reason why not.

Nothing is asked for compressed, since inflating costs more than it saves on one's own network; a server that
compresses all the same is read, to the same bounds. Redirects are not followed: a key would follow them.
Invariant: at most one piece of an answer is in memory here, whatever its length is said to be. Neighbour:
scrape.py (asks).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import NamedTuple

import aiohttp
from yarl import URL

from router import limits

Clock = Callable[[], float]
Feed = Callable[[bytes], None]

NOT_SERVED = frozenset({404, 405, 410, 501})
"""What a server says that has no such page, or was not told to serve it (llama.cpp: 501)."""

_ASKED_PLAIN = "identity"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class PageError(Exception):
    """Why a page tells nothing; the text is for people."""


class NotServedError(PageError):
    """The server is there and has no such page."""


class Question(NamedTuple):
    """What is needed to ask for a page."""

    url: URL
    headers: Mapping[str, str]
    context: SSLContext | None
    server_name: str | None


class JsonBody:
    """Collects a page that is read whole."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        """Raises: PageError past the bound."""
        self.data += data
        if len(self.data) > limits.SCRAPE_JSON_BYTES_MAX:
            raise PageError(f"longer than {limits.SCRAPE_JSON_BYTES_MAX} bytes")


async def get_page(
    session: aiohttp.ClientSession,
    question: Question,
    feed: Feed,
    *,
    within: aiohttp.ClientTimeout,
    clock: Clock,
) -> float:
    """When what it says was true: midway between the question and the beginning of the answer.

    Raises: PageError, what `feed` raises, aiohttp.ClientError, OSError (TimeoutError among them).
    """
    asked_s = clock()
    async with session.get(
        question.url,
        headers=question.headers,
        ssl=question.context or True,
        server_hostname=question.server_name,
        allow_redirects=False,
        auto_decompress=False,
        timeout=within,
    ) as response:
        told_s = (asked_s + clock()) / 2
        if response.status != 200:
            kind = NotServedError if response.status in NOT_SERVED else PageError
            raise kind(f"HTTP {response.status}")
        encoding = response.headers.get("Content-Encoding", _ASKED_PLAIN).lower()
        if encoding != _ASKED_PLAIN:
            feed = _inflated(encoding, feed)
        async for data in response.content.iter_any():
            feed(data)
    return told_s


def _inflated(encoding: str, feed: Feed) -> Feed:
    """Passes on what the compressed bytes hold, piece by piece, so that `feed` can stop a bomb."""
    if encoding not in _WINDOW_BITS:
        raise PageError(f"compressed with {encoding[:20]}")
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])

    def feed_compressed(data: bytes) -> None:
        while data:
            try:
                piece = inflater.decompress(data, limits.SCRAPE_INFLATED_BYTES_MAX)
            except zlib.error as exc:
                raise PageError(f"not what {encoding} makes") from exc
            data = inflater.unconsumed_tail
            if piece:
                feed(piece)

    return feed_compressed

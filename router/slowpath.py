"""aiohttp on the traffic port, for requests the native core does not answer itself: GET /v1/models and its
kin.

The core hands over the connection with the bytes it has read; this wraps the descriptor in an asyncio
transport, replays the bytes, answers one request and closes. Invariant: an answer here needs no endpoint to
be up, and is never a 500 because one is down. Neighbours: worker.py adopts what `Hooks.hand_over` brings and
imports this module when the first such connection comes.
"""

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from aiohttp import web

from router.errors import OUTCOMES, Cause, error_body, error_headers

CONNECTIONS_MAX: Final = 256  # one small answer each; more at once is a flood, and is closed
CONNECTION_S_MAX: Final = 30.0  # one request, one answer of a few KiB
MODELS_PATHS: Final = frozenset({"/v1/models", "/models"})

ServedModels = Callable[[], Awaitable[Iterable[str]]]


class SlowPath:
    """Serves adopted connections, each for one request."""

    def __init__(self, served_models: ServedModels) -> None:
        self._served_models = served_models
        self._server = web.Server(self._answer, access_log=None, keepalive_timeout=0)
        self._open: set[asyncio.BaseTransport] = set()

    @property
    def open_count(self) -> int:
        """Connections adopted and not closed yet."""
        self._open = {transport for transport in self._open if not transport.is_closing()}
        return len(self._open)

    async def adopt(self, sock: socket.socket, received: bytes) -> None:
        """Owns `sock` from here on; `received` was read from it and begins with a request's head."""
        if self.open_count >= CONNECTIONS_MAX:
            sock.close()
            return
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: _ReplayFirst(self._server(), received), sock
            )
        except OSError:
            sock.close()  # The client has gone between the core's read and now.
            return
        self._open.add(transport)
        loop.call_later(CONNECTION_S_MAX, transport.abort)

    async def close(self) -> None:
        """Cuts what is still open."""
        await self._server.shutdown(timeout=0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = request.headers.get("x-request-id", "") or uuid.uuid4().hex
        response = await self._respond(request)
        response.headers["x-request-id"] = request_id
        response.force_close()
        return response

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        path = request.path.rstrip("/")
        if request.method not in ("GET", "HEAD"):
            return _error(Cause.METHOD_NOT_ALLOWED, f"{request.method} {request.path}")
        if path in MODELS_PATHS:
            models = sorted(set(await self._served_models()))
            return _json({"object": "list", "data": [_model(name) for name in models]})
        for prefix in MODELS_PATHS:
            if path.startswith(f"{prefix}/"):
                wanted = path.removeprefix(f"{prefix}/")
                models = sorted(set(await self._served_models()))
                if wanted in models:
                    return _json(_model(wanted))
                return _error(
                    Cause.MODEL_NOT_FOUND,
                    f"model {wanted!r}; known: {', '.join(map(repr, models)) or 'none'}",
                )
        return _error(Cause.NO_ROUTE, f"{request.method} {request.path}")


class _ReplayFirst(asyncio.Protocol):
    """Gives the transport to `handler` and, before the loop can read more, the bytes read so far."""

    def __init__(self, handler: asyncio.Protocol, received: bytes) -> None:
        self._handler = handler
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_protocol(self._handler)
        self._handler.connection_made(transport)
        if self._received:
            self._handler.data_received(self._received)


def _model(name: str) -> dict[str, object]:
    # `created` is required by the SDKs' types; an engine's own date is not known here.
    return {"id": name, "object": "model", "created": 0, "owned_by": "fairlead"}


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def _error(cause: Cause, detail: str) -> web.Response:
    return web.Response(
        status=OUTCOMES[cause].status,
        body=error_body(cause, detail),
        content_type="application/json",
        headers=dict(error_headers(cause)),
    )

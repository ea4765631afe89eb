"""Serves a table of operations over aiohttp: who asks, what they ask, and how it is answered.

Each request goes the same way: who is it (a token; on the Unix socket the file's permissions have said so)
→ may they → is what they sent what the operation takes → the handler → JSON, with an ETag where there is
one. Every answer that is no success has one shape (openapi.ErrorAnswer).

Invariant: a body is bounded before it is read, and no secret is in an answer. Neighbours: operation.py,
tokens.py, openapi.py; app.py starts it.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from control.api.openapi import ErrorAnswer, ErrorBody, openapi
from control.api.operation import Answer, ApiError, Call, Operation
from control.tokens import Actor, Guard, Role
from control.unix_listener import unix_listener
from router import limits
from router.build_info import package_version
from router.schema.address import UnixAddress, parse_address

LOCAL = Actor("local", Role.ADMIN)  # whoever may open the Unix socket may also read the store

logger = logging.getLogger("fairlead.control")

Stream = Callable[[web.Request, Actor], Awaitable[web.StreamResponse]]


class ApiServer:
    """The API on a Unix socket, and on TCP for those who have tokens."""

    def __init__(
        self,
        operations: Sequence[Operation],
        guard: Guard,
        *,
        streams: dict[str, Stream] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`streams` are pages that do not end, by path; each needs a viewer."""
        self._operations = tuple(operations)
        self._guard = guard
        self._clock = clock
        self._document = msgspec.json.encode(openapi(self._operations, version=package_version()))
        self._runners: list[web.AppRunner] = []
        self._streams = streams or {}
        self.addresses: list[str] = []

    async def listen(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        """Answers on `unix:/path` without tokens, or on `host:port` with them. Raises: OSError."""
        place = parse_address(address)
        is_local = isinstance(place, UnixAddress)
        runner = web.AppRunner(self._app(is_local=is_local), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        if isinstance(place, UnixAddress):
            await web.SockSite(runner, unix_listener(place.path)).start()
            self.addresses.append(address)
        else:
            site = web.TCPSite(runner, place.host, place.port, ssl_context=tls)
            await site.start()
            port = runner.addresses[0][1]
            self.addresses.append(f"{place.host}:{port}")

    async def close(self) -> None:
        """Answers nobody any more."""
        for runner in self._runners:
            await runner.cleanup()

    def _app(self, *, is_local: bool) -> web.Application:
        app = web.Application(
            client_max_size=limits.CONFIG_BYTES_MAX, middlewares=[_errors_as_json, self._named(is_local)]
        )
        for operation in self._operations:
            app.router.add_route(operation.method, operation.path, self._handler(operation))
        app.router.add_get("/openapi.json", self._openapi)
        for path, stream in self._streams.items():
            app.router.add_get(path, _streamed(stream))
        return app

    def _named(self, is_local: bool) -> Any:
        @web.middleware
        async def name(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            request["actor"] = LOCAL if is_local else self._actor(request)
            return await handler(request)

        return name

    def _actor(self, request: web.Request) -> Actor:
        address = request.remote or ""
        now_s = self._clock()
        wait_s = self._guard.wait_s(address, now_s)
        if wait_s > 0:
            raise ApiError(
                429,
                "locked_out",
                "too many wrong tokens from this address; wait and show the right one",
                retry_after_s=int(wait_s) + 1,
            )
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(401, "no_token", "show a token: Authorization: Bearer flt_...")
        actor = self._guard.actor(token.strip(), address, now_s)
        if actor is None:
            logger.warning("a wrong token from %s", address)
            raise ApiError(401, "wrong_token", "nobody has this token; `fairlead token` makes one")
        return actor

    def _handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            actor: Actor = request["actor"]
            if not actor.role.may(operation.role):
                raise ApiError(
                    403,
                    "role",
                    f"{operation.name} needs the role {operation.role}; {actor.name} is {actor.role}",
                )
            answered = await operation.handler(
                Call(
                    actor=actor,
                    path=dict(request.match_info),
                    query=_decode_query(operation, request),
                    body=await _decode_body(operation, request),
                    if_match=request.headers.get("If-Match", "").strip().strip('"'),
                )
            )
            answer = (
                answered if isinstance(answered, Answer) else Answer(body=answered, status=operation.status)
            )
            return _respond(request, answer)

        return handle

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")


def _streamed(stream: Stream) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await stream(request, request["actor"])

    return handle


def _respond(request: web.Request, answer: Answer) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if answer.etag:
        headers["ETag"] = f'"{answer.etag}"'
        if request.method == "GET" and answer.etag in re.findall(
            r'"([^"]*)"', request.headers.get("If-None-Match", "")
        ):
            return web.Response(status=304, headers=headers)
    if answer.status == 204:
        return web.Response(status=204, headers=headers)
    return web.Response(
        body=msgspec.json.encode(answer.body),
        status=answer.status,
        content_type="application/json",
        headers=headers,
    )


def _decode_query(operation: Operation, request: web.Request) -> Any:
    twice = [name for name in request.query if len(request.query.getall(name)) > 1]
    if twice:
        raise ApiError(400, "query", f"{twice[0]} is given twice")
    try:
        return msgspec.convert(dict(request.query), operation.query, strict=False)
    except msgspec.ValidationError as exc:
        raise ApiError(400, "query", f"the query cannot be read: {exc}") from exc


async def _decode_body(operation: Operation, request: web.Request) -> Any:
    if operation.body is None:
        return None
    data = await request.read()
    try:
        return msgspec.json.decode(data, type=operation.body)
    except msgspec.DecodeError as exc:
        raise ApiError(400, "body", f"the body cannot be read: {exc}") from exc


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    headers = {}
    try:
        return await handler(request)
    except ApiError as exc:
        error = exc
        if exc.retry_after_s is not None:
            headers["Retry-After"] = str(exc.retry_after_s)
        if exc.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        error = ApiError(exc.status, exc.reason.lower().replace(" ", "_"), f"{request.path}: {exc.reason}")
        headers = {name: exc.headers[name] for name in ("Allow",) if name in exc.headers}
    body = ErrorAnswer(error=ErrorBody(code=error.code, message=str(error), detail=error.detail))
    return web.Response(
        body=msgspec.json.encode(body), status=error.status, content_type="application/json", headers=headers
    )

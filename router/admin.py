"""The admin port: probes, metrics, debug pages and reload, served by the supervisor so that busy workers
cannot starve it.

Loopback by default; with a token configured every page but the probes asks for it. Invariant: nothing here
waits for a worker longer than its query bound, and a scrape costs the same however many ask at once. Errors
have OpenAI's shape like all others. Neighbours: supervisor.py is the `Status`, metrics.py renders, app.py
starts it.
"""

from __future__ import annotations

import hmac
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from router import limits
from router.schema.secret import Secret

METRICS_KEPT_S = 0.25  # scrapes within it share one rendering; Prometheus asks every 15 s
BODY_BYTES_MAX = 4096  # POST /reload has none
EXPLAIN_LISTED_DEFAULT = 20  # a screen or two of JSON
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

logger = logging.getLogger("fairlead.supervisor")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ReloadResult(Protocol):
    """How a reload went; `version` is the one in force."""

    @property
    def ok(self) -> bool: ...
    @property
    def message(self) -> str: ...
    @property
    def version(self) -> int: ...


class Status(Protocol):
    """What the admin port shows."""

    def readiness(self, require_backend: bool) -> list[str]: ...
    def render_metrics(self) -> bytes: ...
    def describe_endpoints(self) -> list[dict[str, Any]]: ...
    async def describe_pools(self) -> list[dict[str, Any]]: ...
    def describe_workers(self) -> list[dict[str, Any]]: ...
    def describe_config(self) -> dict[str, Any]: ...
    def describe_control(self) -> dict[str, Any]: ...
    def explain(self, request_id: str) -> list[dict[str, Any]]: ...
    def explain_latest(self, count: int) -> list[dict[str, Any]]: ...
    def admin_token(self) -> Secret | None: ...
    async def reload(self) -> ReloadResult: ...


class AdminServer:
    """Serves the admin port on sockets the supervisor has opened."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._runner: web.AppRunner | None = None
        self._connection_count = 0
        self._metrics = b""
        self._metrics_at = float("-inf")

    async def start(self, sockets: list[socket.socket]) -> None:
        """Answers from now on; the sockets are duplicated, the caller keeps its own for a successor."""
        application = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        application.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._serve_metrics),
                web.get("/debug/endpoints", self._debug(self._status.describe_endpoints)),
                web.get("/debug/workers", self._debug(self._status.describe_workers)),
                web.get("/debug/config", self._debug(self._status.describe_config)),
                web.get("/debug/control", self._debug(self._status.describe_control)),
                web.get("/debug/pools", self._debug_pools),
                web.get("/debug/explain", self._explain_latest),
                web.get("/debug/explain/{request_id:.+}", self._explain),
                web.post("/reload", self._reload),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=30, shutdown_timeout=1)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock.dup(), backlog=limits.ADMIN_CONNECTIONS_MAX).start()

    async def close(self) -> None:
        """Stops listening and ends open connections; harmless when repeated."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._connection_count >= limits.ADMIN_CONNECTIONS_MAX:
            return _error(503, "admin_busy", "Too many admin requests at once; try again.")
        self._connection_count += 1
        try:
            refusal = self._refuse(request)
            return refusal if refusal is not None else await handler(request)
        except web.HTTPMethodNotAllowed as exc:
            allowed = ", ".join(sorted(exc.allowed_methods))
            response = _error(405, "method_not_allowed", f"{request.method} is not allowed here.")
            response.headers["Allow"] = allowed
            return response
        except web.HTTPNotFound:
            return _error(404, "not_found", f"There is no admin page {request.path}.")
        except web.HTTPException as exc:
            return _error(exc.status, "bad_request", exc.reason)
        except Exception:
            logger.exception("admin page %s failed", request.path)
            return _error(500, "internal_error", "This page failed; the router's log has the details.")
        finally:
            self._connection_count -= 1

    def _refuse(self, request: web.Request) -> web.Response | None:
        if request.path in ("/livez", "/readyz"):
            return None  # Kubelets and balancers carry no token.
        if request.method == "POST" and "Origin" in request.headers:
            # A browser page on this host could otherwise reload a router that has no token.
            return _error(403, "forbidden", "Browsers may not change the router.")
        token = self._status.admin_token()
        if token is None:
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        expected = token.reveal().encode()
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "replace"), expected
        ):
            return None
        response = _error(
            401, "unauthorized", "This page needs `Authorization: Bearer` with the admin token."
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _livez(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        wanted = request.query.get("require_backend", "").lower() in ("1", "true", "yes")
        reasons = self._status.readiness(wanted)
        if reasons:
            return _json({"status": "not ready", "reasons": reasons}, 503)
        return _json({"status": "ready", "reasons": []})

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        now = request.loop.time()
        if now - self._metrics_at >= METRICS_KEPT_S:
            self._metrics, self._metrics_at = self._status.render_metrics(), now
        return web.Response(body=self._metrics, headers={"Content-Type": METRICS_TYPE})

    def _debug(self, describe: Callable[[], object]) -> Handler:
        async def answer(_request: web.Request) -> web.Response:
            return _json(describe())

        return answer

    async def _debug_pools(self, _request: web.Request) -> web.Response:
        return _json(await self._status.describe_pools())

    async def _explain(self, request: web.Request) -> web.Response:
        request_id = request.match_info["request_id"]
        decisions = self._status.explain(request_id)
        if not decisions:
            return _error(
                404,
                "decision_not_found",
                f"No decision is recorded for request {request_id}. Requests with the header "
                "`x-fairlead-explain: 1` are recorded, and a share of the others (`explain.sample_ratio`); "
                f"each worker keeps its last {limits.EXPLAIN_RECORDS_MAX}.",
            )
        return _json({"request_id": request_id, "decisions": decisions})

    async def _explain_latest(self, request: web.Request) -> web.Response:
        wanted = request.query.get("limit", str(EXPLAIN_LISTED_DEFAULT))
        if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= limits.EXPLAIN_LISTED_MAX:
            return _error(400, "bad_request", f"`limit` is a number from 1 to {limits.EXPLAIN_LISTED_MAX}.")
        return _json({"decisions": self._status.explain_latest(int(wanted))})

    async def _reload(self, _request: web.Request) -> web.Response:
        result = await self._status.reload()
        if not result.ok:
            return _error(409, "reload_refused", result.message)
        return _json({"status": "reloaded", "version": result.version})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def _error(status: int, code: str, message: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "service_unavailable"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return _json(body, status)

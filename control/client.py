"""Commands' way to control's API: over its Unix socket, or over TCP with a token.

Invariant: what goes wrong is one ControlClientError that says what to do; the caller prints it. Neighbours:
cli.py (the commands), api/ (the other end).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from router.schema.address import UnixAddress, parse_address

TIMEOUT_S = 60.0  # activation waits for routers; anything longer hangs


class ControlClientError(Exception):
    """There was no success; `status` is 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0, code: str = "", detail: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.detail = detail


class ControlClient:
    """One control's API."""

    def __init__(self, address: str, *, token: str = "", ca_file: str | None = None) -> None:
        """`address` is `unix:/path`, `host:port` or `https://host:port`. Raises: ValueError."""
        self._token = token
        self._ca_file = ca_file
        self._address = address
        self._unix = ""
        if address.startswith(("http://", "https://")):
            self._base = address.rstrip("/")
        else:
            place = parse_address(address)
            if isinstance(place, UnixAddress):
                self._unix, self._base = place.path, "http://control"
            else:
                self._base = f"http://{place}"

    def call(self, method: str, path: str, *, body: Any = None, query: dict[str, str] | None = None) -> Any:
        """The answer's JSON. Raises: ControlClientError."""
        return asyncio.run(self.ask(method, path, body=body, query=query))

    async def ask(
        self, method: str, path: str, *, body: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        """As `call`, on a running loop."""
        try:
            async with (
                self._session() as session,
                session.request(
                    method,
                    self._base + path,
                    params=query,
                    data=None if body is None else msgspec.json.encode(body),
                    headers={"Content-Type": "application/json"},
                ) as response,
            ):
                data = await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            raise ControlClientError(
                f"no control answers at {self._address}: {exc}; is `fairlead control` running?"
            ) from exc
        except TimeoutError as exc:
            raise ControlClientError(
                f"control at {self._address} did not answer within {TIMEOUT_S:g} s"
            ) from exc
        return _result(response.status, data)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector: aiohttp.BaseConnector
        if self._unix:
            connector = aiohttp.UnixConnector(self._unix)
        elif self._base.startswith("https:"):
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self._ca_file))
        else:
            connector = aiohttp.TCPConnector()
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
            yield session


def _result(status: int, data: bytes) -> Any:
    try:
        decoded = msgspec.json.decode(data) if data else None
    except msgspec.DecodeError as exc:
        raise ControlClientError(f"status {status}, and no JSON: is that control?", status=status) from exc
    if status < 400:
        return decoded
    error = decoded.get("error", {}) if isinstance(decoded, dict) else {}
    raise ControlClientError(
        error.get("message") or f"status {status}",
        status=status,
        code=error.get("code", ""),
        detail=error.get("detail"),
    )

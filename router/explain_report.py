"""`fairlead explain`: asks a running router why a request went where it went, and prints a table.

Neighbours: cli.py calls it, admin.py answers, explain_view.py says what is in the answer.
"""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.schema.address import TcpAddress, UnixAddress, parse_address

TIMEOUT_S = 5.0  # the supervisor answers in milliseconds; past this something is wrong with it
ANSWER_BYTES_MAX = 16 << 20  # a thousand decisions are 2 MiB
NO_ENDPOINT_ANSWERS = "is a router running there? --admin says where its admin address is"

_HEADINGS = ("", "endpoint", "score", "in flight", "queued", "cached")


class ExplainError(Exception):
    """There is nothing to show; the message says why and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch_decisions(admin: str, request_id: str, token: str | None = None) -> list[dict[str, Any]]:
    """The decisions for a request, newest first. `admin` is an address, or its http URL.

    Raises: ExplainError.
    """
    path = "/debug/explain/" + urllib.parse.quote(request_id, safe="")
    status, answer = _get(admin, path, token)
    if status == 200 and isinstance(answer, dict) and isinstance(answer.get("decisions"), list):
        return list(answer["decisions"])
    message = f"it answered {status}"
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        message = str(answer["error"].get("message", message))
    if status == 401:
        message += " Give it with --admin-token, or name the configuration with --config."
    raise ExplainError(message if status in (401, 404) else f"the router at {admin}: {message}")


def _get(admin: str, path: str, token: str | None) -> tuple[int, Any]:
    text = admin.removeprefix("http://").rstrip("/") if not admin.startswith("unix:") else admin
    try:
        address = parse_address(text)
    except ValueError as exc:
        raise ExplainError(f"--admin {admin}: {exc}") from exc
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = _connection(address)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        data = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise ExplainError(f"no answer from {admin} ({reason}); {NO_ENDPOINT_ANSWERS}") from exc
    finally:
        connection.close()
    try:
        return response.status, json.loads(data)
    except ValueError as exc:
        raise ExplainError(f"{admin} is not a router's admin port: its answer is not JSON") from exc


def _connection(address: TcpAddress | UnixAddress) -> http.client.HTTPConnection:
    if isinstance(address, UnixAddress):
        return _UnixConnection(address.path, TIMEOUT_S)
    return http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)


def report(decisions: Iterable[Mapping[str, Any]]) -> str:
    """The decisions as text: for each its circumstances, its candidates, and the terms of their scores."""
    return "\n\n".join(_decision(decision) for decision in decisions)


def _decision(decision: Mapping[str, Any]) -> str:
    winner, runners_up = decision["winner"], decision["runners_up"]
    shown = [winner, *runners_up]
    version = f" in version {decision['version']}" if "version" in decision else ""
    lines = [
        f"request {decision['request_id']}, attempt {decision['attempt']}, {decision['time']}",
        f"route {decision['route']}{version}, policy {decision['policy']}: "
        f"{winner['endpoint']}, {decision['reason']}",
        f"{decision['eligible']} of {decision['candidates']} endpoints eligible; "
        f"{decision['prompt_tokens']} prompt tokens, {decision['output_tokens']} expected back; "
        f"{_session(decision)}",
        "",
    ]
    rows = [_HEADINGS]
    for place, candidate in enumerate(shown):
        rows.append(
            (
                "picked" if place == 0 else str(place + 1),
                _place(candidate),
                _score(candidate["score"], in_seconds=candidate["terms"] is not None),
                str(candidate["in_flight"]),
                _seconds(candidate["queued_s"]),
                str(candidate["hit_tokens"]),
            )
        )
    lines += _table(rows, left=2)
    if winner["terms"] is not None:
        lines += ["", *_table(_term_rows(shown), left=1)]
    return "\n".join(lines)


def _session(decision: Mapping[str, Any]) -> str:
    told = decision["session"]
    if not told:
        return "with a session" if decision["has_session"] else "no session"
    if told == "new":
        return "a new session"
    stayed = "session stayed" if told == "stayed" else f"session moved ({told})"
    return f"{stayed}, {decision['session_tokens']} prompt tokens before"


def _place(candidate: Mapping[str, Any]) -> str:
    return " ".join(str(candidate[key]) for key in ("endpoint", "model") if candidate.get(key))


def _term_rows(shown: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows = [("term", *(_place(candidate) for candidate in shown))]
    for name in shown[0]["terms"]:
        rows.append((name, *(_seconds(candidate["terms"][name]) for candidate in shown)))
    return [*rows, ("sum", *(_seconds(candidate["sum"]) for candidate in shown))]


def _score(value: float | None, *, in_seconds: bool) -> str:
    if value is None:
        return "-"
    return _seconds(value) if in_seconds else f"{value:g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value * 1000:.1f} ms" if abs(value) < 1 else f"{value:.2f} s"


def _table(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns as wide as they need; the first `left` to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

"""THE table: why an attempt or an exchange ended, and everything that follows from it.

`Cause` is the number that native code carries; `OUTCOMES` says for each one whose fault it was, whether
another endpoint may be asked, whether the endpoint's error rate rises, and what the client is told. Every
error the router makes has OpenAI's body shape, so that the SDKs raise the right exception class; an error
an endpoint made passes unchanged and is not made here.

Invariant: every `Cause` has exactly one row, and the values equal router/native/causes.pxd
(tests/unit/test_errors.py).
Neighbours: the native exchange reports causes, router/retry.py and router/dispatch.py ask the table,
metrics and access log use the cause's name as a closed set of label values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import msgspec

from router import limits

NOBODY = "-"  # label of a request that matched no route, or for which no endpoint was picked
UNKNOWN = "unknown"  # of an index that nobody told us the name of


class Cause(IntEnum):
    """Why it ended. Lower-cased names are label values of metrics and the `cause` of the access log."""

    NONE = 0
    CLIENT_CLOSED = 1
    BAD_REQUEST = 2
    HEAD_TIMEOUT = 3
    BODY_TIMEOUT = 4
    HEAD_TOO_LARGE = 5
    TARGET_TOO_LONG = 6
    BODY_TOO_LARGE = 7
    UNSUPPORTED_VERSION = 8
    BAD_EXPECT = 9
    METHOD_NOT_ALLOWED = 10
    BAD_BODY = 11
    CLIENT_STALLED = 12
    TLS_HANDSHAKE = 13
    MODEL_NOT_FOUND = 20
    NO_ROUTE = 21
    REQUIREMENT_UNMET = 22
    REQUIREMENT_UNKNOWN = 23
    NO_ENDPOINT = 30
    ENDPOINTS_FULL = 31
    BUFFERS_FULL = 32
    DRAINING = 33
    INTERNAL = 34
    DNS_FAILED = 40
    CONNECT_FAILED = 41
    CONNECT_TIMEOUT = 42
    TLS_FAILED = 43
    TLS_TIMEOUT = 44
    RESET_BEFORE_HEAD = 45
    UPSTREAM_MALFORMED = 46
    FIRST_BYTE_TIMEOUT = 47
    IDLE_TIMEOUT = 48
    TOTAL_TIMEOUT = 49
    TRUNCATED = 50
    UPSTREAM_4XX = 51
    UPSTREAM_5XX = 52
    WRITE_TIMEOUT = 53


class Side(StrEnum):
    """Who has to act when this outcome is seen often."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    POLICY = "policy"
    ROUTER = "router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row of the table."""

    side: Side
    # another endpoint may answer it, if no byte has gone out and the body is still held
    retryable_elsewhere: bool = False
    counts_against_endpoint: bool = False  # raises the endpoint's error rate, may eject it
    # of the answer the router makes; 0: it makes none (nobody listens, or the endpoint's own answer passes)
    status: int = 0
    error_type: str = ""  # error.type of the body
    code: str = ""  # error.code of the body
    param: str | None = None  # error.param of the body, when it is always the same one
    message: str = ""  # error.message; {detail} is where the particulars go
    retry_after_s: int | None = None  # Retry-After; the SDKs obey 0 < value <= 60
    should_retry: bool | None = None  # x-should-retry; None: not sent
    allow: str | None = None  # Allow, which RFC 9110 15.5.6 demands on 405


def _request(status: int, code: str, message: str, *, allow: str | None = None) -> Outcome:
    # The SDKs retry 408 and, with `x-should-retry` absent, would send the same fault again: what the client
    # has to change does not change by itself, and a peer that was too slow once uploads its whole body
    # again only to be too slow twice.
    return Outcome(
        side=Side.DOWNSTREAM,
        status=status,
        error_type="invalid_request_error",
        code=code,
        message=message,
        should_retry=False,
        allow=allow,
    )


def _shed(side: Side, code: str, message: str, *, retry_after_s: int) -> Outcome:
    # 503: nothing has run and nothing was queued, so a second try costs the engines nothing, cannot run a
    # prompt twice, and may be answered by another router. Retry-After keeps it from coming at once.
    return Outcome(
        side=side,
        status=503,
        error_type="service_unavailable",
        code=code,
        message=message,
        retry_after_s=retry_after_s,
        should_retry=True,
    )


def _upstream(
    status: int, code: str, message: str, retryable_elsewhere: bool, counts_against_endpoint: bool = True
) -> Outcome:
    # 502 and 504 reach a client only when the router's own attempts are used up. SDKs retry twice by
    # themselves; without `false` the two multiply (three router attempts become nine prompts on engines
    # that are already in trouble).
    return Outcome(
        side=Side.UPSTREAM,
        retryable_elsewhere=retryable_elsewhere,
        counts_against_endpoint=counts_against_endpoint,
        status=status,
        error_type="timeout_error" if status == 504 else "upstream_error",
        code=code,
        message=message,
        should_retry=False,
    )


def _nobody_there(code: str, message: str) -> Outcome:
    # The answer when no endpoint could be reached at all. Nothing has run, so a client may well ask again.
    return Outcome(
        side=Side.UPSTREAM,
        retryable_elsewhere=True,
        counts_against_endpoint=True,
        status=503,
        error_type="upstream_error",
        code=code,
        message=message,
        retry_after_s=1,
        should_retry=True,
    )


OUTCOMES: dict[Cause, Outcome] = {
    Cause.NONE: Outcome(side=Side.ROUTER),
    # ---- downstream: the client did it
    Cause.CLIENT_CLOSED: Outcome(side=Side.DOWNSTREAM),
    # reset: a client that takes nothing would not take an error
    Cause.CLIENT_STALLED: Outcome(side=Side.DOWNSTREAM),
    Cause.TLS_HANDSHAKE: Outcome(side=Side.DOWNSTREAM),  # no HTTP yet
    Cause.BAD_REQUEST: _request(
        400, "bad_request", "The request is not valid HTTP/1.1{detail}. The connection has been closed."
    ),
    Cause.HEAD_TIMEOUT: _request(
        408,
        "head_timeout",
        "The request head did not arrive within the head timeout (timeouts.head_ms){detail}.",
    ),
    Cause.BODY_TIMEOUT: _request(
        408,
        "body_timeout",
        "The request body stopped arriving for longer than the body timeout (timeouts.body_ms){detail}.",
    ),
    Cause.HEAD_TOO_LARGE: _request(
        431,
        "head_too_large",
        "The request head has too many fields or bytes (limits.head_bytes_max){detail}. "
        "Send fewer or shorter headers.",
    ),
    Cause.TARGET_TOO_LONG: _request(
        414,
        "target_too_long",
        "The request target is too long (limits.target_bytes_max){detail}. "
        "Move data from the URL into the body.",
    ),
    Cause.BODY_TOO_LARGE: _request(
        413,
        "body_too_large",
        "The request body is larger than this router accepts (limits.body_bytes_max){detail}. "
        "Send a smaller body or have the limit raised.",
    ),
    Cause.UNSUPPORTED_VERSION: _request(
        505, "unsupported_http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here{detail}."
    ),
    Cause.BAD_EXPECT: _request(
        417, "expectation_failed", "The only expectation this router meets is `Expect: 100-continue`{detail}."
    ),
    Cause.METHOD_NOT_ALLOWED: _request(
        405,
        "method_not_allowed",
        "This method is not allowed here{detail}. See the Allow header for those that are.",
        allow="GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    ),
    Cause.BAD_BODY: _request(
        400,
        "invalid_body",
        "The request body could not be read as JSON or multipart form data{detail}. "
        "The router needs it to find the model that is asked for.",
    ),
    # ---- policy: configuration says no
    Cause.MODEL_NOT_FOUND: Outcome(
        side=Side.POLICY,
        status=404,
        error_type="invalid_request_error",
        code="model_not_found",
        param="model",
        message="No endpoint here serves the model that was asked for{detail}. "
        "GET /v1/models lists those that are served.",
        should_retry=False,
    ),
    Cause.NO_ROUTE: Outcome(
        side=Side.POLICY,
        status=404,
        error_type="invalid_request_error",
        code="route_not_found",
        message="No route matches this request, and it names no model{detail}. "
        "Name a model, or have a route or a default pool configured for this path.",
        should_retry=False,
    ),
    Cause.REQUIREMENT_UNMET: Outcome(
        side=Side.POLICY,
        status=404,
        error_type="invalid_request_error",
        code="requirement_not_met",
        message="No endpoint that serves this model meets what is required of it{detail}. "
        "Requirements are never relaxed.",
        should_retry=False,
    ),
    Cause.REQUIREMENT_UNKNOWN: Outcome(
        side=Side.POLICY,
        status=400,
        error_type="invalid_request_error",
        code="unknown_requirement",
        message="The header x-fairlead-require names what cannot be required here{detail}.",
        should_retry=False,
    ),
    # ---- router: our own limits and faults
    # An ejected endpoint is tried again within limits.EJECT_BASE_MS at the earliest: two seconds outlast
    # the first ejection.
    Cause.NO_ENDPOINT: _shed(
        Side.ROUTER,
        "no_endpoint_available",
        "No endpoint that could answer this request is available: all are ejected, drained or already tried"
        "{detail}.",
        retry_after_s=2,
    ),
    Cause.ENDPOINTS_FULL: _shed(
        Side.ROUTER,
        "endpoints_full",
        "Every endpoint that could answer this request is at its bound of connections or requests in flight "
        "(capacity, limits.upstream_connections_per_endpoint_max){detail}.",
        retry_after_s=1,
    ),
    Cause.BUFFERS_FULL: _shed(
        Side.ROUTER,
        "buffers_full",
        "The router holds as many request bodies as it may (limits.buffered_body_bytes_max){detail}.",
        retry_after_s=1,
    ),
    Cause.DRAINING: _shed(
        Side.ROUTER,
        "draining",
        "This router process is shutting down and takes no new requests{detail}. Open a new connection.",
        retry_after_s=1,
    ),
    # Not to be retried: a fault of ours repeats, and the request may already have run.
    Cause.INTERNAL: Outcome(
        side=Side.ROUTER,
        status=500,
        error_type="internal_error",
        code="internal_error",
        message="The router failed on this request; that is a fault of the router{detail}. "
        "Its log has the details under this x-request-id.",
        should_retry=False,
    ),
    # ---- upstream: the endpoint or the way to it
    Cause.DNS_FAILED: _nobody_there("dns_failed", "The endpoint's host name could not be resolved{detail}."),
    Cause.CONNECT_FAILED: _nobody_there(
        "connect_failed", "No connection to the endpoint could be made{detail}."
    ),
    Cause.CONNECT_TIMEOUT: _upstream(
        504,
        "connect_timeout",
        "The endpoint did not accept a connection within the connect timeout (timeouts.connect_ms){detail}.",
        retryable_elsewhere=True,
    ),
    Cause.TLS_FAILED: _upstream(
        502,
        "tls_failed",
        "The TLS handshake with the endpoint failed (see the endpoint's tls settings){detail}.",
        retryable_elsewhere=True,
    ),
    Cause.TLS_TIMEOUT: _upstream(
        504,
        "tls_timeout",
        "The TLS handshake with the endpoint did not end within the TLS timeout (timeouts.tls_ms){detail}.",
        retryable_elsewhere=True,
    ),
    Cause.RESET_BEFORE_HEAD: _upstream(
        502,
        "upstream_reset",
        "The endpoint closed the connection before it had answered{detail}.",
        retryable_elsewhere=True,
    ),
    Cause.UPSTREAM_MALFORMED: _upstream(
        502,
        "upstream_malformed",
        "The endpoint's answer is not valid HTTP/1.1{detail}.",
        retryable_elsewhere=True,
    ),
    Cause.FIRST_BYTE_TIMEOUT: _upstream(
        504,
        "first_byte_timeout",
        "The endpoint sent nothing within the first-byte timeout (timeouts.first_byte_ms){detail}. "
        "Raise it for this route if its prompts need longer.",
        retryable_elsewhere=True,
    ),
    # More than is held for another try has gone there.
    Cause.WRITE_TIMEOUT: _upstream(
        504,
        "write_timeout",
        "The endpoint took nothing of the request body for longer than the write-stall timeout "
        "(timeouts.write_stall_ms){detail}.",
        retryable_elsewhere=False,
    ),
    # From here on a part of the answer has usually gone out: then the exchange is reset and no body of ours
    # is sent.
    Cause.IDLE_TIMEOUT: _upstream(
        504,
        "idle_timeout",
        "The endpoint paused for longer than the idle timeout (timeouts.idle_ms) within its answer{detail}.",
        retryable_elsewhere=False,
    ),
    # The bound is on the whole exchange, retries included: there is no time left for another endpoint, and
    # an answer that was long but alive is no fault of the endpoint's.
    Cause.TOTAL_TIMEOUT: _upstream(
        504,
        "total_timeout",
        "The answer was not complete within the total timeout (timeouts.total_ms){detail}. "
        "Raise it for this route or ask for fewer tokens.",
        retryable_elsewhere=False,
        counts_against_endpoint=False,
    ),
    Cause.TRUNCATED: _upstream(
        502,
        "upstream_truncated",
        "The endpoint closed the connection before its answer was complete{detail}.",
        retryable_elsewhere=False,
    ),
    Cause.UPSTREAM_4XX: Outcome(side=Side.UPSTREAM),
    Cause.UPSTREAM_5XX: Outcome(side=Side.UPSTREAM, counts_against_endpoint=True),
}


class _Error(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Error


def error_body(cause: Cause, detail: str = "", param: str | None = None) -> bytes:
    """The JSON body of the router's own answer to `cause`, in OpenAI's shape.

    `detail` are the particulars of this case, as a phrase without a final full stop ("model 'x'; known:
    'a', 'b'"). It may hold client bytes: it is cut to limits.ERROR_DETAIL_CHARS_MAX and encoded.
    """
    outcome = OUTCOMES[cause]
    if len(detail) > limits.ERROR_DETAIL_CHARS_MAX:
        detail = detail[: limits.ERROR_DETAIL_CHARS_MAX] + "…"
    detail = detail.encode("utf-8", "replace").decode()  # lone surrogates have no JSON encoding
    message = outcome.message.replace("{detail}", f": {detail.rstrip('.')}" if detail else "")
    error = _Error(message, outcome.error_type, param if param is not None else outcome.param, outcome.code)
    return msgspec.json.encode(_ErrorBody(error))


def error_headers(cause: Cause) -> list[tuple[str, str]]:
    """Fields of the router's own answer to `cause`, beside Content-Type, Content-Length and x-request-id."""
    outcome = OUTCOMES[cause]
    headers = []
    if outcome.retry_after_s is not None:
        headers.append(("Retry-After", str(outcome.retry_after_s)))
    if outcome.should_retry is not None:
        headers.append(("x-should-retry", "true" if outcome.should_retry else "false"))
    if outcome.allow is not None:
        headers.append(("Allow", outcome.allow))
    return headers


def outcome_labels(number: int) -> tuple[str, str]:
    """(outcome, side) of a request's end: the cause's name, `completed` for none."""
    if number == Cause.NONE:
        return "completed", NOBODY
    try:
        cause = Cause(number)
    except ValueError:
        return UNKNOWN, NOBODY
    return cause.name.lower(), OUTCOMES[cause].side.value

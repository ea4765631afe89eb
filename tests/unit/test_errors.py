"""The table of outcomes: complete, equal to what native code carries, and read rightly by the SDKs."""

import json
import re
from pathlib import Path

import pytest

import router
from router import limits
from router.errors import OUTCOMES, Cause, Side, error_body, error_headers

CAUSES_PXD = Path(router.__file__).parent / "native" / "causes.pxd"
ANSWERED = [cause for cause in Cause if OUTCOMES[cause].status]


def test_causes_equal_those_of_native_code() -> None:
    native = {
        name: int(value)
        for name, value in re.findall(r"^\s+CAUSE_(\w+)\s*=\s*(\d+)", CAUSES_PXD.read_text(), re.MULTILINE)
    }
    count = native.pop("COUNT")
    assert {cause.name: cause.value for cause in Cause} == native
    assert max(Cause) < count


def test_every_cause_has_a_row() -> None:
    assert set(OUTCOMES) == set(Cause)


@pytest.mark.parametrize("cause", ANSWERED)
def test_body_has_the_shape_sdks_read(cause: Cause) -> None:
    body = json.loads(error_body(cause, "the particulars"))
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ": the particulars" in body["error"]["message"]
    assert body["error"]["type"] and body["error"]["code"]


@pytest.mark.parametrize("cause", ANSWERED)
def test_body_without_particulars_leaves_no_placeholder(cause: Cause) -> None:
    message = json.loads(error_body(cause))["error"]["message"]
    assert "{" not in message
    assert message.endswith(".")


def test_codes_are_unique() -> None:
    codes = [OUTCOMES[cause].code for cause in ANSWERED]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cause", ANSWERED)
def test_status_fits_the_side(cause: Cause) -> None:
    outcome = OUTCOMES[cause]
    if cause is Cause.UNSUPPORTED_VERSION:
        assert outcome.status == 505
    elif outcome.side in (Side.DOWNSTREAM, Side.POLICY):
        assert 400 <= outcome.status < 500
    elif cause in (Cause.DNS_FAILED, Cause.CONNECT_FAILED):  # nobody there
        assert (outcome.status, outcome.retry_after_s, outcome.should_retry) == (503, 1, True)
    elif outcome.side is Side.UPSTREAM:
        assert outcome.status == (504 if cause.name.endswith("TIMEOUT") else 502)
    else:
        assert outcome.status in (500, 503)


@pytest.mark.parametrize("cause", ANSWERED)
def test_only_refusals_that_ran_nothing_ask_the_client_to_retry(cause: Cause) -> None:
    headers = dict(error_headers(cause))
    assert headers["x-should-retry"] == ("true" if OUTCOMES[cause].status == 503 else "false")
    assert ("Retry-After" in headers) == (OUTCOMES[cause].status == 503)


@pytest.mark.parametrize("cause", list(Cause))
def test_only_upstream_causes_touch_the_endpoint(cause: Cause) -> None:
    outcome = OUTCOMES[cause]
    if outcome.retryable_elsewhere or outcome.counts_against_endpoint:
        assert outcome.side is Side.UPSTREAM


def test_the_clients_own_4xx_is_not_held_against_the_endpoint() -> None:
    assert not OUTCOMES[Cause.UPSTREAM_4XX].counts_against_endpoint
    assert OUTCOMES[Cause.UPSTREAM_5XX].counts_against_endpoint


def test_method_not_allowed_names_the_allowed_ones() -> None:
    assert "POST" in dict(error_headers(Cause.METHOD_NOT_ALLOWED))["Allow"]


def test_unknown_model_names_the_parameter() -> None:
    body = json.loads(error_body(Cause.MODEL_NOT_FOUND, "model 'x'; known: 'a'"))
    assert body["error"]["param"] == "model"
    assert body["error"]["code"] == "model_not_found"


def test_given_parameter_goes_out() -> None:
    assert json.loads(error_body(Cause.BAD_BODY, param="stream"))["error"]["param"] == "stream"


@pytest.mark.parametrize("detail", ['"quotes"', "{detail}", "\x00\n", "\ud800", "x" * 100_000, "ü" * 5000])
def test_client_bytes_in_the_particulars_are_encoded_and_cut(detail: str) -> None:
    body = error_body(Cause.MODEL_NOT_FOUND, detail)
    json.loads(body)
    assert len(body) < 8 * limits.ERROR_DETAIL_CHARS_MAX


def test_connection_bound_follows_the_file_limit() -> None:
    assert limits.downstream_connections_max(16384, 1024) == (1024 - limits.FILES_RESERVED) // 2
    assert limits.downstream_connections_max(16384, 1 << 20) == 16384
    assert limits.downstream_connections_max(16384, 64) == limits.DOWNSTREAM_CONNECTIONS_MIN

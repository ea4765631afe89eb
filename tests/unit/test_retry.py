"""An attempt may be followed by another only while nothing has gone out and the body is still whole."""

import pytest

from router import limits
from router.errors import OUTCOMES, Cause
from router.retry import may_retry

RETRYABLE = [cause for cause in Cause if OUTCOMES[cause].retryable_elsewhere]


@pytest.mark.parametrize("cause", RETRYABLE)
def test_a_retryable_cause_is_retried_while_the_exchange_is_free(cause: Cause) -> None:
    assert may_retry(cause, attempt_count=1, body_is_whole=True, downstream_bytes=0)


@pytest.mark.parametrize("cause", sorted(set(Cause) - set(RETRYABLE)))
def test_other_causes_are_never_retried(cause: Cause) -> None:
    assert not may_retry(cause, attempt_count=1, body_is_whole=True, downstream_bytes=0)


def test_bytes_sent_downstream_cannot_be_unsaid() -> None:
    assert not may_retry(Cause.CONNECT_FAILED, attempt_count=1, body_is_whole=True, downstream_bytes=1)


def test_a_body_cut_through_cannot_be_sent_again() -> None:
    assert not may_retry(Cause.CONNECT_FAILED, attempt_count=1, body_is_whole=False, downstream_bytes=0)


def test_attempts_are_bounded() -> None:
    bound = limits.ATTEMPTS_PER_EXCHANGE_MAX
    tried = [
        may_retry(Cause.CONNECT_FAILED, attempt_count=count, body_is_whole=True, downstream_bytes=0)
        for count in range(1, bound + 2)
    ]
    assert tried == [True] * (bound - 1) + [False, False]

"""Whether an exchange whose attempt failed may be tried at another endpoint: a pure rule.

Bytes that have gone downstream cannot be unsaid, and a body that is no longer held whole cannot be sent
again; everything else is the error table's business. Neighbour: dispatch.py asks.
"""

from router import limits
from router.errors import OUTCOMES, Cause


def may_retry(cause: Cause, *, attempt_count: int, body_is_whole: bool, downstream_bytes: int) -> bool:
    """Whether another endpoint may be asked, `attempt_count` attempts having been made."""
    return (
        OUTCOMES[cause].retryable_elsewhere
        and downstream_bytes == 0
        and body_is_whole
        and attempt_count < limits.ATTEMPTS_PER_EXCHANGE_MAX
    )

"""What happens when the common path does not: the native core's questions to Python, answered.

Read this first to see what can go wrong with an exchange. The core calls a hook only when something other
than "picked, sent, relayed, finished" happens: a body its scanner doubts, an error the router itself answers,
an attempt that failed, a request that is not hot. Invariant: a hook decides, it holds no state of an exchange
and waits for nothing. Neighbours: retry.py (the rule), errors.py (the table), body_facts.py, slowpath.py
(behind `adopt`).
"""

from collections.abc import Callable, Iterable

from router.body_facts import read_body_facts, replace_model
from router.errors import OUTCOMES, Cause, error_body, error_headers
from router.retry import may_retry

KNOWN_MODELS_SHOWN_MAX = 20  # in a model_not_found message; GET /v1/models has them all

Adopt = Callable[[int, bytes, bool, str], None]


class Dispatcher:
    """The hooks of one worker's core."""

    def __init__(self, adopt: Adopt) -> None:
        self._adopt = adopt

    def body_facts(
        self, path: bytes, content_type: bytes, body: bytes, complete: bool
    ) -> tuple[str | None, bool, str | None]:
        """Model, whether a stream is asked for, and user. Raises: ValueError for a body nobody could read."""
        return read_body_facts(path, content_type, body, complete)

    def rewrite_body(self, content_type: bytes, body: bytes, model: str) -> bytes:
        """`body` with `model` as its model's name. Raises: ValueError where it names none."""
        return replace_model(content_type, body, model)

    def error_response(
        self, cause: int, detail: str, request_id: bytes, known_models: Iterable[str]
    ) -> tuple[int, bytes, bytes]:
        """Status, whole extra header lines and body of the router's own answer to `cause`."""
        reason = Cause(cause)
        if reason is Cause.MODEL_NOT_FOUND:
            detail = f"{detail}; {_describe(known_models)}" if detail else _describe(known_models)
        lines = "".join(f"{name}: {value}\r\n" for name, value in error_headers(reason))
        return OUTCOMES[reason].status, lines.encode("ascii"), error_body(reason, detail)

    def on_attempt_failed(
        self, cause: int, attempt_count: int, body_is_whole: bool, downstream_bytes: int
    ) -> bool:
        """Whether the exchange goes on at another endpoint."""
        return may_retry(
            Cause(cause),
            attempt_count=attempt_count,
            body_is_whole=body_is_whole,
            downstream_bytes=downstream_bytes,
        )

    def hand_over(self, fd: int, received: bytes, is_tls: bool, peer: str) -> None:
        """This connection belongs to Python from now on."""
        self._adopt(fd, received, is_tls, peer)


def _describe(known_models: Iterable[str]) -> str:
    names = sorted(set(known_models))
    shown = ", ".join(f"'{name}'" for name in names[:KNOWN_MODELS_SHOWN_MAX])
    more = len(names) - KNOWN_MODELS_SHOWN_MAX
    return f"known: {shown or 'none'}" + (f" and {more} more" if more > 0 else "")

"""Explained decisions as Python sees them: the supervisor creates and reads, workers attach, tests write."""

from collections.abc import Iterable, Sequence
from typing import Any

from router.native.decision import Decider

REASONS: tuple[str, ...]
"""The token by number of the reason; the first is empty: nobody asked."""

class ExplainRing:
    """The last decisions of each worker that were to be explained, shared between processes."""

    fd: int
    """The segment's descriptor, owned by the ring: pass it to children, do not close it."""
    column_count: int
    @staticmethod
    def create(column_count: int) -> ExplainRing:
        """An empty ring. Raises: ValueError, OSError."""
    @staticmethod
    def attach(fd: int) -> ExplainRing:
        """The ring behind a descriptor made by `create` elsewhere; `fd` stays the caller's.

        Raises: OSError; ValueError when it is no ring, or one of another layout.
        """
    def find(self, request_id: str) -> list[dict[str, Any]]:
        """The decisions for a request, an attempt each, newest first; slots and indexes are not yet names.

        Keys: request_id, wall_us, route, policy, reason, attempt, candidates, eligible, prompt_tokens,
        output_tokens, has_session, session (a token of native/switching; empty: not remembered),
        session_tokens (of its last prompt), shown. `shown` has the winner, then up to three runners-up, each
        with slot, score (None: the policy has none), terms (None, or seconds by name), in_flight, queued_s,
        hit_tokens, model (empty: no alias was asked for).
        """
    def latest(self, count: int) -> list[dict[str, Any]]:
        """The last `count` decisions of all workers, newest first."""
    def written(self, column: int) -> int:
        """Decisions that this column has ever recorded."""
    def explain(
        self,
        decider: Decider,
        kind: int,
        slots: Sequence[int],
        request_id: str,
        *,
        knobs: Iterable[float] = (),
        key: int = 0,
        random: int = 0,
        now_us: int = 1,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        blocks: Sequence[int] = (),
        block_tokens: Sequence[int] = (),
        excluded: Iterable[int] = (),
        model: int = 0,
        load_s: Sequence[float] = (),
        models_max: Sequence[int] = (),
        ttft_target_s: float = 0.0,
        column: int = 0,
        wall_us: int = 1,
        attempt: int = 1,
    ) -> str | None:
        """Picks, charges nothing, records; the reason, or None when nobody could be picked. For tests."""
    def churn(self, column: int, first: int, count: int) -> None:
        """Writes `count` records, each of one number in all its words: for tests of torn reads."""

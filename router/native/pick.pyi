"""The door to the native pick, for tests and micro-benchmarks; requests call the same C without it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.native.loadtable import LoadTable
from router.native.policy_memory import PolicyMemory

class CandidateSet:
    def __init__(
        self,
        slots: Sequence[int],
        weights: Sequence[float] | None = None,
        identities: Sequence[int] | None = None,
        points_per_weight: int = 0,
        maglev: bool = False,
        ejected_ratio_max: float = 0,
        features: Sequence[int] | None = None,
    ) -> None:
        """Candidates at these slots of a load table; with `points_per_weight` there is a ring, too.

        With more than `ejected_ratio_max` of those who have what is required ejected, ejections are ignored;
        0: only with all of them. `features` are the bits of what each of them has; absent: nothing.

        Raises: ValueError when lengths differ or a weight is not above 0.
        """
    def __len__(self) -> int: ...
    def ring(self) -> list[tuple[int, int]]:
        """(point, candidate position) in ring order."""
    def maglev(self) -> list[int]:
        """Candidate positions by entry; empty without a table."""
    def pick(
        self,
        kind: int,
        table: LoadTable,
        *,
        random: int = 0,
        key: int = 0,
        now_us: int = 0,
        excluded: Iterable[int] = (),
        knobs: Sequence[float] = (),
        prompt_tokens: int = 0,
        required: int = 0,
        memory: PolicyMemory | None = None,
    ) -> int:
        """The winner's position, or -1 when every candidate is excluded. No prefix is known, nothing learnt.

        `required` are the bits that the winner's features must have.

        Raises: IndexError for a slot that is not in the table; ValueError for a kind that there is not.
        """
    def pick_by_view(
        self,
        kind: int,
        view: Mapping[str, Any],
        *,
        random: int = 0,
        now_us: int = 0,
        knobs: Sequence[float] = (),
        prompt_tokens: int = 0,
        memory: PolicyMemory | None = None,
        learner: Mapping[str, Sequence[float]] | None = None,
    ) -> tuple[int, list[float]]:
        """(winner, every candidate's score) of a policy that reads a view, for this view.

        `view` has a list by position under in_flight, pending, queued_tokens, queued_s, kv_tokens and
        hit_tokens, and the positions that may not be picked under refused; `learner` a list by slot under
        token_s, pair_s and inverse_kv.
        """
    def bench_loop(
        self,
        kind: int,
        table: LoadTable,
        pick_count: int,
        now_us: int = 0,
        knobs: Sequence[float] = (),
        prompt_tokens: int = 0,
    ) -> float:
        """Picks `pick_count` times with a new random key each and returns nanoseconds per pick."""

def random_words(seed: int, count: int) -> list[int]: ...

"""Decisions as Python makes them: tests play histories with these; workers make a Decider for their core."""

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable

class DecisionFigures(TypedDict):
    prompt_tokens: int
    uncached_tokens: int
    hit_tokens: int
    kv_tokens: int
    work_us: int
    predicted_s: float
    queued_s: float
    work_s: float
    decoding: float

class Running(TypedDict):
    """Means over the picks by score, the last ones most."""

    prompt_tokens: float
    hit_tokens: float
    queued_s: float
    waited_s: float
    answer_s: float

class Decision:
    """Who was picked, and what was charged for it."""

    position: int
    """In the candidates; -1: nobody was eligible, and nothing is charged."""
    @property
    def slot(self) -> int | None: ...
    @property
    def session(self) -> str:
        """Why its session stayed or went: one of native/switching's tokens, empty when none asked."""
    @property
    def state(self) -> Literal["released", "pending", "decoding"]: ...
    def figures(self) -> DecisionFigures: ...

class Decider:
    """Everything a decision reads and writes, over tables that may be shared; one per process and column.

    Raises: IndexError for a column that is not there, ValueError for tables of fewer slots, MemoryError.
    """

    load: LoadTable
    prefix: PrefixTable | None
    learner: Learner
    residency: ResidencyTable | None
    sessions: SessionTable | None
    def __init__(
        self,
        load: LoadTable,
        prefix: PrefixTable | None,
        learner: Learner,
        column: int = 0,
        residency: ResidencyTable | None = None,
        sessions: SessionTable | None = None,
    ) -> None: ...
    def reserve(self, candidate_count: int) -> None:
        """Picks among so many candidates are to be weighed. Raises: MemoryError."""
    def remember(self, kinds: Iterable[int]) -> None:
        """Only policies of these kinds will be asked: records that none of them reads are not kept."""
    def decide(
        self,
        kind: int,
        slots: Sequence[int],
        *,
        knobs: Sequence[float] = (),
        key: int = 0,
        random: int = 0,
        now_us: int = 1,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        blocks: Sequence[int] = (),
        block_tokens: Sequence[int] = (),
        excluded: Sequence[int] = (),
        model: int = 0,
        load_s: Sequence[float] = (),
        models_max: Sequence[int] = (),
    ) -> Decision:
        """A pick by policy `kind` and its charge. Raises: IndexError for a slot that is not there."""
    def view(
        self,
        slots: Sequence[int],
        *,
        key: int = 0,
        random: int = 0,
        now_us: int = 1,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        blocks: Sequence[int] = (),
        block_tokens: Sequence[int] = (),
        excluded: Sequence[int] = (),
        model: int = 0,
        load_s: Sequence[float] = (),
        models_max: Sequence[int] = (),
    ) -> dict[str, list[float]]:
        """What a weighing policy would read, by name, padded to a multiple of 16.

        Raises: IndexError; ValueError for more candidates than are reserved for.
        """
    def bench(
        self,
        kind: int,
        slots: Sequence[int],
        chains: Sequence[Sequence[int]],
        block_tokens: Sequence[int],
        rounds: int,
        *,
        knobs: Sequence[float] = (),
        prompt_tokens: int = 10_000,
    ) -> tuple[list[int], list[int]]:
        """Nanoseconds of each pick, and of each whole decision with its charge and its end.

        Each chain is a session, where the decider has a table of them.
        """
    def running(self) -> Running: ...
    def first_token(self, decision: Decision, now_us: int) -> None: ...
    def whole_answer(self, decision: Decision, now_us: int, output_tokens: int = -1) -> None:
        """As first_token, for an answer that came at once. -1: its length was not told."""
    def end(
        self,
        decision: Decision,
        now_us: int,
        *,
        failed: bool = False,
        prompt_tokens: int = -1,
        cached_tokens: int = -1,
    ) -> None: ...

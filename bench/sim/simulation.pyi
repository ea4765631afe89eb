from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.native.decision import Decider

KNOB_COUNT_MAX: int

class Simulation:
    def __init__(
        self,
        request_count: int,
        endpoint_count: int,
        model_count: int,
        deciders: list[Decider],
        seed: int,
        by_session: bool = False,
    ) -> None:
        """A run of so many requests; decider r has column r of its load table, one of so many replicas'."""
    def set_names(self, names: Sequence[Sequence[tuple[int, float]]]) -> None:
        """What requests may ask for, before they are set: of each name the models that may answer, in order,
        as (model, its quality's cost in seconds).
        """
    def set_requests(
        self,
        arrival_us: NDArray[np.int64],
        follows: NDArray[np.int32],
        prompt_tokens: NDArray[np.int32],
        output_tokens: NDArray[np.int32],
        asked: NDArray[np.int32],
        session: NDArray[np.uint64],
        block_offset: NDArray[np.int64],
        blocks: NDArray[np.uint64],
        key_offset: NDArray[np.int64],
        keys: NDArray[np.uint64],
        key_tokens: NDArray[np.uint32],
    ) -> None: ...
    def set_endpoint(
        self,
        index: int,
        *,
        timing: tuple[float, float, float, float, float, int, float],
        block_tokens: int,
        sequences_max: int,
        chunk_tokens: int,
        rtt_us: int,
        loads_us: Sequence[int],
        resident: Sequence[bool],
        resident_max: int,
        power_cap: float,
        power_brake: float,
    ) -> None: ...
    def set_figures(
        self,
        index: int,
        *,
        engine_class: int,
        token_s: float,
        pair_s: float,
        floor_s: float,
        base_s: float,
        context_s: float,
        kv_capacity_tokens: float,
        input_price: float,
        output_price: float,
        second_price: float,
        rtt_s: float,
    ) -> None: ...
    def set_candidates(
        self,
        model: int,
        slots: Sequence[int],
        weights: Sequence[float],
        identities: Sequence[int],
        loads_s: Sequence[float] = (),
        models_max: Sequence[int] = (),
    ) -> None: ...
    def set_policy(
        self,
        kind: int,
        knobs: Sequence[float],
        *,
        ttft_target_s: float = 0,
        ttft_target_token_s: float = 0,
        cost_weight_s: float = 0,
    ) -> None: ...
    def set_faults(self, faults: Sequence[tuple[int, int, int, int]]) -> None: ...
    def set_timers(self, gossip_us: int, poll_us: int, mark_index: int) -> None:
        """0: never. At the arrival of request `mark_index` the engines' busy times are noted."""
    def run(self) -> None:
        """Once, until every request has ended; without the interpreter's lock.

        Raises: MemoryError; AssertionError when requests were lost.
        """
    def read_requests(
        self,
        arrival_us: NDArray[np.int64],
        picked_us: NDArray[np.int64],
        first_us: NDArray[np.int64],
        end_us: NDArray[np.int64],
        endpoint: NDArray[np.int32],
        model: NDArray[np.int32],
        cached_tokens: NDArray[np.int32],
        state: NDArray[np.uint8],
        failure: NDArray[np.uint8],
        attempt_count: NDArray[np.uint8],
    ) -> None: ...
    def engines(self) -> list[tuple[int, int, int, int, int, int, int, int]]: ...
    @property
    def pick_count(self) -> int: ...
    @property
    def mark_us(self) -> int: ...
    @property
    def now_us(self) -> int: ...

"""The prefix table run in native code, for micro-benchmarks and tests of races."""

from collections.abc import Sequence

from router.native.prefix import PrefixTable

def match_repeatedly(
    table: PrefixTable,
    chains: Sequence[Sequence[int]],
    tokens: Sequence[int],
    slots: Sequence[int],
    rounds: int,
) -> int: ...
def insert_repeatedly(
    table: PrefixTable, chains: Sequence[Sequence[int]], tokens: Sequence[int], rounds: int
) -> None: ...
def churn(
    table: PrefixTable, chains: Sequence[Sequence[int]], tokens: Sequence[int], rounds: int, seed: int
) -> int: ...

"""Nanoseconds per pick from native code, over pools of several sizes.

Every slot holds some requests in flight, as under load, so that no branch is foreseen for free. The full scan
(least in flight of all) is what the bounds are about: the default policy looks at two endpoints whatever the
pool's size.
"""

from __future__ import annotations

from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet, random_words

POLICY_P2C = 0  # policy_kind in router/native/pick.pxd
POLICY_LEAST_IN_FLIGHT = 4
SEED = 20
REPEATS = 9
PICKS_NS_WANTED = 20_000_000  # 20 ms a repeat: long against a timer tick's interruption


def pick_ns(
    policy: int, endpoint_count: int, *, repeats: int = REPEATS, run_ns: int = PICKS_NS_WANTED
) -> float:
    """The least of the repeats: whatever else the machine does can only add to it."""
    table = LoadTable.create(endpoint_count, 1)
    for slot, word in enumerate(random_words(SEED, endpoint_count)):
        for _ in range(word % 8):
            table.charge(0, slot)
    candidates = CandidateSet(range(endpoint_count))
    guess_ns = max(candidates.bench_loop(policy, table, 1000), 1.0)
    count = max(int(run_ns / guess_ns), 1)
    return min(candidates.bench_loop(policy, table, count) for _ in range(repeats))

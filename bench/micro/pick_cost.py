"""Nanoseconds per pick from native code, over pools of several sizes.

Every slot holds some requests in flight, as under load, so that no branch is foreseen for free. Two kinds:
the bare pick of policies that only count requests, and the whole of five_axis with its view of accounts and
cached prefixes, for prompts of SCORE_KEYS keys that are given.
"""

from __future__ import annotations

from router.native.decision import Decider
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.pick import CandidateSet, random_words
from router.native.prefix import PrefixTable
from router.schema.engines import CLASS_DEFAULT, EngineFigures, FigureTables, figures_of
from router.schema.policies import FiveAxis

POLICY_P2C = 0  # policy_kind in router/native/pick.pxd
POLICY_LEAST_IN_FLIGHT = 4
POLICY_FIVE_AXIS = 19
SCORE_KEYS = 32
SCORE_PROMPTS = 200  # different ones in turn: more than the first cache holds entries of
SCORE_ROUNDS = 4000
KEY_TOKENS = 300
PREFIX_TABLE_BYTES = 32 << 20
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


def engine_figures() -> FigureTables:
    """What is believed of an engine of which nothing is said."""
    return figures_of(
        CLASS_DEFAULT, EngineFigures(), 0, input_price=0, output_price=0, second_price=0, rtt_s=0
    )


def score_ns(
    endpoint_count: int, *, repeats: int = REPEATS, rounds: int = SCORE_ROUNDS
) -> tuple[float, float]:
    """(p50, p99) of a pick by five_axis with prefix match, the least over repeats.

    Picks are charged in between.
    """
    load = LoadTable.create(endpoint_count, 1)
    learner = Learner.create(load.slot_count)
    for slot in range(endpoint_count):
        learner.set_figures(slot, engine_figures())
    prefix = PrefixTable.create(PREFIX_TABLE_BYTES, load.slot_count)
    prefix.use_huge_pages()  # as the supervisor does with a table in use
    decider = Decider(load, prefix, learner)
    decider.reserve(endpoint_count)
    knobs = FiveAxis().knobs()
    words = iter(random_words(SEED, SCORE_PROMPTS * SCORE_KEYS))
    chains = [[next(words) for _ in range(SCORE_KEYS)] for _ in range(SCORE_PROMPTS)]
    ends = [KEY_TOKENS * (index + 1) for index in range(SCORE_KEYS)]
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        picks, _whole = decider.bench(
            POLICY_FIVE_AXIS, range(endpoint_count), chains, ends, rounds, knobs=knobs
        )
        picks.sort()
        for index, share in enumerate((0.5, 0.99)):
            best[index] = min(best[index], picks[int(share * (len(picks) - 1))])
    return best[0], best[1]

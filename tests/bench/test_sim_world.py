"""The simulated world against what must hold of any: theory where there is one, nothing lost or made up."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.sim import run
from bench.sim.fleets import Fleet
from bench.sim.measures import measure, tpot_of, ttft_of
from bench.sim.run import Fault, FaultKind, Outcome, State, simulate
from bench.sim.traces import Trace
from router.native.decision import Decider
from tests.bench.sim_worlds import engine_class, fleet_of, poisson, trace_of

POLICIES = ["round_robin", "p2c", "least_in_flight", "lmetric", "smetric", "llmd", "five_axis"]


def batch_error(values: NDArray[np.float64], batches: int = 20) -> float:
    """The standard error of the mean of a correlated series, by the means of its batches."""
    means = [part.mean() for part in np.array_split(values, batches)]
    return float(np.std(means, ddof=1) / math.sqrt(batches))


def infinite_cache_hits(trace: Trace) -> int:
    """Prompt tokens that had been seen before, by a cache that forgets nothing."""
    seen: set[int] = set()
    hits = 0
    for row in range(len(trace)):
        blocks = [int(key) for key in trace.blocks[trace.block_offset[row] : trace.block_offset[row + 1]]]
        known = next((depth for depth, key in enumerate(blocks) if key not in seen), len(blocks))
        hits += known * trace.block_tokens
        seen.update(blocks)
    return hits


def shared_prefixes(count: int, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    return trace_of(
        poisson(6.0, count, seed),
        [int(value) for value in random.integers(200, 3000, count)],
        [int(value) for value in random.integers(1, 60, count)],
        prefixes=[int(value) for value in random.integers(0, count // 8, count)],
    )


@pytest.fixture
def deciders(monkeypatch: pytest.MonkeyPatch) -> list[Decider]:
    """Those of every run of the test."""
    made: list[Decider] = []
    make: Callable[..., list[Decider]] = run._deciders

    def remembered(*given: Any) -> list[Decider]:
        made.extend(make(*given))
        return made[-given[0].replicas.count :]

    monkeypatch.setattr(run, "_deciders", remembered)
    return made


# ---- theory


def test_one_request_at_a_time_waits_as_in_a_queue_of_constant_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # M/D/1: Poisson arrivals, one server, constant service D. The mean wait is rho D / (2 (1 - rho))
    # (Pollaczek and Khinchine).
    engine_class(monkeypatch, "steady", (0.0, 20.0, 0.8, 0.0, 0.0, 100_000))
    service_s = (20.0 + 0.8 * 100) / 1000
    load = 0.7
    trace = trace_of(poisson(load / service_s, 60_000), 100, 1)
    outcome = simulate(trace, fleet_of({"class": "steady", "sequences_max": 1}), "round_robin")
    waits_s = ttft_of(outcome)[outcome.measured] - service_s
    error_s = batch_error(waits_s)
    wanted_s = load * service_s / (2 * (1 - load))
    # Four standard errors: a right simulation fails in 1 of 10,000 seeds, and this is always the same seed.
    assert error_s < 0.04 * wanted_s
    assert abs(waits_s.mean() - wanted_s) < 4 * error_s


def test_streams_that_share_an_engine_slow_down_as_in_processor_sharing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Steps that take 1 ms per stream give n streams 1/n of the engine each: M/G/1-PS, where a job of size x
    # stays x / (1 - rho) in the mean, whatever the sizes' distribution (Kleinrock, Queueing Systems II, 4.4).
    engine_class(monkeypatch, "shared", (0.0, 0.0, 1.0, 0.0, 0.0, 10_000_000))
    load, count = 0.7, 20_000
    random = np.random.default_rng(5)
    sizes = random.choice([40, 80, 480], count, p=[0.25, 0.4, 0.35])
    arrival_s = poisson(load / (float(sizes.mean()) / 1000), count)
    trace = trace_of(arrival_s, 1, [int(size) for size in sizes])
    fleet = fleet_of({"class": "shared", "sequences_max": 4096, "chunk_tokens": 8192})
    outcome = simulate(trace, fleet, "round_robin")
    stay_s = (outcome.end_us - outcome.arrival_us) / 1e6
    for size in (40, 80, 480):
        rows = outcome.measured & (trace.output_tokens == size)
        wanted_s = size / 1000 / (1 - load)
        # A request joins at the next step: it waits for the rest of the one under way, as many ms long as
        # there are streams n, geometric; by renewal E[n^2] / (2 E[n]) = (1 + rho) / (2 (1 - rho)) ms.
        late_s = (1 + load) / (2 * (1 - load)) / 1000
        error_s = batch_error(stay_s[rows])
        assert error_s < 0.05 * wanted_s
        assert -4 * error_s < stay_s[rows].mean() - wanted_s < late_s + 4 * error_s


def test_a_lone_request_takes_what_the_step_formula_says() -> None:
    outcome = simulate(trace_of([0.0], 200, 11), fleet_of({"class": "8b-a100"}, regions={"near": 10}), "p2c")
    prefill_ms = 5.0 + 0.0665 * 200 + 3.4e-6 * 200 * 100 + 1.0
    decode_ms = sum(9.8 + 9.2e-5 * context + 1.0 for context in range(200, 210))
    assert outcome.first_us[0] == pytest.approx(1000 * (prefill_ms + 10), abs=2)
    assert outcome.end_us[0] - outcome.first_us[0] == pytest.approx(1000 * decode_ms, abs=10)


# ---- nothing lost, nothing made up


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_and_tokens_are_conserved(policy: str, deciders: list[Decider]) -> None:
    trace = shared_prefixes(400, seed=2)
    fleet = fleet_of({"class": "8b-a100", "count": 2, "kv_tokens": 20_000}, {"class": "8b-l40s"})
    outcome = simulate(trace, fleet, policy)
    assert (outcome.state == State.DONE).all()
    assert (outcome.attempt_count == 1).all()
    assert (outcome.arrival_us <= outcome.picked_us).all()
    assert (outcome.picked_us < outcome.first_us).all()
    assert ((outcome.end_us > outcome.first_us) | (trace.output_tokens == 1)).all()
    # A token takes a step at least: none can have been made faster than the fastest floor.
    assert (tpot_of(outcome)[trace.output_tokens > 1] >= 0.0107).all()
    assert (outcome.cached_tokens < trace.prompt_tokens).all()
    assert outcome.pick_count == len(trace)
    assert deciders[0].load.total_in_flight() == 0
    assert deciders[0].load.underflows() == 0
    assert all(deciders[0].load.view(slot)["kv_tokens"] == 0 for slot in range(3))


def test_engines_are_empty_at_the_end_and_have_all_their_blocks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    read = run._outcome

    def remembered(simulation: Any, **rest: Any) -> Outcome:
        seen.extend(simulation.engines())
        return read(simulation, **rest)

    monkeypatch.setattr(run, "_outcome", remembered)
    simulate(
        shared_prefixes(300, seed=4), fleet_of({"class": "8b-a100", "count": 2, "kv_tokens": 4_000}), "p2c"
    )
    assert seen
    for _, _, preemptions, steps, running, waiting, free_blocks, blocks in seen:
        assert preemptions > 0 and steps > 0
        assert (running, waiting, free_blocks) == (0, 0, blocks)


def an_alias(quality_cost_ms: int, **settings: Any) -> Fleet:
    """`either` may be answered by a large model or a small one, each at machines of its own."""
    return fleet_of(
        {"class": "70b-h100-tp4", "models": {"large": 0}, "resident": ["large"]},
        {"class": "8b-a100", "models": {"small": 0}, "resident": ["small"]},
        aliases={"either": ["large", {"model": "small", "quality_cost_ms": quality_cost_ms}]},
        **settings,
    )


def asking(name: str, trace: Trace) -> Trace:
    return replace(trace, models=(name,), model=np.zeros(len(trace), np.int32))


@pytest.mark.parametrize("policy", ["five_axis", "lmetric"])
def test_an_alias_loses_no_request_and_gives_the_same_run_again(policy: str, deciders: list[Decider]) -> None:
    trace = asking("either", shared_prefixes(400, seed=3))
    faults = [Fault(FaultKind.CRASH, 0, 20.0, 40.0)]
    first, again = (simulate(trace, an_alias(500), policy, seed=2, faults=faults) for _ in range(2))
    assert columns(first) == columns(again)
    assert first.model.tolist() == again.model.tolist()
    assert ((first.state == State.DONE) | (first.failure > 0)).all()
    assert (first.endpoint == first.model).all()  # each model where it is, nowhere else
    assert {0, 1} == set(first.model.tolist())  # with nobody well of the first the next one answers
    for decider in deciders:
        assert decider.load.total_in_flight() == 0
        assert decider.load.underflows() == 0


def test_the_price_of_quality_says_how_long_the_better_model_is_waited_for() -> None:
    trace = asking("either", shared_prefixes(600, seed=5))
    crowd = replace(trace, arrival_us=trace.arrival_us // 8)
    shares = [
        float((simulate(each, an_alias(cost_ms), "five_axis").model == 0).mean())
        for each, cost_ms in ((trace, 5_000), (crowd, 5_000), (crowd, 1_000), (crowd, 0))
    ]
    assert shares[0] == 1.0  # there is room for all
    assert 1.0 > shares[1] > shares[2] > shares[3] > 0.0
    only = simulate(asking("large", crowd), an_alias(500), "five_axis")
    assert (only.endpoint == 0).all()
    spilled = simulate(crowd, an_alias(500), "five_axis")
    assert np.percentile(ttft_of(spilled), 95) < np.percentile(ttft_of(only), 95)


def test_without_a_score_in_seconds_the_first_model_that_is_well_answers() -> None:
    crowd = asking("either", shared_prefixes(300, seed=5))
    assert (simulate(crowd, an_alias(0), "least_in_flight").model == 0).all()


def test_a_model_finds_nothing_that_another_has_cached() -> None:
    # One machine has both models; second and third request ask for the other one with the first prompt.
    both = {"class": "8b-a100", "models": {"large": 0, "small": 0}, "resident": ["large", "small"]}
    trace = trace_of(
        [0.0, 5.0, 10.0], 1000, 5, prefixes=[0, 0, 0], models=("large", "small"), model=[0, 1, 1]
    )
    assert simulate(trace, fleet_of(both), "five_axis").cached_tokens.tolist() == [0, 0, 960]


def test_busy_time_is_never_more_than_there_was() -> None:
    outcome = simulate(shared_prefixes(400, seed=6), fleet_of({"class": "8b-a100", "count": 3}), "lmetric")
    length_s = (outcome.end_us.max() - outcome.arrival_us[outcome.measured].min()) / 1e6
    assert (outcome.busy_s > 0).all()
    assert (outcome.busy_s <= length_s + 0.5).all()  # the step under way at the mark counts whole


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_finite_cache_never_beats_an_infinite_one(policy: str, seed: int) -> None:
    trace = shared_prefixes(300, seed)
    bound = infinite_cache_hits(trace)
    hits = []
    for kv_tokens in (6_000, 40_000, 4_000_000):
        fleet = fleet_of({"class": "8b-a100", "count": 1, "kv_tokens": kv_tokens})
        hits.append(int(simulate(trace, fleet, policy, seed=seed).cached_tokens.sum()))
    assert hits[0] < hits[1] <= hits[2] <= bound
    spread = simulate(trace, fleet_of({"class": "8b-a100", "count": 4}), policy, seed=seed)
    assert int(spread.cached_tokens.sum()) <= bound


def test_a_large_cache_on_one_engine_finds_all_that_was_shared_before_it_was_asked() -> None:
    trace = trace_of([0.0, 5.0, 10.0], 1000, 5, prefixes=[0, 0, 0])
    outcome = simulate(trace, fleet_of({"class": "8b-a100"}), "p2c")
    assert outcome.cached_tokens.tolist() == [0, 960, 960]


def test_an_answer_is_cached_where_it_was_given_and_found_by_the_next_turn() -> None:
    told = trace_of([0.0, 10.0], [1000, 1400], [301, 5], prefixes=[0, 0], next_turn=[1, -1])
    untold = trace_of([0.0, 10.0], [1000, 1400], [301, 5], prefixes=[0, 0])
    one = fleet_of({"class": "8b-a100"})
    assert simulate(told, one, "p2c").cached_tokens.tolist() == [0, 1280]  # of 1,300 the full blocks of 64
    assert simulate(untold, one, "p2c").cached_tokens.tolist() == [0, 960]
    two = simulate(told, fleet_of({"class": "8b-a100", "count": 2}), "round_robin")
    assert two.cached_tokens.tolist() == [0, 0]


def test_an_engine_at_its_power_cap_is_slower_the_more_it_would_draw() -> None:
    trace = trace_of([0.0], 1000, 100)
    full, capped, tight = (
        simulate(trace, fleet_of({"class": "8b-a100", "power_cap": cap}), "p2c") for cap in (1.0, 0.5, 0.4)
    )
    assert capped.end_us.tolist() == full.end_us.tolist()  # one request draws little more than an idle engine
    braked = fleet_of({"class": "8b-a100", "power_cap": 0.4, "power_brake": 4})
    assert simulate(trace, braked, "p2c").end_us[0] / full.end_us[0] == pytest.approx(4, abs=0.01)
    assert 1.07 < tight.end_us[0] / full.end_us[0] < 1.09  # 0.43 of its limit, and a little for 1,100 tokens


# ---- the same again


def columns(outcome: Outcome) -> list[list[int]]:
    return [
        column.tolist()
        for column in (outcome.first_us, outcome.end_us, outcome.endpoint, outcome.cached_tokens)
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    trace = shared_prefixes(200, seed=8)
    fleet = fleet_of({"class": "8b-a100", "count": 3}, replicas={"count": 2, "gossip_ms": 50})
    faults = [Fault(FaultKind.FLAP, 1, 5.0, 20.0)]
    first, again, other = (simulate(trace, fleet, policy, seed=seed, faults=faults) for seed in (1, 1, 2))
    assert columns(first) == columns(again)
    assert columns(first) != columns(other)


# ---- places, models, replicas


def test_a_far_endpoint_costs_its_round_trip() -> None:
    fleet = fleet_of({"class": "8b-a100", "region": "far"}, regions={"near": 2, "far": 60})
    near = simulate(trace_of([0.0]), fleet_of({"class": "8b-a100"}), "p2c")
    far = simulate(trace_of([0.0]), fleet, "p2c")
    assert far.first_us[0] - near.first_us[0] == 60_000
    assert far.end_us[0] - near.end_us[0] == 60_000


def test_a_model_that_is_not_there_is_loaded_once_and_makes_room() -> None:
    fleet = fleet_of({"class": "8b-a100", "models": {"base": 9, "other": 20}, "resident": ["base"]})
    trace = trace_of([0.0, 1.0, 1.1, 50.0, 100.0], models=("base", "other"), model=[0, 1, 1, 1, 0])
    outcome = simulate(trace, fleet, "p2c")
    ttft_s = ttft_of(outcome)
    assert ttft_s[0] < 1
    assert 20 < ttft_s[1] < 21 and 19.9 < ttft_s[2] < 21
    assert ttft_s[3] < 1
    assert 9 < ttft_s[4] < 10


def test_requests_go_only_where_their_model_is() -> None:
    fleet = fleet_of(
        {"class": "8b-a100", "models": {"a": 1}, "resident": ["a"]}, {"class": "8b-a100", "models": {"b": 1}}
    )
    trace = trace_of(poisson(5, 60), models=("a", "b"), model=[0, 1] * 30)
    for policy in POLICIES:
        assert simulate(trace, fleet, policy).endpoint.tolist() == [0, 1] * 30


def test_a_call_of_a_session_waits_for_the_one_before() -> None:
    trace = trace_of([3.0, 2.0, 2.0], 100, 50, follows=[-1, 0, 1])
    outcome = simulate(trace, fleet_of({"class": "8b-a100"}), "p2c")
    assert outcome.arrival_us[0] == 3_000_000
    assert outcome.arrival_us[1] == outcome.end_us[0] + 2_000_000
    assert outcome.arrival_us[2] == outcome.end_us[1] + 2_000_000


def test_replicas_that_tell_each_other_share_load_better_than_silent_ones() -> None:
    trace = trace_of(poisson(20, 3000), 2000, 100)

    def mean_ttft_s(**replicas: Any) -> float:
        fleet = fleet_of({"class": "8b-a100", "count": 4}, replicas=replicas)
        return float(ttft_of(simulate(trace, fleet, "least_in_flight")).mean())

    one, told, silent = mean_ttft_s(), mean_ttft_s(count=4, gossip_ms=20), mean_ttft_s(count=4, gossip_ms=0)
    assert told < 0.8 * silent
    assert one < 1.05 * told


def test_replicas_that_tell_each_other_know_what_the_others_had_cached() -> None:
    trace = shared_prefixes(400, seed=3)

    def hit_tokens(gossip_ms: float) -> int:
        replicas = {"count": 4, "gossip_ms": gossip_ms}
        fleet = fleet_of({"class": "8b-a100", "count": 4}, replicas=replicas)
        return int(simulate(trace, fleet, "five_axis").cached_tokens.sum())

    assert hit_tokens(20) > 1.1 * hit_tokens(0)


def test_engines_that_tell_their_queues_make_up_for_replicas_that_are_silent() -> None:
    trace = trace_of(poisson(20, 3000), 2000, 100)

    def mean_ttft_s(poll_ms: float) -> float:
        silent = {"count": 4, "gossip_ms": 0}
        fleet = fleet_of({"class": "8b-a100", "count": 4}, replicas=silent, poll_ms=poll_ms)
        return float(ttft_of(simulate(trace, fleet, "five_axis")).mean())

    assert mean_ttft_s(100) < 0.95 * mean_ttft_s(0)


def test_what_a_replica_tells_is_dropped_when_it_is_not_told_again(deciders: list[Decider]) -> None:
    trace = trace_of([0.0] * 40 + [6.0], 2000, 400)
    fleet = fleet_of({"class": "8b-a100", "count": 2}, replicas={"count": 2, "gossip_ms": 500})
    faults = [Fault(FaultKind.SIGNALS, -1, 1.0, 60.0)]
    simulate(trace, fleet, "least_in_flight", faults=faults)
    for decider in deciders:
        assert decider.load.total_in_flight() == 0


# ---- faults


def run_with(fault: Fault, policy: str = "five_axis", **settings: Any) -> tuple[Outcome, NDArray[np.bool_]]:
    trace = trace_of(poisson(8, 1200), 1500, 60)
    outcome = simulate(trace, fleet_of({"class": "8b-a100", "count": 4}, **settings), policy, faults=[fault])
    arrival_s = outcome.arrival_us / 1e6
    return outcome, (arrival_s > fault.start_s) & (arrival_s < fault.end_s)


def share(outcome: Outcome, rows: NDArray[np.bool_], endpoint: int = 0) -> float:
    return float((outcome.endpoint[rows] == endpoint).mean())


def test_a_slow_endpoint_gets_less_and_its_share_back() -> None:
    outcome, within = run_with(Fault(FaultKind.SLOW, 0, 40.0, 80.0))
    assert (outcome.state == State.DONE).all()
    assert share(outcome, within) < 0.15
    figures = measure(outcome)
    assert figures["fault_share"] == pytest.approx(share(outcome, within), abs=0.01)
    assert figures["share_recovery_s"] is not None


def test_a_reset_fails_only_who_was_streaming_and_others_are_sent_elsewhere() -> None:
    outcome, within = run_with(Fault(FaultKind.CRASH, 0, 60.0, 90.0))
    failed = outcome.state == State.FAILED
    assert 0 < failed.sum() < 40
    assert (outcome.endpoint[failed] == 0).all() and (outcome.first_us[failed] > 0).all()
    assert (outcome.attempt_count[~failed] > 1).any()
    assert share(outcome, within & ~failed) == 0
    assert measure(outcome)["recovery_s"] is not None


def test_a_silent_endpoint_costs_a_connect_time_out_and_then_nobody_goes_there() -> None:
    outcome, within = run_with(Fault(FaultKind.HANG, 0, 60.0, 90.0))
    again = within & (outcome.attempt_count > 1) & (outcome.state == State.DONE)
    assert again.any()
    assert (ttft_of(outcome)[again] > 2.0).all()
    assert share(outcome, within & (outcome.state == State.DONE)) == 0


def test_fast_errors_do_not_draw_the_load() -> None:
    outcome, within = run_with(Fault(FaultKind.ERRORS, 0, 40.0, 100.0))
    assert (outcome.state == State.DONE).all()
    assert (outcome.attempt_count[within] > 1).mean() < 0.15
    assert share(outcome, within) == 0


def test_an_endpoint_that_failed_is_tried_again_by_itself_and_gets_its_share_back() -> None:
    trace = trace_of(poisson(16, 2880), 1500, 60)
    fault = Fault(FaultKind.ERRORS, 0, 20.0, 60.0)
    outcome = simulate(trace, fleet_of({"class": "8b-a100", "count": 4}), "five_axis", faults=[fault])
    arrival_s = outcome.arrival_us / 1e6
    assert share(outcome, (arrival_s > 25) & (arrival_s < 60)) == 0
    assert share(outcome, arrival_s > 150) > 0.2


def test_a_drained_endpoint_gets_nothing_and_comes_back_cold() -> None:
    outcome, within = run_with(Fault(FaultKind.REJOIN, 0, 40.0, 80.0))
    assert share(outcome, within) == 0
    assert share(outcome, outcome.arrival_us > 110e6) > 0.1


def test_a_flapping_endpoint_loses_no_request_that_had_not_begun_to_stream() -> None:
    outcome, _ = run_with(Fault(FaultKind.FLAP, 0, 40.0, 80.0))
    failed = outcome.state == State.FAILED
    assert failed.sum() < 60
    assert (outcome.first_us[failed] > 0).all()


def test_a_prompt_that_no_cache_holds_fails_at_once_and_is_not_sent_elsewhere() -> None:
    fleet = fleet_of({"class": "8b-a100", "count": 3, "kv_tokens": 1000})
    outcome = simulate(trace_of([0.0, 1.0], [5000, 100]), fleet, "p2c")
    assert outcome.state.tolist() == [State.FAILED, State.DONE]
    assert outcome.attempt_count.tolist() == [1, 1]


def test_with_everybody_down_requests_fail_after_three_attempts() -> None:
    fleet = fleet_of({"class": "8b-a100", "count": 5})
    outcome = simulate(trace_of([1.0, 2.0]), fleet, "p2c", faults=[Fault(FaultKind.CRASH, -1, 0.0, 10.0)])
    assert outcome.state.tolist() == [State.FAILED, State.FAILED]
    assert outcome.attempt_count.tolist() == [3, 3]

"""Explained decisions: what a record says, which reason it gives, and a ring that many processes read."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
from msgspec import structs

from router import limits
from router.native.decision import Decider
from router.native.explain import REASONS, ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.prefix import PrefixTable
from router.schema.policies import FiveAxis
from tests.support.figures import Figures

ROUND_ROBIN, PEAK_EWMA, FIVE_AXIS = 1, 9, 19
ONE_SECOND_US = 1_000_000


class Fleet:
    """Four endpoints and everything a decision reads, with a ring of two columns."""

    def __init__(self, *figures: Figures) -> None:
        self.load = LoadTable.create(16, 2)
        self.prefix = PrefixTable.create(1 << 20, 16)
        self.learner = Learner.create(16)
        for slot, of_slot in enumerate(figures or [Figures()] * 4):
            self.learner.set_figures(slot, of_slot)
        self.slots = range(len(figures) or 4)
        self.decider = Decider(self.load, self.prefix, self.learner, 0)
        self.ring = ExplainRing.create(2)

    def explain(self, request_id: str = "r", kind: int = FIVE_AXIS, **given: Any) -> str | None:
        settings: dict[str, Any] = {"knobs": knobs(), "now_us": ONE_SECOND_US, "prompt_tokens": 1000, **given}
        if kind != FIVE_AXIS:
            settings["knobs"] = ()
        return self.ring.explain(self.decider, kind, self.slots, request_id, **settings)

    def explained(self, request_id: str = "r", kind: int = FIVE_AXIS, **given: Any) -> dict[str, Any]:
        self.explain(request_id, kind, **given)
        return self.ring.find(request_id)[0]


def knobs(**changed: float) -> tuple[float, ...]:
    """Of five_axis: no band, so that scores decide, and every weight simple."""
    simple: dict[str, float] = {
        **{"beta": 1.0, "gamma": 0.25, "kappa": 0.0, "band_ratio": 0.0, "band_ms": 0.0, "cost_weight": 1.0},
        **{"barrier_s": 1.0, "error_s": 1.0, "slo_penalty": 10.0},
    }
    return structs.replace(FiveAxis(), **{**simple, **changed}).knobs()


# ---- what a record says


def test_a_decision_is_found_by_its_request_with_what_it_saw() -> None:
    fleet = Fleet()
    for _ in range(3):
        fleet.load.charge(1, 2, prompt_tokens=500, uncached_tokens=500, work_us=50_000, now_us=ONE_SECOND_US)
    found = fleet.explained("abc", output_tokens=20, key=7, wall_us=5, attempt=1)
    assert {name: found[name] for name in found if name not in ("shown", "reason")} == {
        "request_id": "abc",
        "wall_us": 5,
        "route": 0,
        "policy": FIVE_AXIS,
        "attempt": 1,
        "candidates": 4,
        "eligible": 4,
        "prompt_tokens": 1000,
        "output_tokens": 20,
        "has_session": True,
        "session": "",
        "session_tokens": 0,
    }
    assert [candidate["slot"] for candidate in found["shown"]][-1] == 2
    busiest = found["shown"][-1]
    assert busiest["in_flight"] == 3
    assert busiest["queued_s"] == pytest.approx(0.15, rel=0.05)


def test_the_winner_is_first_and_three_runners_up_follow_by_score() -> None:
    fleet = Fleet(*(Figures(rtt_s=rtt_s) for rtt_s in (0.05, 0.03, 0.01, 0.04, 0.02, 0.06)))
    shown = fleet.explained()["shown"]
    assert [candidate["slot"] for candidate in shown] == [2, 4, 1, 3]
    scores = [candidate["score"] for candidate in shown]
    assert scores == sorted(scores)


@pytest.mark.parametrize("target_s", [0.0, 0.01, 10.0])
def test_the_terms_add_up_to_the_score(target_s: float) -> None:
    fleet = Fleet(
        Figures(input_price=1e-5, rtt_s=0.02),
        Figures(second_price=0.1, context_s=1e-7),
        Figures(output_price=3e-5, pair_s=1e-9),
    )
    for slot in range(3):
        for _ in range(slot + 1):
            fleet.load.charge(
                1, slot, prompt_tokens=900, uncached_tokens=800, work_us=80_000, kv_tokens=30_000
            )
    shown = fleet.explained(output_tokens=100, ttft_target_s=target_s, knobs=knobs(kappa=0.5))["shown"]
    assert len(shown) == 3
    for candidate in shown:
        assert math.fsum(candidate["terms"].values()) == pytest.approx(candidate["score"], rel=1e-4)


def test_policies_without_a_score_show_requests_in_flight_and_no_terms() -> None:
    fleet = Fleet()
    fleet.load.charge(1, 3)
    shown = fleet.explained(kind=ROUND_ROBIN)["shown"]
    assert [(candidate["score"], candidate["terms"]) for candidate in shown] == [(None, None)] * 4
    assert shown[-1]["slot"] == 3


def test_other_policies_that_weigh_show_their_score_alone() -> None:
    shown = Fleet().explained(kind=PEAK_EWMA)["shown"]
    assert shown[0]["score"] is not None
    assert shown[0]["terms"] is None


def test_nobody_to_pick_is_nothing_to_record() -> None:
    fleet = Fleet()
    assert fleet.explain(excluded=range(4)) is None
    assert fleet.ring.latest(10) == []


# ---- reasons


def test_a_retry_says_so() -> None:
    assert Fleet().explain(attempt=2, excluded=[0]) == "retry"


def test_with_one_endpoint_left_it_is_the_only_one() -> None:
    fleet = Fleet()
    assert fleet.explain(excluded=[0, 1, 2]) == "only"
    assert fleet.ring.find("r")[0]["eligible"] == 1
    assert Fleet(Figures()).explain(kind=ROUND_ROBIN) == "only"


def test_with_every_endpoint_ejected_it_is_panic() -> None:
    fleet = Fleet()
    for slot in range(4):
        fleet.load.eject(
            slot, now_us=ONE_SECOND_US - 1, base_us=10 * ONE_SECOND_US, max_us=10 * ONE_SECOND_US
        )
    assert fleet.explain() == "panic"
    assert fleet.ring.find("r")[0]["eligible"] == 4


def test_another_policys_choice_is_the_policys() -> None:
    assert Fleet().explain(kind=ROUND_ROBIN) == "policy"
    assert Fleet().explain(kind=PEAK_EWMA) == "policy"
    assert Fleet().explain(knobs=knobs(ratio_mode=1.0)) == "policy"


def test_of_equal_endpoints_the_session_decides_or_a_draw() -> None:
    assert Fleet().explain(key=7) == "session"
    assert Fleet().explain() == "tie"


def test_a_cached_prompt_that_made_the_difference_is_the_reason() -> None:
    fleet = Fleet()
    fleet.prefix.insert([11, 12], [400, 900], 1, 900, ONE_SECOND_US)
    fleet.load.charge(1, 1, prompt_tokens=100, uncached_tokens=100, work_us=10_000, now_us=ONE_SECOND_US)
    assert fleet.explain(blocks=[11, 12], block_tokens=[400, 900]) == "cached"
    found = fleet.ring.find("r")[0]["shown"]
    assert found[0]["slot"] == 1
    assert found[0]["hit_tokens"] == pytest.approx(900)


def test_a_cached_prompt_that_made_no_difference_is_not_the_reason() -> None:
    fleet = Fleet(Figures(), Figures(rtt_s=0.5))
    fleet.prefix.insert([11], [400], 0, 400, ONE_SECOND_US)
    assert fleet.explain(blocks=[11], block_tokens=[400]) == "fastest"


def test_the_least_predicted_time_is_the_fastest() -> None:
    assert Fleet(Figures(), Figures(rtt_s=0.2)).explain() == "fastest"


def test_a_slower_one_that_costs_less_is_cheaper() -> None:
    fleet = Fleet(Figures(input_price=1e-3), Figures(rtt_s=0.2))
    assert fleet.explain() == "cheaper"
    assert fleet.ring.find("r")[0]["shown"][0]["slot"] == 1


def test_a_slower_one_whose_steps_are_shorter_has_headroom() -> None:
    fleet = Fleet(Figures(floor_s=0.2), Figures(rtt_s=0.2))
    assert fleet.explain(output_tokens=1000) == "headroom"


def test_a_slower_one_that_fails_less_is_healthier() -> None:
    fleet = Fleet(Figures(), Figures(rtt_s=0.05))
    for _ in range(20):
        fleet.load.observe_outcome(0, True, ONE_SECOND_US)
    assert fleet.explain() == "healthier"


# ---- the ring


def test_all_attempts_of_a_request_are_found_newest_first() -> None:
    fleet = Fleet()
    fleet.explain("r", wall_us=10, attempt=1)
    fleet.explain("other", wall_us=11)
    fleet.explain("r", wall_us=12, attempt=2, column=1)
    assert [found["attempt"] for found in fleet.ring.find("r")] == [2, 1]
    assert fleet.ring.find("nobody") == []
    assert fleet.ring.find("") == []


def test_the_newest_of_all_workers_come_first() -> None:
    fleet = Fleet()
    for wall_us in range(1, 11):
        fleet.explain(f"r{wall_us}", wall_us=wall_us, column=wall_us % 2)
    assert [found["wall_us"] for found in fleet.ring.latest(3)] == [10, 9, 8]
    assert len(fleet.ring.latest(1000)) == 10
    assert fleet.ring.latest(0) == []


def test_the_oldest_gives_way_when_the_ring_is_full() -> None:
    fleet = Fleet()
    count = limits.EXPLAIN_RECORDS_MAX
    for number in range(count + 2):
        fleet.explain(f"r{number}", kind=ROUND_ROBIN, wall_us=number)
    assert fleet.ring.written(0) == count + 2
    assert fleet.ring.find("r0") == []
    assert fleet.ring.find("r1") == []
    assert fleet.ring.find("r2")[0]["wall_us"] == 2
    assert fleet.ring.find(f"r{count + 1}")[0]["wall_us"] == count + 1
    assert len(fleet.ring.latest(2 * count)) == count


def test_a_long_request_id_is_cut_and_found_all_the_same() -> None:
    fleet = Fleet()
    fleet.explain("x" * 200)
    assert fleet.ring.find("x" * 200)[0]["request_id"] == "x" * 128


def test_a_reader_never_sees_half_a_record() -> None:
    ring = ExplainRing.create(1)
    body = f"""
from router.native.explain import ExplainRing
ring = ExplainRing.attach({ring.fd})
for turn in range(200):
    ring.churn(0, turn * 50_000, 50_000)
"""
    read = 0
    with subprocess.Popen([sys.executable, "-c", body], pass_fds=[ring.fd]) as child:
        while child.poll() is None:
            for found in ring.latest(limits.EXPLAIN_RECORDS_MAX):  # the oldest are being overwritten
                read += 1
                number = found["prompt_tokens"]
                assert found["output_tokens"] == found["candidates"] == found["eligible"] == number
                assert found["wall_us"] == number << 32 | number
                assert [candidate["slot"] for candidate in found["shown"]] == [number] * 4
    assert child.returncode == 0
    assert read > 64
    assert ring.written(0) == 10_000_000


def test_a_record_whose_writer_died_is_passed_over_until_it_is_written_again() -> None:
    fleet = Fleet()
    fleet.explain("dying")
    fd = os.dup(fleet.ring.fd)
    try:
        sequence = os.pread(fd, 8, 4096)
        assert int.from_bytes(sequence, "little") == 2
        os.pwrite(fd, (3).to_bytes(8, "little"), 4096)
    finally:
        os.close(fd)
    assert fleet.ring.find("dying") == []
    assert fleet.ring.latest(10) == []
    for number in range(limits.EXPLAIN_RECORDS_MAX):
        fleet.explain(f"r{number}", kind=ROUND_ROBIN)
    assert len(fleet.ring.latest(2000)) == limits.EXPLAIN_RECORDS_MAX


def test_another_process_reads_what_is_written_here() -> None:
    fleet = Fleet()
    fleet.explain("abc", wall_us=9)
    other = ExplainRing.attach(fleet.ring.fd)
    assert other.column_count == 2
    assert other.find("abc") == fleet.ring.find("abc")


def test_columns_and_descriptors_that_are_not_there_are_refused() -> None:
    fleet = Fleet()
    with pytest.raises(IndexError, match="column 2 of 2"):
        fleet.explain(column=2)
    with pytest.raises(ValueError, match="1 to 256 columns"):
        ExplainRing.create(0)
    fd = os.memfd_create("nothing")
    try:
        with pytest.raises(ValueError, match="empty"):
            ExplainRing.attach(fd)
        os.ftruncate(fd, 8192)
        with pytest.raises(ValueError, match="no ring"):
            ExplainRing.attach(fd)
        os.pwrite(fd, os.pread(fleet.ring.fd, 24, 0), 0)
        with pytest.raises(ValueError, match="size"):
            ExplainRing.attach(fd)
        os.pwrite(fd, (99).to_bytes(4, "little"), 8)
        with pytest.raises(ValueError, match="layout 99"):
            ExplainRing.attach(fd)
    finally:
        os.close(fd)


def test_columns_nobody_writes_cost_no_memory() -> None:
    ring = ExplainRing.create(2 * limits.WORKERS_MAX)
    ring.churn(0, 1, 1)
    ring.latest(1000)
    ring.find("x")
    assert os.stat(ring.fd).st_blocks * 512 < 1 << 16


def test_every_reason_has_a_token_that_goes_into_a_header() -> None:
    assert len(set(REASONS)) == len(REASONS)
    assert all(reason.isalpha() and reason.islower() for reason in REASONS[1:])

"""The learner: what it predicts from figures alone, how it follows engines, and that nothing breaks it."""

from __future__ import annotations

import math
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.native.learner import Learner
from tests.support.figures import Figures

SECOND_US = 1_000_000
ENGINE = Figures(token_s=70e-6, pair_s=3.4e-9, floor_s=0.0108, base_s=0.006, context_s=92e-9)


def made(*figures: Figures) -> Learner:
    learner = Learner.create(len(figures))
    for slot, one in enumerate(figures):
        learner.set_figures(slot, one)
    return learner


def test_before_anything_is_learnt_a_prediction_is_the_work_and_a_little() -> None:
    learner = made(ENGINE)
    work_s = learner.work(0, 1000, 1000)
    assert work_s == pytest.approx(0.07 + 3.4e-9 * 1000 * 500)
    assert learner.predict(0, 0, work_s) == pytest.approx(0.02 + work_s)
    assert learner.predict(0, 2, work_s, 10) == pytest.approx(0.02 + 2 + work_s + 0.003)


def test_cached_tokens_cost_attention_only_of_those_that_are_not() -> None:
    learner = made(ENGINE)
    assert learner.work(0, 1000, 100) == pytest.approx(70e-6 * 100 + 3.4e-9 * 100 * 950, rel=1e-5)


class Rls:
    """Recursive least squares with forgetting, as a textbook has it (Haykin, Adaptive Filter Theory, RLS)."""

    def __init__(self) -> None:
        self.theta = np.array([0.02, 1.0, 1.0, 0.0003])
        self.p = np.diag([0.01, 0.1, 0.1, 1e-6])

    def predict(self, x: np.ndarray) -> float:
        return float(max(0.3 * (x[1] + x[2]) + self.theta[0], self.theta @ x))

    def fit(self, x: np.ndarray, y: float, forgetting: float = 0.999) -> None:
        scale = 1 / max(self.predict(x), 0.05)
        x, y = x * scale, y * scale
        gain = self.p @ x / (forgetting + x @ self.p @ x)
        self.theta = np.clip(self.theta + gain * (y - self.theta @ x), [0, 0.1, 0.1, 0], [5, 5, 5, 0.1])
        self.p = (self.p - np.outer(gain, x @ self.p)) / forgetting


def test_theta_follows_recursive_least_squares() -> None:
    learner, oracle, draw = made(ENGINE), Rls(), random.Random(5)
    for index in range(400):
        x = np.array([1, draw.expovariate(1), draw.expovariate(4), draw.randrange(64)])
        y = max(0.01, float(np.array([0.05, 0.7, 1.2, 0.001]) @ x) * draw.lognormvariate(0, 0.1))
        predicted = learner.predict(0, x[1], x[2], x[3])
        assert predicted == pytest.approx(oracle.predict(x), rel=2e-3)
        learner.first_token(0, y, index * 10_000, queued_s=x[1], work_s=x[2], decoding=x[3])
        oracle.fit(x, y)
    assert learner.view(0, 0)["theta"] == pytest.approx(oracle.theta, rel=1e-2, abs=1e-4)
    assert learner.view(0, 0)["theta"][1:3] == pytest.approx([0.7, 1.2], rel=0.15)


def test_endpoints_of_one_class_learn_together_and_others_do_not() -> None:
    learner = made(ENGINE, ENGINE, structs.replace(ENGINE, engine_class=1))
    before = learner.predict(1, 1, 0.5)
    for index in range(200):
        learner.first_token(0, 3, index * 10_000, queued_s=1, work_s=0.5)
    assert learner.predict(1, 1, 0.5) > before * 1.3
    assert learner.predict(2, 1, 0.5) == before


def test_an_endpoint_that_turns_slow_shows_in_its_residual_and_is_forgiven_with_time() -> None:
    learner = made(ENGINE, ENGINE)
    for index in range(30):
        learner.first_token(0, 10 * learner.predict(0, 0, 0.1), index * 1000, queued_s=0, work_s=0.1)
    slow = learner.view(0, 30_000)
    assert slow["residual"] > 5
    assert learner.view(1, 30_000)["residual"] == 1
    assert slow["theta"] == learner.view(1, 30_000)["theta"]  # an outlier says nothing about the class
    later = learner.view(0, 30_000 + 60 * SECOND_US)["residual"]
    assert later == pytest.approx(1 + (slow["residual"] - 1) * math.exp(-3), rel=0.02)
    for day in (1, 24, 25, 40, 49):  # stamps are 32 bits of milliseconds, which last for 49.7 days
        assert learner.view(0, 30_000 + day * 86_400 * SECOND_US)["residual"] == pytest.approx(1)


def residual_after(*first_tokens: tuple[float, float], prompt_tokens: int = 0) -> float:
    """Of (seconds of work, times as long as predicted), one after the other."""
    learner = made(ENGINE)
    for index, (work_s, ratio) in enumerate(first_tokens):
        ttft_s = ratio * learner.predict(0, 0, work_s)
        learner.first_token(0, ttft_s, index * 1000, queued_s=0, work_s=work_s, prompt_tokens=prompt_tokens)
    return float(learner.view(0, 10_000)["residual"])


def test_a_surprise_counts_for_far_more_than_an_ordinary_error() -> None:
    assert residual_after((2, 1.5)) == pytest.approx(1.5**0.15, rel=0.01)
    assert residual_after((2, 10)) > 5
    late, slack = 2.02, 2048 * ENGINE.token_s
    surprise = math.log((10 * late + slack) / (late + slack)) ** 4
    assert residual_after((2, 10)) == pytest.approx(10 ** (surprise / (surprise + 3.7)), rel=0.01)


def test_a_slow_endpoint_is_as_its_class_again_after_few_first_tokens_and_never_better_at_once() -> None:
    assert residual_after((2, 10), (2, 10), (2, 10)) > 7
    assert 1 <= residual_after((2, 10), (2, 10), (2, 10), (2, 1)) < 2
    assert 1 <= residual_after((2, 10), (2, 10), (2, 10), (2, 0.2)) < 2
    assert residual_after((2, 0.1)) == pytest.approx(0.1**0.15, rel=0.01)


def test_what_a_running_step_or_a_forgotten_prefix_explains_is_no_surprise() -> None:
    assert residual_after((0.01, 5)) < 5**0.16  # 0.15 s, where a step with a chunk in it takes as long
    assert (
        residual_after((0.1, 13), prompt_tokens=20_000) < 13**0.16
    )  # 1.6 s, where the whole prompt takes 2 s
    assert residual_after((0.1, 13)) > 4


def test_a_fast_failure_counts_as_slow() -> None:
    learner = made(ENGINE)
    learner.failed(0, 0.001, 60, 0, work_s=0.1)
    assert learner.view(0, 0)["residual"] > 1.3


def test_decode_steps_have_a_residual_of_their_own() -> None:
    learner = made(ENGINE)
    for index in range(40):
        learner.decoded(0, 0.0216, 1, 0, 100, index)
    assert learner.view(0, 40)["step_residual"] == pytest.approx(2, rel=0.02)
    assert learner.view(0, 40)["residual"] == 1


def test_steps_ten_times_as_long_are_a_surprise_and_three_times_are_load() -> None:
    step_s = 0.0108

    def after(*ratios: float) -> float:
        learner = made(ENGINE)
        for index, ratio in enumerate(ratios):
            learner.decoded(0, ratio * step_s, 1, 0, 100, index)
        return learner.view(0, len(ratios))["step_residual"]

    assert after(3) == pytest.approx(3**0.15, rel=0.02)
    surprise = math.log(11 / 2) ** 4
    assert after(10) == pytest.approx(10 ** (surprise / (surprise + 3.7)), rel=0.02)
    assert after(10, 10, 10) > after(10)
    assert after(10, 10, 10, 1) < 3


def test_a_machine_is_slow_when_its_first_tokens_and_its_steps_both_are() -> None:
    learner = made(ENGINE)
    assert learner.view(0, 0)["slowness"] == 1
    for index in range(4):
        learner.first_token(0, 10 * learner.predict(0, 0, 2.0), index, queued_s=0, work_s=2.0)
    late = learner.view(0, 4)
    assert late["residual"] > 8 and late["slowness"] < 1.2  # a queue, or a full cache, would look the same
    for index in range(4):
        learner.decoded(0, 0.108, 1, 0, 100, index)
    slow = learner.view(0, 4)
    assert slow["slowness"] == pytest.approx(slow["residual"] * slow["step_residual"] / 9, rel=1e-4)
    assert slow["slowness"] > 5
    streams = made(ENGINE)
    for index in range(4):
        streams.decoded(0, 0.108, 1, 0, 100, index)
    assert streams.view(0, 4)["slowness"] < 1.2
    assert learner.view(0, 60_000_000)["slowness"] == 1  # forgotten where nothing is sent
    for index in range(100):
        learner.first_token(0, 1e6, index, queued_s=0, work_s=2.0)
        learner.decoded(0, 1e6, 1, 0, 100, index)
    assert learner.view(0, 100)["slowness"] == 20


def test_output_lengths_are_running_means_bounded_by_what_was_asked_for() -> None:
    learner = made(ENGINE)
    assert learner.expected_output(7) == 256
    for tokens in (100, 200, 300):
        learner.output(7, tokens)
    assert learner.expected_output(7) == 200
    assert learner.expected_output(7, 50) == 50
    assert learner.expected_output(7, 0) == 1
    assert learner.expected_output(8) == 256


def test_tokens_are_estimated_from_bytes_by_what_usage_said() -> None:
    learner = made(ENGINE)
    assert learner.prompt_tokens(3, 0) == 0
    assert learner.prompt_tokens(3, 4000) == 1000
    learner.prompt(3, 3000, 1000)
    assert learner.prompt_tokens(3, 3000) == 1000
    learner.prompt(3, 3000, 0)
    assert learner.prompt_tokens(3, 3000) == 1000


def test_a_new_endpoint_starts_slowly_and_afresh() -> None:
    learner = made(ENGINE)
    learner.first_token(0, 5, 0, queued_s=0, work_s=0.1)
    learner.joined(0, 10 * SECOND_US)
    assert learner.view(0, 10 * SECOND_US + 1)["residual"] == 1


def test_workers_share_what_they_learn() -> None:
    learner = made(ENGINE)
    fd = os.dup(learner.fd)
    other = Learner.attach(fd)
    os.close(fd)
    other.set_figures(0, ENGINE)
    for index in range(50):
        learner.first_token(0, 4, index, queued_s=1, work_s=0.5)
    assert other.view(0, 50)["theta"] == learner.view(0, 50)["theta"]
    assert other.view(0, 50)["residual"] == learner.view(0, 50)["residual"]


odd = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e38])


@given(st.lists(st.tuples(odd, odd, odd, odd, st.integers(0, 2**40)), max_size=60))
def test_nothing_that_comes_in_makes_a_prediction_nan(
    samples: list[tuple[float, float, float, float, int]],
) -> None:
    learner = made(ENGINE)
    for ttft_s, queued_s, work_s, decoding, now_us in samples:
        learner.first_token(0, ttft_s, now_us, queued_s=queued_s, work_s=work_s, decoding=decoding)
        learner.failed(0, ttft_s, queued_s, now_us, work_s=work_s)
        learner.decoded(0, ttft_s, queued_s, work_s, 3, now_us)
        learner.set_figures(0, Figures(token_s=ttft_s, pair_s=queued_s, floor_s=work_s, rtt_s=decoding))
    learner.set_figures(0, ENGINE)
    view = learner.view(0, 2**40)
    numbers = [value for value in view.values() if isinstance(value, float)] + view["theta"]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert 0 < learner.predict(0, 1, 1, 1) < 601

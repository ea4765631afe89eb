"""The mock engines' step model: nothing is lost, a step lasts what the formula says, the cache is honest."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.native.step import StepModel, prompt_block_hashes
from router.schema.engines import CLASSES, OVERHEAD_MS

A100 = CLASSES["8b-a100"]


def small_model(kv_tokens: int) -> StepModel:
    return StepModel((*A100[:5], kv_tokens))


def run_to_end(model: StepModel, steps_max: int = 100_000) -> int:
    """Run until nothing is left; how many sequences finished."""
    finished = 0
    for _ in range(steps_max):
        if model.begin() < 0:
            return finished
        finished += sum(done for _, done in model.end())
    raise AssertionError("the model does not come to an end")


def expected_ms(chunks: Sequence[tuple[int, int]], contexts: Sequence[int]) -> float:
    """The formula of the design, spelled out: prefill chunks (size, tokens before), decoding contexts."""
    floor, base, per_token, attention, per_context, _ = A100
    tokens = sum(size for size, _ in chunks) + len(contexts)
    quadratic = attention * sum(size * (before + size / 2) for size, before in chunks)
    return max(floor, base + per_token * tokens) + quadratic + per_context * sum(contexts) + OVERHEAD_MS


def test_prefill_is_cut_to_the_chunk_budget_and_timed_by_the_formula() -> None:
    model = StepModel(A100)
    model.submit(5000, 2)
    assert model.begin() == pytest.approx(expected_ms([(2048, 0)], []))
    assert model.end() == []
    assert model.begin() == pytest.approx(expected_ms([(2048, 2048)], []))
    model.end()
    assert model.begin() == pytest.approx(expected_ms([(904, 4096)], []))
    assert model.end() == [(0, False)]
    assert model.begin() == pytest.approx(expected_ms([], [5000]))
    assert model.end() == [(0, True)]
    assert model.begin() < 0


def test_a_batch_decodes_together_while_a_newcomer_prefills() -> None:
    model = StepModel(A100)
    for prompt_tokens in (100, 200, 300):
        model.submit(prompt_tokens, 50)
    assert model.begin() == pytest.approx(expected_ms([(100, 0), (200, 0), (300, 0)], []))
    assert len(model.end()) == 3
    model.submit(1000, 50)
    assert model.begin() == pytest.approx(expected_ms([(1000, 0)], [100, 200, 300]))
    assert len(model.end()) == 4


def test_admission_is_first_come_first_served_up_to_256_sequences() -> None:
    model = StepModel(A100)
    for _ in range(300):
        model.submit(4, 3)
    model.begin()
    assert model.counts()["running"] == 256
    assert model.counts()["waiting"] == 44
    assert [index for index, _ in model.end()] == list(range(256))


def test_a_repeated_prompt_is_found_in_the_cache_but_for_its_last_token() -> None:
    model = StepModel(A100)
    prompt = b"p" * 640
    hashes = prompt_block_hashes(prompt)
    assert len(hashes) == 10
    model.submit(160, 1, hashes)
    run_to_end(model)
    index = model.submit(160, 1, hashes)
    model.begin()
    assert model.cached_tokens(index) == 144  # the tenth block would leave no token to compute
    model.end()
    assert model.counts()["hit_tokens"] == 144
    assert model.counts()["query_tokens"] == 320


def test_what_an_answer_fills_is_cached_when_it_ends_but_for_its_last_token() -> None:
    hashes = [100, 101, 102, 103]
    model = StepModel(A100)
    model.submit(30, 19, hashes)  # 48 tokens are computed of 49: three blocks, one of them the prompt's
    run_to_end(model)
    index = model.submit(70, 1, hashes)
    model.begin()
    assert model.cached_tokens(index) == 48
    model.end()


def test_equal_prefixes_share_hashes_up_to_where_they_part() -> None:
    left, right = b"a" * 200 + b"left" * 40, b"a" * 200 + b"right" * 40
    same = [a == b for a, b in zip(prompt_block_hashes(left), prompt_block_hashes(right), strict=False)]
    assert same[:3] == [True, True, True]
    assert not any(same[3:])


def test_out_of_blocks_the_newest_is_put_back_and_all_finish_in_the_end() -> None:
    model = small_model(kv_tokens=320)  # 20 blocks for two sequences that grow to 12 each
    model.submit(100, 90)
    model.submit(100, 90)
    assert run_to_end(model) == 2
    assert model.counts()["preemptions"] >= 1
    assert model.counts()["free_blocks"] == 20
    assert model.broken_invariant() == ""


def test_what_can_never_fit_is_refused() -> None:
    model = small_model(kv_tokens=160)
    assert model.submit(150, 11) == -1
    assert model.submit(150, 10) >= 0


def test_a_slow_sequence_gets_a_token_every_stride_steps() -> None:
    model = StepModel(A100)
    model.submit(10, 30)
    slow = model.submit(10, 30, (), 5)
    tokens = 0
    for _ in range(20):
        model.begin()
        tokens += sum(index == slow for index, _ in model.end())
    assert 4 <= tokens <= 5


actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 12), st.integers(1, 60), st.integers(0, 2)),
        st.tuples(st.just("step"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("abort"), st.integers(0, 1000), st.just(0), st.just(0)),
        st.tuples(st.just("abort in step"), st.integers(0, 1000), st.just(0), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_no_block_is_lost_and_the_cache_never_beats_an_infinite_one(
    plan: list[tuple[str, int, int, int]],
) -> None:
    model = small_model(kv_tokens=640)
    seen: set[int] = set()  # every block hash ever submitted: the infinite cache
    most_hits = 0
    alive: list[int] = []
    submitted = finished = aborted = 0

    def abort(choice: int) -> int:
        if not alive:
            return 0
        model.abort(alive.pop(choice % len(alive)))
        return 1

    for kind, first, second, third in plan:
        if kind == "submit":
            hashes = prompt_block_hashes(bytes([65 + third]) * (64 * first))
            index = model.submit(16 * first, second, hashes)
            if index >= 0:
                alive.append(index)
                submitted += 1
                most_hits += 16 * sum(block in seen for block in hashes)
                seen.update(hashes)
        elif kind == "abort":
            aborted += abort(first)
        elif model.begin() >= 0:
            if kind == "abort in step":
                aborted += abort(first)
            for index, done in model.end():
                if done:
                    alive.remove(index)
                    finished += 1
        assert model.broken_invariant() == ""
        assert model.counts()["hit_tokens"] <= most_hits
    finished += run_to_end(model)
    assert submitted == finished + aborted
    assert model.counts()["free_blocks"] == model.counts()["blocks"]
    assert model.broken_invariant() == ""

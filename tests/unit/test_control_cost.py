"""What tokens cost, as measured: shares add up, idle endpoints and restarts make no nonsense."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.cost import PRICE_MAX, TOKENS_MIN, CostBasis, CostMeter, basis_of
from control.reading import Fact
from router import limits
from router.schema.config import Endpoint, EndpointPrice

BASIS = CostBasis(gpu_hour=3.6, token_s=1e-4, floor_s=0.01, base_s=0.005)  # 0.001 a second


def fed(*points: tuple[float, dict[str, float]], window_s: float = 60.0) -> CostMeter:
    meter = CostMeter(window_s=window_s)
    for at_s, facts in points:
        meter.observe([Fact(kind, value) for kind, value in facts.items()], at_s)
    return meter


def tokens(prompt: float, generated: float, **more: float) -> dict[str, float]:
    return {"prompt_tokens": prompt, "generation_tokens": generated, **more}


def test_the_hour_is_divided_among_the_tokens_by_the_time_they_take() -> None:
    meter = fed(
        (0, tokens(5_000, 100, running=10)), (10, tokens(25_000, 1_100, running=10))
    )  # 20,000 * 1e-4 = 2 s of prefill, 1,000 * 0.01 / 10 = 1 s of decoding, 0.01 for ten seconds
    cost = meter.cost(BASIS, 10)
    assert cost is not None
    assert cost.input_per_million_tokens == pytest.approx(0.01 * 2 / 3 / 20_000 * 1e6)
    assert cost.output_per_million_tokens == pytest.approx(0.01 * 1 / 3 / 1_000 * 1e6)
    assert cost.money_per_s == pytest.approx(0.001)
    assert (cost.window_s, cost.joules_per_token) == (10, None)


def test_energy_and_the_number_of_gpus_are_paid_for() -> None:
    points = [(at_s, tokens(1_000 * at_s, 100 * at_s, watts=720.0)) for at_s in range(11)]
    basis = CostBasis(gpu_hour=3.6, gpus=4, kwh=0.5, token_s=1e-4, floor_s=0.01, base_s=0.005)
    cost = fed(*points).cost(basis, 10)
    assert cost is not None
    assert cost.money_per_s == pytest.approx(0.004 + 0.5 * 720 / 3.6e6)
    assert cost.joules_per_token == pytest.approx(720 / 1_100)


def test_cached_tokens_take_no_time_but_share_the_price_of_prompts() -> None:
    begin, end = tokens(0, 0, cached_tokens=0), tokens(20_000, 1_000, cached_tokens=20_000)
    cost = fed((0, begin), (10, end)).cost(BASIS, 10)
    assert cost is not None
    assert cost.input_per_million_tokens == 0
    assert cost.output_per_million_tokens == pytest.approx(0.01 / 1_000 * 1e6)


def test_a_busier_endpoint_is_cheaper() -> None:
    prices = []
    for factor in (1, 10):
        cost = fed((0, tokens(0, 0)), (10, tokens(20_000 * factor, 1_000 * factor))).cost(BASIS, 10)
        assert cost is not None
        assert cost.output_per_million_tokens is not None
        prices.append(cost.output_per_million_tokens)
    assert prices[0] == pytest.approx(10 * prices[1])


def test_an_endpoint_that_serves_next_to_nothing_has_no_price() -> None:
    assert CostMeter().cost(BASIS, 0) is None
    assert fed((0, tokens(7, 7)), (10, tokens(7, 7))).cost(BASIS, 10) is None
    assert fed((0, tokens(0, 0)), (10, tokens(TOKENS_MIN - 2, 1))).cost(BASIS, 10) is None
    served = fed((0, tokens(0, 0)), (10, tokens(TOKENS_MIN, 1)))
    assert served.cost(BASIS, 10) is not None
    assert served.cost(BASIS, 100) is None


def test_a_counter_that_begins_again_counts_from_there() -> None:
    meter = fed((0, tokens(100_000, 10_000)), (5, tokens(2_000, 100)), (10, tokens(20_000, 1_000)))
    cost = meter.cost(BASIS, 10)
    unbroken = fed((0, tokens(0, 0)), (10, tokens(20_000, 1_000))).cost(BASIS, 10)
    assert cost == unbroken


def test_tokens_with_a_price_cost_that_price() -> None:
    basis = CostBasis(output_per_million_tokens=2.5, token_s=1e-4, floor_s=0.01, base_s=0.005)
    cost = CostMeter().cost(basis, 0)
    assert cost is not None
    assert (cost.input_per_million_tokens, cost.output_per_million_tokens, cost.window_s) == (0, 2.5, 0)


def test_without_a_price_there_is_a_cost_only_if_energy_has_one_and_watts_are_known() -> None:
    free = CostBasis(token_s=1e-4, floor_s=0.01, base_s=0.005)
    paid = CostBasis(kwh=0.36, token_s=1e-4, floor_s=0.01, base_s=0.005)
    dark = fed((0, tokens(0, 0)), (10, tokens(20_000, 1_000)))
    lit = fed((0, tokens(0, 0)), (10, tokens(20_000, 1_000, watts=1000.0)))
    assert dark.cost(free, 10) is dark.cost(paid, 10) is lit.cost(free, 10) is None
    cost = lit.cost(paid, 10)
    assert cost is not None
    assert cost.money_per_s == pytest.approx(1e-4)


def test_counters_that_come_on_another_page_are_brought_to_one_window() -> None:
    meter = CostMeter()
    for at_s in range(31):
        meter.observe([Fact("generation_tokens", 100.0 * at_s)], at_s)
        if at_s % 10 == 5:
            meter.observe([Fact("prompt_tokens", 2_000.0 * at_s)], at_s)
    cost = meter.cost(BASIS, 30)
    even = fed((0, tokens(0, 0)), (30, tokens(60_000, 3_000))).cost(BASIS, 30)
    assert cost is not None
    assert even is not None
    assert cost.output_per_million_tokens == pytest.approx(even.output_per_million_tokens)


def test_an_endpoints_prices_and_its_engines_figures_are_the_basis() -> None:
    endpoint = Endpoint(url="http://a:1", price=EndpointPrice(gpu_hour=2.0))
    basis = basis_of(endpoint, gpus=8, kwh=0.3)
    assert (basis.gpu_hour, basis.gpus, basis.kwh) == (2.0, 8, 0.3)
    assert 0 < basis.token_s < basis.base_s <= basis.floor_s


kinds = st.sampled_from(
    ["prompt_tokens", "cached_tokens", "generation_tokens", "watts", "running", "kv", "power"]
)
facts = st.builds(Fact, kinds, st.one_of(st.floats(0, 1e9), st.floats()))
moments = st.tuples(st.one_of(st.floats(0, 200), st.floats()), st.lists(facts, max_size=5))
bases = st.builds(
    CostBasis,
    gpu_hour=st.one_of(st.none(), st.floats(0, 1e9)),
    input_per_million_tokens=st.one_of(st.none(), st.floats(0, 1e9)),
    gpus=st.integers(1, 64),
    kwh=st.floats(0, 1e9),
    token_s=st.floats(0, 1),
    floor_s=st.floats(0, 1),
    base_s=st.floats(0, 1),
)


@given(st.lists(moments, max_size=30), bases, st.floats(0, 300))
def test_whatever_is_told_a_price_is_a_number_that_is_not_negative_or_unknown(
    told: list[tuple[float, list[Fact]]], basis: CostBasis, now_s: float
) -> None:
    meter = CostMeter()
    for at_s, said in told:
        meter.observe(said, at_s)
    cost = meter.cost(basis, now_s)
    if cost is not None:
        prices = (cost.input_per_million_tokens, cost.output_per_million_tokens)
        assert all(price is None or 0 <= price <= PRICE_MAX for price in prices)
        others = (cost.money_per_s, cost.joules_per_token, cost.window_s)
        assert all(value is None or (math.isfinite(value) and value >= 0) for value in others)


@given(
    st.integers(1_000, 10**7),
    st.integers(1, 10**6),
    st.integers(0, 10**7),
    st.floats(1, 500),
    st.floats(1, 60),
)
def test_what_all_tokens_cost_is_what_the_time_cost(
    prompt: int, generated: int, cached: int, running: float, seconds: float
) -> None:
    begin = tokens(0, 0, cached_tokens=0, running=running)
    end = tokens(prompt, generated, cached_tokens=min(cached, prompt), running=running)
    cost = fed((0, begin), (seconds, end)).cost(BASIS, seconds)
    assert cost is not None
    assert cost.input_per_million_tokens is not None
    assert cost.output_per_million_tokens is not None
    paid = (cost.input_per_million_tokens * prompt + cost.output_per_million_tokens * generated) / 1e6
    assert paid == pytest.approx(0.001 * seconds)


def test_what_is_kept_is_bounded() -> None:
    meter = CostMeter(window_s=1e9)
    for at_s in range(limits.COST_POINTS_MAX * 2):
        meter.observe([Fact("prompt_tokens", at_s * 10.0), Fact("generation_tokens", at_s * 10.0)], at_s)
    cost = meter.cost(BASIS, 1e6)
    assert cost is not None
    assert cost.window_s == limits.COST_POINTS_MAX - 1

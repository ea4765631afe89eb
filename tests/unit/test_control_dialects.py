"""What servers say in their own words, as we understand it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.dialects import DIALECTS, WANTED, WANTED_ANY, recognise
from control.exposition import ExpositionReader, Sample, Wanted
from control.gpu_power import GPU_WANTED, power_reading, read_gpus
from control.load_pages import (
    LoadPageError,
    NotReadyError,
    read_llamacpp_props,
    read_llamacpp_slots,
    read_ollama_ps,
    read_sglang_loads,
    read_vllm_load,
)
from control.reading import KINDS, Fact, Reading


def samples(page: str, wanted: Wanted) -> list[Sample]:
    reader = ExpositionReader(wanted)
    reader.feed(page.encode() + b"\n")
    return reader.finish()


def read(engine: str, page: str) -> Reading:
    return DIALECTS[engine].read(samples(page, WANTED[engine]))


@pytest.mark.parametrize(
    ("engine", "page", "expected"),
    [
        (
            "vllm",
            'vllm:num_requests_waiting{engine="0",model_name="m"} 3.0\n'
            'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0\n'
            'vllm:num_requests_running{engine="0",model_name="m"} 8.0\n'
            'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
            'vllm:num_preemptions_total{engine="0",model_name="m"} 2.0\n'
            'vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0\n'
            'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 600.0\n'
            'vllm:generation_tokens_total{engine="0",model_name="m"} 90.0',
            Reading(
                waiting=3,
                running=8,
                kv=0.25,
                preemptions=2,
                prompt_tokens=1000,
                cached_tokens=600,
                generation_tokens=90,
            ),
        ),
        (
            "vllm",  # 0.8
            "vllm:num_requests_waiting 1\nvllm:num_requests_swapped 2\nvllm:num_requests_running 4\n"
            "vllm:gpu_cache_usage_perc 0.5",
            Reading(waiting=3, running=4, kv=0.5),
        ),
        (
            "sglang",
            'sglang:num_queue_reqs{model_name="m"} 2\nsglang:num_grammar_queue_reqs{model_name="m"} 1\n'
            'sglang:num_running_reqs{model_name="m"} 5\nsglang:token_usage{model_name="m"} 0.3\n'
            'sglang:full_token_usage{model_name="m"} 0.28\nsglang:prompt_tokens_total{model_name="m"} 7\n'
            'sglang:cached_tokens_total{model_name="m"} 3\nsglang:generation_tokens_total{model_name="m"} 9\n'
            'sglang:num_retracted_requests_total{model_name="m"} 4',
            Reading(
                waiting=3,
                running=5,
                kv=0.28,
                preemptions=4,
                prompt_tokens=7,
                cached_tokens=3,
                generation_tokens=9,
            ),
        ),
        (
            "sglang",  # before full_token_usage
            "sglang:num_queue_reqs 2\nsglang:num_running_reqs 5\nsglang:token_usage 0.3",
            Reading(waiting=2, running=5, kv=0.3),
        ),
        (
            "trtllm",
            "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.6",
            Reading(waiting=1, running=2, kv=0.6),
        ),
        (
            "triton",
            'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 3\n'
            'nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 4\n'
            'nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512\n'
            'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m",version="1"} 0.7\n'
            'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m",version="1"} 6239',
            Reading(waiting=3, running=4, kv=0.7),
        ),
        (
            "tgi",
            "tgi_queue_size 3\ntgi_batch_current_size 5\ntgi_request_generated_tokens_sum 40\n"
            "tgi_request_input_length_sum 80",
            Reading(waiting=3, running=5, prompt_tokens=80, generation_tokens=40),
        ),
        (
            "llamacpp",
            "llamacpp:requests_deferred 1\nllamacpp:requests_processing 2\n"
            "llamacpp:kv_cache_usage_ratio 0.5\nllamacpp:prompt_tokens_total 10\n"
            "llamacpp:tokens_predicted_total 20",
            Reading(waiting=1, running=2, kv=0.5, prompt_tokens=10, generation_tokens=20),
        ),
        (
            "llamacpp",  # newer builds
            "llamacpp:requests_deferred 0\nllamacpp:requests_processing 0",
            Reading(waiting=0, running=0),
        ),
    ],
)
def test_names_old_and_new_are_understood(engine: str, page: str, expected: Reading) -> None:
    assert read(engine, page) == expected
    found = samples(page, WANTED_ANY)
    known = recognise(found)
    assert known is not None
    assert (known.engine, known.read(found)) == (engine, expected)


def test_the_reference_names_all_that_is_read() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/engine-metrics.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for engine, dialect in DIALECTS.items():
        assert [asked.path for asked in dialect.pages] == re.findall("`(/[^`]*)`", rows_of(page, engine)[0])
        said = " ".join(rows_of(page, engine)) + page.partition("## GPUs")[2]
        assert [name for name in dialect.names() if not re.search(rf"`{name}[`{{]", said)] == []
    assert [name for name in GPU_WANTED.names.values() if f"`{name}`" not in page] == []
    assert [kind for kind in KINDS if f"`{kind}`" not in " ".join(rows.values())] == []


def rows_of(page: str, engine: str) -> list[str]:
    return [row for row in page.splitlines() if row.startswith(f"| `{engine}` |")]


def test_what_is_not_said_is_not_known() -> None:
    for engine in WANTED:
        assert read(engine, "up 1") == Reading()
    assert Reading().facts() == ()
    assert recognise(samples("up 1", WANTED_ANY)) is None


def test_data_parallel_ranks_add_up_and_the_fullest_cache_counts() -> None:
    page = "\n".join(
        f'vllm:num_requests_waiting{{engine="{rank}"}} {rank}\n'
        f'vllm:num_requests_running{{engine="{rank}"}} 4\n'
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank}\n'
        f'vllm:prompt_tokens_total{{engine="{rank}"}} 100'
        for rank in range(4)
    )
    assert read("vllm", page) == Reading(waiting=6, running=16, kv=0.3, prompt_tokens=400)


def test_tensor_parallel_ranks_tell_of_the_same_requests() -> None:
    page = "\n".join(
        f'sglang:num_queue_reqs{{dp_rank="{dp}",tp_rank="{tp}"}} {2 + dp}'
        for dp in range(2)
        for tp in range(4)
    )
    assert read("sglang", page) == Reading(waiting=5)


def test_queues_by_priority_are_parts_of_the_whole() -> None:
    page = (
        'sglang:num_queue_reqs{priority=""} 3\n'
        'sglang:num_queue_reqs{priority="0"} 1\n'
        'sglang:num_queue_reqs{priority="5"} 2'
    )
    assert read("sglang", page).waiting == 3


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "-Inf"])
def test_a_value_that_is_none_leaves_its_word_unknown(value: str) -> None:
    page = (
        f'vllm:num_requests_waiting{{engine="0"}} 4\nvllm:num_requests_waiting{{engine="1"}} {value}\n'
        f"vllm:kv_cache_usage_perc {value}\nvllm:prompt_tokens_total {value}\nvllm:num_requests_running 1"
    )
    assert read("vllm", page) == Reading(running=1)


@pytest.mark.parametrize(("told", "kv"), [("1.0000001", 1.0), ("1.2", 1.0), ("42", None), ("0", 0.0)])
def test_a_share_is_clamped_and_one_in_another_unit_is_unknown(told: str, kv: float | None) -> None:
    assert read("vllm", f"vllm:kv_cache_usage_perc {told}").kv == kv


@given(
    st.lists(
        st.builds(
            Sample,
            st.sampled_from([name for dialect in DIALECTS.values() for name in dialect.names()]),
            st.dictionaries(st.sampled_from(["engine", "tp_rank", "request_type"]), st.text(max_size=3)),
            st.floats(),
        )
    )
)
def test_whatever_is_said_is_understood_within_bounds(said: list[Sample]) -> None:
    for dialect in DIALECTS.values():
        for kind, value in ((fact.kind, fact.value) for fact in dialect.read(said).facts()):
            assert 0 <= value < float("inf")
            assert kind != "kv" or value <= 1


def sglang_load(
    running: int = 0, waiting: int = 0, used: int = 0, capacity: int = 1000, **more: object
) -> str:
    fields = ",".join(f'"{key}":{value}' for key, value in more.items())
    return (
        f'{{"dp_rank":0,"num_running_reqs":{running},"num_waiting_reqs":{waiting},"num_used_tokens":{used},'
        f'"max_total_num_tokens":{capacity},"token_usage":0.99{"," + fields if fields else ""}}}'
    )


def sglang_loads(*loads: str) -> bytes:
    return f'{{"timestamp":"2026-01-01","version":"0.5","loads":[{",".join(loads)}]}}'.encode()


def test_sglangs_loads_add_up_over_its_ranks() -> None:
    body = sglang_loads(sglang_load(3, 1, 200), sglang_load(2, 0, 700, queues='{"waiting":0,"grammar":2}'))
    assert read_sglang_loads(body) == Reading(running=5, waiting=3, kv=0.7, kv_tokens=2000)


def test_sglang_without_a_cache_is_not_ready_and_without_ranks_is_broken() -> None:
    with pytest.raises(NotReadyError):
        read_sglang_loads(sglang_loads(sglang_load(), sglang_load(capacity=0)))
    with pytest.raises(LoadPageError, match="no rank"):
        read_sglang_loads(sglang_loads())


def test_a_zero_of_vllms_load_may_mean_that_nobody_counts() -> None:
    assert read_vllm_load(b'{"server_load":0}') == Reading()
    assert read_vllm_load(b'{"server_load":7}') == Reading(running=7)


def test_ollama_says_which_models_are_in_memory() -> None:
    body = b'{"models":[{"name":"a:latest","model":"a:latest","size":1},{"name":"b"},{"size":2}]}'
    assert read_ollama_ps(body) == Reading(models=("a:latest", "b"))
    assert read_ollama_ps(b'{"models":[]}') == Reading(models=())


def test_llamacpps_slots_say_how_many_are_busy() -> None:
    assert read_llamacpp_slots(b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]') == Reading(
        running=1, slots=2
    )
    assert read_llamacpp_slots(b'[{"id":0,"state":1},{"id":1,"state":0}]') == Reading(running=1, slots=2)
    assert read_llamacpp_slots(b'[{"id":0}]') == Reading(slots=1)
    with pytest.raises(NotReadyError):
        read_llamacpp_slots(b"[]")


def test_llamacpps_props_say_what_it_is_made_for() -> None:
    body = b'{"total_slots":4,"default_generation_settings":{"n_ctx":8192,"params":{}}}'
    assert read_llamacpp_props(body) == Reading(slots=4, kv_tokens=32768)
    assert read_llamacpp_props(b'{"role":"router"}') == Reading()


@pytest.mark.parametrize("reader", [read_sglang_loads, read_vllm_load, read_ollama_ps, read_llamacpp_slots])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"3", b'{"loads":7}', b'{"server_load":-1}', b"[[]]", b"\xff"]
)
def test_a_page_of_another_shape_is_refused(reader: object, body: bytes) -> None:
    assert callable(reader)
    with pytest.raises(ValueError):
        reader(body)


def gpus(page: str, *chosen: str) -> Reading:
    return power_reading(read_gpus(samples(page, GPU_WANTED)), chosen)


DCGM = (
    'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",modelName="H100"} 350\n'
    'DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",modelName="H100"} 630\n'
    'DCGM_FI_DEV_POWER_MGMT_LIMIT{gpu="0",UUID="GPU-a",modelName="H100"} 700\n'
    'DCGM_FI_DEV_POWER_MGMT_LIMIT{gpu="1",UUID="GPU-b",modelName="H100"} 700\n'
    'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",modelName="H100"} 40\n'
    'DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",modelName="H100"} 95'
)


def test_power_is_that_of_the_gpu_nearest_its_limit() -> None:
    assert gpus(DCGM) == Reading(power=0.9, watts=980, gpu_use=0.95)
    assert gpus(DCGM, "0") == gpus(DCGM, "GPU-a") == Reading(power=0.5, watts=350, gpu_use=0.4)


def test_watts_of_gpus_that_are_not_all_there_are_unknown() -> None:
    assert gpus(DCGM, "GPU-a", "GPU-z") == Reading(power=0.5, gpu_use=0.4)
    assert gpus(DCGM, "7") == Reading()


def test_the_limit_that_is_enforced_is_the_limit() -> None:
    page = DCGM + '\nDCGM_FI_DEV_ENFORCED_POWER_LIMIT{gpu="0",UUID="GPU-a",modelName="H100"} 400'
    assert gpus(page, "0").power == 350 / 400


@pytest.mark.parametrize("name", ["DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"])
@pytest.mark.parametrize(("reasons", "is_held_back"), [(0, False), (1, False), (0x4, True), (0x41, True)])
def test_a_gpu_that_is_held_back_is_at_its_limit(name: str, reasons: int, is_held_back: bool) -> None:
    page = f'{DCGM}\n{name}{{gpu="0",UUID="GPU-a"}} {reasons}'
    assert gpus(page, "0").power == (1.0 if is_held_back else 0.5)
    assert gpus(f'{name}{{gpu="0",UUID="GPU-a"}} {reasons}', "0").power == (1.0 if is_held_back else None)


def test_tritons_own_gpu_metrics_are_read() -> None:
    page = (
        'nv_gpu_power_usage{gpu_uuid="GPU-a"} 200\nnv_gpu_power_limit{gpu_uuid="GPU-a"} 400\n'
        'nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5'
    )
    assert gpus(page) == gpus(page, "GPU-a") == Reading(power=0.5, watts=200, gpu_use=0.5)


def test_slices_of_a_gpu_do_not_add_up() -> None:
    page = (
        'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",GPU_I_ID="1"} 300\n'
        'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",GPU_I_ID="2"} 300'
    )
    assert gpus(page).watts == 300


@pytest.mark.parametrize("watts", ["NaN", "-1", "350000", "+Inf"])
def test_watts_that_are_none_are_unknown(watts: str) -> None:
    page = f'DCGM_FI_DEV_POWER_USAGE{{gpu="0"}} {watts}\nDCGM_FI_DEV_POWER_MGMT_LIMIT{{gpu="0"}} 700'
    assert gpus(page) == Reading()


def test_facts_are_the_numbers_that_are_known() -> None:
    assert Reading(waiting=0, kv=0.5, models=("a",)).facts() == (Fact("waiting", 0), Fact("kv", 0.5))
    assert {"waiting", "running", "kv", "power"} < set(KINDS)

"""`fairlead bench sim`: what it writes, that it writes the same again, and what it says of wrong input."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import Result

from bench.sim import plot
from bench.sim.fleets import read_fleet
from bench.sim.page import to_html
from bench.sim.sweep import Case, run_cases
from bench.sim.traces import Format, read_trace
from tests.support.command import run_command

RUN_KEYS = ["policy", "fleet", "speed", "seed", "fault", "requests", "ttft_ms", "tpot_ms", "goodput_ratio"]
RUN_KEYS += ["cost_per_1k_tokens", "prefix_hit_ratio", "imbalance", "recovery_s"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    rows = []
    for row in range(120):
        length = int(random.integers(300, 2500))
        ids = [0, *range(1 + row % 30 * 100, row % 30 * 100 + length // 512)][: -(-length // 512)]
        rows.append(
            {
                "timestamp": row * 200 // 3000 * 3000,
                "input_length": length,
                "output_length": 20,
                "hash_ids": ids,
            }
        )
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(trace: Path, *options: str) -> Result:
    given = dict(zip(options[::2], options[1::2], strict=True))
    wanted = {"--trace": str(trace), "--format": "mooncake", "--fleet": "hom-8xa100", "--policy": "p2c"}
    words = [word for pair in (wanted | given).items() for word in pair]
    return run_command("bench", "sim", *words)


def test_a_sweep_prints_tables_and_writes_json_and_a_page(trace: Path, tmp_path: Path) -> None:
    result = invoke(
        trace,
        *("--policy", "p2c,lmetric:queue_weight=0.5"),
        *("--speed", "0.5,2"),
        *("--seeds", "2"),
        *("--jitter", "uniform"),
        *("--fault", "slow@5-10:a100-1"),
        *("--json", str(tmp_path / "out.json")),
        *("--html", str(tmp_path / "out.html")),
        *("--jobs", "1"),
    )
    assert result.exit_code == 0, result.output
    assert "lmetric:queue_weight=0.5" in result.output and "108 requests measured" in result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["runs"]) == 8
    for run in written["runs"]:
        assert [key for key in run if key in RUN_KEYS] == RUN_KEYS
        assert list(run["ttft_ms"]) == ["mean", "p50", "p95", "p99"]
        assert list(run["tpot_ms"]) == ["p50", "p99"]
        assert run["fault"] == "slow@5-10:a100-1"
    assert [row["policy"] for row in written["paired"]] == ["p2c", "p2c"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(
    trace: Path, tmp_path: Path
) -> None:
    written = []
    for number, jobs in enumerate(("1", "1", "2")):
        path, page = tmp_path / f"{number}.json", tmp_path / f"{number}.html"
        result = invoke(
            trace,
            "--policy",
            "p2c,five_axis",
            "--seeds",
            "2",
            "--jobs",
            jobs,
            "--json",
            str(path),
            "--html",
            str(page),
        )
        assert result.exit_code == 0, result.output
        written.append((path.read_bytes(), page.read_bytes()))
    assert written[0] == written[1] == written[2]


def test_a_page_fetches_nothing_and_knows_light_and_dark(trace: Path) -> None:
    recording = read_trace(trace, Format.MOONCAKE)
    fleet = read_fleet({"endpoints": [{"class": "8b-a100", "count": 3, "name": "<b>&"}]}, "f", "made-up")
    results = run_cases(
        recording, [Case(fleet=fleet, policy="p2c", speed=speed, seed=1) for speed in (1.0, 2.0)]
    )
    page = to_html(results, "<trace>")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|<script|<link|@import|url\(|\bsrc=", page)
    assert "<trace>" not in page and "<b>&" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5  # goodput against load, and for each speed times to first token and shares
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_ticks_are_round_numbers_within_the_range() -> None:
    assert plot.ticks(0, 1, False) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert plot.ticks(3, 2400, True) == [10, 100, 1000]
    assert plot.ticks(5, 5, False) == [5]


def test_a_plot_of_nothing_says_so() -> None:
    assert "nothing to show" in plot.lines([], x_label="", x_is_log=False, y_label="", y_range=(0, 1))
    assert "nothing to show" in plot.bands([], step=1.0, x_label="")


WRONG = {
    "policy": (("--policy", "p2d"), 2, "did you mean 'p2c'?"),
    "knob": (("--policy", "lmetric:queue=2"), 2, "has no knob 'queue'"),
    "fleet": (("--fleet", "hom-8xa10"), 1, "'hom-8xa100' perhaps"),
    "speed": (("--speed", "1,fast"), 2, "is not a list of numbers"),
    "no speed": (("--speed", "0"), 2, "must be above 0"),
    "objective": (("--slo", "fast"), 2, "as in 1000+0.3,100"),
    "fault": (("--fault", "slow"), 2, "is not KIND@START-END:ENDPOINT"),
    "fault kind": (("--fault", "slwo@1-2:0"), 2, "unknown kind 'slwo'; 'slow' perhaps"),
    "fault endpoint": (("--fault", "slow@1-2:a100-9"), 2, "has no endpoint 'a100-9'; 'a100-"),
    "folder of the JSON": (("--json", "/no such/out.json"), 1, "out.json: cannot be written there"),
    "fault times": (("--fault", "slow@3-2:0"), 2, "ends before it begins"),
}


@pytest.mark.parametrize(("options", "code", "reason"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_told_with_what_would_be_right(
    trace: Path, options: tuple[str, ...], code: int, reason: str
) -> None:
    result = invoke(trace, *options)
    assert result.exit_code == code
    assert reason in result.output


def test_a_model_that_nobody_has_is_told(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t_ms,model,client,input_tokens,output_tokens\n27,m-smal,12,40,1\n")
    result = invoke(path, "--format", "servegen", "--fleet", "multi-model")
    assert result.exit_code == 1
    assert "has no endpoint for the trace's model 'm-smal'; 'm-small' perhaps" in result.output


def test_an_alias_is_asked_for_and_told_who_answered(trace: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    result = invoke(
        trace,
        *("--fleet", "chat-alias", "--model", "chat-default", "--policy", "five_axis"),
        *("--json", str(out), "--html", str(page)),
    )
    assert result.exit_code == 0, result.output
    assert "llama-70b" in result.output and "llama-8b" in page.read_text()
    (run,) = json.loads(out.read_text())["runs"]
    assert list(run["model_shares"]) == ["llama-70b", "llama-8b"]
    assert sum(run["model_shares"].values()) == pytest.approx(1)
    told = invoke(trace, "--fleet", "chat-alias", "--model", "chat-defualt")
    assert told.exit_code == 1
    assert "has no endpoint for --model 'chat-defualt'; 'chat-default' perhaps" in told.output


def test_a_trace_without_models_runs_anywhere(trace: Path) -> None:
    assert invoke(trace, "--fleet", "multi-model").exit_code == 0


def test_a_malformed_row_ends_with_1_and_its_place(trace: Path) -> None:
    trace.write_text(trace.read_text() + '{"timestamp": 1}\n')
    result = invoke(trace)
    assert result.exit_code == 1
    assert f"{trace}:121: Object missing required field" in result.output


def test_it_is_a_subcommand_of_bench_and_bench_alone_is_still_the_comparison(trace: Path) -> None:
    shown = run_command("bench", "sim", "--help")
    assert shown.exit_code == 0 and "--format" in shown.output
    assert run_command("bench", "--only", "ngins").exit_code == 2
    assert run_command("bench", "smi").exit_code == 2

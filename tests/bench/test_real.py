"""The bench over sockets, tiny: that nothing is lost, and that both sides are given the same. No times."""

import asyncio
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.native.step import prompt_block_hashes
from bench.real import prompts, ranking
from bench.real.live import Case, run_pair
from bench.real.player import Player
from bench.real.stage import configuration, engine_spec, paced
from bench.sim import fleets
from bench.sim.measures import Objective
from bench.sim.traces import Format, Jitter, read_trace
from router.schema.config import Config
from router.schema.policies import policy_names
from tests.bench.sim_worlds import fleet_of, trace_of
from tests.support.command import run_command

PACE = 50.0


def agents_file(folder: Path, call_count: int = 6) -> Path:
    """One session of growing prompts: each call repeats what was asked before and adds to it."""
    rows = [
        {
            "kind": "made-up",
            "session": 1,
            "t_ms": call * 1000,
            "input_length": 200 + 90 * call,
            "output_length": 5 + call,
            "hash_ids": list(range(1, 1 + (200 + 90 * call) // 64)),
        }
        for call in range(call_count)
    ]
    path = folder / "agents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mooncake_file(folder: Path, row_count: int = 24) -> Path:
    rows = [
        {
            "timestamp": row * 400,
            "input_length": 700 + 13 * row,
            "output_length": 6,
            "hash_ids": [row % 3, 100 + row],
        }
        for row in range(row_count)
    ]
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_plays_and_simulates_and_loses_nothing(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("endpoints: [{class: 8b-h100, count: 2}, {class: 8b-l40s, speed: 2}]\n")
    done = run_command(
        "bench", "real", "--trace", mooncake_file(tmp_path), "--format", "mooncake", "--fleet", fleet,
        "--policy", "round_robin,five_axis", "--replicas", "2", "--seconds", "8", "--pace", str(PACE),
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Kendall's tau" in done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert [pair["real"]["policy"] for pair in written["pairs"]] == ["round_robin", "five_axis"]
    for pair in written["pairs"]:
        assert pair["failures"] == []
        assert pair["real"]["where"] == "sockets" and pair["simulated"]["where"] == "simulator"
        assert pair["real"]["failed"] == pair["simulated"]["failed"] == 0
        assert (
            pair["real"]["requests"] == pair["simulated"]["requests"] == 18
        )  # of 20 the first tenth warms up
    assert [row["figure"] for row in written["rankings"]] == ["ttft_ms.mean", "ttft_ms.p99"]
    assert sorted(written["rankings"][0]["sockets"]) == ["five_axis", "round_robin"]


def test_a_session_finds_cached_over_sockets_what_it_finds_in_the_simulator(tmp_path: Path) -> None:
    case = Case(
        fleet=fleet_of({"class": "8b-a100"}),
        policy="round_robin",
        speed=1.0,
        seed=1,
        seconds=86_400.0,
        pace=PACE * 10,
        jitter=Jitter.RAW,
        session_count=1,
        objective=Objective(),
    )
    pair = run_pair(read_trace(agents_file(tmp_path), Format.AGENTS), case)
    assert pair.failures == []
    assert pair.real["prefix_hit_ratio"] == pair.simulated["prefix_hit_ratio"] > 0


def test_a_window_takes_whole_beginnings_of_sessions() -> None:
    trace = trace_of([0.5, 1.0, 1.0, 9.0], 100, prefixes=[1, 1, 1, 2], follows=[-1, 0, 1, -1])
    cut = prompts.window(trace, 2.0)
    assert list(cut.follows) == [-1, 0]
    assert list(cut.arrival_us) == [500_000, 1_000_000]
    assert list(prompts.window(trace, 100.0).follows) == [-1, 0, 1, -1]


def test_texts_begin_alike_where_the_trace_says_so_and_have_its_tokens() -> None:
    trace = trace_of([0.0, 1.0, 2.0], [200, 333, 200], prefixes=[1, 1, 2])
    fine = prompts.finely(trace)
    texts = [prompts.prompt_text(fine, index) for index in range(3)]
    for index, text in enumerate(texts):
        assert (len(text) + prompts.QUOTES_BYTES) // prompts.BYTES_PER_TOKEN + 1 == trace.prompt_tokens[index]
    hashes = [prompt_block_hashes(b'"' + text + b'"') for text in texts]
    own = [fine.blocks[fine.block_offset[index] : fine.block_offset[index + 1]] for index in range(3)]
    shared = sum(int(one) == int(other) for one, other in zip(own[0], own[1], strict=False))
    assert shared == 192 // prompts.BLOCK_TOKENS  # three full blocks of 64 tokens
    assert sum(one == other for one, other in zip(hashes[0], hashes[1], strict=False)) == shared
    assert not set(hashes[0]) & set(hashes[2]) and not set(own[0]) & set(own[2])


def test_an_answers_length_is_told_in_a_header_that_only_mocks_read() -> None:
    fine = prompts.finely(trace_of([0.0], 80, 17))
    head, _, body = prompts.request_bytes(fine, 0, "127.0.0.1:1").partition(b"\r\n\r\n")
    assert b"x-mock-tokens: 17" in head.split(b"\r\n")
    assert sorted(json.loads(body)) == ["model", "prompt", "stream", "stream_options"]


def test_who_cannot_be_reached_fails_and_those_that_follow_are_still_asked() -> None:
    trace = prompts.finely(trace_of([0.0, 0.01], 20, follows=[-1, 0]))

    async def play() -> dict[int, str]:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        played = await Player(trace, [port], np.zeros(2, np.int64)).play()
        return played.failures

    failures = asyncio.run(play())
    assert sorted(failures) == [0, 1] and all(reason.startswith("connect") for reason in failures.values())


def test_an_answer_of_another_length_has_failed() -> None:
    trace = prompts.finely(trace_of([0.0], 20, 9))
    usage = b'{"usage":{"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":0}}}'
    answer = b"data: %b\n\ndata: [DONE]\n\n" % usage

    class Short(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            self.transport.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(answer), answer))

    async def play() -> dict[int, str]:
        server = await asyncio.get_running_loop().create_server(Short, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return (await Player(trace, [port], np.zeros(1, np.int64)).play()).failures

    assert asyncio.run(play()) == {0: "8 tokens where 9 were due"}


def test_engines_are_those_of_the_fleet_and_faster_by_the_pace() -> None:
    fleet = paced(fleet_of({"class": "8b-l40s", "kv_tokens": 5000, "chunk_tokens": 512, "speed": 2}), 4.0)
    (group,) = fleet.endpoints
    spec = engine_spec(group)
    assert (spec.engine_class, spec.speed, spec.kv_tokens, spec.chunk_tokens) == ("8b-l40s", 8.0, 5000, 512)
    once = fleets.timing(msgspec.structs.replace(group, speed=1.0))
    assert [figure * 8 for figure in fleets.timing(group)[:5]] == pytest.approx(once[:5])
    assert fleets.figures(group).step_floor_us == pytest.approx(once[0] * 1000 / 8)


@pytest.mark.parametrize("policy", [*policy_names(), "rendezvous:key=user", "llmd:poll_ms=0"])
def test_every_policy_makes_a_configuration(policy: str, tmp_path: Path) -> None:
    fleet = fleet_of(
        {"class": "8b-a100", "input_price": 1}, {"class": "8b-h100", "known": False, "weight": 2}
    )
    value = configuration(fleet, ["http://127.0.0.1:1", "http://127.0.0.1:2"], policy, tmp_path)
    pool = msgspec.convert(value, Config).pools[0]
    assert pool.policy.name() == policy.partition(":")[0]
    assert [endpoint.engine_class for endpoint in pool.endpoints] == ["8b-a100", None]
    if policy in ("five_axis", "rendezvous"):
        assert value["pools"][0]["policy"]["key"] == "header"


def test_swapped_pairs_are_told_and_counted_in_tau() -> None:
    real, ranges = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": (9.0, 11.0), "b": (24.0, 31.0), "c": (19.0, 25.0)}
    same = ranking.compare(real, {"a": 10.0, "b": 20.0, "c": 30.0}, ranges)
    assert same["tau"] == 1.0 and same["swapped"] == []
    swapped = ranking.compare(real, {"a": 10.0, "b": 30.0, "c": 20.0}, ranges)
    assert swapped["tau"] == pytest.approx(1 / 3, abs=1e-4)
    assert swapped["simulator"] == ["a", "c", "b"]
    told = {"policies": ["b", "c"], "sockets": -0.3333, "simulator": 0.5, "told_apart": False}
    assert swapped["swapped"] == [told]
    surely = ranking.compare(real, {"a": 10.0, "b": 30.0, "c": 20.0}, ranges | {"c": (19.0, 21.0)})
    assert surely["swapped"] == [told | {"told_apart": True}]


def test_a_fleet_that_loads_models_is_refused(tmp_path: Path) -> None:
    done = run_command(
        "bench", "real", "--trace", mooncake_file(tmp_path), "--format", "mooncake",
        "--fleet", "multi-model", "--policy", "p2c",
    )  # fmt: skip
    assert done.exit_code == 1 and "do not load models" in done.output

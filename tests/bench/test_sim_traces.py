"""Trace files: what is read of them, what is refused, and what a replay does to arrivals and prefixes."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from bench.sim import keys
from bench.sim.traces import Format, Jitter, Recording, Trace, TraceError, read_trace, replay
from router.native.prompt import PromptChain

MOONCAKE = (
    '{"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 3]}\n'
    '{"timestamp": 3000, "input_length": 600, "output_length": 9, "hash_ids": [9, 1]}\n'
)
AZURE = "t_ms,context_tokens,generated_tokens\n0.0,374,44\n4314.6,396,0\n"
SERVEGEN = "t_ms,model,client,input_tokens,output_tokens\n27,m-small,12,40,1\n77,m-large,3,222,8\n"
AGENTS = (
    '{"kind": "a", "session": 0, "t_ms": 0, "input_length": 130, "output_length": 3, "hash_ids": [0, 1, 2]}\n'
    '{"kind": "a", "session": 0, "t_ms": 2500, "input_length": 200, "output_length": 4, "hash_ids": [0, 1]}\n'
    '{"kind": "b", "session": 0, "t_ms": 0, "input_length": 70, "output_length": 2, "hash_ids": [0, 7]}\n'
)
AGENTS_TALK = (
    '{"kind": "a", "session": 0, "t_ms": 0, "input_length": 70, "output_length": 30, "hash_ids": [0, 1]}\n'
    '{"kind": "a", "session": 0, "t_ms": 2500, "input_length": 140, "output_length": 4, "hash_ids": [0, 2]}\n'
)


def recording_of(folder: Path, text: str, trace_format: Format) -> Recording:
    path = folder / "trace"
    path.write_text(text)
    return read_trace(path, trace_format)


def blocks_of(trace: Recording | Trace, row: int) -> list[int]:
    found = trace.blocks[trace.block_offset[row] : trace.block_offset[row + 1]]
    return [int(value) for value in found]


def test_mooncake_rows_are_read_in_order_of_time(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, MOONCAKE, Format.MOONCAKE)
    assert recording.arrival_us.tolist() == [0, 3_000_000, 3_000_000]
    assert recording.prompt_tokens.tolist() == [1500, 1100, 600]
    assert recording.output_tokens.tolist() == [5, 7, 9]
    assert recording.block_tokens == 512


def test_only_full_blocks_have_keys_and_a_key_stands_for_all_before_it(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, MOONCAKE, Format.MOONCAKE)
    first, second, third = (blocks_of(recording, row) for row in range(3))
    assert [len(first), len(second), len(third)] == [2, 2, 1]
    assert first == second
    assert third[0] != first[0]  # id 1 behind id 9 is not id 1 behind id 0; here id 9 differs already
    assert 0 not in first + third


def mooncake_rows(*rows: tuple[int, int, list[int]]) -> str:
    return "".join(
        f'{{"timestamp": {place}, "input_length": {prompt}, "output_length": {answer}, "hash_ids": {ids}}}\n'
        for place, (prompt, answer, ids) in enumerate(rows)
    )


def test_a_conversation_goes_on_in_the_first_prompt_that_has_room_for_the_answer(tmp_path: Path) -> None:
    text = mooncake_rows(
        (1100, 500, [0, 1, 2]),
        (1650, 9, [0, 1, 3, 4]),  # 1100 + 500 and a new question
        (1900, 9, [0, 1, 5, 6]),  # another that begins like the first
        (1700, 300, [0, 1, 3, 8]),  # 1650 + 9; its own last full block was there before, so who knows
        (1800, 9, [0, 1, 3, 8]),
        (1024, 400, [20, 21]),
        (1200, 9, [20, 21, 22]),  # too short to have the answer in it
    )
    recording = recording_of(tmp_path, text, Format.MOONCAKE)
    assert recording.next_turn.tolist() == [1, 3, -1, -1, -1, -1, -1]


def test_a_replay_keeps_who_goes_on_where(tmp_path: Path) -> None:
    text = mooncake_rows((600, 5, [0, 1]), (700, 9, [5, 6]), (640, 9, [0, 2]), (9, 9, []))
    recording = recording_of(tmp_path, text, Format.MOONCAKE)
    trace = replay(recording, seed=5, jitter=Jitter.UNIFORM)
    (row,) = np.flatnonzero(trace.next_turn >= 0)
    assert trace.prompt_tokens[row] == 600
    assert trace.prompt_tokens[trace.next_turn[row]] == 640
    copied = replay(recording_of(tmp_path, AGENTS_TALK, Format.AGENTS), seed=1, session_count=5)
    goes_on = copied.next_turn >= 0
    assert goes_on.sum() == 5
    assert (copied.follows[copied.next_turn[goes_on]] == np.flatnonzero(goes_on)).all()


def test_an_answer_fills_the_blocks_that_the_next_prompt_has_in_its_place() -> None:
    offset = np.asarray([0, 2, 5, 6], np.int64)
    values = np.asarray([11, 12, 11, 12, 13, 21], np.uint64)
    moved, found = keys.with_answers(
        offset,
        values,
        block_tokens=64,
        prompt_tokens=np.asarray([150, 200, 150], np.int32),
        output_tokens=np.asarray([50, 121, 200], np.int32),
        next_turn=np.asarray([1, -1, -1], np.int32),
    )
    # 199 tokens are three blocks, 320 five; the last of an answer is never computed. Of the third one's two
    # blocks one has no key, so nothing behind it has.
    assert moved.tolist() == [0, 3, 8, 9]
    assert found[:6].tolist() == [11, 12, 13, 11, 12, 13]
    assert len(set(found[6:].tolist()) | {11, 12, 13}) == 6
    assert found[8] == 21


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_bytes(gzip.compress(MOONCAKE.encode()))
    plain = recording_of(tmp_path, MOONCAKE, Format.MOONCAKE)
    assert read_trace(path, Format.MOONCAKE).blocks.tolist() == plain.blocks.tolist()


def test_azure_prompts_share_nothing_and_an_empty_answer_is_one_token(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, AZURE, Format.AZURE)
    assert recording.arrival_us.tolist() == [0, 4_314_600]
    assert recording.output_tokens.tolist() == [44, 1]
    assert not set(blocks_of(recording, 0)) & set(blocks_of(recording, 1))
    assert recording.session.tolist() == [0, 0]


def test_servegen_rows_have_models_and_clients(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, SERVEGEN, Format.SERVEGEN)
    assert recording.models == ("m-large", "m-small")
    assert recording.model.tolist() == [1, 0]
    assert len(set(recording.session.tolist())) == 2
    assert recording.arrival_us.tolist() == [0, 50_000]


BAD_ROWS = {
    "no json": (Format.MOONCAKE, "{}\nnonsense\n", ":1: Object missing required field"),
    "not closed": (Format.MOONCAKE, MOONCAKE + "{", ":4: "),
    "text for a number": (
        Format.MOONCAKE,
        MOONCAKE + '{"timestamp": "0", "input_length": 9, "output_length": 7, "hash_ids": []}\n',
        ":4: Expected `float`, got `str` in `timestamp`",
    ),
    "no prompt": (
        Format.MOONCAKE,
        '{"timestamp": 0, "input_length": 0, "output_length": 7, "hash_ids": []}\n',
        ":1: Expected `int` >= 1 in `input_length`",
    ),
    "negative id": (
        Format.AGENTS,
        AGENTS.replace("[0, 7]", "[0, -7]"),
        ":3: Expected `int` >= 0 in `hash_ids[1]`",
    ),
    "missing field": (Format.AGENTS, '{"kind": "a"}\n', ":1: Object missing required field `session`"),
    "no rows": (Format.MOONCAKE, "\n", ": has no rows"),
    "column": (
        Format.AZURE,
        "t_ms,tokens\n",
        ":1: no column context_tokens, generated_tokens; it has t_ms, tokens",
    ),
    "empty csv": (Format.AZURE, "", ":1: no column t_ms, context_tokens, generated_tokens; it has none"),
    "short row": (Format.AZURE, AZURE + "5,4\n", ":4: 2 fields where the header has 3"),
    "not a count": (
        Format.AZURE,
        AZURE + "5,4.5,1\n",
        ":4: context_tokens is '4.5', not an integer from 1 to",
    ),
    "negative": (
        Format.SERVEGEN,
        SERVEGEN + "5,m,1,4,-1\n",
        ":4: output_tokens is '-1', not an integer from 0 to",
    ),
    "not a time": (
        Format.SERVEGEN,
        SERVEGEN + "nan,m,1,4,1\n",
        ":4: t_ms is 'nan', not a time in milliseconds",
    ),
    "no model": (Format.SERVEGEN, SERVEGEN + "5,,1,4,1\n", ":4: model is empty"),
}


@pytest.mark.parametrize(("trace_format", "text", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_told_with_file_line_and_reason(
    tmp_path: Path, trace_format: Format, text: str, reason: str
) -> None:
    with pytest.raises(TraceError) as told:
        recording_of(tmp_path, text, trace_format)
    assert str(told.value).startswith(str(tmp_path / "trace"))
    assert reason in str(told.value)


def test_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with pytest.raises(TraceError, match="No such file"):
        read_trace(path, Format.MOONCAKE)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(TraceError, match=":1: is not UTF-8"):
        read_trace(path, Format.MOONCAKE)
    path.write_bytes(gzip.compress(MOONCAKE.encode())[:-12])
    with pytest.raises(TraceError, match="broken gzip"):
        read_trace(path, Format.MOONCAKE)


def test_speed_divides_arrivals(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, AZURE, Format.AZURE)
    assert replay(recording, speed=2.0).arrival_us.tolist() == [0, 2_157_300]


def test_uniform_jitter_spreads_a_lump_over_its_three_seconds(tmp_path: Path) -> None:
    lump = '{"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [9, 1]}\n' * 1000
    recording = recording_of(tmp_path, lump, Format.MOONCAKE)
    assert set(replay(recording, seed=1).arrival_us.tolist()) == {0}
    spread = replay(recording, seed=1, jitter=Jitter.UNIFORM).arrival_us
    assert spread.tolist() == sorted(spread.tolist())
    assert 0 <= spread[0] < 100_000 and 2_900_000 < spread[-1] < 3_000_000
    again = replay(recording, seed=1, jitter=Jitter.UNIFORM).arrival_us
    other = replay(recording, seed=2, jitter=Jitter.UNIFORM).arrival_us
    assert spread.tolist() == again.tolist() != other.tolist()


def test_jitter_keeps_each_request_with_its_own_prompt(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, MOONCAKE, Format.MOONCAKE)
    for seed in range(5):
        trace = replay(recording, seed=seed, jitter=Jitter.UNIFORM)
        rows = {int(tokens): blocks_of(trace, row) for row, tokens in enumerate(trace.prompt_tokens)}
        assert rows == {
            int(tokens): blocks_of(recording, row) for row, tokens in enumerate(recording.prompt_tokens)
        }


def test_sessions_are_copied_with_keys_of_their_own(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, AGENTS, Format.AGENTS)
    trace = replay(recording, seed=3, session_count=5)
    firsts = [row for row in range(len(trace)) if trace.follows[row] < 0]
    assert len(firsts) == 5 and len(set(trace.session.tolist())) == 5
    arrivals = [int(trace.arrival_us[row]) for row in firsts]
    assert arrivals == sorted(arrivals)
    for row in range(len(trace)):
        if trace.follows[row] >= 0:
            before = blocks_of(trace, int(trace.follows[row]))
            assert blocks_of(trace, row)[: len(before)] == before
            assert trace.arrival_us[row] == 2_500_000
            assert trace.session[row] == trace.session[trace.follows[row]]
    # One round goes through both recorded sessions, which share their first block; the next has others.
    heads = [blocks_of(trace, row)[0] for row in firsts]
    assert heads[0] == heads[1] != heads[2] == heads[3] != heads[4]


def test_sessions_start_at_poisson_times_as_fast_as_asked(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, AGENTS, Format.AGENTS)
    trace = replay(recording, seed=1, speed=2.0, session_count=4000)
    starts = trace.arrival_us[trace.follows < 0]
    gaps_s = np.diff(starts) / 1e6
    # Mean 1 s at speed 2; of 4,000 exponential gaps the mean and the deviation are known to about 1.6 %.
    assert gaps_s.mean() == pytest.approx(1.0, rel=0.07)
    assert gaps_s.std() == pytest.approx(1.0, rel=0.10)


def test_boundaries_are_those_of_the_proxy_that_are_block_ends() -> None:
    chain = PromptChain()
    chain.feed(bytes(400_000))
    ends = [end for _, end in chain.block_keys()]
    for block_tokens in (64, 512):
        block_bytes = block_tokens * keys.CHARACTERS_PER_TOKEN
        wanted = [end // block_bytes for end in ends if end % block_bytes == 0]
        assert keys.boundaries(block_tokens, 400_000 // block_bytes).tolist() == wanted


def test_keys_at_boundaries_are_those_of_the_blocks() -> None:
    offset, values = keys.own_prompts(np.asarray([40, 0, 3], np.int32))
    bounds = keys.boundaries(64, 40)
    at, found = keys.at_boundaries(offset, values, bounds)
    assert np.diff(at).tolist() == [int((bounds <= 40).sum()), 0, 3]
    assert found[: at[1]].tolist() == [int(values[count - 1]) for count in bounds if count <= 40]
    assert found[at[2] :].tolist() == values[40:43].tolist()

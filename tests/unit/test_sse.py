"""The response meter on real streams: right, resumable at every byte, and not fooled by text."""

from pathlib import Path

import pytest

from router.native.sse import MODE_JSON, MODE_OFF, MODE_SSE, SseMeter, meter_struct_bytes
from tests.oracle import sse as oracle
from tests.property.test_sse import counted, meter

CORPUS = sorted((Path(__file__).parents[1] / "fuzz/corpus/sse").iterdir())


@pytest.fixture(params=CORPUS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def mode_of(path: Path) -> int:
    return MODE_JSON if path.suffix == ".json" else MODE_SSE


def test_response_is_counted_as_the_oracle_counts_it(path: Path) -> None:
    body = path.read_bytes()
    read = oracle.read_body if path.suffix == ".json" else oracle.read_events
    reading = read(body)
    assert reading.is_plain or path.stem in ("unfinished", "multi_line_data")
    assert counted(meter(mode_of(path), body)) == counted(reading)


def test_every_split_point_gives_the_same_counts(path: Path) -> None:
    body = path.read_bytes()
    whole = counted(meter(mode_of(path), body))
    for index in range(len(body) + 1):
        assert counted(meter(mode_of(path), body[:index], body[index:])) == whole
    for size in (1, 2, 3, 17, 18, 19):
        pieces = (body[index : index + size] for index in range(0, len(body), size))
        assert counted(meter(mode_of(path), *pieces)) == whole


def test_every_byte_flipped_is_counted_as_the_oracle_counts_it_or_is_no_json(path: Path) -> None:
    body = path.read_bytes()[:1200]
    end = b"" if path.suffix == ".json" else b"\n\n"
    read = oracle.read_body if path.suffix == ".json" else oracle.read_events
    for index in range(len(body)):
        for flip in (0x01, 0x20, body[index] ^ ord("\n"), body[index] ^ ord("\\")):
            flipped = body[:index] + bytes([body[index] ^ flip]) + body[index + 1 :] + end
            reading = read(flipped)
            if reading.is_plain:
                assert counted(meter(mode_of(path), flipped)) == counted(reading)


@pytest.mark.parametrize(
    ("name", "prompt", "completion", "cached"),
    [
        ("vllm_chat.txt", 21, 9, 16),
        ("openai_chat.txt", 19, 10, 0),
        ("openai_responses.txt", 37, 11, 32),
        ("anthropic_messages.txt", 25, 15, 12),
        ("llamacpp_chat.txt", 21, 9, None),
        ("llamacpp_completion.txt", 21, 9, 7),
        ("tgi_chat.txt", 10, 9, None),
        ("json_chat.json", 21, 9, None),
        ("json_anthropic.json", 25, 15, 12),
    ],
)
def test_tokens_are_those_the_engine_reported(
    name: str, prompt: int, completion: int, cached: int | None
) -> None:
    path = next(path for path in CORPUS if path.name == name)
    sse_meter = meter(mode_of(path), path.read_bytes())
    assert (sse_meter.prompt_tokens, sse_meter.completion_tokens, sse_meter.cached_tokens) == (
        prompt,
        completion,
        cached,
    )


@pytest.mark.parametrize(
    ("name", "done", "error"),
    [
        ("vllm_chat.txt", True, False),
        ("anthropic_messages.txt", True, False),
        ("openai_responses.txt", True, False),
        ("openai_responses_failed.txt", True, True),
        ("vllm_completions_midstream_error.txt", True, True),
        ("anthropic_overloaded.txt", False, True),
        ("llamacpp_error.txt", False, True),
        ("tgi_generate_error.txt", False, True),
        ("tgi_generate_stream.txt", False, False),
        ("unfinished.txt", False, False),
        ("json_error.json", False, True),
    ],
)
def test_how_the_stream_ended_is_seen(name: str, done: bool, error: bool) -> None:
    path = next(path for path in CORPUS if path.name == name)
    sse_meter = meter(mode_of(path), path.read_bytes())
    assert (sse_meter.saw_done, sse_meter.saw_error) == (done, error)


@pytest.mark.parametrize(
    "data",
    [
        b'{"usage":null}',
        b'{"usage":[{"prompt_tokens":1}]}',
        b'{"usage":"prompt_tokens"}',
        b'{"usage":{"prompt_tokens":"1"}}',
        b'{"usage":{"prompt_tokens":1.5}}',
        b'{"usage":{"prompt_tokens":1e2}}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":null}}',
        b'{"usage":{"total":{"prompt_tokens":1}}}',
        b'{"usage":{"x":{"cached_tokens":1}}}',
        b'{"usage":{"cached_tokens":1}}',
        b'{"usage":{"a":"prompt_tokens"}}',
        b'{"usage":{"prompt_tokens":100000000000000000}}',
        b'{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}',
        b'{"a\\"usage":{"prompt_tokens":1}}',
        b'{"usage_":{"prompt_tokens":1}}',
        b'{"timing":{"prompt_n":1}}',
    ],
)
def test_what_is_no_count_is_not_counted(data: bytes) -> None:
    for sse_meter in (meter(MODE_SSE, b"data: " + data + b"\n\n"), meter(MODE_JSON, data)):
        assert not sse_meter.has_usage
        assert (sse_meter.prompt_tokens, sse_meter.cached_tokens) == (None, None)


def test_usage_outranks_timings_in_either_order() -> None:
    usage, timings = b'"usage":{"prompt_tokens":9}', b'"timings":{"prompt_n":4,"cache_n":3,"predicted_n":2}'
    for members in (usage + b"," + timings, timings + b"," + usage):
        assert meter(MODE_JSON, b"{" + members + b"}").prompt_tokens == 9


def test_last_usage_wins_field_by_field() -> None:
    sse_meter = meter(
        MODE_SSE,
        b'data: {"usage":{"input_tokens":5,"output_tokens":1}}\n\n',
        b'data: {"usage":{"output_tokens":7}}\n\n',
    )
    assert (sse_meter.prompt_tokens, sse_meter.completion_tokens) == (5, 7)


def test_feed_returns_the_events_that_ended_in_its_piece() -> None:
    sse_meter = SseMeter()
    assert sse_meter.feed(b"data: 1\n\ndata: 2\n") == 1
    assert sse_meter.feed(b"\n") == 1
    assert sse_meter.feed(b"\n: comment\n\nevent: ping\n\ndata: [DONE]\n\n") == 0
    assert sse_meter.event_count == 2


def test_carriage_return_and_line_feed_are_one_line_end_across_pieces() -> None:
    sse_meter = SseMeter()
    assert [sse_meter.feed(piece) for piece in (b"data: 1\r", b"\n", b"\r", b"\ndata: 2\n\r\n")] == [
        0,
        0,
        1,
        1,
    ]


def test_event_that_never_ended_is_not_counted_but_done_is_seen() -> None:
    sse_meter = meter(MODE_SSE, b"data: 1\n\ndata: [DONE]")
    assert (sse_meter.event_count, sse_meter.saw_done) == (1, True)


def test_error_that_is_null_is_none() -> None:
    assert not meter(MODE_SSE, b'data: {"error": null, "choices": []}\n\n').saw_error
    assert not meter(MODE_SSE, b'data: {"choices":[],"error":{}}\n\n').saw_error
    assert meter(MODE_SSE, b'data: { "error" : "x"}\n\n').saw_error


def test_event_without_data_is_none() -> None:
    sse_meter = meter(MODE_SSE, b"event: error\n\nevent: message_stop\n\n")
    assert (sse_meter.event_count, sse_meter.saw_error, sse_meter.saw_done) == (0, False, False)


def test_meter_that_is_off_counts_nothing() -> None:
    sse_meter = meter(MODE_OFF, b'data: {"usage":{"prompt_tokens":1}}\n\n')
    assert counted(sse_meter) == counted(SseMeter(MODE_OFF))


def test_usage_of_two_kibibytes_is_read() -> None:
    filler = ",".join(f'"field_{index}":{{"a":[{index}]}}' for index in range(100))
    data = f'{{"usage":{{{filler},"prompt_tokens":3}}}}'.encode()
    assert len(data) > 2048
    assert meter(MODE_SSE, b"data: " + data + b"\n\n").prompt_tokens == 3


def test_struct_stays_small() -> None:
    """One lives in every open stream."""
    assert meter_struct_bytes() <= 200

"""The response meter against its oracle: whatever the stream, however it is split."""

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from router.native.sse import MODE_JSON, MODE_SSE, SseMeter
from tests.oracle import sse as oracle

counts = st.one_of(
    st.integers(0, 10**6), st.integers(-5, 10**20), st.none(), st.booleans(), st.floats(0, 1e6)
)
count_keys = st.sampled_from(
    [
        *oracle.FIELDS,
        *oracle.DETAILS,
        "total_tokens",
        "cached_tokens",
        "cache_creation_input_tokens",
        "x",
        "a b",
    ]
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            '"usage"',
            '"usage":{"prompt_tokens":7}',
            "\\",
            '\\"usage":',
            "usage",
            "timings",
            "tim",
            "data: [DONE]",
            "us",
        ]
    ),
)
details = st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens"]), counts, max_size=2)
usages = st.dictionaries(
    count_keys,
    st.one_of(
        counts,
        counts,
        details,
        texts,
        st.lists(details, max_size=2),
        st.dictionaries(count_keys, details, max_size=2),
    ),
    max_size=6,
)
timings = st.dictionaries(
    st.sampled_from(["prompt_n", "predicted_n", "cache_n", "prompt_ms"]), counts, max_size=4
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["usage", "timings", "type", "text", "u", "error", "delta", "message"]),
            inner,
            max_size=4,
        ),
        st.fixed_dictionaries({"usage": usages}),
        st.fixed_dictionaries({"timings": timings, "usage": st.none()}),
        st.fixed_dictionaries({"a": inner, "timings": timings}),
    ),
    max_leaves=8,
)
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


other_lines = st.sampled_from(
    [
        *(b": ping", b":", b"id: 1", b"retry:5", b"datas: 1", b"event", b"events: error", b"event:  error"),
        *(b"event: error", b"event:message_stop", b"event: message_delta", b"event: response.completed"),
        *(b"event: response.failed", b"event: response.output_text.delta"),
    ]
)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    return json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 0, 2])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Whole events of every shape, each line with a line end of its own."""
    lines: list[bytes] = []
    for _ in range(draw(st.integers(0, 5))):
        for _ in range(draw(st.integers(0, 2))):
            lines.append(draw(other_lines))
        shape = draw(st.integers(0, 12))
        colon = draw(st.sampled_from([b"data: ", b"data:"]))
        if shape == 0:
            lines.append(colon + b"[DONE]")
        elif shape == 1:
            lines.append(
                draw(st.sampled_from([b"data", b"data:", b"data: ", b"data: [", b"data: [DON", b"data: {"]))
            )
        elif shape > 2:
            # One JSON text over as many lines as it has.
            lines += [colon + line.encode("utf-8", "replace") for line in draw(json_texts()).split("\n")]
        lines.append(b"")
    return b"".join(line + draw(line_ends) for line in lines) + b"\n\n"


def meter(mode: int, *pieces: bytes) -> SseMeter:
    sse_meter = SseMeter(mode)
    for piece in pieces:
        sse_meter.feed(piece)
    return sse_meter


def counted(reading: SseMeter | oracle.Reading) -> tuple[object, ...]:
    return (
        reading.event_count,
        reading.saw_done,
        reading.saw_error,
        reading.has_usage,
        reading.prompt_tokens,
        reading.completion_tokens,
        reading.cached_tokens,
    )


def pieces_of(body: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(body) + 1) for position in positions), len(body)]
    return [body[first:last] for first, last in pairwise(edges)]


@given(streams())
@settings(max_examples=100)
def test_stream_is_counted_as_the_oracle_counts_it(body: bytes) -> None:
    reading = oracle.read_events(body)
    sse_meter = meter(MODE_SSE, body)
    assert sse_meter.event_count == reading.event_count
    assert sse_meter.saw_done == reading.saw_done
    if reading.is_plain:
        assert counted(sse_meter) == counted(reading)


@given(json_texts())
@settings(max_examples=70)
def test_json_body_is_read_as_the_oracle_reads_it(text: str) -> None:
    body = text.encode("utf-8", "replace")
    assert counted(meter(MODE_JSON, body)) == counted(oracle.read_body(body))


@given(streams(), st.lists(st.integers(0, 10**6), max_size=10))
@settings(max_examples=70)
def test_any_split_gives_the_same_counts_and_each_event_once(body: bytes, positions: list[int]) -> None:
    pieces = pieces_of(body, positions)
    assert counted(meter(MODE_SSE, *pieces)) == counted(meter(MODE_SSE, body))
    sse_meter = SseMeter()
    assert sum(sse_meter.feed(piece) for piece in pieces) == sse_meter.event_count


@settings(max_examples=60)
@given(json_texts(), st.lists(st.integers(0, 10**6), max_size=10))
def test_any_split_of_a_json_body_gives_the_same_counts(text: str, positions: list[int]) -> None:
    body = text.encode("utf-8", "replace")
    assert counted(meter(MODE_JSON, *pieces_of(body, positions))) == counted(meter(MODE_JSON, body))


@given(streams(), st.data())
@settings(max_examples=70)
def test_a_flipped_byte_is_counted_as_the_oracle_counts_it_or_is_no_json(
    body: bytes, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[index] ^= data.draw(st.integers(1, 255))
    whole = bytes(flipped) + b"\n\n"
    reading = oracle.read_events(whole)
    sse_meter = meter(MODE_SSE, whole)
    assert sse_meter.event_count == reading.event_count
    if reading.is_plain:
        assert counted(sse_meter) == counted(reading)
    assert counted(meter(MODE_SSE, *pieces_of(whole, [index, index + 1]))) == counted(sse_meter)


@given(
    st.binary(max_size=200),
    st.lists(st.integers(0, 10**6), max_size=10),
    st.sampled_from([MODE_SSE, MODE_JSON]),
)
def test_any_split_of_anything_gives_the_same_counts(body: bytes, positions: list[int], mode: int) -> None:
    assert counted(meter(mode, *pieces_of(body, positions))) == counted(meter(mode, body))

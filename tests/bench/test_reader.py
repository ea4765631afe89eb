"""The generator's reader: whole, at every split point, with trailing bytes, every payload byte flipped."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.messages import messages
from bench.native.reader import read_message

ANSWER = messages(is_streaming=False)
STREAM = messages(is_streaming=True)
STREAM_BYTES = STREAM["opening"] + STREAM["event"] * 2 + STREAM["ending"]


def read_answer(pieces: list[bytes]) -> dict[str, object]:
    return read_message(pieces, True, ANSWER["answered"])


def read_stream(pieces: list[bytes]) -> dict[str, object]:
    return read_message(pieces, True, STREAM["event_payload"], STREAM["ending_payload"])


def test_answer_is_whole_at_every_split_point() -> None:
    whole = ANSWER["answer"]
    for at in range(len(whole) + 1):
        verdict = read_answer([whole[:at], whole[at:]])
        assert verdict["is_whole"], at
        assert verdict["left_over_bytes"] == 0
        assert verdict["status"] == 200


def test_stream_is_whole_at_every_split_point() -> None:
    for at in range(len(STREAM_BYTES) + 1):
        verdict = read_stream([STREAM_BYTES[:at], STREAM_BYTES[at:]])
        assert verdict["is_whole"], at
        assert verdict["event_count"] == 4  # three events and [DONE]


@given(st.lists(st.integers(0, len(STREAM_BYTES)), max_size=12))
def test_stream_is_whole_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM_BYTES)]
    pieces = [STREAM_BYTES[start:end] for start, end in pairwise(edges)]
    assert read_stream(pieces)["is_whole"]


@given(st.integers(1, 400))
def test_other_chunk_sizes_are_the_same_stream(chunk_bytes: int) -> None:
    payload = STREAM["event_payload"] * 3 + STREAM["ending_payload"]
    head = STREAM["opening"].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    chunks = [payload[at : at + chunk_bytes] for at in range(0, len(payload), chunk_bytes)]
    body = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert read_stream([head + body])["is_whole"]


def test_no_prefix_is_whole() -> None:
    for whole, read in ((ANSWER["answer"], read_answer), (STREAM_BYTES, read_stream)):
        for end in range(len(whole)):
            assert not read([whole[:end]])["is_whole"], end


def test_every_flipped_payload_byte_is_noticed() -> None:
    for whole, read, body in (
        (ANSWER["answer"], read_answer, ANSWER["answered"]),
        (STREAM_BYTES, read_stream, STREAM["event_payload"]),
    ):
        start = whole.index(body)
        for at in range(start, start + len(body)):
            flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            assert not read([flipped])["is_whole"], at


def test_bytes_after_the_answer_are_left_over() -> None:
    assert read_answer([ANSWER["answer"] + b"HTTP/1.1"])["left_over_bytes"] == 8


def test_a_doubled_or_missing_event_text_is_noticed() -> None:
    event = STREAM["event"]
    torn = STREAM["opening"] + event[:20] + STREAM["ending"]
    assert not read_stream([torn])["is_whole"]
    answer = ANSWER["answer"].replace(b"content-length: 600", b"content-length: 1200") + ANSWER["answered"]
    assert not read_answer([answer])["is_whole"]


def test_informational_heads_are_passed_over() -> None:
    assert read_answer([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ANSWER["answer"]])["is_whole"]


def test_connection_close_is_seen() -> None:
    closing = ANSWER["answer"].replace(b"server: uvicorn", b"Connection: Close")
    assert read_answer([closing])["keeps_alive"] is False
    assert read_answer([ANSWER["answer"]])["keeps_alive"] is True

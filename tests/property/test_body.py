"""The body scanner against its oracle: whatever the JSON, however it is split."""

import json
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.body_facts import read_json_facts
from router.native.body import BodyScan
from router.native.hash import hash_of
from tests.oracle import body as oracle
from tests.oracle import prompt as prompt_oracle

wanted_keys = st.sampled_from(oracle.WANTED_KEYS)
keys = st.one_of(
    wanted_keys,
    wanted_keys,
    st.sampled_from(["temperature", "modem", "models", "", 'a"b', "mödel"]),
    st.text(),
)
strings = st.one_of(
    st.text(),
    st.sampled_from(["a", "x" * 256, "x" * 257, "é" * 128, "é" * 129, 'q"', "\\", "\\\\", "{[", "]}"]),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), strings
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(strings, inner, max_size=6)),
    max_leaves=20,
)
typed_members = st.one_of(
    st.tuples(st.just("model"), strings),
    st.tuples(st.just("user"), strings),
    st.tuples(st.just("stream"), st.booleans()),
    st.tuples(st.sampled_from(oracle.BOUND_KEYS), st.integers(-(10**19), 10**19)),
    st.tuples(st.sampled_from(oracle.PROMPT_KEYS), st.one_of(st.text(min_size=900, max_size=1300), values)),
    st.tuples(st.sampled_from(sorted(oracle.AHEAD_NAMES)), values),
    st.tuples(keys, values),
)
spaces = st.sampled_from(["", "", " ", "\n  ", "\t\r\n"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Objects written by hand so that keys may repeat, be escaped and stand in any white space."""
    members = []
    for key, value in draw(st.lists(typed_members, max_size=8)):
        raw_key = json.dumps(key, ensure_ascii=draw(st.booleans()))
        if key and draw(st.integers(0, 30)) == 0:
            raw_key = f'"\\u{ord(key[0]) & 0xFFFF:04x}{raw_key[2:]}' if key.isalpha() else raw_key
        raw_value = json.dumps(
            value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1]))
        )
        members.append(draw(spaces) + raw_key + draw(spaces) + ":" + draw(spaces) + raw_value + draw(spaces))
    text = draw(spaces) + "{" + ",".join(members) + draw(spaces) + "}" + draw(spaces)
    return text.encode("utf-8", "replace")


def scan(*pieces: bytes) -> BodyScan:
    body_scan = BodyScan()
    for piece in pieces:
        body_scan.feed(piece)
    return body_scan


def facts(body_scan: BodyScan) -> tuple[object, ...]:
    return (
        body_scan.position,
        body_scan.in_doubt,
        body_scan.is_complete,
        body_scan.is_object,
        body_scan.model,
        body_scan.model_offset,
        body_scan.stream,
        body_scan.max_tokens,
        body_scan.user,
        body_scan.prompt_offset,
        body_scan.prompt_length,
        body_scan.prompt_key,
        body_scan.prompt_keys(7),
    )


def assert_agrees(body: bytes, body_scan: BodyScan) -> None:
    """The scan of a whole valid body says what the oracle says, or that it is in doubt."""
    if body_scan.in_doubt:
        return
    reading = oracle.read(body)
    assert body_scan.is_complete
    assert body_scan.model == reading.model
    assert body_scan.model_offset == reading.model_offset
    assert body_scan.stream == reading.stream
    assert body_scan.max_tokens == reading.max_tokens
    assert body_scan.user == reading.user
    assert body_scan.prompt_offset == reading.prompt_offset
    if reading.prompt is not None:
        assert body_scan.prompt_length == len(reading.prompt)
        assert body_scan.prompt_key == hash_of(reading.prompt[: oracle.PROMPT_KEY_BYTES])
    assert body_scan.prompt_keys(7) == prompt_oracle.keys(reading.prompt or b"", reading.ahead, 7)
    if reading.model_offset is not None and reading.model is not None:
        assert body[reading.model_offset :].startswith(reading.model + b'"')


def cuts(body: bytes, positions: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(position % (len(body) + 1) for position in positions), len(body)]
    return (body[first:last] for first, last in pairwise(edges))


@given(bodies())
@example(b'{"model":"a","messages":[{"content":"\\\\\\""}],"stream":true}')
@example(b'{"a":"\\"","model":"b"}')
@settings(max_examples=150)
def test_scan_equals_oracle_and_doubts_exactly_when_it_must(body: bytes) -> None:
    assert oracle.is_valid(body)
    body_scan = scan(body)
    assert body_scan.in_doubt == oracle.read(body).in_doubt
    assert_agrees(body, body_scan)


@given(bodies())
@settings(max_examples=100)
def test_certain_scan_equals_the_slow_reading(body: bytes) -> None:
    body_scan = scan(body)
    if body_scan.in_doubt:
        return
    slow = read_json_facts(body)
    assert body_scan.model == (None if slow.model is None else slow.model.encode())
    assert bool(body_scan.stream) == slow.stream
    assert body_scan.max_tokens == slow.max_tokens
    assert body_scan.user == (None if slow.user is None else slow.user.encode())


@given(bodies(), st.lists(st.integers(0, 10**6), max_size=8))
@settings(max_examples=100)
def test_any_split_gives_the_same_facts(body: bytes, positions: list[int]) -> None:
    assert facts(scan(*cuts(body, positions))) == facts(scan(body))


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=8))
def test_any_split_of_anything_gives_the_same_facts(data: bytes, positions: list[int]) -> None:
    assert facts(scan(*cuts(b"{" + data, positions))) == facts(scan(b"{" + data))


@given(bodies(), st.data())
@settings(max_examples=100)
def test_a_flipped_byte_gives_doubt_or_what_the_oracle_says(body: bytes, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[index] ^= data.draw(st.integers(1, 255))
    body_scan = scan(bytes(flipped))
    if oracle.is_valid(bytes(flipped)):
        assert_agrees(bytes(flipped), body_scan)

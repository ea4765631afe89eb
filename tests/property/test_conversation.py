"""Where a conversation's first user message ends, by a JSON parser; which prompts are one conversation."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.native.conversation import find_end, find_key
from tests.oracle.conversation import BYTES_MAX, end_of_first_user_message

texts = st.text(max_size=40) | st.sampled_from(['"', '\\"', "}]{[", "user", "role", 'role": "user', "é" * 30])
contents = texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
roles = st.sampled_from(["system", "developer", "assistant", "tool", "user", "User", "users", ""])
messages = st.fixed_dictionaries(
    {},
    optional={
        "content": contents,
        "role": roles | st.none() | st.just(["user"]),
        "n": st.integers() | st.none(),
    },
)
separators = st.sampled_from([(",", ":"), (", ", ": "), (",\n ", " :\t")])


@given(st.lists(messages | texts | st.integers(), max_size=6), separators, st.booleans())
def test_the_end_is_where_a_parser_finds_it(
    rows: list[object], separator: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(rows, separators=separator, ensure_ascii=ascii_only).encode()
    assert find_end(text) == end_of_first_user_message(text)


@given(st.binary(max_size=200) | st.text('[]{}",:\\rolesu ', max_size=60).map(str.encode))
def test_whatever_the_bytes_are_the_end_lies_among_them(data: bytes) -> None:
    assert 0 <= find_end(data) <= len(data)
    for cut in range(0, len(data), 7):
        assert 0 <= find_end(data[:cut]) <= cut


def dump(*rows: tuple[str, str]) -> bytes:
    return json.dumps([{"role": role, "content": text} for role, text in rows]).encode()


OPENING = (("system", "You are terse. " * 200), ("user", "first question"))


def test_a_conversation_keeps_its_key_as_it_grows_and_others_have_their_own() -> None:
    key = find_key(dump(*OPENING))
    assert key
    for turns in range(1, 6):
        grown = [*OPENING, *((("assistant", "answer"), ("user", f"turn {turns}")) * turns)]
        assert find_key(dump(*grown)) == key
    assert find_key(dump(OPENING[0], ("user", "another question"))) != key, "the same system prompt"
    assert find_key(dump(("system", "Be kind."), OPENING[1])) != key
    assert find_key(dump(*OPENING), b'"beside"') == key, "what is beside the messages may come after them"


@pytest.mark.parametrize("first_bytes", [BYTES_MAX - 200, BYTES_MAX, 3 * BYTES_MAX])
def test_a_long_first_message_is_known_by_its_beginning(first_bytes: int) -> None:
    long = ("user", "x" * first_bytes)
    grown = dump(long, ("assistant", "answer"), ("user", "more"))
    assert find_end(grown) == min(first_bytes + 32, BYTES_MAX)
    assert find_key(grown) == find_key(dump(long)) != 0
    assert find_key(grown) != find_key(dump(("user", "y" + "x" * (first_bytes - 1))))


def test_what_is_no_conversation_has_no_key() -> None:
    for text in (b"", b'"a prompt"', b"[]", b"[1, 2]", b'["a", "b"]', dump(("system", "alone")), b"["):
        assert find_key(text) == 0

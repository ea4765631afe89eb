"""What mock engines read of a JSON body is what a JSON parser reads."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.native.request import request_facts

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
others = st.dictionaries(st.text().map(lambda key: "x" + key), values, max_size=4)
layouts = st.sampled_from([{"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}])


@given(others, values, st.text(st.characters(codec="ascii", exclude_characters='"\\', categories=["L", "N"])),
       st.integers(1, 10**6), st.booleans(), layouts)  # fmt: skip
def test_facts_are_those_of_a_json_parser(
    around: dict[str, Any], messages: Any, model: str, tokens_max: int, stream: bool, layout: dict[str, Any]
) -> None:
    body = {
        **around,
        "messages": [messages],
        "model": model,
        "stream": stream,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens_max,
    }
    text = json.dumps(body, **layout).encode()
    facts = request_facts(text)
    assert facts is not None
    assert facts["model"] == model.encode()
    assert facts["stream"] == stream
    assert facts["tokens_max"] == tokens_max
    assert facts["include_usage"] is True
    assert json.loads(facts["prompt"]) == [messages]  # type: ignore[arg-type]


@given(others)
def test_a_body_cut_short_is_no_json_object(around: dict[str, Any]) -> None:
    text = json.dumps(around).encode()
    assert request_facts(text) is not None
    assert all(request_facts(text[:size]) is None for size in range(len(text)))

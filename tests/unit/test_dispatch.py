"""The hooks answer the core in the forms it expects."""

import json

import pytest

from router.dispatch import Dispatcher
from router.errors import OUTCOMES, Cause


def make_dispatcher() -> tuple[Dispatcher, list[tuple[int, bytes, bool, str]]]:
    adopted: list[tuple[int, bytes, bool, str]] = []
    return Dispatcher(lambda *connection: adopted.append(connection)), adopted


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOMES[cause].status])
def test_every_answer_of_ours_is_an_openai_error_with_whole_header_lines(cause: Cause) -> None:
    status, lines, body = make_dispatcher()[0].error_response(cause, "why", b"id", [])
    assert status == OUTCOMES[cause].status
    assert lines == b"" or lines.endswith(b"\r\n")
    assert all(b": " in line for line in lines.split(b"\r\n")[:-1])
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "why" in error["message"]


def test_an_unknown_model_is_answered_with_the_known_names() -> None:
    status, _, body = make_dispatcher()[0].error_response(
        Cause.MODEL_NOT_FOUND, "model 'x'", b"", ["b", "a", "b"]
    )
    assert status == 404
    assert "model 'x'; known: 'a', 'b'" in json.loads(body)["error"]["message"]


def test_a_long_list_of_known_models_is_cut_with_its_count() -> None:
    names = [f"m{index:03}" for index in range(100)]
    body = make_dispatcher()[0].error_response(Cause.MODEL_NOT_FOUND, "", b"", names)[2]
    message = json.loads(body)["error"]["message"]
    assert "'m019' and 80 more" in message
    assert "m020" not in message


def test_failed_attempts_follow_the_retry_rule() -> None:
    dispatcher, _ = make_dispatcher()
    assert dispatcher.on_attempt_failed(Cause.CONNECT_FAILED, 1, True, 0)
    assert not dispatcher.on_attempt_failed(Cause.CONNECT_FAILED, 3, True, 0)
    assert not dispatcher.on_attempt_failed(Cause.TRUNCATED, 1, True, 100)


def test_body_facts_come_as_the_core_takes_them() -> None:
    body = b'{"mo\\u0064el": "m", "stream": true, "user": "u"}'
    facts = make_dispatcher()[0].body_facts(b"/v1/chat/completions", b"application/json", body, True)
    assert facts == ("m", True, "u")


def test_an_unreadable_body_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make_dispatcher()[0].body_facts(b"/v1/chat/completions", b"application/json", b'{"model":', True)


def test_a_connection_handed_over_reaches_whoever_adopts() -> None:
    dispatcher, adopted = make_dispatcher()
    dispatcher.hand_over(7, b"GET", False, "127.0.0.1")
    assert adopted == [(7, b"GET", False, "127.0.0.1")]

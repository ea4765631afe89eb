"""A client that hangs up: what it had by then decides whether its exchange was completed or given up."""

from __future__ import annotations

import pytest

from tests.support.raw_peer import chat, request
from tests.support.scripted import Scripted

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"t"}}]}\n\n'
CHAT_END = b"data: [DONE]\n\n"
MESSAGES_END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def outcome_after(*events: bytes, content_type: bytes = b"text/event-stream", window: int = -1) -> str:
    """What is logged of a stream whose client takes `window` bytes of its events (-1: all), then hangs up."""
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(chat(stream=True)))
    (upstream,) = scripted.establish_all()
    scripted.driver.receive(upstream, HEAD % content_type)
    scripted.driver.take(client)
    scripted.driver.set_window(client, window)
    for event in events:
        scripted.driver.receive(upstream, chunk(event))
    scripted.driver.end(client)
    assert not scripted.driver.state(upstream)["open"], "its endpoint need not go on"
    scripted.assert_settled()
    (line,) = scripted.log()
    scripted.finish()
    return str(line["outcome"])


@pytest.mark.parametrize("end", [CHAT_END, MESSAGES_END])
def test_whoever_leaves_after_the_end_event_had_the_whole_answer(end: bytes) -> None:
    assert outcome_after(TOKEN, end) == "completed"


def test_whoever_leaves_before_the_end_event_has_given_the_answer_up() -> None:
    assert outcome_after(TOKEN, TOKEN) == "client_closed"
    assert outcome_after(TOKEN, CHAT_END[:-4]) == "client_closed"


def test_an_end_event_that_was_not_taken_does_not_count() -> None:
    assert outcome_after(TOKEN, CHAT_END, window=len(chunk(TOKEN)) + 3) == "client_closed"


def test_text_that_is_no_event_stream_has_no_end_event() -> None:
    assert outcome_after(TOKEN, CHAT_END, content_type=b"text/plain") == "client_closed"

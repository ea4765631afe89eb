"""What leaves at the end of a batch: as had it been sent at once; what the peer does not take is noticed."""

from __future__ import annotations

from tests.support.raw_peer import chat, request, response
from tests.support.scripted import Scripted

EVENT = b"data: {}\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


def streaming(scripted: Scripted) -> tuple[int, int]:
    """A client and the endpoint whose stream it gets; the head has arrived."""
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(chat(stream=True)))
    (upstream,) = scripted.establish_all()
    scripted.driver.take(upstream)
    scripted.driver.receive(upstream, STREAM_HEAD + CHUNK)
    assert scripted.driver.take(client).endswith(CHUNK)
    return client, upstream


def test_nothing_leaves_before_the_batch_ends_and_then_everything_in_order() -> None:
    scripted = Scripted(endpoint_count=1)
    client, upstream = streaming(scripted)
    scripted.driver.begin_batch()
    scripted.driver.receive(upstream, CHUNK)
    assert scripted.driver.take(client) == b""
    scripted.driver.end_batch()
    assert scripted.driver.take(client) == CHUNK
    scripted.driver.end(client)
    scripted.finish()


def test_a_client_that_does_not_take_its_share_of_a_batch_pauses_its_endpoint() -> None:
    scripted = Scripted(endpoint_count=1)
    client, upstream = streaming(scripted)
    scripted.driver.set_window(client, 3)
    scripted.driver.begin_batch()
    scripted.driver.receive(upstream, CHUNK)
    assert not scripted.driver.state(upstream)["paused"], "so far nobody knows"
    scripted.driver.end_batch()
    assert scripted.driver.state(upstream)["paused"]
    assert scripted.driver.state(client)["waiting_bytes"] == len(CHUNK) - 3
    scripted.driver.set_window(client, -1)
    assert scripted.driver.take(client) == CHUNK
    assert not scripted.driver.state(upstream)["paused"]
    scripted.driver.end(client)
    scripted.finish()


def test_a_client_that_never_takes_it_is_given_up_as_one_that_stalls() -> None:
    scripted = Scripted(endpoint_count=1, timeouts={"write_stall_ms": 5000, "idle_ms": 60_000})
    client, upstream = streaming(scripted)
    scripted.driver.set_window(client, 0)
    scripted.driver.begin_batch()
    scripted.driver.receive(upstream, CHUNK)
    scripted.driver.end_batch()
    scripted.driver.advance(4_000_000)
    scripted.core.tick()
    assert scripted.driver.state(client)["open"]
    scripted.driver.advance(2_000_000)
    scripted.core.tick()
    assert not scripted.driver.state(client)["open"]
    (line,) = scripted.log()
    assert line["outcome"] == "client_stalled"
    scripted.finish()


def test_an_answer_whose_end_is_not_taken_holds_up_the_next_request_of_its_connection() -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(chat()))
    (upstream,) = scripted.establish_all()
    scripted.driver.take(upstream)
    scripted.driver.set_window(client, 10)
    scripted.driver.begin_batch()
    scripted.driver.receive(upstream, response(b"{}"))
    scripted.driver.end_batch()
    scripted.driver.receive(client, request(chat()))
    assert scripted.driver.take(upstream) == b"", "its answer would have nowhere to go"
    scripted.driver.set_window(client, -1)
    assert scripted.driver.take(client).endswith(b"\r\n\r\n{}")
    assert scripted.driver.take(upstream).startswith(b"POST ")
    scripted.driver.receive(upstream, response(b"{}"))
    scripted.finish()


def test_the_request_of_a_client_that_left_in_the_same_batch_reaches_nobody() -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(chat()))
    (upstream,) = scripted.establish_all()
    scripted.driver.take(upstream)
    scripted.driver.receive(upstream, response(b"{}"))
    scripted.driver.begin_batch()
    scripted.driver.receive(client, request(chat()))
    scripted.driver.end(client)
    scripted.driver.end_batch()
    assert scripted.driver.take(upstream) == b""
    assert not scripted.driver.state(upstream)["open"]
    scripted.finish()


def test_an_upload_that_is_not_taken_pauses_its_client() -> None:
    scripted = Scripted(endpoint_count=1, limits={"retry_buffer_bytes_max": 1024})
    body = chat(prompt="x" * 5000)
    whole = request(body)
    head_bytes = len(whole) - len(body)
    client = scripted.driver.accept()
    scripted.driver.receive(client, whole[: head_bytes + 3000])
    (upstream,) = scripted.establish_all()
    assert scripted.driver.take(upstream).endswith(body[:3000])
    scripted.driver.set_window(upstream, 0)
    scripted.driver.begin_batch()
    scripted.driver.receive(client, whole[head_bytes + 3000 : head_bytes + 4000])
    scripted.driver.end_batch()
    assert scripted.driver.state(client)["paused"]
    scripted.driver.set_window(upstream, -1)
    assert not scripted.driver.state(client)["paused"]
    scripted.driver.receive(client, whole[head_bytes + 4000 :])
    assert scripted.driver.take(upstream) == body[3000:]
    scripted.driver.receive(upstream, response(b"{}"))
    scripted.finish()


def test_what_python_takes_over_keeps_the_native_end_while_an_answer_is_not_taken() -> None:
    scripted = Scripted(endpoint_count=1)
    client = scripted.driver.accept()
    scripted.driver.receive(client, request(chat()))
    (upstream,) = scripted.establish_all()
    scripted.driver.take(upstream)
    scripted.driver.receive(client, request(method="GET", path="/v1/models"))
    scripted.driver.set_window(client, 10)
    scripted.driver.begin_batch()
    scripted.driver.receive(upstream, response(b"{}"))
    scripted.driver.end_batch()
    (taken_over,) = scripted.handed_over
    assert taken_over.startswith(b"GET /v1/models ")
    assert scripted.driver.state(client)["open"], "its answer is still to go out"
    scripted.driver.set_window(client, -1)
    assert scripted.driver.take(client).endswith(b"\r\n\r\n{}")
    scripted.driver.end(client)
    scripted.finish()

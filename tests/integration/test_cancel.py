"""Who goes away ends the exchange for the other, at any point of it: the cancel matrix.

Stream or not x before the upload ends, before the first byte, mid-answer x client or endpoint goes, in order
or by reset. After each: the other side has seen it, nothing is held, the outcome names the right side, and
the next request works.
"""

from collections.abc import Iterator

import pytest

from tests.support.raw_peer import STREAM_HEAD, Endpoint, Peer, chat, dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router
from tests.support.sender import Sender

MIB = 1 << 20
BODY_BYTES = 4 * MIB  # past the retry buffer: cut through


class Scene:
    """One router and one endpoint that both last; a client and an engine's connection for each test."""

    def __init__(self, router: RouterProcess, endpoint: Endpoint) -> None:
        self.router = router
        self.endpoint = endpoint
        self._before = router.metrics().outcomes()

    def begin(self, phase: str, stream: bool) -> tuple[Peer, Peer]:
        """Client and engine, with the exchange between them at `phase`."""
        client = dial(self.router.address)
        if phase == "uploading":
            body = chat(stream, padding="x" * BODY_BYTES)
            client.send(request(body)[: -len(body) // 2])
            engine = self.endpoint.accept()
            engine.take_head()
            return client, engine
        client.send(request(chat(stream)))
        engine = self.endpoint.accept()
        engine.take_request()
        if phase == "answering":
            if stream:
                engine.send(STREAM_HEAD)
                engine.send_chunk(b'data: {"n":1}\n\n')
                client.take_until(b"\n\n\r\n")
            else:
                engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 500)
                client.take_until(b"x" * 500)
        return client, engine

    def assert_over(self, outcome: str, side: str) -> None:
        """Exactly one exchange has ended, so; nothing is held; the next one works."""
        reading = self.router.wait_settled()
        ended = {
            key: count - self._before.get(key, 0)
            for key, count in reading.outcomes().items()
            if count > self._before.get(key, 0)
        }
        assert ended == {(outcome, side): 1}
        assert reading.sum("fairlead_upstream_connections_open") == 0
        with dial(self.router.address) as client:
            client.send(request(chat()))
            with self.endpoint.accept() as engine:
                engine.take_request()
                engine.send_response(b'{"ok":true}', connection="close")
                status, _, body = client.take_response()
        assert (status, body) == (200, b'{"ok":true}')


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RouterProcess, Endpoint]]:
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url])) as router:
        yield router, endpoint


@pytest.fixture
def scene(running: tuple[RouterProcess, Endpoint]) -> Scene:
    return Scene(*running)


def leave(peer: Peer, manner: str) -> None:
    if manner == "reset":
        peer.reset()
    else:
        peer.close()


@pytest.mark.parametrize("manner", ["end", "reset"])
@pytest.mark.parametrize("phase", ["uploading", "waiting", "answering"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_away_cancels_its_engine(
    scene: Scene, stream: bool, phase: str, manner: str
) -> None:
    client, engine = scene.begin(phase, stream)
    with client, engine:
        leave(client, manner)
        engine.wait_closed()
        scene.assert_over("client_closed", "downstream")


@pytest.mark.parametrize("manner", ["end", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_engine_that_goes_away_before_it_answers_is_a_502(scene: Scene, stream: bool, manner: str) -> None:
    client, engine = scene.begin("waiting", stream)
    with client, engine:
        leave(engine, manner)
        status, fields, body = client.take_response()
        assert status == 502
        assert b'"upstream_reset"' in body
        assert "connection" not in fields
        scene.assert_over("reset_before_head", "upstream")


@pytest.mark.parametrize("manner", ["end", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_engine_that_goes_away_during_an_upload_is_a_502_and_the_connection_ends(
    scene: Scene, stream: bool, manner: str
) -> None:
    client, engine = scene.begin("uploading", stream)
    with client, engine:
        leave(engine, manner)
        status, fields, body = client.take_response()
        assert status == 502
        assert b'"upstream_reset"' in body
        assert fields["connection"] == "close"
        assert client.wait_closed() == "end"
        client.close()
        scene.assert_over("reset_before_head", "upstream")


@pytest.mark.parametrize("manner", ["end", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_engine_that_goes_away_mid_answer_cannot_look_complete(
    scene: Scene, stream: bool, manner: str
) -> None:
    client, engine = scene.begin("answering", stream)
    with client, engine:
        leave(engine, manner)
        assert client.wait_closed() == "reset"
        scene.assert_over("truncated", "upstream")


@pytest.mark.parametrize("manner", ["end", "reset"])
def test_a_client_that_goes_away_while_its_small_body_is_held_reaches_no_engine(
    scene: Scene, manner: str
) -> None:
    client = dial(scene.router.address)
    client.send(request(chat())[:-5])
    scene.router.wait_metric("fairlead_requests_in_flight", 1)
    leave(client, manner)
    scene.assert_over("client_closed", "downstream")


def test_a_client_that_goes_away_with_its_head_half_sent_was_no_request(scene: Scene) -> None:
    before = scene.router.metrics().requests_finished()
    client = dial(scene.router.address)
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
    scene.router.wait_metric("fairlead_connections_open", 1)
    client.reset()
    scene.router.wait_metric("fairlead_connections_open", 0)
    assert scene.router.metrics().requests_finished() == before


def test_a_client_that_goes_away_takes_its_pipelined_requests_with_it(scene: Scene) -> None:
    client = dial(scene.router.address)
    client.send(request(chat()) * 3)
    with scene.endpoint.accept() as engine:
        engine.take_request()
        client.reset()
        engine.wait_closed()
    scene.assert_over("client_closed", "downstream")


def test_an_answer_before_the_upload_ends_is_passed_and_ends_the_connection(scene: Scene) -> None:
    client, engine = scene.begin("uploading", stream=False)
    with client, engine:
        engine.send_response(b'{"error":"too much"}', "413 Content Too Large", connection="close")
        status, fields, body = client.take_response()
        assert (status, body) == (413, b'{"error":"too much"}')
        assert fields["connection"] == "close"
        assert client.wait_closed() == "end"
        client.close()
        scene.assert_over("upstream_4xx", "upstream")


def test_an_answer_before_the_upload_ends_survives_a_client_that_goes_on_sending(scene: Scene) -> None:
    client, engine = scene.begin("uploading", stream=False)
    with client, engine:
        engine.send_response(b'{"error":"too much"}', "413 Content Too Large", connection="close")
        engine.close()
        client.send(b"x" * MIB)  # a client that reads only when it has sent all
        assert client.take_response()[0] == 413
        client.close()
        scene.assert_over("upstream_4xx", "upstream")


def test_an_answer_is_read_before_the_reset_behind_it(scene: Scene) -> None:
    client = dial(scene.router.address)
    body = chat(padding="x" * (32 * MIB))
    upload = Sender(client, request(body), 1)
    with client, scene.endpoint.accept() as engine:
        upload.wait_stalled()  # so the next write meets the endpoint's reset
        engine.send_response(b'{"error":"too much"}', "413 Content Too Large", connection="close")
        engine.close()
        assert client.take_response()[0] == 413
        client.close()
        upload.join()
        scene.assert_over("upstream_4xx", "upstream")


def test_many_clients_that_leave_at_once_leave_nothing_behind(scene: Scene) -> None:
    before = scene.router.metrics().outcomes().get(("client_closed", "downstream"), 0)
    clients = [dial(scene.router.address) for _ in range(40)]
    for index, client in enumerate(clients):
        client.send(request(chat(stream=index % 2 == 0)))
    engines = [scene.endpoint.accept() for _ in clients]
    scene.router.wait_in_flight(40)
    for client in clients:
        client.reset()
    for engine in engines:
        engine.wait_closed()
        engine.close()
    reading = scene.router.wait_settled()
    assert reading.outcomes()[("client_closed", "downstream")] - before == 40


def test_an_engine_may_begin_its_answer_and_still_take_the_rest_of_the_upload(scene: Scene) -> None:
    client = dial(scene.router.address)
    body = chat(stream=True, padding="x" * BODY_BYTES)
    half = len(body) // 2
    client.send(request(body)[:-half])
    with client, scene.endpoint.accept() as engine:
        _, fields = engine.take_head()
        received = engine.take(len(body) - half)
        engine.send(STREAM_HEAD)
        engine.send_chunk(b"data: early\n\n")
        client.take_until(b"data: early\n\n\r\n")
        client.send(body[-half:])
        assert received + engine.take(half) == body
        assert int(fields["content-length"]) == len(body)
        engine.send_chunk(b"data: [DONE]\n\n")
        engine.send(b"0\r\n\r\n")
        assert client.take_chunk() == b"data: [DONE]\n\n"
        assert client.take_chunk() == b""
        assert client.wait_closed() == "end"
        engine.wait_closed()
        scene.assert_over("completed", "-")

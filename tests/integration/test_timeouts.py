"""Each timeout ends what has taken too long, and only that: the client is told which one it was.

Every kind has a route, or a router, where it alone is short; nothing here measures how long anything took.
"""

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.integration.processes import wait_until
from tests.support.raw_peer import STREAM_HEAD, Endpoint, Peer, chat, dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router
from tests.support.sender import Sender

SHORT_MS = 150
KINDS = ("connect_ms", "tls_ms", "body_ms", "first_byte_ms", "idle_ms", "total_ms")


class Scene:
    """A router in which `/KIND/...` is a route where only that timeout is short; one endpoint."""

    def __init__(self, router: RouterProcess, endpoint: Endpoint) -> None:
        self.router = router
        self.endpoint = endpoint

    def send(self, kind: str, body: bytes = b"", **headers: str) -> Peer:
        client = dial(self.router.address)
        client.send(request(body or chat(), path=f"/{kind}/v1/chat/completions", **headers))
        return client

    def accept(self) -> Peer:
        engine = self.endpoint.accept()
        engine.take_request()
        return engine

    def assert_counted(self, kind: str, outcome: str, side: str) -> None:
        assert self.router.wait_settled().sum(
            "fairlead_requests_total", route=kind, outcome=outcome, side=side
        )


def assert_error(client: Peer, status: int, code: str, setting: str) -> dict[str, str]:
    """The router's own answer: its status, and which timeout it was."""
    got, fields, body = client.take_response()
    error = json.loads(body)["error"]
    assert (got, error["code"]) == (status, code)
    assert setting in error["message"]
    assert fields["x-should-retry"] == "false"
    assert fields["x-request-id"]
    return fields


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of an address where connections are neither taken nor refused."""
    with contextlib.ExitStack() as held:
        endpoint = held.enter_context(Endpoint(backlog=0))
        held.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", endpoint.port))))
        for _ in range(2):  # a queue of length 0 holds one; the next ones wait for ever
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", endpoint.port))
        yield endpoint.url


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Endpoint() as endpoint, Endpoint() as silent, full_backlog() as stuck, full_backlog() as second:
        # Each endpoint has a name, and with it an ejection, of its own.
        urls = {
            "main": [endpoint.url],
            "stuck": [stuck],
            "half-stuck": [second, endpoint.url],
            "silent": [endpoint.url.replace("http:", "https:")],
            "half-silent": [silent.url, endpoint.url],
        }
        pools = [
            {
                "name": name,
                "default": name == "main",
                "policy": {"type": "round_robin"},
                "endpoints": [
                    {
                        "name": f"{name}-{index}",
                        "url": url,
                        **({"tls": {"verify": False}} if "s:" in url else {}),
                    }
                    for index, url in enumerate(those)
                ],
            }
            for name, those in urls.items()
        ]
        routes: list[dict[str, object]] = [
            {"name": kind, "match": {"path": f"/{kind}/*"}, "pool": "main", "timeouts": {kind: SHORT_MS}}
            for kind in KINDS
        ]
        short = {"stuck": "connect_ms", "half-stuck": "connect_ms", "half-silent": "first_byte_ms"}
        routes += [
            {"name": name, "match": {"path": f"/{name}/*"}, "pool": name, "timeouts": {kind: SHORT_MS}}
            for name, kind in short.items()
        ]
        timeouts = {"connect_ms": 500, "tls_ms": SHORT_MS}
        routes.append(
            {"name": "silent", "match": {"path": "/silent/*"}, "pool": "silent", "timeouts": timeouts}
        )
        config = {"pools": pools, "routes": routes, "timeouts": {"upstream_idle_ms": SHORT_MS}}
        with running_router(config) as router:
            yield Scene(router, endpoint)


@pytest.fixture(scope="module")
def front() -> Iterator[Scene]:
    """A router that is impatient with its clients before it knows what they ask for."""
    timeouts = {"head_ms": SHORT_MS, "keep_alive_ms": 4 * SHORT_MS, "body_ms": SHORT_MS}
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url], timeouts=timeouts)) as router:
        yield Scene(router, endpoint)


def test_an_endpoint_that_takes_no_connection_is_a_connect_timeout(scene: Scene) -> None:
    with scene.send("stuck") as client:
        assert_error(client, 504, "connect_timeout", "timeouts.connect_ms")
    scene.assert_counted("stuck", "connect_timeout", "upstream")


@pytest.mark.parametrize("pool", ["half-stuck", "half-silent"])
def test_another_endpoint_answers_when_one_does_not_in_time(scene: Scene, pool: str) -> None:
    retries = scene.router.metrics().sum("fairlead_retries_total")
    for _ in range(2):  # the first or the second turn is that of the one that does not
        with scene.send(pool) as client, scene.accept() as engine:
            engine.send_response(b"{}", connection="close")
            assert client.take_response()[0] == 200
    scene.assert_counted(pool, "completed", "-")
    assert scene.router.metrics().sum("fairlead_retries_total") > retries


def test_an_endpoint_that_never_ends_its_tls_handshake_is_a_tls_timeout(scene: Scene) -> None:
    with scene.send("silent") as client, scene.endpoint.accept() as engine:
        assert_error(client, 504, "tls_timeout", "timeouts.tls_ms")
        engine.wait_closed()
    scene.assert_counted("silent", "tls_timeout", "upstream")


@pytest.mark.parametrize("head", ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_head_that_does_not_arrive_is_a_408(front: Scene, head: str) -> None:
    with dial(front.router.address) as client:
        client.send(head.encode())
        fields = assert_error(client, 408, "head_timeout", "timeouts.head_ms")
        assert fields["connection"] == "close"
        assert client.wait_closed() == "end"
    assert front.router.wait_settled().sum(
        "fairlead_requests_total", outcome="head_timeout", side="downstream"
    )


def test_a_head_that_arrives_a_byte_at_a_time_is_bound_as_a_whole(front: Scene) -> None:
    with dial(front.router.address) as client:
        client.sock.settimeout(0.01)
        with contextlib.suppress(OSError):
            while not client.received:
                client.send(b"x")
                with contextlib.suppress(TimeoutError):
                    client.received += client.sock.recv(65536)
        assert client.received.startswith(b"HTTP/1.1 408 ")


def test_a_connection_on_which_nothing_is_asked_is_closed_without_a_word(front: Scene) -> None:
    before = front.router.metrics().requests_finished()
    with dial(front.router.address) as client:
        assert client.sock.recv(1) == b""
    assert front.router.wait_settled().requests_finished() == before


def test_a_connection_on_which_nothing_more_is_asked_is_closed_without_a_word(front: Scene) -> None:
    with front.send("elsewhere") as client:
        with front.accept() as engine:
            engine.send_response(b"{}", connection="close")
            assert client.take_response()[0] == 200
        before = front.router.metrics().requests_finished()
        assert client.sock.recv(1) == b""
    assert front.router.wait_settled().requests_finished() == before


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_stops_arriving_is_a_408(front: Scene, framing: str) -> None:
    with dial(front.router.address) as client:
        length = "content-length: 500" if framing == "length" else "transfer-encoding: chunked"
        client.send(f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())
        client.send(b'{"model"' if framing == "length" else b'8\r\n{"model"\r\n')
        fields = assert_error(client, 408, "body_timeout", "timeouts.body_ms")
        assert fields["connection"] == "close"
    assert front.router.wait_settled().sum(
        "fairlead_requests_total", outcome="body_timeout", side="downstream"
    )


def test_an_upload_that_stops_after_an_endpoint_has_been_picked_is_a_408(scene: Scene) -> None:
    body = chat(padding="x" * (3 << 20))
    with dial(scene.router.address) as client:
        upload = Sender(client, request(body, path="/body_ms/v1/chat/completions")[:-1000], 1)
        with scene.endpoint.accept() as engine:
            engine.take_head()
            engine.take(len(body) - 1000)  # so that what is waited for is the client
            upload.wait_done()
            fields = assert_error(client, 408, "body_timeout", "timeouts.body_ms")
            assert fields["connection"] == "close"
            engine.wait_closed()
    scene.assert_counted("body_ms", "body_timeout", "downstream")


def test_an_endpoint_that_does_not_answer_is_a_first_byte_timeout(scene: Scene) -> None:
    with scene.send("first_byte_ms") as client, scene.accept() as engine:
        fields = assert_error(client, 504, "first_byte_timeout", "timeouts.first_byte_ms")
        assert "connection" not in fields  # the client's own connection is as good as before
        engine.wait_closed()
    scene.assert_counted("first_byte_ms", "first_byte_timeout", "upstream")


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]
)
def test_an_endpoint_that_only_begins_to_answer_is_a_first_byte_timeout(
    scene: Scene, beginning: bytes
) -> None:
    with scene.send("first_byte_ms") as client, scene.accept() as engine:
        engine.send(beginning)
        assert_error(client, 504, "first_byte_timeout", "timeouts.first_byte_ms")
        engine.wait_closed()
    scene.assert_counted("first_byte_ms", "first_byte_timeout", "upstream")


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_answer_that_stops_is_cut(scene: Scene, framing: str) -> None:
    with scene.send("idle_ms") as client, scene.accept() as engine:
        if framing == "chunked":
            engine.send(STREAM_HEAD)
            engine.send_chunk(b"data: 1\n\n")
        else:
            engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n12345")
        assert client.take_head()[0] == "HTTP/1.1 200 OK"
        assert client.wait_closed() == "reset"
        engine.wait_closed()
    scene.assert_counted("idle_ms", "idle_timeout", "upstream")


def test_an_answer_of_which_only_the_head_comes_is_cut_by_the_first_byte_timeout(scene: Scene) -> None:
    with scene.send("first_byte_ms") as client, scene.accept() as engine:
        engine.send(STREAM_HEAD)
        assert client.take_head()[0] == "HTTP/1.1 200 OK"
        assert client.wait_closed() == "reset"
        engine.wait_closed()
    scene.assert_counted("first_byte_ms", "first_byte_timeout", "upstream")


def test_waiting_for_the_first_byte_of_a_stream_whose_head_is_there_is_not_idling(scene: Scene) -> None:
    with scene.send("idle_ms") as client, scene.accept() as engine:
        engine.send(STREAM_HEAD)
        client.take_head()
        client.sock.settimeout(3 * SHORT_MS / 1000)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        engine.send_chunk(b"data: 1\n\n")
        engine.send(b"0\r\n\r\n")
        assert client.take_chunk() == b"data: 1\n\n"
        assert client.take_chunk() == b""
    scene.assert_counted("idle_ms", "completed", "-")


def test_an_exchange_that_has_no_answer_within_its_total_is_a_504(scene: Scene) -> None:
    with scene.send("total_ms") as client, scene.accept() as engine:
        assert_error(client, 504, "total_timeout", "timeouts.total_ms")
        engine.wait_closed()
    scene.assert_counted("total_ms", "total_timeout", "upstream")


def test_an_answer_that_goes_on_past_its_total_is_cut(scene: Scene) -> None:
    with scene.send("total_ms") as client, scene.accept() as engine:
        engine.send(STREAM_HEAD)
        client.take_head()
        engine.sock.settimeout(0.01)
        with contextlib.suppress(OSError):
            while True:
                engine.send_chunk(b"data: more\n\n")
                with contextlib.suppress(TimeoutError):
                    if not engine.sock.recv(1):
                        break
        assert client.wait_closed() == "reset"
    scene.assert_counted("total_ms", "total_timeout", "upstream")


def test_an_endpoint_connection_that_is_not_used_is_closed(scene: Scene) -> None:
    with scene.send("elsewhere") as client, scene.accept() as engine:
        engine.send_response(b"{}")
        assert client.take_response()[0] == 200
        assert engine.wait_closed() == "end"
    wait_until(
        lambda: scene.router.metrics().sum("fairlead_upstream_connections_open") == 0,
        "no connection to the endpoint",
    )


def test_a_request_after_a_timeout_works_on_the_same_connection(scene: Scene) -> None:
    with scene.send("first_byte_ms") as client:
        with scene.accept():
            assert_error(client, 504, "first_byte_timeout", "timeouts.first_byte_ms")
        client.send(request(chat(), path="/elsewhere"))
        with scene.accept() as engine:
            engine.send_response(b"{}", connection="close")
            assert client.take_response()[0] == 200

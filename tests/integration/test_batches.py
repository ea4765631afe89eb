"""Many events of one wake: the worker is stopped while they gather, so that all of them are one batch.

What a batch sends leaves together at its end; nobody may see a difference but in time.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

from tests.support.raw_peer import Endpoint, Peer, chat, dial, request, response
from tests.support.router_process import RouterProcess, one_pool, running_router

CLIENT_COUNT = 90  # more than leave together, and more than an outbox holds


@contextlib.contextmanager
def gathered(router: RouterProcess) -> Iterator[None]:
    """What is sent within meets the worker at once."""
    (pid,) = router.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def pairs(router: RouterProcess, endpoint: Endpoint, count: int) -> Iterator[list[tuple[Peer, Peer]]]:
    """Clients, each with the endpoint's side of the connection that carries its requests."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            client = stack.enter_context(dial(router.address))
            engine = stack.enter_context(endpoint.accept_after(client, request(chat(stream=True))))
            engine.take_request()
            engine.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            engine.send_chunk(b"first")
            client.take_head()
            assert client.take_chunk() == b"first"
            made.append((client, engine))
        yield made


def test_every_stream_of_a_batch_gets_its_own_events_in_order() -> None:
    with Endpoint() as endpoint, running_router(one_pool([endpoint.url])) as router:
        with pairs(router, endpoint, CLIENT_COUNT) as streams:
            for turn in range(3):
                with gathered(router):
                    for number, (_, engine) in enumerate(streams):
                        engine.send_chunk(b"%d of %d " % (turn, number) + bytes(100 * (number % 7)))
                for number, (client, _) in enumerate(streams):
                    assert client.take_chunk() == b"%d of %d " % (turn, number) + bytes(100 * (number % 7))
            with gathered(router):
                for number, (_, engine) in enumerate(streams):
                    engine.send_chunk(b"last of %d" % number)
                    engine.send(b"0\r\n\r\n")
            for number, (client, _) in enumerate(streams):
                assert client.take_chunk() == b"last of %d" % number
                assert client.take_chunk() == b""
        assert router.wait_settled().outcomes() == {("completed", "-"): CLIENT_COUNT}


def test_long_and_short_answers_of_one_batch_stay_whole() -> None:
    sizes = [1, 8000, 9000, 40_000, 300, 8192]
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url])) as router,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(dial(router.address)) for _ in range(CLIENT_COUNT)]
        engines = [stack.enter_context(endpoint.accept_after(client, request(chat()))) for client in clients]
        for engine in engines:
            engine.take_request()
        with gathered(router):
            for number, engine in enumerate(engines):
                engine.send_response(bytes([number]) * sizes[number % len(sizes)])
        for number, client in enumerate(clients):
            assert client.take_response()[2] == bytes([number]) * sizes[number % len(sizes)]
        with gathered(router):  # over connections that are there, so requests wait for the end as well
            for client in clients:
                client.send(request(chat()))
        asked = 0
        for engine in engines:
            engine.take_request()
            engine.send_response(b"again")
            asked += 1
        assert [client.take_response()[2] for client in clients] == [b"again"] * asked


def test_a_connection_that_is_handed_over_takes_the_answer_before_it_along() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url])) as router,
        dial(router.address) as client,
        dial(router.address) as other,
        endpoint.accept_after(client, request(chat())) as engine,
    ):
        engine.take_request()
        client.send(request(method="GET", path="/v1/models"))
        with gathered(router):
            other.send(request(method="GET", path="/v1/models"))
            engine.send_response(b"the answer")
        assert client.take_response()[2] == b"the answer"
        assert client.take_response()[0] == 200
        assert other.take_response()[0] == 200


def test_a_client_that_asks_to_close_gets_its_answer_first() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url])) as router,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(dial(router.address)) for _ in range(10)]
        asked = request(chat(), connection="close")
        engines = [stack.enter_context(endpoint.accept_after(client, asked)) for client in clients]
        for engine in engines:
            engine.take_request()
        with gathered(router):
            for engine in engines:
                engine.send(response(b"and good bye"))
        for client in clients:
            assert client.take_response()[2] == b"and good bye"
            assert client.wait_closed() == "end"

"""Who takes nothing is waited for in the sender, not in the router: memory stays bounded, every byte arrives.

Both ways: answers to a client that does not read, uploads to an engine that does not read.
"""

import hashlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.raw_peer import BOUND_S, Endpoint, Peer, chat, dial, request, response
from tests.support.router_process import RouterProcess, one_pool, running_router
from tests.support.sender import Sender

KIB = 1 << 10
MIB = 1 << 20
ANSWER_BYTES = 64 * MIB
UPLOAD_BYTES = 24 * MIB
# An exchange may hold 256 KiB; the rest is room for what an allocator keeps.
GROWTH_BYTES_MAX = 4 * MIB
# Of one stalled exchange in all kernels' buffers: the router bounds those of its two sockets, those of the
# peers are small here.
KERNEL_BYTES_MAX = 8 * MIB
SMALL_BUFFER_BYTES = 64 * KIB


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RouterProcess, Endpoint]]:
    with (
        Endpoint(receive_bytes=SMALL_BUFFER_BYTES) as endpoint,
        running_router(one_pool([endpoint.url])) as router,
    ):
        yield router, endpoint


def rss_bytes(router: RouterProcess) -> int:
    (pid,) = router.worker_pids()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def digest(block: bytes, count: int) -> str:
    hashed = hashlib.sha1(usedforsecurity=False)
    for _ in range(count):
        hashed.update(block)
    return hashed.hexdigest()


def take_hashed(take: Callable[[], bytes]) -> tuple[int, str]:
    """Size and digest of all that `take` gives until it gives nothing."""
    hashed = hashlib.sha1(usedforsecurity=False)
    size = 0
    while data := take():
        hashed.update(data)
        size += len(data)
    return size, hashed.hexdigest()


def reader(peer: Peer, size: int) -> Callable[[], bytes]:
    """Takes `size` bytes of a message, as they come."""
    left = [size]

    def take() -> bytes:
        if left[0] == 0:
            return b""
        if peer.received:
            data = peer.take(min(len(peer.received), left[0]))
        else:
            data = peer.sock.recv(min(left[0], MIB))
            assert data, f"cut with {left[0]} bytes missing"
        left[0] -= len(data)
        return data

    return take


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_client_that_does_not_read_pauses_its_engine_and_then_gets_every_byte(
    running: tuple[RouterProcess, Endpoint], framing: str
) -> None:
    router, endpoint = running
    block = os.urandom(MIB)
    count = ANSWER_BYTES // MIB
    client = dial(router.address, receive_bytes=SMALL_BUFFER_BYTES)
    client.send(request(chat()))
    with client, endpoint.accept() as engine:
        engine.take_request()
        before_bytes = rss_bytes(router)
        if framing == "length":
            engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % ANSWER_BYTES)
        elif framing == "chunked":
            engine.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        else:
            engine.send(b"HTTP/1.1 200 OK\r\n\r\n")
        sender = Sender(engine, b"%x\r\n%b\r\n" % (MIB, block) if framing == "chunked" else block, count)
        sender.wait_stalled()
        assert sender.sent_bytes < KERNEL_BYTES_MAX
        assert rss_bytes(router) - before_bytes < GROWTH_BYTES_MAX
        status, fields = client.take_head()
        assert status.split()[1] == "200"
        if framing == "length":
            taken = take_hashed(reader(client, int(fields["content-length"])))
            sender.wait_done()
        else:

            def end() -> None:
                sender.wait_done()
                if framing == "chunked":
                    engine.send(b"0\r\n\r\n")
                engine.end_sending()

            threading.Thread(target=end, daemon=True).start()
            taken = take_hashed(client.take_chunk)
        assert taken == (ANSWER_BYTES, digest(block, count))
        engine.wait_closed()
        reading = router.wait_settled()
        assert reading.sum("fairlead_upstream_connections_open") == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_engine_that_does_not_read_pauses_its_client_and_then_gets_every_byte(
    running: tuple[RouterProcess, Endpoint], framing: str
) -> None:
    router, endpoint = running
    opening = chat()[:-1] + b', "padding": "'
    block = os.urandom(MIB // 2).hex().encode()
    count = UPLOAD_BYTES // MIB
    body_bytes = len(opening) + count * MIB + 2
    client = dial(router.address)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
    before_bytes = rss_bytes(router)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    if framing == "length":
        client.send(head + b"content-length: %d\r\n\r\n" % body_bytes + opening)
        sender = Sender(client, block, count)
    else:
        client.send(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(opening), opening))
        sender = Sender(client, b"%x\r\n%b\r\n" % (MIB, block), count)
    with client, endpoint.accept() as engine:
        sender.wait_stalled()
        assert sender.sent_bytes < UPLOAD_BYTES
        assert rss_bytes(router) - before_bytes < GROWTH_BYTES_MAX
        _, fields = engine.take_head()

        def end() -> None:
            sender.wait_done()
            client.send(b'"}' if framing == "length" else b'2\r\n"}\r\n0\r\n\r\n')

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        if framing == "length":
            assert int(fields["content-length"]) == body_bytes
            taken = take_hashed(reader(engine, body_bytes))
        else:
            assert fields["transfer-encoding"] == "chunked"
            taken = take_hashed(engine.take_chunk)
        ending.join(BOUND_S)
        expected = hashlib.sha1(opening + block * count + b'"}', usedforsecurity=False)
        assert taken == (body_bytes, expected.hexdigest())
        engine.send_response(b"{}", connection="close")
        assert client.take_response()[0] == 200
    router.wait_settled()


def test_ten_mebibytes_pass_both_ways_at_once(running: tuple[RouterProcess, Endpoint]) -> None:
    router, endpoint = running
    block = os.urandom(MIB // 2).hex().encode()
    body = chat()[:-1] + b', "padding": "' + block * 10 + b'"}'
    client = dial(router.address)
    sender = Sender(client, request(body), 1)
    with client, endpoint.accept() as engine:
        engine.take_head()
        engine.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        echo = threading.Thread(target=echo_chunks, args=(engine, len(body)), daemon=True)
        echo.start()
        client.take_head()
        size, hashed = take_hashed(client.take_chunk)
        assert size == len(body)
        assert hashed == hashlib.sha1(body, usedforsecurity=False).hexdigest()
        sender.wait_done()
        echo.join(BOUND_S)
    router.wait_settled()


def echo_chunks(engine: Peer, size: int) -> None:
    """Gives back what comes, as it comes."""
    take = reader(engine, size)
    while data := take():
        engine.send_chunk(data)
    engine.send(b"0\r\n\r\n")


def test_many_stalled_clients_cost_little_memory(running: tuple[RouterProcess, Endpoint]) -> None:
    router, endpoint = running
    before_bytes = rss_bytes(router)
    clients = [dial(router.address, receive_bytes=SMALL_BUFFER_BYTES) for _ in range(8)]
    senders = []
    engines = []
    for client in clients:
        client.send(request(chat(stream=True)))
        engine = endpoint.accept()
        engine.take_request()
        engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % ANSWER_BYTES)
        engines.append(engine)
        senders.append(Sender(engine, b"x" * MIB, 64))
    for sender in senders:
        sender.wait_stalled()
    assert rss_bytes(router) - before_bytes < len(clients) * 256 * KIB + GROWTH_BYTES_MAX
    for client in clients:
        client.reset()
    for engine in engines:
        engine.wait_closed()
        engine.close()
    router.wait_settled()


def test_a_client_that_takes_nothing_for_too_long_is_cut() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url], timeouts={"write_stall_ms": 200})) as router,
        dial(router.address, receive_bytes=SMALL_BUFFER_BYTES) as client,
    ):
        client.send(request(chat(stream=True)))
        with endpoint.accept() as engine:
            engine.take_request()
            engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % ANSWER_BYTES)
            sender = Sender(engine, b"x" * MIB, 64)
            sender.join()
            assert isinstance(sender.error, OSError)  # cancelled, and only so
            assert router.wait_settled().outcomes() == {("client_stalled", "downstream"): 1}
            assert client.wait_closed() == "reset"


def test_a_client_that_reads_slowly_is_not_cut() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url], timeouts={"write_stall_ms": 800})) as router,
        dial(router.address, receive_bytes=8 * KIB) as client,
    ):
        size = 16 * MIB
        client.send(request(chat(stream=True)))
        with endpoint.accept() as engine:
            engine.take_request()
            engine.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            sender = Sender(engine, b"x" * MIB, 16)
            client.take_head()
            left = size - len(client.received)
            client.received.clear()
            for _ in range(
                40
            ):  # four stall timeouts long; far too slow to free the router's send buffer in one
                select.select([], [], [], 0.08)
                left -= len(client.sock.recv(4 * KIB))
            while left:
                data = client.sock.recv(MIB)
                assert data
                left -= len(data)
            sender.wait_done()
        assert router.wait_settled().outcomes() == {("completed", "-"): 1}


def test_an_engine_that_takes_nothing_for_too_long_is_given_up() -> None:
    with (
        Endpoint(receive_bytes=SMALL_BUFFER_BYTES) as endpoint,
        running_router(one_pool([endpoint.url], timeouts={"write_stall_ms": 200})) as router,
        dial(router.address) as client,
    ):
        body = chat(padding="x" * UPLOAD_BYTES)
        sender = Sender(client, request(body), 1)
        with endpoint.accept() as engine:
            status, fields, answer = client.take_response()
            assert (status, fields["connection"]) == (504, "close")
            assert b"timeouts.write_stall_ms" in answer
            client.close()
            sender.join()
            engine.wait_closed()
        assert router.wait_settled().outcomes() == {("write_timeout", "upstream"): 1}


def test_an_engine_that_pauses_an_upload_does_not_make_the_client_late() -> None:
    with (
        Endpoint(receive_bytes=SMALL_BUFFER_BYTES) as endpoint,
        running_router(one_pool([endpoint.url], timeouts={"body_ms": 200})) as router,
        dial(router.address) as client,
    ):
        body = chat(padding="x" * UPLOAD_BYTES)
        sender = Sender(client, request(body), 1)
        with endpoint.accept() as engine:
            sender.wait_stalled()  # for longer than the body timeout
            assert engine.take_request()[2] == body
            engine.send_response(b"{}")
            assert client.take_response()[0] == 200
        assert router.wait_settled().outcomes() == {("completed", "-"): 1}


def test_a_client_that_stops_sending_after_its_engine_has_paused_is_late() -> None:
    with (
        Endpoint(receive_bytes=SMALL_BUFFER_BYTES) as endpoint,
        running_router(one_pool([endpoint.url], timeouts={"body_ms": 200})) as router,
        dial(router.address) as client,
    ):
        body = chat(padding="x" * UPLOAD_BYTES)
        sender = Sender(client, request(body)[:-1], 1)
        with endpoint.accept() as engine:
            sender.wait_stalled()
            engine.take_head()
            engine.take(len(body) - 1)
            assert client.take_response()[0] == 408
            engine.wait_closed()
            client.close()
        assert router.wait_settled().outcomes() == {("body_timeout", "downstream"): 1}


def test_an_upload_behind_an_answer_that_is_taken_late_goes_on(
    running: tuple[RouterProcess, Endpoint],
) -> None:
    router, endpoint = running
    body = chat(padding="x" * MIB)
    # Of these sizes some are just too large for the kernel: the router has all of it, and holds its end.
    for size in range(480 * KIB, 700 * KIB, 40 * KIB):
        answer = os.urandom(size)
        with dial(router.address, receive_bytes=SMALL_BUFFER_BYTES) as client:
            client.send(request(chat()))
            with endpoint.accept() as engine:
                engine.take_request()
                answering = Sender(engine, response(answer), 1)
                asking = Sender(client, request(body), 1)
                asking.wait_stalled()
                assert client.take_response()[2] == answer
                answering.wait_done()
                assert engine.take_request()[2] == body
                asking.wait_done()
                engine.send_response(b"{}", connection="close")
                assert client.take_response()[2] == b"{}"
    router.wait_settled()


@pytest.mark.parametrize("framing", ["length", "close"])
def test_an_engine_that_has_sent_all_and_gone_is_read_to_its_end_later(
    running: tuple[RouterProcess, Endpoint], framing: str
) -> None:
    router, endpoint = running
    answer = os.urandom(6 * MIB)
    with dial(router.address, receive_bytes=SMALL_BUFFER_BYTES) as client:
        client.send(request(chat()))
        with endpoint.accept() as engine:
            engine.take_request()
            length = b"content-length: %d\r\n" % len(answer) if framing == "length" else b""
            engine.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(answer))
            sender = Sender(engine, b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (length, answer), 1)
            sender.wait_stalled()

            def leave() -> None:
                sender.join()
                engine.close()

            leaving = threading.Thread(target=leave, daemon=True)
            leaving.start()
            assert client.take_response()[2] == answer
            leaving.join(BOUND_S)
    assert router.wait_settled().sum("fairlead_upstream_connections_open") == 0

"""A warm worker's requests allocate nothing: their memory comes from free lists."""

from router.native import buffer, slab
from tests.support.scripted import Scripted

REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
    b'Content-Length: 13\r\n\r\n{"model":"m"}'
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def exchanges(scripted: Scripted, count: int) -> None:
    """Runs `count` exchanges, each over a new client connection and a kept endpoint connection."""
    for _ in range(count):
        client = scripted.driver.accept()
        scripted.driver.receive(client, REQUEST)
        scripted.establish_all()
        (upstream,) = scripted.driver.upstreams()
        scripted.driver.receive(upstream, ANSWER)
        assert scripted.driver.take(client).endswith(b"\r\n\r\n{}")
        scripted.driver.take(upstream)
        scripted.driver.end(client)
        scripted.log()


def test_requests_of_a_warm_worker_allocate_nothing() -> None:
    scripted = Scripted(endpoint_count=1)
    exchanges(scripted, 20)
    before = slab.allocations(), buffer.allocations()
    exchanges(scripted, 300)
    assert (slab.allocations(), buffer.allocations()) == before
    scripted.finish()

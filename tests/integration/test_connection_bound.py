"""limits.downstream_connections_max is how many there are, however long more of them wait."""

import contextlib

from tests.support.raw_peer import Endpoint, chat, dial, request
from tests.support.router_process import one_pool, running_router

BOUND = 16
WAITING = 12
UNKNOWN = request(b'{"model":"nobody\'s"}')  # answered by the router itself


def test_who_comes_when_all_places_are_taken_gets_one_as_somebody_leaves() -> None:
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(Endpoint())
        config = one_pool(
            [endpoint.url],
            endpoint={"models": ["tiny"]},
            listeners=[{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}],
            limits={"downstream_connections_max": BOUND},
            timeouts={"first_byte_ms": 500},
        )
        router = stack.enter_context(running_router(config))
        clients = [stack.enter_context(dial(router.address)) for _ in range(BOUND + WAITING)]
        for client in clients[1:]:
            client.send(UNKNOWN)
        for client in clients[1:BOUND]:
            assert client.take_response()[0] == 404
        # An endpoint that never answers: half a second by the router's clock; room is looked for.
        clients[0].send(request(chat()))
        assert clients[0].take_response()[0] == 504
        for number in range(WAITING // 2):
            assert clients[BOUND + number].is_quiet(), "its place is not there yet"
            clients[number].close()
            assert clients[BOUND + number].take_response()[0] == 404
            metrics = router.metrics()
            assert metrics.sum("fairlead_connections_accepted_total") == BOUND + number + 1
            assert metrics.sum("fairlead_connections_open") == BOUND

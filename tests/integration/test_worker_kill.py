"""A worker that is killed takes its own exchanges with it and nothing else: no count is left over, and no
total goes back.
"""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.integration.processes import wait_gone, wait_until
from tests.support.raw_peer import STREAM_HEAD, Endpoint, Peer, chat, dial, request
from tests.support.router_process import Metrics, RouterProcess, one_pool, running_router

# The supervisor says so when a worker dies, as it should.
EXPECTED = ("died", "killed")
COUNTERS = (
    *("fairlead_requests_total", "fairlead_connections_accepted_total", "fairlead_upstream_connects_total"),
    *("fairlead_bytes_total", "fairlead_stream_events_total", "fairlead_e2e_request_latency_seconds_count"),
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([EngineSpec(engine_class="fixed:1", models=("tiny",)) for _ in range(2)]) as running:
        yield running


def streams(router: RouterProcess, endpoint: Endpoint, count: int) -> list[tuple[Peer, Peer]]:
    """Clients and engines with a stream open between them."""
    pairs = []
    for index in range(count):
        client = dial(router.address)
        client.send(request(chat(stream=True)))
        engine = endpoint.accept()
        engine.take_request()
        engine.send(STREAM_HEAD)
        engine.send_chunk(b"data: %d\n\n" % index)
        client.take_until(b"data: %d\n\n\r\n" % index)
        pairs.append((client, engine))
    return pairs


def test_only_the_exchanges_of_a_killed_worker_fail() -> None:
    with (
        Endpoint() as endpoint,
        running_router(one_pool([endpoint.url], workers=2), expect_in_log=EXPECTED) as router,
    ):
        pairs = streams(router, endpoint, 24)
        router.wait_in_flight(24)
        wait_until(
            lambda: sum(held_by_worker(router).values()) == 24, "both workers have told what they hold"
        )
        held = held_by_worker(router)
        before = router.metrics()
        victim, survivor = kill_one(router)
        # Who was cut has seen it by now: the kernel closed a dead process's sockets.
        kept = [pair for pair in pairs if pair[0].is_quiet()]
        cut = [pair for pair in pairs if pair not in kept]
        assert (len(cut), len(kept)) == (held[victim], held[survivor])
        router.wait_in_flight(len(kept))
        for client, engine in cut:
            client.wait_closed()
            engine.wait_closed()
        assert survivor in router.worker_pids()
        for client, engine in kept:
            engine.send_chunk(b"data: [DONE]\n\n")
            engine.send(b"0\r\n\r\n")
            assert client.take_chunk() == b"data: [DONE]\n\n"
            assert client.take_chunk() == b""
        after = router.wait_settled()
        assert_not_back(before, after)
        assert after.outcomes() == {("completed", "-"): len(kept)}
        for client, engine in pairs:
            client.close()
            engine.close()
        pairs = streams(router, endpoint, 8)  # a new worker serves
        router.wait_in_flight(8)
        for client, engine in pairs:
            client.reset()
            engine.wait_closed()
        router.wait_settled()


def held_by_worker(router: RouterProcess) -> dict[int, int]:
    """Open exchanges by pid, as of each worker's last heartbeat."""
    return {row["pid"]: row["open_exchanges"] for row in router.debug_workers()}


def wait_more(finished: list[int], count: int) -> None:
    wanted = sum(finished) + count
    wait_until(lambda: sum(finished) >= wanted, f"{count} more requests are answered")


def kill_one(router: RouterProcess) -> tuple[int, int]:
    """Returns when a worker is dead and another one serves in its place; the victim, and who survived."""
    victim, survivor = sorted(router.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_gone(victim)
    wait_until(lambda: len(router.worker_pids() - {victim}) == 2, "a new worker is ready")
    return victim, survivor


def assert_not_back(before: Metrics, after: Metrics) -> None:
    for name in COUNTERS:
        assert after.sum(name) >= before.sum(name), name


def test_workers_killed_under_load_leave_no_count_and_take_no_total_back(fleet: Fleet) -> None:
    stop = threading.Event()
    finished = [0] * 6

    def ask(router: RouterProcess, index: int) -> None:
        while not stop.is_set():
            try:
                with dial(router.address) as client:
                    for _ in range(20):
                        client.send(request(chat(stream=index % 2 == 0, max_tokens=5)))
                        if client.take_response()[0] == 200:
                            finished[index] += 1
            except (OSError, EOFError):
                pass  # its worker was killed

    with running_router(one_pool(fleet.urls, workers=2), expect_in_log=EXPECTED) as router:
        threads = [threading.Thread(target=ask, args=(router, index)) for index in range(6)]
        for thread in threads:
            thread.start()
        try:
            reading = router.metrics()
            for _ in range(3):
                wait_more(finished, 60)
                kill_one(router)
                later = router.metrics()
                assert_not_back(reading, later)
                reading = later
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        last = router.wait_settled()
        assert_not_back(reading, last)
        assert last.sum("fairlead_requests_total", outcome="completed") >= sum(finished) - 6
        assert last.sum("fairlead_requests_total", side="upstream") == 0
        assert last.sum("fairlead_connections_open") == 0

"""What operators do to a running router, with clients on it and the real core: nobody notices, or only who
must.
"""

import fcntl
import http.client
import json
import operator
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from bench.mock.fleet import EngineSpec, Fleet
from tests.integration.processes import BOUND_S, REAL, Router, read_until, router, wait_gone, wait_until

CLIENTS = 6


class Load:
    """Clients that send one request after the other: every other one on a kept connection, every third
    streaming.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.failures: list[str] = []
        self._address = address
        self._count = 0
        self._counts = [0] * CLIENTS
        self._done = threading.Condition()
        self._stop = False
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(BOUND_S)

    def pass_more(self, count: int = 30) -> None:
        """Returns when `count` more requests have been answered."""
        with self._done:
            wanted = self._count + count
            assert self._done.wait_for(lambda: self._count >= wanted, BOUND_S), self.failures

    def pass_each(self) -> None:
        """Returns when each client has had an answer, or a failure, to a request sent after the call."""
        with self._done:
            wanted = [count + 2 for count in self._counts]  # the first may be of one that was under way
            assert self._done.wait_for(lambda: all(map(operator.ge, self._counts, wanted)), BOUND_S), (
                self.failures
            )

    def _run(self, index: int) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=BOUND_S)
        streams = index % 3 == 0
        body = json.dumps(
            {
                "model": "tiny",
                "stream": streams,
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "hi"}],
            }
        )
        while not self._stop:
            try:
                connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200 or (streams and b"data: [DONE]" not in answer):
                    self.failures.append(f"{response.status} {answer[:200]!r}")
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(repr(exc))
                connection.close()
            if index % 2:
                connection.close()
            with self._done:
                self._count += 1
                self._counts[index] += 1
                self._done.notify_all()
        connection.close()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([EngineSpec(engine_class="fixed:1", models=("tiny",)) for _ in range(2)]) as running:
        yield running


def config(fleet: Fleet, **more: Any) -> dict[str, Any]:
    endpoints = [
        {"name": f"e{index}", "url": url, "models": ["tiny"]} for index, url in enumerate(fleet.urls)
    ]
    return {"workers": 2, "pools": [{"name": "main", "endpoints": endpoints}], **more}


def assert_settled(fairlead: Router) -> None:
    """Every attempt that was charged has been released."""

    def in_flight() -> int:
        return sum(row["in_flight"] for row in fairlead.get("/debug/endpoints", fairlead.admin)[1])

    wait_until(lambda: in_flight() == 0, "in-flight counts are back at zero")


def test_no_request_fails_during_takeovers(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet)) as fairlead:
        process = fairlead.start()
        with Load(fairlead.traffic) as load:
            load.pass_more()
            for _ in range(2):
                successor = fairlead.start("--takeover")
                load.pass_more()
                assert process.wait(BOUND_S) == 0
                process = successor
            load.pass_more()
        assert load.failures == []
        assert_settled(fairlead)


def test_no_request_fails_during_reloads_that_add_and_remove_endpoints(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet)) as fairlead:
        fairlead.start()
        both = fairlead.config["pools"][0]["endpoints"]
        with Load(fairlead.traffic) as load:
            load.pass_more()
            for round_index in range(10):
                chosen = [both, both[:1], both[1:]][round_index % 3]
                fairlead.write_config(pools=[{"name": f"p{round_index}", "endpoints": chosen}])
                assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
                load.pass_more(10)
        assert load.failures == []
        assert_settled(fairlead)


def test_a_killed_worker_fails_only_what_it_held_and_leaks_nothing(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet)) as fairlead:
        fairlead.start()
        with Load(fairlead.traffic) as load:
            load.pass_more()
            victim = min(fairlead.worker_pids())
            os.kill(victim, signal.SIGKILL)
            wait_gone(victim)
            load.pass_each()  # What was in flight there has failed by now ...
            failed_count = len(load.failures)
            wait_until(lambda: len(fairlead.worker_pids()) == 2, "a new worker is ready")
            load.pass_more(50)
            assert len(load.failures) - failed_count == 0  # ... and nothing after it.
            assert failed_count <= CLIENTS
        assert_settled(fairlead)


def test_open_streams_finish_when_the_router_is_told_to_stop(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet)) as fairlead:
        process = fairlead.start()
        connection = http.client.HTTPConnection(*fairlead.traffic, timeout=BOUND_S)
        body = {
            "model": "tiny",
            "stream": True,
            "max_tokens": 300,
            "messages": [{"role": "user", "content": "hi"}],
        }
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        first = response.read(10)
        process.send_signal(signal.SIGTERM)
        assert (first + response.read()).endswith(b"data: [DONE]\n\n")
        assert process.wait(BOUND_S) == 0


def test_a_stalled_log_reader_costs_lines_and_no_request(tmp_path: Path, fleet: Fleet) -> None:
    reader, writer = os.pipe()  # Nobody reads it.
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = {"path": "-", "buffer_bytes_max": 65536}
    with router(tmp_path, REAL, **config(fleet, workers=1, access_log=log)) as fairlead:
        process = fairlead.start(stdout=writer)

        def dropped_count() -> float:
            page = fairlead.get("/metrics", fairlead.admin)[1].decode()
            return float(page.split("\nfairlead_log_lines_dropped_total ")[1].split()[0])

        with Load(fairlead.traffic) as load:
            load.pass_more(400)
            wait_until(lambda: dropped_count() > 0, "drops are counted")
            load.pass_more()
        assert load.failures == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    os.close(reader)
    os.close(writer)


def test_a_hundred_scrapes_at_once_are_answered(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet)) as fairlead:
        fairlead.start()
        scrapes = [socket.create_connection(fairlead.admin, timeout=BOUND_S) for _ in range(100)]
        for scrape in scrapes:
            scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for scrape in scrapes:
            assert read_until(scrape, b"fairlead_build_info").startswith(b"HTTP/1.1 200")
            scrape.close()


def test_descriptors_do_not_grow_over_many_reloads(tmp_path: Path, fleet: Fleet) -> None:
    with router(tmp_path, REAL, **config(fleet, workers=1)) as fairlead:
        process = fairlead.start()
        pids = [process.pid, *fairlead.worker_pids()]

        def reload(count: int) -> list[int]:
            for _ in range(count):
                assert fairlead.request("POST", "/reload", fairlead.admin)[0] == 200
            return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

        reload(3)
        before = reload(1)
        after = reload(50)
        assert [grown - count for grown, count in zip(after, before, strict=True)] == pytest.approx(
            [0, 0], abs=1
        )

"""One JSON line per request, right for every way in which a request can end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.integration.processes import BOUND_S, REAL, Router, router, wait_until
from tests.support.raw_peer import STREAM_HEAD, Endpoint, chat, dial, request
from tests.support.router_process import RouterProcess, one_pool, running_router

ALWAYS = {
    *("ts", "request_id", "client", "method", "path", "status", "model", "attempts", "bytes_in", "bytes_out"),
    *("events", "total_ms", "outcome"),
}


class Scene:
    """A router with a log, an endpoint, and the lines written since the test began."""

    def __init__(self, router: RouterProcess, endpoint: Endpoint, path: Path) -> None:
        self.router = router
        self.endpoint = endpoint
        self.path = path
        self._seen = len(self._read())

    def _read(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

    def lines(self, count: int) -> list[dict[str, Any]]:
        """The test's `count` lines, and no more."""
        wait_until(lambda: len(self._read()) >= self._seen + count, f"{count} lines")
        self.router.wait_settled()
        lines = self._read()[self._seen :]
        assert len(lines) == count
        assert all(line.endswith(b"\n") for line in lines)
        parsed = [json.loads(line) for line in lines]
        for line in parsed:
            assert line.keys() >= ALWAYS
            assert line["client"] == "127.0.0.1"
            assert abs(line["ts"] - time.time()) < 600
            assert 0 <= line.get("ttft_ms", 0) <= line["total_ms"]
        return parsed


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RouterProcess, Endpoint, Path]]:
    path = tmp_path_factory.mktemp("log") / "access.log"
    with Endpoint() as endpoint:
        config = {
            "access_log": {"path": str(path)},
            "pools": [{"name": "p", "endpoints": [{"name": "e", "url": endpoint.url, "models": ["tiny"]}]}],
            "routes": [
                {"name": "chat", "match": {"path": "/v1/chat/*"}, "timeouts": {"idle_ms": 400}},
            ],
        }
        with running_router(config) as router:
            yield router, endpoint, path


@pytest.fixture
def scene(running: tuple[RouterProcess, Endpoint, Path]) -> Scene:
    return Scene(*running)


def test_an_answer_of_known_length(scene: Scene) -> None:
    body = chat()
    answer = (
        b'{"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5}}}'
    )
    with dial(scene.router.address) as client:
        client.send(request(body, path="/v1/chat/completions?key=secret", x_request_id="abc"))
        with scene.endpoint.accept() as engine:
            engine.take_request()
            engine.send_response(answer, connection="close")
            head = client.take_until(b"\r\n\r\n")
            client.take(len(answer))
    (line,) = scene.lines(1)
    assert {key: line[key] for key in ALWAYS - {"ts", "client", "total_ms"}} == {
        "request_id": "abc",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "tiny",
        "attempts": 1,
        "bytes_in": len(body),
        "bytes_out": len(head) + len(answer),
        "events": 0,
        "outcome": "completed",
    }
    assert (line["route"], line["pool"], line["endpoint"]) == ("chat", "p", "e")
    assert (line["prompt_tokens"], line["completion_tokens"], line["cached_tokens"]) == (7, 3, 5)
    assert "stream" not in line
    assert "ttft_ms" in line


def test_a_stream(scene: Scene) -> None:
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":9}}\n\n',
        b"data: [DONE]\n\n",
    ]
    with dial(scene.router.address) as client:
        client.send(request(chat(stream=True)))
        with scene.endpoint.accept() as engine:
            engine.take_request()
            engine.send(STREAM_HEAD)
            client.take_head()
            for event in events:
                engine.send_chunk(event)
                assert client.take_chunk() == event
            engine.send(b"0\r\n\r\n")
            assert client.take_chunk() == b""
        wait_until(lambda: not scene.router.debug_pools()[0]["open"], "the engine's connection is forgotten")
        client.send(request(chat(stream=True)))
        with scene.endpoint.accept() as engine:
            engine.take_request()
            engine.close()
            assert client.take_response()[0] == 502
    first, second = scene.lines(2)
    assert first["stream"] is second["stream"] is True
    # The end mark is no event.
    assert (first["events"], first["prompt_tokens"], first["completion_tokens"]) == (2, 2, 9)
    assert (first["status"], first["outcome"]) == (200, "completed")
    assert (second["status"], second["outcome"]) == (502, "reset_before_head")
    assert "ttft_ms" not in second
    assert first["request_id"] != second["request_id"]


def test_who_went_away(scene: Scene) -> None:
    def begin() -> tuple[Any, Any]:
        client = dial(scene.router.address)
        client.send(request(chat(stream=True)))
        engine = scene.endpoint.accept()
        engine.take_request()
        engine.send(STREAM_HEAD)
        engine.send_chunk(b"data: 1\n\n")
        client.take_until(b"data: 1\n\n\r\n")
        return client, engine

    for goes in ("client", "engine", "nobody"):
        client, engine = begin()
        if goes == "client":
            client.reset()
            engine.wait_closed()
        else:
            if goes == "engine":
                engine.reset()
            client.wait_closed()
        scene.router.wait_settled()
        client.close()
        engine.close()
    lines = scene.lines(3)
    assert [line["outcome"] for line in lines] == ["client_closed", "truncated", "idle_timeout"]
    assert all(line["status"] == 200 and line["events"] == 1 and "ttft_ms" in line for line in lines)


def test_errors_of_the_router_and_of_the_engine(scene: Scene) -> None:
    with dial(scene.router.address) as client:
        client.send(request(chat(model='nobody\'s "ünknown"\n')))
        assert client.take_response()[0] == 404
        client.send(request(chat()))
        with scene.endpoint.accept() as engine:
            engine.take_request()
            engine.send_response(b"{}", "503 Service Unavailable", connection="close")
            assert client.take_response()[0] == 503
        client.send(b"nonsense\r\n\r\n")
        assert client.take_response()[0] == 400
    unknown, refused, nonsense = scene.lines(3)
    assert unknown["model"].startswith("nobody's \"")
    assert (unknown["status"], unknown["outcome"], unknown["attempts"]) == (404, "model_not_found", 0)
    assert "endpoint" not in unknown
    assert (refused["status"], refused["outcome"]) == (503, "upstream_5xx")
    assert (nonsense["status"], nonsense["outcome"]) == (400, "bad_request")
    assert (nonsense["method"], nonsense["path"], nonsense["model"]) == ("", "", "")


def test_a_request_that_ends_before_it_is_whole(scene: Scene) -> None:
    with dial(scene.router.address) as client:
        client.send(request(chat())[:-3])
        scene.router.wait_metric("fairlead_requests_in_flight", 1)
        client.reset()
    (line,) = scene.lines(1)
    assert (line["status"], line["outcome"], line["bytes_in"]) == (0, "client_closed", len(chat()) - 3)


def test_every_request_of_many_has_its_line(scene: Scene) -> None:
    with dial(scene.router.address) as client:
        client.send(b"".join(request(chat(), x_request_id=f"r{index}") for index in range(300)))
        with scene.endpoint.accept() as engine:
            for _ in range(300):
                engine.take_request()
                engine.send_response(b"{}")
                client.take_response()
        client.close()
    assert [line["request_id"] for line in scene.lines(300)] == [f"r{index}" for index in range(300)]


def test_a_log_that_was_moved_is_opened_anew_on_sigusr1(scene: Scene) -> None:
    moved = scene.path.with_suffix(".1")
    os.rename(scene.path, moved)
    scene.router.signal(signal.SIGUSR1)
    wait_until(lambda: asks_and_looks(scene), "lines go to the new file")
    size = moved.stat().st_size
    asks_and_looks(scene)
    assert moved.stat().st_size == size


@pytest.mark.parametrize("given", ["stdout", "-"])
def test_a_log_to_stdout_comes_out_of_the_router(tmp_path: Path, given: str) -> None:
    with Endpoint() as endpoint:
        config = one_pool([endpoint.url], endpoint={"models": ["tiny"]}, access_log={"path": given})
        with router(tmp_path, REAL, **config) as fairlead:
            process, lines = started_on_a_pipe(fairlead)
            assert fairlead.get("/v1/models")[0] == 200
            with dial(fairlead.traffic) as client:
                client.send(request(chat(model="nobody")))
                assert client.take_response()[0] == 404
            process.terminate()
            assert [json.loads(line)["status"] for line in lines][-1] == 404
            assert process.wait(BOUND_S) == 0


def test_the_option_takes_stdout_too(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        command = (sys.executable, "-m", "router", "serve", "--endpoint", endpoint.url)
        options = (
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--runtime-dir",
            str(tmp_path / "run"),
        )
        with router(tmp_path, (*command, *options, "--access-log")) as fairlead:
            fairlead.config_path = Path("stdout")  # what the command ends with
            process, lines = started_on_a_pipe(fairlead)
            with dial(fairlead.traffic) as client:
                client.send(b"nonsense\r\n\r\n")
                assert client.take_response()[0] == 400
            process.terminate()
            assert [json.loads(line)["status"] for line in lines] == [400]
            assert process.wait(BOUND_S) == 0


def test_a_log_that_cannot_be_opened_any_more_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    late = f"""
import os, router.supervisor as supervisor
starts = supervisor.Supervisor.start
def after(self):
    os.rmdir({str(folder)!r})
    return starts(self)
supervisor.Supervisor.start = after
import router.__main__
"""
    command = (sys.executable, "-c", late, "serve", "--config")
    with router(tmp_path, command, access_log={"path": str(folder / "x.log")}) as fairlead:
        assert fairlead.start(wait=False).wait(BOUND_S) == 1
        assert f"access_log.path: '{folder}/x.log' cannot be written: No such file" in fairlead.stderr()


def started_on_a_pipe(fairlead: Router) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """A router that is ready, and what comes out of its standard output."""
    reader, writer = os.pipe()
    try:
        return fairlead.start(stdout=writer), os.fdopen(reader, "rb")
    finally:
        os.close(writer)


def asks_and_looks(scene: Scene) -> bool:
    """Whether a request's line is in the file at the log's path."""
    before = scene.router.metrics().requests_finished()
    with dial(scene.router.address) as client:
        client.send(request(chat(model="nobody")))
        client.take_response()
    scene.router.wait_finished(int(before) + 1)
    return scene.path.exists() and scene.path.stat().st_size > 0

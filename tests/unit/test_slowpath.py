"""A connection taken over in mid-request is answered by aiohttp and closed."""

import asyncio
import json
import socket
from collections.abc import Iterable

import pytest
import uvloop

from router.slowpath import SlowPath

MODELS = ["org/model-b", "model-a"]


async def ask(
    received: bytes, later: bytes = b"", models: Iterable[str] = MODELS
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for a request of which `received` was read before the hand-over and `later`
    was not.
    """

    async def served_models() -> Iterable[str]:
        return models

    slow_path = SlowPath(served_models)
    ours, theirs = socket.socketpair()
    await slow_path.adopt(theirs, received)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(later)
    answer = await asyncio.wait_for(reader.read(), 30)  # to the end: the connection is closed after it
    writer.close()
    await slow_path.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split(" ")[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/v1/models?limit=20"])
def test_the_list_is_sorted_and_in_openais_shape(path: str) -> None:
    status, headers, body = uvloop.run(ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
    assert status == 200
    assert headers["connection"].lower() == "close"
    assert headers["content-type"].startswith("application/json")
    assert headers["x-request-id"]
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {"id": "model-a", "object": "model", "created": 0, "owned_by": "fairlead"},
            {"id": "org/model-b", "object": "model", "created": 0, "owned_by": "fairlead"},
        ],
    }


@pytest.mark.parametrize("split", range(0, 60, 7))
def test_a_request_split_between_core_and_socket_is_whole(split: int) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nx-request-id: abc\r\n\r\n"
    status, headers, _ = uvloop.run(ask(request[:split], request[split:]))
    assert status == 200
    assert headers["x-request-id"] == "abc"


def test_an_empty_list_is_no_error() -> None:
    status, _, body = uvloop.run(ask(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", models=[]))
    assert (status, json.loads(body)["data"]) == (200, [])


@pytest.mark.parametrize("name", ["model-a", "org/model-b", "org%2Fmodel-b"])
def test_one_model_is_found_by_its_name(name: str) -> None:
    status, _, body = uvloop.run(ask(f"GET /v1/models/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
    assert status == 200
    assert json.loads(body)["object"] == "model"


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /v1/models/other", (404, "model_not_found")),
        ("GET /elsewhere", (404, "route_not_found")),
        ("DELETE /v1/models/model-a", (405, "method_not_allowed")),
    ],
)
def test_errors_have_openais_shape(request_line: str, expected: tuple[int, str]) -> None:
    status, headers, body = uvloop.run(ask(f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
    assert (status, json.loads(body)["error"]["code"]) == expected
    assert headers["x-should-retry"] == "false"


def test_head_has_no_body() -> None:
    status, headers, body = uvloop.run(ask(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_a_client_that_has_gone_leaves_nothing_open() -> None:
    async def leave() -> None:
        async def served_models() -> Iterable[str]:
            return MODELS

        slow_path = SlowPath(served_models)
        ours, theirs = socket.socketpair()
        ours.close()
        await slow_path.adopt(theirs, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            while slow_path.open_count:
                await asyncio.sleep(0)
        await slow_path.close()

    uvloop.run(leave())

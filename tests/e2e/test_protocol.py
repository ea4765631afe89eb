"""HTTP as clients write it, through the router to real servers: vLLM's uvicorn, llama.cpp's cpp-httplib."""

from __future__ import annotations

import json

import pytest

from tests.support.raw_peer import chat, dial, request
from tests.support.router_process import RouterProcess

KINDS = pytest.mark.parametrize("kind", ["vllm", "llamacpp"])


def short(kind: str, stream: bool = False) -> bytes:
    return chat(stream=stream, model=f"only-{kind}", max_tokens=2)


def chunked_request(body: bytes, chunk_bytes: int, **headers: str) -> bytes:
    head = request(b"", transfer_encoding="chunked", **headers).replace(b"content-length: 0\r\n", b"")
    parts = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@KINDS
def test_a_chunked_upload_is_understood(router: RouterProcess, kind: str) -> None:
    with dial(router.address) as peer:
        peer.send(chunked_request(short(kind), chunk_bytes=7))
        status, _, body = peer.take_response()
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 2


@KINDS
def test_a_client_that_expects_continue_gets_one_and_then_its_answer(
    router: RouterProcess, kind: str
) -> None:
    whole = request(short(kind), expect="100-continue")
    with dial(router.address) as peer:
        head, _, body = whole.partition(b"\r\n\r\n")
        peer.send(head + b"\r\n\r\n")
        line, _ = peer.take_head()
        assert line.split()[1] == "100"
        peer.send(body)
        assert peer.take_response()[0] == 200
        # With the body right behind the head real engines say it all the same; here once, or not at all.
        peer.send(whole)
        line, fields = peer.take_head()
        if line.split()[1] == "100":
            line, fields = peer.take_head()
        assert line.split()[1] == "200"
        assert json.loads(peer.take_body(fields))["usage"]["completion_tokens"] == 2
        assert peer.is_quiet()


@KINDS
def test_a_client_that_offers_http2_is_served_by_http1(router: RouterProcess, kind: str) -> None:
    # Java's HttpClient offers h2c with every plain request. uvicorn then takes the body for the new
    # protocol's and answers 400, so the offer must not reach it.
    offer = {
        "connection": "upgrade, http2-settings",
        "upgrade": "h2c",
        "http2_settings": "AAMAAABkAAQAoAAAAAIAAAAA",
    }
    with dial(router.address) as peer:
        peer.send(request(short(kind), **offer))
        status, _, body = peer.take_response()
    assert status == 200, body


def test_pipelined_requests_to_both_kinds_are_answered_in_order(router: RouterProcess) -> None:
    kinds = ["vllm", "llamacpp", "llamacpp", "vllm"]
    with dial(router.address) as peer:
        peer.send(b"".join(request(short(kind, stream=index == 1)) for index, kind in enumerate(kinds)))
        answers = [peer.take_response() for _ in kinds]
    assert [status for status, _, _ in answers] == [200] * 4
    assert [fields["x-fairlead-endpoint"].split("-")[1] for _, fields, _ in answers] == kinds
    assert answers[1][2].endswith(b"data: [DONE]\n\n")


@KINDS
def test_an_http10_client_gets_a_stream_that_ends_with_the_connection(
    router: RouterProcess, kind: str
) -> None:
    with dial(router.address) as peer:
        peer.send(request(short(kind, stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
        line, fields = peer.take_head()
        assert line.split()[1] == "200"
        assert "transfer-encoding" not in fields
        assert peer.wait_closed() == "end"

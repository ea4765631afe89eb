"""What the measured exchanges carry: a request as the openai SDK sends it, and an engine's answers.

Bodies are 400 B in and 600 B out, an SSE event is 220 B in a chunk of its own; heads are as long as they are
in the field (the SDK's about 550 B, the engine's about 120 B), since carrying heads is part of a proxy's
work. The model's name is MODEL everywhere, so that every proxy that routes by name can be configured for it.
Neighbours: native.peer sends and checks these bytes.
"""

import json
from typing import TypedDict

MODEL = "bench-8b"
CLIENT_KEY = "sk-bench-0123456789abcdef0123456789abcdef"  # of no service; LiteLLM checks it
REQUEST_BODY_BYTES = 400  # a short chat turn with the SDK's defaults
ANSWER_BODY_BYTES = 600  # two sentences and a usage object
EVENT_BYTES = 220  # one token in OpenAI's chunk object as vLLM writes it

STREAM_ENDING = b"data: [DONE]\n\n"


class Messages(TypedDict):
    """The bytes of one kind of exchange, as keyword arguments of `Peer.use_messages`.

    request: what a client sends; asked: its body, as an engine must see it
    answer: what an engine sends; answered: its body, as a client must see it
    opening: a stream's head and first event; event, ending: one chunk, last event with last chunk;
    event_payload, ending_payload: these without framing
    """

    request: bytes
    asked: bytes
    answer: bytes
    answered: bytes
    get_answer: bytes
    opening: bytes
    event: bytes
    event_payload: bytes
    ending: bytes
    ending_payload: bytes
    is_streaming: bool


def _padded(
    body: dict[str, object], size_bytes: int, text: dict[str, object], prefix: str, suffix: str
) -> bytes:
    """The body as JSON between prefix and suffix; `text["content"]` fills it up to size_bytes."""
    words = "the quick brown fox jumps over the lazy dog and "
    text["content"] = ""
    bare_bytes = len(prefix) + len(json.dumps(body, separators=(",", ":"))) + len(suffix)
    text["content"] = (words * (size_bytes // len(words) + 1))[: size_bytes - bare_bytes]
    encoded = f"{prefix}{json.dumps(body, separators=(',', ':'))}{suffix}".encode()
    assert len(encoded) == size_bytes, (len(encoded), size_bytes)
    return encoded


def request_body(is_streaming: bool) -> bytes:
    """A chat completion request of REQUEST_BODY_BYTES."""
    user: dict[str, object] = {"role": "user"}
    body: dict[str, object] = {
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, user],
        "model": MODEL,
        "max_tokens": 128,
        "stream": is_streaming,
        "temperature": 0.7,
    }
    return _padded(body, REQUEST_BODY_BYTES, user, "", "")


def answer_body() -> bytes:
    """A chat completion of ANSWER_BODY_BYTES."""
    message: dict[str, object] = {"role": "assistant"}
    body: dict[str, object] = {
        "id": "chatcmpl-7f3a9c52d1e84b06a5c3e8f1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 57, "total_tokens": 121, "completion_tokens": 64},
    }
    return _padded(body, ANSWER_BODY_BYTES, message, "", "")


def event_body() -> bytes:
    """One SSE event of EVENT_BYTES."""
    delta: dict[str, object] = {}
    body: dict[str, object] = {
        "id": "chatcmpl-7f3a9c52d1e84b06a5c3e8f1",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
    }
    return _padded(body, EVENT_BYTES, delta, "data: ", "\n\n")


def _request(body: bytes, host: str) -> bytes:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\n"
        "Accept: application/json\r\n"
        "Content-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 2.6.1\r\n"
        "X-Stainless-Lang: python\r\n"
        "X-Stainless-Package-Version: 2.6.1\r\n"
        "X-Stainless-OS: Linux\r\n"
        "X-Stainless-Arch: x64\r\n"
        "X-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.2\r\n"
        f"Authorization: Bearer {CLIENT_KEY}\r\n"
        "X-Stainless-Async: false\r\n"
        "x-stainless-retry-count: 0\r\n"
        "x-stainless-read-timeout: 600\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _answer(body: bytes) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\n"
        "date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
        "server: uvicorn\r\n"
        f"content-length: {len(body)}\r\n"
        "content-type: application/json\r\n\r\n"
    )
    return head.encode() + body


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def messages(*, is_streaming: bool, host: str = "127.0.0.1:8080") -> Messages:
    """The bytes of one kind of exchange."""
    body, answered, event = request_body(is_streaming), answer_body(), event_body()
    stream_head = (
        b"HTTP/1.1 200 OK\r\n"
        b"date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
        b"server: uvicorn\r\n"
        b"content-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    # Answers health checks and model lists alike: other routers ask engines for both.
    get_body = json.dumps(
        {"status": "ok", "object": "list", "data": [{"id": MODEL, "object": "model"}], "model_path": MODEL}
    )
    return Messages(
        request=_request(body, host),
        asked=body,
        answer=_answer(answered),
        answered=answered,
        get_answer=_answer(get_body.encode()),
        opening=stream_head + _chunk(event),
        event=_chunk(event),
        event_payload=event,
        ending=_chunk(STREAM_ENDING) + b"0\r\n\r\n",
        ending_payload=STREAM_ENDING,
        is_streaming=is_streaming,
    )

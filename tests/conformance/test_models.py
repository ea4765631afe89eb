"""Which endpoint a request goes to, by the model it names, over HTTP as clients send it; and what the
endpoint then gets.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.conformance.harness import BOUND_S, DEFAULT_ADDRESS, Client, Conformance, Lane, Message

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
KEYED = "127.5.0.1"
OPEN = "127.5.0.2"


def post(
    body: bytes, *lines: bytes, path: bytes = b"/v1/chat/completions", kind: bytes = b"application/json"
) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n" % (
        path,
        kind,
        len(body),
    )
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def ask(conformance: Conformance, address: str, *pieces: bytes) -> Message:
    """What the endpoint at `address` gets of a request; the client gets its answer."""
    with conformance.endpoint(address) as endpoint:
        client = endpoint.client()
        client.send(*pieces)
        upstream = endpoint.accept()
        request = upstream.request()
        upstream.send(ANSWER)
        assert client.response().body == b"hi"
        return request


def refuse(lane: Lane, *pieces: bytes) -> tuple[Message, dict[str, Any]]:
    """The router's own answer and its error object."""
    client = lane.client()
    client.send(*pieces)
    answer = client.response()
    return answer, json.loads(answer.body)["error"]


BOUNDARY = b"multipart/form-data; boundary=xyz"


def form(*parts: bytes) -> bytes:
    return (
        b"".join(b"--xyz\r\nContent-Disposition: form-data; name=" + part + b"\r\n" for part in parts)
        + b"--xyz--\r\n"
    )


MODEL_PART = b'"model"\r\n\r\nopen'
FILE_PART = b'"file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + bytes(range(256)) * 4

JSON_BODIES = {
    "plain": b'{"model":"open"}',
    "spaced": b" {\r\n"
    b'\t"messages" : [ {"role":"user","content":"{\\"model\\":\\"x\\"}"} ] ,\n "model" : "open" } ',
    "last": b'{"messages":[{"model":"x"}],"stream":true,"n":1e3,"model":"open"}',
    "escaped value": b'{"model":"\\u006fpen"}',
    "escaped key": b'{"mod\\u0065l":"open"}',
    "twice, the last counts": b'{"model":"zzz","model":"open"}',
    "nested ones do not count": b'{"a":{"model":"zzz"},"model":"open","b":[{"model":"zzz"}]}',
    "byte order mark": b'\xef\xbb\xbf{"model":"open"}',
    "deeply nested": b'{"a":' + b"[" * 100 + b"]" * 100 + b',"model":"open"}',
    "long prompt": b'{"prompt":"' + b"lorem ipsum " * 20_000 + b'","model":"open"}',
}


@pytest.mark.parametrize("body", JSON_BODIES.values(), ids=JSON_BODIES.keys())
def test_model_in_json_decides_and_the_body_arrives_untouched(conformance: Conformance, body: bytes) -> None:
    assert ask(conformance, OPEN, post(body)).body == body


@pytest.mark.parametrize(
    "body", [body for body in JSON_BODIES.values() if len(body) < 200], ids=lambda body: body[:20]
)
def test_model_in_json_is_found_wherever_the_body_is_cut(conformance: Conformance, body: bytes) -> None:
    head = post(body)[: -len(body)]
    request = ask(conformance, OPEN, head, *(bytes([octet]) for octet in body))
    assert request.body == body


@pytest.mark.parametrize(
    "path",
    [
        *(
            b"/v1/chat/completions",
            b"/v1/completions",
            b"/v1/embeddings",
            b"/v1/responses",
            b"/v1/messages",
            b"/v1/rerank",
        ),
        *(
            b"/v1/score",
            b"/tokenize",
            b"/generate",
            b"/api/chat",
            b"/api/generate",
            b"/chat/completions",
            b"/x?y=z",
        ),
    ],
)
def test_every_path_is_routed_by_its_model(conformance: Conformance, path: bytes) -> None:
    request = ask(conformance, OPEN, post(b'{"model":"open"}', path=path))
    assert request.start == b"POST " + path + b" HTTP/1.1"


@pytest.mark.parametrize(
    "kind", [b"application/json", b"application/json; charset=utf-8", b"text/plain", b"application/x-ndjson"]
)
def test_content_type_does_not_matter_to_json(conformance: Conformance, kind: bytes) -> None:
    ask(conformance, OPEN, post(b'{"model":"open"}', kind=kind))


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL_PART, FILE_PART),
        form(FILE_PART, MODEL_PART),
        form(b'"language"\r\n\r\nen', b"model\r\n\r\nopen", FILE_PART),
    ],
    ids=["before the file", "after the file", "without quotes"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])
def test_model_in_a_form_decides(conformance: Conformance, body: bytes, whole: bool) -> None:
    raw = post(body, path=b"/v1/audio/transcriptions", kind=BOUNDARY)
    pieces = (raw,) if whole else tuple(raw[place : place + 97] for place in range(0, len(raw), 97))
    assert ask(conformance, OPEN, *pieces).body == body


@pytest.mark.parametrize(
    "path",
    [
        *(b"/openai/deployments/open/chat/completions?api-version=1", b"/v2/models/open/infer"),
        *(
            b"/v2/models/open/versions/1/infer",
            b"/v1beta/models/open:generateContent",
            b"/v2/models/op%65n/generate_stream",
        ),
    ],
)
def test_model_in_the_path_decides(conformance: Conformance, path: bytes) -> None:
    assert ask(conformance, OPEN, post(b'{"messages":[]}', path=path)).start == b"POST " + path + b" HTTP/1.1"
    assert ask(conformance, OPEN, b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n").body == b""


def test_model_in_the_path_outranks_one_in_the_body(conformance: Conformance) -> None:
    ask(conformance, OPEN, post(b'{"model":"gpt-4o"}', path=b"/openai/deployments/open/chat/completions"))


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"DELETE /any/path/at/all HTTP/1.1\r\nHost: a\r\n\r\n",
        post(b"{}"),
        post(b""),
        post(b'{"model":null}'),
        post(b'{"model":""}'),
        post(b"[1,2]"),
        post(b"plain text", kind=b"text/plain"),
        post(b"\x00\x01\xff", kind=b"application/octet-stream"),
    ],
    ids=lambda raw: raw.split(b"\r\n")[0].decode() + " " + repr(raw[-12:]),
)
def test_request_that_names_no_model_goes_to_the_default_pool(conformance: Conformance, raw: bytes) -> None:
    ask(conformance, DEFAULT_ADDRESS, raw)


@pytest.mark.parametrize("model", [b"zzz", b"OPEN", b"open ", b"open/x", b"\xc3\xa9", b"x" * 256])
def test_unknown_model_is_404_with_the_known_names(lane: Lane, model: bytes) -> None:
    answer, error = refuse(lane, post(b'{"model":"%b"}' % model))
    assert answer.status == 404
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "model_not_found",
        "model",
    )
    assert "default-model" in error["message"]
    assert not answer.values("connection"), "the connection goes on"
    assert answer.value("x-should-retry") == b"false"


def test_unknown_model_of_a_route_to_a_pool_is_told_the_names_of_that_pool(lane: Lane) -> None:
    answer, error = refuse(lane, post(b'{"model":"open"}', path=lane.path))
    assert answer.status == 404
    assert f"model 'open'; known: 'lane{lane.number}'." in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"open"',
        b'{"model":1}',
        b'{"model":["open"]}',
        b'{"mod\\u0065l":"open"',
        b'{"model":"open"}x',
        b'{"model":"\xff"}',
    ],
)
def test_body_that_no_engine_could_read_is_refused_or_passed_but_never_misread(
    conformance: Conformance, lane: Lane, body: bytes
) -> None:
    """Where routing can go on (the model is certain) the engine is the judge; else it is 400 and the
    connection goes on.
    """
    with conformance.endpoint(OPEN) as endpoint, conformance.endpoint(DEFAULT_ADDRESS) as default:
        client = lane.client()
        client.send(post(body) + post(b'{"model":"zzz"}'))
        while not endpoint.has_arrival() and not default.has_arrival() and not client.buffer:
            if not client.is_quiet():
                client.fill()
        if client.buffer:
            answer = client.response()
            assert answer.status == 400
            assert json.loads(answer.body)["error"]["code"] == "invalid_body"
        else:
            upstream = (endpoint if endpoint.has_arrival() else default).accept()
            assert upstream.request().body == body
            upstream.send(ANSWER)
            assert client.response().body == b"hi"
        assert client.response().status == 404


# ---- Larger than the retry buffer

MIB = 1 << 20


def test_large_body_with_its_model_first_is_cut_through(conformance: Conformance) -> None:
    body = b'{"model":"open","prompt":"' + b"x" * (3 * MIB) + b'"}'
    raw = post(body)
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(raw[: 2 * MIB])
        upstream = endpoint.accept()
        head = upstream.request_head()
        assert head.value("content-length") == b"%d" % len(body)
        client.send(raw[2 * MIB :])
        finish_upload(client, upstream, body)


def test_large_chunked_body_is_cut_through_as_chunks(conformance: Conformance) -> None:
    body = b'{"model":"open","prompt":"' + b"x" * (2 * MIB) + b'"}'
    head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [
        b"%x\r\n" % len(body[at : at + 50_000]) + body[at : at + 50_000] + b"\r\n"
        for at in range(0, len(body), 50_000)
    ]
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(head + b"".join(chunks[:30]))
        upstream = endpoint.accept()
        facts = upstream.request_head()
        assert facts.values("transfer-encoding") == [b"chunked"]
        client.send(b"".join(chunks[30:]) + b"0\r\nX-Sum: 1\r\n\r\n")
        while not upstream.buffer.endswith(b"X-Sum: 1\r\n\r\n"):
            upstream.need()
        got, trailers, _ = upstream.chunked()
        assert got == body
        assert trailers == b"X-Sum: 1\r\n"
        upstream.send(ANSWER)
        assert client.response().body == b"hi"


def test_large_body_with_its_model_last_is_held_until_then(conformance: Conformance) -> None:
    body = b'{"prompt":"' + b"x" * (3 * MIB) + b'","model":"open"}'
    raw = post(body)
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(raw[:-10])
        assert client.wait_read()
        assert not endpoint.has_arrival()
        client.send(raw[-10:])
        upstream = endpoint.accept()
        upstream.request_head()
        finish_upload(client, upstream, body)


def test_large_form_with_its_model_first_is_cut_through(conformance: Conformance) -> None:
    body = form(MODEL_PART, FILE_PART * 2500)
    raw = post(body, kind=BOUNDARY)
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(raw[: 2 * MIB])
        upstream = endpoint.accept()
        upstream.request_head()
        client.send(raw[2 * MIB :])
        finish_upload(client, upstream, body)


def test_large_form_waits_for_the_model_behind_its_file_and_streams_the_rest(
    conformance: Conformance,
) -> None:
    body = form(FILE_PART * 2500, MODEL_PART, FILE_PART * 2500)
    raw = post(body, kind=BOUNDARY)
    model_end = raw.index(MODEL_PART) + len(MODEL_PART)
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(raw[: 2 * MIB], raw[2 * MIB : model_end])
        assert client.wait_read()
        assert not endpoint.has_arrival()
        client.send(raw[model_end : 2 * model_end])
        upstream = endpoint.accept()
        upstream.request_head()
        client.send(raw[2 * model_end :])
        finish_upload(client, upstream, body)


def test_large_form_whose_last_field_is_the_model_goes_to_that_model(conformance: Conformance) -> None:
    body = form(FILE_PART * 2500, MODEL_PART)
    assert ask(conformance, OPEN, post(body, kind=BOUNDARY)).body == body


def test_large_body_for_an_unknown_model_is_refused_before_it_has_come(lane: Lane) -> None:
    answer, error = refuse(lane, post(b'{"model":"zzz","prompt":"' + b"x" * (3 * MIB) + b'"}')[: 2 * MIB])
    assert answer.status == 404
    assert error["code"] == "model_not_found"
    assert answer.values("connection") == [b"close"]


def test_large_body_has_its_model_name_rewritten(conformance: Conformance) -> None:
    body = b'{"model":"pretty","prompt":"' + b"x" * (2 * MIB) + b'"}'
    raw = post(body)
    with conformance.endpoint(KEYED) as endpoint:
        client = endpoint.client()
        client.send(raw[: MIB + 100_000])
        upstream = endpoint.accept()
        head = upstream.request_head()
        wanted = body.replace(b"pretty", b"org/engine-name")
        assert head.value("content-length") == b"%d" % len(wanted)
        client.send(raw[MIB + 100_000 :])
        finish_upload(client, upstream, wanted)


def finish_upload(client: Client, upstream: Any, body: bytes) -> None:
    while len(upstream.buffer) < len(body):
        upstream.need()
    assert upstream.take(len(body)) == body
    assert not upstream.buffer
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    assert client.is_quiet()


# ---- What an endpoint is sent


REWRITTEN = {
    "plain": (b'{"model":"pretty"}', b'{"model":"org/engine-name"}'),
    "in the middle": (
        b'{"n":1, "model" : "pretty" ,"x":"pretty"}',
        b'{"n":1, "model" : "org/engine-name" ,"x":"pretty"}',
    ),
    "to a shorter name": (b'{"model":"l\xc3\xa4ngs","a":[]}', b'{"model":"s","a":[]}'),
    "with what JSON escapes": (b'{"model":"odd"}', b'{"model":"a\\"b\\\\c"}'),
    "another model": (b'{"model":"keyed","x":"pretty"}', b'{"model":"keyed","x":"pretty"}'),
}


@pytest.mark.parametrize(("body", "wanted"), REWRITTEN.values(), ids=REWRITTEN.keys())
def test_model_name_is_rewritten_for_the_endpoint(
    conformance: Conformance, body: bytes, wanted: bytes
) -> None:
    request = ask(conformance, KEYED, post(body))
    assert request.body == wanted
    assert request.value("content-length") == b"%d" % len(wanted)


@pytest.mark.parametrize(
    "body", [b'{"model":"pr\\u0065tty"}', b'{"model":"x","model":"pretty"}', b'{"mode\\u006c":"pretty"}']
)
def test_model_name_is_rewritten_also_where_it_is_written_oddly(
    conformance: Conformance, body: bytes
) -> None:
    sent = json.loads(ask(conformance, KEYED, post(body)).body)
    assert sent["model"] == "org/engine-name"


def test_model_name_in_a_form_is_rewritten(conformance: Conformance) -> None:
    body = form(b'"model"\r\n\r\npretty', FILE_PART)
    request = ask(conformance, KEYED, post(body, kind=BOUNDARY))
    assert request.body == body.replace(b"\r\n\r\npretty\r\n", b"\r\n\r\norg/engine-name\r\n")


def test_endpoint_gets_its_own_key_path_and_host(conformance: Conformance) -> None:
    lines = (
        b"Authorization: Bearer client",
        b"X-API-Key: client",
        b"api-key: client",
        b"x-goog-api-key: client",
    )
    request = ask(conformance, KEYED, post(b'{"model":"keyed"}', *lines, path=b"/v1/x?y"))
    assert request.start == b"POST /base/path/v1/x?y HTTP/1.1"
    assert request.values("authorization") == [b"Bearer sk-endpoint"]
    assert request.values("host") == [b"engine.example:8000"]
    assert b"client" not in request.raw


def test_client_key_passes_where_that_is_configured(conformance: Conformance) -> None:
    lines = (
        b"Authorization: Bearer client",
        b"X-API-Key: client",
        b"api-key: client",
        b"x-goog-api-key: client",
    )
    request = ask(conformance, OPEN, post(b'{"model":"open"}', *lines))
    assert request.values("authorization") == [b"Bearer client"]
    assert all(request.values(name) == [b"client"] for name in ("x-api-key", "api-key", "x-goog-api-key"))


def test_key_in_a_trailer_goes_nowhere(conformance: Conformance) -> None:
    raw = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b'11\r\n{"model":"keyed"}\r\n0\r\nAuthorization: Bearer client\r\n'
    raw += b"X-Api-Key: client\r\nX-Sum: 1\r\n\r\n"
    request = ask(conformance, KEYED, raw)
    assert b"client" not in request.raw
    assert request.trailers == (("x-sum", b"1"),)


def test_endpoint_is_named_where_a_route_exposes_it(conformance: Conformance) -> None:
    with conformance.endpoint(OPEN) as endpoint:
        client = endpoint.client()
        client.send(b"GET /exposed/x HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = endpoint.accept()
        upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\nx-fairlead-endpoint: spoofed\r\nContent-Length: 0\r\n\r\n")
        answer = client.response()
        assert answer.value("x-fairlead-endpoint") == f"{OPEN}:{endpoint.port}".encode()


# ---- GET /v1/models


def test_models_are_the_union_of_what_the_pools_serve_with_one_down(lane: Lane) -> None:
    answer = list_models(lane)
    assert answer.status == 200
    assert answer.value("x-request-id") == b"mine"
    listed = json.loads(answer.body)
    assert listed["object"] == "list"
    assert all(entry["object"] == "model" for entry in listed["data"])
    names = names_of(answer)
    assert {"default-model", "open", "keyed", "pretty", "lane1", "pair1", "half-dead"} <= set(names)
    assert names == sorted(set(names))
    deadline = time.monotonic() + BOUND_S
    while "dead" in names:  # an ejection may be over before the list is asked for; the next lasts longer
        assert time.monotonic() < deadline
        client = lane.client()
        client.send(post(b'{"model":"dead"}'))
        assert client.response().status == 503
        names = names_of(list_models(lane))
    assert "open" in names
    assert not lane.has_arrival()


def list_models(lane: Lane) -> Message:
    client = lane.client()
    client.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-request-id: mine\r\n\r\n")
    return client.response()


def names_of(answer: Message) -> list[str]:
    return [entry["id"] for entry in json.loads(answer.body)["data"]]


def test_one_model_is_told_by_its_name(lane: Lane) -> None:
    client = lane.client()
    client.send(b"GET /v1/models/open HTTP/1.1\r\nHost: a\r\n\r\n")
    assert json.loads(client.response().body)["id"] == "open"
    client = lane.client()
    client.send(b"GET /v1/models/zzz HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = client.response()
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "model_not_found"


def test_list_of_models_behind_an_exchange_and_octet_by_octet(lane: Lane) -> None:
    client = lane.client()
    client.send(
        lane.fill_in(b"GET @x HTTP/1.1\r\nHost: a\r\n\r\n") + b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    upstream = lane.accept()
    upstream.request()
    upstream.send(ANSWER)
    assert client.response().body == b"hi"
    assert client.response().status == 200
    client = lane.client()
    client.send(*(bytes([octet]) for octet in b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"))
    answer = client.response("HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert client.rest()[0] == b""

"""The native request path under a scripted driver: any split, any window, any order of events, and whatever
is put in force meanwhile.

What must hold after any history is asserted by Scripted.finish: nothing left open, nothing charged, every
exchange booked once.
"""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutations
from tests.support.scripted import Scripted

BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
    b"Content-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)
CHUNKED_REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%s\r\n" % (20, BODY[:20])
    + b"%x\r\n%s\r\n" % (len(BODY) - 20, BODY[20:])
    + b"0\r\n\r\n"
)
EVENTS = [b'data: {"choices":[{"delta":{"content":"t%d"}}]}\n\n' % index for index in range(4)]
EVENTS += [
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}}\n\n',
    b"data: [DONE]\n\n",
]
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS)
    + b"0\r\n\r\n"
)
JSON_BODY = b'{"usage":{"prompt_tokens":5,"completion_tokens":4}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(JSON_BODY)).encode()
    + b"\r\n\r\n"
    + JSON_BODY
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places (modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


def body_of(received: bytes) -> bytes:
    """The decoded body of the one response in `received`, which must be complete."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    decoded = b""
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if size == 0:
            assert rest == b"\r\n"
            return decoded
        decoded += rest[:size]
        assert rest[size : size + 2] == b"\r\n"
        rest = rest[size + 2 :]


PORTS = (9000, 9100, 9101)
POLICIES = [{"type": name} for name in ("p2c", "round_robin", "lmetric", "prequal", "smetric", "five_axis")]

cuts = st.lists(st.integers(0, 2000), max_size=6)


@settings(deadline=None, max_examples=150)
@given(
    request=st.sampled_from([REQUEST, CHUNKED_REQUEST]),
    answer=st.sampled_from([(STREAM, b"".join(EVENTS)), (ANSWER, JSON_BODY)]),
    request_cuts=cuts,
    answer_cuts=cuts,
    windows=st.lists(st.integers(0, 300), max_size=8),
    waits_for_batch=st.booleans(),
)
def test_any_split_and_any_window_gives_the_same_exchange(
    request: bytes,
    answer: tuple[bytes, bytes],
    request_cuts: list[int],
    answer_cuts: list[int],
    windows: list[int],
    waits_for_batch: bool,
) -> None:
    scripted = Scripted(endpoint_count=1)
    driver = scripted.driver
    client = driver.accept()
    for piece in pieces(request, request_cuts):
        assert driver.receive(client, piece)
    (upstream,) = scripted.establish_all()
    sent = driver.take(upstream)
    assert sent.startswith(request.split(b" HTTP")[0] + b" HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n")
    assert sent.endswith(b"\r\n\r\n" + BODY)
    raw, body = answer
    waiting = pieces(raw, answer_cuts)
    sizes = iter(windows)
    driver.set_window(client, next(sizes, -1))
    received = b""
    while waiting:
        if waits_for_batch:
            driver.begin_batch()
        if driver.receive(upstream, waiting[0]):
            waiting.pop(0)
        else:
            driver.set_window(client, next(sizes, -1))
        driver.end_batch()
        received += driver.take(client)
    driver.set_window(client, -1)
    received += driver.take(client)
    assert body_of(received) == body
    (line,) = scripted.log()
    assert (line["outcome"], line["status"], line["model"]) == ("completed", 200, "m")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (5, 4)
    assert driver.state(upstream)["open"], "the connection is kept for the next exchange"
    assert driver.receive(client, request), "and so is the client's"
    assert driver.take(upstream).endswith(BODY)
    scripted.finish()


@pytest.mark.parametrize("end", range(1, len(STREAM)))
def test_a_stream_that_ends_early_never_looks_complete(end: int) -> None:
    scripted = Scripted(endpoint_count=1)
    driver = scripted.driver
    client = driver.accept()
    driver.receive(client, REQUEST)
    (upstream,) = scripted.establish_all()
    driver.receive(upstream, STREAM[:end])
    driver.end(upstream)
    received = driver.take(client)
    if received.startswith(b"HTTP/1.1 502"):
        assert not driver.state(client)["aborted"]
    else:
        assert driver.state(client)["aborted"]
        assert not received.endswith(b"0\r\n\r\n")
        assert STREAM.partition(b"\r\n\r\n")[2].startswith(received.partition(b"\r\n\r\n")[2])
    scripted.finish()


def test_a_client_that_leaves_cancels_its_upstream_at_once_in_every_state() -> None:
    for arrived in range(1, len(REQUEST) + 1):
        scripted = Scripted(endpoint_count=1)
        client = scripted.driver.accept()
        scripted.driver.receive(client, REQUEST[:arrived])
        for established in (False, True):
            if established:
                scripted.establish_all()
        scripted.driver.end(client)
        assert scripted.driver.upstreams() == []
        scripted.finish()


def play(seed: int, step_count: int = 120) -> None:
    """One random history; the seed is all there is to know about it."""
    rng = random.Random(seed)
    scripted = Scripted(
        endpoint_count=rng.choice((1, 3)),
        timeouts={"keep_alive_ms": 2000},
        policy=rng.choice(POLICIES),
        aliases=rng.choice(({}, {"m": ["large", "small"]})),
    )
    driver = scripted.driver
    requests = [REQUEST, CHUNKED_REQUEST, REQUEST + REQUEST, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"]
    requests += [mutated for mutated in mutations([REQUEST, CHUNKED_REQUEST], seed, 3) if mutated]
    answers = [STREAM, ANSWER, ANSWER + b"surplus", b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER]
    answers += [mutated for mutated in mutations([STREAM, ANSWER], seed + 1, 3) if mutated]
    clients: list[int] = []
    rests: dict[int, bytes] = {}
    for _ in range(step_count):
        upstreams = driver.upstreams()
        action = rng.randrange(13)
        if action == 0 or not clients:
            clients.append(driver.accept())
        elif action <= 3:
            client = rng.choice(clients)
            data = rests.get(client) or rng.choice(requests)
            cut = rng.randint(1, len(data))
            if driver.receive(client, data[:cut]):
                rests[client] = data[cut:]
        elif action <= 6 and upstreams:
            upstream = rng.choice(upstreams)
            if not driver.establish(upstream):
                data = rests.get(upstream) or rng.choice(answers)
                cut = rng.randint(1, len(data))
                if driver.receive(upstream, data[:cut]):
                    rests[upstream] = data[cut:]
        elif action == 7:
            driver.end(rng.choice([*clients, *upstreams]), rng.choice((0, 104)))
        elif action == 8:
            driver.set_window(rng.choice([*clients, *upstreams]), rng.choice((-1, 0, 10, 1000)))
        elif action == 9:
            driver.begin_batch()
        elif action == 10:
            driver.end_batch()
        elif action == 11:
            driver.end_batch()
            other = {
                "pools": [{"name": "main", "endpoints": [{"url": f"http://127.0.0.1:{rng.choice(PORTS)}"}]}]
            }
            scripted.activate(
                version=rng.randrange(3),
                canary=rng.choice((None, {}, other, other)),
                canary_version=rng.randrange(3, 6),
                ratio=rng.choice((0.5, 1.0)),
                **rng.choice(({}, other)),
            )
        else:
            driver.end_batch()
            driver.advance(rng.choice((1000, 100_000, 3_000_000, 120_000_000)))
            scripted.core.tick()
        if scripted.core.open_exchanges() == 0:
            scripted.assert_settled()
    driver.end_batch()
    scripted.finish()


@pytest.mark.parametrize("seed", range(150))
def test_after_any_history_nothing_is_left_behind(seed: int) -> None:
    play(seed)

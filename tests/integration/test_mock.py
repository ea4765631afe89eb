"""Mock engines over real sockets: SDKs understand them, a client's leaving frees its slot, every fault does
what it says.
"""

import contextlib
import http.client
import json
import select
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.mock.fleet import EngineSpec, Fleet
from bench.native.engine import EngineLoop
from bench.native.fault import KINDS
from bench.native.replies import answer_text, prompt_seed
from tests.integration.processes import wait_until
from tests.support.command import run_command

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """0: at once; 1: a step model, fast; 2: a step every 5 ms for ever so long answers; 3: for faults of an
    engine.
    """
    specs = [
        EngineSpec(engine_class="instant", models=("tiny", "other")),
        EngineSpec(engine_class="8b-h100", speed=20, models=("tiny",)),
        EngineSpec(engine_class="fixed:5", models=("tiny",)),
        EngineSpec(engine_class="instant", models=("tiny",)),
    ]
    with Fleet(specs) as running:
        yield running


def client(fleet: Fleet, index: int) -> Any:
    """An OpenAI client; Any, for its overloads do not take plain dictionaries."""
    return openai.OpenAI(base_url=fleet.urls[index] + "/v1", api_key="none", max_retries=0, timeout=10)


def get(fleet: Fleet, index: int, path: str) -> bytes:
    with urllib.request.urlopen(fleet.urls[index] + path, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def raw_request(
    body: dict[str, object], fault: str = "", path: str = "/v1/chat/completions", more: str = ""
) -> bytes:
    content = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 4, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: mock\r\ncontent-length: {len(content)}\r\n{more}"
    return head.encode() + (f"x-mock-fault: {fault}\r\n" if fault else "").encode() + b"\r\n" + content


@contextlib.contextmanager
def connected(fleet: Fleet, index: int) -> Iterator[socket.socket]:
    where = urlsplit(fleet.urls[index])
    with socket.create_connection((where.hostname, where.port), timeout=10) as sock:
        yield sock


def exchange(fleet: Fleet, index: int, request: bytes, until: bytes = b"") -> tuple[bytes, str]:
    """Everything that comes back, and how it ended: `end`, `reset`, or `until` when that was seen."""
    with connected(fleet, index) as sock:
        sock.sendall(request)
        got = b""
        while True:
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                return got, "reset"
            got += part
            if not part:
                return got, "end"
            if until and until in got:
                return got, "until"


# --- what clients see


@pytest.mark.parametrize("index", [0, 1])
def test_openai_chat_gets_the_words_of_its_prompt_whole_and_streamed(fleet: Fleet, index: int) -> None:
    sdk = client(fleet, index)
    whole = sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    stream = sdk.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    sent = json.dumps(MESSAGES, separators=(",", ":")).encode()
    assert text == whole.choices[0].message.content == answer_text(prompt_seed(sent), 12)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def test_other_apis_answer_in_their_own_dialect(fleet: Fleet) -> None:
    sdk = client(fleet, 1)
    assert (
        sdk.completions.create(model="tiny", prompt="once", max_tokens=3).choices[0].finish_reason == "length"
    )
    embeddings = sdk.embeddings.create(model="tiny", input=["a", "b"])
    assert [len(each.embedding) for each in embeddings.data] == [16, 16]
    assert sdk.responses.create(model="tiny", input="hi", max_output_tokens=4).output_text.count(" ") == 3
    streamed = list(sdk.responses.create(model="tiny", input="hi", max_output_tokens=4, stream=True))
    assert streamed[-1].type == "response.completed"
    assert [event.sequence_number for event in streamed] == list(range(len(streamed)))
    assert [model.id for model in client(fleet, 0).models.list()] == ["tiny", "other"]
    transcription = sdk.audio.transcriptions.create(model="tiny", file=("a.wav", b"RIFF" * 4000))
    assert transcription.text
    messages = anthropic.Anthropic(base_url=fleet.urls[1], api_key="none", max_retries=0, timeout=10)
    with messages.messages.stream(model="tiny", max_tokens=5, messages=MESSAGES) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 5


def test_ollama_streams_lines_and_ends_with_done(fleet: Fleet) -> None:
    got, _ = exchange(
        fleet, 0, raw_request({"options": {"num_predict": 2}}, path="/api/chat"), until=b"\r\n0\r\n\r\n"
    )
    lines = [json.loads(line) for line in got.split(b"\r\n") if line.startswith(b"{")]
    assert [line["done"] for line in lines] == [False, False, True]


def test_unknown_model_and_bad_json_are_refused_as_vllm_does(fleet: Fleet) -> None:
    with pytest.raises(openai.NotFoundError, match="`nope` does not exist"):
        client(fleet, 0).chat.completions.create(model="nope", messages=MESSAGES)
    got, _ = exchange(
        fleet, 0, b'POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n{"model":', until=b"}}"
    )
    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"type":"Bad Request"' in got


def test_each_token_is_one_chunk_of_its_own(fleet: Fleet) -> None:
    got, _ = exchange(fleet, 1, raw_request({"stream": True, "max_tokens": 20}), until=b"\r\n0\r\n\r\n")
    body = got.split(b"\r\n\r\n", 1)[1]
    events = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        if int(size, 16):
            events.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    assert len(events) == 22  # the role, twenty tokens, [DONE]
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)


def test_pipelined_chunked_and_head_requests_are_answered_in_order(fleet: Fleet) -> None:
    content = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 2}).encode()
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: mock\r\ntransfer-encoding: chunked\r\n\r\n"
    for start in range(0, len(content), 7):
        part = content[start : start + 7]
        chunked += b"%x\r\n%s\r\n" % (len(part), part)
    chunked += b"0\r\n\r\n"
    head = b"HEAD /health HTTP/1.1\r\nhost: mock\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n"
    got, end = exchange(fleet, 1, chunked + head + raw_request({}) + last)
    assert end == "end"
    assert got.count(b"HTTP/1.1 200 OK") == 4
    assert got.index(b'"chat.completion"') < got.rindex(b'"chat.completion"') < got.index(b'"version"')


def test_a_client_that_leaves_frees_its_sequence(fleet: Fleet) -> None:
    before = fleet.stats(2)["aborted"]
    stream = client(fleet, 2).chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=100_000, stream=True
    )
    for _, _ in zip(range(3), stream, strict=False):
        pass
    assert fleet.stats(2)["running"] == 1
    stream.close()
    wait_until(lambda: fleet.stats(2)["aborted"] == before + 1, "the sequence is aborted")
    assert fleet.stats(2)["running"] == fleet.stats(2)["in_flight"] == 0


def test_a_client_that_does_not_read_bounds_what_is_written_for_it(fleet: Fleet) -> None:
    with connected(fleet, 0) as sock:
        before = fleet.stats(0)["finished"]
        sock.sendall(raw_request({"stream": True, "max_tokens": 100_000}))
        assert select.select([sock], [], [], 10)[0]
        now = fleet.stats(0)
        assert (now["in_flight"], now["finished"]) == (1, before), "it has written all that it may"
        got = 0
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            part = sock.recv(1 << 20)
            got += len(part)
            tail = (tail + part)[-16:]
        assert got > 10_000_000
        wait_until(lambda: fleet.stats(0)["finished"] == before + 1, "the answer is finished")


def test_metrics_are_vllms_and_the_load_report_comes_on_request(fleet: Fleet) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(get(fleet, 1, "/metrics").decode())
    }
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_hits"):
        assert families[f"vllm:{name}"].samples[0].labels["model_name"] == "tiny"
    first_token = families["vllm:time_to_first_token_seconds"]
    assert first_token.type == "histogram"
    assert first_token.samples[-2].value == fleet.stats(1)["finished"]
    assert families["vllm:cache_config_info"].samples[0].labels["block_size"] == "16"
    report = "endpoint-load-metrics-format: JSON\r\n"
    got, _ = exchange(fleet, 1, raw_request({}, more=report), until=b"}}}")
    line = next(line for line in got.decode().split("\r\n") if line.startswith("endpoint-load-metrics: "))
    named = json.loads(line.removeprefix("endpoint-load-metrics: JSON "))["named_metrics"]
    assert set(named) == {"kv_cache_usage_perc", "num_requests_waiting"}
    got, _ = exchange(fleet, 1, raw_request({}, more=report.replace("JSON", "TEXT")), until=b"\r\n\r\n")
    waiting_first = b"TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc="
    assert b"\r\nendpoint-load-metrics: " + waiting_first in got


def test_a_repeated_long_prompt_hits_the_prefix_cache(fleet: Fleet) -> None:
    messages = [{"role": "user", "content": "long " * 400}]
    sdk = client(fleet, 1)
    usages = [
        sdk.chat.completions.create(model="tiny", messages=messages, max_tokens=2).usage for _ in range(2)
    ]
    first, second = (usage.prompt_tokens_details.cached_tokens for usage in usages)
    assert first == 0
    assert second > 450


def test_an_answer_is_as_long_as_its_own_header_says_within_the_limit(fleet: Fleet) -> None:
    for told, limit, due in ((7, None, 7), (3, 100, 3), (9, 4, 4)):
        body: dict[str, object] = {"max_tokens": limit, "stream_options": {"include_usage": True}}
        got, _ = exchange(
            fleet, 1, raw_request({"stream": True, **body}, more=f"x-mock-tokens: {told}\r\n"), b"[DONE]"
        )
        assert b'"completion_tokens":%d,' % due in got


def test_an_engine_has_the_cache_and_the_batch_it_was_given() -> None:
    with Fleet([EngineSpec.parse("speed=50,kv=160,chunk=64,sequences=1", EngineSpec())]) as small:
        config = get(small, 0, "/metrics")
        assert b'num_gpu_blocks="10"' in config
        too_long, _ = exchange(small, 0, raw_request({"model": "mock", "max_tokens": 200}), b"}")
        assert b" 400 " in too_long
    with pytest.raises(ValueError, match="bounds are counts"), Fleet([EngineSpec(kv_tokens=-1)]):
        pass


def test_manual_engines_step_when_told(fleet: Fleet) -> None:
    loop = EngineLoop()
    engine = loop.add(engine_class="manual")
    try:
        with socket.create_connection(("127.0.0.1", engine.port)) as sock:
            sock.sendall(raw_request({"model": "mock", "stream": True, "max_tokens": 3}))
            while engine.stats()["waiting"] == 0:
                loop.poll(100)
            assert [engine.step() for _ in range(4)] == [1, 1, 1, 0]
            assert b"[DONE]" in sock.recv(65536)
    finally:
        loop.close()


# --- faults

STREAM: dict[str, object] = {"stream": True, "max_tokens": 4}


def tokens(got: bytes) -> int:
    return got.count(b'"delta":{"content"')


@pytest.mark.parametrize("index", [0, 1])
def test_faults_that_cut_a_stream(fleet: Fleet, index: int) -> None:
    got, end = exchange(fleet, index, raw_request(STREAM, "reset:0"))
    assert (got, end) == (b"", "reset")
    got, end = exchange(fleet, index, raw_request(STREAM, "reset:2"))
    assert (tokens(got), end) == (2, "reset")
    got, end = exchange(fleet, index, raw_request(STREAM, "close:3"))
    assert (tokens(got), end, got.endswith(b"0\r\n\r\n")) == (3, "end", False)
    got, end = exchange(fleet, index, raw_request(STREAM, "truncate"))
    assert (tokens(got), end) == (1, "end")
    assert got.split(b"\r\n")[-2] == b"40"
    got, end = exchange(fleet, index, raw_request(STREAM, "bad-chunk"))
    assert b"\r\nzz\r\n" in got
    got, end = exchange(fleet, index, raw_request(STREAM, "error-event:2"), until=b"\r\n0\r\n\r\n")
    assert tokens(got) == 2
    assert b'data: {"error":' in got
    got, end = exchange(fleet, index, raw_request(STREAM, "no-done"), until=b"\r\n0\r\n\r\n")
    assert tokens(got) == 4
    assert b"[DONE]" not in got


def test_faults_that_hang_hold_the_slot_until_the_client_leaves(fleet: Fleet) -> None:
    with connected(fleet, 0) as first, connected(fleet, 0) as second:
        first.sendall(raw_request(STREAM, "hang"))
        second.sendall(raw_request(STREAM, "hang-after:2"))
        got = b""
        while tokens(got) < 2:
            got += second.recv(65536)
        wait_until(lambda: fleet.stats(0)["in_flight"] == 2, "both hang")
        first.setblocking(False)
        with pytest.raises(BlockingIOError):
            first.recv(1)
    wait_until(lambda: fleet.stats(0)["in_flight"] == 0, "both have left")
    got, _ = exchange(fleet, 0, raw_request({}, "hang:5"), until=b"}}}")  # for 5 ms, then as if nothing were
    assert got.startswith(b"HTTP/1.1 200 OK")


def test_faults_of_the_head(fleet: Fleet) -> None:
    got, _ = exchange(fleet, 0, raw_request({}, "status:503"), until=b"}}")
    assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1\r\n" in got
    got, end = exchange(fleet, 0, raw_request({}, "bad-head"))
    assert not got.startswith(b"HTTP/")
    assert end == "end"
    got, _ = exchange(fleet, 0, raw_request({}, "both-lengths"), until=b"\r\n0\r\n\r\n")
    assert b"content-length: " in got
    assert b"transfer-encoding: chunked" in got
    got, _ = exchange(fleet, 0, raw_request({}, "storm:30"), until=b"}}}")
    assert got.count(b"HTTP/1.1 100 Continue") == got.count(b"HTTP/1.1 103 Early Hints") == 15
    assert got.count(b"HTTP/1.1 200 OK") == 1
    got, end = exchange(fleet, 0, raw_request({}, "http10"))
    assert got.startswith(b"HTTP/1.0 200 OK")
    assert end == "end"
    got, end = exchange(fleet, 0, raw_request(STREAM, "no-keepalive"))
    assert b"connection: close" in got
    assert (tokens(got), end) == (4, "end")
    got, _ = exchange(fleet, 0, raw_request({}, "what"), until=b"}}")
    assert got.startswith(b"HTTP/1.1 400 ")


def lengths(got: bytes) -> tuple[int, int]:
    """The length a response declares, and the length its body has."""
    head, _, body = got.partition(b"\r\n\r\n")
    declared = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    return int(declared.split()[1]), len(body)


def test_faults_of_the_framing(fleet: Fleet) -> None:
    declared, held = lengths(exchange(fleet, 0, raw_request({}, "short-length"), until=b"}}}")[0])
    assert declared < held
    got, end = exchange(fleet, 0, raw_request({}, "long-length"))
    declared, held = lengths(got)
    assert declared > held
    assert end == "end"
    got, _ = exchange(fleet, 0, raw_request({}, "surplus"), until=b"poisoned")
    assert got.count(b"HTTP/1.1 200 OK") == 2
    got, end = exchange(fleet, 0, raw_request(STREAM, "close-delimited"))
    assert b"chunked" not in got
    assert b"[DONE]" in got
    assert end == "end"
    got, _ = exchange(fleet, 0, raw_request({}, "drip"), until=b"}}}")
    assert lengths(got)[0] == lengths(got)[1]


def test_faults_at_run_time_and_of_a_whole_engine(fleet: Fleet) -> None:
    where = urlsplit(fleet.urls[3])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)

    def status(method: str, path: str, body: str | None = None) -> int:
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    chat = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 2})
    assert status("POST", "/_mock/fault", "status:500") == 200
    assert status("POST", "/v1/chat/completions", chat) == 500
    assert status("POST", "/_mock/fault", "nonsense") == 400
    assert status("POST", "/_mock/fault", "sick:503") == 200
    assert status("GET", "/health") == 503
    assert status("POST", "/v1/chat/completions", chat) == 200
    fleet.set_fault(3, "status:500@0.5")
    assert {status("POST", "/v1/chat/completions", chat) for _ in range(60)} == {200, 500}
    fleet.set_fault(3, "flap:2")
    for due in (200, 503, 200):

        def is_due(due: int = due) -> bool:
            return status("POST", "/v1/chat/completions", chat) == due

        wait_until(is_due, f"{due} in its turn")
    fleet.set_fault(3)
    assert status("POST", "/v1/chat/completions", chat) == 200
    fleet.set_fault(3, "idle-close:20")
    wait_until(lambda: fleet.stats(3)["connections_open"] == 0, "idle connections are closed")
    fleet.set_fault(3, "refuse:50")
    with pytest.raises(ConnectionRefusedError), connected(fleet, 3):
        pass

    def accepts() -> bool:
        with contextlib.suppress(ConnectionRefusedError), connected(fleet, 3):
            return True
        return False

    wait_until(accepts, "it accepts again")
    with pytest.raises(ValueError, match="not a fault"):
        fleet.set_fault(3, "nonsense")


def test_a_slow_engine_takes_as_much_longer_as_it_says(fleet: Fleet) -> None:
    steps = fleet.stats(2)["steps"]
    exchange(fleet, 2, raw_request({"max_tokens": 9}, "slow:4"), until=b"}}}")
    # The first token comes with the prompt's step, the second in the next step that four divides, and then
    # one in every fourth.
    assert fleet.stats(2)["steps"] - steps >= 1 + 1 + 7 * 4


def test_every_fault_is_known_to_the_parser_and_told_by_the_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "bench.mock.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert all(f"\n  {name} " in shown for name in KINDS)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--fault", "slow:x"], 2, "the fault 'slow:x': ARG must be a number from 0, not 'x'"),
        (["--engine", "fault=reset:3@often"], 2, "RATE must be a number from 0, not 'often'"),
        (["--engine", "port=70000"], 2, "port must be 0-65535"),
        (["--fault", "sloow:1"], 2, "not a fault: 'sloow:1'"),
        (["--listen", "127.0.0.1:{taken}"], 1, "cannot listen on 127.0.0.1:{taken}: Address already in use"),
    ],
)
def test_what_the_command_cannot_do_is_said(options: list[str], status: int, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = [option.replace("{taken}", port) for option in options]
        result = run_command("mock", *arguments)
    assert result.exit_code == status
    assert said.replace("{taken}", port) in result.stderr


def test_the_command_says_ready_and_ends_on_a_signal() -> None:
    command = [sys.executable, "-m", "bench.mock.cli", "--listen", "127.0.0.1:0"]
    command += ["--engine", "class=instant,model=a;b", "--engine", "class=8b-l40s,speed=5,fault=slow:2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert [line[0] for line in lines] == ["READY", "READY"]
        assert lines[0][2:] == ["class=instant", "model=a;b"]
        with urllib.request.urlopen(lines[0][1] + "/v1/models", timeout=10) as answer:
            assert len(json.load(answer)["data"]) == 2
        process.terminate()
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()

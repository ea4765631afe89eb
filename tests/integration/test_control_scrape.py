"""Scraping over real sockets: what engines tell arrives, and none of them holds up another."""

import asyncio
import gzip
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from bench.mock.fleet import EngineSpec, Fleet
from control.reading import Fact
from control.scrape import Scraper, ScrapeSettings, ScrapeStatus, open_session
from control.scrape_source import Target
from router import limits
from router.schema.config import EndpointTls
from router.schema.secret import Secret
from tests.support.raw_peer import chat, dial, request

SETTINGS = ScrapeSettings(interval_ms=20, seldom_interval_ms=30, timeout_ms=400, backoff_max_ms=60)
WAIT_S = 20.0
VLLM = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n"
VLLM_FACTS = (Fact("waiting", 3), Fact("running", 4), Fact("kv", 0.5))

Answer = Callable[[str, dict[str, str], asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, *, status: str = "200 OK", length: int | None = None, **fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def says(pages: dict[str, bytes]) -> Answer:
    """Whole answers by path; others are 404."""

    async def answer(path: str, _: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(pages.get(path, http(b"no", status="404 Not Found")))

    return answer


@asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An engine on a port of its own; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *rest = head.decode().split("\r\n")
                fields = dict(line.split(": ", 1) for line in rest if line)
                await answer(
                    first.split()[1], {name.lower(): value for name, value in fields.items()}, writer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Heard:
    """What the scraper told, and a scraper that is running."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[tuple[Fact, ...], float]] = {}
        self.counts: dict[str, int] = {}
        self.scraper: Scraper

    def on_signals(self, endpoint: str, facts: tuple[Fact, ...], at_s: float) -> None:
        self.told[endpoint] = (facts, at_s)
        self.counts[endpoint] = self.counts.get(endpoint, 0) + 1

    async def until(self, condition: Callable[[], bool]) -> None:
        """Raises: TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def facts(self, endpoint: str) -> tuple[Fact, ...]:
        """Of the next telling."""
        before = self.counts.get(endpoint, 0)
        await self.until(lambda: self.counts.get(endpoint, 0) > before)
        return self.told[endpoint][0]

    def status(self, endpoint: str) -> ScrapeStatus:
        return next(status for status in self.scraper.describe() if endpoint in status.endpoints)

    async def failure(self, endpoint: str) -> str:
        await self.until(lambda: bool(self.status(endpoint).failure))
        return self.status(endpoint).failure


@asynccontextmanager
async def scraping(*targets: Target, settings: ScrapeSettings = SETTINGS) -> AsyncIterator[Heard]:
    heard = Heard()
    async with open_session(settings) as session:
        heard.scraper = Scraper(session, heard.on_signals, settings, seed=1)
        heard.scraper.set_targets(targets)
        running = asyncio.create_task(heard.scraper.run())
        try:
            yield heard
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def run(case: Coroutine[Any, Any, None]) -> None:
    asyncio.run(case)


def engine(url: str, name: str = "vllm", **more: Any) -> Target:
    return Target(name="e", url=url, engine=name, **more)


def test_what_an_engine_tells_arrives_with_the_moment_it_was_true() -> None:
    async def case() -> None:
        begin_s = time.monotonic()
        async with (
            serving(says({"/base/metrics": http(VLLM)})) as url,
            scraping(engine(f"{url}/base/")) as heard,
        ):
            assert await heard.facts("e") == VLLM_FACTS
            assert begin_s < heard.told["e"][1] < time.monotonic()
            status = heard.status("e")
            assert (status.failure, status.engine, status.url) == ("", "vllm", f"{url}/base/metrics")

    run(case())


async def hangs(*_: object) -> None:
    await asyncio.Event().wait()


async def hangs_in_its_body(_: str, __: dict[str, str], writer: asyncio.StreamWriter) -> None:
    writer.write(http(VLLM, length=100_000))
    await writer.drain()
    await asyncio.Event().wait()


async def never_ends(_: str, __: dict[str, str], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"# comment comment\n" * 3640 + b"#" * 15 + b"\n\r\n")
        await writer.drain()


async def is_cut_short(_: str, __: dict[str, str], writer: asyncio.StreamWriter) -> None:
    writer.write(http(VLLM, length=len(VLLM) + 10))
    await writer.drain()
    writer.close()


async def ends_within_a_line(_: str, __: dict[str, str], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + VLLM[:-2])
    await writer.drain()
    writer.close()


BOMB = gzip.compress(b"\n" * (limits.SCRAPE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (hangs, "no answer within 400 ms"),
        (hangs_in_its_body, "no answer within 400 ms"),
        (never_ends, "more than"),
        (is_cut_short, "payload is not completed"),
        (ends_within_a_line, "ends within a line"),
        (says({"/metrics": http(b"<html><body>Welcome</body></html>")}), "HTML"),
        (says({"/metrics": http(b'{"status":"ok"}')}), "JSON"),
        (says({"/metrics": http(VLLM + b"\0")}), "binary"),
        (says({"/metrics": http(b"")}), "empty"),
        (says({"/metrics": http(b"up 1\n")}), "no metric of vllm"),
        (says({"/metrics": http(b"no", status="500 Oh")}), "HTTP 500"),
        (says({"/metrics": http(b"", status="307 Go", Location="/else"), "/else": http(VLLM)}), "HTTP 307"),
        (says({}), "HTTP 404"),
        (says({"/metrics": http(VLLM, Content_Encoding="br")}), "compressed with br"),
        (says({"/metrics": http(VLLM, Content_Encoding="gzip")}), "not what gzip makes"),
        (says({"/metrics": http(BOMB, Content_Encoding="gzip")}), "more than"),
        (says({"/metrics": b"SSH-2.0-OpenSSH_9.2\r\n\r\n"}), ""),
    ],
    ids=lambda value: getattr(value, "__name__", value) if not isinstance(value, str) else value,
)
def test_a_page_that_is_none_is_a_reason_and_holds_up_nobody(answer: Answer, reason: str) -> None:
    async def case() -> None:
        async with serving(answer) as bad_url, serving(says({"/metrics": http(VLLM)})) as url:
            bad = Target(name="bad", url=bad_url, engine="vllm")
            async with scraping(bad, engine(url)) as heard:
                assert reason in await heard.failure("bad")
                assert await heard.facts("e") == VLLM_FACTS
                assert "bad" not in heard.told

    run(case())


def test_nobody_listening_is_a_reason_and_who_comes_back_is_heard_again() -> None:
    pages = {"/metrics": http(VLLM)}

    async def case() -> None:
        async with serving(says(pages)) as url, scraping(engine(url)) as heard:
            await heard.facts("e")
            del pages["/metrics"]
            assert "404" in await heard.failure("e")
            await heard.until(lambda: heard.status("e").failures > 2)
            pages["/metrics"] = http(VLLM)
            assert await heard.facts("e") == VLLM_FACTS
            assert heard.status("e").failures == 0

    run(case())


def test_many_that_hang_leave_room_for_those_that_answer() -> None:
    async def case() -> None:
        async with serving(hangs) as bad_url, serving(says({"/metrics": http(VLLM)})) as url:
            bad = [Target(name=f"bad{number}", url=bad_url, engine="vllm") for number in range(8)]
            few = ScrapeSettings(
                interval_ms=20, timeout_ms=100, backoff_max_ms=400, at_once_max=4, seldom_interval_ms=100
            )
            async with scraping(*bad, engine(url), settings=few) as heard:
                for _ in range(3):
                    assert await heard.facts("e") == VLLM_FACTS

    run(case())


def test_a_compressed_page_is_read() -> None:
    async def case() -> None:
        page = http(gzip.compress(VLLM + b"# comment\n" * 20_000), Content_Encoding="gzip")
        asked: list[str] = []

        async def answer(path: str, fields: dict[str, str], writer: asyncio.StreamWriter) -> None:
            asked.append(fields["accept-encoding"])
            writer.write(page)

        async with serving(answer) as url, scraping(engine(url)) as heard:
            assert await heard.facts("e") == VLLM_FACTS
        assert set(asked) == {"identity"}

    run(case())


def test_an_address_that_was_given_another_engine_is_still_understood() -> None:
    pages = {"/metrics": http(VLLM)}

    async def case() -> None:
        async with serving(says(pages)) as url, scraping(engine(url)) as heard:
            await heard.facts("e")
            pages["/metrics"] = http(b"sglang:num_queue_reqs 7\n")
            await heard.until(lambda: heard.told["e"][0] == (Fact("waiting", 7),))
            assert heard.status("e").engine == "sglang"
            pages["/metrics"] = http(VLLM)
            await heard.until(lambda: heard.told["e"][0] == VLLM_FACTS)

    run(case())


def test_an_engine_that_nobody_named_is_recognised() -> None:
    async def case() -> None:
        page = http(b"llamacpp:requests_deferred 1\nllamacpp:requests_processing 2\n")
        async with serving(says({"/metrics": page})) as url, scraping(engine(url, "other")) as heard:
            assert await heard.facts("e") == (Fact("waiting", 1), Fact("running", 2))
            assert heard.status("e").engine == "llamacpp"

    run(case())


def test_a_page_that_is_not_served_is_stood_in_for_by_the_next() -> None:
    async def case() -> None:
        metrics = http(b"sglang:num_queue_reqs 7\n")
        slots = http(b'[{"is_processing":true},{"is_processing":false}]')
        disabled = http(b'{"error":{}}', status="501 Not Implemented")
        async with (
            serving(says({"/metrics": metrics})) as sglang_url,
            serving(says({"/metrics": disabled, "/slots": slots})) as llamacpp_url,
            scraping(
                Target(name="s", url=sglang_url, engine="sglang"),
                Target(name="l", url=llamacpp_url, engine="llamacpp"),
            ) as heard,
        ):
            assert await heard.facts("s") == (Fact("waiting", 7),)
            assert await heard.facts("l") == (Fact("running", 1), Fact("slots", 2))

    run(case())


def test_sglang_is_asked_for_its_load_and_now_and_then_for_its_counters() -> None:
    async def case() -> None:
        loads = http(
            b'{"loads":[{"num_running_reqs":2,"num_waiting_reqs":1,"num_used_tokens":50,'
            b'"max_total_num_tokens":100}]}'
        )
        metrics = http(b"sglang:num_queue_reqs 1\nsglang:generation_tokens_total 99\n")
        kinds: set[str] = set()

        pages = {"/v1/loads": loads, "/metrics": metrics}
        async with serving(says(pages)) as url, scraping(engine(url, "sglang")) as heard:
            while not {"kv", "running", "generation_tokens"} <= kinds:
                kinds |= {fact.kind for fact in await heard.facts("e")}

    run(case())


def test_ollama_tells_which_models_are_in_memory() -> None:
    async def case() -> None:
        page = http(b'{"models":[{"name":"a:latest"}]}')
        async with serving(says({"/api/ps": page})) as url, scraping(engine(url, "ollama")) as heard:
            await heard.until(lambda: heard.status("e").models == ("a:latest",))
            assert heard.told == {}

    run(case())


def test_a_node_is_asked_once_for_the_gpus_of_all_its_endpoints() -> None:
    async def case() -> None:
        asked: list[dict[str, str]] = []
        page = http(
            b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 350\nDCGM_FI_DEV_POWER_MGMT_LIMIT{gpu="0"} 700\n'
            b'DCGM_FI_DEV_POWER_USAGE{gpu="1"} 70\nDCGM_FI_DEV_POWER_MGMT_LIMIT{gpu="1"} 700\n'
        )

        async def answer(_: str, fields: dict[str, str], writer: asyncio.StreamWriter) -> None:
            asked.append(fields)
            writer.write(page)

        async with serving(answer) as url:
            targets = [
                Target(
                    name=f"e{number}",
                    url="http://127.0.0.1:1",
                    engine="openai",
                    gpu_url=f"{url}/metrics",
                    gpus=(str(number),),
                    bearer=Secret("key"),
                )
                for number in range(2)
            ]
            async with scraping(*targets) as heard:
                assert await heard.facts("e0") == (Fact("power", 0.5), Fact("watts", 350))
                assert await heard.facts("e1") == (Fact("power", 0.1), Fact("watts", 70))
                assert len(heard.scraper.describe()) == 1
                heard.scraper.set_targets(tuple(targets[1:]))
                assert heard.scraper.describe()[0].endpoints == ("e1",)
        assert not any("authorization" in fields for fields in asked)

    run(case())


def test_the_key_is_sent_to_the_engine_and_shown_nowhere() -> None:
    async def case() -> None:
        async def answer(_: str, fields: dict[str, str], writer: asyncio.StreamWriter) -> None:
            is_known = fields.get("authorization") == "Bearer hidden" and fields["host"] == "llm.example"
            writer.write(http(VLLM) if is_known else http(b"", status="401 No"))

        async with serving(answer) as url:
            async with scraping(engine(url, bearer=Secret("hidden"), host="llm.example")) as heard:
                await heard.facts("e")
                assert "hidden" not in repr(heard.scraper.describe())
            async with scraping(engine(url, bearer=Secret("wrong"))) as heard:
                assert await heard.failure("e") == "HTTP 401"

    run(case())


def test_a_certificate_is_checked_and_a_renewed_authority_is_read(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("engine.test").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    other.cert_pem.write_to_path(str(ca_file))

    async def case() -> None:
        named = EndpointTls(ca_file=str(ca_file), server_name="engine.test")
        async with (
            serving(says({"/metrics": http(VLLM)}), context) as url,
            scraping(
                engine(url, tls=named),
                Target(name="blind", url=url, engine="vllm", tls=EndpointTls(verify=False)),
                Target(name="strict", url=url, engine="vllm", tls=EndpointTls(ca_file="/nowhere/ca.pem")),
            ) as heard,
        ):
            assert await heard.facts("blind") == VLLM_FACTS
            assert "certificate" in (await heard.failure("e")).lower()
            assert "No such file" in await heard.failure("strict")
            authority.cert_pem.write_to_path(str(ca_file))
            assert await heard.facts("e") == VLLM_FACTS

    run(case())


def test_who_is_taken_off_is_told_of_no_more_and_who_stays_goes_on() -> None:
    async def case() -> None:
        async with serving(says({"/metrics": http(VLLM)})) as url:
            first, second = (Target(name=name, url=url, engine="vllm") for name in "ab")
            async with scraping(first, second) as heard:
                await heard.facts("a")
                await heard.facts("b")
                before = heard.status("b").told_s
                heard.scraper.set_targets((second,))
                assert heard.status("b").told_s == before
                count = heard.counts["a"]
                for _ in range(5):
                    await heard.facts("b")
                assert heard.counts["a"] == count

    run(case())


def test_a_listener_that_fails_costs_that_telling_only(caplog: pytest.LogCaptureFixture) -> None:
    async def case() -> None:
        told: list[str] = []

        def on_signals(endpoint: str, _: tuple[Fact, ...], __: float) -> None:
            told.append(endpoint)
            if endpoint == "bad":
                raise KeyError(endpoint)

        async with serving(says({"/metrics": http(VLLM)})) as url, open_session(SETTINGS) as session:
            scraper = Scraper(session, on_signals, SETTINGS)
            scraper.set_targets((Target(name="bad", url=url, engine="vllm"), engine(url)))
            running = asyncio.create_task(scraper.run())
            async with asyncio.timeout(WAIT_S):
                while told.count("e") < 3 or told.count("bad") < 2:
                    await asyncio.sleep(0.005)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    run(case())
    assert "KeyError" in caplog.text


def test_a_mock_engine_is_understood_while_it_works() -> None:
    async def case(url: str, port: int) -> None:
        async with scraping(engine(url)) as heard:
            found = {fact.kind: fact.value for fact in await heard.facts("e")}
            assert found["waiting"] == found["running"] == 0
            with dial(("127.0.0.1", port)) as peer:
                peer.send(request(chat(max_tokens=7)))
                assert peer.take_response()[0] == 200
            await heard.until(
                lambda: any(
                    fact.kind == "generation_tokens" and fact.value == found["generation_tokens"] + 7
                    for fact in heard.told["e"][0]
                )
            )
            assert all(math.isfinite(fact.value) for fact in heard.told["e"][0])

    with Fleet([EngineSpec(engine_class="instant", models=("tiny",))]) as fleet:
        run(case(fleet.urls[0], fleet.engines[0].port))

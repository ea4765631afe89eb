"""Health checking over real sockets: engines that are well, hang, refuse, load, lie, or are none at all."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from bench.mock.fleet import EngineSpec, Fleet
from control.fleet_health import FleetHealth
from control.health import Answer, Condition, Probed, ProbeKind
from control.health_checker import HealthChecker, LoopLag, Results
from control.health_settings import Generation, HealthSettings
from control.probe import Clock, Target, open_session, probe, target_of
from router import limits
from router.schema.config import Endpoint, EndpointAuth, Engine
from router.schema.secret import MASK, Secret

PATIENCE_S = 60.0  # until a test gives up; nothing is asserted about times
SETTINGS = HealthSettings(interval_ms=20, timeout_ms=10_000)
HASTY = HealthSettings(interval_ms=20, timeout_ms=100)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def answering(head: str, body: bytes = b"", seen: list[bytes] | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return handle


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await reader.read()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"a" * 65536)
        await writer.drain()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    await reader.read()


def endpoint(url: str, engine: Engine = Engine.VLLM, key: str | None = None) -> Endpoint:
    auth = EndpointAuth(bearer=Secret(key) if key else None)
    return Endpoint(url=url, name="a", engine=engine, models=("mock",), auth=auth)


async def asked(
    url: str, engine: Engine = Engine.VLLM, *, settings: HealthSettings = SETTINGS, key: str | None = None
) -> Probed:
    async with open_session() as session:
        return await probe(
            session,
            target_of(endpoint(url, engine, key), settings),
            ProbeKind.GENERATION if settings.generation.is_on else ProbeKind.LIVENESS,
            context=None,
            timeout_s=settings.timeout_ms / 1000,
            clock=asyncio.get_running_loop().time,
        )


HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
LLAMACPP_LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'

CASES: dict[str, tuple[Handler, Engine, Answer, str]] = {
    "well": (answering("200 OK"), Engine.VLLM, Answer.OK, ""),
    "no content": (answering("204 No Content"), Engine.SGLANG, Answer.OK, ""),
    "Ollama": (answering("200 OK", b"Ollama is running"), Engine.OLLAMA, Answer.OK, ""),
    "provider": (answering("200 OK", b'{"data":[]}'), Engine.OPENAI, Answer.OK, ""),
    "provider, no key": (answering("401 Unauthorized"), Engine.OPENAI, Answer.OK, "no key"),
    "loading": (answering("503 X", LLAMACPP_LOADING), Engine.LLAMACPP, Answer.LOADING, "Loading model"),
    "Triton, not ready": (answering("400 Bad Request"), Engine.TRITON, Answer.LOADING, "not ready"),
    "dead inside": (answering("503 X", b"EngineDeadError"), Engine.VLLM, Answer.STATUS, "EngineDead"),
    "too many requests": (answering("429 X"), Engine.OPENAI, Answer.BUSY, "429"),
    "no slot": (answering("503 X", b'{"status":"no slot available"}'), Engine.LLAMACPP, Answer.BUSY, "slot"),
    "portal": (answering("200 OK\r\nContent-Type: text/html", HTML), Engine.VLLM, Answer.UNREADABLE, "HTML"),
    "redirect": (answering("302 X\r\nLocation: http://127.0.0.1:9/"), Engine.VLLM, Answer.UNREADABLE, "302"),
    "another engine": (answering("404 Not Found"), Engine.TGI, Answer.STATUS, "is it really tgi?"),
    "no HTTP": (babbling, Engine.VLLM, Answer.UNREADABLE, "no HTTP answer"),
    "closes": (closing, Engine.TRTLLM, Answer.CUT, "closed"),
    "endless": (endless, Engine.VLLM, Answer.OK, ""),
    "just a port": (hanging, Engine.OTHER, Answer.OK, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_read_for_what_it_is(case: str) -> None:
    async def scenario() -> None:
        handler, engine, answer, detail = CASES[case]
        async with served(handler) as url:
            probed = await asked(url, engine)
            assert probed.answer is answer, probed.detail
            assert detail in probed.detail

    asyncio.run(scenario())


@pytest.mark.parametrize("handler", [hanging, dripping])
def test_an_answer_that_does_not_come_or_does_not_end_is_a_time_out(handler: Handler) -> None:
    async def scenario() -> None:
        async with served(handler) as url:
            probed = await asked(url, settings=HASTY)
            assert (probed.answer, probed.detail) == (Answer.TIMED_OUT, "no answer in 0.1 s")

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.OTHER])
def test_a_closed_port_refuses(engine: Engine) -> None:
    async def scenario() -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            probed = await asked(f"http://127.0.0.1:{unheard.getsockname()[1]}", engine)
        assert probed.answer is Answer.REFUSED

    asyncio.run(scenario())


def test_a_key_is_sent_and_never_shown() -> None:
    async def scenario() -> None:
        seen: list[bytes] = []
        async with served(answering("500 X", b"you sent Bearer sesame-1234", seen)) as url:
            probed = await asked(f"{url}/tenant", Engine.OPENAI, key="sesame-1234")
            assert seen[0].startswith(b"GET /tenant/v1/models HTTP/1.1")
            assert b"Authorization: Bearer sesame-1234" in seen[0]
            assert probed.detail == f"500: you sent Bearer {MASK}"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (answering("200 OK", b'{"choices":[{"text":"a"}]}'), Answer.OK),
        (answering("200 OK", b'{"choices":[]}'), Answer.STATUS),
        (answering("200 OK", b'{"error":"CUDA"}'), Answer.STATUS),
        (answering("200 OK", HTML), Answer.UNREADABLE),
        (answering("404 X", b'{"error":"no such model"}'), Answer.REJECTED),
        (answering("429 X"), Answer.BUSY),
        (answering("500 X"), Answer.STATUS),
    ],
)
def test_a_generated_token_is_told_from_a_failure_and_from_a_wrong_question(
    handler: Handler, answer: Answer
) -> None:
    async def scenario() -> None:
        async with served(handler) as url:
            probed = await asked(url, settings=HealthSettings(generation=Generation(is_on=True)))
            assert (probed.answer, probed.kind) == (answer, ProbeKind.GENERATION), probed.detail

    asyncio.run(scenario())


def test_a_bounded_part_of_an_answer_is_shown() -> None:
    async def scenario() -> None:
        async with served(answering("500 X", b"\x1b[31m" + b"e" * 100_000)) as url:
            probed = await asked(url)
            assert len(probed.detail) == limits.PROBE_DETAIL_CHARS_MAX
            assert probed.detail.isprintable()

    asyncio.run(scenario())


class Watch:
    """A checker that runs, its results taken by a fleet's health."""

    def __init__(self, settings: HealthSettings, **replaced: object) -> None:
        self.results: Results = []
        self.threads: set[int] = set()
        self.fleet = FleetHealth(settings)
        self.settings = settings
        self.checker = HealthChecker(settings, self._take, seed=1, **replaced)  # type: ignore[arg-type]
        self._changed = asyncio.Event()

    def _take(self, results: Results) -> None:
        self.threads.add(threading.get_ident())
        self.results += results
        self.fleet.take_probes(results)
        self._changed.set()

    def set_targets(self, *targets: Target) -> None:
        self.fleet.set_endpoints({target.name: target.engine for target in targets}, 0.0)
        self.checker.set_targets(targets)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def more(self, name: str, count: int = 3) -> None:
        before = self.count(name)
        await self.until(lambda: self.count(name) >= before + count)

    def count(self, name: str) -> int:
        return sum(endpoint == name for endpoint, _ in self.results)

    def condition(self, name: str) -> Condition:
        return self.fleet.describe()[name].condition


@contextlib.asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[Watch]:
    task = asyncio.create_task(watch.checker.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def target(name: str, url: str, engine: Engine = Engine.VLLM) -> Target:
    return Target(name=name, url=url, engine=engine, path="/health")


def test_hanging_refusing_and_lying_endpoints_do_not_touch_the_one_that_is_well() -> None:
    async def scenario() -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            async with contextlib.AsyncExitStack() as stack:
                urls = {
                    "well": await stack.enter_async_context(served(answering("200 OK"))),
                    "hangs": await stack.enter_async_context(served(hanging)),
                    "html": await stack.enter_async_context(served(answering("200 OK", HTML))),
                    "loads": await stack.enter_async_context(served(answering("503 X", LLAMACPP_LOADING))),
                    "refuses": f"http://127.0.0.1:{unheard.getsockname()[1]}",
                }
                watch = await stack.enter_async_context(running(Watch(HASTY)))
                watch.set_targets(*(target(name, url) for name, url in urls.items()))
                wanted = {
                    "hangs": Condition.DOWN,
                    "html": Condition.DOWN,
                    "loads": Condition.WARMING,
                    "refuses": Condition.DOWN,
                }
                await watch.until(lambda: all(watch.condition(name) is wanted[name] for name in wanted))
                await watch.until(lambda: watch.condition("well") in (Condition.HEALTHY, Condition.DEGRADED))
                assert watch.threads == {threading.get_ident()}

    asyncio.run(scenario())


def test_mock_engines_fall_sick_and_recover() -> None:
    async def scenario() -> None:
        settings = HealthSettings(interval_ms=20, timeout_ms=10_000, slow_ms=60_000)
        with Fleet([EngineSpec(), EngineSpec()]) as fleet:
            async with running(Watch(settings)) as watch:
                watch.set_targets(*(target(f"e{index}", url) for index, url in enumerate(fleet.urls)))
                await watch.until(lambda: watch.condition("e0") is watch.condition("e1") is Condition.HEALTHY)
                fleet.set_fault(1, "sick:500")
                await watch.until(lambda: watch.condition("e1") is Condition.DOWN)
                assert watch.condition("e0") is Condition.HEALTHY
                fleet.set_fault(1)
                await watch.until(lambda: watch.condition("e1") in (Condition.HEALTHY, Condition.DEGRADED))

    asyncio.run(scenario())


def test_a_mock_engine_that_is_green_and_generates_nothing_is_down() -> None:
    async def scenario() -> None:
        generation = Generation(is_on=True, interval_ms=20, timeout_ms=200)
        settings = HealthSettings(interval_ms=20, timeout_ms=10_000, slow_ms=60_000, generation=generation)
        with Fleet([EngineSpec(speed=0)]) as fleet:
            async with running(Watch(settings)) as watch:
                watch.set_targets(target_of(endpoint(fleet.urls[0]), settings))
                await watch.until(lambda: watch.condition("a") is Condition.HEALTHY)
                fleet.set_fault(0, "hang")
                await watch.until(lambda: watch.condition("a") is Condition.DOWN)
                assert "tries to generate a token failed" in watch.fleet.describe()["a"].reason

    asyncio.run(scenario())


def found(clock: Clock, kind: ProbeKind) -> Probed:
    return Probed(at_s=clock(), answer=Answer.OK, kind=kind)


async def well(
    session: aiohttp.ClientSession,
    target: Target,
    kind: ProbeKind,
    *,
    context: ssl.SSLContext | None,
    timeout_s: float,
    clock: Clock,
) -> Probed:
    if target.name == "crashes":
        raise RuntimeError("an answer nobody thought of")
    if target.name == "waits":
        await asyncio.Event().wait()
    return found(clock, kind)


def test_a_probe_that_crashes_is_begun_again_and_stops_no_other() -> None:
    async def scenario() -> None:
        async with running(Watch(SETTINGS, probe=well)) as watch:
            watch.set_targets(target("crashes", "http://a"), target("well", "http://b"))
            await watch.more("well")
            async with asyncio.timeout(PATIENCE_S):
                while not any(watched.failure_count > 1 for watched in watch.checker.describe()):
                    await watch.more("well", 1)
            await watch.more("well")
            assert watch.count("crashes") == 0

    asyncio.run(scenario())


def test_a_change_of_targets_in_mid_probe_goes_on_with_those_that_stay_and_those_that_are_new() -> None:
    async def scenario() -> None:
        async with running(Watch(SETTINGS, probe=well)) as watch:
            watch.set_targets(target("waits", "http://a"), target("well", "http://b"))
            await watch.more("well")
            for turn in range(5):
                changed = target("waits", f"http://a{turn}")
                watch.set_targets(changed, target("well", "http://b"), target(f"new{turn}", "http://c"))
                await watch.more("well", 1)
                await watch.more(f"new{turn}", 1)
            watch.set_targets()
            watch.set_targets(target("well", "http://b"))
            await watch.more("well")
            names = {watched.name for watched in watch.checker.describe()}
            assert names == {"loop lag", "liveness well"}

    asyncio.run(scenario())


def test_targets_that_were_set_before_the_start_are_probed_and_a_second_run_goes_on() -> None:
    async def scenario() -> None:
        watch = Watch(SETTINGS, probe=well)
        watch.set_targets(target("well", "http://b"))
        for _ in range(2):
            async with running(watch):
                await watch.more("well")

    asyncio.run(scenario())


def test_probing_goes_on_while_the_main_loop_is_held_up_and_all_of_it_arrives_in_order() -> None:
    async def scenario() -> None:
        probed = threading.Event()
        count = 0

        async def counted(*args: object, clock: Clock, **rest: object) -> Probed:
            nonlocal count
            count += 1
            if count > 20:
                probed.set()
            return found(clock, ProbeKind.LIVENESS)

        async with running(Watch(SETTINGS, probe=counted)) as watch:
            watch.set_targets(target("well", "http://b"))
            await watch.more("well", 1)
            assert probed.wait(PATIENCE_S)  # holds this loop up
            assert watch.count("well") < 20
            await watch.more("well")
            times = [probed.at_s for _, probed in watch.results]
            assert times == sorted(times)

    asyncio.run(scenario())


def test_what_was_asked_while_the_prober_was_held_up_is_thrown_away() -> None:
    async def scenario() -> None:
        jump_s = 0.0
        stopped: list[float] = []

        def clock() -> float:
            return time.monotonic() + jump_s

        async def stopping(*args: object, clock: Clock, **rest: object) -> Probed:
            nonlocal jump_s
            if len(stopped) < 3:
                jump_s += 30.0  # as if the process had been stopped
                stopped.append(jump_s)
                return Probed(at_s=clock(), answer=Answer.TIMED_OUT)
            return found(clock, ProbeKind.LIVENESS)

        async with running(Watch(SETTINGS, probe=stopping, clock=clock)) as watch:
            watch.set_targets(target("well", "http://b"))
            await watch.more("well")
            assert {probed.answer for _, probed in watch.results} == {Answer.OK}
            assert watch.checker.thrown_away >= 3

    asyncio.run(scenario())


def test_a_loop_was_held_up_until_a_tick_and_before_the_tick_is_over() -> None:
    lag = LoopLag(0.25, 10.0)
    assert not lag.was_held_up(10.0, 10.2)
    assert lag.was_held_up(10.0, 10.5)  # no tick yet, and one is overdue
    lag.tick(12.0)
    assert lag.was_held_up(11.0, 12.1)
    assert not lag.was_held_up(12.05, 12.1)
    lag.tick(12.1)
    assert not lag.was_held_up(12.05, 12.2)

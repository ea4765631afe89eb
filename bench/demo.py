"""`fairlead demo`: four mock engines of unequal speed, the router before them, one answer, then a live table.

What `make run` and `make demo` call. The engines run in a native thread of this process, the router is
started as a user would start it, and everything shown comes from outside: responses, the admin port's
/debug/endpoints, and (for tokens) the engines' own counters. Invariant: router and engines end with this
process, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.mock.fleet import EngineSpec, Fleet
from router.schema.policies import policy_names

MODEL = "demo-8b"
ENGINES = [
    EngineSpec(engine_class="8b-h100", models=(MODEL,)),
    EngineSpec(engine_class="8b-a100", models=(MODEL,)),
    EngineSpec(engine_class="8b-l40s", models=(MODEL,)),
    EngineSpec(engine_class="8b-l40s", models=(MODEL,), faults=("slow:3",)),
]
READY = re.compile(r"ready: traffic [^;]*:(\d+); admin [^;]*:(\d+);")  # in the router's log
START_TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 60.0
STREAMS_MAX = 512  # open at once by the load; above it a request waits for its turn
SHARED_PREFIXES = 16  # conversations the load takes turns in, so that prefix caches have something to find


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One streamed chat completion as the client saw it."""

    endpoint: str
    text: str
    tokens: int
    ttft_s: float
    elapsed_s: float


async def stream_chat(session: aiohttp.ClientSession, base_url: str, prompt: str, tokens_max: int) -> Answer:
    """Raises: aiohttp.ClientError, TimeoutError, ValueError when the stream does not end as it should."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens_max,
        "stream": True,
    }
    begun = time.perf_counter()
    ttft_s = 0.0
    words: list[str] = []
    async with session.post(f"{base_url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}: {(await response.text())[:200]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                if line.startswith(b"data: [DONE]"):
                    break
                continue
            choices = json.loads(line[6:]).get("choices")
            if choices is None:
                raise ValueError(f"error in the stream: {line[6:200].decode(errors='replace')}")
            word = choices[0]["delta"].get("content") if choices else None
            if word:
                ttft_s = ttft_s or time.perf_counter() - begun
                words.append(word)
        else:
            raise ValueError("the stream ended without [DONE]")
    return Answer(
        endpoint=response.headers.get("x-fairlead-endpoint", "?"),
        text="".join(words),
        tokens=len(words),
        ttft_s=ttft_s,
        elapsed_s=time.perf_counter() - begun,
    )


@dataclass
class Load:
    """Streams begun at a steady rate, whether or not earlier ones have ended."""

    base_url: str
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ttft_ms(self, quantile: float) -> float:
        ttft_ms = sorted(answer.ttft_s * 1000 for answer in self.answers)
        return ttft_ms[int(quantile * (len(ttft_ms) - 1))]

    async def _one(self, session: aiohttp.ClientSession, turn: asyncio.Semaphore, number: int) -> None:
        dice = random.Random(number)
        prefix = f"conversation {dice.randrange(SHARED_PREFIXES)}: " + "what was said before. " * 40
        async with turn:
            try:
                self.answers.append(
                    await stream_chat(session, self.base_url, f"{prefix}{number}", dice.randint(8, 64))
                )
            except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
                self.failures.append(f"{type(problem).__name__}: {problem}")

    async def run(self, session: aiohttp.ClientSession, rate_per_s: float, until: float | None) -> None:
        """Begin streams until the moment given (forever without one), then wait for those still open."""
        turn = asyncio.Semaphore(STREAMS_MAX)
        begun = time.monotonic()
        number = 0
        async with asyncio.TaskGroup() as streams:
            while until is None or time.monotonic() < until:
                streams.create_task(self._one(session, turn, number))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / rate_per_s - time.monotonic()))


def free_port(preferred: int) -> int:
    """The preferred port when nobody listens there, else 0: the kernel picks one when the router listens."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", preferred))
        return preferred
    return 0


@contextlib.contextmanager
def router_process(options: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`fairlead serve` as a subprocess, its log in `folder`; ended with SIGTERM."""
    command = [sys.executable, "-m", "router", "serve", *options]
    with (folder / "router.log").open("wb") as log:
        # A session of its own: Ctrl-C is ours to handle, the router then drains on SIGTERM.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _serve_options(place: tuple[int, int], endpoints: Sequence[str], folder: Path, policy: str) -> list[str]:
    port, admin_port = place
    options = ["--runtime-dir", str(folder), "--policy", policy]
    options += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin_port}"]
    for url in endpoints:
        options += ["--endpoint", url]
    return options


async def wait_ready(folder: Path, process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The ports of traffic and admin of the router whose log is in `folder`, as it says itself.

    Raises: click.ClickException when the router ends or does not get ready.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready := READY.search((folder / "router.log").read_text(errors="replace")):
            return int(ready[1]), int(ready[2])
        await asyncio.sleep(0.05)
    state = "did not get ready" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise click.ClickException(f"the router {state}")


class EndpointTable:
    """What the admin port says of each endpoint, with tokens per second from the engines' counters."""

    def __init__(self, fleet: Fleet, admin_url: str) -> None:
        self._engines = {url: (index, ENGINES[index]) for index, url in enumerate(fleet.urls)}
        self._fleet = fleet
        self._admin_url = admin_url
        self._begun = self._last = time.monotonic()
        self._tokens: dict[str, int] = {}
        self.rows: list[tuple[str, ...]] = []

    async def refresh(self, session: aiohttp.ClientSession, *, whole_run: bool = False) -> None:
        """Read the figures; tokens per second since the last refresh, or over the whole run."""
        async with session.get(f"{self._admin_url}/debug/endpoints") as response:
            endpoints: list[dict[str, Any]] = await response.json()
        now = time.monotonic()
        elapsed_s = max(1e-3, now - (self._begun if whole_run else self._last))
        self._last = now
        self.rows = []
        for endpoint in endpoints:
            url = endpoint["url"].rstrip("/")
            index, spec = self._engines[url]
            tokens = self._fleet.stats(index)["generation_tokens"]
            made = tokens if whole_run else tokens - self._tokens.get(url, 0)
            self._tokens[url] = tokens
            engine = " ".join((spec.engine_class, *spec.faults))
            self.rows.append(
                (
                    endpoint["name"],
                    engine,
                    str(endpoint["requests"]),
                    str(endpoint["in_flight"]),
                    f"{endpoint['ttft_ms_p50']:.1f}",
                    f"{endpoint['ttft_ms_p95']:.1f}",
                    f"{made / elapsed_s:.0f}",
                )
            )

    def render(self) -> Table:
        table = Table(title="endpoints (TTFT in ms)", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("endpoint", "engine"):
            table.add_column(name, no_wrap=True)
        for name in ("requests", "in flight", "p50", "p95", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def plain_lines(self) -> str:
        names = ("engine", "requests", "in_flight", "ttft_p50_ms", "ttft_p95_ms", "tokens_per_s")
        return "\n".join(
            f"{row[0]} " + " ".join(f"{name}={value}" for name, value in zip(names, row[1:], strict=True))
            for row in self.rows
        )


async def watch(table: EndpointTable, session: aiohttp.ClientSession, console: Console, quiet: bool) -> None:
    """Show the table until cancelled: alive on a terminal, plain lines every other second elsewhere."""
    if quiet:
        await asyncio.Event().wait()
    if not console.is_terminal:
        while True:
            await asyncio.sleep(2)
            await table.refresh(session)
            print(table.plain_lines(), flush=True)
    with Live(table.render(), console=console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(0.5)
            await table.refresh(session)
            live.update(table.render(), refresh=True)


def show_first_answer(base_url: str, admin_url: str, answer: Answer) -> None:
    decode_s = max(1e-6, answer.elapsed_s - answer.ttft_s)
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    print(f"\nPoint a client here:  base_url={base_url}  (any API key)    admin: {admin_url}")
    print(f"  curl -N {base_url}/chat/completions -H 'content-type: application/json' -d '{body}'\n")
    print(f"answer:    {answer.text}")
    print(f"endpoint:  {answer.endpoint}")
    print(
        f"ttft:      {answer.ttft_s * 1000:.1f} ms, then {(answer.tokens - 1) / decode_s:.0f} tokens/s\n",
        flush=True,
    )


def show_summary(console: Console, table: EndpointTable, load: Load, seconds: float) -> None:
    if console.is_terminal:
        console.print(table.render())
    else:
        print(table.plain_lines())
    p50, p95 = load.ttft_ms(0.5), load.ttft_ms(0.95)
    rate = sum(answer.tokens for answer in load.answers) / seconds
    print(f"{len(load.answers)} streams finished, {len(load.failures)} failed", end=", ")
    print(f"TTFT p50 {p50:.1f} ms p95 {p95:.1f} ms, {rate:.0f} tokens/s through the router")
    for failure in load.failures[:5]:
        print(f"failed: {failure}")


async def carry_out(
    session: aiohttp.ClientSession,
    table: EndpointTable,
    load: Load,
    stopped: asyncio.Event,
    *,
    seconds: float | None,
    rate_per_s: float,
    quiet: bool,
) -> None:
    """Load and live table until the time is up, or a signal."""
    console = Console()
    begun = time.monotonic()

    async def wait_for_end() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopped.wait()

    tasks = [asyncio.create_task(watch(table, session, console, quiet))]
    if rate_per_s:
        until = None if seconds is None else begun + seconds
        tasks.append(asyncio.create_task(load.run(session, rate_per_s, until)))
        seconds = None  # the load ends in time by itself, when its last stream has ended
    tasks.append(asyncio.create_task(wait_for_end()))
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    await table.refresh(session, whole_run=True)
    show_summary(console, table, load, time.monotonic() - begun)


async def run_demo(
    folder: Path,
    *,
    policies: Sequence[str],
    seconds: float | None,
    rate_per_s: float,
    port: int,
    admin_port: int,
    quiet: bool,
) -> int:
    """The whole demo under each policy in turn, on fresh engines, the router's log in `folder`.

    Returns how many streams failed.
    """
    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    loads: dict[str, Load] = {}
    for policy in policies:
        if stopped.is_set():
            break
        place = free_port(port), free_port(admin_port)
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0)
        )
        async with session:
            with (
                Fleet(ENGINES) as fleet,
                router_process(_serve_options(place, fleet.urls, folder, policy), folder) as process,
            ):
                place = await wait_ready(folder, process)
                base_url, admin_url = f"http://127.0.0.1:{place[0]}/v1", f"http://127.0.0.1:{place[1]}"
                loads[policy] = load = Load(base_url)
                load.answers.append(await stream_chat(session, base_url, "Tell me about rivers.", 32))
                if len(policies) > 1:
                    print(f"\n{policy}:")
                elif not quiet:
                    show_first_answer(base_url, admin_url, load.answers[0])
                table = EndpointTable(fleet, admin_url)
                await table.refresh(session)
                await carry_out(
                    session, table, load, stopped, seconds=seconds, rate_per_s=rate_per_s, quiet=quiet
                )
    if len(loads) > 1:
        show_comparison(loads)
    return sum(len(load.failures) for load in loads.values())


def show_comparison(loads: Mapping[str, Load]) -> None:
    """Every policy beside the first."""
    (first, reference), *others = loads.items()
    print("\nTTFT under the same load:")
    print(f"  {first:18} p50 {reference.ttft_ms(0.5):7.1f} ms   p95 {reference.ttft_ms(0.95):7.1f} ms")
    for name, load in others:
        p50, p95 = load.ttft_ms(0.5), load.ttft_ms(0.95)
        print(
            f"  {name:18} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms"
            f"   ({p50 / reference.ttft_ms(0.5):.2f} and {p95 / reference.ttft_ms(0.95):.2f} times as long)"
        )


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after so long.  [default: at Ctrl-C]")
@click.option(
    "--load", "rate_per_s", type=click.FloatRange(min=0), default=0, help="Streams begun per second."
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(policy_names()),
    multiple=True,
    default=["five_axis"],
    show_default=True,
    help="How endpoints are picked; several: one after the other, and a comparison.",
)
@click.option("--port", default=8080, show_default=True, help="Where clients connect; a free one if taken.")
@click.option("--admin-port", default=9090, show_default=True, help="Where operators connect; likewise.")
@click.option("--quiet", is_flag=True, help="Only the summary.")
def demo(
    *,
    seconds: float | None,
    rate_per_s: float,
    policies: Sequence[str],
    port: int,
    admin_port: int,
    quiet: bool,
) -> None:
    """Try it: four mock engines behind the router, an answer streamed through it, a live table."""
    if len(policies) > 1 and (seconds is None or not rate_per_s):
        raise click.UsageError("a comparison of policies needs --seconds and --load")
    with tempfile.TemporaryDirectory(prefix="fairlead-demo-") as name:
        folder = Path(name)
        try:
            failed = asyncio.run(
                run_demo(
                    folder,
                    policies=policies,
                    seconds=seconds,
                    rate_per_s=rate_per_s,
                    port=port,
                    admin_port=admin_port,
                    quiet=quiet,
                )
            )
        except (aiohttp.ClientError, OSError, ValueError, click.ClickException) as problem:
            log = folder / "router.log"
            said = f"\nthe router's log:\n{log.read_text(errors='replace')[-4000:]}" if log.exists() else ""
            raise click.ClickException(f"{problem}{said}") from problem
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    demo()

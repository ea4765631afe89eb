"""`fairlead mock`: mock inference engines in one process, one line on standard output for each that listens.

A signal may arrive while the native loop runs without the interpreter, so the loop runs in short turns.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import click

from bench.mock.fleet import EngineSpec
from bench.native.engine import Engine, EngineLoop
from bench.native.fault import KINDS
from router.schema.engines import CLASSES

TURN_MS = 250  # longest wait before a signal is seen; the loop sleeps through it
CLASS_HELP = (
    f"One of {', '.join(CLASSES)}, instant (no timers), fixed:MS (every step takes that long), "
    "manual (steps only when a program asks)."
)
ENGINE_HELP = (
    'One engine, "class=8b-h100,speed=10,model=a;b,fault=slow:3"; also host=, port=, answer=, kv=, chunk= '
    "(tokens) and sequences=; repeatable."
)


def _specs(listen: str, count: int, engines: tuple[str, ...], default: EngineSpec) -> list[EngineSpec]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"--listen wants HOST:PORT, not {listen!r}")
    default = replace(default, host=host.strip("[]"))
    if engines:
        return [EngineSpec.parse(text, default) for text in engines]
    step = 1 if int(port) else 0  # port 0: a free one for each
    return [replace(default, port=int(port) + step * index) for index in range(count)]


def _hosted(spec: EngineSpec, loop: EngineLoop) -> Engine:
    try:
        return spec.add_to(loop)
    except OSError as problem:
        reason = problem.strerror or problem
        raise click.ClickException(f"cannot listen on {spec.host}:{spec.port}: {reason}") from problem


@click.command(epilog="Faults:\n\n\b\n" + "\n".join(f"{name:16} {text}" for name, text in KINDS.items()))
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="HOST:PORT, 0: a free port.")
@click.option("--count", default=1, show_default=True, help="Engines to run, at consecutive ports.")
@click.option("--model", "models", multiple=True, help="Model name served; repeatable.  [default: mock]")
@click.option("--class", "engine_class", default="8b-h100", show_default=True, help=CLASS_HELP)
@click.option("--speed", default=1.0, show_default=True, help="Times faster than the class; 0: no timers.")
@click.option("--fault", "faults", multiple=True, help="KIND[:ARG][@RATE]; repeatable, see below.")
@click.option("--answer-tokens", default=0, help="Natural length of an answer; 0: as long as allowed.")
@click.option("--engine", "engines", multiple=True, help=ENGINE_HELP)
def mock(
    *,
    listen: str,
    count: int,
    models: tuple[str, ...],
    engine_class: str,
    speed: float,
    faults: tuple[str, ...],
    answer_tokens: int,
    engines: tuple[str, ...],
) -> None:
    """Run mock inference engines: OpenAI, Anthropic and Ollama paths, vLLM metrics, faults on demand."""
    default = EngineSpec(
        engine_class=engine_class,
        speed=speed,
        models=models or ("mock",),
        faults=faults,
        answer_tokens=answer_tokens,
    )
    loop = EngineLoop()
    try:
        hosted = [_hosted(spec, loop) for spec in _specs(listen, count, engines, default)]
    except (ValueError, OverflowError) as problem:
        raise click.UsageError(str(problem)) from problem
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        loop.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for engine in hosted:
        print(f"READY {engine.url} class={engine.engine_class} model={';'.join(engine.models)}")
    sys.stdout.flush()
    while not stopped:
        loop.run_for(TURN_MS)
    loop.close()


if __name__ == "__main__":
    mock()

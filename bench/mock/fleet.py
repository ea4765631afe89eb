"""A fleet of mock engines run by one thread, for tests, the demo and benches.

`Fleet` owns a loop (`bench.native.engine.EngineLoop`) and a thread that runs it without the GIL. Engines
listen as soon as the fleet is made, so their addresses are known before it starts. Invariant: leaving the
context stops the thread before a socket is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Self

from bench.native.engine import Engine, EngineLoop
from bench.native.fault import KINDS


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What one mock engine is; as text `port=0,class=8b-h100,speed=10,model=a;b,fault=reset:3@0.1`."""

    host: str = "127.0.0.1"
    port: int = 0
    engine_class: str = "8b-h100"
    speed: float = 1.0  # times faster than the class; 0: answers at once
    models: tuple[str, ...] = ("mock",)
    faults: tuple[str, ...] = ()
    answer_tokens: int = 0  # natural length of an answer; 0: as long as the limit allows
    kv_tokens: int = 0  # of the KV cache; 0: the class's, as for the next two
    chunk_tokens: int = 0  # computed in one step
    sequences_max: int = 0  # running at once

    @classmethod
    def parse(cls, text: str, default: EngineSpec) -> EngineSpec:
        """The spec `text` describes, what it leaves out taken from `default`. Raises: ValueError."""
        values = {field.name: getattr(default, field.name) for field in fields(cls)}
        for part in filter(None, text.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"expected KEY=VALUE, not {part!r}")
            match key:
                case "host":
                    values["host"] = value
                case "port":
                    values["port"] = int(value)
                case "class":
                    values["engine_class"] = value
                case "speed":
                    values["speed"] = float(value)
                case "model":
                    values["models"] = tuple(value.split(";"))
                case "fault":
                    values["faults"] = tuple(value.split(";"))
                case "answer" | "kv" | "chunk":
                    values[f"{key}_tokens"] = int(value)
                case "sequences":
                    values["sequences_max"] = int(value)
                case _:
                    known = "host, port, class, speed, model, fault, answer, kv, chunk or sequences"
                    raise ValueError(f"unknown key {key!r}: {known}")
        return cls(**values)

    def add_to(self, loop: EngineLoop) -> Engine:
        """An engine that listens. Raises: ValueError for what it cannot be, OSError when it cannot listen."""
        for text in self.faults:
            _check_numbers(text)
        return loop.add(
            host=self.host,
            port=self.port,
            models=self.models,
            engine_class=self.engine_class,
            speed=self.speed,
            faults=",".join(self.faults),
            answer_tokens=self.answer_tokens,
            kv_tokens=self.kv_tokens,
            chunk_tokens=self.chunk_tokens,
            sequences_max=self.sequences_max,
        )


def _check_numbers(text: str) -> None:
    """Raises ValueError that names ARG or RATE where a known fault's is no number."""
    for fault in text.split(","):
        spec, has_rate, rate = fault.strip().partition("@")
        kind, has_argument, argument = spec.partition(":")
        for name, is_given, value in (("ARG", has_argument, argument), ("RATE", has_rate, rate)):
            try:
                is_number = not is_given or float(value) >= 0
            except ValueError:
                is_number = False
            if kind in KINDS and not is_number:
                raise ValueError(f"the fault {fault!r}: {name} must be a number from 0, not {value!r}")


class Fleet:
    """Mock engines in a thread of their own: `with Fleet([EngineSpec(speed=2)]) as fleet: fleet.urls`."""

    def __init__(self, specs: Iterable[EngineSpec]) -> None:
        self.loop = EngineLoop()
        try:
            self.engines = [spec.add_to(self.loop) for spec in specs]
        except BaseException:
            self.loop.close()
            raise
        self._thread = threading.Thread(target=self.loop.run, name="mock-engines", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.stop()
        self._thread.join()
        self.loop.close()

    @property
    def urls(self) -> list[str]:
        return [engine.url for engine in self.engines]

    def stats(self, index: int) -> dict[str, int]:
        """Counters of one engine, as /_mock/stats gives them."""
        return self.engines[index].stats()

    def set_fault(self, index: int, *faults: str) -> None:
        """Replace the faults of one engine, each KIND[:ARG][@RATE]; none clears. Raises: ValueError."""
        self.engines[index].set_faults(",".join(faults))

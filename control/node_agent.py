"""Tells the watts, limits and clocks of a machine's GPUs where no DCGM exporter does.

It asks NVML and answers in the names of NVIDIA's DCGM exporter, so that whoever reads one reads the other.
NVML is reached through the package nvidia-ml-py, which only this command needs. Drivers do hang: one thread
asks, one question at a time, and whoever comes meanwhile is told so after a while.

Invariant: a value that NVML does not have is left out and never 0. Neighbour: gpu_power.py (reads it).
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
from aiohttp import web

from router import limits
from router.schema.address import UnixAddress, parse_address

DEFAULT_LISTEN = "127.0.0.1:9400"  # the port of DCGM's exporter
FRESH_S = 0.25  # a page is told again for so long: however many ask, the driver is asked four times a second
PATIENCE_S = 1.0  # half of what a scraper waits by default

TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU of nvml.h

Nvml = Any  # the module `pynvml`; powers are in milliwatts, energy in millijoules
Handle = Any


class NvmlMissingError(Exception):
    """There is no NVML here; the text says what to do."""


Read = Callable[[Nvml, Handle], float]

METRICS: tuple[tuple[str, str, str, tuple[Read, ...]], ...] = (
    (
        "DCGM_FI_DEV_POWER_USAGE",
        "gauge",
        "Power draw (in W).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,),
    ),
    (
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        "gauge",
        "Power limit that is in force (in W).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,),
    ),
    (
        "DCGM_FI_DEV_POWER_MGMT_LIMIT",
        "gauge",
        "Power limit that was set (in W).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,),
    ),
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Energy since the driver was loaded (in mJ).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu),),
    ),
    (
        "DCGM_FI_DEV_GPU_UTIL",
        "gauge",
        "GPU utilization (in %).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,),
    ),
    (
        "DCGM_FI_DEV_GPU_TEMP",
        "gauge",
        "Temperature (in C).",
        (lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, TEMPERATURE_GPU),),
    ),
    (
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "gauge",
        "What holds the clocks back, as bits.",
        (
            lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
            lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),  # until driver 535
        ),
    ),
)
"""Name, type, help, and how NVML is asked: the first way that it knows."""


def load_nvml() -> Nvml:
    """Raises: NvmlMissingError."""
    try:
        nvml: Nvml = importlib.import_module("pynvml")
    except ImportError as exc:
        raise NvmlMissingError(
            "the package nvidia-ml-py is not installed: pip install nvidia-ml-py, or run DCGM's exporter"
        ) from exc
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        raise NvmlMissingError(f"NVML does not start: {exc}; is NVIDIA's driver loaded?") from exc
    return nvml


def write_page(nvml: Nvml) -> str:
    """All GPUs in the text format. Raises: nvml.NVMLError where not even their number is known."""
    gpus = [(index, *_identity(nvml, index)) for index in range(nvml.nvmlDeviceGetCount())]
    lines = []
    for name, kind, help_text, ways in METRICS:
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for index, handle, uuid, model in gpus:
            value = _ask(nvml, handle, ways) if handle is not None else None
            if value is not None:
                labels = f'gpu="{index}",UUID="{_escaped(uuid)}",modelName="{_escaped(model)}"'
                lines.append(f"{name}{{{labels}}} {value!r}")
    return "\n".join([*lines, ""])


class NodeAgent:
    """Serves `read`'s page at /metrics."""

    def __init__(
        self,
        read: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._read = read
        self._patience_s = patience_s
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "nvml")
        self._asking: asyncio.Future[str] | None = None
        self._asked_s = float("-inf")

    def app(self) -> web.Application:
        """To be run by aiohttp."""
        app = web.Application(client_max_size=limits.SCRAPE_LINE_BYTES_MAX)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, _: web.Request) -> web.Response:
        asking = self._asking
        if asking is None or (asking.done() and self._clock() - self._asked_s >= FRESH_S):
            asking = self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._asked_s = self._clock()
        await asyncio.wait((asking,), timeout=self._patience_s)
        if not asking.done():
            return web.Response(status=503, text="the driver does not answer\n")
        failure = asking.exception()
        if failure is not None:
            return web.Response(status=503, text=f"{type(failure).__name__}: {failure}\n")
        return web.Response(text=asking.result(), content_type="text/plain", charset="utf-8")


def _identity(nvml: Nvml, index: int) -> tuple[Handle | None, str, str]:
    """Handle, UUID and model; no handle: it has fallen off the bus."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return handle, _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError:
        return None, "", ""


def _ask(nvml: Nvml, handle: Handle, ways: tuple[Read, ...]) -> float | None:
    for way in ways:
        try:
            return float(way(nvml, handle))
        except (nvml.NVMLError, AttributeError):  # not of this GPU; not in this release of the package
            continue
    return None


def _text(value: str | bytes) -> str:
    """Older releases of the package tell bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@click.command("node-agent")
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    help="Where control asks: host:port, [v6]:port or unix:/path.",
)
def node_agent(listen: str) -> None:
    """Tell the power and clocks of this machine's NVIDIA GPUs, in the names of DCGM's exporter."""
    try:
        nvml = load_nvml()
        address = parse_address(listen)
    except (NvmlMissingError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    agent = NodeAgent(lambda: write_page(nvml))
    if isinstance(address, UnixAddress):
        web.run_app(agent.app(), path=address.path, access_log=None)
    else:
        web.run_app(agent.app(), host=address.host, port=address.port, access_log=None)


if __name__ == "__main__":
    node_agent()

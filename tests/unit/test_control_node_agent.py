"""The node agent with an NVML that is not there, or odd, or hangs."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from control.exposition import ExpositionReader
from control.gpu_power import GPU_WANTED, REASON_POWER_CAP, power_reading, read_gpus
from control.node_agent import FRESH_S, NodeAgent, NvmlMissingError, load_nvml, node_agent, write_page
from control.reading import Reading


class NvmlError(Exception):
    """What the fake raises for what a GPU has not."""


class FakeNvml:
    """Two GPUs in milliwatts; `without` names calls that they do not know, `lost` those that are gone."""

    NVMLError = NvmlError

    def __init__(
        self, *, without: tuple[str, ...] = (), lost: tuple[int, ...] = (), reasons: int = 0
    ) -> None:
        self.without = without
        self.lost = lost
        self.reasons = reasons

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.without:
            raise NvmlError(f"{name} is not supported")
        return super().__getattribute__(name)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise NvmlError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, gpu: int) -> bytes | str:
        return b"GPU-a" if gpu == 0 else "GPU-b"

    def nvmlDeviceGetName(self, _: int) -> str:
        return 'NVIDIA "H100"\\'

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 350_123 if gpu == 0 else 70_000

    def nvmlDeviceGetEnforcedPowerLimit(self, _: int) -> int:
        return 700_000

    def nvmlDeviceGetPowerManagementLimit(self, _: int) -> int:
        return 650_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _: int) -> int:
        return 123_456_789_012

    def nvmlDeviceGetUtilizationRates(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=87, memory=3)

    def nvmlDeviceGetTemperature(self, _: int, sensor: int) -> int:
        assert sensor == 0
        return 64

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: int) -> int:
        return self.reasons


def understood(page: str, *chosen: str) -> Reading:
    reader = ExpositionReader(GPU_WANTED)
    reader.feed(page.encode())
    return power_reading(read_gpus(reader.finish()), chosen)


def test_what_nvml_says_is_told_in_dcgms_names_and_read_back() -> None:
    page = write_page(FakeNvml())
    assert understood(page) == Reading(power=350.123 / 700, watts=420.123, gpu_use=0.87)
    assert understood(page, "GPU-b") == understood(page, "1") == Reading(power=0.1, watts=70, gpu_use=0.87)
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families["DCGM_FI_DEV_GPU_UTIL"].samples[0].labels == {
        "gpu": "0",
        "UUID": "GPU-a",
        "modelName": 'NVIDIA "H100"\\',
    }
    energy = families["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"].samples[0].value
    assert energy == pytest.approx(123_456_789_012, rel=1e-9)


def test_a_reason_under_its_older_name_is_told() -> None:
    assert understood(write_page(FakeNvml(reasons=REASON_POWER_CAP)), "1").power == 1.0


def test_what_a_gpu_has_not_is_left_out() -> None:
    page = write_page(FakeNvml(without=("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetUtilizationRates")))
    assert understood(page, "0") == Reading(power=350.123 / 650, watts=350.123)
    assert understood(write_page(FakeNvml(without=("nvmlDeviceGetPowerUsage",)))) == Reading(gpu_use=0.87)


def test_a_gpu_that_has_fallen_off_the_bus_leaves_the_others() -> None:
    assert understood(write_page(FakeNvml(lost=(0,)))) == Reading(power=0.1, watts=70, gpu_use=0.87)


def test_without_the_package_or_the_driver_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    result = CliRunner().invoke(node_agent, [])
    assert result.exit_code == 1
    assert "pip install nvidia-ml-py" in result.output
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(without=("nvmlInit",)))
    with pytest.raises(NvmlMissingError, match="driver"):
        load_nvml()


Ask = Callable[[], Awaitable[tuple[int, str]]]


def serve(agent: NodeAgent, case: Callable[[Ask], Awaitable[None]]) -> None:
    async def run() -> None:
        async with TestServer(agent.app()) as server, aiohttp.ClientSession() as session:

            async def ask() -> tuple[int, str]:
                async with session.get(server.make_url("/metrics")) as response:
                    return response.status, await response.text()

            await case(ask)

    asyncio.run(run())


def test_however_many_ask_the_driver_is_asked_once_in_a_while() -> None:
    now_s, asked = [100.0], [0]

    def read() -> str:
        asked[0] += 1
        return f"up {asked[0]}\n"

    async def case(ask: Ask) -> None:
        assert await asyncio.gather(*(ask() for _ in range(5))) == [(200, "up 1\n")] * 5
        now_s[0] += FRESH_S
        assert await ask() == (200, "up 2\n")

    serve(NodeAgent(read, clock=lambda: now_s[0]), case)


def test_a_driver_that_hangs_is_asked_no_second_time_and_heard_when_it_is_back() -> None:
    is_back, asked = threading.Event(), [0]

    def read() -> str:
        asked[0] += 1
        is_back.wait(20)
        return "up 1\n"

    async def case(ask: Ask) -> None:
        for _ in range(3):
            assert await ask() == (503, "the driver does not answer\n")
        assert asked == [1]
        is_back.set()
        while (await ask())[0] != 200:
            await asyncio.sleep(0.005)

    serve(NodeAgent(read, patience_s=0.01), case)


def test_a_driver_that_fails_is_a_503_with_its_reason() -> None:
    async def case(ask: Ask) -> None:
        assert await ask() == (503, "NvmlError: nvmlDeviceGetCount is not supported\n")

    serve(NodeAgent(lambda: write_page(FakeNvml(without=("nvmlDeviceGetCount",)))), case)

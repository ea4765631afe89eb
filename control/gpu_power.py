"""Watts, limits and use of GPUs, from what an exporter beside the engine says of them.

Three exporters, two sets of names: NVIDIA's DCGM exporter (port 9400), our own node agent, which uses the
same names, and Triton's. A node's page tells of all its GPUs; an endpoint's are chosen by index or UUID. The
limit is that which is enforced where it is told, else the one that was set. A GPU that is being slowed down
for power or heat is at its limit, whatever its watts are: an average over a second hides what held it back.

Invariant: as in reading.py. Neighbours: dialects.py (the engines' half), node_agent.py (writes such a page).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from control.exposition import Sample, Wanted
from control.reading import Reading, ratio

WATTS = ("DCGM_FI_DEV_POWER_USAGE", "nv_gpu_power_usage")
LIMIT_WATTS = ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "DCGM_FI_DEV_POWER_MGMT_LIMIT", "nv_gpu_power_limit")
USE = ("DCGM_FI_DEV_GPU_UTIL",)  # in per cent
USE_RATIO = ("nv_gpu_utilization",)
REASONS = ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")  # the second until 3.3

GPU_WANTED = Wanted((*WATTS, *LIMIT_WATTS, *USE, *USE_RATIO, *REASONS))

GPU_NAMES = frozenset(GPU_WANTED.names.values())

WATTS_MAX = 10_000.0  # of one GPU: the largest draw 1,400; beyond it are milliwatts

# nvmlClocksEventReasons of nvml.h: reasons that say "no more power" or "too hot"; idle clocks, application
# clocks and synchronous boost do not.
REASON_POWER_CAP = 0x4
REASON_HARDWARE_SLOWDOWN = 0x8
REASON_HOT = 0x20
REASON_HARDWARE_HOT = 0x40
REASON_POWER_BRAKE = 0x80
HELD_BACK = (
    REASON_POWER_CAP | REASON_HARDWARE_SLOWDOWN | REASON_HOT | REASON_HARDWARE_HOT | REASON_POWER_BRAKE
)


class Gpu(Struct, frozen=True, kw_only=True):
    """One GPU of a page."""

    index: str = ""
    uuid: str = ""
    watts: float | None = None
    limit_watts: float | None = None
    use: float | None = None
    is_held_back: bool = False

    @property
    def power(self) -> float | None:
        """Draw / limit; 1 where it is held back."""
        if self.is_held_back:
            return 1.0
        if self.watts is None or not self.limit_watts:
            return None
        return ratio(self.watts / self.limit_watts)


def read_gpus(samples: Iterable[Sample]) -> tuple[Gpu, ...]:
    """The GPUs of one page. Slices of one (MIG) tell the draw of the whole, and are one GPU here."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for sample in samples:
        if sample.name not in GPU_NAMES:
            continue
        labels = sample.labels
        gpu = (labels.get("gpu", ""), labels.get("UUID") or labels.get("gpu_uuid", ""))
        values = found.setdefault(gpu, {})
        values[sample.name] = max(sample.value, values.get(sample.name, sample.value))
    return tuple(_gpu(index, uuid, values) for (index, uuid), values in found.items())


def power_reading(gpus: Sequence[Gpu], chosen: Sequence[str] = ()) -> Reading:
    """What those of `chosen` (indexes or UUIDs; none: all) come to together."""
    mine = [gpu for gpu in gpus if not chosen or gpu.index in chosen or gpu.uuid in chosen]
    watts = [gpu.watts for gpu in mine if gpu.watts is not None]
    powers = [gpu.power for gpu in mine if gpu.power is not None]
    uses = [gpu.use for gpu in mine if gpu.use is not None]
    is_all_known = len(watts) == len(mine) and len(mine) >= len(chosen)
    return Reading(
        power=max(powers) if powers else None,
        watts=sum(watts) if watts and is_all_known else None,
        gpu_use=max(uses) if uses else None,
    )


def _gpu(index: str, uuid: str, values: dict[str, float]) -> Gpu:
    use = _first(values, USE)
    reasons = _first(values, REASONS)
    return Gpu(
        index=index,
        uuid=uuid,
        watts=_watts(_first(values, WATTS)),
        limit_watts=_watts(_first(values, LIMIT_WATTS)),
        use=ratio(_first(values, USE_RATIO) if use is None else use / 100),
        is_held_back=reasons is not None and 0 <= reasons < 1 << 32 and bool(int(reasons) & HELD_BACK),
    )


def _first(values: dict[str, float], names: tuple[str, ...]) -> float | None:
    return next((values[name] for name in names if name in values), None)


def _watts(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= WATTS_MAX else None

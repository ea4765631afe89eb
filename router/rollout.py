"""One configuration put in force on every worker, or on none.

    check ─► assign slots ─► Prepare on all ─► (decided) ─► Activate on all ─► certificate files watched

A canary beside it comes and goes with it, in the same step.

Invariant: what is refused, by a check or by a worker, leaves the old configuration untouched everywhere; from
the moment all have prepared, a worker that starts has the new one. Whoever calls `apply` does so one at a
time. Neighbours: supervisor.py (owns one, and says when), worker_process.py (a worker), shared_state.py
(slots), tls_watch.py (certificates).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from router import limits, wire
from router.config import redacted
from router.pieces import Pieces, take_apart
from router.schema.config import Config
from router.shared_state import Places, SharedState
from router.slots import SlotsExhausted
from router.snapshot import build_tables
from router.tls_watch import TlsFiles, TlsUser, TlsWatch, check_files, tls_files
from router.worker_process import WorkerProcess

logger = logging.getLogger("fairlead.supervisor")


class Canary(Struct, frozen=True, kw_only=True):
    """A second configuration, for a share of the sessions."""

    config: Config
    label: int
    ratio: float

    def describe(self) -> dict[str, Any]:
        """For /debug/config, secrets masked."""
        return {"label": self.label, "ratio": self.ratio, "config": redacted(self.config)}


class InForce(Struct, frozen=True, kw_only=True):
    """A configuration with what workers need to serve it."""

    config: Config
    version: int = 1  # counts what this process has put in force
    label: int = 0  # what whoever applied it calls it; 0 for a file
    tables: Pieces = Pieces(frame=b"", endpoints=[])
    slots: dict[str, int] = {}
    routes: dict[str, int] = {}
    canary: Canary | None = None
    canary_slots: dict[str, int] = {}
    canary_plan: wire.CanaryPlan | None = None
    applied_ms: float = 0.0  # from `apply` until every worker picked under it
    longest_step_us: int = 0  # that it kept a worker's loop, in CPU time


class Rollout:
    """What is in force, and how the next one comes to be. `workers` is the supervisor's own list."""

    def __init__(
        self,
        config: Config,
        workers: Sequence[WorkerProcess],
        *,
        label: int = 0,
        canary: Canary | None = None,
    ) -> None:
        self.in_force = InForce(config=config, label=label, canary=canary)
        self._workers = workers
        self._tls_watch = TlsWatch(self._on_tls_change)

    def begin(self, shared: SharedState) -> None:
        """Makes the first configuration ready for workers that start. Raises: ValueError, SlotsExhausted."""
        config = self.in_force.config
        files = _watched_files(config, self.in_force.canary)
        new_files = self._tls_watch.new_among(files)
        _check_listeners(config, files)
        self.in_force = _built(self.in_force, *_places(self.in_force, shared))
        self._tls_watch.watch(files, new_files)

    async def apply(
        self, config: Config, shared: SharedState, *, label: int = 0, canary: Canary | None = None
    ) -> str:
        """Puts a consistent `config`, and `canary` beside it, in force on all workers, or on none: why not,
        or nothing.
        """
        began_s = time.monotonic()
        old = self.in_force
        fixed = _needs_restart(old.config, config)
        if fixed:
            return f"{', '.join(fixed)}: cannot change in a running process; use `fairlead upgrade`"
        files = _watched_files(config, canary)
        new_files = self._tls_watch.new_among(files)  # before anybody loads them
        changed = {
            user: named
            for user, named in files.items()
            if not user.endpoint
            and old.config.listeners[user.listener_index].tls != config.listeners[user.listener_index].tls
        }
        try:
            _check_listeners(config, changed)
            new = InForce(config=config, version=old.version + 1, label=label, canary=canary)
            places = _places(new, shared)
            # 50 ms for 1,000 endpoints, in which the supervisor goes on listening to its workers.
            new = await asyncio.to_thread(_built, new, *places)
        except (SlotsExhausted, ValueError) as exc:
            return str(exc)
        refusal = await self._prepare(
            wire.Prepare(
                version=new.version,
                drain_deadline_ms=config.drain.deadline_ms,
                tables=new.tables,
                canary=new.canary_plan,
            )
        )
        if refusal:
            _places(old, shared)
            return refusal
        self.in_force = new  # It is decided: a worker that dies now starts again with the new version.
        steps_us = await asyncio.gather(
            *(self._activate(worker, new.version) for worker in self._workers if worker.is_alive)
        )
        self.in_force = structs.replace(
            new,
            applied_ms=round((time.monotonic() - began_s) * 1000, 3),
            longest_step_us=max(steps_us, default=0),
        )
        self._tls_watch.watch(files, new_files)
        for user, named in changed.items():
            self._on_tls_change(user, named)
        return ""

    async def watch_files(self) -> None:
        """Passes certificate files on that change, until cancelled."""
        await self._tls_watch.run()

    async def _prepare(self, frame: wire.Prepare) -> str:
        """Phase one on all workers: the first refusal, or nothing."""
        workers = [worker for worker in self._workers if worker.is_alive]
        try:
            async with asyncio.timeout(limits.RELOAD_TIMEOUT_MS / 1000):
                refusals = await asyncio.gather(*(worker.prepare(frame) for worker in workers))
        except TimeoutError:
            refusals = ["not every worker prepared the configuration in time"]
        refusal = next(filter(None, refusals), "")
        if refusal:
            for worker in workers:
                worker.tell(wire.Abort(version=frame.version))
        return refusal

    async def _activate(self, worker: WorkerProcess, version: int) -> int:
        try:
            async with asyncio.timeout(limits.RELOAD_TIMEOUT_MS / 1000):
                return await worker.activate(version)
        except TimeoutError:
            logger.error(
                "worker %d does not answer; it is replaced by one that has version %d", worker.index, version
            )
            worker.restart()
            return 0

    def _on_tls_change(self, user: TlsUser, files: TlsFiles) -> None:
        frame: wire.AnyFrame
        if user.endpoint:
            frame = wire.RenewEndpointTls(endpoint=user.endpoint)
        else:
            tls = self.in_force.config.listeners[user.listener_index].tls
            assert tls is not None
            frame = wire.SetTls(
                listener_index=user.listener_index,
                certificate=files.certificate,
                key=files.key,
                min_version=tls.min_version.value,
            )
        for worker in self._workers:
            worker.tell(frame)


def _watched_files(config: Config, canary: Canary | None) -> dict[TlsUser, TlsFiles]:
    """Of stable and canary; of an endpoint that both name, the stable's."""
    return {**(tls_files(canary.config) if canary is not None else {}), **tls_files(config)}


def _places(new: InForce, shared: SharedState) -> tuple[Places, Places | None]:
    """For stable and canary. Raises: SlotsExhausted."""
    if new.canary is None:
        return shared.assign(new.config, new.label), None
    return shared.assign_both(new.config, new.label, new.canary.config, new.canary.label)


def _built(new: InForce, stable: Places, beside: Places | None) -> InForce:
    """The same with what workers are sent. Raises: ValueError for what no worker could build."""
    plan, canary = None, new.canary
    if canary is not None and beside is not None:
        tables = take_apart(build_tables(canary.config, beside.slots, beside.routes, canary.label))
        plan = wire.CanaryPlan(ratio=canary.ratio, tables=tables)
    return structs.replace(
        new,
        tables=take_apart(build_tables(new.config, stable.slots, stable.routes, new.label)),
        slots=stable.slots,
        routes=stable.routes,
        canary_slots={} if beside is None else beside.slots,
        canary_plan=plan,
    )


def _check_listeners(config: Config, files: Mapping[TlsUser, TlsFiles]) -> None:
    """Raises: ValueError for a listener whose certificate cannot be used. Workers judge an endpoint's."""
    for user, named in files.items():
        if user.endpoint:
            continue
        try:
            check_files(named)
        except OSError as exc:
            address = config.listeners[user.listener_index].address
            raise ValueError(f"listener {address}: cannot use {named} ({exc.strerror or exc})") from exc


def _needs_restart(old: Config, new: Config) -> list[str]:
    """The settings that differ and that a process has only one of."""
    fixed: dict[str, Callable[[Config], object]] = {
        "listeners": lambda config: [(entry.address, entry.tls is None) for entry in config.listeners],
        "admin.address": lambda config: config.admin.address,
        "workers": lambda config: config.workers,
        "limits": lambda config: config.limits,
        "timeouts.head_ms, .keep_alive_ms, .tls_ms or .upstream_idle_ms": lambda config: (
            config.timeouts.head_ms,
            config.timeouts.keep_alive_ms,
            config.timeouts.tls_ms,
            config.timeouts.upstream_idle_ms,
        ),
        "trusted_proxies": lambda config: config.trusted_proxies,
        "prefixes.table_bytes": lambda config: config.prefixes.table_bytes,
        "access_log": lambda config: config.access_log,
        "runtime_dir": lambda config: config.runtime_dir,
        "control": lambda config: config.control,
    }
    return [name for name, read in fixed.items() if read(old) != read(new)]

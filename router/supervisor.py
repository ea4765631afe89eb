"""The supervisor: holds the listening sockets and the shared tables, keeps N workers running, and changes
them without a gap.

No traffic passes here, so this loop answers when the workers are busy. Its life: open sockets → start workers
→ ready → (other configurations, certificates, a successor) → drain → exit. Invariant: one configuration at a
time is put in force, whoever asks. Neighbours: rollout.py (how), worker_process.py (one worker),
shared_state.py (tables), takeover.py (control socket), admin.py (what is seen from outside), app.py (puts it
together).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from router import metrics, sdnotify, wire
from router.build_info import package_version
from router.config import ConfigError, load_config, redacted
from router.endpoint_view import describe_endpoints
from router.explain_view import describe_decisions
from router.listeners import Listener, open_listener, sockets_from_systemd
from router.native.explain import ExplainRing
from router.received_policy import Policy, ReceivedPolicies
from router.reporter import build_report
from router.rollout import Canary, Rollout
from router.schema.config import Config
from router.schema.control_link import ControlLink
from router.schema.link import Report
from router.schema.listening import Listener as ListenerSettings
from router.schema.secret import Secret
from router.shared_state import SharedState
from router.slots import SlotsExhausted
from router.snapshot import CoreOptions
from router.subscriber import Subscriber, Told
from router.takeover import ControlServer, Predecessor, TakeoverError, control_path
from router.worker_process import Plan, WorkerProcess, WorkerState, worker_command

WATCH_S = 1.0  # between looks at heartbeats
WATCH_LATE_S = 3.0  # a look this late means that we were stopped ourselves: heartbeats wait unread
START_FAILURES_MAX = 3  # of one worker before the first is ready: then the start has failed
# An idle client gets this long to send one more request and be told `Connection: close`: closing under its
# feet would fail that request. On exit somebody waits for us; a successor lets us take our time.
IDLE_GRACE_MS = 1_000
IDLE_GRACE_TAKEOVER_MS = 5_000
CUT_S = 2.0  # from the fast exit's first word to SIGKILL

logger = logging.getLogger("fairlead.supervisor")


class StartError(Exception):
    """The router cannot start; the message says why and what to do."""


class Supervisor:
    """One generation of the router, from its sockets to its exit."""

    def __init__(
        self,
        config: Config,
        *,
        policy: Policy | None = None,
        config_path: Path | None = None,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """`config` is what the router's own file says; a `policy` of control's goes before what is in it."""
        self.started_at = time.time()
        self.traffic_addresses: list[str] = []
        self.admin_address = ""
        self._config_path = config_path
        self._command = list(command) if command is not None else worker_command()
        self._arguments = list(arguments)
        self._listeners: list[Listener] = []
        self._admin: Listener | None = None
        self._shared: SharedState | None = None
        self._workers: list[WorkerProcess] = []
        self._own_config = config
        self._policy = policy
        first, label, canary = _wanted(policy, config)
        self._rollout = Rollout(first, self._workers, label=label, canary=canary)
        self._subscriber: Subscriber | None = None
        self._control: ControlServer | None = None
        self._changed = asyncio.Event()  # a worker's state
        self._stop = asyncio.Event()  # first signal, or a successor
        self._hurry = asyncio.Event()  # second signal
        self._is_ready = False
        self._is_draining = False
        self._handed_over = False
        self._stop_signalled = False
        self._applying = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reload_failure = ""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._rollout.in_force.config

    # ---- start

    def open_sockets(self, predecessor: Predecessor | None = None) -> Listener:
        """Listens on every configured address and makes the shared tables; returns the admin listener.

        Raises: ListenError.
        """
        if predecessor is not None:
            self._shared = SharedState.inherit(predecessor.offer, predecessor.table_fds, self.config)
        else:
            self._shared = SharedState.create(self.config)
        inherited = predecessor.sockets if predecessor is not None else sockets_from_systemd()
        for listener in self.config.listeners:
            sockets = inherited.pop(listener.address, [])
            self._listeners.append(open_listener(listener.address, self.config.workers, sockets))
        address = self.config.admin.address
        if predecessor is not None:
            admin_sockets, predecessor.admin_sockets = predecessor.admin_sockets, []
        else:
            admin_sockets = inherited.pop(address, [])
        self._admin = open_listener(address, 1, admin_sockets)
        for left_over in (sock for socks in inherited.values() for sock in socks):
            left_over.close()
        self.traffic_addresses = [listener.bound_address for listener in self._listeners]
        self.admin_address = self._admin.bound_address
        return self._admin

    async def start(self) -> None:
        """Starts the workers and returns when all accept. Raises: StartError."""
        assert self._shared is not None
        try:
            self._rollout.begin(self._shared)
        except (SlotsExhausted, ValueError) as exc:
            raise StartError(f"the configuration cannot be served: {exc}") from exc
        self._workers += [
            WorkerProcess(
                index,
                column,
                tables=self._shared,
                plan=self._plan,
                command=self._command,
                on_change=self._changed.set,
            )
            for index, column in enumerate(self._shared.columns)
        ]
        self._spawn(self._watch_workers())
        while not all(worker.state is WorkerState.READY for worker in self._workers):
            for worker in self._workers:
                if worker.restart_count and (worker.failure or worker.restart_count >= START_FAILURES_MAX):
                    raise StartError(
                        f"worker {worker.index} cannot start: {worker.failure or 'see its messages above'}"
                    )
            if self._stop.is_set():
                raise StartError("told to stop while starting")
            self._changed.clear()
            await self._changed.wait()

    async def open_control(self, *, replaces: bool) -> None:
        """Opens the control socket, in the place of the predecessor's when it `replaces` one.

        Raises: TakeoverError.
        """
        path = control_path(self.config, self.admin_address)
        self._control = ControlServer(path, self)
        await self._control.open(replaces=replaces)

    async def take_over(self, predecessor: Predecessor) -> None:
        """Tells the predecessor to drain, now that our workers accept; settles its columns as they end.

        Raises: TakeoverError.
        """
        pid_by_column = await predecessor.take_over()
        assert self._shared is not None
        self._shared.settle_when_gone(pid_by_column)
        sdnotify.notify(f"MAINPID={os.getpid()}")

    def announce(self) -> None:
        """Ready: says so to the log, to systemd and to /readyz."""
        self._is_ready = True
        self._spawn(self._rollout.watch_files())
        if self._subscriber is not None:
            self._spawn(self._subscriber.run())
        interval_s = sdnotify.watchdog_interval_s()
        if interval_s is not None:
            self._spawn(_feed_watchdog(interval_s))
        places = f"traffic {', '.join(self.traffic_addresses)}; admin {self.admin_address}"
        sdnotify.notify("READY=1", f"STATUS={places}")
        logger.info("ready: %s; %d workers", places, len(self._workers))

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT drain (twice: exit fast), SIGHUP reloads, SIGUSR1 reopens the access log."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)

    def _plan(self, index: int) -> Plan:
        """What worker `index` serves when it starts now."""
        listeners = [
            wire.WorkerListener(
                fd=sock.fileno(),
                listener_index=listener_index,
                tls=_tls_of(settings),
            )
            for listener_index, (listener, settings) in enumerate(
                zip(self._listeners, self.config.listeners, strict=True)
            )
            for sock in (listener.share(index, self.config.workers) if listener.sockets else ())
        ]
        now = self._rollout.in_force
        return Plan(
            version=now.version,
            options=CoreOptions.of(now.config),
            access_log=now.config.access_log,
            drain_deadline_ms=now.config.drain.deadline_ms,
            tables=now.tables,
            canary=now.canary_plan,
            listeners=listeners,
        )

    async def _watch_workers(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = loop.time() + WATCH_S
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            if now - due < WATCH_LATE_S:
                for worker in self._workers:
                    worker.watch(now)
            if self._shared is not None:
                self._shared.tend()

    # ---- end

    async def stopped(self) -> None:
        """Returns when the router is to end: a signal, or a successor that is ready."""
        await self._stop.wait()

    async def drain(self, close_admin: Callable[[], Awaitable[None]]) -> None:
        """Fails readiness, waits for balancers to see it, then lets every stream finish up to the deadline.

        A successor answers the admin port at once; without one it is answered to the end.
        """
        self._is_draining = True
        drain = self.config.drain
        if self._handed_over:
            await close_admin()
        else:
            sdnotify.notify("STOPPING=1")
            if drain.propagation_ms:
                logger.info("draining: /readyz fails; still accepting for %d ms", drain.propagation_ms)
                await _wait(self._hurry, drain.propagation_ms / 1000)
        # Our copies first: while one of us holds a socket the kernel goes on queueing connections for it.
        for listener in self._listeners:
            listener.close()
        ended = asyncio.ensure_future(self._workers_ended())
        if not self._hurry.is_set():
            logger.info("draining: no new connections; open streams have %d ms", drain.deadline_ms)
            self._drain_workers()
            hurry = asyncio.ensure_future(self._hurry.wait())
            # The workers keep the deadline themselves; one that does not is killed a little later.
            timeout_s = drain.deadline_ms / 1000 + CUT_S
            await asyncio.wait([ended, hurry], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if not ended.done():
            await self._cut()
        await ended
        if self._control is not None:
            await self._control.close()
        for task in list(self._tasks):
            task.cancel()
        await close_admin()
        logger.info("stopped")

    async def abandon(self) -> None:
        """Stops what a failed start has begun."""
        await self._cut()
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            task.cancel()

    def _drain_workers(self) -> None:
        deadline_ms = self.config.drain.deadline_ms
        grace_ms = IDLE_GRACE_TAKEOVER_MS if self._handed_over else IDLE_GRACE_MS
        for worker in self._workers:
            worker.drain(deadline_ms, min(grace_ms, deadline_ms))

    async def _cut(self) -> None:
        """The fast exit: open streams are reset, then whatever is left is killed."""
        for worker in self._workers:
            worker.drain(0, 0)
        ended = asyncio.ensure_future(self._workers_ended())
        done, _ = await asyncio.wait([ended], timeout=CUT_S)
        if not done:
            for worker in self._workers:
                worker.kill()
            await ended

    async def _workers_ended(self) -> None:
        for worker in self._workers:
            await worker.ended()

    def _on_stop_signal(self, name: str) -> None:
        if self._stop_signalled:
            logger.info("%s: exiting at once", name)
            self._hurry.set()
        else:
            logger.info("%s: draining", name)
        self._stop_signalled = True
        self._stop.set()
        self._changed.set()

    def _reopen_logs(self) -> None:
        for worker in self._workers:
            worker.tell(wire.ReopenLog())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the supervisor failed at something; it goes on", exc_info=task.exception())

    # ---- another configuration

    async def reload(self) -> wire.ReloadAnswer:
        """Loads the configuration file again and puts it in force on all workers, or on none."""
        async with self._applying:
            sdnotify.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self._reload_failure = refusal = await self._reload()
            sdnotify.notify("READY=1")
        version = self._rollout.in_force.version
        if refusal:
            logger.error("reload refused, version %d stays in force: %s", version, refusal)
            return wire.ReloadAnswer(ok=False, message=refusal, version=version)
        logger.info("reloaded: version %d is in force", version)
        return wire.ReloadAnswer(ok=True, message=f"version {version} is in force", version=version)

    async def apply(self, config: Config, *, label: int = 0, canary: Canary | None = None) -> str:
        """Puts `config`, as config.py makes it, in force on all workers, or on none: why not, or nothing.

        `label` is what whoever applies it calls it, shown with it; `canary` is for a share of the sessions.
        """
        async with self._applying:
            return await self._apply(config, label, canary)

    async def _reload(self) -> str:
        if not self._may_apply():
            return "the router is starting or draining"
        if self._config_path is None:
            return "the router was started without --config: there is no file to load again"
        loop = asyncio.get_running_loop()
        try:
            config = await loop.run_in_executor(None, load_config, self._config_path)
        except ConfigError as exc:
            return str(exc)
        refusal = await self._apply(*_wanted(self._policy, config))
        if not refusal:
            self._own_config = config
        return refusal

    async def _apply(self, config: Config, label: int, canary: Canary | None) -> str:
        if self._shared is None or not self._may_apply():
            return "the router is starting or draining"
        return await self._rollout.apply(config, self._shared, label=label, canary=canary)

    def _may_apply(self) -> bool:
        return self._is_ready and not self._is_draining

    # ---- control (subscriber.Subject)

    def subscribe(self, received: ReceivedPolicies, settings: ControlLink, name: str) -> None:
        """Has control believed, from `announce` on."""
        self._subscriber = Subscriber(settings, name, received, self, worker_count=self._own_config.workers)

    @property
    def own_config(self) -> Config:
        """What the router's own file says."""
        return self._own_config

    async def put_in_force(self, policy: Policy) -> str:
        """Why a policy of control's is not in force on every worker, or nothing."""
        async with self._applying:
            refusal = await self._apply(*_wanted(policy, self._own_config))
            if not refusal:
                self._policy = policy
        return refusal

    def tell_signals(self, told: Iterable[Told]) -> None:
        """What control says of endpoints."""
        if self._shared is not None:
            self._shared.tell(told, "control")

    def report(self) -> Report:
        """What the routes and endpoints have counted so far."""
        assert self._shared is not None
        shared, now = self._shared, self._rollout.in_force
        return build_report(
            shared.metrics,
            shared.load,
            shared.tables.signals,
            slots=now.slots,
            routes=shared.configured_routes(),
            sequence=0 if self._policy is None else self._policy.sequence,
            uptime_ms=int((time.time() - self.started_at) * 1000),
        )

    def describe_control(self) -> dict[str, Any]:
        """How the link to control stands."""
        if self._subscriber is None:
            return {"configured": False}
        state = self._subscriber.describe()
        return {
            "configured": True,
            "address": state.address,
            "connected": state.is_connected,
            "for_ms": int((time.monotonic() - state.since_s) * 1000),
            "control": state.control,
            "failure": state.failure,
            "sequence": state.sequence,
            "snapshot": state.snapshot_id,
            "version": self._rollout.in_force.label,
            "refusal": state.refusal,
        }

    # ---- a successor (takeover.Successor)

    def offer_takeover(self) -> tuple[wire.TakeoverOffer, list[int]]:
        """What the next generation needs to start beside this one, and the descriptors in order."""
        if self._shared is None or not self._is_ready or self._is_draining or self._admin is None:
            raise TakeoverError("the running router is starting or draining; try again later")
        shared = self._shared
        sockets: list[wire.InheritedSocket] = []
        fds: list[int] = []
        for listener in self._listeners:
            for sock in listener.sockets:
                sockets.append(wire.InheritedSocket(address=listener.address))
                fds.append(sock.fileno())
        for sock in self._admin.sockets:
            sockets.append(wire.InheritedSocket(address=self._admin.address, is_admin=True))
            fds.append(sock.fileno())
        offer = wire.TakeoverOffer(
            pid=os.getpid(),
            sockets=sockets,
            column_count=shared.load.column_count,
            columns_in_use=sorted({*shared.columns, *shared.writers}),
            endpoints=shared.dump(shared.endpoints),
            routes=shared.dump(shared.routes),
        )
        return offer, [*fds, *shared.table_fds]

    def hand_over(self) -> dict[int, int]:
        """The successor serves: stop. The processes that still write, by column."""
        self._handed_over = True
        self._is_draining = True
        assert self._shared is not None
        writers = self._shared.leave()
        writers |= {worker.column: worker.pid for worker in self._workers if worker.pid is not None}
        self._drain_workers()  # None is restarted from here on: the columns are the successor's to settle.
        self._stop.set()
        logger.info("a successor has taken over")
        return writers

    def upgrade_plan(self) -> wire.UpgradePlan:
        """How this process was started."""
        return wire.UpgradePlan(pid=os.getpid(), arguments=self._arguments, working_directory=os.getcwd())

    # ---- seen from outside (admin.Status)

    def readiness(self, require_backend: bool) -> list[str]:
        """Why traffic should not come here now; nothing when it should."""
        reasons = []
        if self._is_draining:
            reasons.append("draining")
        elif not self._is_ready:
            reasons.append("starting")
        if not any(worker.state is WorkerState.READY for worker in self._workers):
            reasons.append("no worker is ready")
        if not self.config.pools:
            reasons.append("no policy: control has sent none yet")
        if require_backend and not self._any_endpoint_alive():
            reasons.append("every endpoint is ejected")
        return reasons

    def _any_endpoint_alive(self) -> bool:
        now_us = time.monotonic_ns() // 1000
        return self._shared is not None and any(
            not self._shared.load.is_ejected(slot, now_us) for slot in self._rollout.in_force.slots.values()
        )

    def admin_token(self) -> Secret | None:
        return self.config.admin.token

    def render_metrics(self) -> bytes:
        """The Prometheus page."""
        assert self._shared is not None
        now = self._rollout.in_force
        facts = metrics.Facts(
            routes=self._shared.routes.names(),
            endpoints=self._shared.endpoints.names(),
            now_us=time.monotonic_ns() // 1000,
            config_version=now.version,
            policy_version=now.label,
            canary_version=None if now.canary is None else now.canary.label,
            canary_ratio=0.0 if now.canary is None else now.canary.ratio,
            build_version=package_version(),
        )
        return metrics.render(self._shared.metrics, self._shared.load, self._shared.tables.signals, facts)

    def describe_config(self) -> dict[str, Any]:
        """The configuration in force, secrets masked."""
        now = self._rollout.in_force
        return {
            "version": now.version,
            "label": now.label,
            "applied_ms": now.applied_ms,
            "longest_step_us": now.longest_step_us,
            "reload_failure": self._reload_failure,
            "config": redacted(now.config),
            **({} if now.canary is None else {"canary": now.canary.describe()}),
        }

    def describe_workers(self) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        return [worker.describe(now) for worker in self._workers]

    async def describe_pools(self) -> list[dict[str, Any]]:
        """Upstream connections per worker, as the cores see them."""
        answers = await asyncio.gather(*(worker.query("pools") for worker in self._workers))
        return [{"worker": index, **row} for index, rows in enumerate(answers) for row in rows]

    def explain(self, request_id: str) -> list[dict[str, Any]]:
        """The recorded decisions for a request, newest first."""
        return self._described(lambda ring: ring.find(request_id))

    def explain_latest(self, count: int) -> list[dict[str, Any]]:
        """The last decisions that were recorded, newest first."""
        return self._described(lambda ring: ring.latest(count))

    def _described(self, read: Callable[[ExplainRing], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        shared = self._shared
        if shared is None:
            return []
        endpoints, routes = shared.endpoints.names(), shared.routes.names()
        return describe_decisions(read(shared.tables.explained), endpoints=endpoints, routes=routes)

    def describe_endpoints(self) -> list[dict[str, Any]]:
        """One row per configured endpoint, from the shared tables: no worker is asked."""
        shared, now = self._shared, self._rollout.in_force
        if shared is None:
            return []
        tables = shared.load, shared.metrics, shared.tables.signals
        rows = describe_endpoints(now.config, now.slots, *tables)
        if now.canary is not None:  # beside them what only the canary reaches
            own = describe_endpoints(now.canary.config, now.canary_slots, *tables)
            rows += [{**row, "variant": "canary"} for row in own if row["slot"] not in now.slots.values()]
        return rows


def _wanted(policy: Policy | None, own: Config) -> tuple[Config, int, Canary | None]:
    """What a router is to have in force whose own file says `own`: configuration, label, canary."""
    if policy is None:
        return own, 0, None
    beside, canary = policy.canary_config(own), None
    if beside is not None and policy.canary is not None:
        canary = Canary(config=beside, label=policy.canary.version, ratio=policy.canary_ratio)
    return policy.stable_config(own), policy.stable.version, canary


def _tls_of(listener: ListenerSettings) -> tuple[str, str, str] | None:
    tls = listener.tls
    return None if tls is None else (tls.cert, tls.key, tls.min_version.value)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def _feed_watchdog(interval_s: float) -> None:
    while True:
        sdnotify.notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)

"""The composition root: puts a control together from its parts, and runs it until it is told to stop.

    store ─► versions ─► publisher ─► link ══► routers
              ▲    ▲          └─► fleet watch ─┘ signals
    operators ┘    └─ guard ◄────── reports ───┘

Invariant: whatever fails here, routers go on with what they have; a store that takes no changes does not
end control. Neighbours: each part; run_cli.py (starts it).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from pathlib import Path

from control.api.live_operations import LiveOperations
from control.api.policy_operations import PolicyOperations
from control.api.server import ApiServer
from control.canary_watch import CanaryWatch
from control.fleet_watch import FleetWatch
from control.link import LinkServer, RouterLink
from control.publish import Publisher, SnapshotTooLargeError, Standing
from control.settings import ControlSettings, ServerTls
from control.signing import KeyFileError, Signer, load_signer
from control.sqlite_store import SqliteStore, StoreFileError
from control.store import StoreUnavailableError
from control.supervision import Supervision
from control.tokens import Guard
from control.versions import Versions
from router.runtime_folder import RuntimeFolderError
from router.schema import link

STORE_RETRY_S = 2.0

logger = logging.getLogger("fairlead.control")


class ControlStartError(Exception):
    """Control cannot start; the message says why and what to do."""


class Control:
    """One control process."""

    def __init__(self, settings: ControlSettings, signer: Signer | None) -> None:
        self._settings = settings
        self._store = SqliteStore(settings.store_path())
        self._versions = Versions(self._store, on_change=self._on_change)
        self._publisher = Publisher(signer)
        self._tasks = Supervision()
        self._server = LinkServer(
            name=settings.name,
            token=settings.link.token,
            on_hello=self._on_hello,
            on_report=self._on_report,
            on_ack=self._on_ack,
            on_bye=self._on_bye,
        )
        self._watch = FleetWatch(settings.health, settings.scrape, self._server, self._tasks)
        self._guard = CanaryWatch(settings.guard, self._versions)
        policy = PolicyOperations(
            self._versions,
            self._store,
            standing=self.standing,
            applied=self._until_applied,
            verdict=lambda: self._guard.verdict,
            facts=self._watch.facts,
        )
        live = LiveOperations(
            name=settings.name,
            public_key="" if signer is None else signer.public_key,
            store=self._store,
            versions=self._versions,
            server=self._server,
            tasks=self._tasks,
            standing=self.standing,
        )
        self._api = ApiServer([*policy.table(), *live.table()], Guard(settings.api.tokens))
        self._is_due = asyncio.Event()  # what is desired may differ from what was published
        self._acked = asyncio.Condition()
        self._seen_sequence = 0  # the highest that a router has told of
        self._notices: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Takes the store, publishes what is desired, and listens. Raises: ControlStartError."""
        try:
            await self._store.open(on_wait=self._waiting)
            await self._versions.load()
            self._tasks.start("publish", self._publish)
            self._watch.start()
            self._tasks.start("guard", self._guard.run)
            self._is_due.set()
            for address in self._settings.link_addresses():
                await self._server.listen(address, _context(address, self._settings.link.tls))
            for address in self._settings.api_addresses():
                await self._api.listen(address, _context(address, self._settings.api.tls))
        except (StoreFileError, StoreUnavailableError, RuntimeFolderError, OSError) as exc:
            await self.close()
            raise ControlStartError(str(exc)) from exc
        logger.info(
            "ready: routers connect to %s; operators to %s",
            ", ".join(self._server.addresses),
            ", ".join(self._api.addresses),
        )

    async def close(self) -> None:
        """Ends it; routers go on with what they have."""
        await self._api.close()
        await self._tasks.close()
        await self._server.close()
        await self._store.close()

    def standing(self) -> Standing:
        """How far the newest snapshot has come."""
        latest = self._publisher.latest
        sequence = 0 if latest is None else latest.sequence
        routers = self._server.routers
        return Standing(
            sequence=sequence,
            snapshot_id="" if latest is None else latest.snapshot_id,
            applied_count=sum(router.sequence == sequence for router in routers),
            connected_count=len(routers),
        )

    # ---- what is desired → what is published

    def _on_change(self) -> None:
        self._is_due.set()

    async def _publish(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            desired = self._versions.desired()
            if desired is None:
                continue
            latest = self._publisher.latest
            is_behind = latest is not None and latest.sequence < self._seen_sequence
            try:
                body = self._publisher.body_of(desired)
                if body is None and not is_behind:
                    continue
                sequence = await self._store.next_sequence(self._seen_sequence)
            except SnapshotTooLargeError as exc:
                logger.error("version %d is not published: %s", desired.stable_version, exc)
                continue
            except StoreUnavailableError as exc:
                logger.error("nothing is published: %s", exc)
                await asyncio.sleep(STORE_RETRY_S)
                self._is_due.set()
                continue
            self._server.publish(self._publisher.publish(body, sequence))
            self._watch.look_at(desired)
            await self._notice()  # whoever waits for routers, and there are none
            logger.info("sequence %d: version %d is published", sequence, desired.stable_version)

    def _on_hello(self, router: RouterLink) -> None:
        if router.hello.sequence > self._seen_sequence:
            self._seen_sequence = router.hello.sequence
            self._is_due.set()

    def _on_report(self, router: RouterLink, report: link.Report) -> None:
        self._watch.take_report(router, report)
        self._guard.take_report(router, report)

    def _on_bye(self, router: RouterLink) -> None:
        self._watch.forget_router(router)
        self._guard.forget_router(router)

    def _on_ack(self, router: RouterLink, ack: link.Ack) -> None:
        if ack.refusal:
            logger.error("router %s refuses sequence %d: %s", router.name, ack.sequence, ack.refusal)
        notice = asyncio.get_running_loop().create_task(self._notice())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _notice(self) -> None:
        async with self._acked:
            self._acked.notify_all()

    async def _until_applied(self, timeout_s: float) -> None:
        def is_applied() -> bool:
            desired, standing = self._versions.desired(), self.standing()
            is_published = desired is None or self._publisher.body_of(desired) is None
            return is_published and standing.applied_count == standing.connected_count

        try:
            async with asyncio.timeout(timeout_s), self._acked:
                await self._acked.wait_for(is_applied)
        except TimeoutError:
            return

    def _waiting(self) -> None:
        logger.warning("another control has %s; waiting for it to end", self._settings.store_path())


def run(settings: ControlSettings) -> int:
    """Runs a control until SIGTERM or SIGINT; the exit status."""
    import uvloop

    try:
        signer = None if settings.signing_key is None else load_signer(Path(settings.signing_key))
    except KeyFileError as exc:
        logger.error("cannot start: %s", exc)
        return 1
    return uvloop.run(_run(settings, signer))


async def _run(settings: ControlSettings, signer: Signer | None) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    control = Control(settings, signer)
    starting = asyncio.ensure_future(control.start())
    ending = asyncio.ensure_future(stopped.wait())
    await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return 0
    try:
        starting.result()
    except ControlStartError as exc:
        logger.error("cannot start: %s", exc)
        return 1
    await ending
    await control.close()
    logger.info("stopped")
    return 0


def _context(address: str, tls: ServerTls | None) -> ssl.SSLContext | None:
    if tls is None or address.startswith("unix:"):
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_ca_file)
    context.load_cert_chain(tls.cert, tls.key)
    if tls.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context

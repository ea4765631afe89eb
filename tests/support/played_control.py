"""A control played by the test: the real link server on a thread of its own, and publications one by one.

Invariant: `publish` returns when the router has acked, so that a test never guesses. Neighbours:
control/link.py, control/publish.py (both real), router_process.py (the router that connects).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from control.link import LinkServer, RouterLink
from control.publish import Desired, Publisher
from control.signing import Signer
from router.config import parse_document
from router.schema import link
from router.schema.policy_document import PolicyDocument
from tests.integration.processes import BOUND_S

Result = TypeVar("Result")


def document(text: str) -> PolicyDocument:
    """The policy in a configuration's text."""
    return PolicyDocument.of(parse_document(text))


class PlayedControl:
    """Control at a Unix socket, for as long as the block lasts; `stop` and `start` come between."""

    def __init__(self, path: str, signer: Signer | None = None, *, first_sequence: int = 1) -> None:
        self.address = f"unix:{path}"
        self.acks: queue.Queue[link.Ack] = queue.Queue()
        self.reports: queue.Queue[link.Report] = queue.Queue(1_000)
        self._sequence = first_sequence - 1
        self.publisher = Publisher(signer)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: LinkServer | None = None

    def __enter__(self) -> PlayedControl:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND_S)
        self._loop.close()

    def start(self) -> None:
        """Listens, with what was published last."""
        self._run(self._start())

    def stop(self) -> None:
        """Closes all connections, as if control had died."""
        if self._server is not None:
            self._run(self._server.close())
            self._server = None

    def publish(self, desired: Desired) -> link.Ack:
        """Sends it, and what the router says of it."""
        return self.send(self.frame(desired))

    def frame(self, desired: Desired) -> link.SnapshotFrame:
        """What sends it, under the next sequence."""
        return self.publisher.publish(self.publisher.body_of(desired), self._next())

    def send(self, frame: link.SnapshotFrame) -> link.Ack:
        """Sends a frame as it is, and what the router says of it."""
        server = self._server
        assert server is not None
        self._loop.call_soon_threadsafe(server.publish, frame)
        return self.ack()

    def tell(self, *signals: link.Signal) -> None:
        """Sends signals."""
        server = self._server
        assert server is not None
        self._loop.call_soon_threadsafe(server.routers[0].tell, signals)

    def ack(self) -> link.Ack:
        """The next one."""
        return self.acks.get(timeout=BOUND_S)

    def report(self) -> link.Report:
        """The next one that is made after this call."""
        while not self.reports.empty():
            self.reports.get()
        return self.reports.get(timeout=BOUND_S)

    async def _start(self) -> None:
        self._server = LinkServer(name="played", on_ack=self._on_ack, on_report=self._on_report)
        latest = self.publisher.latest
        if latest is not None:
            self._server.publish(latest)
        await self._server.listen(self.address)

    def _on_ack(self, _router: RouterLink, ack: link.Ack) -> None:
        self.acks.put(ack)

    def _on_report(self, _router: RouterLink, report: link.Report) -> None:
        if not self.reports.full():
            self.reports.put(report)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND_S)

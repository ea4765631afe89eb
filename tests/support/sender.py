"""A peer that sends more than anybody takes at once, from a thread of its own."""

from __future__ import annotations

import select
import threading

from tests.support.raw_peer import BOUND_S, Peer

STALLED_S = 0.3  # nothing has been taken for so long: whoever could has been given the chance


class Sender:
    """Sends on a connection from a thread of its own; knows how far it has come."""

    def __init__(self, peer: Peer, block: bytes, count: int) -> None:
        self.sent_bytes = 0
        self.error: OSError | None = None
        self._peer = peer
        self._block = block
        self._count = count
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for _ in range(self._count):
                view = memoryview(self._block)
                while view:
                    size = self._peer.sock.send(view)
                    view = view[size:]
                    self.sent_bytes += size
        except OSError as exc:
            self.error = exc

    def wait_stalled(self) -> None:
        """Returns when nothing has been taken for a while."""
        before = -1
        while self.sent_bytes != before:
            before = self.sent_bytes
            select.select([], [], [], STALLED_S)

    def join(self) -> None:
        self._thread.join(BOUND_S)
        assert not self._thread.is_alive()

    def wait_done(self) -> None:
        self.join()
        assert self.error is None

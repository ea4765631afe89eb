"""A driver without sockets: a test says what arrives and sees what is sent."""

from typing import TypedDict

class ConnState(TypedDict):
    """What the core has done with a connection."""

    open: bool
    closed: bool
    aborted: bool
    ended: bool
    paused: bool
    connecting: bool
    waiting_bytes: int
    upstream: bool
    port: int

class ScriptDriver:
    """Connections by number, in the order in which they came to be; time in microseconds."""

    def __init__(self, now_us: int = 1_000_000_000) -> None: ...
    def begin_batch(self) -> None:
        """What is sent from here on waits for `end_batch`, as with several events of one wake."""

    def end_batch(self) -> None: ...
    def accept(self) -> int:
        """A client connects; its number."""

    def receive(self, number: int, data: bytes) -> bool:
        """Bytes arrive; False when the core wants none now."""

    def establish(self, number: int) -> bool:
        """A connection that the core asked for is there; False when it was not asked for."""

    def end(self, number: int, error: int = 0) -> None:
        """The peer has ended: 0 in order, else an errno."""

    def set_round_trip(self, length_us: int) -> None:
        """Of all connections from here on; 0: not known."""

    def set_window(self, number: int, size: int) -> None:
        """The peer takes `size` more bytes, -1 any number."""

    def take(self, number: int) -> bytes:
        """What has been sent to the peer since the last look."""

    def state(self, number: int) -> ConnState: ...
    def upstreams(self) -> list[int]:
        """Numbers of the connections to endpoints that are open or wanted."""

    def settle(self) -> None: ...
    def advance(self, length_us: int) -> None:
        """Moves the clock; timers run at the Core's next tick."""

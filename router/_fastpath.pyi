"""The only door between Python and the native request path."""

from collections.abc import Callable, Generator
from typing import Any, Protocol

from router.native.driver_script import ScriptDriver
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable

class Hooks(Protocol):
    """What the native core asks off the common path; router/dispatch.py answers."""

    def body_facts(
        self, path: bytes, content_type: bytes, body: bytes, complete: bool
    ) -> tuple[str | None, bool, str | None]: ...
    def rewrite_body(self, content_type: bytes, body: bytes, model: str) -> bytes: ...
    def error_response(
        self, cause: int, detail: str, request_id: bytes, known_models: tuple[str, ...]
    ) -> tuple[int, bytes, bytes]: ...
    def on_attempt_failed(
        self, cause: int, attempt_count: int, body_is_whole: bool, downstream_bytes: int
    ) -> bool: ...
    def hand_over(self, fd: int, received: bytes, is_tls: bool, peer: str) -> None: ...

class Core:
    """The native half of one worker. One thread uses it.

    `options` is a router.snapshot.CoreOptions; `driver` replaces the epoll driver in tests. A core that is
    given no prefix table, learner, ring, residency, session or signal table makes its own and shares them
    with nobody. Raises: ValueError for a network that is none, MemoryError.
    """

    hooks: Hooks
    def __init__(
        self,
        *,
        load_table: LoadTable,
        metrics: MetricsTable,
        column: int,
        hooks: Hooks,
        options: Any,
        prefix_table: PrefixTable | None = None,
        learner: Learner | None = None,
        explained: ExplainRing | None = None,
        residency: ResidencyTable | None = None,
        sessions: SessionTable | None = None,
        signals: SignalTable | None = None,
        driver: ScriptDriver | None = None,
    ) -> None: ...
    def fileno(self) -> int:
        """Its epoll fd, for loop.add_reader(core.fileno(), core.wake)."""

    def wake(self) -> None:
        """Drains the events that are there and runs the timers that are due; stays at most 4 ms."""

    def tick(self) -> int:
        """As wake, called by a clock; milliseconds until a timer could be due, -1 for none."""

    def add_listener(self, fd: int, listener_index: int, tls: tuple[str, ...] | None) -> None:
        """Accepts on a duplicate of `fd`; `tls` is (certificate, key[, oldest version]) files.

        Raises: ValueError for files that cannot be used, OSError.
        """

    def set_tls(self, listener_index: int, cert: str, key: str, min_version: str = "1.2") -> None:
        """New connections get this certificate. Raises: ValueError; the old one stays then."""

    def renew_endpoint_tls(self, name: str) -> None:
        """Reads its TLS files anew, for new connections. Raises: ValueError; the old ones stay then."""

    def stop_accepting(self) -> None: ...
    def prepare(self, tables: Any, canary: Any = None, canary_ratio: float = 0.0) -> object:
        """As `preparing`, all at once."""

    def preparing(
        self, tables: Any, canary: Any = None, canary_ratio: float = 0.0
    ) -> Generator[Callable[[], object] | None, None, object]:
        """Builds the native tables of a router.snapshot.Tables aside, in steps; what `activate` takes.

        `canary` is another one, for a share of the sessions. Work that it yields may be done by another
        thread before the next step.
        Raises: ValueError, and then nothing has changed.
        """

    def set_staying(self, stays: bool) -> None:
        """Whether `wake` may wait for events itself, up to 4 ms; at first it may."""

    def activate(self, prepared: object) -> None:
        """Takes what `prepare` made into use; open exchanges keep what they began with."""

    def set_addresses(self, endpoint_url: str, addresses: list[tuple[str, int]]) -> None:
        """Where endpoints with this URL are connected to from now on."""

    def drain(self) -> None:
        """No new connections; answers say Connection: close."""

    def close_idle(self) -> int:
        """Closes client connections that are between requests; returns how many."""

    def abort_all(self) -> None:
        """Ends every exchange that is still open: with 503 when nothing has gone out, else cut visibly."""

    def open_exchanges(self) -> int: ...
    def open_connections(self) -> int: ...
    def take_log(self) -> bytes:
        """Finished access-log lines since the last call."""

    def debug_endpoints(self) -> list[dict[str, Any]]: ...
    def debug_pools(self) -> list[dict[str, Any]]: ...
    def sizes(self) -> dict[str, int]:
        """Bytes of the structs that an open stream holds."""

    def close(self) -> None: ...

"""A whole native core without sockets: tests say what arrives, and when, and see what is sent.

The same request path as in production, under router.native.driver_script in place of epoll. `Scripted` holds
the core, its tables and the driver, and checks at the end what must hold after any history: no exchange, no
charge, no connection left behind.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from router._fastpath import Core
from router.config import parse_config
from router.dispatch import Dispatcher
from router.native.driver_script import ScriptDriver
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.prefix import PrefixTable
from router.native.signals import SignalTable
from router.schema.config import Config
from router.snapshot import CoreOptions, Tables, build_tables, route_names


class Scripted:
    """A core over scripted connections, with `endpoint_count` endpoints on ports 9000, 9001, ..."""

    def __init__(
        self,
        endpoint_count: int = 2,
        policy: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self._written: dict[str, Any] = {
            "pools": [
                {
                    "name": "main",
                    "endpoints": [
                        {"url": f"http://127.0.0.1:{9000 + index}", **(endpoint or {})}
                        for index in range(endpoint_count)
                    ],
                    **({} if policy is None else {"policy": policy}),
                }
            ],
            "access_log": {"path": "stdout"},
            **config,
        }
        self._slots: dict[str, int] = {}
        self._routes: dict[tuple[str, int], int] = {}
        self.config = self._parse()
        names = [endpoint.name for pool in self.config.pools for endpoint in pool.endpoints]
        self.load = LoadTable.create(max(16, len(names)), 2)
        self.metrics = MetricsTable.create(2, 16, self.load.slot_count)
        self.signals = SignalTable.create(self.load.slot_count)
        self.prefix = PrefixTable.create(1 << 20, self.load.slot_count)
        self.driver = ScriptDriver()
        self.handed_over: list[bytes] = []
        self.logged: list[dict[str, Any]] = []
        self.core = Core(
            load_table=self.load,
            metrics=self.metrics,
            column=0,
            hooks=Dispatcher(self._hand_over),
            options=msgspec.structs.replace(CoreOptions.of(self.config), seed=1),
            prefix_table=self.prefix,
            signals=self.signals,
            driver=self.driver,
        )
        self.core.activate(self.core.prepare(self._tables(self.config, 0)))

    def activate(
        self,
        *,
        version: int = 0,
        canary: dict[str, Any] | None = None,
        canary_version: int = 0,
        ratio: float = 0.0,
        **changes: Any,
    ) -> None:
        """Puts this configuration in force with `changes`, and beside it one with the changes of `canary`."""
        self.config = self._parse(**changes)
        stable = self._tables(self.config, version)
        if canary is None:
            self.core.activate(self.core.prepare(stable))
        else:
            other = self._tables(self._parse(**canary), canary_version)
            self.core.activate(self.core.prepare(stable, other, ratio))

    def row(self, route: str, version: int) -> int:
        """Its index in the metrics."""
        return self._routes[route, version]

    def _parse(self, **changes: Any) -> Config:
        return parse_config(msgspec.json.encode(self._written | changes).decode(), "scripted.json")

    def _tables(self, config: Config, version: int) -> Tables:
        for endpoint in (endpoint for pool in config.pools for endpoint in pool.endpoints):
            self._slots.setdefault(endpoint.name, len(self._slots))
        rows = {
            name: self._routes.setdefault((name, version), len(self._routes)) for name in route_names(config)
        }
        return build_tables(config, self._slots, rows, version)

    def _hand_over(self, fd: int, received: bytes, _is_tls: bool, _peer: str) -> None:
        os.close(fd)
        self.handed_over.append(received)

    def establish_all(self) -> list[int]:
        """Completes the connects that the core waits for; their numbers."""
        return [number for number in self.driver.upstreams() if self.driver.establish(number)]

    def log(self) -> list[dict[str, Any]]:
        """Every access-log line so far."""
        self.logged += [msgspec.json.decode(line) for line in self.core.take_log().splitlines()]
        return self.logged

    def assert_settled(self) -> None:
        """Asserts that no endpoint's account holds anything."""
        for slot in range(self.load.slot_count):
            view = self.load.view(slot)
            for row in ("in_flight", "pending", "queued_tokens", "queued_work_us", "kv_tokens"):
                assert view[row] == 0, (slot, row)
            assert view["oldest_pending_us"] == 0, slot
        assert self.load.underflows() == 0

    def finish(self) -> None:
        """Everybody leaves; asserts that nothing is left behind and every exchange was booked once."""
        self.core.abort_all()
        self.core.abort_all()  # The first may leave answers that their clients have not taken.
        for number in self.driver.upstreams():
            self.driver.end(number)
        counters = self.metrics.counters()
        assert self.core.open_exchanges() == 0
        assert self.core.open_connections() == 0
        self.assert_settled()
        for gauge in ("requests_in_flight", "connections_open", "upstream_open", "upstream_idle"):
            assert counters[gauge] == 0, gauge
        counted = sum(count for _route, _slot, _outcome, count in self.metrics.requests())
        assert counted == len(self.log())
        identifiers = [line["request_id"] for line in self.logged]
        assert len(set(identifiers)) == len(identifiers)
        self.core.close()

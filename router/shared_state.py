"""The shared tables and who has which slot, column and route index in them: the supervisor's share of the
data plane's state. Accounts and metrics are exact; what is believed of caches and learnt of engines may be
lost.

Invariant: a column has one writer at a time, and a slot or route index is reset before it goes to another
owner. The tables hold columns for several generations of workers, so that a takeover goes on counting in the
same memory. Neighbours: slots.py (the directories), native/loadtable, native/metrics, native/prefix,
native/residency, native/session, native/learner, native/signals (the tables), supervisor.py, takeover.py
(which passes them on).
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from router import limits, wire
from router.native.explain import ExplainRing
from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable
from router.schema.config import Config, Endpoint
from router.slots import SlotDirectory, name_and_version, name_in_version
from router.snapshot import route_names

logger = logging.getLogger("fairlead.supervisor")


def column_count(workers: int) -> int:
    """Of tables that begin with so many workers."""
    return max(limits.COLUMNS_MIN, limits.COLUMNS_PER_WORKER * workers)


class Places(NamedTuple):
    """Where one configuration is in the tables."""

    slots: dict[str, int]  # by endpoint name
    routes: dict[str, int]  # indexes in the metrics, by route name


class DirectoryState(msgspec.Struct, frozen=True, kw_only=True):
    """A SlotDirectory on its way to the next supervisor."""

    names: tuple[str, ...]
    configured: tuple[str, ...]


class Tables(NamedTuple):
    """What workers share, each a memfd; a takeover passes them on in this order."""

    load: LoadTable
    metrics: MetricsTable
    prefix: PrefixTable
    learner: Learner
    explained: ExplainRing
    residency: ResidencyTable
    sessions: SessionTable
    signals: SignalTable

    @classmethod
    def create(cls, column_count: int, prefix_bytes: int) -> Tables:
        """Empty tables."""
        return cls(
            LoadTable.create(limits.ENDPOINTS_MAX, column_count),
            MetricsTable.create(column_count, limits.ROUTE_INDEXES_MAX, limits.ENDPOINTS_MAX),
            PrefixTable.create(prefix_bytes, limits.ENDPOINTS_MAX),
            Learner.create(limits.ENDPOINTS_MAX),
            ExplainRing.create(column_count),
            ResidencyTable.create(limits.ENDPOINTS_MAX),
            SessionTable.create(limits.SESSION_TABLE_BYTES, limits.ENDPOINTS_MAX),
            SignalTable.create(limits.ENDPOINTS_MAX),
        )

    @classmethod
    def attach(cls, fds: Sequence[int], column_count: int, prefix_bytes: int) -> Tables:
        """The running supervisor's; what may be lost is made anew where it is of another version or size.

        Raises: OSError, ValueError when the counts are of another version.
        """
        load, metrics = LoadTable.attach(fds[0]), MetricsTable.attach(fds[1])
        tables = anew = cls.create(column_count, prefix_bytes)._replace(load=load, metrics=metrics)
        for kinds, loss in _LOSABLE:
            try:
                found = {name: kind.attach(fds[cls._fields.index(name)]) for name, kind in kinds.items()}
            except (IndexError, OSError, ValueError) as exc:
                logger.warning("takeover: %s; %s", exc, loss)
            else:
                tables = tables._replace(**found)
        if tables.prefix.size_bytes != prefix_bytes:
            logger.warning(
                "takeover: prefixes.table_bytes is %d and was %d; caches are learnt anew",
                prefix_bytes,
                tables.prefix.size_bytes,
            )
            tables = tables._replace(prefix=anew.prefix)
        return tables

    def fds(self) -> list[int]:
        """Descriptors that stay the tables'."""
        return [table.fd for table in self]


# What a takeover may lose, together where one says little without the other, and what that means.
_LOSABLE: tuple[tuple[dict[str, type[Any]], str], ...] = (
    ({"prefix": PrefixTable, "learner": Learner}, "caches and speeds are learnt anew"),
    ({"explained": ExplainRing}, "decisions recorded before are gone"),
    ({"residency": ResidencyTable}, "which models are loaded where is not known"),
    ({"sessions": SessionTable}, "where sessions were is not known"),
    ({"signals": SignalTable}, "what endpoints told is forgotten"),
)


class SharedState:
    """The tables, the directories over them, and the columns this generation writes."""

    def __init__(
        self,
        tables: Tables,
        endpoints: SlotDirectory,
        routes: SlotDirectory,
        columns: Sequence[int],
        *,
        inherited: bool,
    ) -> None:
        self.tables = tables
        self.endpoints = endpoints
        self.routes = routes
        self.columns = columns  # by worker index
        self.writers: dict[int, int] = {}  # of earlier generations: column → process that has not exited yet
        self._inherited = inherited
        self._settles = True
        self._is_tended = False

    @property
    def load(self) -> LoadTable:
        return self.tables.load

    @property
    def metrics(self) -> MetricsTable:
        return self.tables.metrics

    @property
    def table_fds(self) -> list[int]:
        """In the order of wire.Start and of `inherit`."""
        return self.tables.fds()

    @classmethod
    def create(cls, config: Config) -> SharedState:
        """Empty tables."""
        return cls(
            Tables.create(column_count(config.workers), config.prefixes.table_bytes),
            SlotDirectory(limits.ENDPOINTS_MAX),
            SlotDirectory(limits.ROUTE_INDEXES_MAX),
            range(config.workers),
            inherited=False,
        )

    @classmethod
    def inherit(cls, offer: wire.TakeoverOffer, fds: Sequence[int], config: Config) -> SharedState:
        """The running supervisor's tables and columns nobody writes; new ones where those do not fit."""
        free = [column for column in range(offer.column_count) if column not in offer.columns_in_use]
        if len(free) < config.workers:
            logger.warning(
                "takeover: %d of %d columns are free for %d workers, earlier ones still drain in the others; "
                "counting starts anew",
                len(free),
                offer.column_count,
                config.workers,
            )
            return cls.create(config)
        try:
            tables = Tables.attach(fds, offer.column_count, config.prefixes.table_bytes)
            endpoints, routes = (
                SlotDirectory.from_names(slot_count, state.names, state.configured)
                for slot_count, state in (
                    (limits.ENDPOINTS_MAX, msgspec.msgpack.decode(offer.endpoints, type=DirectoryState)),
                    (limits.ROUTE_INDEXES_MAX, msgspec.msgpack.decode(offer.routes, type=DirectoryState)),
                )
            )
        except (OSError, ValueError) as exc:
            logger.warning("takeover: the tables are of another version (%s); counting starts anew", exc)
            return cls.create(config)
        return cls(tables, endpoints, routes, free[: config.workers], inherited=True)

    def assign(self, config: Config, version: int = 0) -> Places:
        """Places for `config`, whose requests are counted as of `version` of the policy; 0: of none.

        Raises: SlotsExhausted; nothing has changed then.
        """
        names = {endpoint.name: endpoint.name for endpoint in _endpoints(config)}
        (places,) = self._assign([(names, _rows(config, version))])
        return places

    def assign_both(
        self, stable: Config, version: int, canary: Config, canary_version: int
    ) -> tuple[Places, Places]:
        """Places for two that are in force at once. An endpoint of both has one slot, so that each sees what
        the other has given it; but where the canary reaches something else by that name, it has a slot of
        its own, so that what happens there is not held against the stable's.

        Raises: SlotsExhausted; nothing has changed then.
        """
        known = {endpoint.name: _reached(endpoint) for endpoint in _endpoints(stable)}
        names = {
            endpoint.name: endpoint.name
            if known.get(endpoint.name, _reached(endpoint)) == _reached(endpoint)
            else name_in_version(endpoint.name, canary_version)
            for endpoint in _endpoints(canary)
        }
        first, second = self._assign(
            [
                ({name: name for name in known}, _rows(stable, version)),
                (names, _rows(canary, canary_version)),
            ]
        )
        return first, second

    def _assign(self, wanted: list[tuple[dict[str, str], dict[str, str]]]) -> list[Places]:
        names = [name for by_endpoint, _rows in wanted for name in by_endpoint.values()]
        rows = [row for _names, by_route in wanted for row in by_route.values()]
        before = set(self.endpoints.configured())
        endpoints_after, routes_after = copy.deepcopy(self.endpoints), copy.deepcopy(self.routes)
        slots = endpoints_after.assign(names, self.load.in_flight)
        routes = routes_after.assign(rows, lambda _index: 0, limits.ROUTE_VERSIONS_KEPT * len(rows))
        self.endpoints, self.routes = endpoints_after, routes_after
        now_us = time.monotonic_ns() // 1000
        for slot in slots.reused:
            self.load.reset_slot(slot)
            self.metrics.reset_slot(slot)
            self.tables.prefix.forget(slot)
            self.tables.residency.forget(slot)
            self.tables.sessions.forget(slot, now_us)
            self.tables.signals.forget(slot)
        for name, slot in slots.slots.items():
            if before and name not in before:  # new beside others that are warm; at the start all are alike
                self.tables.learner.joined(slot, now_us)
        for index in routes.reused:
            self.metrics.reset_route(index)
        return [
            Places(
                {endpoint: slots.slots[name] for endpoint, name in by_endpoint.items()},
                {route: routes.slots[row] for route, row in by_route.items()},
            )
            for by_endpoint, by_route in wanted
        ]

    def configured_routes(self) -> dict[tuple[str, int], int]:
        """Indexes in the metrics by route and version, of all that is in force."""
        rows = ((name, self.routes.slot(name)) for name in self.routes.configured())
        return {name_and_version(name): index for name, index in rows if index is not None}

    def tell(self, told: Iterable[tuple[str, str, float, int]], source: str) -> list[str]:
        """Takes (endpoint, signal, value, when it was true in monotonic microseconds) from whoever measures.

        A verdict for each that is about a configured endpoint; the others are passed over, since a reload may
        have come between. Raises: ValueError for an unknown signal or source.
        """
        configured = set(self.endpoints.configured())
        batch = [
            (slot, signal, value, stamp_us, source)
            for name, signal, value, stamp_us in told
            if name in configured and (slot := self.endpoints.slot(name)) is not None
        ]
        return self.tables.signals.push(batch, time.monotonic_ns() // 1000)

    def tend(self) -> None:
        """Once half of the prefix table is in use, puts all of it into huge pages, where the kernel can.

        A pick looks at dozens of its entries, each in another page. Before, it would cost memory for nothing.
        """
        prefix = self.tables.prefix
        if not self._is_tended and prefix.used_bytes() * 2 >= prefix.size_bytes:
            self._is_tended = True
            prefix.use_huge_pages()

    def settle_when_gone(self, pid_by_column: Mapping[int, int]) -> None:
        """Settles the columns of the generation before as its processes exit."""
        if not self._inherited:
            return  # Those count in memory of their own.
        self.writers = dict(pid_by_column)
        for column, pid in pid_by_column.items():
            watch_exit(pid, functools.partial(self._writer_gone, column))

    def _writer_gone(self, column: int) -> None:
        self.writers.pop(column, None)
        self.settle(column)

    def leave(self) -> dict[int, int]:
        """The next generation settles from here on; earlier writers it has to watch."""
        self._settles = False
        return dict(self.writers)

    def settle(self, column: int) -> None:
        """Releases the attempts that the dead worker of `column` had open, and keeps what it counted."""
        if not self._settles:
            return
        attempt_count = self.load.clear_column(column)
        self.metrics.fold_column(column)
        if attempt_count:
            logger.warning("column %d: %d attempts of a dead worker settled", column, attempt_count)

    @staticmethod
    def dump(directory: SlotDirectory) -> bytes:
        """A directory for a TakeoverOffer."""
        state = DirectoryState(names=directory.names(), configured=directory.configured())
        return msgspec.msgpack.encode(state)


def _endpoints(config: Config) -> list[Endpoint]:
    return [endpoint for pool in config.pools for endpoint in pool.endpoints]


def _rows(config: Config, version: int) -> dict[str, str]:
    return {name: name_in_version(name, version) for name in route_names(config)}


def _reached(endpoint: Endpoint) -> object:
    return endpoint.url, endpoint.tls


def watch_exit(pid: int, on_exit: Callable[[], None]) -> None:
    """Calls `on_exit` once process `pid`, which need not be a child, is gone."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        on_exit()
        return

    def gone() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        on_exit()

    loop.add_reader(pidfd, gone)

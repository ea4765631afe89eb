"""The tables' segments of shared memory: what is no table is refused, and a table keeps its size."""

import os
from collections.abc import Callable
from typing import Protocol

import pytest

from router.native.learner import Learner
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.prefix import PrefixTable
from router.native.residency import ResidencyTable
from router.native.session import SessionTable
from router.native.signals import SignalTable


class Table(Protocol):
    """What the tables have in common."""

    @property
    def fd(self) -> int: ...


TABLES: dict[str, tuple[Callable[[], Table], Callable[[int], Table]]] = {
    "learner": (lambda: Learner.create(16), Learner.attach),
    "load": (lambda: LoadTable.create(16, 2), LoadTable.attach),
    "metrics": (lambda: MetricsTable.create(2, 4, 4), MetricsTable.attach),
    "prefix": (lambda: PrefixTable.create(1 << 20, 32), PrefixTable.attach),
    "residency": (lambda: ResidencyTable.create(16), ResidencyTable.attach),
    "sessions": (lambda: SessionTable.create(1 << 16, 32), SessionTable.attach),
    "signals": (lambda: SignalTable.create(16), SignalTable.attach),
}
pytestmark = pytest.mark.parametrize(("create", "attach"), TABLES.values(), ids=TABLES)
LAYOUT_PLACE = 8
"""In a table's header: the magic is before it."""


def test_attach_refuses_what_is_no_table(create: Callable[[], Table], attach: Callable[[int], Table]) -> None:
    fd = os.memfd_create("other")
    try:
        with pytest.raises(ValueError, match="empty"):
            attach(fd)
        os.truncate(fd, 100)
        with pytest.raises(ValueError, match="hold no header"):
            attach(fd)
        os.truncate(fd, 100_000)
        with pytest.raises(ValueError, match="wrong magic"):
            attach(fd)
        table = create()
        header = os.pread(table.fd, 64, 0)
        os.pwrite(fd, header, 0)
        with pytest.raises(ValueError, match="does not fit its segment of 100000"):
            attach(fd)
        os.pwrite(fd, b"\x63", LAYOUT_PLACE)
        with pytest.raises(ValueError, match="layout 99"):
            attach(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        attach(fd)


def test_attach_refuses_another_kind_of_table(
    create: Callable[[], Table], attach: Callable[[int], Table]
) -> None:
    for other, _ in TABLES.values():
        if other is not create:
            table = other()
            with pytest.raises(ValueError, match="wrong magic"):
                attach(table.fd)


def test_a_segment_cannot_change_size_under_its_users(
    create: Callable[[], Table], attach: Callable[[int], Table]
) -> None:
    table = create()
    for size_bytes in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.truncate(table.fd, size_bytes)
    attach(table.fd)

"""The native core as an object: what cannot be made says why, and leaves nothing that goes wrong later."""

from __future__ import annotations

import gc

import pytest

from router._fastpath import Core
from router.config import parse_config
from router.dispatch import Dispatcher
from router.native.loadtable import LoadTable
from router.native.metrics import MetricsTable
from router.native.signals import SignalTable
from router.snapshot import CoreOptions


def test_tables_that_do_not_fit_each_other_are_refused() -> None:
    config = parse_config('{"pools": [{"name": "main", "endpoints": [{"url": "http://127.0.0.1:9000"}]}]}')
    for _ in range(3):
        with pytest.raises(ValueError, match="the signals must have 16 slots"):
            Core(
                load_table=LoadTable.create(16, 2),
                metrics=MetricsTable.create(2, 16, 16),
                column=0,
                hooks=Dispatcher(lambda _fd, _received, _tls, _peer: None),
                options=CoreOptions.of(config),
                signals=SignalTable.create(1),
            )
        gc.collect()  # what was half made is thrown away here at the latest

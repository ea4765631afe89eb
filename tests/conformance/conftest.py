"""The router that all conformance tests of a session share, and a lane of it for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.harness import Conformance, Lane

BODY_BYTES_MAX = 8 << 20


@pytest.fixture(scope="session")
def conformance() -> Iterator[Conformance]:
    with Conformance(limits={"body_bytes_max": BODY_BYTES_MAX}) as made:
        yield made


@pytest.fixture
def lane(conformance: Conformance) -> Iterator[Lane]:
    with conformance.lane() as made:
        yield made

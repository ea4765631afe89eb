"""The Date value against the standard library's."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from router.native.http_date import http_date

LAST_SECOND = 253402300799  # of the year 9999


@given(st.integers(0, LAST_SECOND))
def test_date_is_what_the_standard_library_writes(epoch_s: int) -> None:
    assert http_date(epoch_s) == formatdate(epoch_s, usegmt=True).encode()


def test_every_day_of_four_centuries() -> None:
    for day in range(146097):
        epoch_s = day * 86400 + 86399
        assert http_date(epoch_s) == formatdate(epoch_s, usegmt=True).encode()

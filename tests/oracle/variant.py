"""Who gets the canary, slow and obvious: a place from 0 to 1 for every key, and the share that it lies in."""

from __future__ import annotations

from fractions import Fraction

from tests.oracle.pick import hash_pair

SALT = 0xA4093822299F31D1


def is_canary(key: int, ratio: float) -> bool:
    """Whether the session of `key` has the canary when it is given to `ratio` of all."""
    place = Fraction(hash_pair(key, SALT) // 2, 1 << 63)
    share = Fraction(int(Fraction(ratio) * (1 << 63)), 1 << 63)
    return place < share

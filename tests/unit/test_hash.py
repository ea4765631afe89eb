"""The hash: stable, even, and the same in pieces as whole."""

from hypothesis import given
from hypothesis import strategies as st

from router.native.hash import hash_of, hash_of_pieces

STABLE_HASHES = [
    0x10B4611A74338C4B,
    0xB473AD2F6A2D1BD5,
    0xE00316BD19B237BD,
    0xC06C193453273EA9,
    0xA94E8448268014C6,
    0x8827CC84C9D754B3,
    0x2CDE44690FE27700,
    0xD5FE488AA071FF9F,
]
STABLE_SEEDED_HASH = 0xA3DBD499BF0B8A79


def test_hash_is_the_same_in_every_run() -> None:
    """Endpoints are placed by it: a changed value would move every key of a running fleet."""
    data = bytes(range(256)) * 5
    assert [hash_of(data[:size]) for size in (0, 1, 15, 16, 63, 64, 65, 1024)] == STABLE_HASHES
    assert hash_of(b"key", 7) == STABLE_SEEDED_HASH


def test_hash_spreads_keys_evenly() -> None:
    buckets = [0] * 64
    for index in range(6400):
        buckets[hash_of(b"tenant-%d" % index) >> 58] += 1
    chi_square = sum((count - 100) ** 2 / 100 for count in buckets)
    assert (
        chi_square < 110
    )  # 63 degrees of freedom: 1 chance in 4,000 for a fair hash, and the keys are fixed


@given(st.lists(st.binary(max_size=150), max_size=8), st.integers(0, 2**64 - 1))
def test_pieces_hash_like_the_whole(pieces: list[bytes], seed: int) -> None:
    assert hash_of_pieces(pieces, seed) == hash_of(b"".join(pieces), seed)


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_hash_depends_on_every_byte_the_length_and_the_seed(data: bytes, seed: int) -> None:
    value = hash_of(data, seed)
    assert hash_of(data, seed) == value
    assert hash_of(data + b"\0", seed) != value
    assert hash_of(data, seed ^ 1) != value
    for index in range(len(data)):
        assert hash_of(data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :], seed) != value

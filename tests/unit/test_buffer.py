"""The byte queue of native code, held to a bytearray: what is appended comes out in order."""

from hypothesis import given
from hypothesis import strategies as st

from router.native.buffer import append_and_consume

BLOCK_BYTES = 4096

STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda size, first: bytes((first + i) % 251 for i in range(size)),
            st.one_of(
                st.integers(0, 64),
                st.sampled_from([BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 40_000]),
            ),
            st.integers(0, 250),
        ),
        st.integers(0, 64),
        st.sampled_from([BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 20]),
    ),
    max_size=30,
)


def expected(steps: list[bytes | int]) -> list[bytes]:
    held = bytearray()
    seen = []
    for step in steps:
        if isinstance(step, bytes):
            held += step
        else:
            del held[:step]
        seen.append(bytes(held))
    return seen


@given(STEPS)
def test_what_is_appended_comes_out_in_order(steps: list[bytes | int]) -> None:
    assert append_and_consume(steps) == expected(steps)


def test_a_queue_that_is_filled_and_emptied_over_and_over_keeps_its_order() -> None:
    steps: list[bytes | int] = []
    for turn in range(500):
        steps += [bytes([turn % 256]) * 1000, 999]
    assert append_and_consume(steps) == expected(steps)


def test_blocks_pass_from_queue_to_queue_without_their_old_bytes() -> None:
    append_and_consume([b"secret" * 600, 1 << 20])
    assert append_and_consume([b"a", 1, b"b"]) == [b"a", b"", b"b"]


def test_growth_moves_what_is_left_and_not_what_was_consumed() -> None:
    steps: list[bytes | int] = [b"x" * BLOCK_BYTES, BLOCK_BYTES - 3, b"y" * BLOCK_BYTES, 2, b"z" * 50_000]
    assert append_and_consume(steps) == expected(steps)


def test_more_queues_than_the_free_list_keeps_go_back_to_the_allocator() -> None:
    for _ in range(300):
        assert append_and_consume([b"a" * BLOCK_BYTES, b"b"])[-1][-1:] == b"b"

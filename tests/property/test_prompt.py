"""The prompt chain against its oracle: every beginning hashed whole, however the bytes came."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.native.prompt import PromptChain
from tests.oracle import prompt as oracle

MIB = 1 << 20

prompts = st.builds(
    lambda text, times, rest: text * times + rest,
    st.binary(min_size=1, max_size=300),
    st.integers(0, 200),
    st.binary(max_size=300),
)
parts = st.lists(st.tuples(st.integers(1, 5), st.binary(max_size=200)), max_size=4)


def pieces_of(text: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(text) + 1) for position in positions), len(text)]
    return [text[first:last] for first, last in pairwise(edges)]


@given(
    prompts, parts, st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from([64, 256, 1024]), st.data()
)
def test_keys_in_any_split_are_the_oracle_s(
    prompt: bytes, ahead: list[tuple[int, bytes]], positions: list[int], block_bytes: int, data: st.DataObject
) -> None:
    chain = PromptChain(block_bytes)
    turns: list[tuple[int, bytes] | bytes] = [*pieces_of(prompt, positions)]
    for part in ahead:  # parts may come between any two pieces of the prompt
        turns.insert(data.draw(st.integers(0, len(turns))), part)
    for turn in turns:
        if isinstance(turn, bytes):
            chain.feed(turn)
        else:
            chain.feed_ahead(turn[0], pieces_of(turn[1], positions))
    assert chain.block_keys(3) == oracle.keys(prompt, ahead, 3, block_bytes)
    assert chain.total_bytes == len(prompt) + sum(len(text) for _, text in ahead)


@given(prompts, prompts, prompts)
def test_prompts_share_keys_as_far_as_they_agree(shared: bytes, one: bytes, other: bytes) -> None:
    keys = []
    for text in (shared + b"\x01" + one, shared + b"\x02" + other):
        chain = PromptChain()
        chain.feed(text)
        keys.append(chain.block_keys())
    count = len(list(oracle.boundaries(len(shared))))
    assert keys[0][:count] == keys[1][:count]
    assert not {key for key, _ in keys[0][count:]} & {key for key, _ in keys[1][count:]}


@given(prompts, st.integers(0, 1 << 22))
def test_blocks_count_tokens_in_proportion(prompt: bytes, prompt_tokens: int) -> None:
    chain = PromptChain()
    chain.feed_ahead(1, [b"tools" * 50])
    chain.feed(prompt)
    blocks = chain.blocks(0, prompt_tokens)
    assert [key for key, _ in blocks] == [key for key, _ in chain.block_keys()]
    for (_, tokens), (_, end) in zip(blocks, chain.block_keys(), strict=True):
        assert abs(tokens - prompt_tokens * end / chain.total_bytes) <= 1
        assert tokens <= prompt_tokens


def test_long_prompts_have_a_bounded_number_of_keys() -> None:
    assert [len(list(oracle.boundaries(size))) for size in (64 << 10, MIB, 4 * MIB, 64 * MIB)] == [
        48,
        80,
        96,
        96,
    ]
    chain = PromptChain()
    for _ in range(6):
        chain.feed(b"x" * MIB)
    assert chain.block_keys() == oracle.keys(b"x" * 6 * MIB)
    assert chain.total_bytes == 6 * MIB


def test_block_bytes_are_made_a_power_of_two() -> None:
    for asked, used in ((0, 64), (65, 128), (4096, 4096), (2**32 - 1, 2**31)):
        chain = PromptChain(asked)
        chain.feed(b"x" * 8192)
        assert chain.block_keys() == oracle.keys(b"x" * 8192, block_bytes=used)

"""The prefix table's promises, alone and between real processes; tests/property has its arithmetic."""

import subprocess
import sys

import pytest

from router.native.prefix import PrefixTable
from tests.oracle import prefix as oracle

SIZE_BYTES = 1 << 20
KEYS = [11, 22, 33]
TOKENS = [100, 200, 300]
EVERYONE = list(range(20))
OVER_A_CACHE = 2 * oracle.CAPACITY_DEFAULT_TOKENS


def table_of(*slots: int) -> PrefixTable:
    """A table in which each of `slots` has been given the prompt KEYS."""
    table = PrefixTable.create(SIZE_BYTES, 32)
    for slot in slots:
        table.insert(KEYS, TOKENS, slot, 300, 0)
    return table


def fill(table: PrefixTable, slot: int) -> None:
    """The slot's cache takes something else, more than it holds."""
    table.insert([1000 + slot], [1], slot, OVER_A_CACHE, 0)


def test_prompt_is_found_as_deep_as_it_was_given_in_any_order_of_candidates() -> None:
    table = table_of(5)
    table.insert([11, 22, 44], TOKENS, 17, 100, 0)
    assert table.match(KEYS, TOKENS, [17, 3, 5]) == [200, 0, 300]
    assert table.match([*KEYS, 55], [*TOKENS, 400], [5]) == [300]
    assert table.match([55, *KEYS], [*TOKENS, 400], [5, 17]) == [0, 0]


def test_gap_in_the_chain_ends_it() -> None:
    table = table_of(1)
    table.insert([11], [100], 2, 0, 0)
    table.insert([33], [300], 2, 0, 0)
    assert table.match(KEYS, TOKENS, [1, 2]) == [300, 100]


def test_nothing_known_is_no_hit() -> None:
    table = table_of()
    assert table.match(KEYS, TOKENS, EVERYONE) == [0] * 20
    assert table.match([], [], [1]) == [0]
    assert table.match(KEYS, TOKENS, []) == []


def test_claim_lasts_as_long_as_the_cache_and_a_quarter() -> None:
    table = table_of(1, 2)
    table.set_capacity(1, 1000)
    table.set_capacity(2, 100_000)
    for slot in (1, 2):
        table.insert([99], [1], slot, 1250, 0)
    assert table.match(KEYS, TOKENS, [1, 2]) == [300, 300]
    for slot in (1, 2):
        table.insert([98], [1], slot, 10, 0)
    assert table.match(KEYS, TOKENS, [1, 2]) == [0, 300]


def test_touched_prompt_stays_while_others_go() -> None:
    table = table_of(1)
    table.insert([77], [100], 1, 100, 0)
    for _ in range(6):
        fill_tokens = oracle.CAPACITY_DEFAULT_TOKENS // 2
        table.insert([99], [1], 1, fill_tokens, 0)
        table.insert(KEYS, TOKENS, 1, 0, 0)
    assert table.match(KEYS, TOKENS, [1]) == [300]
    assert table.match([77], [100], [1]) == [0]


def test_block_of_more_endpoints_than_an_entry_names_is_everywhere() -> None:
    assert table_of(*range(12)).match(KEYS, TOKENS, EVERYONE) == [300] * 12 + [0] * 8
    table = table_of(*range(13))
    table.insert([*KEYS, 44], [*TOKENS, 400], 19, 100, 0)
    assert table.match([*KEYS, 44], [*TOKENS, 400], EVERYONE) == [300] * 19 + [400]


def test_block_is_no_longer_everywhere_once_most_known_owners_have_lost_it() -> None:
    table = table_of(*range(13))  # 1 to 12 are known
    for slot in range(1, 8):
        fill(table, slot)
    left = [0] * 8 + [300] * 5 + [0] * 7
    assert table.match(KEYS, TOKENS, EVERYONE) == left
    table.insert(KEYS, TOKENS, 19, 300, 0)
    assert table.match(KEYS, TOKENS, EVERYONE) == [*left[:19], 300]


def test_everywhere_between_named_blocks_keeps_who_is_followed() -> None:
    table = PrefixTable.create(SIZE_BYTES, 32)
    for slot in range(13):
        table.insert([22], [200], slot, 0, 0)
    table.insert(KEYS, TOKENS, 3, 300, 0)
    table.insert(KEYS[:2], TOKENS[:2], 4, 300, 0)
    assert table.match(KEYS, TOKENS, [0, 3, 4]) == [0, 300, 200]


def test_forgotten_endpoint_has_nothing_and_is_trusted_again() -> None:
    table = table_of(1, 2)
    table.reported(1, 300, 0)
    table.forget(1)
    assert table.match(KEYS, TOKENS, [1, 2]) == [0, 300]
    assert table.trust(1) == 1
    table.insert(KEYS, TOKENS, 1, 300, 0)
    assert table.match(KEYS, TOKENS, [1]) == [300]


@pytest.mark.parametrize(("expected_tokens", "counts"), [(63, False), (64, True)])
def test_a_report_of_less_than_a_block_says_nothing(expected_tokens: int, counts: bool) -> None:
    table = table_of(1)
    table.reported(1, expected_tokens, 0)
    assert (table.trust(1) < 1) == counts


def test_evicting_costs_where_what_is_driven_out_is_asked_for_again() -> None:
    table = table_of()
    table.set_capacity(1, 3000)
    table.set_capacity(2, 300_000)
    conversations = [[100 * number + block for block in KEYS] for number in range(1, 13)]
    for _ in range(5):
        for keys in conversations:  # 3,600 tokens: more than the one cache holds, little for the other
            for slot in (1, 2):
                table.insert(keys, TOKENS, slot, 300, 0)
    assert table.eviction(1) > 0.5
    assert table.eviction(2) == 0
    table.forget(1)
    assert table.eviction(1) == 0


def test_a_cache_that_had_less_than_was_believed_has_taken_more() -> None:
    table = table_of(1, 2)
    for slot in (1, 2):
        table.set_capacity(slot, 1000)
    table.reported(1, 300, 0, missed_tokens=1300)
    assert table.match(KEYS, TOKENS, [2]) == [300]
    assert table.match(KEYS, TOKENS, [1]) == [0]


def test_trust_follows_reports_within_bounds() -> None:
    table = table_of(1)
    table.reported(1, 300, 900)
    assert table.trust(1) == 1
    table.reported(1, 63, 0)
    assert table.trust(1) == 1
    table.reported(1, 300, 150)
    assert table.trust(1) == 1 - 0.5 / 256
    assert table.match(KEYS, TOKENS, [1]) == [300 * (1 - 0.5 / 256)]
    for _ in range(1000):
        table.reported(1, 300, 0)
    assert table.trust(1) == pytest.approx(0.05)
    table.reported(1, 300, 300)
    assert table.trust(1) == pytest.approx(0.05 + 0.95 / 16)
    for _ in range(200):
        table.reported(1, 300, 300)
    assert 0.99 < table.trust(1) <= 1


def test_full_table_keeps_what_was_touched_last() -> None:
    table = PrefixTable.create(100_000, 1)
    entries = 4 * table.bucket_count
    for number in range(10 * entries):
        table.insert([number], [1], 0, 0, number << 18)
    kept = [number for number in range(10 * entries) if table.match([number], [1], [0]) == [1]]
    assert len(kept) == entries
    assert sum(number >= 8 * entries for number in kept) > 0.8 * entries


def test_slots_sizes_and_lengths_are_checked() -> None:
    table = table_of()
    for call in (
        lambda: table.match(KEYS, TOKENS, [32]),
        lambda: table.insert(KEYS, TOKENS, 32, 1, 1),
        lambda: table.reported(32, 1, 1),
        lambda: table.forget(32),
        lambda: table.set_capacity(32, 1),
        lambda: table.trust(32),
    ):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(ValueError, match="3 keys with 2 token counts"):
        table.match(KEYS, TOKENS[:2], [1])
    with pytest.raises(ValueError, match="slot_count must be"):
        PrefixTable.create(SIZE_BYTES, 0)
    with pytest.raises(ValueError, match="size_bytes must be"):
        PrefixTable.create(4096, 32)


def test_attached_table_outlives_the_one_that_made_it() -> None:
    table = table_of(1)
    other = PrefixTable.attach(table.fd)
    del table
    assert other.match(KEYS, TOKENS, [1]) == [300]
    assert (other.slot_count, other.trust(1)) == (32, 1)


@pytest.mark.parametrize("size_bytes", [16 << 10, 1 << 20])
def test_two_processes_at_once_get_only_possible_answers(size_bytes: int) -> None:
    """Both replace, claim, forget and match the same few entries as fast as they can."""
    table = PrefixTable.create(size_bytes, 32)
    script = (
        "import sys\nfrom router.native.prefix import PrefixTable\n"
        "from router.native.prefix_bench import churn\n"
        f"table = PrefixTable.attach({table.fd})\n"
        "chains = [[chain // 2 ** (8 - depth) * 16 + depth for depth in range(9)] for chain in range(256)]\n"
        "sys.stdin.read(1)\n"
        "print(churn(table, chains, [10 * depth for depth in range(9)], 150_000, int(sys.argv[1])))\n"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script, seed],
            pass_fds=[table.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "9999999")
    ]
    for other in others:
        assert other.stdin is not None
        other.stdin.write(b"g")
        other.stdin.flush()
    assert [other.communicate()[0] for other in others] == [b"0\n", b"0\n"]
    assert [other.returncode for other in others] == [0, 0]
    assert all(0.05 <= table.trust(slot) <= 1 for slot in range(32))


def test_huge_pages_change_nothing_but_speed() -> None:
    table = PrefixTable.create(4 << 20, 32)
    table.insert(KEYS, TOKENS, 5, 300, 0)
    other = PrefixTable.attach(table.fd)
    assert 0 < table.used_bytes() < table.size_bytes == 4 << 20
    if table.use_huge_pages():  # Linux 6.1, unless it is told never to
        assert table.used_bytes() == table.size_bytes
    for one in (table, other):
        assert one.match(KEYS, TOKENS, [5, 6]) == [300, 0]
    other.insert(KEYS, TOKENS, 6, 300, 0)
    assert table.match(KEYS, TOKENS, [5, 6]) == [300, 300]
    assert not PrefixTable.create(1 << 20, 32).use_huge_pages(), "smaller than one"

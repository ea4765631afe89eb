"""Runs the prefix table without the interpreter between two calls: for micro-benchmarks and for tests of races.

Neighbours: prefix.pyx is what runs; bench/micro/test_prefix.py and tests/unit/test_prefix.py ask.
"""

from array import array

from libc.stdint cimport uint32_t, uint64_t

from router.native.prefix cimport PrefixTable, prefix_insert, prefix_match
from router.native.prefix_cache cimport prefix_forget, prefix_reported
from router.native.segment cimport segment_check_slot


cdef object _joined(chains, size_t depth):
    """The keys of all chains in a row."""
    keys = array("Q")
    for chain in chains:
        if len(chain) != depth:
            raise ValueError(f"{len(chain)} keys with {depth} token counts")
        keys.extend(array("Q", chain))
    return keys


cdef object _slots(PrefixTable table, slots):
    for slot in slots:
        segment_check_slot(slot, table.table.slot_count)
    return array("I", slots)


def match_repeatedly(PrefixTable table not None, chains, tokens, slots, uint32_t rounds):
    """Matches each of `chains` in turn, `rounds` times over; in how many the candidate whose turn it was had a hit."""
    cdef uint64_t[::1] keys = _joined(chains, len(tokens))
    cdef uint32_t[::1] ends = array("I", tokens)
    cdef uint32_t[::1] wanted = _slots(table, slots)
    cdef float[::1] hits = array("f", [0]) * len(wanted)
    cdef size_t depth = ends.shape[0]
    cdef uint32_t hit_count = 0
    cdef size_t chain
    with nogil:
        for _ in range(rounds):
            hit_count = 0
            for chain in range(<size_t> keys.shape[0] // depth):
                prefix_match(
                    &table.table, &keys[chain * depth], &ends[0], <uint32_t> depth, &wanted[0],
                    <uint32_t> wanted.shape[0], &hits[0],
                )
                hit_count += hits[chain % <size_t> hits.shape[0]] > 0
    return hit_count


def insert_repeatedly(PrefixTable table not None, chains, tokens, uint32_t rounds):
    """Inserts each of `chains` in turn, `rounds` times over, each at a slot of its own."""
    cdef uint64_t[::1] keys = _joined(chains, len(tokens))
    cdef uint32_t[::1] ends = array("I", tokens)
    cdef size_t depth = ends.shape[0]
    cdef size_t chain
    cdef uint64_t now_us = 0
    with nogil:
        for _ in range(rounds):
            for chain in range(<size_t> keys.shape[0] // depth):
                now_us += 1000
                prefix_insert(
                    &table.table, &keys[chain * depth], &ends[0], <uint32_t> depth,
                    <uint32_t> (chain % table.table.slot_count), 100, now_us,
                )


def churn(PrefixTable table not None, chains, tokens, uint32_t rounds, uint64_t seed):
    """Inserts, matches, reports and forgets at random; how many hits were negative, no number or over all tokens."""
    cdef uint64_t[::1] keys = _joined(chains, len(tokens))
    cdef uint32_t[::1] ends = array("I", tokens)
    cdef uint32_t[::1] wanted = _slots(table, range(table.table.slot_count))
    cdef float[::1] hits = array("f", [0]) * len(wanted)
    cdef uint32_t depth = <uint32_t> ends.shape[0]
    cdef uint32_t wrong_count = 0
    cdef uint32_t turn, slot
    cdef size_t index
    with nogil:
        for turn in range(rounds):
            seed ^= seed << 13                                   # Marsaglia, "Xorshift RNGs"
            seed ^= seed >> 7
            seed ^= seed << 17
            index = (seed >> 40) % (<size_t> keys.shape[0] // depth) * depth
            slot = <uint32_t> (seed >> 20 & 0xFFFFF) % table.table.slot_count
            prefix_insert(&table.table, &keys[index], &ends[0], depth, slot, 1000, <uint64_t> turn << 12)
            prefix_reported(&table.table, slot, 1000, <uint32_t> (seed & 1023), 0)
            if turn % 1024 == 0:
                prefix_forget(&table.table, slot)
            prefix_match(
                &table.table, &keys[index], &ends[0], depth, &wanted[0], <uint32_t> wanted.shape[0], &hits[0]
            )
            for index in range(<size_t> hits.shape[0]):
                wrong_count += not 0 <= hits[index] <= <float> ends[depth - 1]
    return wrong_count

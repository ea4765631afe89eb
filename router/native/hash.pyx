"""A multiply-and-fold hash of the wyhash family, of our own construction so that it can be fed in pieces.

The family (Wang Yi, "wyhash"): the two halves of the 128-bit product of two words, xored, depend on all bits of both.
  stripes   each full 64 bytes feed four independent lanes of 16 bytes, which hide the multiplier's latency:
            lane = rotl(lane, 29) ^ fold((word0 ^ K) * (word1 ^ lane)); the rotated lane keeps the past where a
            factor is zero
  tail      the remaining 0 to 63 bytes go through one lane, 16 at a time, the last ones padded with zeros
  finish    the length is mixed in, which tells padding from data
The constants are the first 64-bit pieces of the fraction of pi: unrelated to each other and to any input.
Invariant: values never change (tests/unit/test_hash.py): endpoints are placed by them, also across a rolling upgrade.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    /* Eight bytes as a little-endian number, from any address. */
    static inline uint64_t fl_read64(const uint8_t* p) {
        uint64_t word;
        memcpy(&word, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }

    /* Both halves of the 128-bit product, folded. */
    static inline uint64_t fl_fold_product(uint64_t a, uint64_t b) {
    #if defined(__SIZEOF_INT128__)
        unsigned __int128 product = (unsigned __int128) a * b;
        return (uint64_t) product ^ (uint64_t) (product >> 64);
    #else
        uint64_t ll = (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF), lh = (a & 0xFFFFFFFF) * (b >> 32);
        uint64_t hl = (a >> 32) * (b & 0xFFFFFFFF), hh = (a >> 32) * (b >> 32);
        uint64_t middle = (ll >> 32) + (lh & 0xFFFFFFFF) + (hl & 0xFFFFFFFF);
        return ((ll & 0xFFFFFFFF) | middle << 32) ^ (hh + (lh >> 32) + (hl >> 32) + (middle >> 32));
    #endif
    }

    #define FL_K0 UINT64_C(0x243F6A8885A308D3)
    #define FL_K1 UINT64_C(0x13198A2E03707345)
    #define FL_K2 UINT64_C(0xA4093822299F31D1)
    #define FL_K3 UINT64_C(0x082EFA98EC4E6C89)
    """
    uint64_t fl_read64(const uint8_t* p)
    uint64_t fl_fold_product(uint64_t a, uint64_t b)
    const uint64_t FL_K0, FL_K1, FL_K2, FL_K3

cdef enum:
    STRIPE_BYTES = 64


cdef inline uint64_t mix(uint64_t lane, uint64_t word0, uint64_t word1, uint64_t constant) noexcept nogil:
    return ((lane << 29) | (lane >> 35)) ^ fl_fold_product(word0 ^ constant, word1 ^ lane)


cdef inline void lanes_begin(uint64_t* lanes, uint64_t seed) noexcept nogil:
    lanes[0] = seed ^ FL_K0
    lanes[1] = seed ^ FL_K1
    lanes[2] = seed ^ FL_K2
    lanes[3] = seed ^ FL_K3


cdef inline void lanes_take_stripe(uint64_t* lanes, const uint8_t* p) noexcept nogil:
    lanes[0] = mix(lanes[0], fl_read64(p), fl_read64(p + 8), FL_K0)
    lanes[1] = mix(lanes[1], fl_read64(p + 16), fl_read64(p + 24), FL_K1)
    lanes[2] = mix(lanes[2], fl_read64(p + 32), fl_read64(p + 40), FL_K2)
    lanes[3] = mix(lanes[3], fl_read64(p + 48), fl_read64(p + 56), FL_K3)


cdef inline uint64_t lanes_finish(
    const uint64_t* lanes, const uint8_t* tail, size_t tail_bytes, uint64_t total_bytes
) noexcept nogil:
    cdef uint64_t value = lanes[0]
    cdef uint8_t[16] padded
    if total_bytes >= STRIPE_BYTES:
        value = mix(mix(value, lanes[1], lanes[2], FL_K1), lanes[3], value, FL_K2)
    while tail_bytes >= 16:
        value = mix(value, fl_read64(tail), fl_read64(tail + 8), FL_K3)
        tail += 16
        tail_bytes -= 16
    if tail_bytes:
        memset(padded, 0, 16)
        memcpy(padded, tail, tail_bytes)
        value = mix(value, fl_read64(padded), fl_read64(padded + 8), FL_K3)
    value ^= total_bytes * FL_K1
    value = mix(value, value, FL_K0, FL_K2)
    return value ^ (value >> 32)


cdef uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) noexcept nogil:
    cdef uint64_t[4] lanes
    cdef size_t left = size
    lanes_begin(lanes, seed)
    while left >= STRIPE_BYTES:
        lanes_take_stripe(lanes, data)
        data += STRIPE_BYTES
        left -= STRIPE_BYTES
    return lanes_finish(lanes, data, left, size)


cdef void hash_begin(hash_stream_t* stream, uint64_t seed) noexcept nogil:
    stream.size = 0
    lanes_begin(stream.lanes, seed)


cdef void hash_update(hash_stream_t* stream, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t held = stream.size % STRIPE_BYTES
    cdef size_t taken
    stream.size += size
    if held:
        taken = min(size, STRIPE_BYTES - held)
        memcpy(stream.stripe + held, data, taken)
        if held + taken < STRIPE_BYTES:
            return
        lanes_take_stripe(stream.lanes, stream.stripe)
        data += taken
        size -= taken
    while size >= STRIPE_BYTES:
        lanes_take_stripe(stream.lanes, data)
        data += STRIPE_BYTES
        size -= STRIPE_BYTES
    if size:
        memcpy(stream.stripe, data, size)


cdef uint64_t hash_finish(const hash_stream_t* stream) noexcept nogil:
    return lanes_finish(stream.lanes, stream.stripe, stream.size % STRIPE_BYTES, stream.size)


# --- the door: tests and micro-benchmarks run the very code that requests run ---------------------------------------

def hash_of(bytes data not None, uint64_t seed=0):
    """The hash of `data` whole."""
    return hash_bytes(<const uint8_t*> <const char*> data, len(data), seed)


def hash_of_pieces(pieces, uint64_t seed=0):
    """The hash of the pieces joined, taken piece by piece."""
    cdef hash_stream_t stream
    cdef bytes piece
    hash_begin(&stream, seed)
    for piece in pieces:
        hash_update(&stream, <const uint8_t*> <const char*> piece, len(piece))
    return hash_finish(&stream)


def hash_repeatedly(bytes data not None, int times):
    """Hashes `data` `times` over, each seeded with the last; for benchmarks."""
    cdef const uint8_t* first = <const uint8_t*> <const char*> data
    cdef size_t size = len(data)
    cdef uint64_t value = 0
    with nogil:
        for _ in range(times):
            value = hash_bytes(first, size, value)
    return value

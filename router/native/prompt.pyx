"""The prompt chain of prompt.pxd: one running hash, read off at each boundary.

key[d] = hash of the prompt's first ends[d] bytes, xor salt(seed, model). The running hash takes whole stripes straight
from the piece, so the chain costs hardly more than one hash of the prompt, and any split gives the same keys.
Boundaries: the step begins at block_bytes and doubles at each boundary whose offset is at least STEP_RATIO steps. The
seed is the sum of one hash per part, each begun with the part's name, so the order of the parts in the JSON is
no matter.
Neighbours: body.pyx feeds it, prefix.pyx looks the keys up; tests/oracle/prompt.py is the plain reading.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from router.native.hash cimport hash_begin, hash_bytes, hash_finish, hash_update

cdef enum:
    STEP_RATIO = 16                  # a hit is known to an eighth of the prompt at worst, half of that on average

cdef uint64_t NO_BOUNDARY = 0xFFFFFFFFFFFFFFFF


cdef inline uint64_t next_step(uint64_t step_bytes, uint64_t boundary) noexcept nogil:
    return step_bytes * 2 if step_bytes * STEP_RATIO <= boundary else step_bytes


cdef void prompt_begin(prompt_chain_t* chain, uint32_t block_bytes) noexcept nogil:
    cdef uint64_t size = PROMPT_BLOCK_BYTES_MIN
    while size < block_bytes:
        size *= 2
    chain.block_bytes = <uint32_t> min(size, <uint64_t> 1 << 31)
    chain.count = 0
    chain.size_bytes = 0
    chain.step_bytes = chain.block_bytes
    chain.next_boundary = chain.block_bytes
    chain.seed = 0
    chain.seed_bytes = 0
    hash_begin(&chain.running, 0)


cdef void prompt_feed(prompt_chain_t* chain, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t taken
    while size >= chain.next_boundary - chain.size_bytes:
        taken = <size_t> (chain.next_boundary - chain.size_bytes)
        hash_update(&chain.running, data, taken)
        chain.keys[chain.count] = hash_finish(&chain.running)
        chain.count += 1
        chain.size_bytes += taken
        chain.step_bytes = next_step(chain.step_bytes, chain.size_bytes)
        chain.next_boundary += chain.step_bytes
        if chain.count == PROMPT_BLOCKS_MAX:
            chain.next_boundary = NO_BOUNDARY
        data += taken
        size -= taken
    if size and chain.count < PROMPT_BLOCKS_MAX:
        hash_update(&chain.running, data, size)
    chain.size_bytes += size


cdef void prompt_begin_ahead(prompt_chain_t* chain, uint64_t name) noexcept nogil:
    hash_begin(&chain.ahead, name)


cdef void prompt_feed_ahead(prompt_chain_t* chain, const uint8_t* data, size_t size) noexcept nogil:
    hash_update(&chain.ahead, data, size)


cdef void prompt_end_ahead(prompt_chain_t* chain) noexcept nogil:
    chain.seed += hash_finish(&chain.ahead)
    chain.seed_bytes += chain.ahead.size


cdef inline uint64_t non_zero(uint64_t key) noexcept nogil:
    return key if key else 1


cdef inline uint32_t bounded(uint64_t size_bytes) noexcept nogil:
    return <uint32_t> min(size_bytes, <uint64_t> 0xFFFFFFFF)


cdef uint32_t prompt_keys(
    const prompt_chain_t* chain, uint64_t model_hash, uint64_t* keys_out, uint32_t* ends_out
) noexcept nogil:
    cdef uint64_t[2] words
    cdef uint64_t salt, boundary, step
    cdef uint32_t count = 0
    cdef uint32_t index
    words[0] = chain.seed
    words[1] = model_hash
    salt = hash_bytes(<uint8_t*> words, sizeof(words), 0)
    if chain.seed_bytes:
        keys_out[0] = non_zero(salt)
        ends_out[0] = bounded(chain.seed_bytes)
        count = 1
    step = chain.block_bytes
    boundary = 0
    for index in range(chain.count):
        boundary += step
        step = next_step(step, boundary)
        keys_out[count] = non_zero(chain.keys[index] ^ salt)
        ends_out[count] = bounded(chain.seed_bytes + boundary)
        count += 1
    return count


cdef uint64_t prompt_key_upto(const prompt_chain_t* chain, const uint8_t* prompt, uint64_t size) noexcept nogil:
    cdef uint64_t boundary = 0, step = chain.block_bytes
    cdef uint64_t hashed
    cdef uint32_t count = 0
    while count < chain.count and boundary + step <= size:       # what the chain has hashed of it
        boundary += step
        step = next_step(step, boundary)
        count += 1
    hashed = chain.keys[count - 1] if count else 0
    return non_zero(hash_bytes(prompt + boundary, <size_t> (size - boundary), hashed))


cdef uint64_t prompt_total_bytes(const prompt_chain_t* chain) noexcept nogil:
    return chain.seed_bytes + chain.size_bytes


cdef uint32_t prompt_blocks(
    const prompt_chain_t* chain, uint64_t model_hash, uint32_t prompt_tokens, uint64_t* keys_out, uint32_t* tokens_out
) noexcept nogil:
    cdef uint32_t count = prompt_keys(chain, model_hash, keys_out, tokens_out)
    cdef uint64_t total_bytes = prompt_total_bytes(chain)
    # One division for all.
    cdef double ratio = <double> prompt_tokens / <double> total_bytes if total_bytes else 0
    cdef uint32_t index
    for index in range(count):
        tokens_out[index] = <uint32_t> (<double> tokens_out[index] * ratio)
    return count


# --- the door: tests and micro-benchmarks run the very code that requests run -----------------------------------------

cdef class PromptChain:
    """One prompt being fed."""
    cdef prompt_chain_t chain

    def __cinit__(self, uint32_t block_bytes=PROMPT_BLOCK_BYTES_DEFAULT):
        prompt_begin(&self.chain, block_bytes)

    def feed(self, bytes piece not None):
        # An exact copy on the heap, so that the address sanitizer sees any read outside it.
        cdef size_t size = len(piece)
        cdef uint8_t* copy = <uint8_t*> malloc(size if size else 1)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const char*> piece, size)
        prompt_feed(&self.chain, copy, size)
        free(copy)

    def feed_ahead(self, uint64_t name, pieces):
        cdef bytes piece
        prompt_begin_ahead(&self.chain, name)
        for piece in pieces:
            prompt_feed_ahead(&self.chain, <const uint8_t*> <const char*> piece, len(piece))
        prompt_end_ahead(&self.chain)

    @property
    def total_bytes(self):
        return prompt_total_bytes(&self.chain)

    def block_keys(self, uint64_t model_hash=0):
        """(key, end in bytes) of each boundary passed."""
        cdef uint64_t[PROMPT_KEYS_MAX] keys
        cdef uint32_t[PROMPT_KEYS_MAX] ends
        cdef uint32_t count = prompt_keys(&self.chain, model_hash, keys, ends)
        return [(keys[index], ends[index]) for index in range(count)]

    def blocks(self, uint64_t model_hash, uint32_t prompt_tokens):
        """(key, end in tokens) of each boundary passed."""
        cdef uint64_t[PROMPT_KEYS_MAX] keys
        cdef uint32_t[PROMPT_KEYS_MAX] tokens
        cdef uint32_t count = prompt_blocks(&self.chain, model_hash, prompt_tokens, keys, tokens)
        return [(keys[index], tokens[index]) for index in range(count)]


def feed_repeatedly(bytes prompt not None, int times):
    """Builds the chain of `prompt` and its keys `times` over; how many keys. For benchmarks."""
    cdef prompt_chain_t chain
    cdef uint64_t[PROMPT_KEYS_MAX] keys
    cdef uint32_t[PROMPT_KEYS_MAX] ends
    cdef const uint8_t* data = <const uint8_t*> <const char*> prompt
    cdef size_t size = len(prompt)
    cdef uint32_t count = 0
    with nogil:
        for _ in range(times):
            prompt_begin(&chain, PROMPT_BLOCK_BYTES_DEFAULT)
            prompt_feed(&chain, data, size)
            count = prompt_keys(&chain, 1, keys, ends)
    return count

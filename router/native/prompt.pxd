"""The chain of keys that a prompt's beginnings have, built while its body arrives.

A boundary lies after every `block_bytes` at first, and further apart as the prompt grows (a sixteenth to an eighth of
what lies before), so that 64 KiB have 48 boundaries and 1 MiB has 80. A boundary's place depends on its offset alone,
so a conversation's next turn has the same keys as far as it agrees. What engines put before the messages (tools,
system, of a model) is hashed aside and folded into every key at the end, whatever its place in the JSON.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from router.native.hash cimport hash_stream_t

cdef enum:
    PROMPT_BLOCK_BYTES_DEFAULT = 256     # about 64 tokens of English
    PROMPT_BLOCK_BYTES_MIN = 64          # other sizes than powers of two from here on are made one
    PROMPT_BLOCKS_MAX = 96               # 4 MiB in blocks of 256; deeper parts of a prompt are not told apart
    PROMPT_KEYS_MAX = 97                 # the seed's key comes first

cdef struct prompt_chain_t:          # made by prompt_begin
    uint32_t block_bytes             # of the first blocks
    uint32_t count                   # boundaries passed
    uint64_t size_bytes              # of the prompt so far
    uint64_t next_boundary
    uint64_t step_bytes              # between the last boundary and the next
    uint64_t seed                    # of what comes before the messages: tools, system, salt
    uint64_t seed_bytes
    hash_stream_t running            # of the prompt, from seed 0
    hash_stream_t ahead              # of the part before it that is being fed
    uint64_t keys[96]                # PROMPT_BLOCKS_MAX

cdef void prompt_begin(prompt_chain_t* chain, uint32_t block_bytes) noexcept nogil
# Bytes of the messages (or prompt, input ...), in any pieces.
cdef void prompt_feed(prompt_chain_t* chain, const uint8_t* data, size_t size) noexcept nogil
# One part of what is put before them, by its name (a number that tells tools from system): begin, bytes in any pieces,
# end. Parts may come in any order, before the prompt, after it, or between two pieces of it.
cdef void prompt_begin_ahead(prompt_chain_t* chain, uint64_t name) noexcept nogil
cdef void prompt_feed_ahead(prompt_chain_t* chain, const uint8_t* data, size_t size) noexcept nogil
cdef void prompt_end_ahead(prompt_chain_t* chain) noexcept nogil
# Folds the seed and the model's hash into the keys. keys_out[0] is the seed's own key when there is one (its end:
# seed_bytes); ends_out counts bytes of seed and prompt together. Returns how many, up to PROMPT_KEYS_MAX. The chain
# itself is not changed: may be asked early and again. No key is 0.
cdef uint32_t prompt_keys(
    const prompt_chain_t* chain, uint64_t model_hash, uint64_t* keys_out, uint32_t* ends_out) noexcept nogil
# One key of the prompt's first `size` bytes, which lie at `prompt` and have been fed; not 0. Of no model, and without
# the seed, more of which may be still to come.
cdef uint64_t prompt_key_upto(const prompt_chain_t* chain, const uint8_t* prompt, uint64_t size) noexcept nogil
# Seed and prompt so far: what a bytes-per-token ratio is applied to.
cdef uint64_t prompt_total_bytes(const prompt_chain_t* chain) noexcept nogil
# What a pick wants: as prompt_keys, with ends in tokens when all of the prompt so far has `prompt_tokens`.
cdef uint32_t prompt_blocks(
    const prompt_chain_t* chain, uint64_t model_hash, uint32_t prompt_tokens, uint64_t* keys_out,
    uint32_t* tokens_out) noexcept nogil

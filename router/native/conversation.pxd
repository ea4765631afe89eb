"""What identifies a conversation that grows: its prompt up to the end of the first message of a user.

What comes before it (a system prompt) is shared by many conversations, and what comes after changes with every turn.
"""

from libc.stdint cimport uint8_t, uint64_t
from router.native.prompt cimport prompt_chain_t

cdef enum:
    CONVERSATION_BYTES_MAX = 65536   # looked at: a first message that is longer is known by so much of it

# How many bytes from the start of `messages` (or `input`), of which `size` are here, are up to the end of the first
# object whose role is user; CONVERSATION_BYTES_MAX when it ends later; 0: there is none.
cdef size_t conversation_end(const uint8_t* messages, size_t size) noexcept nogil
# The conversation's key, 0: it has none. `chain` is the prompt's, whose bytes begin at `messages`.
cdef uint64_t conversation_key(const prompt_chain_t* chain, const uint8_t* messages, size_t size) noexcept nogil

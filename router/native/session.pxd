"""Where each session was served last, in memory shared by all workers.

A session is a key (a hash of a header, of the body's user, or of a conversation's beginning: see conversation.pxd). An
entry says which endpoint and model had its last request, when, and how long that prompt was. Four entries share a cache
line; of a full one the session that was seen least recently gives way. Every word is read and written whole, and the
slot lies in one word with the key, so a race may lose a session or misdate it, which costs affinity and never
correctness.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    static inline void fl_prefetch(const void* address) { __builtin_prefetch(address, 1); }
    """
    void fl_prefetch(const void* address) noexcept nogil

cdef enum:
    SESSION_WAYS = 4                 # entries a session may be in
    SESSION_PROMPT_TOKENS_MAX = 0xFFFFF      # a longer prompt is remembered as so long

cdef struct session_table_t:         # process-local view of the shared segment
    uint8_t* base
    uint64_t* words                  # words[set_count * 8]: a line each, of SESSION_WAYS entries
    uint64_t* since                  # since[slot]: what was noted up to this tick is of an endpoint before it
    uint32_t set_count
    uint32_t slot_count

cdef struct session_place_t:
    uint32_t slot
    uint32_t model                   # lower 16 bits of the model's hash
    uint32_t prompt_tokens           # of the last request
    uint64_t seen_us                 # within a second

cdef struct session_t:               # what a pick knows of the session that asks
    uint64_t key                     # 0: nobody's, or sessions are not remembered
    bint is_known                    # it has been somewhere, which is `last`
    bint is_of_other_model           # that place's model is not the one that these candidates are for
    int home                         # that place's position among the candidates; -1: it is none of them
    session_place_t last

cdef inline uint64_t session_line(const session_table_t* table, uint64_t key) noexcept nogil:
    """The first word of the session's line. Keys are hashes, or small numbers in tests: both spread."""
    key *= <uint64_t>0x9E3779B97F4A7C15      # 2^64 / golden ratio
    key = (key ^ key >> 29) * <uint64_t>0xBF58476D1CE4E5B9
    return ((key >> 32) * table.set_count >> 32) * 8

# The line that session_find will read begins its way into the cache.
cdef inline void session_prefetch(const session_table_t* table, uint64_t key) noexcept nogil:
    fl_prefetch(table.words + session_line(table, key))

# Whether it was seen within `remembered_s`, at an endpoint that has not joined anew since; then where. One line is
# read, and a word more when it is there.
cdef bint session_find(
    const session_table_t* table, uint64_t key, float remembered_s, uint64_t now_us, session_place_t* place
) noexcept nogil
# Its request goes there. `key` is not 0.
cdef void session_put(
    session_table_t* table, uint64_t key, uint32_t slot, uint64_t model, uint32_t prompt_tokens, uint64_t now_us
) noexcept nogil
# The endpoint (re)joins cold, or the slot goes to another: nobody has been there. Nor does it count who comes within
# the same second.
cdef void session_forget(session_table_t* table, uint32_t slot, uint64_t now_us) noexcept nogil

cdef class SessionTable:
    cdef session_table_t table
    cdef object _mapping
    cdef readonly int fd             # owned by the table; pass it on, do not close it

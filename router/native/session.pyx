"""Where each session was served last; see session.pxd.

Layout of the segment: a header page, `since` of each slot, then lines of four entries of two words: the upper 48 bits
of the mixed key above the slot (16), and the tick of the last request (28 bits of 1.05 s) above its prompt's tokens
(20) above the model (16). A tick of 0 is an empty entry. Two sessions are taken for one by chance once in 2^48.

Invariant: whatever the words hold, an answer's slot is one of the table's. Neighbours: policy_five_axis (looks up),
decision (notes), shared_state (forgets slots that change hands); tests/oracle/session.py is the plain reading.
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.atomic cimport load_u64, store_u64
from router.native.segment cimport (
    SEGMENT_HEADER_BYTES, SLOT_COUNT_MAX, Segment, segment_attach_table, segment_check_slot, segment_check_slot_count,
    segment_create, table_head_t,
)

cdef enum:
    LAYOUT_VERSION = 1
    LINE_BYTES = 64
    LINE_WORDS = 8
    TICK_SHIFT = 20                  # a tick is 2^20 us
    STAMP_SHIFT = 36                 # of the tick in its word
    TOKENS_SHIFT = 16

cdef uint64_t MAGIC = 0x31535345534C4644     # "DFLSESS1"
cdef uint64_t SLOT_BITS = 0xFFFF
cdef uint64_t TICKS_MAX = 0xFFFFFFF          # eight years of uptime
cdef float TICKS_PER_S = 1e6 / (1 << TICK_SHIFT)
cdef float REMEMBERED_TICKS_MAX = 1e8        # fits an integer; three years

cdef struct header_t:
    table_head_t head
    uint32_t set_count


cdef inline uint64_t _tag(uint64_t key) noexcept nogil:
    return (key * <uint64_t>0x9E3779B97F4A7C15) & ~SLOT_BITS


cdef inline uint64_t _tick(uint64_t now_us) noexcept nogil:
    return min(max(now_us >> TICK_SHIFT, <uint64_t>1), TICKS_MAX)


cdef bint session_find(
    const session_table_t* table, uint64_t key, float remembered_s, uint64_t now_us, session_place_t* place
) noexcept nogil:
    cdef const uint64_t* line = table.words + session_line(table, key)
    cdef uint64_t tag = _tag(key), now = _tick(now_us), stamp, word, found_stamp = 0, found = 0, slot = 0
    cdef uint32_t way
    for way in range(SESSION_WAYS):
        word = load_u64(line + 2 * way)
        if word & ~SLOT_BITS == tag:
            stamp = load_u64(line + 2 * way + 1)
            if stamp >> STAMP_SHIFT > found_stamp:       # a race may have made two
                found_stamp, found, slot = stamp >> STAMP_SHIFT, stamp, word & SLOT_BITS
    if found_stamp == 0 or slot >= table.slot_count or found_stamp <= load_u64(table.since + slot):
        return False
    if now > found_stamp and now - found_stamp > <uint64_t>min(remembered_s * TICKS_PER_S, REMEMBERED_TICKS_MAX):
        return False
    place.slot = <uint32_t>slot
    place.model = <uint32_t>(found & SLOT_BITS)
    place.prompt_tokens = <uint32_t>(found >> TOKENS_SHIFT) & SESSION_PROMPT_TOKENS_MAX
    place.seen_us = found_stamp << TICK_SHIFT
    return True


cdef void session_put(
    session_table_t* table, uint64_t key, uint32_t slot, uint64_t model, uint32_t prompt_tokens, uint64_t now_us
) noexcept nogil:
    cdef uint64_t* line = table.words + session_line(table, key)
    cdef uint64_t tag = _tag(key), word, stamp, oldest = ~<uint64_t>0
    cdef uint32_t way, chosen = 0
    for way in range(SESSION_WAYS):
        word = load_u64(line + 2 * way)
        stamp = load_u64(line + 2 * way + 1) >> STAMP_SHIFT
        if word & ~SLOT_BITS == tag and stamp:
            chosen = way
            break
        if stamp < oldest:                   # an empty one, or who was seen least recently
            chosen, oldest = way, stamp
    else:
        store_u64(line + 2 * chosen + 1, 0)  # nobody's while it changes hands
    store_u64(line + 2 * chosen, tag | slot)
    store_u64(line + 2 * chosen + 1,
              _tick(now_us) << STAMP_SHIFT
              | <uint64_t>min(prompt_tokens, <uint32_t>SESSION_PROMPT_TOKENS_MAX) << TOKENS_SHIFT
              | model & SLOT_BITS)


cdef void session_forget(session_table_t* table, uint32_t slot, uint64_t now_us) noexcept nogil:
    store_u64(table.since + slot, _tick(now_us))


# --- the door --------------------------------------------------------------------------------------------------------

cdef class SessionTable:
    """One table; see session.pyi for the Python side."""

    @staticmethod
    def create(size_t size_bytes, uint32_t slot_count):
        segment_check_slot_count(slot_count)
        cdef size_t least = _lines_at(slot_count) + LINE_BYTES
        if not least <= size_bytes <= <size_t>1 << 36:
            raise ValueError(f"size_bytes must be {least}..{1 << 36} for {slot_count} slots, not {size_bytes}")
        cdef Segment segment = segment_create(b"fairlead-sessions", size_bytes)
        cdef header_t* header = <header_t*>segment.base
        header.head.layout_version = LAYOUT_VERSION
        header.head.slot_count = slot_count
        header.set_count = <uint32_t>((size_bytes - _lines_at(slot_count)) // LINE_BYTES)
        store_u64(&header.head.magic, MAGIC)
        return _open(segment)

    @staticmethod
    def attach(int fd):
        cdef Segment segment = segment_attach_table(fd, MAGIC, LAYOUT_VERSION, "session table")
        cdef header_t* header = <header_t*>segment.base
        cdef uint32_t slot_count = header.head.slot_count
        if not 1 <= slot_count <= SLOT_COUNT_MAX or header.set_count == 0 \
                or segment.size_bytes // LINE_BYTES != _lines_at(slot_count) // LINE_BYTES + header.set_count:
            raise ValueError(
                f"session table header ({slot_count} slots, {header.set_count} lines) does not fit its segment"
                f" of {segment.size_bytes} bytes"
            )
        return _open(segment)

    @property
    def slot_count(self):
        return self.table.slot_count

    @property
    def set_count(self):
        return self.table.set_count

    def line(self, uint64_t key):
        return session_line(&self.table, key) // LINE_WORDS

    def find(self, uint64_t key, uint64_t now_us, float remembered_s=3600):
        cdef session_place_t place
        if not session_find(&self.table, key, remembered_s, now_us, &place):
            return None
        return place.slot, place.model, place.prompt_tokens

    def put(self, uint64_t key, uint32_t slot, uint64_t now_us, *, uint64_t model=0, uint32_t prompt_tokens=0):
        _check(self, slot)
        session_put(&self.table, key, slot, model, prompt_tokens, now_us)

    def forget(self, uint32_t slot, uint64_t now_us):
        _check(self, slot)
        session_forget(&self.table, slot, now_us)

    def churn(self, uint64_t first_key, uint32_t key_count, uint32_t rounds, uint64_t now_us):
        """Notes each of the keys in turn, at the slot that is its remainder; how many are ever found elsewhere."""
        cdef session_place_t place
        cdef uint64_t key
        cdef uint32_t turn, wrong_count = 0
        with nogil:
            for turn in range(rounds):
                for key in range(first_key, first_key + key_count):
                    session_put(&self.table, key, <uint32_t>(key % self.table.slot_count), key, turn, now_us)
                    if session_find(&self.table, key, 3600, now_us, &place):
                        wrong_count += place.slot != key % self.table.slot_count
        return wrong_count


cdef int _check(SessionTable self, uint32_t slot) except -1:
    return segment_check_slot(slot, self.table.slot_count)


cdef inline size_t _lines_at(uint32_t slot_count) noexcept nogil:
    return SEGMENT_HEADER_BYTES + (slot_count * sizeof(uint64_t) + LINE_BYTES - 1) // LINE_BYTES * LINE_BYTES


cdef SessionTable _open(Segment segment):
    cdef SessionTable self = SessionTable.__new__(SessionTable)
    cdef header_t* header = <header_t*>segment.base
    self._mapping = segment
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.slot_count = header.head.slot_count
    self.table.set_count = header.set_count
    self.table.since = <uint64_t*>(segment.base + SEGMENT_HEADER_BYTES)
    self.table.words = <uint64_t*>(segment.base + _lines_at(header.head.slot_count))
    return self

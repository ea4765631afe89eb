"""The prefix table of prefix.pxd: a bounded hash table of claims "this endpoint should have this block cached".

Layout of the segment: a header page; clocks and figures of all slots; the marks of all buckets; their
entries. A bucket is PREFIX_WAYS entries; its marks (a tag and a touch per entry, 16 bytes) are apart from them and
small enough to stay in the CPU's cache, so that a key that is not there costs no miss, and one that is there costs one.
Age. A slot's clock counts in units of 1/CAPACITY_UNITS of its cache, and a claim's stamp is the clock's low 16 bits, so
that age is their difference modulo 2^16. A claim counts up to AGE_MAX units: a quarter more than the cache, because a
view too large costs little and one too small much (half the true size: 16 points of goodput in our simulation of
saturated chat). After 2^16 / CAPACITY_UNITS = 256 fills of the cache an untouched claim looks fresh for 1.25 fills:
a wrong guess in 200, which `trust` covers.
Races. Every field is one atomic word. A new entry's key and tag are written last and taken away first; a reader that
comes between may see claims of another block.
Neighbours: prompt.pyx makes the keys, decision.pyx inserts, view.pyx matches; prefix_cache.pyx has what is known
of each cache; tests/oracle/prefix.py reads plainly.
"""

from array import array

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from router.native.atomic cimport load_f32, load_u32, load_u64, store_u32, store_u64
from router.native.prefix_cache cimport (
    AGE_MAX, AGED_MAX, AGED_MIN, UNIT_SHIFT, cache_give, cache_weigh_eviction, prefix_forget, prefix_reported,
    prefix_set_capacity,
)
from router.native.segment cimport (
    SEGMENT_HEADER_BYTES, Segment, segment_attach_table, segment_check_slot, segment_check_slot_count, segment_create,
    segment_use_huge_pages, segment_used_bytes,
)

from router.native.wide cimport FL_WIDE  # no-cython-lint: used in C

cdef extern from *:
    """
    static inline void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
    /* Four numbers of 16 bits in a word. Bit 15 of each lane that holds `value`; lanes above the first may be marked
       wrongly (a borrow), so that only the first is certain. */
    #define FL_LANES UINT64_C(0x0001000100010001)
    static inline uint64_t lanes_equal(uint64_t lanes, uint16_t value) {
        uint64_t x = lanes ^ value * FL_LANES;
        return (x - FL_LANES) & ~x & FL_LANES << 15;
    }
    static inline uint32_t first_lane(uint64_t equal) { return (uint32_t) __builtin_ctzll(equal) >> 4; }
    /* 2^64 / golden ratio: Fibonacci hashing (Knuth, volume 3, 6.4). */
    #define FL_SPREAD UINT64_C(0x9E3779B97F4A7C15)
    /* Of tokens found and tokens that all have the larger, trusted. */
    FL_WIDE static void fl_hits(const float* __restrict found, const float* __restrict trust, float all,
                                float* __restrict hits, uint32_t count) {
        for (uint32_t i = 0; i < count; i++)
            hits[i] = (found[i] > all ? found[i] : all) * trust[i];
    }
    FL_WIDE static int fl_in_a_row(const uint32_t* __restrict slots, uint32_t count) {
        uint32_t gaps = 0;
        for (uint32_t i = 0; i < count; i++)
            gaps |= slots[i] ^ (slots[0] + i);
        return gaps == 0;
    }
    """
    void fl_hits(const float* found, const float* trust, float all, float* hits, uint32_t count) noexcept nogil
    bint fl_in_a_row(const uint32_t* slots, uint32_t count) noexcept nogil
    uint64_t lanes_equal(uint64_t lanes, uint16_t value) noexcept nogil
    uint32_t first_lane(uint64_t equal) noexcept nogil
    const uint64_t SPREAD "FL_SPREAD"
    void prefetch(const void* p) noexcept nogil

cdef enum:
    LAYOUT_VERSION = 2
    SLOTS_PER_LINE = 16
    LOOKAHEAD = 16                   # entries on their way into the cache: the line fill buffers of current cores
    TOUCH_SHIFT = 18                 # of microseconds: touches are 0.26 s apart and wrap after 4.8 h
    OWNERS_MASK = 0xFF               # of an entry's state
    EVERYWHERE = 0x100               # more than PREFIX_OWNERS_MAX owners
    EVERYWHERE_FRESH_MIN = 6         # ... as long as half of those that are known are fresh

cdef uint64_t MAGIC = 0x315846455250464C  # "LFPREFX1"

cdef struct header_t:
    uint64_t magic
    uint32_t layout_version
    uint32_t slot_count
    uint32_t bucket_count
    uint32_t entry_bytes
    uint64_t size_bytes

cdef struct marks_t:                 # 16 bits per entry of the bucket, the first lowest
    uint64_t tags                    # 0: the entry is empty
    uint64_t touches                 # when the entry was last inserted, in steps of 2^TOUCH_SHIFT us

cdef struct entry_t:                 # a cache line
    uint64_t key
    uint32_t state                   # owners in use, and EVERYWHERE
    uint32_t padding
    uint32_t owners[12]              # PREFIX_OWNERS_MAX; slot << 16 | stamp


# --- places -----------------------------------------------------------------------------------------------------------

cdef inline uint64_t _spread(uint64_t key) noexcept nogil:
    cdef uint64_t h = (key ^ (key >> 32)) * SPREAD               # keys of prompts are hashes, a simulation's are not
    return (h ^ (h >> 32)) * SPREAD


cdef inline uint32_t _bucket(const prefix_table_t* table, uint64_t spread) noexcept nogil:
    return <uint32_t> ((spread >> 32) * table.bucket_count >> 32)    # scaled: any count will do


cdef inline uint16_t _tag(uint64_t spread) noexcept nogil:
    cdef uint16_t tag = <uint16_t> (spread >> 16)
    return tag if tag else 1


cdef inline marks_t* _marks(const prefix_table_t* table, uint32_t bucket) noexcept nogil:
    return <marks_t*> table.marks + bucket


cdef inline entry_t* _entry(const prefix_table_t* table, uint32_t bucket, uint32_t way) noexcept nogil:
    return <entry_t*> table.entries + <size_t> bucket * PREFIX_WAYS + way


cdef inline void _set_lane(uint64_t* lanes, uint32_t way, uint16_t value) noexcept nogil:
    """Written whole: a race may undo another's change of the word, which is no more than a lost claim."""
    cdef uint64_t seen = load_u64(lanes)
    cdef uint64_t wanted = (seen & ~(<uint64_t> 0xFFFF << way * 16)) | <uint64_t> value << way * 16
    if seen != wanted:                                           # most often not: no other core loses the line
        store_u64(lanes, wanted)


cdef entry_t* _search(const prefix_table_t* table, uint64_t key, uint64_t spread) noexcept nogil:
    """The key's entry, of all in its bucket that have its tag; NULL when there is none."""
    cdef uint32_t bucket = _bucket(table, spread)
    cdef uint64_t ways = lanes_equal(load_u64(&_marks(table, bucket).tags), _tag(spread))
    cdef entry_t* entry
    while ways:
        entry = _entry(table, bucket, first_lane(ways))
        if load_u64(&entry.key) == key:
            return entry
        ways &= ways - 1
    return NULL


cdef inline entry_t* _expect(const prefix_table_t* table, uint64_t spread) noexcept nogil:
    """Where the key's entry probably is, on its way into the cache, or NULL: its key has not been compared."""
    cdef uint32_t bucket = _bucket(table, spread)
    cdef uint64_t ways = lanes_equal(load_u64(&_marks(table, bucket).tags), _tag(spread))
    cdef entry_t* entry
    if ways == 0:
        return NULL
    entry = _entry(table, bucket, first_lane(ways))
    prefetch(entry)
    return entry


cdef inline void _approach(
    const prefix_table_t* table, const uint64_t* keys, uint32_t depth, uint64_t* spreads
) noexcept nogil:
    """The keys' places, with the marks there on their way into the cache."""
    cdef uint32_t d
    for d in range(depth):
        spreads[d] = _spread(keys[d])
        prefetch(_marks(table, _bucket(table, spreads[d])))


# --- claims -----------------------------------------------------------------------------------------------------------

cdef inline uint32_t _age(const prefix_table_t* table, uint32_t owner) noexcept nogil:
    """Of a claim, in units of its slot's cache; over AGE_MAX when the slot is none of ours."""
    cdef uint32_t slot = owner >> 16
    if slot >= table.slot_count:
        return 0xFFFF
    return (<uint32_t> (load_u64(&table.clocks[slot]) >> UNIT_SHIFT) - owner) & 0xFFFF


cdef inline uint32_t _owner_count(uint32_t state) noexcept nogil:
    return min(state & OWNERS_MASK, <uint32_t> PREFIX_OWNERS_MAX)


cdef inline bint _is_everywhere(const prefix_table_t* table, const entry_t* entry, uint32_t state) noexcept nogil:
    cdef uint32_t index
    cdef uint32_t fresh_count = 0
    if not state & EVERYWHERE:
        return False
    for index in range(PREFIX_OWNERS_MAX):
        fresh_count += _age(table, load_u32(&entry.owners[index])) <= AGE_MAX
        if fresh_count == EVERYWHERE_FRESH_MIN:
            return True
    return False


cdef inline bint _claim(const prefix_table_t* table, entry_t* entry, uint32_t owner) noexcept nogil:
    """Makes `owner` one of the entry's, in place of its own earlier claim, an expired one or the oldest.

    Returns whether its own earlier claim had the age at which claims are evicted.
    """
    cdef uint32_t state = load_u32(&entry.state)
    cdef uint32_t count = _owner_count(state)
    cdef uint32_t index, seen, age
    cdef uint32_t place = PREFIX_OWNERS_MAX
    cdef uint32_t oldest = 0
    cdef uint32_t oldest_age = 0
    cdef uint32_t fresh_count = 0
    cdef bint is_aged = False
    for index in range(count):
        seen = load_u32(&entry.owners[index])
        if seen == owner:
            return False                                         # most often: no write, and no other core's line lost
        age = _age(table, seen)
        if (seen ^ owner) >> 16 == 0:
            is_aged = AGED_MIN <= age <= AGED_MAX
            if age <= AGE_MAX:
                store_u32(&entry.owners[index], owner)
                return is_aged
            place = index
        if age <= AGE_MAX:
            fresh_count += 1
        if index == 0 or age > oldest_age:
            oldest = index
            oldest_age = age
    if place == PREFIX_OWNERS_MAX:
        if count and oldest_age > AGE_MAX:
            place = oldest
        elif count < PREFIX_OWNERS_MAX:
            place = count
            count += 1
        else:
            place = oldest
            state |= EVERYWHERE
    store_u32(&entry.owners[place], owner)
    if fresh_count < EVERYWHERE_FRESH_MIN:
        state &= ~<uint32_t> EVERYWHERE
    store_u32(&entry.state, (state & EVERYWHERE) | count)
    return is_aged


cdef inline void _replace(
    const prefix_table_t* table, uint64_t key, uint64_t spread, uint32_t owner, uint16_t touch
) noexcept nogil:
    """A new entry with one owner, in the bucket's empty place or that of its least recently touched."""
    cdef uint32_t bucket = _bucket(table, spread)
    cdef marks_t* marks = _marks(table, bucket)
    cdef uint64_t empty = lanes_equal(load_u64(&marks.tags), 0)
    cdef uint64_t touches = load_u64(&marks.touches)
    cdef uint32_t way = 0
    cdef uint32_t index
    cdef uint16_t age
    cdef uint16_t oldest_age = 0
    cdef entry_t* entry
    if empty:
        way = first_lane(empty)
    else:
        for index in range(PREFIX_WAYS):
            age = <uint16_t> (touch - <uint16_t> (touches >> index * 16))
            if age > oldest_age:
                way = index
                oldest_age = age
    entry = _entry(table, bucket, way)
    _set_lane(&marks.tags, way, 0)
    store_u64(&entry.key, 0)
    store_u32(&entry.owners[0], owner)
    store_u32(&entry.state, 1)
    store_u64(&entry.key, key)
    _set_lane(&marks.touches, way, touch)
    _set_lane(&marks.tags, way, _tag(spread))


# --- what others call -------------------------------------------------------------------------------------------------

cdef inline void _answer(
    const prefix_table_t* table, float base_tokens, const uint32_t* slots, uint32_t count, float* hit_tokens
) noexcept nogil:
    """Slots in a row, as most are, by vectors."""
    cdef uint32_t index
    if count == 0:
        return
    if fl_in_a_row(slots, count):
        fl_hits(table.found + slots[0], table.trust + slots[0], base_tokens, hit_tokens, count)
        return
    for index in range(count):
        fl_hits(table.found + slots[index], table.trust + slots[index], base_tokens, hit_tokens + index, 1)


cdef void prefix_approach(
    const prefix_table_t* table, const uint64_t* keys, uint32_t depth, uint64_t* spreads
) noexcept nogil:
    _approach(table, keys, min(depth, <uint32_t> PREFIX_DEPTH_MAX), spreads)


cdef void prefix_match(
    prefix_table_t* table, const uint64_t* keys, const uint32_t* tokens, uint32_t depth, const uint32_t* slots,
    uint32_t count, float* hit_tokens
) noexcept nogil:
    cdef uint64_t[PREFIX_DEPTH_MAX] spreads
    prefix_approach(table, keys, depth, spreads)
    prefix_match_approached(table, keys, spreads, tokens, depth, slots, count, hit_tokens)


cdef void prefix_match_approached(
    prefix_table_t* table, const uint64_t* keys, const uint64_t* spreads, const uint32_t* tokens, uint32_t depth,
    const uint32_t* slots, uint32_t count, float* hit_tokens
) noexcept nogil:
    # found[slot] is how many boundaries a slot has been followed along. Up to the first block that is not everywhere
    # all are alive; from there on at most PREFIX_OWNERS_MAX, which are listed.
    cdef entry_t* expected[LOOKAHEAD]
    cdef uint32_t[PREFIX_OWNERS_MAX] listed
    cdef uint32_t listed_count = 0
    cdef uint32_t base_depth = 0
    cdef uint32_t d, index, state, owner, slot
    cdef float* found = table.found
    cdef float reached, here, base_tokens
    cdef bint is_alive
    cdef entry_t* entry
    depth = min(depth, <uint32_t> PREFIX_DEPTH_MAX)
    for d in range(min(depth, <uint32_t> LOOKAHEAD)):
        expected[d] = _expect(table, spreads[d])
        if expected[d] == NULL:
            depth = d
            break
    d = 0
    while d < depth:
        entry = expected[d % LOOKAHEAD]
        if load_u64(&entry.key) != keys[d]:
            entry = _search(table, keys[d], spreads[d])
            if entry == NULL:
                break
        if d + LOOKAHEAD < depth:
            expected[d % LOOKAHEAD] = _expect(table, spreads[d + LOOKAHEAD])
            if expected[d % LOOKAHEAD] == NULL:
                depth = d + LOOKAHEAD
        state = load_u32(&entry.state)
        reached = <float> d
        d += 1
        here = <float> d
        if _is_everywhere(table, entry, state):
            if listed_count == 0:
                base_depth = d
            for index in range(listed_count):
                if found[listed[index]] == reached:
                    found[listed[index]] = here
            continue
        is_alive = False
        if listed_count == 0:
            for index in range(_owner_count(state)):
                owner = load_u32(&entry.owners[index])
                slot = owner >> 16
                if _age(table, owner) <= AGE_MAX and found[slot] == 0:
                    found[slot] = here
                    listed[listed_count] = slot
                    listed_count += 1
                    is_alive = True
        else:
            for index in range(_owner_count(state)):
                owner = load_u32(&entry.owners[index])
                slot = owner >> 16
                if slot < table.slot_count and found[slot] == reached and _age(table, owner) <= AGE_MAX:
                    found[slot] = here
                    is_alive = True
        if not is_alive:
            break
    base_tokens = <float> tokens[base_depth - 1] if base_depth else 0
    if listed_count == 0 and base_depth == 0:
        for index in range(count):
            hit_tokens[index] = 0
        return
    for index in range(listed_count):
        found[listed[index]] = <float> tokens[<uint32_t> found[listed[index]] - 1]
    _answer(table, base_tokens, slots, count, hit_tokens)
    for index in range(listed_count):
        found[listed[index]] = 0


cdef void prefix_insert(
    prefix_table_t* table, const uint64_t* keys, const uint32_t* tokens, uint32_t depth, uint32_t slot,
    uint32_t uncached_tokens, uint64_t now_us
) noexcept nogil:
    cdef uint16_t touch = <uint16_t> (now_us >> TOUCH_SHIFT)
    cdef uint32_t owner, bucket, d
    cdef uint32_t begin = 0
    cdef float aged_tokens = 0
    cdef uint64_t spread
    cdef uint64_t[PREFIX_DEPTH_MAX] spreads
    cdef entry_t* entry
    owner = slot << 16 | <uint32_t> (cache_give(table, slot, uncached_tokens) >> UNIT_SHIFT & 0xFFFF)
    depth = min(depth, <uint32_t> PREFIX_DEPTH_MAX)
    _approach(table, keys, depth, spreads)
    for d in range(min(depth, <uint32_t> LOOKAHEAD)):
        _expect(table, spreads[d])
    for d in range(depth):
        if d + LOOKAHEAD < depth:
            _expect(table, spreads[d + LOOKAHEAD])
        spread = spreads[d]
        entry = _search(table, keys[d], spread)
        if entry == NULL:
            _replace(table, keys[d], spread, owner, touch)
        else:
            if _claim(table, entry, owner):
                aged_tokens += <float> (tokens[d] - begin)
            bucket = _bucket(table, spread)
            _set_lane(&_marks(table, bucket).touches, <uint32_t> (entry - _entry(table, bucket, 0)), touch)
        begin = tokens[d]
    cache_weigh_eviction(table, slot, aged_tokens, <float> uncached_tokens)


# --- the segment ------------------------------------------------------------------------------------------------------

cdef size_t _fixed_bytes(uint32_t slot_count) noexcept nogil:
    return SEGMENT_HEADER_BYTES + <size_t> slot_count * (sizeof(uint64_t) + 4 * sizeof(float) + sizeof(uint32_t))


cdef size_t _bucket_bytes() noexcept nogil:
    return sizeof(marks_t) + PREFIX_WAYS * sizeof(entry_t)


cdef size_t _marks_bytes(uint32_t bucket_count) noexcept nogil:
    return (<size_t> bucket_count * sizeof(marks_t) + 63) & ~<size_t> 63


cdef class PrefixTable:
    """The table of one supervisor and its workers; see prefix.pyi for the Python side."""

    def __dealloc__(self):
        free(self.table.found)

    @staticmethod
    def create(size_t size_bytes, uint32_t slot_count):
        segment_check_slot_count(slot_count)
        slot_count = (slot_count + SLOTS_PER_LINE - 1) // SLOTS_PER_LINE * SLOTS_PER_LINE
        cdef size_t fixed_bytes = _fixed_bytes(slot_count) + 64
        if not fixed_bytes + _bucket_bytes() <= size_bytes <= <size_t> 1 << 38:
            raise ValueError(
                f"size_bytes must be {fixed_bytes + _bucket_bytes()}..{1 << 38} for {slot_count} slots,"
                f" not {size_bytes}"
            )
        cdef Segment segment = segment_create(b"fairlead-prefix", size_bytes)
        cdef header_t* header = <header_t*> segment.base
        header.layout_version = LAYOUT_VERSION
        header.slot_count = slot_count
        header.bucket_count = <uint32_t> ((size_bytes - fixed_bytes) // _bucket_bytes())
        header.entry_bytes = sizeof(entry_t)
        header.size_bytes = size_bytes
        cdef PrefixTable self = _open(segment)
        for slot in range(slot_count):
            self.table.trust[slot] = 1
        store_u64(&header.magic, MAGIC)
        return self

    @staticmethod
    def attach(int fd):
        cdef Segment segment = segment_attach_table(fd, MAGIC, LAYOUT_VERSION, "prefix table")
        cdef header_t* header = <header_t*> segment.base
        if not (
            header.entry_bytes == sizeof(entry_t) and header.slot_count and header.bucket_count
            and header.size_bytes == segment.size_bytes
            and _fixed_bytes(header.slot_count) + 64 + header.bucket_count * _bucket_bytes() <= segment.size_bytes
        ):
            raise ValueError(
                f"prefix table header ({header.slot_count} slots, {header.bucket_count} buckets,"
                f" {header.size_bytes} bytes) does not fit its segment of {segment.size_bytes} bytes"
            )
        return _open(segment)

    @property
    def slot_count(self):
        return self.table.slot_count

    @property
    def bucket_count(self):
        return self.table.bucket_count

    @property
    def size_bytes(self):
        return self.table.size_bytes

    def used_bytes(self):
        return segment_used_bytes(<Segment>self._mapping)

    def use_huge_pages(self):
        return segment_use_huge_pages(<Segment>self._mapping)

    def match(self, keys, tokens, slots):
        cdef uint64_t[::1] chain = array("Q", keys)
        cdef uint32_t[::1] ends = _ends(tokens, len(keys))
        cdef uint32_t[::1] wanted = _slots(self, slots)
        cdef float[::1] hits = array("f", [0]) * len(wanted)
        prefix_match(&self.table, &chain[0], &ends[0], len(ends), &wanted[0], len(wanted), &hits[0])
        return list(hits)

    def insert(self, keys, tokens, uint32_t slot, uint32_t uncached_tokens, uint64_t now_us):
        cdef uint64_t[::1] chain = array("Q", keys)
        cdef uint32_t[::1] ends = _ends(tokens, len(keys))
        _check(self, slot)
        prefix_insert(&self.table, &chain[0], &ends[0], len(ends), slot, uncached_tokens, now_us)

    def reported(self, uint32_t slot, uint32_t expected_tokens, uint32_t reported_tokens, uint32_t missed_tokens=0):
        _check(self, slot)
        prefix_reported(&self.table, slot, expected_tokens, reported_tokens, missed_tokens)

    def forget(self, uint32_t slot):
        _check(self, slot)
        prefix_forget(&self.table, slot)

    def set_capacity(self, uint32_t slot, uint32_t capacity_tokens):
        _check(self, slot)
        prefix_set_capacity(&self.table, slot, capacity_tokens)

    def eviction(self, uint32_t slot):
        _check(self, slot)
        return load_f32(&self.table.eviction[slot])

    def trust(self, uint32_t slot):
        _check(self, slot)
        return load_f32(&self.table.trust[slot])


cdef int _check(PrefixTable self, uint32_t slot) except -1:
    return segment_check_slot(slot, self.table.slot_count)


cdef object _ends(tokens, size_t depth):
    if len(tokens) != depth:
        raise ValueError(f"{depth} keys with {len(tokens)} token counts")
    return array("I", tokens)


cdef object _slots(PrefixTable self, slots):
    for slot in slots:
        _check(self, slot)
    return array("I", slots)


cdef PrefixTable _open(Segment segment):
    cdef PrefixTable self = PrefixTable.__new__(PrefixTable)
    cdef header_t* header = <header_t*> segment.base
    self._mapping = segment
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.size_bytes = segment.size_bytes
    self.table.slot_count = header.slot_count
    self.table.bucket_count = header.bucket_count
    self.table.clocks = <uint64_t*> (segment.base + SEGMENT_HEADER_BYTES)
    self.table.trust = <float*> (self.table.clocks + header.slot_count)
    self.table.aged_tokens = self.table.trust + header.slot_count
    self.table.taken_tokens = self.table.aged_tokens + header.slot_count
    self.table.eviction = self.table.taken_tokens + header.slot_count
    self.table.capacity_tokens = <uint32_t*> (self.table.eviction + header.slot_count)
    cdef size_t fixed_bytes = (_fixed_bytes(header.slot_count) + 63) & ~<size_t> 63
    self.table.marks = segment.base + fixed_bytes
    self.table.entries = segment.base + fixed_bytes + _marks_bytes(header.bucket_count)
    self.table.found = <float*> calloc(header.slot_count, sizeof(float))
    if self.table.found == NULL:
        raise MemoryError
    return self

"""Which models each endpoint should have in memory; see residency.pxd.

A slot has RESIDENT_MODELS_MAX entries: a model, when it was last asked for there, when its load should be over, and how
often it is asked for. A model counts as resident when fewer than `models_max` others were asked for since or are to be
loaded. Models are loaded one after the other, so a load begins when the planned ones are over; one that is late (its
engine waits until what it drives out is idle) is expected to take as long again as it is late.

Invariant: whatever the words hold (two processes that replace one entry, clocks that go back), answers are finite and 0
or more. Neighbours: policy_five_axis (adds the wait to the first token, the harm to the score), decision (notes uses
and first tokens), shared_state (forgets slots that change hands).
"""

from libc.stdint cimport uint32_t, uint64_t
from router.native.atomic cimport load_u64, store_u64
from router.native.segment cimport (
    SEGMENT_HEADER_BYTES, Segment, segment_attach_rows, segment_check_slot, segment_create_rows, table_head_t,
)

cdef enum:
    LAYOUT_VERSION = 1
    UNSEEN = 1                       # lowest bit of ready_us: nothing has answered since
    INTERVAL_COUNT = 8               # uses that the mean is of, about

cdef uint64_t MAGIC = 0x3153455250464C31     # "1LFPRES1"
cdef uint64_t INTERVAL_MAX_US = <uint64_t>0xFFFFFFFF     # 71 minutes: not known; also the lower half of a habit
cdef float LOAD_S_MAX = 3600.0       # the largest models come from slow disks in minutes

cdef float LATE_LOADS_MAX = 4.0      # a late load is expected to take so many times its length at most
cdef float HARMED_MAX = 32.0          # requests that one load is blamed for at most

cdef struct entry_t:
    uint64_t model                   # 0: the entry is empty
    uint64_t used_us
    uint64_t ready_us
    uint64_t habit                   # ms to load it above, mean us between its uses below; 32 bits each

cdef size_t ROW_BYTES = RESIDENT_MODELS_MAX * sizeof(entry_t)


cdef inline entry_t* _entries(const residency_table_t* table, uint32_t slot) noexcept nogil:
    return <entry_t*>table.entries + <size_t>slot * RESIDENT_MODELS_MAX


cdef inline float _clamp(float seconds) noexcept nogil:
    return min(seconds, LOAD_S_MAX) if seconds > 0 else 0.0      # NaN: 0


cdef inline float _left_s(uint64_t ready_us, uint64_t now_us) noexcept nogil:
    return _clamp(<float>(ready_us - now_us) * <float>1e-6) if ready_us > now_us else 0.0


cdef inline entry_t* _find(entry_t* entries, uint64_t model) noexcept nogil:
    """The one of `model` that was used last; a race may have made two."""
    cdef entry_t* found = NULL
    cdef uint32_t index
    for index in range(RESIDENT_MODELS_MAX):
        if load_u64(&entries[index].model) == model \
                and (found == NULL or load_u64(&entries[index].used_us) > load_u64(&found.used_us)):
            found = &entries[index]
    return found


cdef inline uint32_t _later_count(
    const entry_t* entries, uint64_t model, uint64_t used_us, uint64_t now_us
) noexcept nogil:
    """How many other models were used later, or are to be loaded."""
    cdef uint32_t index, count = 0
    cdef uint64_t other
    for index in range(RESIDENT_MODELS_MAX):
        other = load_u64(&entries[index].model)
        if other and other != model and (load_u64(&entries[index].used_us) > used_us
                                         or load_u64(&entries[index].ready_us) > now_us):
            count += 1
    return count


cdef inline float _harm_s(const entry_t* entry, uint64_t now_us) noexcept nogil:
    """What it costs others that the entry's model goes: a load for each of those who ask for it during one."""
    cdef uint64_t habit = load_u64(&entry.habit), used_us = load_u64(&entry.used_us)
    cdef float load_s = <float>(habit >> 32) * <float>1e-3
    cdef uint64_t interval_us = habit & INTERVAL_MAX_US
    cdef uint64_t since_us = now_us - used_us if now_us > used_us else 0
    if interval_us == INTERVAL_MAX_US:               # asked for once: one more, perhaps, in a load
        interval_us = <uint64_t>(load_s * <float>1e6)
    interval_us = max(interval_us, since_us)
    return load_s * min(load_s / (<float>interval_us * <float>1e-6 + <float>1e-3), HARMED_MAX)


cdef bint residency_is(
    const residency_table_t* table, uint32_t slot, uint64_t model, uint32_t models_max, uint64_t now_us
) noexcept nogil:
    cdef entry_t* entries = _entries(table, slot)
    cdef entry_t* entry
    if model == 0:
        return False
    entry = _find(entries, model)
    return entry != NULL and load_u64(&entry.ready_us) <= now_us \
        and _later_count(entries, model, load_u64(&entry.used_us), now_us) < models_max


cdef float residency_wait_s(
    const residency_table_t* table, uint32_t slot, uint64_t model, float load_s, uint32_t models_max, uint64_t now_us,
    float* harm_s
) noexcept nogil:
    cdef entry_t* entries = _entries(table, slot)
    cdef entry_t* entry
    cdef uint32_t index, later
    cdef uint64_t oldest_us = ~<uint64_t>0
    cdef float wait_s = 0
    harm_s[0] = 0
    if model == 0 or models_max == 0:
        return 0
    load_s = _clamp(load_s)
    entry = _find(entries, model)
    if entry != NULL:
        if load_u64(&entry.ready_us) > now_us:       # it is to be loaded for somebody else
            return _left_s(load_u64(&entry.ready_us), now_us)
        if _later_count(entries, model, load_u64(&entry.used_us), now_us) < models_max:
            if load_u64(&entry.ready_us) & UNSEEN:   # late: as long again, perhaps
                return min(_left_s(now_us, load_u64(&entry.ready_us)), LATE_LOADS_MAX * load_s)
            return 0
    for index in range(RESIDENT_MODELS_MAX):
        entry = &entries[index]
        if load_u64(&entry.model) == 0:
            continue
        wait_s = max(wait_s, _left_s(load_u64(&entry.ready_us), now_us))
        if load_u64(&entry.model) != model:
            later = _later_count(entries, load_u64(&entry.model), load_u64(&entry.used_us), now_us)
            if later + 1 == models_max and load_u64(&entry.used_us) <= oldest_us:    # the last that has a place
                oldest_us = load_u64(&entry.used_us)
                harm_s[0] = _harm_s(entry, now_us)
    return wait_s + load_s if load_s > 0 else 0


cdef void residency_waits(
    const residency_table_t* table, const uint32_t* slots, uint32_t count, uint64_t model, const float* load_s,
    const uint32_t* models_max, uint64_t now_us, float* waits, float* harms
) noexcept nogil:
    cdef uint32_t index
    for index in range(count):
        waits[index] = residency_wait_s(
            table, slots[index], model, load_s[index], models_max[index], now_us, &harms[index])


cdef void residency_used(
    residency_table_t* table, uint32_t slot, uint64_t model, float load_s, float wait_s, uint64_t now_us
) noexcept nogil:
    cdef entry_t* entries = _entries(table, slot)
    cdef entry_t* entry
    cdef uint64_t interval_us = INTERVAL_MAX_US, since_us, used_us
    cdef uint32_t index
    if model == 0:
        return
    entry = _find(entries, model)
    if entry == NULL:
        entry = &entries[0]
        for index in range(1, RESIDENT_MODELS_MAX):
            if load_u64(&entry.model) and (load_u64(&entries[index].model) == 0 or
                                           load_u64(&entries[index].used_us) < load_u64(&entry.used_us)):
                entry = &entries[index]
    else:
        used_us = load_u64(&entry.used_us)
        since_us = min(now_us - used_us, INTERVAL_MAX_US) if now_us > used_us else 0
        interval_us = load_u64(&entry.habit) & INTERVAL_MAX_US
        if interval_us >= INTERVAL_MAX_US:
            interval_us = since_us                   # the first that is known
        else:
            interval_us = interval_us + since_us // INTERVAL_COUNT - interval_us // INTERVAL_COUNT
    store_u64(&entry.habit, <uint64_t>(_clamp(load_s) * <float>1e3) << 32 | min(interval_us, INTERVAL_MAX_US))
    if wait_s > 0:
        store_u64(&entry.ready_us, (now_us + <uint64_t>(_clamp(wait_s) * <float>1e6)) | UNSEEN)
    elif load_u64(&entry.model) != model:
        store_u64(&entry.ready_us, 0)
    store_u64(&entry.used_us, now_us)
    store_u64(&entry.model, model)


cdef void residency_seen(residency_table_t* table, uint32_t slot, uint64_t model, uint64_t now_us) noexcept nogil:
    cdef entry_t* entry
    if model == 0:
        return
    entry = _find(_entries(table, slot), model)
    if entry != NULL and load_u64(&entry.ready_us):
        store_u64(&entry.ready_us, 0)


cdef void residency_forget(residency_table_t* table, uint32_t slot) noexcept nogil:
    cdef entry_t* entries = _entries(table, slot)
    cdef uint32_t index
    for index in range(RESIDENT_MODELS_MAX):
        store_u64(&entries[index].model, 0)
        store_u64(&entries[index].used_us, 0)
        store_u64(&entries[index].ready_us, 0)
        store_u64(&entries[index].habit, 0)


# --- the door --------------------------------------------------------------------------------------------------------

cdef class ResidencyTable:
    """One table; see residency.pyi for the Python side."""

    @staticmethod
    def create(uint32_t slot_count):
        return _open(segment_create_rows(
            b"fairlead-residency", MAGIC, LAYOUT_VERSION, slot_count, SEGMENT_HEADER_BYTES, ROW_BYTES))

    @staticmethod
    def attach(int fd):
        return _open(segment_attach_rows(
            fd, MAGIC, LAYOUT_VERSION, SEGMENT_HEADER_BYTES, ROW_BYTES, "residency table"))

    @property
    def slot_count(self):
        return self.table.slot_count

    def wait_s(self, uint32_t slot, uint64_t model, float load_s, uint32_t models_max, uint64_t now_us):
        cdef float harm_s
        _check(self, slot)
        return residency_wait_s(&self.table, slot, model, load_s, models_max, now_us, &harm_s)

    def harm_s(self, uint32_t slot, uint64_t model, float load_s, uint32_t models_max, uint64_t now_us):
        cdef float harm_s
        _check(self, slot)
        residency_wait_s(&self.table, slot, model, load_s, models_max, now_us, &harm_s)
        return harm_s

    def is_resident(self, uint32_t slot, uint64_t model, uint32_t models_max, uint64_t now_us):
        _check(self, slot)
        return residency_is(&self.table, slot, model, models_max, now_us)

    def used(self, uint32_t slot, uint64_t model, float load_s, float wait_s, uint64_t now_us):
        _check(self, slot)
        residency_used(&self.table, slot, model, load_s, wait_s, now_us)

    def seen(self, uint32_t slot, uint64_t model, uint64_t now_us):
        _check(self, slot)
        residency_seen(&self.table, slot, model, now_us)

    def forget(self, uint32_t slot):
        _check(self, slot)
        residency_forget(&self.table, slot)


cdef int _check(ResidencyTable self, uint32_t slot) except -1:
    return segment_check_slot(slot, self.table.slot_count)


cdef ResidencyTable _open(Segment segment):
    cdef ResidencyTable self = ResidencyTable.__new__(ResidencyTable)
    self._mapping = segment
    self.fd = segment.fd
    self.table.base = segment.base
    self.table.slot_count = (<table_head_t*>segment.base).slot_count
    self.table.entries = segment.base + SEGMENT_HEADER_BYTES
    return self

"""Which models each endpoint should have in memory, in memory shared by all workers.

Some endpoints serve more models than they hold at once (Ollama, llama-swap, LoRA adapters): a request for one that is
not there waits for its load, and drives another out. Nobody reports that, so it is inferred from what was sent: an
endpoint holds the models it was asked for last, each from the end of its load on. Guesses by design: every word is read
and written whole, but a race may lose or misplace a use, which costs a load and never correctness.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    RESIDENT_MODELS_MAX = 8          # remembered of one endpoint; the least recently used is replaced

cdef struct residency_table_t:       # process-local view of the shared segment
    uint8_t* base
    void* entries                    # entry_t[slot_count * RESIDENT_MODELS_MAX], 32 bytes each
    uint32_t slot_count

# Seconds until `model` (a hash; 0: none) can answer at `slot`, where loading it takes `load_s` and `models_max` models
# are held at once (0: it takes no place): 0 when it should be there; what is left of a load that is planned; or a whole
# one, after those. `harm_s`: what the model that it drives out will cost the others who ask for that one, in seconds.
cdef float residency_wait_s(
    const residency_table_t* table, uint32_t slot, uint64_t model, float load_s, uint32_t models_max, uint64_t now_us,
    float* harm_s) noexcept nogil
# The same for many: waits[i] and harms[i] at slots[i], with load_s[i] and models_max[i].
cdef void residency_waits(
    const residency_table_t* table, const uint32_t* slots, uint32_t count, uint64_t model, const float* load_s,
    const uint32_t* models_max, uint64_t now_us, float* waits, float* harms) noexcept nogil
# Whether it should be there: loaded, and among the `models_max` that were used last.
cdef bint residency_is(
    const residency_table_t* table, uint32_t slot, uint64_t model, uint32_t models_max, uint64_t now_us) noexcept nogil
# A request for `model`, which takes `load_s` to load, goes to `slot`, where it will be there in `wait_s`.
cdef void residency_used(
    residency_table_t* table, uint32_t slot, uint64_t model, float load_s, float wait_s, uint64_t now_us
) noexcept nogil
# It has answered: whatever was believed, it is there now.
cdef void residency_seen(residency_table_t* table, uint32_t slot, uint64_t model, uint64_t now_us) noexcept nogil
# The endpoint (re)joins, or the slot goes to another: nothing is known.
cdef void residency_forget(residency_table_t* table, uint32_t slot) noexcept nogil

cdef class ResidencyTable:
    cdef residency_table_t table
    cdef object _mapping
    cdef readonly int fd             # owned by the table; pass it on, do not close it

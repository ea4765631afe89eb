"""A simulated engine: the step model, what can go wrong with it, and which models it has loaded."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from bench.native.step cimport step_class_t, step_model_t
from bench.sim.request cimport request_t

cdef enum engine_health:
    ENGINE_UP = 0
    ENGINE_DOWN = 1                  # refuses connections, has reset those it had
    ENGINE_SILENT = 2                # answers nothing, not even a connection attempt
    ENGINE_FAILING = 3               # answers everything at once, with an error

cdef enum offer_outcome:
    OFFER_TAKEN = 0
    OFFER_PARKED = 1                 # until its model is loaded
    OFFER_REFUSED = 2                # will never fit

cdef enum residence:
    MODEL_ABSENT = 0
    MODEL_LOADING = 1
    MODEL_RESIDENT = 2

cdef struct residence_t:             # of one model at one engine
    uint8_t state                    # residence
    uint32_t active                  # requests computed or waiting here
    uint64_t used_us                 # last time
    uint64_t load_us                 # how long it takes to load

cdef struct engine_t:
    step_model_t step
    double slowness                  # each step takes so many times as long
    double power_cap                 # share of its limit that it may draw
    double power_brake               # beyond that a step takes so many times as long; 0: as it draws too much
    uint8_t health                   # engine_health
    bint stepping
    uint32_t serial                  # of the step under way: one before a crash is void
    uint64_t step_us                 # length of the step under way
    uint64_t busy_us
    uint64_t preemption_count        # of step models before a crash
    residence_t* models              # models[model_count]
    uint32_t model_count
    uint32_t resident_max            # models in memory at once
    uint32_t resident_count          # of these loaded or loading
    request_t* parked_head
    request_t* parked_tail

# Keys of a prompt differ by model, since no model can use what another has cached: key ^ model_salt(model).
cdef inline uint64_t model_salt(uint32_t model) noexcept nogil:
    return model * <uint64_t>0x9E3779B97F4A7C15

cdef int engine_init(engine_t* engine, const step_class_t* timing, uint32_t model_count) noexcept nogil
cdef void engine_free(engine_t* engine) noexcept nogil
cdef int engine_offer(engine_t* engine, request_t* request, uint64_t now_us) noexcept nogil      # offer_outcome
cdef int64_t engine_begin(engine_t* engine) noexcept nogil       # length of the step in us; -1: nothing to do
cdef double engine_power(const engine_t* engine) noexcept nogil  # what it would draw without a cap, of its limit
cdef int32_t engine_end(engine_t* engine) noexcept nogil         # how many of step.emitted got a token
cdef void engine_let_go(engine_t* engine, request_t* request, uint64_t now_us) noexcept nogil    # it is finished
# The next model to load for who is parked, and how long that takes; -1: none now.
cdef int64_t engine_next_load(engine_t* engine, uint32_t* model) noexcept nogil
# A model is there: the first parked request that can go on, taken off the list; NULL: none.
cdef request_t* engine_unpark(engine_t* engine) noexcept nogil
cdef int engine_restart(engine_t* engine) noexcept nogil         # everything it held is gone, its cache too

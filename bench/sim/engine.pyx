"""What a simulated engine does with requests; see engine.pxd. Time comes in as an argument.

A request whose model is not resident is parked, first come first served. Models are loaded one at a time; when all
places are taken the least recently used model without a request in the engine makes room. Loading goes on beside the
steps of other models: weights come over another bus than the step waits for. An engine that would draw more power than
it may is clocked down, by as much or by a fixed brake, and its steps take longer.

Invariant: a sequence's owner is the request that it computes, and a request with a sequence counts as active for its
model. Neighbours: bench/native/step (batches, blocks, prefix cache), world.pyx (network, faults, time).
"""

from libc.math cimport llround
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from bench.native.step cimport (
    step_begin, step_class_t, step_end, step_kv_usage, step_model_free, step_model_init, step_release, step_submit,
)
from bench.sim.request cimport NO_SEQUENCE, PARKED

cdef double POWER_IDLE_SHARE = 0.43  # of the limit: 0.43 + 0.43 * KV in use, a fit to A100 and H100 serving curves
cdef double POWER_KV_SHARE = 0.43


cdef int engine_init(engine_t* engine, const step_class_t* timing, uint32_t model_count) noexcept nogil:
    memset(engine, 0, sizeof(engine_t))
    engine.slowness = engine.power_cap = 1
    engine.model_count = model_count
    engine.models = <residence_t*>calloc(model_count, sizeof(residence_t))
    if engine.models == NULL:
        return -1
    return step_model_init(&engine.step, timing)


cdef void engine_free(engine_t* engine) noexcept nogil:
    step_model_free(&engine.step)
    free(engine.models)
    engine.models = NULL


cdef int _submit(engine_t* engine, request_t* request, uint64_t now_us) noexcept nogil:
    cdef residence_t* model = &engine.models[request.model]
    cdef uint64_t salt = model_salt(request.model)
    cdef int32_t place
    request.sequence = step_submit(&engine.step, request.prompt_tokens, request.output_tokens, request.blocks,
                                   request.block_count, request)
    if request.sequence < 0:
        request.sequence = NO_SEQUENCE
        return OFFER_REFUSED
    if salt:
        for place in range(engine.step.sequences[request.sequence].hash_count):
            engine.step.sequences[request.sequence].hashes[place] ^= salt
    model.active += 1
    model.used_us = now_us
    return OFFER_TAKEN


cdef int engine_offer(engine_t* engine, request_t* request, uint64_t now_us) noexcept nogil:
    if engine.models[request.model].state == MODEL_RESIDENT:
        return _submit(engine, request, now_us)
    request.parked = NULL
    request.sequence = PARKED
    if engine.parked_tail != NULL:
        engine.parked_tail.parked = request
    else:
        engine.parked_head = request
    engine.parked_tail = request
    return OFFER_PARKED


cdef double engine_power(const engine_t* engine) noexcept nogil:
    return POWER_IDLE_SHARE + POWER_KV_SHARE * step_kv_usage(&engine.step)


cdef int64_t engine_begin(engine_t* engine) noexcept nogil:
    cdef double length_ms = step_begin(&engine.step)
    cdef double excess = engine_power(engine) / engine.power_cap, braked = 1
    if length_ms < 0:
        engine.stepping = False
        return -1
    engine.stepping = True
    if excess > 1:
        braked = engine.power_brake if engine.power_brake > 0 else excess
    engine.step_us = <uint64_t>llround(length_ms * 1000 * engine.slowness * braked)
    return <int64_t>engine.step_us


cdef int32_t engine_end(engine_t* engine) noexcept nogil:
    engine.stepping = False
    engine.busy_us += engine.step_us
    return step_end(&engine.step)


cdef void engine_let_go(engine_t* engine, request_t* request, uint64_t now_us) noexcept nogil:
    cdef residence_t* model = &engine.models[request.model]
    step_release(&engine.step, request.sequence)
    request.sequence = NO_SEQUENCE
    model.active -= 1
    model.used_us = now_us


cdef int64_t engine_next_load(engine_t* engine, uint32_t* model) noexcept nogil:
    cdef request_t* request = engine.parked_head
    cdef uint32_t index
    cdef int64_t oldest = -1
    for index in range(engine.model_count):
        if engine.models[index].state == MODEL_LOADING:
            return -1
    while request != NULL and engine.models[request.model].state != MODEL_ABSENT:
        request = request.parked
    if request == NULL:
        return -1
    if engine.resident_count >= engine.resident_max:
        for index in range(engine.model_count):
            if engine.models[index].state != MODEL_RESIDENT or engine.models[index].active:
                continue
            if oldest < 0 or engine.models[index].used_us < engine.models[oldest].used_us:
                oldest = index
        if oldest < 0:
            return -1
        engine.models[oldest].state = MODEL_ABSENT
        engine.resident_count -= 1
    engine.resident_count += 1
    engine.models[request.model].state = MODEL_LOADING
    model[0] = request.model
    return <int64_t>engine.models[request.model].load_us


cdef request_t* engine_unpark(engine_t* engine) noexcept nogil:
    cdef request_t* before = NULL
    cdef request_t* request = engine.parked_head
    while request != NULL and engine.models[request.model].state != MODEL_RESIDENT:
        before = request
        request = request.parked
    if request == NULL:
        return NULL
    if before != NULL:
        before.parked = request.parked
    else:
        engine.parked_head = request.parked
    if engine.parked_tail == request:
        engine.parked_tail = before
    request.parked = NULL
    return request


cdef int engine_restart(engine_t* engine) noexcept nogil:
    cdef step_class_t timing = engine.step.timing
    cdef uint64_t preemptions = engine.preemption_count + engine.step.preemption_count
    cdef uint32_t model
    step_model_free(&engine.step)
    engine.preemption_count = preemptions
    engine.serial += 1
    engine.stepping = False
    engine.parked_head = engine.parked_tail = NULL
    for model in range(engine.model_count):
        engine.models[model].active = 0
        if engine.models[model].state == MODEL_LOADING:
            engine.models[model].state = MODEL_ABSENT
            engine.resident_count -= 1
    return step_model_init(&engine.step, &timing)

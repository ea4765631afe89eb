"""Requests meet routers and engines in virtual time; see world.pxd.

A request comes to a router, which picks with the decision core exactly as the proxy does (pick_choice and
decision_charge in one step, decision_first_token, decision_end), travels half a round trip, is batched by the engine's
step model, and its first and last token travel back. What fails is sent elsewhere, up to ATTEMPTS_MAX times, unless its
first token had been seen. Routers share nothing but what gossip carries: each copies its own column of the accounts to
the others at every interval, and what is not renewed is dropped; and it tells what prompts it gave to whom since. In
between each expects that the others do as it does.

Invariant: a run depends on its inputs alone. Equal times are served in the order they were planned, random words come
from (seed, request, attempt), and nothing reads a clock. Neighbours: agenda (what is next), engine (one engine),
run.py (builds a world from a trace and a fleet), measures.py (what the columns mean).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from bench.native.step cimport SEQUENCE_FINISHED, step_kv_usage
from bench.sim.agenda cimport agenda_add, agenda_take, event_t
from bench.sim.engine cimport (
    ENGINE_DOWN, ENGINE_FAILING, ENGINE_SILENT, ENGINE_UP, MODEL_LOADING, MODEL_RESIDENT, OFFER_PARKED, OFFER_REFUSED,
    engine_begin, engine_end, engine_let_go, engine_next_load, engine_offer, engine_power, engine_restart, engine_t,
    engine_unpark, model_salt,
)
from bench.sim.request cimport (
    ATTEMPTS_MAX, FAILURE_CONNECT_TIMEOUT, FAILURE_ERROR, FAILURE_NOBODY, FAILURE_NONE, FAILURE_REFUSED, FAILURE_RESET,
    FAILURE_TIMEOUT, FAILURE_TOO_LARGE, NO_SEQUENCE, REQUEST_DONE, REQUEST_FAILED, REQUEST_SENT, REQUEST_STREAMING,
    request_t,
)
from router.native.candidates cimport exclude_slot, multiply_fold, pick_request_t
from router.native.choice cimport choice_t, pick_choice
from router.native.decision cimport decision_charge, decision_end, decision_first_token
from router.native.learner cimport (
    learner_decoded, learner_expected_output, learner_joined, learner_output,
)
from router.native.loadtable cimport (
    ROW_COUNT, ROW_IN_FLIGHT, ROW_KV_TOKENS, ROW_PENDING, load_eject, load_expect_remote, load_observe_outcome,
    load_observe_ttft, load_readmit, load_set_remote, load_sum,
)
from router.native.pick cimport decider_t
from router.native.prefix cimport prefix_insert
from router.native.prefix_cache cimport prefix_forget
from router.native.residency cimport residency_forget
from router.native.session cimport session_forget
from router.native.signals cimport (
    SIGNAL_KV, SIGNAL_POWER, SIGNAL_RUNNING, SIGNAL_WAITING, SOURCE_POLL, signals_write,
)

cdef enum:
    CONNECT_TIMEOUT_US = 2000000     # the proxy's defaults: timeouts.connect_ms, first_byte_ms, idle_ms
    FIRST_BYTE_TIMEOUT_US = 300000000
    IDLE_TIMEOUT_US = 60000000
    EJECT_BASE_US = 1000000          # limits.EJECT_BASE_MS, EJECT_MAX_MS
    EJECT_MAX_US = 60000000
    ERROR_US = 2000                  # an engine that only fails does so quickly
    FLAP_US = 5000000
    GOSSIP_STALE_US = 2000000        # another replica's share counts no longer

cdef double FAULT_SLOWNESS = 10.0


cdef inline uint64_t _word(uint64_t seed, uint64_t request, uint64_t attempt) noexcept nogil:
    return multiply_fold(multiply_fold(seed ^ <uint64_t>0xA0761D6478BD642F, request ^ <uint64_t>0xE7037ED1A0B428DB),
                         (attempt + 1) * <uint64_t>0x9E3779B97F4A7C15)


# --- the router's side of a request ------------------------------------------------------------------------------

cdef void _arrive(world_t* world, request_t* request) noexcept nogil:
    cdef uint64_t word
    cdef uint32_t index
    if request.index == world.mark_index:
        world.mark_us = world.now_us
        for index in range(world.endpoint_count):
            world.busy_mark_us[index] = world.endpoints[index].engine.busy_us
    request.arrival_us = world.now_us
    word = request.session if world.by_session and request.session else _word(world.seed, request.index, 1 << 32)
    request.replica = <uint32_t>(multiply_fold(word, <uint64_t>0x9E3779B97F4A7C15) % world.replica_count)
    _send(world, request)


cdef bint _exclude(const world_t* world, const request_t* request, uint64_t* excluded) noexcept nogil:
    """Marks who is drained or has been tried; whether anybody is."""
    cdef uint32_t slot
    cdef int tried
    cdef bint has_excluded = request.attempt_count != 0
    for tried in range(request.attempt_count):
        exclude_slot(excluded, <uint32_t>request.tried[tried])
    for slot in range(world.endpoint_count):
        if world.endpoints[slot].is_drained:
            exclude_slot(excluded, slot)
            has_excluded = True
    return has_excluded


cdef const uint64_t* _keys(world_t* world, const request_t* request, uint32_t model, uint32_t place) noexcept nogil:
    """What the prompt's beginnings are called for a model; in the scratch of `place` where each model has its own."""
    cdef uint64_t salt = model_salt(model)
    cdef uint64_t* keys = &world.choice_keys[<size_t>place * world.key_count_max]
    cdef int32_t depth
    if not salt:
        return request.keys
    for depth in range(request.key_count):
        keys[depth] = request.keys[depth] ^ salt
    return keys


cdef void _ask(world_t* world, const request_t* request, uint32_t place, choice_t* choice) noexcept nogil:
    """What the router would like to know of one of the models that may answer."""
    cdef const name_t* name = &world.names[request.asked]
    cdef uint32_t model = name.models[place]
    cdef pick_request_t* asked = &choice.request
    memset(choice, 0, sizeof(choice_t))
    choice.candidates = &world.candidates[request.replica * world.model_count + model]
    choice.policy = &world.policy
    asked.key = request.session
    asked.random = _word(world.seed, request.index, request.attempt_count)
    asked.model = model + 1
    asked.now_us = world.now_us
    asked.prompt_tokens = request.prompt_tokens
    asked.output_tokens = learner_expected_output(world.deciders[request.replica].learner, model + 1, -1)
    asked.block_count = request.key_count
    asked.blocks = _keys(world, request, model, place)
    asked.block_tokens = world.key_tokens
    asked.quality_s = name.quality_s[place]
    if world.ttft_target_s > 0:
        asked.ttft_target_s = world.ttft_target_s + world.ttft_target_token_s * request.prompt_tokens
    asked.cost_weight_s = world.cost_weight_s


cdef void _send(world_t* world, request_t* request) noexcept nogil:
    """One attempt: the pick, its charge, and the request is on its way."""
    cdef decider_t* decider = world.deciders[request.replica]
    cdef uint32_t count = world.names[request.asked].count
    cdef uint32_t place
    cdef choice_t* choice
    cdef int best, winner = -1
    cdef bint has_excluded = _exclude(world, request, decider.excluded)
    for place in range(count):
        _ask(world, request, place, &world.choices[place])
        world.choices[place].request.excluded = decider.excluded if has_excluded else NULL
    best = pick_choice(decider, world.choices, count, &winner)
    if has_excluded:
        memset(decider.excluded, 0, ((decider.load.slot_count >> 6) + 1) * sizeof(uint64_t))
    world.pick_count += 1
    if best < 0:
        _give_up(world, request, FAILURE_NOBODY if request.failure == FAILURE_NONE else request.failure)
        return
    choice = &world.choices[best]
    decision_charge(decider, choice.candidates, <uint32_t>winner, &choice.request, &request.charge)
    request.serial += 1
    request.attempt_count += 1
    request.state = REQUEST_SENT
    request.model = world.names[request.asked].models[best]
    request.endpoint = <int32_t>choice.candidates.slots[winner]
    request.sequence = NO_SEQUENCE
    request.picked_us = world.now_us
    if world.gossip_us and world.replica_count > 1:
        _expect_others(world, request)
        if not request.is_untold:
            _keep_untold(world, request)
    agenda_add(&world.agenda, world.now_us + world.endpoints[request.endpoint].half_rtt_us, EVENT_DELIVERY,
               <int32_t>request.index, request.serial)


cdef void _first_token(world_t* world, request_t* request) noexcept nogil:
    cdef decider_t* decider = world.deciders[request.replica]
    cdef uint32_t slot = <uint32_t>request.endpoint
    request.state = REQUEST_STREAMING
    request.first_us = world.now_us
    load_observe_outcome(decider.load, slot, False, world.now_us)
    load_readmit(decider.load, slot)
    load_observe_ttft(decider.load, slot, <uint32_t>(world.now_us - request.picked_us), world.now_us)
    decision_first_token(decider, &request.charge, world.now_us)


cdef void _end(world_t* world, request_t* request) noexcept nogil:
    cdef decider_t* decider = world.deciders[request.replica]
    cdef endpoint_t* endpoint = &world.endpoints[request.endpoint]
    cdef uint32_t slot = <uint32_t>request.endpoint
    cdef uint64_t in_flight, pending
    cdef float gap_s
    if request.state != REQUEST_STREAMING:
        world.out_of_order += 1
    request.state = REQUEST_DONE
    request.end_us = world.now_us
    request.failure = FAILURE_NONE
    learner_output(decider.learner, request.model + 1, <uint32_t>request.output_tokens)
    if request.output_tokens > 1 and world.now_us > request.first_us:
        gap_s = <float>(world.now_us - request.first_us) * <float>1e-6 / <float>(request.output_tokens - 1)
        in_flight, pending = load_sum(decider.load, ROW_IN_FLIGHT, slot), load_sum(decider.load, ROW_PENDING, slot)
        learner_decoded(
            decider.learner, slot, gap_s, <float>(in_flight - min(pending, in_flight)) + 1,
            <float>load_sum(decider.load, ROW_KV_TOKENS, slot), <uint32_t>(request.output_tokens - 1), world.now_us)
    decision_end(decider, &request.charge, False, request.prompt_tokens,
                 -1 if endpoint.is_mute else request.cached_tokens, world.now_us)
    _next_of_session(world, request)


cdef void _next_of_session(world_t* world, request_t* request) noexcept nogil:
    world.done_count += 1
    if request.follower >= 0:
        agenda_add(&world.agenda, world.now_us + world.requests[request.follower].wait_us, EVENT_ARRIVAL,
                   request.follower, 0)


cdef void _give_up(world_t* world, request_t* request, uint8_t failure) noexcept nogil:
    request.state = REQUEST_FAILED
    request.failure = failure
    request.end_us = world.now_us
    _next_of_session(world, request)


cdef void _fail(world_t* world, request_t* request) noexcept nogil:
    """An attempt has failed, and the router knows."""
    cdef decider_t* decider = world.deciders[request.replica]
    cdef uint32_t slot = <uint32_t>request.endpoint
    cdef bint was_streaming = request.state == REQUEST_STREAMING
    cdef bint by_endpoint = request.failure != FAILURE_TOO_LARGE
    request.serial += 1                  # what is still on its way from there is nobody's
    decision_end(decider, &request.charge, by_endpoint, request.prompt_tokens, -1, world.now_us)
    if by_endpoint:
        load_observe_outcome(decider.load, slot, True, world.now_us)
    if request.failure == FAILURE_REFUSED or request.failure == FAILURE_CONNECT_TIMEOUT:
        load_eject(decider.load, slot, world.now_us, EJECT_BASE_US, EJECT_MAX_US)
    if was_streaming or not by_endpoint or request.attempt_count >= ATTEMPTS_MAX:
        _give_up(world, request, request.failure)
        return
    request.tried[request.attempt_count - 1] = request.endpoint
    _send(world, request)


# --- the engine's side -----------------------------------------------------------------------------------------------

cdef void _will_fail(world_t* world, request_t* request, uint8_t failure, uint64_t time_us) noexcept nogil:
    request.failure = failure
    agenda_add(&world.agenda, time_us, EVENT_FAILURE, <int32_t>request.index, request.serial)


cdef void _deliver(world_t* world, request_t* request) noexcept nogil:
    cdef endpoint_t* endpoint = &world.endpoints[request.endpoint]
    cdef engine_t* engine = &endpoint.engine
    cdef uint64_t back_us = world.now_us + endpoint.half_rtt_us
    cdef int outcome
    if engine.health == ENGINE_DOWN:
        _will_fail(world, request, FAILURE_REFUSED, back_us)
    elif engine.health == ENGINE_SILENT:
        _will_fail(world, request, FAILURE_CONNECT_TIMEOUT, request.picked_us + CONNECT_TIMEOUT_US)
    elif engine.health == ENGINE_FAILING:
        _will_fail(world, request, FAILURE_ERROR, back_us + ERROR_US)
    else:
        outcome = engine_offer(engine, request, world.now_us)
        if outcome == OFFER_REFUSED:
            _will_fail(world, request, FAILURE_TOO_LARGE, back_us)
        elif outcome == OFFER_PARKED:
            _load_next(world, request.endpoint)
        elif not engine.stepping:
            _begin_step(world, request.endpoint)


cdef inline void _begin_step(world_t* world, int32_t index) noexcept nogil:
    cdef engine_t* engine = &world.endpoints[index].engine
    cdef int64_t length_us = engine_begin(engine)
    if length_us >= 0:
        agenda_add(&world.agenda, world.now_us + <uint64_t>length_us, EVENT_STEP, index, engine.serial)


cdef void _end_step(world_t* world, int32_t index) noexcept nogil:
    cdef endpoint_t* endpoint = &world.endpoints[index]
    cdef engine_t* engine = &endpoint.engine
    cdef request_t* request
    cdef int32_t emitted = engine_end(engine)
    cdef int32_t place, sequence
    cdef bint is_first, has_room = False
    for place in range(emitted):
        sequence = engine.step.emitted[place]
        is_first = engine.step.sequences[sequence].generated_tokens == 1
        if not is_first and engine.step.sequences[sequence].state != SEQUENCE_FINISHED:
            continue
        request = <request_t*>engine.step.sequences[sequence].owner
        if is_first:
            agenda_add(&world.agenda, world.now_us + endpoint.half_rtt_us, EVENT_FIRST_TOKEN,
                       <int32_t>request.index, request.serial)
        if engine.step.sequences[sequence].state == SEQUENCE_FINISHED:
            request.cached_tokens = engine.step.sequences[sequence].cached_tokens
            engine_let_go(engine, request, world.now_us)
            agenda_add(&world.agenda, world.now_us + endpoint.half_rtt_us, EVENT_END,
                       <int32_t>request.index, request.serial)
            has_room = True
    if has_room and engine.parked_head != NULL:
        _load_next(world, index)
    _begin_step(world, index)


cdef void _load_next(world_t* world, int32_t index) noexcept nogil:
    cdef engine_t* engine = &world.endpoints[index].engine
    cdef uint32_t model
    cdef int64_t load_us = engine_next_load(engine, &model)
    if load_us >= 0:
        agenda_add(&world.agenda, world.now_us + <uint64_t>load_us, EVENT_LOADED, index, engine.serial)


cdef void _loaded(world_t* world, int32_t index) noexcept nogil:
    cdef engine_t* engine = &world.endpoints[index].engine
    cdef request_t* request
    cdef uint32_t model
    for model in range(engine.model_count):
        if engine.models[model].state == MODEL_LOADING:
            engine.models[model].state = MODEL_RESIDENT
            engine.models[model].used_us = world.now_us
    while True:
        request = engine_unpark(engine)
        if request == NULL:
            break
        if engine_offer(engine, request, world.now_us) == OFFER_REFUSED:
            _will_fail(world, request, FAILURE_TOO_LARGE, world.now_us + world.endpoints[index].half_rtt_us)
    _load_next(world, index)
    if not engine.stepping:
        _begin_step(world, index)


# --- faults ----------------------------------------------------------------------------------------------------------

cdef void _crash(world_t* world, int32_t index, bint silently) noexcept nogil:
    cdef endpoint_t* endpoint = &world.endpoints[index]
    cdef request_t* request
    cdef uint32_t place
    for place in range(world.request_count):
        request = &world.requests[place]
        if request.endpoint != index or request.sequence == NO_SEQUENCE:
            continue
        request.sequence = NO_SEQUENCE
        if request.state == REQUEST_SENT or request.state == REQUEST_STREAMING:
            if not silently:
                _will_fail(world, request, FAILURE_RESET, world.now_us + endpoint.half_rtt_us)
            elif request.state == REQUEST_STREAMING:
                _will_fail(world, request, FAILURE_TIMEOUT, world.now_us + IDLE_TIMEOUT_US)
            else:
                _will_fail(world, request, FAILURE_TIMEOUT, request.picked_us + FIRST_BYTE_TIMEOUT_US)
    endpoint.engine.health = ENGINE_SILENT if silently else ENGINE_DOWN
    if engine_restart(&endpoint.engine) < 0:
        world.agenda.is_full = True


cdef void _join(world_t* world, int32_t index) noexcept nogil:
    """An endpoint is taken back into the pool, and the routers are told so."""
    cdef uint32_t replica
    world.endpoints[index].is_drained = False
    for replica in range(world.replica_count):
        learner_joined(world.deciders[replica].learner, <uint32_t>index, world.now_us)
        if world.deciders[replica].prefix != NULL:
            prefix_forget(world.deciders[replica].prefix, <uint32_t>index)
        if world.deciders[replica].residency != NULL:
            residency_forget(world.deciders[replica].residency, <uint32_t>index)
        if world.deciders[replica].sessions != NULL:
            session_forget(world.deciders[replica].sessions, <uint32_t>index, world.now_us)


cdef void _turn_fault(world_t* world, const fault_t* fault, int32_t place, bint begins) noexcept nogil:
    cdef int32_t index
    for index in range(<int32_t>world.endpoint_count):
        if fault.endpoint >= 0 and fault.endpoint != index:
            continue
        if fault.kind == FAULT_SLOW:
            world.endpoints[index].engine.slowness = FAULT_SLOWNESS if begins else 1.0
        elif fault.kind == FAULT_ERRORS:
            world.endpoints[index].engine.health = ENGINE_FAILING if begins else ENGINE_UP
        elif fault.kind == FAULT_SIGNALS:
            world.endpoints[index].is_mute = begins
            world.is_gossip_lost = begins
        elif fault.kind == FAULT_REJOIN:
            if begins:
                world.endpoints[index].is_drained = True
            else:
                _crash(world, index, False)
                world.endpoints[index].engine.health = ENGINE_UP
                _join(world, index)
        elif begins:
            _crash(world, index, fault.kind == FAULT_HANG)
        else:
            world.endpoints[index].engine.health = ENGINE_UP
    if fault.kind == FAULT_FLAP and begins:
        agenda_add(&world.agenda, world.now_us + FLAP_US, EVENT_FLAP, place, 0)


cdef void _flap(world_t* world, int32_t place) noexcept nogil:
    cdef fault_t* fault = &world.faults[place]
    cdef int32_t index
    if world.now_us >= fault.end_us:
        return
    for index in range(<int32_t>world.endpoint_count):
        if fault.endpoint >= 0 and fault.endpoint != index:
            continue
        if world.endpoints[index].engine.health == ENGINE_DOWN:
            world.endpoints[index].engine.health = ENGINE_UP
        else:
            _crash(world, index, False)
    agenda_add(&world.agenda, world.now_us + FLAP_US, EVENT_FLAP, place, 0)


# --- between routers, and from engines -------------------------------------------------------------------------------

cdef inline void _keep_untold(world_t* world, request_t* request) noexcept nogil:
    request.is_untold = True
    request.untold = NULL
    if world.untold == NULL:
        world.untold = request
    else:
        world.untold_last.untold = request
    world.untold_last = request


cdef inline void _expect_others(world_t* world, const request_t* request) noexcept nogil:
    cdef uint32_t other
    if not world.is_gossip_fresh:        # nobody would ever correct it
        return
    for other in range(world.replica_count):
        if other != request.replica:
            load_expect_remote(world.deciders[request.replica].load, other, &request.charge)


cdef void _tell_claims(world_t* world) noexcept nogil:
    """What each replica gave to whom since the last time, as it claimed it itself."""
    cdef request_t* request = world.untold
    cdef const uint64_t* keys
    cdef uint32_t hearer
    while request != NULL:
        keys = _keys(world, request, request.model, 0)
        for hearer in range(world.replica_count):
            if hearer != request.replica and world.deciders[hearer].prefix != NULL:
                prefix_insert(world.deciders[hearer].prefix, keys, world.key_tokens, <uint32_t>request.key_count,
                              <uint32_t>request.endpoint, request.charge.uncached_tokens, world.now_us)
        request.is_untold = False
        request = request.untold
    world.untold = NULL


cdef void _gossip(world_t* world, bint is_stale) noexcept nogil:
    """Each replica's own column goes to all others; stale: what they hold of each other is dropped."""
    cdef uint32_t[6] cells               # ROW_COUNT
    cdef uint32_t teller, hearer, slot, row
    cdef decider_t* own
    world.is_gossip_fresh = not is_stale
    for teller in range(world.replica_count):
        own = world.deciders[teller]
        for slot in range(world.endpoint_count):
            for row in range(ROW_COUNT):
                cells[row] = 0 if is_stale else own.load.cells[
                    (<size_t>own.column * ROW_COUNT + row) * own.load.slot_count + slot]
            for hearer in range(world.replica_count):
                if hearer != teller:
                    load_set_remote(world.deciders[hearer].load, teller, slot, cells)


cdef void _poll(world_t* world) noexcept nogil:
    cdef uint32_t index, replica, kind
    cdef float told[4]                   # by signal_kind
    cdef engine_t* engine
    for index in range(world.endpoint_count):
        engine = &world.endpoints[index].engine
        if world.endpoints[index].is_mute or engine.health != ENGINE_UP:
            continue
        told[<int>SIGNAL_WAITING] = engine.step.waiting.count
        told[<int>SIGNAL_RUNNING] = engine.step.running.count
        told[<int>SIGNAL_KV] = <float>step_kv_usage(&engine.step)
        told[<int>SIGNAL_POWER] = <float>min(engine_power(engine) / engine.power_cap, 1.0)
        for replica in range(world.replica_count):
            for kind in range(4):
                signals_write(world.deciders[replica].learner.signals, index, kind, told[kind], world.now_us,
                              SOURCE_POLL, world.now_us)


# --- the loop --------------------------------------------------------------------------------------------------------

cdef void world_run(world_t* world) noexcept nogil:
    cdef event_t event
    cdef request_t* request
    while world.done_count < world.request_count and not world.agenda.is_full:
        if not agenda_take(&world.agenda, &event):
            return
        world.now_us = event.time_us
        if event.kind == EVENT_STEP:
            if event.serial == world.endpoints[event.index].engine.serial:
                _end_step(world, event.index)
        elif event.kind == EVENT_ARRIVAL:
            _arrive(world, &world.requests[event.index])
        elif event.kind in (EVENT_DELIVERY, EVENT_FIRST_TOKEN, EVENT_END, EVENT_FAILURE):
            request = &world.requests[event.index]
            if event.serial != request.serial:
                continue
            if event.kind == EVENT_DELIVERY:
                _deliver(world, request)
            elif event.kind == EVENT_FIRST_TOKEN:
                _first_token(world, request)
            elif event.kind == EVENT_END:
                _end(world, request)
            else:
                _fail(world, request)
        elif event.kind == EVENT_LOADED:
            if event.serial == world.endpoints[event.index].engine.serial:
                _loaded(world, event.index)
        elif event.kind == EVENT_GOSSIP:
            if not world.is_gossip_lost:
                _gossip(world, False)
                _tell_claims(world)
                world.gossip_serial += 1
                agenda_add(&world.agenda, world.now_us + GOSSIP_STALE_US, EVENT_GOSSIP_STALE, 0, world.gossip_serial)
            agenda_add(&world.agenda, world.now_us + world.gossip_us, EVENT_GOSSIP, 0, 0)
        elif event.kind == EVENT_GOSSIP_STALE:
            if event.serial == world.gossip_serial:
                _gossip(world, True)
        elif event.kind == EVENT_POLL:
            _poll(world)
            agenda_add(&world.agenda, world.now_us + world.poll_us, EVENT_POLL, 0, 0)
        elif event.kind == EVENT_FAULT:
            _turn_fault(world, &world.faults[event.index], event.index, True)
        elif event.kind == EVENT_FAULT_OVER:
            _turn_fault(world, &world.faults[event.index], event.index, False)
        elif event.kind == EVENT_FLAP:
            _flap(world, event.index)

"""A world as Python builds, runs and reads it.

Built from flat arrays (see simulation.pyi), run once without the interpreter, read as columns. Invariant: everything a
run needs is allocated here, before it; requests never move, since their charges are linked. Neighbours: world.pyx (what
happens), run.py (the only caller), decision.pyx (a Decider per replica).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from bench.native.step cimport step_class_t
from bench.sim.agenda cimport agenda_add, agenda_free
from bench.sim.engine cimport MODEL_ABSENT, MODEL_RESIDENT, engine_free, engine_init, engine_t
from bench.sim.request cimport NO_SEQUENCE, request_t
from bench.sim.world cimport (
    CHOICES_MAX, EVENT_ARRIVAL, EVENT_FAULT, EVENT_FAULT_OVER, EVENT_GOSSIP, EVENT_POLL, WORLD_START_US, endpoint_t,
    fault_t, name_t, world_run, world_t,
)
from router.native.decision cimport Decider
from router.native.learner cimport engine_figures_t, learner_set_figures
from router.native.pick cimport (
    KNOBS_MAX, POLICY_BOUNDED_RING, POLICY_MAGLEV, POLICY_RING, candidate_set_build_maglev, candidate_set_build_ring,
    candidate_set_free, candidate_set_reserve_loads, candidate_set_t, decider_t,
)
from router.native.prefix_cache cimport prefix_set_capacity

cdef enum:
    RING_POINTS = 100                # per unit of weight, as in the proxy

KNOB_COUNT_MAX = KNOBS_MAX


cdef class Simulation:
    """One run."""

    cdef world_t world
    cdef list _held                  # arrays and tables that the structs point into
    cdef bint _is_run

    def __cinit__(self, uint32_t request_count, uint32_t endpoint_count, uint32_t model_count, list deciders,
                  uint64_t seed, bint by_session=False):
        cdef uint32_t replica_count = <uint32_t>len(deciders)
        cdef Decider decider
        memset(&self.world, 0, sizeof(world_t))
        self._held = [deciders]
        self.world.requests = <request_t*>calloc(request_count + 1, sizeof(request_t))
        self.world.endpoints = <endpoint_t*>calloc(endpoint_count + 1, sizeof(endpoint_t))
        self.world.deciders = <decider_t**>calloc(replica_count, sizeof(decider_t*))
        self.world.candidates = <candidate_set_t*>calloc(replica_count * model_count, sizeof(candidate_set_t))
        self.world.busy_mark_us = <uint64_t*>calloc(endpoint_count + 1, sizeof(uint64_t))
        if self.world.requests == NULL or self.world.endpoints == NULL or self.world.deciders == NULL \
                or self.world.candidates == NULL or self.world.busy_mark_us == NULL:
            raise MemoryError
        self.world.request_count, self.world.endpoint_count = request_count, endpoint_count
        self.world.model_count, self.world.replica_count = model_count, replica_count
        self.world.seed, self.world.by_session = seed, by_session
        self.world.now_us = WORLD_START_US
        for replica, decider in enumerate(deciders):
            self.world.deciders[replica] = &decider.decider

    def __dealloc__(self):
        for index in range(self.world.endpoint_count):
            engine_free(&self.world.endpoints[index].engine)
        if self.world.candidates != NULL:
            for index in range(self.world.replica_count * self.world.model_count):
                candidate_set_free(&self.world.candidates[index])
        agenda_free(&self.world.agenda)
        free(self.world.requests)
        free(self.world.endpoints)
        free(self.world.deciders)
        free(self.world.candidates)
        free(self.world.busy_mark_us)
        free(self.world.faults)
        free(self.world.names)
        free(self.world.choice_keys)

    # --- building ----------------------------------------------------------------------------------------------------

    def set_requests(
        self, const int64_t[::1] arrival_us, const int32_t[::1] follows, const int32_t[::1] prompt_tokens,
        const int32_t[::1] output_tokens, const int32_t[::1] asked, const uint64_t[::1] session,
        const int64_t[::1] block_offset, const uint64_t[::1] blocks,
        const int64_t[::1] key_offset, const uint64_t[::1] keys, const uint32_t[::1] key_tokens,
    ):
        cdef request_t* request
        cdef uint32_t index
        self._held += [blocks, keys, key_tokens]
        self.world.key_tokens = &key_tokens[0] if key_tokens.shape[0] else NULL
        for index in range(self.world.request_count):
            request = &self.world.requests[index]
            request.index = index
            request.follower = request.endpoint = -1
            request.sequence = NO_SEQUENCE
            request.prompt_tokens, request.output_tokens = prompt_tokens[index], output_tokens[index]
            request.asked, request.session = <uint32_t>asked[index], session[index]
            request.model = self.world.names[request.asked].models[0]
            request.block_count = <int32_t>(block_offset[index + 1] - block_offset[index])
            request.key_count = <int32_t>(key_offset[index + 1] - key_offset[index])
            request.blocks = &blocks[block_offset[index]] if request.block_count else NULL
            request.keys = &keys[key_offset[index]] if request.key_count else NULL
            self.world.key_count_max = max(self.world.key_count_max, <uint32_t>request.key_count)
            if follows[index] >= 0:
                request.wait_us = <uint64_t>arrival_us[index]
                self.world.requests[follows[index]].follower = <int32_t>index
            else:
                agenda_add(&self.world.agenda, WORLD_START_US + <uint64_t>arrival_us[index], EVENT_ARRIVAL,
                           <int32_t>index, 0)

        self.world.choice_keys = <uint64_t*>calloc(CHOICES_MAX * self.world.key_count_max + 1, sizeof(uint64_t))
        if self.world.choice_keys == NULL:
            raise MemoryError

    def set_names(self, names):
        """What requests may ask for, before they are set: of each name the models that may answer, in order, as
        (model, its quality's cost in seconds).
        """
        self.world.name_count = <uint32_t>len(names)
        self.world.names = <name_t*>calloc(self.world.name_count + 1, sizeof(name_t))
        if self.world.names == NULL:
            raise MemoryError
        for index, models in enumerate(names):
            if not 1 <= len(models) <= CHOICES_MAX:
                raise ValueError(f"a name stands for 1 to {CHOICES_MAX} models, not {len(models)}")
            self.world.names[index].count = <uint32_t>len(models)
            for place, (model, quality_s) in enumerate(models):
                if not 0 <= model < self.world.model_count:
                    raise IndexError(f"model {model} of {self.world.model_count}")
                self.world.names[index].models[place] = model
                self.world.names[index].quality_s[place] = quality_s

    def set_endpoint(
        self, uint32_t index, *, timing, int block_tokens, int sequences_max, int chunk_tokens, uint64_t rtt_us,
        loads_us, resident, uint32_t resident_max, double power_cap, double power_brake,
    ):
        """`loads_us[model]`: how long it takes to load; `resident[model]`: it is there from the beginning."""
        cdef endpoint_t* endpoint = &self.world.endpoints[index]
        cdef engine_t* engine = &endpoint.engine
        cdef step_class_t values
        memset(&values, 0, sizeof(values))
        (values.floor_ms, values.base_ms, values.token_ms, values.attention_ms, values.context_ms, values.kv_tokens,
         values.overhead_ms) = timing
        values.sequences_max, values.chunk_tokens_max, values.block_tokens = sequences_max, chunk_tokens, block_tokens
        if engine_init(engine, &values, self.world.model_count) < 0:
            raise MemoryError
        endpoint.half_rtt_us = rtt_us // 2
        engine.resident_max = resident_max
        engine.power_cap, engine.power_brake = power_cap, power_brake
        for model, load_us in enumerate(loads_us):
            engine.models[model].state = MODEL_RESIDENT if resident[model] else MODEL_ABSENT
            engine.models[model].load_us = load_us
            engine.resident_count += resident[model]

    def set_figures(self, uint32_t index, *, uint16_t engine_class, float token_s, float pair_s, float floor_s,
                    float base_s, float context_s, float kv_capacity_tokens, float input_price, float output_price,
                    float second_price, float rtt_s):
        """What routers are told of an endpoint's engine."""
        cdef engine_figures_t figures
        memset(&figures, 0, sizeof(figures))
        figures.engine_class = engine_class
        figures.token_s, figures.pair_s, figures.floor_s, figures.base_s = token_s, pair_s, floor_s, base_s
        figures.context_s, figures.kv_capacity_tokens = context_s, kv_capacity_tokens
        figures.input_price, figures.output_price, figures.second_price = input_price, output_price, second_price
        figures.rtt_s = rtt_s
        for replica in range(self.world.replica_count):
            learner_set_figures(self.world.deciders[replica].learner, index, &figures)
            if self.world.deciders[replica].prefix != NULL:
                prefix_set_capacity(self.world.deciders[replica].prefix, index, <uint32_t>kv_capacity_tokens)

    def set_candidates(self, uint32_t model, slots, weights, identities, loads_s=(), models_max=()):
        """`loads_s` and `models_max` of each candidate, where some do not always have the model; else empty."""
        cdef candidate_set_t* candidates
        cdef uint32_t count = <uint32_t>len(slots)
        for replica in range(self.world.replica_count):
            candidates = &self.world.candidates[replica * self.world.model_count + model]
            candidates.count = count
            candidates.slots = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
            candidates.weights = <float*>calloc(count + 1, sizeof(float))
            candidates.identities = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
            if candidates.slots == NULL or candidates.weights == NULL or candidates.identities == NULL:
                raise MemoryError
            if loads_s:
                if candidate_set_reserve_loads(candidates) < 0:
                    raise MemoryError
                for position in range(count):
                    candidates.load_s[position] = loads_s[position]
                    candidates.models_max[position] = models_max[position]
            for position in range(count):
                candidates.slots[position] = slots[position]
                candidates.weights[position] = weights[position]
                candidates.identities[position] = identities[position]
            if self.world.policy.kind in (POLICY_RING, POLICY_BOUNDED_RING):
                if candidate_set_build_ring(candidates, RING_POINTS) < 0:
                    raise MemoryError
            if self.world.policy.kind == POLICY_MAGLEV and candidate_set_build_maglev(candidates) < 0:
                raise MemoryError

    def set_policy(self, int kind, knobs, *, float ttft_target_s=0, float ttft_target_token_s=0,
                   float cost_weight_s=0):
        """Before the candidates are set: rings and tables are built for it."""
        self.world.policy.kind = kind
        for index, knob in enumerate(knobs):
            self.world.policy.knobs[index] = knob
        self.world.ttft_target_s, self.world.ttft_target_token_s = ttft_target_s, ttft_target_token_s
        self.world.cost_weight_s = cost_weight_s

    def set_faults(self, faults):
        """`faults`: (kind, endpoint or -1, start_us, end_us) of each, times since the run's begin."""
        self.world.fault_count = <uint32_t>len(faults)
        self.world.faults = <fault_t*>calloc(self.world.fault_count + 1, sizeof(fault_t))
        if self.world.faults == NULL:
            raise MemoryError
        for index, (kind, endpoint, start_us, end_us) in enumerate(faults):
            self.world.faults[index].kind, self.world.faults[index].endpoint = kind, endpoint
            self.world.faults[index].start_us = WORLD_START_US + <uint64_t>start_us
            self.world.faults[index].end_us = WORLD_START_US + <uint64_t>end_us
            agenda_add(&self.world.agenda, self.world.faults[index].start_us, EVENT_FAULT, index, 0)
            agenda_add(&self.world.agenda, self.world.faults[index].end_us, EVENT_FAULT_OVER, index, 0)

    def set_timers(self, uint64_t gossip_us, uint64_t poll_us, uint32_t mark_index):
        self.world.mark_index = mark_index
        self.world.gossip_us, self.world.poll_us = gossip_us, poll_us
        if gossip_us and self.world.replica_count > 1:
            agenda_add(&self.world.agenda, WORLD_START_US + gossip_us, EVENT_GOSSIP, 0, 0)
        if poll_us:
            agenda_add(&self.world.agenda, WORLD_START_US, EVENT_POLL, 0, 0)

    # --- running and reading -----------------------------------------------------------------------------------------

    def run(self):
        if self._is_run:
            raise RuntimeError("a simulation runs once")
        self._is_run = True
        with nogil:
            world_run(&self.world)
        if self.world.agenda.is_full:
            raise MemoryError
        if self.world.done_count != self.world.request_count or self.world.out_of_order:
            raise AssertionError(f"{self.world.done_count} of {self.world.request_count} requests ended, "
                                 f"{self.world.out_of_order} out of order")

    def read_requests(
        self, int64_t[::1] arrival_us, int64_t[::1] picked_us, int64_t[::1] first_us, int64_t[::1] end_us,
        int32_t[::1] endpoint, int32_t[::1] model, int32_t[::1] cached_tokens, uint8_t[::1] state,
        uint8_t[::1] failure, uint8_t[::1] attempt_count,
    ):
        """Fills the columns; times since the run's begin, 0 for what never came."""
        cdef request_t* request
        cdef uint32_t index
        for index in range(self.world.request_count):
            request = &self.world.requests[index]
            arrival_us[index] = <int64_t>(request.arrival_us - WORLD_START_US)
            picked_us[index] = <int64_t>(request.picked_us - WORLD_START_US) if request.picked_us else 0
            first_us[index] = <int64_t>(request.first_us - WORLD_START_US) if request.first_us else 0
            end_us[index] = <int64_t>(request.end_us - WORLD_START_US)
            endpoint[index], cached_tokens[index] = request.endpoint, request.cached_tokens
            model[index] = <int32_t>request.model
            state[index], failure[index], attempt_count[index] = (
                request.state, request.failure, request.attempt_count)

    def engines(self):
        """(busy_us, busy_us before the mark, preemptions, steps, running, waiting, free blocks, blocks) of each."""
        found = []
        for index in range(self.world.endpoint_count):
            engine = &self.world.endpoints[index].engine
            found.append((engine.busy_us, self.world.busy_mark_us[index],
                          engine.preemption_count + engine.step.preemption_count, engine.step.step_count,
                          engine.step.running.count, engine.step.waiting.count,
                          engine.step.free_count, engine.step.block_count))
        return found

    @property
    def pick_count(self):
        return self.world.pick_count

    @property
    def mark_us(self):
        return self.world.mark_us - WORLD_START_US if self.world.mark_us else 0

    @property
    def now_us(self):
        return self.world.now_us - WORLD_START_US

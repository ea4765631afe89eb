"""A decision from its beginning to its end: charged in one step with the pick, told of the first token, ended.

Invariant: a charge is released exactly once, whatever becomes of the attempt, and what is learnt from it is learnt
before. Weighing policies have read all candidates into the view, so the winner's share is copied from there; for the
others it is computed for the one slot. Neighbours: pick (chooses), loadtable (accounts), prefix (claims), residency
(loads), session (where it was), learner (predictions), policy_memory (what rivals remember); the exchange and the
simulator call it.
"""

from libc.math cimport ceilf
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from router.native.candidates cimport exclude_positions
from router.native.learner cimport (
    learner_failed, learner_first_token, learner_predict, learner_refresh, learner_t, learner_work,
)
from router.native.loadtable cimport (
    CHARGE_NONE, CHARGE_PENDING, CHARGE_TOKENS_MAX, WORK_TICK_US, WORK_TICKS_MAX, load_charge, load_first_token,
    load_read, load_read_t, load_release,
)
from router.native.pick cimport (
    POLICY_LLMD, POLICY_PEAK_EWMA, POLICY_PREQUAL, POLICY_SMETRIC, candidate_set_free, candidate_set_reserve_loads,
    pick_endpoint, policy_t, random_next,
)
from router.native.policy_memory cimport (
    policy_memory_create, policy_memory_free, policy_observe_end, policy_observe_first_token,
)
from router.native.prefix cimport prefix_insert, prefix_match
from router.native.prefix_cache cimport prefix_reported
from router.native.residency cimport ResidencyTable, residency_seen, residency_used, residency_wait_s
from router.native.segment cimport segment_check_slot
from router.native.session cimport SessionTable, session_put
from router.native.switching cimport switching_reason_of, switching_reason_text
from router.native.view cimport view_fill, view_free, view_reserve, view_t

cdef enum:
    VIEW_CAPACITY = 1024             # candidates of a pick; a larger set makes it grow (Decider.reserve)
    KNOBS = 16                       # KNOBS_MAX
    OPEN_COUNT = 256                 # attempts open in a benchmark

# Policies that keep records of their own of each endpoint; for the others nobody keeps them.
REMEMBERING = frozenset({POLICY_PEAK_EWMA, POLICY_PREQUAL, POLICY_LLMD, POLICY_SMETRIC})

cdef float TICKS_PER_S = 1e6 / WORK_TICK_US
cdef float FAILED_TIMEOUT_S = 60.0   # what a failed attempt might have taken: a fast error must not look fast


cdef inline void _read_slot(
    decider_t* decider, const uint32_t* slot, const pick_request_t* request, charge_t* charge, float* hit_tokens
) noexcept nogil:
    """The winner's share of what a view would hold."""
    cdef float values[112]               # 7 arrays of 16
    cdef load_read_t read
    cdef float** rows = &read.in_flight
    cdef int index
    for index in range(7):
        rows[index] = values + index * 16
    learner_refresh(decider.learner, decider.load, request.now_us)
    load_read(decider.load, slot, 0, 1, request.now_us, &read)
    charge.queued_s = read.queued_s[0]
    charge.decoding = read.decoding[0]
    hit_tokens[0] = 0
    if decider.prefix != NULL and request.block_count:
        prefix_match(decider.prefix, request.blocks, request.block_tokens, request.block_count, slot, 1, hit_tokens)


cdef void decision_charge(
    decider_t* decider, candidate_set_t* candidates, uint32_t position, const pick_request_t* request, charge_t* charge
) noexcept nogil:
    cdef uint32_t slot = candidates.slots[position]
    cdef uint32_t prompt_tokens = min(request.prompt_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    cdef float hit_tokens = 0, uncached_tokens, trust, _harm_s
    if charge.state != CHARGE_NONE:
        load_release(decider.load, decider.column, charge)
    memset(charge, 0, sizeof(charge_t))
    charge.slot = slot
    charge.kv_tokens = prompt_tokens + min(request.output_tokens, <uint32_t>CHARGE_TOKENS_MAX)
    if decider.residency != NULL and candidates.load_s != NULL and candidates.models_max[position]:
        charge.model = request.model
        charge.load_s = residency_wait_s(
            decider.residency, slot, request.model, candidates.load_s[position], candidates.models_max[position],
            request.now_us, &_harm_s)
        residency_used(decider.residency, slot, request.model, candidates.load_s[position], charge.load_s,
                       request.now_us)
    if prompt_tokens:
        if decider.view.count:           # the pick, or what explains it, has read everybody
            hit_tokens = decider.view.hit_tokens[position]
            charge.queued_s = decider.view.queued_s[position]
            charge.decoding = decider.view.decoding[position]
        else:
            _read_slot(decider, candidates.slots + position, request, charge, &hit_tokens)
        hit_tokens = min(hit_tokens, <float>prompt_tokens)
        uncached_tokens = max(<float>prompt_tokens - hit_tokens, <float>1)
        charge.prompt_tokens = prompt_tokens
        charge.uncached_tokens = <uint32_t>ceilf(uncached_tokens)
        charge.work_s = learner_work(decider.learner, slot, <float>prompt_tokens, uncached_tokens)
        charge.work_ticks = <uint32_t>ceilf(min(charge.work_s * TICKS_PER_S, <float>WORK_TICKS_MAX))
        charge.predicted_s = learner_predict(
            decider.learner, slot, charge.queued_s, charge.work_s, charge.decoding)
        if decider.prefix != NULL:
            trust = decider.prefix.trust[slot]
            charge.hit_tokens = <uint32_t>min(hit_tokens / trust, <float>prompt_tokens) if trust > 0 else 0
            prefix_insert(decider.prefix, request.blocks, request.block_tokens, request.block_count, slot,
                          charge.uncached_tokens, request.now_us)
    if decider.session.key:
        session_put(decider.sessions, decider.session.key, slot, request.model, prompt_tokens, request.now_us)
        decider.session.key = 0
    decider.view.count = 0               # what it holds is no longer so
    load_charge(decider.load, decider.column, charge, request.now_us)


cdef void decision_first_token(decider_t* decider, charge_t* charge, uint64_t now_us) noexcept nogil:
    cdef float ttft_s
    if charge.state != CHARGE_PENDING:
        return
    ttft_s = <float>(now_us - charge.begun_us) * <float>1e-6 if now_us > charge.begun_us else 0
    if charge.model:
        residency_seen(decider.residency, charge.slot, charge.model, now_us)
    if charge.predicted_s > 0 and charge.load_s <= 0:        # a load says nothing of the engine's speed
        learner_first_token(decider.learner, charge, ttft_s, now_us)
    if decider.memory != NULL:
        policy_observe_first_token(decider, charge, ttft_s, now_us)
    load_first_token(decider.load, decider.column, charge, now_us)


cdef void decision_whole_answer(
    decider_t* decider, charge_t* charge, int64_t output_tokens, uint64_t now_us
) noexcept nogil:
    cdef learner_t* learner = decider.learner
    cdef uint32_t slot = charge.slot
    cdef float step_s, decode_s, elapsed_s
    if charge.state != CHARGE_PENDING:
        return
    if charge.model:
        residency_seen(decider.residency, charge.slot, charge.model, now_us)
    if charge.predicted_s > 0 and charge.load_s <= 0:
        if output_tokens < 0:
            output_tokens = charge.kv_tokens - charge.prompt_tokens
        step_s = max(learner.floor_s[slot], learner.base_s[slot] + learner.token_s[slot] * (charge.decoding + 1)) \
            + learner.context_s[slot] * <float>charge.kv_tokens
        decode_s = step_s * learner.step_residual[slot] * <float>max(output_tokens - 1, <int64_t>0)
        elapsed_s = <float>(now_us - charge.begun_us) * <float>1e-6 if now_us > charge.begun_us else 0
        # What is left when the decoding is taken off, which is only as good as the figures of a step are.
        learner_first_token(
            learner, charge, max(elapsed_s - decode_s, min(charge.predicted_s, elapsed_s)), now_us)
    load_first_token(decider.load, decider.column, charge, now_us)


cdef void decision_end(
    decider_t* decider, charge_t* charge, bint failed, int64_t prompt_tokens, int64_t cached_tokens, uint64_t now_us
) noexcept nogil:
    cdef float elapsed_s, scale, missed
    if charge.state == CHARGE_NONE:
        return
    if failed and charge.state == CHARGE_PENDING:        # a stream that breaks later says nothing of first tokens
        elapsed_s = <float>(now_us - charge.begun_us) * <float>1e-6 if now_us > charge.begun_us else 0
        learner_failed(decider.learner, charge, elapsed_s, FAILED_TIMEOUT_S, now_us)
    # No prompt has more than a charge may: who reports more reports nothing.
    if 0 <= cached_tokens <= CHARGE_TOKENS_MAX and prompt_tokens <= CHARGE_TOKENS_MAX and charge.prompt_tokens \
            and decider.prefix != NULL:
        # In the engine's tokens, where it says how many the prompt had.
        scale = <float>prompt_tokens / <float>charge.prompt_tokens if prompt_tokens > 0 else 1
        missed = scale * <float>(charge.prompt_tokens - min(charge.uncached_tokens, charge.prompt_tokens)) \
            - <float>cached_tokens
        prefix_reported(decider.prefix, charge.slot, <uint32_t>(<float>charge.hit_tokens * scale),
                        <uint32_t>cached_tokens, <uint32_t>max(missed, <float>0))
    if decider.memory != NULL:
        policy_observe_end(decider, charge, failed, now_us)
    load_release(decider.load, decider.column, charge)


# --- the door --------------------------------------------------------------------------------------------------------

cdef uint64_t _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef class Question:
    """Candidates and a request out of Python's numbers."""

    cdef candidate_set_t candidates
    cdef pick_request_t request
    cdef uint64_t* keys
    cdef uint32_t* ends
    cdef object excluded

    def __cinit__(
        self, Decider decider, slots, *, uint64_t key=0, uint64_t random=0, uint64_t now_us=1, uint32_t prompt_tokens=0,
        uint32_t output_tokens=0, blocks=(), block_tokens=(), excluded=(), uint64_t model=0, load_s=(), models_max=()
    ):
        cdef uint32_t index, count = <uint32_t>len(slots), depth = <uint32_t>len(blocks)
        self.candidates.slots = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
        self.candidates.weights = <float*>calloc(count + 1, sizeof(float))
        self.candidates.identities = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
        self.keys = <uint64_t*>calloc(depth + 1, sizeof(uint64_t))
        self.ends = <uint32_t*>calloc(depth + 1, sizeof(uint32_t))
        if self.candidates.slots == NULL or self.candidates.weights == NULL or self.candidates.identities == NULL \
                or self.keys == NULL or self.ends == NULL:
            raise MemoryError
        for index, slot in enumerate(slots):
            segment_check_slot(slot, decider.decider.load.slot_count)
            self.candidates.slots[index] = self.candidates.identities[index] = slot
            self.candidates.weights[index] = 1
        self.candidates.count = count
        if load_s and candidate_set_reserve_loads(&self.candidates) < 0:
            raise MemoryError
        for index, (seconds, places) in enumerate(zip(load_s, models_max, strict=True)):
            self.candidates.load_s[index], self.candidates.models_max[index] = seconds, places
        self.request.model = model
        for index, (block, end) in enumerate(zip(blocks, block_tokens, strict=True)):
            self.keys[index], self.ends[index] = block, end
        self.excluded = exclude_positions(&self.request, &self.candidates, excluded)
        self.request.key, self.request.random, self.request.now_us = key, random, now_us
        self.request.prompt_tokens, self.request.output_tokens = prompt_tokens, output_tokens
        self.request.block_count, self.request.blocks, self.request.block_tokens = depth, self.keys, self.ends

    def __dealloc__(self):
        candidate_set_free(&self.candidates)
        free(self.keys)
        free(self.ends)


cdef class Decider:
    """Everything a decision reads and writes, for one process; see decision.pyi for the Python side."""

    def __cinit__(self, LoadTable load not None, PrefixTable prefix, Learner learner not None, uint32_t column=0,
                  ResidencyTable residency=None, SessionTable sessions=None):
        if column >= load.table.column_count:
            raise IndexError(f"column {column} of {load.table.column_count}")
        if learner.learner.slot_count < load.table.slot_count \
                or (prefix is not None and prefix.table.slot_count < load.table.slot_count) \
                or (residency is not None and residency.table.slot_count < load.table.slot_count) \
                or (sessions is not None and sessions.table.slot_count < load.table.slot_count):
            raise ValueError(f"all tables must have the {load.table.slot_count} slots of the load table")
        self.load, self.prefix, self.learner, self.residency = load, prefix, learner, residency
        self.sessions = sessions
        self._held = set()
        self.decider.load = &load.table
        self.decider.prefix = NULL if prefix is None else &prefix.table
        self.decider.learner = &learner.learner
        self.decider.residency = NULL if residency is None else &residency.table
        self.decider.sessions = NULL if sessions is None else &sessions.table
        self.decider.column = column
        self._memory = policy_memory_create(load.table.slot_count)
        self.decider.excluded = <uint64_t*>calloc((load.table.slot_count >> 6) + 1, sizeof(uint64_t))
        if self._memory == NULL or self.decider.excluded == NULL:
            raise MemoryError
        self.decider.memory = self._memory
        self.reserve(min(load.table.slot_count, <uint32_t>VIEW_CAPACITY))

    def __dealloc__(self):
        view_free(&self.decider.view)
        policy_memory_free(self._memory)
        free(self.decider.excluded)

    def reserve(self, uint32_t candidate_count):
        if view_reserve(&self.decider.view, candidate_count) < 0:
            raise MemoryError

    def remember(self, kinds):
        self.decider.memory = NULL if REMEMBERING.isdisjoint(kinds) else self._memory

    def decide(self, int kind, slots, *, knobs=(), **asked):
        cdef Decision decision = Decision.__new__(Decision)
        cdef Question question = Question(self, slots, **asked)
        cdef policy_t policy
        memset(&policy, 0, sizeof(policy))
        policy.kind = kind
        for index, knob in enumerate(knobs[:KNOBS]):
            policy.knobs[index] = knob
        decision.position = pick_endpoint(&self.decider, &policy, &question.candidates, &question.request)
        if decision.position >= 0:
            decision.switching = switching_reason_of(
                &self.decider, &policy, &question.candidates, &question.request, decision.position)
            decision_charge(
                &self.decider, &question.candidates, decision.position, &question.request, &decision.charge)
            self._held.add(decision)             # it must not go while it is in a queue
        return decision

    def view(self, slots, **asked):
        cdef Question question = Question(self, slots, **asked)
        cdef view_t* view = &self.decider.view
        cdef uint32_t index, end
        if question.candidates.count > view.capacity:
            raise ValueError(f"at most {view.capacity} candidates; see reserve")
        view.count = 0
        view_fill(view, self.decider.load, self.decider.prefix, self.decider.learner, &question.candidates,
                  &question.request)
        end = (view.count + 15) // 16 * 16
        return {
            "in_flight": [view.in_flight[index] for index in range(end)],
            "pending": [view.pending[index] for index in range(end)],
            "decoding": [view.decoding[index] for index in range(end)],
            "queued_tokens": [view.queued_tokens[index] for index in range(end)],
            "queued_s": [view.queued_s[index] for index in range(end)],
            "kv_tokens": [view.kv_tokens[index] for index in range(end)],
            "hit_tokens": [view.hit_tokens[index] for index in range(end)],
            "uncached_tokens": [view.uncached_tokens[index] for index in range(end)],
            "refused": [view.refused[index] for index in range(end)],
        }

    def bench(self, int kind, slots, chains, block_tokens, uint32_t rounds, *, knobs=(), uint32_t prompt_tokens=10_000):
        """Decides `rounds` times for one chain of keys after the other, a few hundred attempts open at a time."""
        cdef list questions = [
            Question(self, slots, prompt_tokens=prompt_tokens, output_tokens=300, blocks=chain,
                     block_tokens=block_tokens, key=0 if self.sessions is None else session)
            for session, chain in enumerate(chains, 1)
        ]
        cdef Question question, first = questions[0]     # whose candidates are everybody's, as a pool's are
        cdef charge_t* charges = <charge_t*>calloc(OPEN_COUNT, sizeof(charge_t))
        cdef charge_t* charge
        cdef policy_t policy
        cdef uint32_t turn
        cdef int position
        cdef uint64_t random = 1, begun_ns, picked_ns, ended_ns
        memset(&policy, 0, sizeof(policy))
        policy.kind = kind
        for index, knob in enumerate(knobs[:KNOBS]):
            policy.knobs[index] = knob
        picks_ns, decisions_ns = [], []
        if charges == NULL:
            raise MemoryError
        for turn in range(rounds):
            question = questions[turn % len(questions)]
            charge = &charges[turn % <uint32_t>OPEN_COUNT]
            begun_ns = _now_ns()
            question.request.now_us = begun_ns // 1000
            question.request.random = random_next(&random)
            position = pick_endpoint(&self.decider, &policy, &first.candidates, &question.request)
            picked_ns = _now_ns()
            decision_first_token(&self.decider, charge, question.request.now_us)
            decision_end(&self.decider, charge, False, -1, -1, question.request.now_us)
            if position >= 0:
                decision_charge(&self.decider, &first.candidates, position, &question.request, charge)
            ended_ns = _now_ns()
            picks_ns.append(picked_ns - begun_ns)
            decisions_ns.append(ended_ns - begun_ns)
        for turn in range(OPEN_COUNT):
            load_release(self.decider.load, self.decider.column, &charges[turn])
        free(charges)
        return picks_ns, decisions_ns

    def running(self):
        return {
            "prompt_tokens": self.decider.learner.prompt_mean, "hit_tokens": self.decider.learner.hit_mean,
            "queued_s": self.decider.learner.queued_mean_s, "waited_s": self.decider.learner.waited_mean_s,
            "answer_s": self.decider.learner.answer_mean_s,
        }

    def first_token(self, Decision decision not None, uint64_t now_us):
        decision_first_token(&self.decider, &decision.charge, now_us)

    def whole_answer(self, Decision decision not None, uint64_t now_us, int64_t output_tokens=-1):
        decision_whole_answer(&self.decider, &decision.charge, output_tokens, now_us)

    def end(self, Decision decision not None, uint64_t now_us, *, bint failed=False, int64_t prompt_tokens=-1,
            int64_t cached_tokens=-1):
        decision_end(&self.decider, &decision.charge, failed, prompt_tokens, cached_tokens, now_us)
        self._held.discard(decision)


cdef class Decision:
    """One decision of a test or a tool: who was picked, and its charge."""

    @property
    def slot(self):
        return self.charge.slot if self.position >= 0 else None

    @property
    def session(self):
        reason = switching_reason_text(self.switching)
        return reason.data[:reason.length].decode()

    @property
    def state(self):
        return ("released", "pending", "decoding")[self.charge.state]

    def figures(self):
        return {
            "prompt_tokens": self.charge.prompt_tokens, "uncached_tokens": self.charge.uncached_tokens,
            "hit_tokens": self.charge.hit_tokens, "kv_tokens": self.charge.kv_tokens,
            "work_us": self.charge.work_ticks * WORK_TICK_US, "predicted_s": self.charge.predicted_s,
            "queued_s": self.charge.queued_s, "work_s": self.charge.work_s, "decoding": self.charge.decoding,
        }

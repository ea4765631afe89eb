"""Every policy that picks an endpoint, behind one call.

The policies are in policy_load (how much is there to do), policy_hash (the same key to the same place), policy_cache
(what the prompt costs where) and policy_five_axis (all of it); this is the one place that knows their numbers. A
policy that weighs every candidate finds the view filled with all that is known of them; simpler ones read the load
table themselves and pay for no more.

Invariant: a pick allocates nothing and charges nothing. Neighbours: candidates (sets, eligibility), view (accounts of
all candidates), decision (which charges what was picked).
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from router.native.candidates cimport (
    CHECK_EJECTED, candidate_checks, candidate_set_shape, exclude_positions
)
from router.native.learner cimport learner_t
from router.native.loadtable cimport LoadTable
from router.native.policy_cache cimport (
    pick_dynamo, pick_llmd, pick_lmetric, pick_loadaware, pick_mooncake, pick_smetric, pick_smg_cache_aware, pick_sticky
)
from router.native.policy_five_axis cimport pick_five_axis
from router.native.policy_hash cimport pick_maglev, pick_on_bounded_ring, pick_on_ring, pick_rendezvous
from router.native.policy cimport BOUNDED_RING_LOAD_FACTOR
from router.native.policy_load cimport (
    pick_in_turn, pick_least_in_flight, pick_of_two, pick_peak_ewma, pick_prequal, pick_random
)
from router.native.policy_memory cimport PolicyMemory
from router.native.segment cimport segment_check_slot
from router.native.view cimport view_fill, view_free, view_reserve


cdef int pick_endpoint(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    cdef int checks, position
    decider.view.count = 0               # it holds another pick's accounts
    decider.session.key = 0              # nobody's, unless the policy remembers sessions
    decider.session.home = -1
    if candidates.count == 0:
        return -1
    if not candidates.shape:
        candidate_set_shape(candidates)
    if policy.kind >= POLICY_PEAK_EWMA and candidates.count <= decider.view.capacity:
        if policy.kind == POLICY_FIVE_AXIS:
            # It fills the view itself. Without a learner, or a prompt (a picture, a sound, a GET), it has nothing to
            # weigh: the less busy of two then, unless models have to be loaded.
            position = -1
            if decider.learner != NULL and (request.prompt_tokens or candidates.load_s != NULL):
                position = pick_five_axis(decider, policy, candidates, request)
        else:
            view_fill(&decider.view, decider.load, decider.prefix, decider.learner, candidates, request)
            position = _pick_by_view(decider, policy, candidates, request)
        if position >= 0:
            return position
        # Everybody is excluded, no score is a number, or there was nothing to weigh.
    checks = candidate_checks(decider.load, candidates, request)
    position = _pick(decider, policy, candidates, request, checks)
    if position < 0 and checks & CHECK_EJECTED:
        position = _pick(decider, policy, candidates, request, checks & ~CHECK_EJECTED)
    return position


cdef int _pick(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request, int checks
) noexcept nogil:
    if policy.kind == POLICY_ROUND_ROBIN:
        return pick_in_turn(decider.load, candidates, request, checks)
    if policy.kind == POLICY_RENDEZVOUS:
        return pick_rendezvous(
            decider.load, candidates, request, checks, request.key if request.key else request.random)
    if policy.kind == POLICY_BOUNDED_RING:
        return pick_on_bounded_ring(
            decider.load, candidates, request, checks, policy.knobs[BOUNDED_RING_LOAD_FACTOR])
    if policy.kind == POLICY_LEAST_IN_FLIGHT:
        return pick_least_in_flight(decider.load, candidates, request, checks)
    if policy.kind == POLICY_RANDOM:
        return pick_random(decider.load, candidates, request, checks)
    if policy.kind == POLICY_WEIGHTED:       # the weighted rendezvous of a key that never comes again
        return pick_rendezvous(decider.load, candidates, request, checks, request.random)
    if policy.kind == POLICY_RING:
        return pick_on_ring(decider.load, candidates, request, checks)
    if policy.kind == POLICY_MAGLEV:
        return pick_maglev(decider.load, candidates, request, checks)
    return pick_of_two(decider.load, candidates, request, checks)


cdef int _pick_by_view(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, pick_request_t* request
) noexcept nogil:
    if policy.kind == POLICY_PEAK_EWMA:
        return pick_peak_ewma(decider, policy, candidates, request)
    if policy.kind == POLICY_PREQUAL:
        return pick_prequal(decider, policy, candidates, request)
    if policy.kind == POLICY_SMG_CACHE_AWARE:
        return pick_smg_cache_aware(decider, policy, candidates, request)
    if policy.kind == POLICY_LOADAWARE:
        return pick_loadaware(decider, policy, candidates, request)
    if policy.kind == POLICY_LLMD:
        return pick_llmd(decider, policy, candidates, request)
    if policy.kind == POLICY_STICKY:
        return pick_sticky(decider, policy, candidates, request)
    if policy.kind == POLICY_DYNAMO:
        return pick_dynamo(decider, policy, candidates, request)
    if policy.kind == POLICY_SMETRIC:
        return pick_smetric(decider, policy, candidates, request)
    if policy.kind == POLICY_MOONCAKE:
        return pick_mooncake(decider, policy, candidates, request)
    return pick_lmetric(decider, policy, candidates, request)


# --- the door -------------------------------------------------------------------------------------------------------

cdef class CandidateSet:
    """Candidates for tests and benches; the snapshot builds the same struct for requests."""

    def __cinit__(self, slots, weights=None, identities=None, uint32_t points_per_weight=0, bint maglev=False,
                  double ejected_ratio_max=0, features=None):
        cdef uint32_t count = len(slots)
        cdef uint32_t position
        if weights is None:
            weights = [1.0] * count
        if identities is None:
            identities = [int(slot) + 1 for slot in slots]
        if not count == len(weights) == len(identities):
            raise ValueError("slots, weights and identities must be equally many")
        if count and not min(weights) > 0:
            raise ValueError("weights must be above 0")
        self.candidates.count = count
        self.candidates.ejected_ratio_max = ejected_ratio_max
        self.candidates.slots = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
        self.candidates.weights = <float*>calloc(count + 1, sizeof(float))
        self.candidates.identities = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
        if not (self.candidates.slots and self.candidates.weights and self.candidates.identities):
            raise MemoryError
        for position in range(count):
            self.candidates.slots[position] = slots[position]
            self.candidates.weights[position] = weights[position]
            self.candidates.identities[position] = identities[position]
        if features is not None and candidate_set_reserve_features(&self.candidates) < 0:
            raise MemoryError
        for position, bits in enumerate(features or ()):
            self.candidates.features[position] = bits
        candidate_set_shape(&self.candidates)
        if points_per_weight and candidate_set_build_ring(&self.candidates, points_per_weight):
            raise MemoryError
        if maglev and candidate_set_build_maglev(&self.candidates):
            raise MemoryError

    def __dealloc__(self):
        candidate_set_free(&self.candidates)

    def __len__(self):
        return self.candidates.count

    def ring(self):
        return [
            (self.candidates.ring_points[index], self.candidates.ring_owners[index])
            for index in range(self.candidates.ring_count)
        ]

    def maglev(self):
        if self.candidates.maglev == NULL:
            return []
        return [self.candidates.maglev[index] for index in range(MAGLEV_ENTRIES)]

    def pick(
        self, int kind, LoadTable table not None, *, uint64_t random=0, uint64_t key=0, uint64_t now_us=0,
        excluded=(), knobs=(), uint32_t prompt_tokens=0, uint64_t required=0, PolicyMemory memory=None
    ):
        cdef decider_t decider
        cdef policy_t policy
        cdef pick_request_t request
        self._check(table)
        _fill_policy(&policy, kind, knobs)
        _fill_request(&request, random, key, now_us, prompt_tokens)
        _held = exclude_positions(&request, &self.candidates, excluded)
        request.required = required
        memset(&decider, 0, sizeof(decider))
        decider.load = &table.table
        decider.memory = NULL if memory is None else memory.memory
        if view_reserve(&decider.view, self.candidates.count):
            raise MemoryError
        position = pick_endpoint(&decider, &policy, &self.candidates, &request)
        view_free(&decider.view)
        return position

    def pick_by_view(
        self, int kind, dict view not None, *, uint64_t random=0, uint64_t now_us=0, knobs=(),
        uint32_t prompt_tokens=0, PolicyMemory memory=None, dict learner=None
    ):
        cdef decider_t decider
        cdef policy_t policy
        cdef pick_request_t request
        cdef learner_t learnt
        cdef _Arrays arrays = _Arrays()
        cdef int position
        cdef uint32_t index
        if not POLICY_PEAK_EWMA <= kind < POLICY_FIVE_AXIS:
            raise ValueError(f"policy {kind} picks by no view, or fills its own")
        _fill_policy(&policy, kind, knobs)
        _fill_request(&request, random, 0, now_us, prompt_tokens)
        memset(&decider, 0, sizeof(decider))
        memset(&learnt, 0, sizeof(learnt))
        if learner is not None:
            learnt.token_s = arrays.put(learner["token_s"])
            learnt.pair_s = arrays.put(learner["pair_s"])
            learnt.inverse_kv = arrays.put(learner["inverse_kv"])
            decider.learner = &learnt
        decider.memory = NULL if memory is None else memory.memory
        if view_reserve(&decider.view, self.candidates.count):
            raise MemoryError
        decider.view.count = self.candidates.count
        for index in range(self.candidates.count):
            decider.view.in_flight[index] = view["in_flight"][index]
            decider.view.pending[index] = view["pending"][index]
            decider.view.decoding[index] = view["in_flight"][index] - view["pending"][index]
            decider.view.queued_tokens[index] = view["queued_tokens"][index]
            decider.view.queued_s[index] = view["queued_s"][index]
            decider.view.kv_tokens[index] = view["kv_tokens"][index]
            decider.view.hit_tokens[index] = view["hit_tokens"][index]
            decider.view.uncached_tokens[index] = max(prompt_tokens - view["hit_tokens"][index], 1)
            decider.view.refused[index] = INFINITY if index in view["refused"] else 0.0
        position = _pick_by_view(&decider, &policy, &self.candidates, &request)
        scores = [decider.view.score[index] for index in range(self.candidates.count)]
        view_free(&decider.view)
        return position, scores

    def bench_loop(
        self, int kind, LoadTable table not None, uint64_t pick_count, uint64_t now_us=0, knobs=(),
        uint32_t prompt_tokens=0
    ):
        cdef decider_t decider
        cdef policy_t policy
        cdef pick_request_t request
        cdef timespec start, end
        cdef uint64_t _index, state = 1
        cdef int64_t winners = 0
        self._check(table)
        _fill_policy(&policy, kind, knobs)
        _fill_request(&request, 0, 0, now_us, prompt_tokens)
        memset(&decider, 0, sizeof(decider))
        decider.load = &table.table
        if view_reserve(&decider.view, self.candidates.count):
            raise MemoryError
        with nogil:
            clock_gettime(CLOCK_MONOTONIC, &start)
            for _index in range(pick_count):
                request.random = random_next(&state)
                request.key = request.random
                winners += pick_endpoint(&decider, &policy, &self.candidates, &request)
            clock_gettime(CLOCK_MONOTONIC, &end)
        view_free(&decider.view)
        if winners < 0:
            raise ValueError("there was nobody to pick")
        return ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / (pick_count or 1)

    cdef int _check(self, LoadTable table) except -1:
        cdef uint32_t position
        for position in range(self.candidates.count):
            segment_check_slot(self.candidates.slots[position], table.table.slot_count)
        return 0


cdef class _Arrays:
    """float32 arrays that live as long as this does."""

    cdef list kept

    def __cinit__(self):
        self.kept = []

    cdef float* put(self, values) except NULL:
        cdef bytearray data = bytearray((len(values) + 16) * sizeof(float))
        cdef float* array = <float*><char*>data
        cdef uint32_t index
        for index, value in enumerate(values):
            array[index] = value
        self.kept.append(data)
        return array


cdef int _fill_policy(policy_t* policy, int kind, knobs) except -1:
    cdef int index
    if not 0 <= kind < POLICY_COUNT or len(knobs) > KNOBS_MAX:
        raise ValueError(f"policy {kind} with {len(knobs)} knobs: there are {POLICY_COUNT}, with at most {KNOBS_MAX}")
    memset(policy, 0, sizeof(policy_t))
    policy.kind = kind
    for index, value in enumerate(knobs):
        policy.knobs[index] = value
    return 0


cdef int _fill_request(
    pick_request_t* request, uint64_t random, uint64_t key, uint64_t now_us, uint32_t prompt_tokens
) except -1:
    memset(request, 0, sizeof(pick_request_t))
    request.key = key
    request.random = random
    request.now_us = now_us
    request.prompt_tokens = prompt_tokens
    return 0


def random_words(uint64_t seed, uint32_t count):
    """The `count` words that `random_next` gives from `seed`: what a pick sees when it draws again."""
    return [random_next(&seed) for _ in range(count)]

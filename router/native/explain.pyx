"""Why an endpoint was picked: one token for a decision, and whole decisions in a ring of shared memory.

Layout of the segment: a header page, which also counts how many decisions each worker has ever written, then a column
per worker: the last EXPLAIN_RECORDS_MAX of them. Invariant: a column has one writer, and a reader never shows half a
record: its sequence number is odd while it is written, and a copy counts only if the number was the same before and
after. A worker that dies in the middle leaves a record that is passed over until the next writer of the column comes
round to it. Nobody touches what was never written, so that bounds cost no memory.

Reasons are found by asking the score itself what would have been otherwise, after the pick and outside of it. It takes
a pass over the candidates, so only sampled decisions and routes that show the reason pay for it. Neighbours: pick and
policy_five_axis (what is explained), attempt (which asks), router/explain_view.py (which puts names to the numbers).
"""

from libc.math cimport INFINITY, isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen
from router.native.atomic cimport load_u64, store_u64
from router.native.candidates cimport (
    CHECK_EJECTED, candidate_checks, candidate_set_free, candidate_set_reserve_loads, candidate_set_t,
    exclude_positions, is_eligible, pick_request_t,
)
from router.native.choice cimport choice_t, choices_are_weighed
from router.native.decision cimport Decider
from router.native.loadtable cimport load_in_flight, load_is_ejected
from router.native.pick cimport POLICY_FIVE_AXIS, POLICY_PEAK_EWMA, decider_t, pick_endpoint, policy_t
from router.native.policy_five_axis cimport (
    KNOB_BAND_MS, KNOB_BAND_RATIO, five_axis_has_ratios, five_axis_terms, terms_t,
)
from router.native.segment cimport Segment, segment_attach_table, segment_check_slot, segment_create
from router.native.switching cimport SWITCH_NEW, switching_reason_of
from router.native.switching import SWITCH_REASONS
from router.native.view cimport view_fill, view_t

cdef extern from *:
    """
    static inline void fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline void fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    """
    void fence_release() noexcept nogil
    void fence_acquire() noexcept nogil

cdef enum:
    LAYOUT_VERSION = 4
    PAGE_BYTES = 4096
    COLUMN_COUNT_MAX = 256           # as many as a load table has
    READ_TRIES_MAX = 1000            # a record takes far less than a microsecond to write; its writer may have died

cdef uint64_t MAGIC = 0x31504C584C4C4644     # "DFLLXPL1"

REASONS = (
    "", "retry", "panic", "only", "policy", "session", "tie", "cached", "fastest", "cheaper", "headroom", "healthier",
    "loaded", "model",
)

cdef struct header_t:
    uint64_t magic
    uint32_t layout_version
    uint32_t column_count
    uint32_t record_count
    uint32_t record_bytes
    uint8_t padding_header[40]
    uint64_t written_counts[256]     # COLUMN_COUNT_MAX


# --- what workers call ----------------------------------------------------------------------------------------------

cdef text_t explain_reason_text(int reason) noexcept nogil:
    cdef const char* texts[14]
    cdef text_t text
    texts[0], texts[1], texts[2], texts[3] = b"", b"retry", b"panic", b"only"
    texts[4], texts[5], texts[6], texts[7] = b"policy", b"session", b"tie", b"cached"
    texts[8], texts[9], texts[10], texts[11] = b"fastest", b"cheaper", b"headroom", b"healthier"
    texts[12], texts[13] = b"loaded", b"model"
    text.data = <const uint8_t*>texts[reason]
    text.length = <uint32_t>strlen(texts[reason])
    return text


cdef uint32_t _eligible_count(const decider_t* decider, const choice_t* choices, uint32_t count) noexcept nogil:
    cdef int checks
    cdef uint32_t index, position, eligible_count = 0
    cdef bint in_panic
    for in_panic in range(2):            # with everybody ejected the ejected ones are
        for index in range(count):
            checks = candidate_checks(decider.load, choices[index].candidates, &choices[index].request)
            if in_panic:
                checks &= ~CHECK_EJECTED
            if not checks:
                eligible_count += choices[index].candidates.count
                continue
            for position in range(choices[index].candidates.count):
                eligible_count += is_eligible(
                    decider.load, choices[index].candidates, &choices[index].request, checks, position)
        if eligible_count:
            break
    return eligible_count


cdef bint _is_scored_in_seconds(const decider_t* decider, const policy_t* policy) noexcept nogil:
    # Sets that the view has no room for are picked from by another rule.
    return policy.kind == POLICY_FIVE_AXIS and not five_axis_has_ratios(decider, policy) and decider.view.count != 0


cdef inline float _sum(const terms_t* terms) noexcept nogil:
    return terms.queue + terms.load + terms.prefill + terms.residual + terms.proximity + terms.externality \
        + terms.decode + terms.duplication + terms.eviction + terms.cost + terms.headroom + terms.health \
        + terms.switching + terms.quality


cdef inline float _first_token_s(const terms_t* terms) noexcept nogil:
    return terms.queue + terms.load + terms.prefill + terms.residual + terms.proximity


cdef uint32_t _as_good_count(const policy_t* policy, const view_t* view) noexcept nogil:
    cdef float least = INFINITY, limit
    cdef uint32_t position, count = 0
    for position in range(view.count):
        least = min(least, view.score[position])
    limit = least + least * policy.knobs[KNOB_BAND_RATIO] + policy.knobs[KNOB_BAND_MS] * <float>0.001
    for position in range(view.count):
        count += view.score[position] <= limit
    return count


cdef float _sum_uncached(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t position
) noexcept nogil:
    # The score if this endpoint had nothing of the prompt cached.
    cdef float* uncached = &decider.view.uncached_tokens[position]
    cdef float believed = uncached[0]
    cdef terms_t terms
    uncached[0] = max(<float>request.prompt_tokens, <float>1)
    five_axis_terms(decider, policy, candidates, request, position, &terms)
    uncached[0] = believed
    return _sum(&terms)


cdef int _five_axis_reason(
    decider_t* decider, const policy_t* policy, candidate_set_t* candidates, const pick_request_t* request,
    uint32_t winner
) noexcept nogil:
    cdef const view_t* view = &decider.view
    cdef terms_t mine, terms, fastest
    cdef float least_s, cost, room, health, winner_uncached = 0
    cdef bint looks_uncached = view.hit_tokens[winner] > 0, stays = False
    cdef uint32_t position
    if _as_good_count(policy, view) > 1:
        return REASON_SESSION if request.key else REASON_TIE
    five_axis_terms(decider, policy, candidates, request, winner, &mine)
    fastest = mine
    least_s = _first_token_s(&mine)
    if looks_uncached:
        winner_uncached = _sum_uncached(decider, policy, candidates, request, winner)
    for position in range(view.count):
        if position == winner or view.refused[position] != 0:
            continue
        if looks_uncached and _sum_uncached(decider, policy, candidates, request, position) < winner_uncached:
            return REASON_CACHED
        five_axis_terms(decider, policy, candidates, request, position, &terms)
        if terms.load > mine.load and _sum(&terms) - terms.load < _sum(&mine) - mine.load:
            return REASON_LOADED
        stays = stays or (terms.switching > 0 and _sum(&terms) - terms.switching < _sum(&mine))
        if _first_token_s(&terms) < least_s:
            fastest = terms
            least_s = _first_token_s(&terms)
    if stays:
        return REASON_SESSION
    if not least_s < _first_token_s(&mine):
        return REASON_FASTEST
    # It is slower and won all the same: by what it is better at than the fastest, most of all.
    cost = fastest.cost - mine.cost
    health = fastest.health - mine.health
    room = fastest.externality + fastest.decode + fastest.headroom - mine.externality - mine.decode - mine.headroom
    if fastest.duplication + fastest.eviction - mine.duplication - mine.eviction > max(cost, max(health, room)):
        return REASON_CACHED
    if cost >= max(health, room):
        return REASON_CHEAPER
    return REASON_HEADROOM if room >= health else REASON_HEALTHIER


cdef int explain_reason_of(
    decider_t* decider, choice_t* choices, uint32_t chosen, uint32_t position, uint8_t attempt
) noexcept nogil:
    cdef choice_t* choice = &choices[chosen]
    if attempt > 1:
        return REASON_RETRY
    if load_is_ejected(decider.load, choice.candidates.slots[position], choice.request.now_us):
        return REASON_PANIC              # it would not have been picked while another was left
    if chosen:
        return REASON_MODEL
    if _eligible_count(decider, choice, 1) == 1:
        return REASON_ONLY
    if not _is_scored_in_seconds(decider, choice.policy):
        return REASON_POLICY
    return _five_axis_reason(decider, choice.policy, choice.candidates, &choice.request, position)


cdef inline float _rank(const view_t* view, bint has_scores, uint32_t position) noexcept nogil:
    if view.refused[position] != 0:
        return INFINITY
    return view.score[position] if has_scores else view.in_flight[position]


cdef uint32_t _find_shown(
    const view_t* view, bint has_scores, uint32_t winner, uint32_t* positions
) noexcept nogil:
    """The winner, then the least by rank: an insertion into so few places."""
    cdef uint32_t position, place, count = 1
    cdef float rank
    positions[0] = winner
    for position in range(view.count):
        rank = _rank(view, has_scores, position)
        if position == winner or not isfinite(rank):
            continue
        place = count if count < EXPLAIN_SHOWN_COUNT else EXPLAIN_SHOWN_COUNT - 1
        if count == EXPLAIN_SHOWN_COUNT and not rank < _rank(view, has_scores, positions[place]):
            continue
        while place > 1 and rank < _rank(view, has_scores, positions[place - 1]):
            positions[place] = positions[place - 1]
            place -= 1
        positions[place] = position
        count = min(count + 1, <uint32_t>EXPLAIN_SHOWN_COUNT)
    return count


cdef void _show_one(
    const record_t* record, decider_t* decider, choice_t* choice, uint32_t position, shown_t* shown
) noexcept nogil:
    cdef view_t* view = &decider.view
    shown.slot = choice.candidates.slots[position]
    shown.model_length = <uint8_t>min(choice.model.length, <uint32_t>EXPLAIN_MODEL_BYTES)
    if shown.model_length:
        memcpy(shown.model, choice.model.data, shown.model_length)
    if view.count == 0:                  # more candidates than a view has room for
        shown.in_flight = load_in_flight(decider.load, shown.slot)
        return
    shown.in_flight = <uint32_t>view.in_flight[position]
    shown.queued_s = view.queued_s[position]
    shown.hit_tokens = view.hit_tokens[position]
    if record.has_scores:
        shown.score = view.score[position]
    if record.has_terms:
        shown.score += choice.request.quality_s
        five_axis_terms(decider, choice.policy, choice.candidates, &choice.request, position, &shown.terms)


cdef void _show(record_t* record, decider_t* decider, choice_t* choice, uint32_t winner) noexcept nogil:
    cdef view_t* view = &decider.view
    cdef uint32_t positions[4]           # EXPLAIN_SHOWN_COUNT
    cdef uint32_t index
    record.has_scores = choice.policy.kind >= POLICY_PEAK_EWMA and view.count != 0
    record.has_terms = _is_scored_in_seconds(decider, choice.policy)
    view_fill(view, decider.load, decider.prefix, decider.learner, choice.candidates, &choice.request)
    positions[0], record.shown_count = winner, 1
    if view.count:
        record.shown_count = <uint8_t>_find_shown(view, record.has_scores, winner, positions)
    for index in range(record.shown_count):
        _show_one(record, decider, choice, positions[index], &record.shown[index])


cdef void _insert_shown(record_t* record, const shown_t* shown) noexcept nogil:
    """Among the runners-up by score; the last gives way."""
    cdef uint32_t place = record.shown_count
    if place == EXPLAIN_SHOWN_COUNT:
        place -= 1
        if not shown.score < record.shown[place].score:
            return
    else:
        record.shown_count += 1
    while place > 1 and shown.score < record.shown[place - 1].score:
        record.shown[place] = record.shown[place - 1]
        place -= 1
    record.shown[place] = shown[0]


cdef int _pick_again(decider_t* decider, choice_t* choice) noexcept nogil:
    cdef int position
    choice.request.is_trial = 1
    position = pick_endpoint(decider, choice.policy, choice.candidates, &choice.request)
    choice.request.is_trial = 0
    return position


cdef void _show_others(
    record_t* record, decider_t* decider, choice_t* choices, uint32_t count, uint32_t chosen
) noexcept nogil:
    """The best endpoint of each other model, as it was weighed against the winner; the view is the winner's again."""
    cdef shown_t shown
    cdef uint32_t index
    cdef int position
    for index in range(count):
        if index == chosen:
            continue
        position = _pick_again(decider, &choices[index])
        if position >= 0 and _is_scored_in_seconds(decider, choices[index].policy):
            memset(&shown, 0, sizeof(shown))
            _show_one(record, decider, &choices[index], <uint32_t>position, &shown)
            _insert_shown(record, &shown)
    _pick_again(decider, &choices[chosen])


cdef void _publish(const column_t* column, const record_t* record) noexcept nogil:
    cdef uint64_t written = column.written_count[0]
    cdef record_t* place = &column.records[written % EXPLAIN_RECORDS_MAX]
    cdef uint64_t odd = place.sequence | 1       # it is odd already where a writer died
    store_u64(&place.sequence, odd)
    fence_release()                      # odd is seen before anything of what follows
    memcpy(&place.wall_us, &record.wall_us, sizeof(record_t) - sizeof(uint64_t))
    store_u64(&place.sequence, odd + 1)
    store_u64(column.written_count, written + 1)


cdef void explain_record(
    const column_t* column, decider_t* decider, choice_t* choices, uint32_t count, uint32_t chosen, uint32_t position,
    const explained_t* explained
) noexcept nogil:
    cdef const pick_request_t* request = &choices[chosen].request
    cdef uint32_t index
    cdef record_t record
    memset(&record, 0, sizeof(record))
    record.wall_us = explained.wall_us
    record.prompt_tokens, record.output_tokens = request.prompt_tokens, request.output_tokens
    for index in range(count):
        record.candidate_count += choices[index].candidates.count
    record.eligible_count = _eligible_count(decider, choices, count)
    record.route = explained.route
    record.policy = <uint8_t>choices[chosen].policy.kind
    record.reason = explained.reason
    record.attempt = explained.attempt
    record.has_session = request.key != 0
    record.switching = explained.switching
    record.session_tokens = decider.session.last.prompt_tokens if explained.switching > SWITCH_NEW else 0
    record.id_length = <uint8_t>min(explained.id.length, <uint32_t>EXPLAIN_ID_BYTES)
    if record.id_length:
        memcpy(record.id, explained.id.data, record.id_length)
    _show(&record, decider, &choices[chosen], position)
    if count > 1 and record.has_terms and choices_are_weighed(decider, choices, count):
        _show_others(&record, decider, choices, count, chosen)
    _publish(column, &record)


# --- readers --------------------------------------------------------------------------------------------------------

cdef bint _read(record_t* place, record_t* copy) noexcept nogil:
    """Whether `copy` is a whole record now."""
    cdef uint64_t before
    cdef int _turn
    for _turn in range(READ_TRIES_MAX):
        before = load_u64(&place.sequence)
        if before & 1:
            continue
        memcpy(copy, place, sizeof(record_t))
        fence_acquire()
        if load_u64(&place.sequence) == before:
            return before != 0
    return False


cdef inline bint _is_of(const record_t* record, const uint8_t* id, size_t id_length) noexcept nogil:
    return record.id_length == id_length and memcmp(record.id, id, id_length) == 0


cdef int64_t _find_next(
    const column_t* column, const uint8_t* id, size_t id_length, int64_t place, record_t* copy
) noexcept nogil:
    """The next place from `place` on that holds a record of this request; -1: none."""
    cdef int64_t end = <int64_t>min(load_u64(column.written_count), <uint64_t>EXPLAIN_RECORDS_MAX)
    while place < end:                   # past it the memory has never been used
        # A first look without care spares the copy of nearly all; what it sees half of is being written now.
        if _is_of(&column.records[place], id, id_length) and _read(&column.records[place], copy) \
                and _is_of(copy, id, id_length):
            return place
        place += 1
    return -1


cdef dict _described(const record_t* record):
    cdef int index
    shown = []
    for index in range(min(record.shown_count, <uint8_t>EXPLAIN_SHOWN_COUNT)):
        candidate = &record.shown[index]
        shown.append({
            "slot": candidate.slot,
            "score": candidate.score if record.has_scores and isfinite(candidate.score) else None,
            "terms": candidate.terms if record.has_terms else None,
            "in_flight": candidate.in_flight,
            "queued_s": candidate.queued_s,
            "hit_tokens": candidate.hit_tokens,
            "model": candidate.model[:min(candidate.model_length, <uint8_t>EXPLAIN_MODEL_BYTES)].decode(
                "utf-8", "replace"),
        })
    return {
        "request_id": record.id[:record.id_length].decode("latin-1"),
        "wall_us": record.wall_us,
        "route": record.route,
        "policy": record.policy,
        "reason": REASONS[record.reason] if record.reason < len(REASONS) else "",
        "attempt": record.attempt,
        "candidates": record.candidate_count,
        "eligible": record.eligible_count,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "has_session": record.has_session != 0,
        "session": SWITCH_REASONS[record.switching] if record.switching < len(SWITCH_REASONS) else "",
        "session_tokens": record.session_tokens,
        "shown": shown,
    }


def _newest_first(row):
    return (-row["wall_us"], -row["attempt"])


cdef class ExplainRing:
    """The ring, for its workers and its readers; see explain.pyi for the Python side."""

    @staticmethod
    def create(uint32_t column_count):
        cdef ExplainRing self = ExplainRing.__new__(ExplainRing)
        cdef header_t* header
        if not 0 < column_count <= COLUMN_COUNT_MAX:
            raise ValueError(f"a ring has 1 to {COLUMN_COUNT_MAX} columns, not {column_count}")
        _open(self, segment_create(b"fairlead-explain", _size_bytes(column_count)))
        header = <header_t*>self.base
        header.magic = MAGIC
        header.layout_version = LAYOUT_VERSION
        header.record_count = EXPLAIN_RECORDS_MAX
        header.record_bytes = sizeof(record_t)
        header.column_count = self.column_count = column_count
        return self

    @staticmethod
    def attach(int fd):
        cdef ExplainRing self = ExplainRing.__new__(ExplainRing)
        cdef Segment segment = segment_attach_table(fd, MAGIC, LAYOUT_VERSION, "ring of decisions")
        cdef header_t* header = <header_t*>segment.base
        if header.record_count != EXPLAIN_RECORDS_MAX or header.record_bytes != sizeof(record_t) \
                or not 0 < header.column_count <= COLUMN_COUNT_MAX \
                or segment.size_bytes != _size_bytes(header.column_count):
            raise ValueError("a ring of decisions whose size is not what its header says")
        _open(self, segment)
        self.column_count = header.column_count
        return self

    cdef column_t column(self, uint32_t index) except *:
        cdef column_t column
        if index >= self.column_count:
            raise IndexError(f"column {index} of {self.column_count}")
        column.written_count = &(<header_t*>self.base).written_counts[index]
        column.records = <record_t*>(self.base + PAGE_BYTES + index * _column_bytes())
        return column

    def find(self, str request_id):
        cdef bytes encoded = request_id.encode("latin-1", "replace")[:EXPLAIN_ID_BYTES]
        cdef const uint8_t* id = encoded
        cdef size_t id_length = len(encoded)
        cdef record_t copy
        cdef column_t column
        cdef int64_t place
        found = []
        for index in range(self.column_count):
            column = self.column(index)
            place = 0 if id_length else -1
            while place >= 0:
                with nogil:
                    place = _find_next(&column, id, id_length, place, &copy)
                if place >= 0:
                    found.append(_described(&copy))
                    place += 1
        return sorted(found, key=_newest_first)

    def latest(self, uint32_t count):
        cdef record_t copy
        cdef column_t column
        cdef uint64_t written, back, place
        places = []
        for index in range(self.column_count):
            column = self.column(index)
            written = load_u64(column.written_count)
            for back in range(1, min(written, <uint64_t>min(count, <uint32_t>EXPLAIN_RECORDS_MAX)) + 1):
                place = (written - back) % EXPLAIN_RECORDS_MAX
                places.append((column.records[place].wall_us, index, place))
        found = []
        for _wall_us, index, place in sorted(places, reverse=True)[:count]:
            if _read(&self.column(index).records[place], &copy):
                found.append(_described(&copy))
        return sorted(found, key=_newest_first)

    def written(self, uint32_t column):
        return load_u64(self.column(column).written_count)

    # ---- for tests

    def explain(
        self, Decider decider not None, int kind, slots, str request_id, *, knobs=(), uint64_t key=0,
        uint64_t random=0, uint64_t now_us=1, uint32_t prompt_tokens=0, uint32_t output_tokens=0, blocks=(),
        block_tokens=(), excluded=(), float ttft_target_s=0, uint32_t column=0, uint64_t wall_us=1, uint8_t attempt=1,
        uint64_t model=0, load_s=(), models_max=(),
    ):
        cdef candidate_set_t candidates
        cdef pick_request_t request
        cdef policy_t policy
        cdef explained_t explained
        cdef choice_t choice
        cdef bytes encoded = request_id.encode("latin-1")
        cdef column_t written = self.column(column)
        cdef uint32_t index, count = <uint32_t>len(slots), depth = <uint32_t>len(blocks)
        cdef uint64_t* block_keys = <uint64_t*>calloc(depth + 1, sizeof(uint64_t))
        cdef uint32_t* block_ends = <uint32_t*>calloc(depth + 1, sizeof(uint32_t))
        cdef int position
        memset(&candidates, 0, sizeof(candidates))
        memset(&request, 0, sizeof(request))
        memset(&policy, 0, sizeof(policy))
        memset(&choice, 0, sizeof(choice))
        try:
            candidates.count = count
            candidates.slots = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
            candidates.weights = <float*>calloc(count + 1, sizeof(float))
            candidates.identities = <uint64_t*>calloc(count + 1, sizeof(uint64_t))
            if block_keys == NULL or block_ends == NULL or candidates.slots == NULL or candidates.weights == NULL \
                    or candidates.identities == NULL:
                raise MemoryError
            for index, slot in enumerate(slots):
                segment_check_slot(slot, decider.load.slot_count)
                candidates.slots[index] = candidates.identities[index] = slot
                candidates.weights[index] = 1
            if load_s and candidate_set_reserve_loads(&candidates) < 0:
                raise MemoryError
            for index, (seconds, places) in enumerate(zip(load_s, models_max, strict=True)):
                candidates.load_s[index], candidates.models_max[index] = seconds, places
            request.model = model
            for index, (block, end) in enumerate(zip(blocks, block_tokens, strict=True)):
                block_keys[index], block_ends[index] = block, end
            for index, knob in enumerate(knobs[:16]):
                policy.knobs[index] = knob
            _held = exclude_positions(&request, &candidates, excluded)
            policy.kind = kind
            request.key, request.random, request.now_us = key, random, now_us
            request.prompt_tokens, request.output_tokens = prompt_tokens, output_tokens
            request.block_count, request.blocks, request.block_tokens = depth, block_keys, block_ends
            request.ttft_target_s = ttft_target_s
            explained.id.data, explained.id.length = encoded, <uint32_t>len(encoded)
            explained.wall_us, explained.route, explained.attempt = wall_us, 0, attempt
            position = pick_endpoint(&decider.decider, &policy, &candidates, &request)
            if position < 0:
                return None
            choice.candidates, choice.policy, choice.request = &candidates, &policy, request
            explained.reason = <uint8_t>explain_reason_of(&decider.decider, &choice, 0, position, attempt)
            explained.switching = <uint8_t>switching_reason_of(
                &decider.decider, &policy, &candidates, &request, position)
            explain_record(&written, &decider.decider, &choice, 1, 0, position, &explained)
            return REASONS[explained.reason]
        finally:
            candidate_set_free(&candidates)
            free(block_keys)
            free(block_ends)

    def churn(self, uint32_t column, uint64_t first, uint64_t count):
        """Writes records whose every word is the same number, `first` and on: what is torn can be told."""
        cdef record_t record
        cdef column_t written = self.column(column)
        cdef uint64_t number
        cdef uint32_t* words = <uint32_t*>&record
        cdef size_t index
        with nogil:
            for number in range(first, first + count):
                for index in range(sizeof(record_t) // sizeof(uint32_t)):
                    words[index] = <uint32_t>number
                record.id_length, record.shown_count, record.has_scores, record.has_terms = 2, 4, 1, 1
                _publish(&written, &record)


cdef size_t _column_bytes() noexcept:
    return (EXPLAIN_RECORDS_MAX * sizeof(record_t) + PAGE_BYTES - 1) & ~<size_t>(PAGE_BYTES - 1)


cdef size_t _size_bytes(uint32_t column_count) noexcept:
    return PAGE_BYTES + column_count * _column_bytes()


cdef int _open(ExplainRing self, Segment segment) except -1:
    self._mapping = segment
    self.fd = segment.fd
    self.base = segment.base
    return 0

"""One try of an exchange at one endpoint: pick, connect or reuse, send, let go.

The pick and the charge are one step, so that the next pick (of any worker) sees it. An attempt ends in attempt_end
and nowhere else: there the charge is released and the connection goes back to its pool or away. Nothing here decides
what happens after a failure.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.uio cimport iovec

from router.native.body cimport BODY_HAS_MAX_TOKENS, BODY_HAS_PROMPT, BODY_HAS_USER, BODY_IN_DOUBT, hash_bytes
from router.native.buffer cimport buffer_bytes, buffer_release, buffer_size, buffer_t
from router.native.candidates cimport exclude_slot
from router.native.causes cimport (
    CAUSE_CONNECT_FAILED, CAUSE_DNS_FAILED, CAUSE_ENDPOINTS_FULL, CAUSE_INTERNAL, CAUSE_MODEL_NOT_FOUND,
    CAUSE_NO_ENDPOINT, CAUSE_NONE, CAUSE_REQUIREMENT_UNMET,
)
from router.native.choice cimport choice_t, pick_choice
from router.native.conn cimport CONN_BLOCKED, CONN_CLOSED
from router.native.conversation cimport conversation_key
from router.native.decision cimport decision_charge
from router.native.driver_epoll cimport monotonic_us
from router.native.exchange cimport (
    EXCHANGE_AWAITING, EXCHANGE_CONNECTING, EXCHANGE_TRIED_MAX, X_BODY_DROPPED, X_CUT_THROUGH, X_FACTS_KNOWN,
    X_EXPLAIN, X_REQUEST_CHUNKED, X_REWRITTEN, X_UPLOAD_DONE,
    core_t, exchange_id, exchange_model, exchange_model_hash, exchange_output_key, exchange_release, exchange_t,
)
from router.native.explain cimport explain_is_sampled, explain_reason_of, explain_record, explained_t
from router.native.http1 cimport HTTP1_OK, head_t, parse_request_head
from router.native.learner cimport learner_expected_output, learner_prompt_tokens
from router.native.loadtable cimport load_in_flight
from router.native.metrics cimport (
    COUNT_PICKS_FAILED, COUNT_SESSION_NEW, COUNT_UPSTREAM_CONNECTS, COUNT_UPSTREAM_IDLE, COUNT_UPSTREAM_OPEN,
    COUNT_UPSTREAM_REUSES, HISTOGRAM_ROUTE_ROUTER_TIME, metrics_add, metrics_observe_us,
)
from router.native.pick cimport POLICY_FIVE_AXIS, hash_pair, pick_request_t, random_next
from router.native.pool cimport (
    UPSTREAM_BUSY, UPSTREAM_IDLE, endpoint_t, pool_put_idle, pool_remove_idle, pool_take_idle, text_t, upstream_t,
)
from router.native.prompt cimport prompt_blocks, prompt_total_bytes
from router.native.rewrite cimport LENGTH_CHUNKED, LENGTH_NONE, compose_request_head, write_chunk_size
from router.native.routes cimport (
    KEY_HEADER, KEY_PROMPT, KEY_USER, alias_model_t, find_target, route_policy_t, target_t, unmet_bits,
)
from router.native.slab cimport slab_give, slab_take
from router.native.switching cimport SWITCH_NEW, switching_reason_of
from router.native.upload cimport upload_ending, upload_name, upload_pieces

cdef enum:
    PICKS_MAX = 4                    # for one attempt: others may fill up what this worker saw room at
    OPTIONS_MAX = 8                  # ALIAS_MODELS_MAX

cdef struct option_t:                # a model that may answer
    target_t* target                 # who serves it
    const alias_model_t* model       # NULL: it was asked for by its own name


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef inline const route_policy_t* policy_of(const exchange_t* x, const target_t* target) noexcept nogil:
    return &x.route.policy if x.route.has_policy else target.policy


cdef uint64_t talk_key(exchange_t* x) noexcept nogil:
    # What was not given a key is known by its conversation, else by its prompt's beginning. Of a body that is cut
    # through, either enough has come to say the same as of all of it, or nothing is said: whose it is must not depend
    # on how it was cut into packets.
    cdef uint64_t offset, key
    cdef const uint8_t* messages
    if x.scan == NULL or not x.scan.flags & BODY_HAS_PROMPT:
        return 0
    offset = x.scan.prompt_offset
    if not x.scan.flags & BODY_IN_DOUBT and not x.flags & X_BODY_DROPPED and offset < buffer_size(&x.body):
        messages = buffer_bytes(&x.body) + offset
        key = conversation_key(
            &x.scan.chain, messages, <size_t>min(buffer_size(&x.body) - offset, x.scan.chain.size_bytes))
        if key or (messages[0] == c"[" and not x.flags & X_UPLOAD_DONE):
            return key
    return x.scan.prompt_key


cdef uint64_t user_key(const exchange_t* x) noexcept nogil:
    if x.scan == NULL or not x.scan.flags & BODY_HAS_USER:
        return 0
    return hash_bytes(x.scan.user, x.scan.user_length, 1)


cdef uint64_t header_key(const exchange_t* x, const uint8_t* buffer, text_t name) noexcept nogil:
    cdef head_t head
    cdef uint32_t index, at
    if parse_request_head(buffer, buffer_size(&x.head), buffer_size(&x.head), &head) != HTTP1_OK:
        return 0
    for index in range(head.field_count):
        if head.fields[index].name.length != name.length:
            continue
        at = 0
        while at < name.length and lower(buffer[head.fields[index].name.offset + at]) == lower(name.data[at]):
            at += 1
        if at == name.length:
            return hash_bytes(buffer + head.fields[index].value.offset, head.fields[index].value.length, 1)
    return 0


cdef uint64_t person_key(exchange_t* x, const uint8_t* buffer) noexcept nogil:
    # Whatever the model: who is asked for by the policy, else the user that the body names, else the conversation, and
    # of what has none of these the request alone.
    cdef const route_policy_t* policy = NULL
    cdef uint64_t key = 0
    cdef text_t id
    if x.target != NULL:
        policy = policy_of(x, x.target)
    if policy != NULL and policy.key_source == KEY_HEADER:
        key = header_key(x, buffer, policy.key_header)
    if key == 0:
        key = user_key(x)
    if key == 0:
        key = talk_key(x)
    if key == 0:
        id = exchange_id(x)
        key = hash_bytes(id.data, id.length, 1)
    return key


cdef uint64_t affinity_key(exchange_t* x, const uint8_t* buffer) noexcept nogil:
    # The hash that keeps a session at an endpoint; 0 when the request has nothing to hash. Needs the scan: before the
    # request is dropped. Each model asked for is a session of its own.
    cdef const route_policy_t* policy = policy_of(x, x.target)
    cdef uint64_t key = 0
    if policy.key_source == KEY_USER:
        key = user_key(x)
    elif policy.key_source == KEY_HEADER:
        key = header_key(x, buffer, policy.key_header)
    if policy.pick.kind == POLICY_FIVE_AXIS:
        if key == 0:
            key = talk_key(x)
        return hash_pair(key, exchange_model_hash(x)) if key else 0
    if policy.key_source == KEY_PROMPT and x.scan != NULL and x.scan.flags & BODY_HAS_PROMPT:
        return x.scan.prompt_key
    return key


# ---- who may answer

cdef uint32_t list_options(const exchange_t* x, option_t* options) noexcept nogil:
    """The models that may answer and are served here, in order: one, unless an alias was asked for."""
    cdef uint32_t index, count = 0
    if x.alias == NULL:
        options[0].target, options[0].model = x.target, NULL
        return 1
    for index in range(x.alias.model_count):
        options[count].model = &x.alias.models[index]
        options[count].target = find_target(x.snapshot, x.route, x.alias.models[index].name)
        if options[count].target != NULL:
            count += 1
    return count


cdef target_t* attempt_target(const exchange_t* x) noexcept nogil:
    cdef option_t[OPTIONS_MAX] options
    return options[0].target if list_options(x, options) else NULL


cdef uint64_t attempt_unmet(const exchange_t* x) noexcept nogil:
    cdef option_t[OPTIONS_MAX] options
    cdef uint32_t index, count
    cdef uint64_t bits, unmet = x.required
    count = list_options(x, options)
    for index in range(count):
        bits = unmet_bits(&options[index].target.candidates, x.required)
        if bits == 0:
            return 0
        unmet = unmet & bits if unmet & bits else unmet
    return unmet


cdef bint attempt_exclude(exchange_t* x) noexcept nogil:
    if x.tried_count == EXCHANGE_TRIED_MAX:
        return False
    x.tried[x.tried_count] = <uint16_t>x.endpoint.slot
    x.tried_count += 1
    return True


cdef bint has_room(core_t* core, const endpoint_t* endpoint) noexcept nogil:
    if endpoint.in_flight_max and load_in_flight(core.load, endpoint.slot) >= endpoint.in_flight_max:
        return False
    return endpoint.idle_first != NULL or endpoint.open_count < endpoint.connections_max


cdef void exclude_full(core_t* core, const option_t* options, uint32_t count) noexcept nogil:
    cdef const target_t* target
    cdef uint32_t index, position
    for index in range(count):
        target = options[index].target
        for position in range(target.candidates.count):
            if not has_room(core, target.endpoints[position]):
                exclude_slot(core.decider.excluded, target.endpoints[position].slot)


cdef void describe_prompt(
    core_t* core, exchange_t* x, uint64_t model_hash, uint32_t place, pick_request_t* request
) noexcept nogil:
    """How much there is to compute, and under which keys parts of it may be cached; they go to scratch `place`."""
    cdef uint64_t size_bytes
    cdef bint in_doubt
    if x.scan == NULL:
        return
    in_doubt = x.scan.flags & BODY_IN_DOUBT != 0
    request.output_tokens = learner_expected_output(
        core.decider.learner, exchange_output_key(x, model_hash),
        x.scan.max_tokens if x.scan.flags & BODY_HAS_MAX_TOKENS else -1)
    size_bytes = x.body_received_bytes if in_doubt else prompt_total_bytes(&x.scan.chain)
    if size_bytes == 0:
        return
    request.prompt_tokens = learner_prompt_tokens(core.decider.learner, model_hash, size_bytes)
    if in_doubt:
        return
    request.block_count = prompt_blocks(
        &x.scan.chain, model_hash, request.prompt_tokens, core.block_keys[place], core.block_tokens[place])
    request.blocks = core.block_keys[place]
    request.block_tokens = core.block_tokens[place]
    if x.flags & X_UPLOAD_DONE:
        x.prompt_bytes = <uint32_t>min(size_bytes, <uint64_t>0xFFFFFFFF)
    elif x.upload_remaining > 0:         # cut through: most of what is still to come is prompt
        request.prompt_tokens = learner_prompt_tokens(
            core.decider.learner, model_hash, size_bytes + <uint64_t>x.upload_remaining)


cdef void describe_choice(
    core_t* core, exchange_t* x, const option_t* option, uint32_t place, choice_t* choice
) noexcept nogil:
    cdef uint64_t model_hash = option.model.hash if option.model != NULL else exchange_model_hash(x)
    choice.candidates = &option.target.candidates
    choice.policy = &policy_of(x, option.target).pick
    memset(&choice.request, 0, sizeof(pick_request_t))
    choice.request.key = x.key
    choice.request.now_us = core.driver.now_us
    choice.request.required = x.required
    choice.request.ttft_target_s = x.route.ttft_target_s
    choice.request.cost_weight_s = x.route.cost_weight_s
    choice.model.length = 0
    if option.model != NULL:
        choice.model = option.model.name
        choice.request.quality_s = option.model.quality_s
    choice.request.model = model_hash
    describe_prompt(core, x, model_hash, place, &choice.request)


cdef void explain_attempt(
    core_t* core, exchange_t* x, choice_t* choices, uint32_t count, uint32_t chosen
) noexcept nogil:
    """Right after the pick, when the client or the ring is to be told why."""
    cdef explained_t explained
    cdef uint8_t attempt = x.attempts + 1
    x.reason = <uint8_t>explain_reason_of(core.decider, choices, chosen, x.position, attempt)
    if x.flags & X_EXPLAIN:
        explained.id = exchange_id(x)
        explained.wall_us = core.driver.now_us + core.wall_offset_us
        explained.route = x.route.index
        explained.attempt = attempt
        explained.reason = x.reason
        explained.switching = x.switching
        explain_record(&core.explained, core.decider, choices, count, chosen, x.position, &explained)


cdef int choose(core_t* core, exchange_t* x, bint* has_excluded) noexcept nogil:
    """Picks and charges: CAUSE_NONE, or why there is nobody."""
    cdef option_t[OPTIONS_MAX] options
    cdef choice_t[OPTIONS_MAX] choices
    cdef choice_t* choice
    cdef uint64_t random
    cdef uint32_t _turn, index, count = list_options(x, options)
    cdef int chosen, position = -1
    cdef bint saw_full = False
    x.served = NULL                      # who it was that failed is nothing to go by
    for index in range(x.tried_count):
        exclude_slot(core.decider.excluded, x.tried[index])
    for index in range(count):
        describe_choice(core, x, &options[index], index, &choices[index])
    for _turn in range(PICKS_MAX):
        random = random_next(&core.random_state)
        for index in range(count):
            choices[index].request.random = random
            choices[index].request.excluded = core.decider.excluded if has_excluded[0] else NULL
        chosen = pick_choice(core.decider, choices, count, &position)
        if chosen < 0:
            metrics_add(&core.metrics, COUNT_PICKS_FAILED, 1)
            if saw_full:
                return CAUSE_ENDPOINTS_FULL
            return CAUSE_REQUIREMENT_UNMET if x.required and attempt_unmet(x) else CAUSE_NO_ENDPOINT
        choice = &choices[chosen]
        x.target, x.served = options[chosen].target, options[chosen].model
        x.endpoint = x.target.endpoints[position]
        x.position = position
        if has_room(core, x.endpoint):
            break
        saw_full = has_excluded[0] = True
        exclude_full(core, options, count)
    else:
        return CAUSE_ENDPOINTS_FULL
    if x.attempts == 0 and explain_is_sampled(x.snapshot.explain_threshold, random):
        x.flags |= X_EXPLAIN
    if x.switching != SWITCH_NEW:        # a session that is new stays so, though its first endpoint failed it
        x.switching = <uint8_t>switching_reason_of(
            core.decider, choice.policy, choice.candidates, &choice.request, x.position)
        if x.switching:
            metrics_add(&core.metrics, COUNT_SESSION_NEW + x.switching - SWITCH_NEW, 1)
    if x.flags & X_EXPLAIN or x.route.exposes_endpoint:
        explain_attempt(core, x, choices, count, chosen)
    decision_charge(core.decider, choice.candidates, x.position, &choice.request, &x.charge)
    return CAUSE_NONE


cdef int attempt_begin(core_t* core, exchange_t* x) noexcept nogil:
    cdef bint has_excluded = x.tried_count != 0
    cdef int cause = choose(core, x, &has_excluded)
    if has_excluded:
        memset(core.decider.excluded, 0, ((core.load.slot_count >> 6) + 1) * sizeof(uint64_t))
    if cause != CAUSE_NONE:
        return cause
    x.attempts += 1
    x.state = EXCHANGE_CONNECTING
    x.sent_us = core.driver.now_us
    x.up = pool_take_idle(x.endpoint)
    if x.up != NULL:
        metrics_add(&core.metrics, COUNT_UPSTREAM_IDLE, -1)
        metrics_add(&core.metrics, COUNT_UPSTREAM_REUSES, 1)
        x.up.exchange = x
        return ATTEMPT_CONNECTED
    return attempt_next_address(core, x)


cdef int attempt_renew(core_t* core, exchange_t* x) noexcept nogil:
    upstream_drop(core, x.up)
    x.up = NULL
    x.state = EXCHANGE_CONNECTING
    x.sent_us = core.driver.now_us
    return attempt_next_address(core, x)


cdef int attempt_next_address(core_t* core, exchange_t* x) noexcept nogil:
    cdef endpoint_t* endpoint = x.endpoint
    cdef upstream_t* upstream
    cdef uint8_t tried = 0
    cdef uint8_t index
    if x.up != NULL:                 # its address failed
        tried = x.up.addresses_tried
        upstream_drop(core, x.up)
        x.up = NULL
    if endpoint.address_count == 0:
        return CAUSE_DNS_FAILED
    while tried < endpoint.address_count:
        upstream = <upstream_t*>slab_take(sizeof(upstream_t))
        if upstream == NULL:
            return CAUSE_INTERNAL
        index = (endpoint.address_turn + tried) % endpoint.address_count
        tried += 1
        upstream.endpoint = endpoint
        upstream.exchange = x
        upstream.addresses_tried = tried
        upstream.address_index = index
        if core.driver.connect(core.driver, &upstream.conn, endpoint.addresses[index].bytes,
                               endpoint.addresses[index].length, endpoint.tls_context, endpoint.server_name) < 0:
            slab_give(upstream, sizeof(upstream_t))
            continue
        endpoint.open_count += 1
        metrics_add(&core.metrics, COUNT_UPSTREAM_CONNECTS, 1)
        metrics_add(&core.metrics, COUNT_UPSTREAM_OPEN, 1)
        x.up = upstream
        return ATTEMPT_CONNECTING
    endpoint.address_turn = (endpoint.address_turn + 1) % endpoint.address_count
    return CAUSE_CONNECT_FAILED


cdef int attempt_send(core_t* core, exchange_t* x) noexcept nogil:
    cdef const uint8_t* raw = buffer_bytes(&x.head)
    cdef iovec pieces[8]
    cdef uint8_t line[20]
    cdef buffer_t ending
    cdef buffer_t rewritten
    cdef text_t name
    cdef int64_t total, declared, head_length
    cdef int count
    memset(&ending, 0, sizeof(ending))
    memset(&rewritten, 0, sizeof(rewritten))
    if core.head_owner != x:
        if parse_request_head(raw, buffer_size(&x.head), buffer_size(&x.head), &core.head) != HTTP1_OK:
            return CAUSE_INTERNAL
        core.head_owner = x
    count = upload_pieces(x, pieces + 2, &total)
    if x.flags & X_FACTS_KNOWN and count and not x.flags & X_BODY_DROPPED:
        name = upload_name(x, exchange_model(x), False)
        if name.length and core.hooks.rewrite_body(core, x, name, &rewritten) == 0:
            pieces[2].iov_base = buffer_bytes(&rewritten)
            pieces[2].iov_len = total = buffer_size(&rewritten)
            count = 1
            x.flags |= X_REWRITTEN
    if x.served != NULL and not x.flags & X_REWRITTEN:
        return CAUSE_MODEL_NOT_FOUND     # no engine knows the alias
    if x.flags & X_REQUEST_CHUNKED and (not x.flags & X_UPLOAD_DONE or buffer_size(&x.trailers)):
        declared = LENGTH_CHUNKED
    elif not x.flags & X_UPLOAD_DONE:
        declared = total + x.upload_remaining
    elif total == 0 and core.head.content_length < 0 and not x.flags & X_REQUEST_CHUNKED:
        declared = LENGTH_NONE
    else:
        declared = total
    head_length = compose_request_head(core, x, raw, &core.head, x.endpoint, declared)
    if head_length < 0:
        return CAUSE_INTERNAL
    pieces[0].iov_base = core.compose
    pieces[0].iov_len = head_length
    pieces[1].iov_len = 0
    if declared == LENGTH_CHUNKED:
        if total:
            pieces[1].iov_base = line
            pieces[1].iov_len = write_chunk_size(line, total)
            pieces[2 + count].iov_base = <void*><const char*>b"\r\n"
            pieces[2 + count].iov_len = 2
            count += 1
        if x.flags & X_UPLOAD_DONE:
            if upload_ending(core, x, &ending) < 0:
                return CAUSE_INTERNAL
            pieces[2 + count].iov_base = buffer_bytes(&ending)
            pieces[2 + count].iov_len = buffer_size(&ending)
            count += 1
    if pieces[1].iov_len == 0:
        pieces[1] = pieces[0]
        core.driver.send(&x.up.conn, pieces + 1, count + 1)
    else:
        core.driver.send(&x.up.conn, pieces, count + 2)
    buffer_release(&ending)
    buffer_release(&rewritten)
    x.up.state = UPSTREAM_BUSY
    x.state = EXCHANGE_AWAITING
    x.sent_us = monotonic_us()
    if not x.flags & X_UPLOAD_DONE:
        x.flags |= X_CUT_THROUGH
        drop_sent(core, x)
    if x.attempts == 1:
        metrics_observe_us(&core.metrics, HISTOGRAM_ROUTE_ROUTER_TIME, x.route.index, x.sent_us - x.started_us)
    return CAUSE_NONE


cdef void drop_sent(core_t* core, exchange_t* x) noexcept nogil:
    core.buffered_bytes -= buffer_size(&x.body)
    buffer_release(&x.body)
    x.flags |= X_BODY_DROPPED


cdef int attempt_push_body(core_t* core, exchange_t* x) noexcept nogil:
    cdef iovec pieces[4]
    cdef uint8_t line[20]
    cdef buffer_t ending
    cdef int count = 0
    cdef size_t size = buffer_size(&x.body)
    cdef bint chunked = x.flags & X_REQUEST_CHUNKED != 0
    memset(&ending, 0, sizeof(ending))
    if size:
        if chunked:
            pieces[0].iov_base = line
            pieces[0].iov_len = write_chunk_size(line, size)
            count = 1
        pieces[count].iov_base = buffer_bytes(&x.body)
        pieces[count].iov_len = size
        count += 1
        if chunked:
            pieces[count].iov_base = <void*><const char*>b"\r\n"
            pieces[count].iov_len = 2
            count += 1
    if chunked and x.flags & X_UPLOAD_DONE:
        if upload_ending(core, x, &ending) < 0:
            return -1
        pieces[count].iov_base = buffer_bytes(&ending)
        pieces[count].iov_len = buffer_size(&ending)
        count += 1
    if count:
        core.driver.send(&x.up.conn, pieces, count)
    buffer_release(&ending)
    drop_sent(core, x)
    if x.flags & X_UPLOAD_DONE:
        x.sent_us = core.driver.now_us
    return 0


cdef void attempt_end(core_t* core, exchange_t* x, bint reusable) noexcept nogil:
    cdef upstream_t* upstream = x.up
    exchange_release(core, x)
    x.up = NULL
    if upstream == NULL:
        return
    upstream.exchange = NULL
    if not reusable or upstream.endpoint == NULL or upstream.endpoint.is_retired or core.draining \
            or upstream.conn.flags & (CONN_BLOCKED | CONN_CLOSED) \
            or upstream.endpoint.idle_count >= upstream.endpoint.idle_max:
        upstream_drop(core, upstream)
        return
    upstream.served_count += 1
    upstream.scanned = 0
    pool_put_idle(upstream.endpoint, upstream, core.driver.now_us)
    metrics_add(&core.metrics, COUNT_UPSTREAM_IDLE, 1)
    core.driver.resume_reading(&upstream.conn)


cdef void upstream_drop(core_t* core, upstream_t* upstream) noexcept nogil:
    if upstream.conn.flags & CONN_CLOSED:
        return
    if upstream.endpoint != NULL:
        if upstream.state == UPSTREAM_IDLE:
            pool_remove_idle(upstream.endpoint, upstream)
            metrics_add(&core.metrics, COUNT_UPSTREAM_IDLE, -1)
        upstream.endpoint.open_count -= 1
        metrics_add(&core.metrics, COUNT_UPSTREAM_OPEN, -1)
    upstream.exchange = NULL
    buffer_release(&upstream.inbox)
    core.driver.close(&upstream.conn)

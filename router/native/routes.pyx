"""A snapshot as native tables: routes, pools, and which endpoints of a pool serve a model.

Built aside from router.snapshot.Tables, in steps that are short however many endpoints there are, and then only read
(but for round robin's place): workers swap the whole in one assignment and exchanges that are under way keep the one
they began with. A snapshot may have another beside it, the canary, for a share of the sessions; who gets it is asked in
variant. Model look-up is one hash probe; routes are tried in order, the first whose conditions all hold wins, and a
route without a pool takes the first pool that serves the model.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memset

from router.native.body cimport hash_bytes
from router.native.http1 cimport HTTP1_OK, head_t, parse_request_head
from router.native.pick cimport (
    KNOBS_MAX, POLICY_BOUNDED_RING, POLICY_MAGLEV, POLICY_RING, candidate_set_build_maglev, candidate_set_build_ring,
    candidate_set_free, candidate_set_reserve_features, candidate_set_reserve_loads, candidate_set_t,
)
from router.native.pool cimport Endpoint, endpoint_t, text_t
from router.native.variant cimport CANARY_SHARE_WHOLE

cdef enum:
    RING_POINTS = 100                # per endpoint of weight 1: a spread of about 10 % of the mean
    MEMBERS_PER_STEP = 256           # endpoints looked at, some 0.2 ms
    ROUTES_PER_STEP = 16             # likewise
    STAR = 42
    QUESTION = 63
    COLON = 58
    COMMA = 44
    BRACKET = 93


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef bint same_ignoring_case(const uint8_t* data, text_t text) noexcept nogil:
    cdef uint32_t index
    for index in range(text.length):
        if lower(data[index]) != lower(text.data[index]):
            return False
    return True


cdef bint glob_matches(text_t pattern, text_t text, bint ignore_case) noexcept nogil:
    # `*` stands for any bytes. Going back only to the last star keeps it linear in pattern x text at worst.
    cdef uint32_t at = 0
    cdef uint32_t position = 0
    cdef uint32_t star = 0
    cdef uint32_t resume = 0
    cdef bint has_star = False
    cdef uint8_t wanted
    while position < text.length:
        wanted = pattern.data[at] if at < pattern.length else 0
        if wanted == STAR:
            has_star = True
            star = at
            resume = position
            at += 1
        elif at < pattern.length and (wanted == text.data[position]
                                      or (ignore_case and lower(wanted) == lower(text.data[position]))):
            at += 1
            position += 1
        elif has_star:
            at = star + 1
            resume += 1
            position = resume
        else:
            return False
    while at < pattern.length and pattern.data[at] == STAR:
        at += 1
    return at == pattern.length


cdef text_t without_port(const uint8_t* authority, uint32_t length) noexcept nogil:
    # An IPv6 literal keeps its brackets and its colons.
    cdef text_t host
    cdef uint32_t end = length
    host.data = authority
    host.length = length
    while end > 0 and authority[end - 1] != COLON and authority[end - 1] != BRACKET:
        end -= 1
    if end > 0 and authority[end - 1] == COLON:
        host.length = end - 1
    return host


cdef bint headers_match(const route_t* route, const uint8_t* buffer, const head_t* head) noexcept nogil:
    cdef uint32_t wanted
    cdef uint32_t index
    cdef text_t value
    cdef bint found
    for wanted in range(route.header_count):
        found = False
        for index in range(head.field_count):
            if head.fields[index].name.length != route.headers[wanted].name.length \
                    or not same_ignoring_case(buffer + head.fields[index].name.offset, route.headers[wanted].name):
                continue
            value.data = buffer + head.fields[index].value.offset
            value.length = head.fields[index].value.length
            if glob_matches(route.headers[wanted].value, value, False):
                found = True
                break
        if not found:
            return False
    return True


cdef route_t* match_route(snapshot_t* snapshot, const uint8_t* buffer, const head_t* head, text_t model) noexcept nogil:
    cdef uint32_t index
    cdef route_t* route
    cdef text_t path
    path.data = buffer + head.path.offset
    path.length = head.path.length
    for index in range(path.length):
        if path.data[index] == QUESTION:
            path.length = index
            break
    for index in range(snapshot.route_count):
        route = &snapshot.routes[index]
        if route.host.length and not glob_matches(
                route.host, without_port(buffer + head.authority.offset, head.authority.length), True):
            continue
        if route.path.length and not glob_matches(route.path, path, False):
            continue
        if route.model.length and not glob_matches(route.model, model, False):
            continue
        if route.header_count and not headers_match(route, buffer, head):
            continue
        return route
    return NULL


cdef model_entry_t* look_up(snapshot_t* snapshot, uint16_t pool, text_t model) noexcept nogil:
    cdef uint64_t hash = hash_bytes(model.data, model.length, pool)
    cdef uint32_t index = <uint32_t>hash & snapshot.entry_mask
    cdef model_entry_t* entry
    while True:
        entry = &snapshot.entries[index]
        if entry.model.length == 0:
            return NULL
        if entry.hash == hash and entry.pool == pool and entry.model.length == model.length \
                and memcmp(entry.model.data, model.data, model.length) == 0:
            return entry
        index = (index + 1) & snapshot.entry_mask


cdef target_t* find_target(snapshot_t* snapshot, const route_t* route, text_t model) noexcept nogil:
    cdef model_entry_t* entry
    if model.length == 0:
        return snapshot.default_whole if route.pool == ANY_POOL else snapshot.whole[route.pool]
    entry = look_up(snapshot, route.pool, model)
    if entry != NULL:
        return entry.target
    return snapshot.any_model_of_all if route.pool == ANY_POOL else snapshot.any_model[route.pool]


cdef alias_t* find_alias(snapshot_t* snapshot, text_t model) noexcept nogil:
    cdef model_entry_t* entry = look_up(snapshot, ALIAS_POOL, model)
    return entry.alias if entry != NULL else NULL


# ---- what is required

cdef bint same_text(text_t a, text_t b) noexcept nogil:
    return a.length == b.length and memcmp(a.data, b.data, a.length) == 0


cdef bint add_required(const route_t* route, text_t names, uint64_t* required) noexcept nogil:
    cdef text_t name
    cdef uint32_t at = 0, index
    while at < names.length:
        name.data = names.data + at
        name.length = 0
        while at < names.length and names.data[at] != COMMA:
            at += 1
            name.length += 1
        at += 1
        while name.length and is_blank(name.data[0]):
            name.data += 1
            name.length -= 1
        while name.length and is_blank(name.data[name.length - 1]):
            name.length -= 1
        if name.length == 0:
            continue
        for index in range(route.may_require_count):
            if same_text(route.may_require[index].name, name):
                required[0] |= route.may_require[index].required
                break
        else:
            return False
    return True


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == 32 or byte == 9


cdef uint64_t unmet_bits(const candidate_set_t* candidates, uint64_t required) noexcept nogil:
    cdef uint64_t met = 0
    cdef uint32_t position
    if candidates.features == NULL:
        return required
    for position in range(candidates.count):
        if required & ~candidates.features[position] == 0:
            return 0
        met |= candidates.features[position]
    return required & ~met if required & ~met else required


cdef class Snapshot:
    """Native tables, empty until `building` has run."""

    def __cinit__(self):
        memset(&self.snapshot, 0, sizeof(snapshot_t))
        self._kept = []

    def building(self, tables, dict endpoints):
        """Fills it from a router.snapshot.Tables and the worker's Endpoints (identity -> Endpoint), a step each time it
        is gone on with. What it yields, if not None, is work that may be done on another thread before the next step.
        Raises MemoryError.
        """
        cdef int index, position
        cdef int looked_at = 0
        cdef target_t* target
        self.conditions = tables.conditions
        self.snapshot.version = tables.version
        self.snapshot.explain_threshold = <uint64_t>min(int(tables.explain_ratio * 2.0 ** 64), 2 ** 64 - 1)
        self.endpoints = [endpoints[entry.identity] for entry in tables.endpoints]
        members_of = []                      # by pool: all, those of any model, by model
        for pool in tables.pools:
            unnamed, by_name = [], {}
            for member in pool.endpoints:
                models = tables.endpoints[member].models
                for name in set(models):
                    by_name.setdefault(name, []).append(member)
                if not models:
                    unnamed.append(member)
                looked_at += 1
                if looked_at % MEMBERS_PER_STEP == 0:
                    yield None
            members_of.append((list(pool.endpoints), unnamed, by_name))
        self.models = (tables.models, *[tuple(sorted(by_name)) for _, _, by_name in members_of])
        self.reserve(tables, sum([len(by_name) for _, _, by_name in members_of]))
        fill_timeouts(&self.snapshot.default_timeouts, tables.timeouts)
        self.route_kinds = {route.policy.kind for route in tables.routes if route.policy is not None}  # on any pool
        for index, (pool, (whole, unnamed, by_name)) in enumerate(zip(tables.pools, members_of)):
            fill_policy(self, &self.snapshot.policies[index], pool.policy)
            for position, name in enumerate(["", "", *sorted(by_name)]):
                members = whole if position == 0 else sorted(unnamed + by_name.get(name, []))
                if not members:
                    continue
                target = self.make_target(pool, index, len(members), name)
                for start in range(0, len(members), MEMBERS_PER_STEP):
                    self.fill_target(target, members, start, name, tables.endpoints)
                    looked_at += min(len(members) - start, MEMBERS_PER_STEP)
                    if looked_at >= MEMBERS_PER_STEP:
                        looked_at = 0
                        yield None
                if position == 0:
                    self.snapshot.whole[index] = target
                    if pool.is_default and self.snapshot.default_whole == NULL:
                        self.snapshot.default_whole = target
                elif position == 1:
                    self.snapshot.any_model[index] = target
                    if self.snapshot.any_model_of_all == NULL or pool.is_default:
                        self.snapshot.any_model_of_all = target
                else:
                    self.put_entry(index, target.model, target, NULL)
                    if look_up(&self.snapshot, ANY_POOL, target.model) == NULL:
                        self.put_entry(ANY_POOL, target.model, target, NULL)
        for index, entry in enumerate(tables.aliases):
            fill_alias(self, &self.snapshot.aliases[index], entry)
            self.put_entry(ALIAS_POOL, self.snapshot.aliases[index].name, NULL, &self.snapshot.aliases[index])
            self.snapshot.alias_count += 1
            if index % ROUTES_PER_STEP == ROUTES_PER_STEP - 1:
                yield None
        for index, entry in enumerate(tables.routes):
            fill_route(self, &self.snapshot.routes[index], entry)
            if index % ROUTES_PER_STEP == ROUTES_PER_STEP - 1:
                yield None
        if {POLICY_RING, POLICY_BOUNDED_RING, POLICY_MAGLEV} & {
                *self.route_kinds, *[pool.policy.kind for pool in tables.pools]}:
            yield self.spread

    def __dealloc__(self):
        cdef uint32_t index
        if self.snapshot.targets != NULL:
            for index in range(self.snapshot.target_count):
                candidate_set_free(&self.snapshot.targets[index].candidates)
                free(self.snapshot.targets[index].endpoints)
        free(self.snapshot.targets)
        free(self.snapshot.policies)
        free(self.snapshot.any_model)
        free(self.snapshot.whole)
        free(self.snapshot.routes)
        free(self.snapshot.entries)
        free(self.snapshot.aliases)

    def share_with(self, Snapshot canary, double ratio):
        """Gives a share of the sessions to `canary`, for as long as both live. Raises ValueError."""
        if not 0 <= ratio <= 1:
            raise ValueError(f"the share of a canary is from 0 to 1, not {ratio}")
        self.canary = canary
        self.snapshot.canary = &canary.snapshot
        self.snapshot.canary_share = <uint64_t>(ratio * CANARY_SHARE_WHOLE)

    cdef text_t keep(self, bytes data):
        cdef text_t text
        self._kept.append(data)
        text.data = <const uint8_t*>data
        text.length = <uint32_t>len(data)
        return text

    cdef int reserve(self, tables, uint32_t name_count) except -1:
        cdef uint32_t size = 16
        cdef int pool_count = len(tables.pools)
        while size < 4 * name_count + 2 * len(tables.aliases):
            size *= 2
        self.snapshot.pool_count = pool_count
        self.snapshot.route_count = len(tables.routes)
        self.snapshot.entry_mask = size - 1
        self.snapshot.targets = <target_t*>calloc(2 * pool_count + name_count + 1, sizeof(target_t))
        self.snapshot.policies = <route_policy_t*>calloc(pool_count + 1, sizeof(route_policy_t))
        self.snapshot.any_model = <target_t**>calloc(pool_count + 1, sizeof(target_t*))
        self.snapshot.whole = <target_t**>calloc(pool_count + 1, sizeof(target_t*))
        self.snapshot.routes = <route_t*>calloc(self.snapshot.route_count + 1, sizeof(route_t))
        self.snapshot.aliases = <alias_t*>calloc(len(tables.aliases) + 1, sizeof(alias_t))
        self.snapshot.entries = <model_entry_t*>calloc(size, sizeof(model_entry_t))
        if self.snapshot.targets == NULL or self.snapshot.policies == NULL or self.snapshot.any_model == NULL \
                or self.snapshot.whole == NULL or self.snapshot.routes == NULL or self.snapshot.entries == NULL \
                or self.snapshot.aliases == NULL:
            raise MemoryError
        return 0

    cdef target_t* make_target(self, object pool, int pool_index, uint32_t count, str name) except NULL:
        cdef target_t* target = &self.snapshot.targets[self.snapshot.target_count]
        cdef candidate_set_t* candidates = &target.candidates
        self.snapshot.target_count += 1
        candidates.count = count
        if pool.ejected_ratio_max < 1:
            candidates.ejected_ratio_max = pool.ejected_ratio_max
        candidates.slots = <uint32_t*>malloc((count + 1) * sizeof(uint32_t))
        candidates.weights = <float*>malloc((count + 1) * sizeof(float))
        candidates.identities = <uint64_t*>malloc((count + 1) * sizeof(uint64_t))
        target.endpoints = <endpoint_t**>malloc((count + 1) * sizeof(endpoint_t*))
        if candidates.slots == NULL or candidates.weights == NULL or candidates.identities == NULL \
                or target.endpoints == NULL:
            raise MemoryError
        target.policy = &self.snapshot.policies[pool_index]
        target.model = self.keep(name.encode())
        target.pool_name = self.keep(pool.name.encode())
        return target

    cdef int fill_target(self, target_t* target, list members, int start, str name, tuple entries) except -1:
        cdef candidate_set_t* candidates = &target.candidates
        cdef endpoint_t* endpoint
        cdef int position, member
        for position in range(start, min(len(members), start + <int>MEMBERS_PER_STEP)):
            member = members[position]
            endpoint = &(<Endpoint>self.endpoints[member]).endpoint
            target.endpoints[position] = endpoint
            candidates.slots[position] = endpoint.slot
            candidates.weights[position] = endpoint.weight
            candidates.identities[position] = endpoint.identity
            entry = entries[member]
            if self.conditions:
                if candidate_set_reserve_features(candidates) < 0:
                    raise MemoryError
                candidates.features[position] = entry.features
            if name in entry.loads_s:
                if candidate_set_reserve_loads(candidates) < 0:
                    raise MemoryError
                candidates.load_s[position], candidates.models_max[position] = entry.loads_s[name], entry.models_max
        return 0

    def spread(self):
        """Builds the rings and tables of policies that spread keys: long, and free of Python. Raises MemoryError."""
        cdef bint has_rings = not self.route_kinds.isdisjoint({POLICY_RING, POLICY_BOUNDED_RING})
        cdef bint has_maglevs = POLICY_MAGLEV in self.route_kinds
        cdef bint is_short = False
        cdef target_t* target
        cdef uint32_t index
        cdef int kind
        with nogil:
            for index in range(self.snapshot.target_count):
                target = &self.snapshot.targets[index]
                kind = target.policy.pick.kind
                if (has_rings or kind == POLICY_RING or kind == POLICY_BOUNDED_RING) \
                        and candidate_set_build_ring(&target.candidates, RING_POINTS) < 0:
                    is_short = True
                if (has_maglevs or kind == POLICY_MAGLEV) and candidate_set_build_maglev(&target.candidates) < 0:
                    is_short = True
        if is_short:
            raise MemoryError

    cdef void put_entry(self, int pool, text_t model, target_t* target, alias_t* alias) noexcept:
        cdef uint64_t hash = hash_bytes(model.data, model.length, pool)
        cdef uint32_t index = <uint32_t>hash & self.snapshot.entry_mask
        while self.snapshot.entries[index].model.length:
            index = (index + 1) & self.snapshot.entry_mask
        self.snapshot.entries[index].hash = hash
        self.snapshot.entries[index].model = model
        self.snapshot.entries[index].pool = pool
        self.snapshot.entries[index].target = target
        self.snapshot.entries[index].alias = alias


cdef fill_alias(Snapshot snapshot, alias_t* alias, tables):
    cdef int index
    alias.name = snapshot.keep(tables.name.encode())
    alias.model_count = min(len(tables.models), ALIAS_MODELS_MAX)
    for index, model in enumerate(tables.models[:ALIAS_MODELS_MAX]):
        alias.models[index].name = snapshot.keep(model.name.encode())
        alias.models[index].json_name = snapshot.keep(model.json_name.encode())
        alias.models[index].hash = hash_bytes(alias.models[index].name.data, alias.models[index].name.length, 0)
        alias.models[index].quality_s = model.quality_s


cdef fill_policy(Snapshot snapshot, route_policy_t* policy, tables):
    policy.pick.kind = tables.kind
    for index, knob in enumerate(tables.knobs[:<int>KNOBS_MAX]):
        policy.pick.knobs[index] = knob
    policy.key_source = tables.key_source
    policy.key_header = snapshot.keep(tables.key_header.encode())


cdef fill_timeouts(timeouts_t* timeouts, tables):
    timeouts.connect_us = tables.connect_us
    timeouts.tls_us = tables.tls_us
    timeouts.body_us = tables.body_us
    timeouts.first_byte_us = tables.first_byte_us
    timeouts.idle_us = tables.idle_us
    timeouts.total_us = tables.total_us
    timeouts.write_stall_us = tables.write_stall_us


cdef fill_route(Snapshot snapshot, route_t* route, tables):
    cdef int position
    route.name = snapshot.keep(tables.name.encode())
    route.name_hash = hash_bytes(route.name.data, route.name.length, 2)
    route.index = tables.index
    route.pool = ANY_POOL if tables.pool is None else tables.pool
    route.host = snapshot.keep(tables.host.encode())
    route.path = snapshot.keep(tables.path.encode())
    route.model = snapshot.keep(tables.model.encode())
    route.exposes_endpoint = tables.exposes_endpoint
    route.ttft_target_s = tables.ttft_target_s
    route.cost_weight_s = tables.cost_weight_s
    route.required = tables.required
    route.may_require_count = min(len(tables.may_require), ROUTE_MAY_REQUIRE_MAX)
    for position, (name, required) in enumerate(tables.may_require[:ROUTE_MAY_REQUIRE_MAX]):
        route.may_require[position].name = snapshot.keep(name.encode())
        route.may_require[position].required = required
    route.header_count = min(len(tables.headers), ROUTE_HEADERS_MAX)
    for position, (name, value) in enumerate(tables.headers[:ROUTE_HEADERS_MAX]):
        route.headers[position].name = snapshot.keep(name.encode())
        route.headers[position].value = snapshot.keep(value.encode("latin-1"))
    fill_timeouts(&route.timeouts, tables.timeouts)
    if tables.policy is not None:
        route.has_policy = 1
        fill_policy(snapshot, &route.policy, tables.policy)


def glob(str pattern, str text, bint ignore_case=False) -> bool:
    """Whether `text` matches `pattern`; the very matcher that routes use. For tests."""
    cdef text_t pattern_text
    cdef text_t plain
    cdef bytes pattern_bytes = pattern.encode()
    cdef bytes text_bytes = text.encode()
    pattern_text.data, pattern_text.length = <const uint8_t*>pattern_bytes, len(pattern_bytes)
    plain.data, plain.length = <const uint8_t*>text_bytes, len(text_bytes)
    return glob_matches(pattern_text, plain, ignore_case)


def match(Snapshot snapshot, bytes head, str model=""):
    """(route, pool, endpoints) by name for a request head and a model, Nones where nothing is found. For tests."""
    cdef head_t parsed
    cdef text_t wanted
    cdef bytes encoded = model.encode()
    cdef route_t* route
    cdef target_t* target
    cdef uint32_t index
    if parse_request_head(head, len(head), len(head), &parsed) != HTTP1_OK:
        raise ValueError("not a request head")
    wanted.data, wanted.length = <const uint8_t*>encoded, <uint32_t>len(encoded)
    route = match_route(&snapshot.snapshot, head, &parsed, wanted)
    if route == NULL:
        return None, None, None
    target = find_target(&snapshot.snapshot, route, wanted)
    if target == NULL:
        return name_of(route.name), None, None
    return (name_of(route.name), name_of(target.pool_name),
            [name_of(target.endpoints[index].name) for index in range(target.candidates.count)])


cdef str name_of(text_t text):
    return text.data[:text.length].decode()

"""The only door between Python and the native request path: `Core`, one per worker process.

A Core owns the native state of a worker (core_t) and everything it points at. Its `wake` drains the epoll set; the
request path itself is in router/native/path.pyx, read top-down from there. Where the path needs Python (an error to
phrase, a body nobody can scan, an attempt that failed, a connection that is not hot) it comes back through the hooks
below, which take the GIL and ask router/dispatch.py.

Invariant: one thread uses a Core. A hook never lets an exception out: what it raises is reported as unraisable and
answered with 500.
"""

import time
import weakref

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.uio cimport iovec
from posix.unistd cimport dup

from router.native.attempt cimport attempt_end, attempt_unmet
from router.native.buffer cimport buffer_append, buffer_bytes, buffer_release, buffer_size, buffer_t
from router.native.causes cimport (
    CAUSE_BAD_BODY, CAUSE_COUNT, CAUSE_DRAINING, CAUSE_MODEL_NOT_FOUND, CAUSE_REQUIREMENT_UNKNOWN,
    CAUSE_REQUIREMENT_UNMET,
)
from router.native.conn cimport CONN_LISTENER, conn_t
from router.native.decision cimport Decider
from router.native.driver_epoll cimport (
    driver_begin, driver_end, driver_run, driver_stay, driver_stop_accepting, epoll_driver_t, monotonic_us,
)
from router.native.driver_script cimport ScriptDriver
from router.native.ending cimport answer_early, close_downstream, cut_short
from router.native.events cimport events_begin, run_timers
from router.native.exchange cimport (
    COMPOSE_BYTES, DOWN_IDLE, FACTS_KNOWN, FACTS_MISSING, FACTS_UNREADABLE, X_BODY_DROPPED, X_CLOSE_DOWNSTREAM,
    X_FACTS_KNOWN, X_HEAD, X_STREAM, X_UPLOAD_DONE, core_t, downstream_t, exchange_id, exchange_model, exchange_path,
    exchange_set_model, exchange_t,
)
from router.native.explain cimport ExplainRing
from router.native.http1 cimport FIELD_CONTENT_TYPE, head_t, parse_request_head
from router.native.learner cimport Learner
from router.native.loadtable cimport LoadTable, load_view, load_view_t
from router.native.metrics cimport (
    COUNT_ACCEPT_PAUSES, COUNT_BODY_FACTS_SLOW, COUNT_BUFFERED_BYTES, COUNT_VIEWS_PARTIAL, MetricsTable, metrics_add,
    metrics_set,
)
from router.native.peer cimport network_parse
from router.native.pool cimport Endpoint, endpoint_t, text_t, upstream_t
from router.native.prefix cimport PrefixTable
from router.native.preparation cimport Preparation
from router.native.residency cimport ResidencyTable
from router.native.rewrite cimport compose_local_head
from router.native.routes cimport ANY_POOL, Snapshot
from router.native.session cimport SessionTable
from router.native.signals cimport SignalTable
from router.native.slab cimport slab_give, slab_take
from router.native.tls cimport TlsContext
from router.native.wheel cimport wheel_begin, wheel_wait_ms

from router.native.logline import name_causes
from router.native.preparation import at_once

cdef enum:
    LISTENERS_MAX = 16               # as core_t has room for
    LISTENER_SOCKETS_MAX = 256
    NETWORKS_MAX = 64
    DENSE_GAP_US = 1000              # events that follow each other within this are worth staying for
    STAY_US = 4000                   # the longest that timers and tasks of the event loop wait for
    LONE_PREFIX_BYTES = 1 << 20      # of a core that shares its prefix table with nobody: tests
    LONE_SESSION_BYTES = 1 << 20     # likewise
    ENDPOINTS_FREED_AT_ONCE = 64     # 0.1 ms


@cython.no_gc                         # a cycle of garbage must not clear what closing it reads; `close` ends the cycle
cdef class Core:
    """The native half of a worker. See _fastpath.pyi for the signatures."""

    cdef core_t* core
    cdef bint is_whole               # it was made without an error
    cdef epoll_driver_t driver
    cdef uint64_t last_event_us
    cdef ScriptDriver _script        # in place of the epoll driver, for tests
    cdef readonly object hooks
    cdef Decider _decider
    cdef MetricsTable _metrics
    cdef ExplainRing _explained
    cdef Snapshot _snapshot          # stable; it keeps its canary
    cdef list _old_snapshots         # still looked at by exchanges
    cdef list _leaving               # dicts of endpoints to be freed
    cdef dict _endpoints             # identity -> Endpoint, of stable and canary
    cdef dict _by_url                # URL -> list[Endpoint]
    cdef object _preparation         # a weak reference to the one that was begun last
    cdef bint _stays
    cdef dict _addresses             # url -> resolved addresses
    cdef dict _tls                   # listener index -> TlsContext

    def __cinit__(self, *, LoadTable load_table, MetricsTable metrics, int column, hooks, options,
                  PrefixTable prefix_table=None, Learner learner=None, ExplainRing explained=None,
                  ResidencyTable residency=None, SessionTable sessions=None, SignalTable signals=None,
                  ScriptDriver driver=None):
        cdef int index
        cdef core_t* core = <core_t*>calloc(1, sizeof(core_t))
        if core == NULL:
            raise MemoryError
        self.core = core
        core.compose = <uint8_t*>malloc(COMPOSE_BYTES)
        if core.compose == NULL or driver_begin(&self.driver) < 0:
            raise MemoryError
        core.driver = &self.driver.base if driver is None else &driver.script.base
        self._script = driver
        self._metrics, self.hooks = metrics, hooks
        self._decider = Decider(
            load_table,
            PrefixTable.create(LONE_PREFIX_BYTES, load_table.slot_count) if prefix_table is None else prefix_table,
            Learner.create(load_table.slot_count) if learner is None else learner,
            column,
            ResidencyTable.create(load_table.slot_count) if residency is None else residency,
            SessionTable.create(LONE_SESSION_BYTES, load_table.slot_count) if sessions is None else sessions,
        )
        core.decider = &self._decider.decider
        self._explained = ExplainRing.create(column + 1) if explained is None else explained
        core.explained = self._explained.column(column)
        self._old_snapshots, self._leaving, self._endpoints, self._by_url = [], [], {}, {}
        self._tls, self._addresses, self._stays = {}, {}, True
        core.load = &load_table.table
        self._decider.learner.listen(SignalTable.create(load_table.slot_count) if signals is None else signals)
        core.signals = &self._decider.learner.signals.table
        core.metrics = metrics.column(column)
        core.column = column
        core.random_state = options.seed
        core.wall_offset_us = <uint64_t>(time.time() * 1e6) - monotonic_us()
        core.door = <void*>self
        core.hooks.send_error = send_error
        core.hooks.may_go_on = may_go_on
        core.hooks.read_facts = read_facts
        core.hooks.rewrite_body = rewrite_body
        core.hooks.hand_over = hand_over
        core.options.head_bytes_max = options.head_bytes_max
        core.options.target_bytes_max = options.target_bytes_max
        core.options.body_bytes_max = options.body_bytes_max
        core.options.retry_buffer_bytes_max = options.retry_buffer_bytes_max
        core.options.buffered_bytes_max = options.buffered_bytes_max
        core.options.pipelined_bytes_max = options.pipelined_bytes_max
        core.options.connections_max = options.connections_max
        core.options.interim_max = options.interim_max
        core.options.head_us = options.head_us
        core.options.tls_us = options.tls_us
        core.options.keep_alive_us = options.keep_alive_us
        core.options.upstream_idle_us = options.upstream_idle_us
        core.options.eject_base_us = options.eject_base_us
        core.options.eject_max_us = options.eject_max_us
        core.options.log_bytes_max = options.log_bytes_max
        core.options.logs = options.logs
        for index in range(min(len(options.counts_against_endpoint), CAUSE_COUNT)):
            core.options.counts_against_endpoint[index] = options.counts_against_endpoint[index]
            core.options.sides[index] = options.sides[index]
        for index, network in enumerate(options.trusted_networks[:NETWORKS_MAX]):
            network_parse(network, &core.trusted[index])
            core.trusted_count = index + 1
        name_causes(options.cause_names)
        wheel_begin(&core.wheel, core.driver.now_us)
        events_begin(core)
        self.is_whole = True

    def __dealloc__(self):
        if self.core == NULL:
            return
        if self.is_whole:
            self.close()
        free(self.core.endpoints)
        free(self.core.compose)
        buffer_release(&self.core.log)
        free(self.core)

    # ---- Running

    def fileno(self):
        return self.driver.epoll_fd

    def wake(self):
        """Drains the events that are there and runs the timers that are due.

        While events come densely it waits for the next ones itself, for at most STAY_US in all: a round trip through
        the event loop costs more than a small request, and what else the loop has to do can wait that long.
        """
        if self._script is not None:
            run_timers(self.core)
            self._script.settle()
            return
        cdef uint64_t before_us = self.last_event_us
        with nogil:
            if driver_run(&self.driver, 0) > 0:
                self.last_event_us = self.driver.base.now_us
            run_timers(self.core)
            if self._stays and self.last_event_us - before_us < DENSE_GAP_US and self.last_event_us != before_us:
                driver_stay(&self.driver, STAY_US)
                while not self.driver.stay_is_over:
                    if driver_run(&self.driver, -1) > 0:
                        self.last_event_us = self.driver.base.now_us
                    run_timers(self.core)
                driver_stay(&self.driver, 0)
        if self._old_snapshots:
            self._drop_old()
        if self._leaving:
            self._free_some()

    def tick(self):
        """As wake, for a clock that calls when no socket does; returns the milliseconds until a timer could be due,
        -1 for none.
        """
        self.wake()
        self.core.wall_offset_us = <uint64_t>(time.time() * 1e6) - monotonic_us()      # the log follows a stepped clock
        metrics_set(&self.core.metrics, COUNT_BUFFERED_BYTES, self.core.buffered_bytes)
        metrics_set(&self.core.metrics, COUNT_ACCEPT_PAUSES, self.driver.accept_pause_count)
        metrics_set(&self.core.metrics, COUNT_VIEWS_PARTIAL, self._decider.learner.learner.hearing.is_partial)
        return wheel_wait_ms(&self.core.wheel, self.core.driver.now_us)

    # ---- Listeners

    def add_listener(self, int fd, int listener_index, tls):
        cdef conn_t* conn
        if not 0 <= listener_index < LISTENERS_MAX or self.core.listener_count >= LISTENER_SOCKETS_MAX:
            raise ValueError(f"listener {listener_index}: at most {LISTENERS_MAX} listeners are possible")
        if tls is not None:
            self.set_tls(listener_index, *tls)
        conn = <conn_t*>slab_take(sizeof(conn_t))
        if conn == NULL:
            raise MemoryError
        conn.tag = listener_index
        if self.core.driver.adopt(self.core.driver, conn, dup(fd), CONN_LISTENER, NULL) < 0:
            slab_give(conn, sizeof(conn_t))
            raise OSError(f"listener {listener_index}: its socket cannot be watched")
        self.core.listeners[self.core.listener_count] = conn
        self.core.listener_count += 1

    def set_tls(self, int listener_index, str cert, str key, str min_version="1.2"):
        context = TlsContext.server(cert, key, min_version=min_version)
        self._tls[listener_index] = context          # connections hold a reference of their own to the one before
        self.core.listener_tls[listener_index] = (<TlsContext>context).context

    def renew_endpoint_tls(self, str name):
        """Reads the TLS files of the endpoint anew, for the connections from now on. Raises ValueError, and then the
        old ones stay in use.
        """
        for endpoint in self._endpoints.values():
            if endpoint.name == name:
                (<Endpoint>endpoint).renew_tls()

    def stop_accepting(self):
        cdef int index
        self.driver.paused_listeners = NULL
        self.driver.accept_resume_us = 0
        for index in range(self.core.listener_count):
            driver_stop_accepting(&self.driver, self.core.listeners[index])
            self.core.driver.close(self.core.listeners[index])
        self.core.listener_count = 0

    # ---- Configuration

    def prepare(self, tables, canary=None, double canary_ratio=0.0):
        """As `preparing`, all at once."""
        return at_once(self.preparing(tables, canary, canary_ratio))

    def preparing(self, tables, canary=None, double canary_ratio=0.0):
        """Builds the native tables of a router.snapshot.Tables aside, and of a second one beside it for a share of the
        sessions, a step each time it is gone on with, and returns what `activate` takes. What is the same endpoint in
        both is one. Raises ValueError, and then nothing has changed.
        """
        preparation = Preparation(self.core.load.slot_count)
        self._preparation = weakref.ref(preparation)        # for addresses that are found meanwhile
        yield from preparation.preparing(tables, self._endpoints, self._addresses, canary, canary_ratio)
        return preparation

    def activate(self, Preparation prepared):
        """Takes what `prepare` made into use: one assignment for the path; open exchanges keep what they began with."""
        for identity, endpoint in self._endpoints.items():
            if identity not in prepared.endpoints:
                (<Endpoint>endpoint).endpoint.is_retired = True
        if self._snapshot is not None:
            self._old_snapshots.append((self._snapshot, self._endpoints))
        self._decider.reserve(prepared.candidate_count_max)
        self._decider.remember(prepared.kinds)
        prepared.set_figures(self._decider.learner, self._decider.decider.prefix)
        self._snapshot, self._endpoints, self._by_url = prepared.snapshot, prepared.endpoints, prepared.by_url
        self._addresses = {url: found for url, found in self._addresses.items() if url in self._by_url}
        self.core.prompt_block_bytes = prepared.prompt_block_bytes
        self.core.snapshot = &self._snapshot.snapshot
        self._list_endpoints()
        self._drop_old()

    def set_staying(self, bint stays):
        """Whether `wake` may wait for events itself: not while the loop has other work, for which that is late."""
        self._stays = stays

    cdef _list_endpoints(self):
        cdef uint32_t count = 0
        cdef endpoint_t** listed
        known = {id(endpoint): endpoint for endpoint in self._endpoints.values()}
        for _, endpoints in self._old_snapshots:
            known.update({id(endpoint): endpoint for endpoint in endpoints.values()})
        listed = <endpoint_t**>calloc(len(known) + 1, sizeof(endpoint_t*))
        if listed == NULL:
            raise MemoryError
        for endpoint in known.values():
            listed[count] = &(<Endpoint>endpoint).endpoint
            count += 1
        free(self.core.endpoints)
        self.core.endpoints = listed
        self.core.endpoint_count = count

    cdef _drop_old(self):
        # A snapshot goes when no exchange looks at it and the endpoints that only it names have no connection left.
        kept = []
        for old in self._old_snapshots:
            if user_count(old[0]) or any(
                    (<Endpoint>endpoint).endpoint.open_count for identity, endpoint in old[1].items()
                    if self._endpoints.get(identity) is not endpoint):
                kept.append(old)
        if len(kept) != len(self._old_snapshots):
            gone = [old for old in self._old_snapshots if old not in kept]
            self._old_snapshots = kept
            self._list_endpoints()          # freed only after the list of endpoints no longer names theirs
            self._leaving += [old[1] for old in gone]

    cdef _free_some(self):
        # Endpoints that a snapshot leaves behind are freed a few at a time: all of them would hold up traffic.
        cdef dict endpoints = self._leaving[0]
        for _ in range(<int>ENDPOINTS_FREED_AT_ONCE):
            if not endpoints:
                self._leaving.pop(0)
                return
            endpoints.popitem()

    def set_addresses(self, str endpoint_url, list addresses):
        self._addresses[endpoint_url] = addresses
        prepared = None if self._preparation is None else self._preparation()
        for endpoints in (self._by_url, {} if prepared is None else prepared.by_url):
            for endpoint in endpoints.get(endpoint_url, ()):
                endpoint.set_addresses(addresses)

    # ---- Ending

    def drain(self):
        """No new connections; answers say Connection: close. Idle client connections stay until `close_idle`."""
        self.core.draining = True
        self.stop_accepting()

    def close_idle(self):
        """Closes client connections that are between requests; returns how many."""
        cdef downstream_t* down = self.core.connections
        cdef downstream_t* following
        closed = 0
        while down != NULL:
            following = down.next
            if down.phase == DOWN_IDLE:
                close_downstream(self.core, down)
                closed += 1
            down = following
        return closed

    def abort_all(self):
        """Cuts every exchange that is still open so that its client can see it, and closes the rest."""
        cdef downstream_t* down = self.core.connections
        cdef downstream_t* following
        while down != NULL:
            following = down.next
            if down.exchange != NULL and not down.exchange.bytes_out:
                attempt_end(self.core, down.exchange, False)
                down.exchange.flags |= X_CLOSE_DOWNSTREAM
                answer_early(self.core, down.exchange, CAUSE_DRAINING, b"")
            elif down.exchange != NULL:
                cut_short(self.core, down.exchange, CAUSE_DRAINING)
            else:
                close_downstream(self.core, down)
            down = following
        self.wake()

    def close(self):
        if self.driver.epoll_fd < 0:
            return
        self.abort_all()
        self.stop_accepting()
        for index in range(self.core.endpoint_count):
            self.core.endpoints[index].is_retired = True
        self.core.swept_us = 0
        self.core.draining = True
        self.wake()
        driver_end(&self.driver)
        self.hooks = None

    # ---- Seen from outside

    def open_exchanges(self):
        return self.core.exchange_count

    def open_connections(self):
        return self.core.connection_count

    def take_log(self):
        cdef size_t size = buffer_size(&self.core.log)
        if size == 0:
            return b""
        lines = buffer_bytes(&self.core.log)[:size]
        buffer_release(&self.core.log)
        return lines

    def debug_endpoints(self):
        cdef load_view_t view
        cdef endpoint_t* endpoint
        listed = []
        for held in self._endpoints.values():
            endpoint = &(<Endpoint>held).endpoint
            load_view(self.core.load, endpoint.slot, &view)
            listed.append({"name": held.name, "url": held.url, "slot": endpoint.slot, "in_flight": view.in_flight,
                           "pending": view.pending, "queued_tokens": view.queued_tokens,
                           "queued_work_us": view.queued_work_us, "kv_tokens": view.kv_tokens,
                           "oldest_pending_age_us":
                               max(0, int(monotonic_us()) - int(view.oldest_pending_us)) if view.pending else 0,
                           "ttft_us": view.ttft_us, "itl_us": view.itl_us, "error_ratio": view.error_ratio,
                           "attempts": view.attempts, "ejected_until_us": view.ejected_until_us})
        return listed

    def debug_pools(self):
        cdef endpoint_t* endpoint
        listed = []
        for held in self._endpoints.values():
            endpoint = &(<Endpoint>held).endpoint
            listed.append({"endpoint": held.name, "open": endpoint.open_count, "idle": endpoint.idle_count,
                           "connections_max": endpoint.connections_max, "addresses": endpoint.address_count})
        return listed

    def sizes(self):
        """Bytes of the structs that an open stream holds, for the performance page."""
        return {"downstream": sizeof(downstream_t), "exchange": sizeof(exchange_t), "upstream": sizeof_upstream()}

    # ---- Asked by the hooks

    cdef object error_response(self, int cause, str detail, exchange_t* x):
        cdef text_t name
        if cause == CAUSE_REQUIREMENT_UNMET:
            detail = ", ".join(self.conditions_of(x, attempt_unmet(x)))
        elif cause == CAUSE_REQUIREMENT_UNKNOWN:
            names = [text_of(x.route.may_require[index].name) for index in range(x.route.may_require_count)]
            detail = f"this route offers {', '.join(names) or 'nothing'}"
        elif cause == CAUSE_MODEL_NOT_FOUND and not detail:
            name = exchange_model(x)
            detail = f"model {name.data[:name.length].decode(errors='replace')!r}"
        return self.hooks.error_response(cause, detail, exchange_id(x).data[:x.id_length], self.models_known_to(x))

    cdef object models_known_to(self, exchange_t* x):
        # A route that names its pool knows no others.
        models = self.snapshot_of(x).models
        return models[1 + x.route.pool if x.route != NULL and x.route.pool != ANY_POOL else 0]

    cdef list conditions_of(self, exchange_t* x, uint64_t bits):
        return [text for bit, text in enumerate(self.snapshot_of(x).conditions) if bits >> bit & 1]

    cdef Snapshot snapshot_of(self, exchange_t* x):
        cdef Snapshot stable
        for stable in (self._snapshot, *(old[0] for old in self._old_snapshots)):
            if &stable.snapshot == x.snapshot:
                return stable
            if stable.snapshot.canary == x.snapshot:
                return stable.canary
        raise AssertionError("an exchange looks at a snapshot that is gone")


cdef uint32_t user_count(Snapshot stable):
    return stable.snapshot.user_count + (stable.canary.snapshot.user_count if stable.canary is not None else 0)


cdef str text_of(text_t text):
    return text.data[:text.length].decode()


cdef size_t sizeof_upstream() noexcept:
    return sizeof(upstream_t)


# ---- Where the path comes back to Python

cdef void send_error(core_t* core, exchange_t* x, int cause, const char* detail) noexcept nogil:
    with gil:
        phrase_error(core, x, cause, (<bytes>detail).decode("utf-8", "replace"))


cdef void phrase_error(core_t* core, exchange_t* x, int cause, str detail) noexcept:
    cdef iovec pieces[2]
    cdef bytes extra = b""
    cdef bytes content = (b'{"error":{"message":"internal error","type":"internal_error","param":null,'
                          b'"code":"internal_error"}}')
    x.status = 500
    try:
        x.status, extra, content = (<Core>core.door).error_response(cause, detail, x)
    finally:
        pieces[0].iov_base = core.compose
        pieces[0].iov_len = <size_t>compose_local_head(core, x, x.status, <const uint8_t*>extra, <uint32_t>len(extra),
                                                       len(content), x.flags & X_CLOSE_DOWNSTREAM != 0)
        pieces[1].iov_base = <void*><const uint8_t*>content
        pieces[1].iov_len = 0 if x.flags & X_HEAD else len(content)
        core.driver.send(&x.down.conn, pieces, 2)
        x.bytes_out += pieces[0].iov_len + pieces[1].iov_len


cdef bint may_go_on(core_t* core, exchange_t* x, int cause) noexcept nogil:
    with gil:
        return ask_dispatcher(core, x, cause)


cdef bint ask_dispatcher(core_t* core, exchange_t* x, int cause) noexcept:
    return (<Core>core.door).hooks.on_attempt_failed(cause, x.attempts, not x.flags & X_BODY_DROPPED, x.bytes_out)


cdef bint names_json_or_form(bytes content_type) noexcept:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json") or kind == b"multipart/form-data"


cdef int read_facts(core_t* core, exchange_t* x, bint complete) noexcept nogil:
    with gil:
        return ask_body_facts(core, x, complete)


cdef int ask_body_facts(core_t* core, exchange_t* x, bint complete) noexcept:
    cdef bytes content_type
    cdef bytes encoded
    metrics_add(&core.metrics, COUNT_BODY_FACTS_SLOW, 1)
    content_type = content_type_of(core, x)
    path = exchange_path(x)
    try:
        model, stream, _user = (<Core>core.door).hooks.body_facts(
            path.data[:path.length], content_type,
            buffer_bytes(&x.body)[:buffer_size(&x.body)] if buffer_size(&x.body) else b"", complete)
    except ValueError as unreadable:
        if not names_json_or_form(content_type):
            return FACTS_KNOWN               # a body of another kind names no model; whoever takes it may judge it
        if not x.flags & X_UPLOAD_DONE:
            x.flags |= X_CLOSE_DOWNSTREAM
        encoded = str(unreadable).encode()
        answer_early(core, x, CAUSE_BAD_BODY, encoded)
        return FACTS_UNREADABLE
    if stream:
        x.flags |= X_STREAM
    if model is None:
        return FACTS_KNOWN if complete else FACTS_MISSING
    encoded = model.encode()
    exchange_set_model(x, encoded, len(encoded))
    x.flags |= X_FACTS_KNOWN
    return FACTS_KNOWN


cdef int rewrite_body(core_t* core, exchange_t* x, text_t engine_name, buffer_t* out) noexcept nogil:
    with gil:
        return ask_rewritten_body(core, x, engine_name.data[:engine_name.length], out)


cdef int ask_rewritten_body(core_t* core, exchange_t* x, bytes engine_name, buffer_t* out) noexcept:
    cdef bytes body
    try:
        body = (<Core>core.door).hooks.rewrite_body(
            content_type_of(core, x), buffer_bytes(&x.body)[:buffer_size(&x.body)], engine_name.decode())
    except ValueError:
        return -1                            # it goes as it came; the engine has the last word on it
    return buffer_append(out, <const uint8_t*>body, len(body))


cdef bytes content_type_of(core_t* core, exchange_t* x):
    cdef head_t* head = &core.head
    cdef const uint8_t* raw = buffer_bytes(&x.head)
    if core.head_owner != x:
        parse_request_head(raw, buffer_size(&x.head), buffer_size(&x.head), head)
        core.head_owner = x
    if head.known[FIELD_CONTENT_TYPE] < 0:
        return b""
    span = head.fields[head.known[FIELD_CONTENT_TYPE]].value
    return (raw + span.offset)[:span.length]


cdef void hand_over(core_t* core, downstream_t* down, int fd, const uint8_t* data, size_t size) noexcept nogil:
    with gil:
        give_to_python(core, down, fd, data[:size])


cdef void give_to_python(core_t* core, downstream_t* down, int fd, bytes received) noexcept:
    (<Core>core.door).hooks.hand_over(fd, received, down.is_tls, down.peer[:down.peer_length].decode())

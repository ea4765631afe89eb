"""Clients and fixed-answer engines of a measurement, on one core: the door to peer_loop.

One thread plays both sides of the proxy, so that a stream's next event can wait until all streams' last ones have
arrived and no second scheduler takes part in the figure. Nothing here is measured; every byte is checked. The faithful
mock engine lives elsewhere.

Life of a run: `open_clients` says how many and where to, `run` turns the loop until a goal or the time limit, its
caller reads the proxy's CPU clock between runs, `finish_streams` ends streams in good order, `close_clients` goes away
whatever the state.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from bench.native.peer_loop cimport (
    ENGINES_MAX, ERROR_KINDS, KIND_TIMER, LATENCIES_MAX, PACE_HELD, PACE_LOCKSTEP, PACE_TIMED, client_forget, conn_t,
    engine_gone, free_dead, goal_t, peer_reached, peer_run, peer_t, stream_end)
from bench.native.sockets cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, clock_ns, close, epoll_create1, errno, socket_listen, socket_port,
    timer_open, watch)

from bench.native.tls import load_openssl

# In the order of error_kind.
ERROR_NAMES = ("connect", "tls", "closed early", "framing", "status", "content", "excess bytes", "request framing")


cdef class Peer:
    """Clients and engines of one measurement at a time; one thread at a time may use it."""

    cdef peer_t* _peer
    cdef dict _messages              # owns the bytes that the struct points into
    cdef uint32_t _connection_count_max
    cdef int _engines_per_group

    def __cinit__(self, int engines_per_group, uint32_t connection_count_max, int group_count=1) -> None:
        cdef int index
        cdef int engine_count = engines_per_group * group_count
        if not 0 < engine_count <= ENGINES_MAX:
            raise ValueError(f"{engine_count} engines, must be 1 to {ENGINES_MAX}")
        self._engines_per_group = engines_per_group
        self._connection_count_max = connection_count_max
        self._peer = <peer_t*>calloc(1, sizeof(peer_t))
        if self._peer == NULL:
            raise MemoryError
        self._peer.clients = <conn_t**>calloc(connection_count_max + 1, sizeof(conn_t*))
        self._peer.streams = <conn_t**>calloc(connection_count_max + 1, sizeof(conn_t*))
        self._peer.latencies_ns = <uint32_t*>malloc(LATENCIES_MAX * sizeof(uint32_t))
        self._peer.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self._peer.timer_fd = timer_open()
        if (self._peer.clients == NULL or self._peer.streams == NULL or self._peer.latencies_ns == NULL
                or self._peer.epoll_fd < 0 or self._peer.timer_fd < 0):
            raise MemoryError
        self._peer.timer.kind = KIND_TIMER
        watch(self._peer.epoll_fd, EPOLL_CTL_ADD, self._peer.timer_fd, EPOLLIN, &self._peer.timer)
        for index in range(engine_count):
            self._peer.listeners[index].fd = socket_listen(0, 4096)
            if self._peer.listeners[index].fd < 0:
                raise OSError(errno, "engine listener")
            self._peer.engine_count += 1
            self._peer.listeners[index].group = <uint8_t>(index // engines_per_group)
            watch(self._peer.epoll_fd, EPOLL_CTL_ADD, self._peer.listeners[index].fd, EPOLLIN,
                  &self._peer.listeners[index])

    def __dealloc__(self) -> None:
        cdef int index
        if self._peer == NULL:
            return
        for index in range(self._peer.engine_count):
            close(self._peer.listeners[index].fd)
        if self._peer.clients != NULL:
            while self._peer.client_count:
                client_forget(self._peer, self._peer.clients[0])
        free_dead(self._peer)
        if self._peer.timer_fd > 0:
            close(self._peer.timer_fd)
        if self._peer.epoll_fd > 0:
            close(self._peer.epoll_fd)
        free(self._peer.clients)
        free(self._peer.streams)
        free(self._peer.latencies_ns)
        free(self._peer)

    def engine_ports(self, int group=0) -> list[int]:
        """Where a group's engines listen; each proxy gets a group of its own, so that none can disturb another."""
        cdef int first = group * self._engines_per_group
        if not 0 <= first < self._peer.engine_count:
            raise ValueError(f"no group {group}")
        return [socket_port(self._peer.listeners[first + index].fd) for index in range(self._engines_per_group)]

    def use_messages(self, *, bytes request, bytes asked, bytes answer, bytes answered, bytes get_answer, bytes opening,
                     bytes event, bytes event_payload, bytes ending, bytes ending_payload, bint is_streaming) -> None:
        """What clients send and engines answer from now on; `asked`, `answered` and payloads are what must arrive."""
        cdef peer_t* peer = self._peer
        self._messages = {
            "request": request, "asked": asked, "answer": answer, "answered": answered, "get_answer": get_answer,
            "opening": opening, "event": event, "event_payload": event_payload, "ending": ending,
            "ending_payload": ending_payload}
        peer.request, peer.request_bytes = request, <uint32_t>len(request)
        peer.answer, peer.answer_bytes = answer, <uint32_t>len(answer)
        peer.get_answer, peer.get_answer_bytes = get_answer, <uint32_t>len(get_answer)
        peer.opening, peer.opening_bytes = opening, <uint32_t>len(opening)
        peer.event, peer.event_bytes = event, <uint32_t>len(event)
        peer.ending, peer.ending_bytes = ending, <uint32_t>len(ending)
        peer.asked.body, peer.asked.body_bytes, peer.asked.last = asked, <uint32_t>len(asked), NULL
        peer.is_streaming = is_streaming
        if is_streaming:
            peer.answered.body, peer.answered.body_bytes = event_payload, <uint32_t>len(event_payload)
            peer.answered.last, peer.answered.last_bytes = ending_payload, <uint32_t>len(ending_payload)
        else:
            peer.answered.body, peer.answered.body_bytes, peer.answered.last = answered, <uint32_t>len(answered), NULL

    def open_clients(self, uint16_t port, uint32_t count, *, bint uses_tls=False, bint is_verbatim=True,
                     bint asks_again=True, str pace="held", double interval_ms=0.0,
                     uint32_t events_per_stream=0, int group=0) -> None:
        """Sets counts to zero; the next `run` connects `count` clients to the proxy's port, each with one request out.

        `group` is the proxy's group of engines.
        `pace` is when engines send: "lockstep", "timed" (each stream every `interval_ms`) or "held".
        """
        cdef peer_t* peer = self._peer
        cdef int index
        if peer.client_count or not 0 < count <= self._connection_count_max:
            raise ValueError(f"{count} clients, {peer.client_count} still there, at most {self._connection_count_max}")
        if uses_tls and not load_openssl():
            raise OSError("no OpenSSL library on this machine")
        while peer.stream_count:                                  # nobody's any more
            engine_gone(peer, peer.streams[0])
        free_dead(peer)
        peer.port, peer.client_goal, peer.group = port, count, <uint8_t>group
        peer.uses_tls, peer.is_verbatim, peer.asks_again = uses_tls, is_verbatim, asks_again
        peer.pace = {"held": PACE_HELD, "lockstep": PACE_LOCKSTEP, "timed": PACE_TIMED}[pace]
        peer.interval_ns = <uint64_t>(interval_ms * 1e6)
        peer.events_per_stream = events_per_stream
        peer.opening_count = peer.resting_count = peer.streaming_count = 0
        peer.arrived_count = peer.stream_next = peer.latency_count = 0
        peer.is_failed = peer.is_finishing = peer.records_latency = 0
        peer.requests = peer.events = peer.streams_done = peer.bodies_changed = 0
        peer.reconnects = peer.engine_requests = peer.slipped = peer.error_total = 0
        for index in range(<int>ERROR_KINDS):
            peer.errors[index] = 0

    def run(self, double seconds_max, *, uint64_t requests=0, uint64_t events=0, int64_t streams=-1,
            int64_t engine_streams=-1, bint all_resting=False, bint records_latency=False) -> bool:
        """Turns the loop until a goal is reached (True) or the time is up; goals are totals since `open_clients`."""
        cdef goal_t goal
        cdef uint64_t until_ns = clock_ns() + <uint64_t>(seconds_max * 1e9)
        goal.requests, goal.events, goal.streams = requests, events, streams
        goal.engine_streams, goal.all_resting = engine_streams, all_resting
        self._peer.records_latency = records_latency
        with nogil:
            peer_run(self._peer, until_ns, &goal)
        return bool(peer_reached(self._peer, &goal))

    def finish_streams(self) -> None:
        """Ends every open stream in good order; no client asks again. The next `run` carries it out."""
        self._peer.asks_again = 0
        self._peer.is_finishing = 1
        self._peer.pace = PACE_HELD
        while self._peer.stream_count:
            stream_end(self._peer, self._peer.streams[0])
        free_dead(self._peer)

    def stop_asking(self) -> None:
        """Clients rest after the answers that are under way."""
        self._peer.asks_again = 0

    def close_clients(self) -> None:
        """All clients go away at once, whatever they are waiting for."""
        while self._peer.client_count:
            client_forget(self._peer, self._peer.clients[0])
        free_dead(self._peer)
        self._peer.client_goal = 0

    @property
    def counts(self) -> dict[str, int]:
        """What happened since `open_clients`."""
        cdef peer_t* peer = self._peer
        return {
            "requests": peer.requests, "events": peer.events, "streams_done": peer.streams_done,
            "streams_open": peer.streaming_count, "engine_streams": peer.stream_count,
            "bodies_changed": peer.bodies_changed,
            "reconnects": peer.reconnects, "slipped": peer.slipped, "errors": peer.error_total}

    @property
    def errors(self) -> dict[str, int]:
        """Errors since `open_clients`, by what went wrong; empty when nothing did."""
        cdef int index
        return {
            ERROR_NAMES[index]: self._peer.errors[index]
            for index in range(<int>ERROR_KINDS) if self._peer.errors[index]}

    def latencies_us(self) -> list[float]:
        """Round trips of the runs that recorded them, sorted."""
        cdef uint32_t index
        return sorted([self._peer.latencies_ns[index] / 1000.0 for index in range(self._peer.latency_count)])

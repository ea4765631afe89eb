"""Mock engines and the epoll loop that hosts any number of them in one thread, with no Python per request.

An `Engine` is one listening address with a model state of its own; an `EngineLoop` waits for all of them. One
timerfd, armed for the earliest moment anything is due (an engine's step, a delayed fault), makes the loop's epoll
descriptor readable in time, so the loop can run in a thread of its own (`run`) or inside another loop (`fileno` and
`poll`). A step's events go out together when it ends, as those of a real engine do; a late step does not push the
next one back.

`poll` holds the lock while it handles events; doors for other threads (`stats`, `set_faults`, `step`, `stop`) take it
too.
"""

from bench.native.connection cimport (
    MODELS_MAX, SOURCE_CONNECTION, SOURCE_LISTENER, SOURCE_TIMER, SOURCE_WAKE, conn_close, conn_open, conn_t, engine_t,
    PHASE_REQUEST,
)
from bench.native.exchange cimport engine_set_faults, exchange_event, exchange_token, exchange_wake
from bench.native.exposition cimport write_stats
from bench.native.out cimport out_free, out_t
from bench.native.step cimport (
    CHUNK_DEFAULT_TOKENS, QUEUE_MAX, SEQUENCE_FREE, SEQUENCES_DEFAULT, step_begin, step_class_t, step_end,
    step_model_free, step_model_init,
)
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

import json
import socket

from bench.native.fault import parse_fault
from router.schema.engines import CLASSES, OVERHEAD_MS

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CTL_ADD
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLET
    ctypedef union epoll_data_t:
        void* ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int op, int fd, epoll_event* event)
    int epoll_wait(int epoll_fd, epoll_event* events, int count, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    int accept4(int fd, void* address, void* size, int flags)
    int listen(int fd, int backlog)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    cdef struct tm:
        pass
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int clock_gettime(int clock, timespec* now)
    tm* gmtime_r(const time_t* when, tm* parts)
    size_t strftime(char* text, size_t size, const char* form, const tm* parts)

cdef extern from "<sys/timerfd.h>" nogil:
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* before)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    ENGINES_MAX = 256
    EVENTS_MAX = 256
    ACCEPTS_MAX = 256            # connections taken at one wake; the rest at the next
    CATCH_UP_STEPS = 64          # steps run at one wake when the loop is late; what is still owed is forgiven

cdef const uint64_t NEVER = <uint64_t> -1


cdef uint64_t monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000000 + <uint64_t> now.tv_nsec // 1000


# --- engines ------------------------------------------------------------------------------------------------------

cdef void begin_step(engine_t* engine, uint64_t start_us) noexcept nogil:
    cdef double length_ms = step_begin(&engine.step)
    engine.stepping = length_ms >= 0
    if engine.stepping:
        engine.step_due_us = start_us + <uint64_t> (length_ms * 1000 * engine.slow_factor / engine.speed)


cdef int32_t end_step(engine_t* engine, uint64_t now_us) noexcept nogil:
    cdef int32_t emitted = step_end(&engine.step)
    cdef int32_t place
    cdef int32_t index
    engine.stepping = False
    for place in range(emitted):
        index = engine.step.emitted[place]
        if engine.step.sequences[index].state != SEQUENCE_FREE:
            exchange_token(<conn_t*> engine.step.sequences[index].owner, now_us)
    return emitted


cdef void run_steps(engine_t* engine, uint64_t now_us) noexcept nogil:
    """End the step that is due and begin the next, at the time it should have begun."""
    cdef int steps = 0
    if not engine.stepped or engine.manual:
        return
    while engine.stepping and engine.step_due_us <= now_us:
        end_step(engine, now_us)
        steps += 1
        begin_step(engine, engine.step_due_us if steps < CATCH_UP_STEPS else now_us)
    if engine.work_arrived and not engine.stepping:
        begin_step(engine, now_us)
    engine.work_arrived = False


cdef void run_timed(engine_t* engine, uint64_t now_us) noexcept nogil:
    """Connections with a timer, idle ones past their time, and a listener that refused long enough."""
    cdef conn_t* conn = engine.connections
    cdef conn_t* following
    if engine.refused_until_us and engine.refused_until_us <= now_us:
        engine.refused_until_us = 0
        listen(engine.listen_fd, 1024)
    if engine.timed_count == 0 and engine.idle_close_us == 0:
        return
    while conn != NULL:
        following = conn.next            # waking may close this one, never another
        if conn.wake_us and conn.wake_us <= now_us:
            exchange_wake(conn, now_us)
        elif engine.idle_close_us and conn.phase == PHASE_REQUEST and conn.active_us + engine.idle_close_us <= now_us:
            conn_close(conn, False)
        conn = following


cdef uint64_t next_due_us(const engine_t* engine) noexcept nogil:
    cdef uint64_t due = NEVER
    cdef const conn_t* conn
    if engine.stepping and not engine.manual:
        due = engine.step_due_us
    if engine.refused_until_us and engine.refused_until_us < due:
        due = engine.refused_until_us
    if engine.timed_count or engine.idle_close_us:
        conn = engine.connections
        while conn != NULL:
            if conn.wake_us and conn.wake_us < due:
                due = conn.wake_us
            if engine.idle_close_us and conn.phase == PHASE_REQUEST and conn.active_us + engine.idle_close_us < due:
                due = conn.active_us + engine.idle_close_us
            conn = conn.next
    return due


cdef void bury_dead(engine_t* engine) noexcept nogil:
    cdef conn_t* conn
    while engine.dead != NULL:
        conn = engine.dead
        engine.dead = conn.next
        free(conn)


cdef void shut(engine_t* engine) noexcept nogil:
    while engine.connections != NULL:
        conn_close(engine.connections, False)
    bury_dead(engine)
    step_model_free(&engine.step)


# --- loop ---------------------------------------------------------------------------------------------------------

cdef struct loop_t:
    int epoll_fd
    int timer_fd
    int wake_fd
    uint8_t wake_source
    uint8_t timer_source
    uint8_t stopping
    int engine_count
    (engine_t*)[ENGINES_MAX] engines
    uint64_t armed_us
    int64_t now_s
    char[32] date
    pthread_mutex_t lock


cdef int watch(int epoll_fd, int fd, uint32_t events, void* source) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = source
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)


cdef void tell_time(loop_t* loop) noexcept nogil:
    cdef timespec now
    cdef tm parts
    clock_gettime(CLOCK_REALTIME, &now)
    if now.tv_sec != loop.now_s:
        loop.now_s = now.tv_sec
        gmtime_r(&now.tv_sec, &parts)
        strftime(loop.date, sizeof(loop.date), b"%a, %d %b %Y %H:%M:%S GMT", &parts)


cdef void accept_all(loop_t* loop, engine_t* engine, uint64_t now_us) noexcept nogil:
    cdef int one = 1
    cdef int fd
    cdef conn_t* conn
    for _ in range(ACCEPTS_MAX):
        fd = accept4(engine.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            return
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        conn = conn_open(engine, fd, now_us)
        if conn == NULL or watch(loop.epoll_fd, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn) < 0:
            close(fd)
    eventfd_write(loop.wake_fd, 1)       # edge-triggered: no other event would tell of those left


cdef void arm_timer(loop_t* loop) noexcept nogil:
    cdef uint64_t due = NEVER
    cdef uint64_t engine_due
    cdef itimerspec when
    cdef int place
    for place in range(loop.engine_count):
        engine_due = next_due_us(loop.engines[place])
        if engine_due < due:
            due = engine_due
    if due == loop.armed_us:
        return
    loop.armed_us = due
    memset(&when, 0, sizeof(when))
    if due != NEVER:
        when.it_value.tv_sec = <time_t> (due // 1000000)
        when.it_value.tv_nsec = <long> (due % 1000000) * 1000
    timerfd_settime(loop.timer_fd, TFD_TIMER_ABSTIME, &when, NULL)


cdef int loop_poll(loop_t* loop, int timeout_ms) noexcept nogil:
    cdef epoll_event[EVENTS_MAX] events
    cdef int count = epoll_wait(loop.epoll_fd, events, EVENTS_MAX, timeout_ms)
    cdef int place
    cdef uint8_t* source
    cdef uint64_t now_us = monotonic_us()
    pthread_mutex_lock(&loop.lock)
    tell_time(loop)
    for place in range(count):
        source = <uint8_t*> events[place].data.ptr
        if source[0] == SOURCE_CONNECTION:
            exchange_event(<conn_t*> source, events[place].events, now_us)
        elif source[0] == SOURCE_LISTENER:
            accept_all(loop, <engine_t*> source, now_us)
        elif source[0] == SOURCE_WAKE:
            for other in range(loop.engine_count):
                accept_all(loop, loop.engines[other], now_us)
        else:
            loop.armed_us = NEVER        # it has fired and must be armed anew
    for place in range(loop.engine_count):
        run_timed(loop.engines[place], now_us)
        run_steps(loop.engines[place], now_us)
        bury_dead(loop.engines[place])
    arm_timer(loop)
    pthread_mutex_unlock(&loop.lock)
    return count


cdef class EngineLoop:
    """Hosts mock engines. Use from one thread, but for `stop` and the engines' own doors."""
    cdef loop_t loop
    cdef readonly list engines
    cdef bint is_open

    def __cinit__(self):
        self.engines = []
        self.loop.wake_source = SOURCE_WAKE
        self.loop.timer_source = SOURCE_TIMER
        self.loop.armed_us = NEVER
        pthread_mutex_init(&self.loop.lock, NULL)
        self.loop.epoll_fd = epoll_create1(SOCK_CLOEXEC)
        self.loop.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        self.loop.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.loop.epoll_fd < 0 or self.loop.timer_fd < 0 or self.loop.wake_fd < 0:
            raise OSError(errno, "no descriptor for a mock engine loop")
        watch(self.loop.epoll_fd, self.loop.timer_fd, EPOLLIN | EPOLLET, &self.loop.timer_source)
        watch(self.loop.epoll_fd, self.loop.wake_fd, EPOLLIN | EPOLLET, &self.loop.wake_source)
        self.is_open = True

    def add(self, *, host="127.0.0.1", port=0, models=("mock",), engine_class="8b-h100", double speed=1.0, faults="",
            int answer_tokens=0, backlog=4096, kv_tokens=0, chunk_tokens=0, sequences_max=0):
        """A new engine, listening at once. `engine_class` is a name of CLASSES, `instant` (no timers), `manual` (steps
        when `step` is called) or `fixed:MS` (every step takes that long). Speed 0 is `instant`. KV tokens, tokens of a
        step and running sequences of 0 are the class's.
        Raises: ValueError, OSError.
        """
        if self.loop.engine_count == ENGINES_MAX:
            raise ValueError(f"at most {ENGINES_MAX} engines in one loop")
        engine = Engine(self, host, port, tuple(models), engine_class, speed, faults, answer_tokens, backlog,
                        (kv_tokens, chunk_tokens, sequences_max))
        self.engines.append(engine)
        return engine

    def fileno(self):
        """The epoll descriptor: readable when `poll` has something to do."""
        return self.loop.epoll_fd

    def poll(self, int timeout_ms=0):
        """Wait once and handle what there is. The number of events."""
        cdef int count
        with nogil:
            count = loop_poll(&self.loop, timeout_ms)
        return count

    def run_for(self, int duration_ms):
        """Run for that long, or until `stop`."""
        cdef uint64_t end_us = monotonic_us() + <uint64_t> duration_ms * 1000
        cdef uint64_t now_us
        with nogil:
            while not self.loop.stopping:
                now_us = monotonic_us()
                if now_us >= end_us:
                    break
                loop_poll(&self.loop, <int> ((end_us - now_us) // 1000) + 1)

    def run(self):
        """Run until `stop`; signals do not end it."""
        with nogil:
            while not self.loop.stopping:
                loop_poll(&self.loop, -1)

    def stop(self):
        """Make `run` return; safe from any thread and from a signal handler."""
        self.loop.stopping = True
        eventfd_write(self.loop.wake_fd, 1)

    def close(self):
        """Close every connection and listener. The loop must not be running."""
        for engine in self.engines:
            (<Engine> engine).listener.close()
            shut(&(<Engine> engine).engine)
        self.close_descriptors()

    cdef close_descriptors(self):
        if self.is_open:
            self.is_open = False
            self.loop.engine_count = 0
            close(self.loop.epoll_fd)
            close(self.loop.timer_fd)
            close(self.loop.wake_fd)

    def __dealloc__(self):
        self.close_descriptors()


cdef class Engine:
    """One listening address with a model state of its own; made by EngineLoop.add."""
    cdef engine_t engine
    cdef EngineLoop host_loop
    cdef object listener
    cdef list model_names
    cdef readonly str url
    cdef readonly int port
    cdef readonly str engine_class

    def __cinit__(self, EngineLoop loop, host, port, models, engine_class, double speed, faults,
                  int answer_tokens, backlog, bounds):
        cdef engine_t* engine = &self.engine
        self.host_loop = loop
        self.engine_class = "instant" if speed == 0 else engine_class
        self.model_names = [name.encode() for name in models]
        if not 0 < len(models) <= MODELS_MAX:
            raise ValueError(f"an engine serves 1 to {MODELS_MAX} models")
        for name in models:
            if not 0 < len(name) <= 128 or any(char in name for char in "\"\\\r\n") or not name.isprintable():
                raise ValueError(f"not a model name: {name!r}")
        engine.source = SOURCE_LISTENER
        engine.listen_fd = -1
        engine.speed = speed if speed > 0 else 1.0
        engine.slow_factor = 1.0
        engine.answer_tokens = answer_tokens
        engine.date = loop.loop.date
        engine.now_s = &loop.loop.now_s
        for name in self.model_names:
            engine.models[engine.model_count].data = name
            engine.models[engine.model_count].size = len(name)
            engine.model_count += 1
        self.set_timing(bounds)
        self.listen(host, port, backlog)
        engine.random = <uint64_t> self.port * 0x9E3779B97F4A7C15ULL
        if faults:
            self.set_faults(faults)
        tell_time(&loop.loop)
        watch(loop.loop.epoll_fd, engine.listen_fd, EPOLLIN | EPOLLET, engine)
        loop.loop.engines[loop.loop.engine_count] = engine
        loop.loop.engine_count += 1

    cdef set_timing(self, bounds):
        cdef step_class_t timing
        kv_tokens, chunk_tokens, sequences_max = bounds
        if min(bounds) < 0:
            raise ValueError("an engine's bounds are counts: 0 for the class's own")
        memset(&timing, 0, sizeof(timing))
        if self.engine_class == "instant":
            return
        if self.engine_class == "manual" or self.engine_class.startswith("fixed:"):
            timing.floor_ms = float(self.engine_class[6:]) if self.engine_class != "manual" else 0.0
            # These test a proxy, not an engine: no bound but the queue's.
            timing.sequences_max = QUEUE_MAX
            timing.chunk_tokens_max = 1 << 30
        elif self.engine_class in CLASSES:
            (timing.floor_ms, timing.base_ms, timing.token_ms, timing.attention_ms, timing.context_ms,
             timing.kv_tokens) = CLASSES[self.engine_class]
            timing.overhead_ms = OVERHEAD_MS
            timing.sequences_max = SEQUENCES_DEFAULT
            timing.chunk_tokens_max = CHUNK_DEFAULT_TOKENS
        else:
            known = ", ".join(["instant", "manual", "fixed:MS", *CLASSES])
            raise ValueError(f"not an engine class: {self.engine_class!r}; one of {known}")
        if kv_tokens:
            timing.kv_tokens = kv_tokens
        if chunk_tokens:
            timing.chunk_tokens_max = chunk_tokens
        if sequences_max:
            timing.sequences_max = sequences_max
        self.engine.stepped = True
        self.engine.manual = self.engine_class == "manual"
        if step_model_init(&self.engine.step, &timing) < 0:
            raise MemoryError

    cdef listen(self, host, port, backlog):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as holder:
            # A port the kernel chose is lost when listening stops (the `refuse` fault); one asked for is kept.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port == 0:
                holder.bind((host, 0))
                port = holder.getsockname()[1]
            self.listener = socket.socket(family, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((host, port))
        self.listener.listen(backlog)
        self.listener.setblocking(False)
        self.port = self.engine.port = self.listener.getsockname()[1]
        self.engine.listen_fd = self.listener.fileno()
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def models(self):
        return [name.decode() for name in self.model_names]

    def stats(self):
        """The counters that /_mock/stats gives, as a dict; from any thread."""
        cdef out_t text
        memset(&text, 0, sizeof(text))
        pthread_mutex_lock(&self.host_loop.loop.lock)
        write_stats(&text, &self.engine.telemetry, &self.engine.step)
        pthread_mutex_unlock(&self.host_loop.loop.lock)
        raw = (<char*> text.data)[:text.size]
        out_free(&text)
        return json.loads(raw)

    def set_faults(self, str faults):
        """Replace the faults in force, `KIND[:ARG][@RATE]` with commas; empty clears. From any thread.
        Raises: ValueError."""
        for each in filter(None, faults.split(",")):
            parse_fault(each)
        raw = faults.encode()
        pthread_mutex_lock(&self.host_loop.loop.lock)
        fits = engine_set_faults(&self.engine, raw, len(raw), monotonic_us())
        pthread_mutex_unlock(&self.host_loop.loop.lock)
        if not fits:
            raise ValueError(f"too many faults: {faults!r}")
        eventfd_write(self.host_loop.loop.wake_fd, 1)

    def step(self):
        """Run one step of a `manual` engine: each running stream gets its next event. How many tokens were made."""
        cdef int32_t emitted = 0
        if not self.engine.manual:
            raise ValueError("only engines of class manual are stepped by hand")
        with nogil:
            pthread_mutex_lock(&self.host_loop.loop.lock)
            if step_begin(&self.engine.step) >= 0:
                emitted = end_step(&self.engine, monotonic_us())
            pthread_mutex_unlock(&self.host_loop.loop.lock)
        return emitted

    def __dealloc__(self):
        shut(&self.engine)

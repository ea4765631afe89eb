"""What the epoll driver keeps, and what its set watches a connection for: structs and inline functions only."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from router.native.conn cimport CONN_BLOCKED, CONN_DOWNSTREAM, CONN_PAUSED, CONN_WANTS_WRITE, conn_t, driver_t
from router.native.sockets cimport (
    EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_ctl, epoll_event,
)

cdef enum:
    OUTBOX_COUNT_MAX = 64            # messages; an event makes one, seldom two
    OUTBOX_BYTES_MAX = 131072        # of all of them together: they stay in the second cache
    OUTBOX_MESSAGE_BYTES_MAX = 8192  # copying a longer one costs more than it saves
    OUTBOX_FULL_COUNT = 32           # it is emptied before the next event: nobody waits long
    TLS_RECORD_BYTES = 16384
    DETACHED = 1 << 27               # conn.events: not in the epoll set; a bit that epoll does not use

cdef struct message_t:
    conn_t* conn                     # NULL: sent already, or not to be sent any more
    uint32_t offset
    uint32_t size

cdef struct outbox_t:                # what the running batch has sent and the kernel has not been given
    uint8_t* bytes                   # OUTBOX_BYTES_MAX
    uint32_t used
    uint32_t count
    bint is_open                     # a batch of several events is running
    message_t messages[64]           # OUTBOX_COUNT_MAX

cdef struct epoll_driver_t:
    driver_t base                    # first: a driver_t* is an epoll_driver_t*
    int epoll_fd
    int stay_fd                      # a timer in the set: bounds how long driver_run may be called with no time-out
    uint8_t stay_is_over
    conn_t* again                    # TLS connections with decrypted bytes that no epoll event will announce
    conn_t* closed                   # freed after the batch
    conn_t* paused_listeners
    uint64_t accept_resume_us        # 0: not paused
    uint64_t accept_pause_count
    uint8_t* scratch                 # DRIVER_READ_BYTES, lent to on_data for the length of the call
    uint8_t* record                  # TLS_RECORD_BYTES: pieces of one record
    outbox_t outbox


cdef inline void watch(conn_t* conn, uint32_t events) noexcept nogil:
    # events 0 with an fd in the set still reports errors and hang-ups, for ever: such a conn leaves the set.
    cdef epoll_event event
    cdef epoll_driver_t* driver = <epoll_driver_t*>conn.driver
    if conn.events == events:
        return
    event.events = events & ~DETACHED
    event.data.ptr = conn
    if events & DETACHED:
        epoll_ctl(driver.epoll_fd, EPOLL_CTL_DEL, conn.fd, &event)
    elif conn.events & DETACHED:
        epoll_ctl(driver.epoll_fd, EPOLL_CTL_ADD, conn.fd, &event)
    else:
        epoll_ctl(driver.epoll_fd, EPOLL_CTL_MOD, conn.fd, &event)
    conn.events = events


cdef inline void watch_as_needed(conn_t* conn) noexcept nogil:
    cdef uint32_t events = 0
    if not conn.flags & CONN_PAUSED:
        events = EPOLLIN | EPOLLRDHUP
    elif conn.kind == CONN_DOWNSTREAM:
        events = EPOLLRDHUP          # a client that goes away is noticed while nothing more is read from it
    if conn.flags & (CONN_BLOCKED | CONN_WANTS_WRITE):
        events |= EPOLLOUT
    watch(conn, events)

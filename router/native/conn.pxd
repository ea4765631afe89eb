"""A connection and the handful of calls between the sans-IO core and whatever moves its bytes (a driver).

The core asks: connect, send, pause_reading, resume_reading, close, abort. The driver tells: accepted, connected,
data, eof, drained. Ownership: the owner allocates the conn (first field of downstream_t, upstream_t ...) and gets it
back by `freed`, which is told after close, abort or release once no event of the running batch can still name it. No
other event is told for a conn that has been closed.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec
from router.native.buffer cimport buffer_t

cdef enum conn_kind:
    CONN_LISTENER = 1
    CONN_DOWNSTREAM = 2
    CONN_UPSTREAM = 3
    CONN_TUNNEL = 4                  # the aiohttp side of a TLS connection that was handed over

cdef enum conn_flag:
    CONN_CLOSED = 1
    CONN_CONNECTING = 2              # TCP or TLS not established yet
    CONN_HANDSHAKING = 4             # TLS
    CONN_PAUSED = 8                  # the owner wants no data
    CONN_BLOCKED = 16                # `out` holds bytes; `drained` will be told when it is empty
    CONN_BROKEN = 32                 # a send failed; eof will be told
    CONN_CLOSE_WHEN_SENT = 64        # closes itself once `out` is empty
    CONN_WANTS_WRITE = 128           # TLS cannot go on reading before it has written

cdef struct conn_t:
    driver_t* driver
    void* tls                        # SSL*, or NULL
    conn_t* next                     # in the driver's lists (to free, to read again)
    buffer_t out                     # bytes the peer's kernel has not taken yet
    int fd
    uint32_t events                  # what epoll watches
    uint8_t kind
    uint8_t flags
    uint8_t is_queued                # in the driver's read-again list
    uint8_t outbox_place             # of its message in the epoll driver's outbox, from 1; 0: none
    uint16_t tag                     # the owner's: listener index

ctypedef int (*connect_fn)(driver_t* driver, conn_t* conn, const void* address, uint32_t address_length,
                           void* tls_context,
                           const char* server_name) noexcept nogil
ctypedef int (*adopt_fn)(driver_t* driver, conn_t* conn, int fd, int kind, void* tls_context) noexcept nogil
ctypedef int (*release_fn)(conn_t* conn) noexcept nogil
ctypedef int (*send_fn)(conn_t* conn, iovec* pieces, int count) noexcept nogil
ctypedef size_t (*size_fn)(const conn_t* conn) noexcept nogil
ctypedef void (*conn_fn)(conn_t* conn) noexcept nogil
ctypedef void (*data_fn)(conn_t* conn, const uint8_t* data, size_t size) noexcept nogil
ctypedef void (*eof_fn)(conn_t* conn, int error) noexcept nogil
ctypedef void (*accepted_fn)(driver_t* driver, conn_t* listener, int fd, const void* address,
                             uint32_t address_length) noexcept nogil

cdef struct driver_t:
    # Asked by the core.
    adopt_fn adopt                   # a socket that was accepted or made elsewhere; 0, or -1 and the fd is closed
    # Gives the socket up without closing it: its fd, or -1 for TLS and while bytes wait in `out`.
    release_fn release
    conn_fn pause_accepting          # of a listener, for a short while and while is_full
    connect_fn connect               # 0 under way or done (connected is told), -1 failed at once (nothing is told)
    # 0 all taken (if not by the kernel yet, on_blocked may follow), 1 the rest waits in `out`, -1 broken (eof will be
    # told)
    send_fn send
    size_fn unsent                   # bytes the peer has not taken: those in `out` and those the kernel holds
    size_fn round_trip_us            # as the kernel has measured it, of the handshake at first; 0: not known
    conn_fn pause_reading
    conn_fn resume_reading
    conn_fn close                    # what is in `out` is dropped
    conn_fn abort                    # the peer sees a reset
    conn_fn close_when_sent          # eof is told when the last byte has been taken, and the owner closes
    conn_fn end_sending              # the peer sees an orderly end; reading goes on. Not while bytes wait in `out`.
    # Told to the core.
    accepted_fn on_accepted
    conn_fn on_connected
    data_fn on_data
    eof_fn on_eof                    # errno, or 0 for an orderly end
    conn_fn on_blocked               # of what `send` took, the rest waits in `out` now
    conn_fn on_drained
    conn_fn on_freed
    void* core
    bint is_full                     # set by the core: nobody is accepted before it is taken back
    uint64_t now_us                  # monotonic; read once per event by the driver

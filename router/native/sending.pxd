"""What the epoll driver sends: at the end of a batch, at once, or when the peer's kernel has room again."""

from posix.uio cimport iovec
from router.native.conn cimport conn_t
from router.native.epoll_state cimport outbox_t

# The driver's `send` (conn.pxd).
cdef int driver_send(conn_t* conn, iovec* pieces, int count) noexcept nogil
# Gives the kernel what the outbox holds of this connection, so that what comes next comes behind it.
cdef void send_waiting(conn_t* conn) noexcept nogil
# Forgets it unsent.
cdef void drop_waiting(conn_t* conn) noexcept nogil
# Gives the kernel everything; on_blocked is told for each connection that does not take all of its message.
cdef void empty_outbox(outbox_t* outbox) noexcept nogil
# Sends what waits in `out`; on_drained is told when it is empty.
cdef void flush(conn_t* conn) noexcept nogil

"""Response heads of a mock engine, and responses that need no more than a head and a body."""

from bench.native.connection cimport conn_t
from bench.native.out cimport out_t
from libc.stdint cimport int64_t

cdef enum framing:
    FRAME_LENGTH = 0
    FRAME_CHUNKED = 1
    FRAME_CLOSE = 2
    FRAME_BOTH = 3

cdef void write_head(conn_t* conn, int status, const char* content_type, int framing, int64_t length) noexcept nogil
cdef void respond(conn_t* conn, int status, const char* content_type, out_t* body) noexcept nogil      # frees the body
cdef void respond_error(conn_t* conn, int status, const char* kind, const char* message) noexcept nogil
cdef void write_surplus(out_t* outbox) noexcept nogil        # a second response nobody asked for

"""Response heads of a mock engine as uvicorn writes them, and responses that need no more than a head and a body.

`conn.fault` shapes a head too: HTTP/1.0, no keep-alive. A head that ends the connection marks it as closing.
"""

from bench.native.connection cimport conn_t
from bench.native.exposition cimport write_load_report
from bench.native.fault cimport FAULT_HTTP10, FAULT_NO_KEEPALIVE
from bench.native.out cimport out_bytes, out_free, out_int, out_t, out_text
from bench.native.replies cimport reply_error
from bench.native.request cimport METHOD_HEAD, REPORT_NONE
from libc.stdint cimport int64_t
from libc.string cimport memset


cdef const char* reason(int status) noexcept nogil:
    if status == 200:
        return b"OK"
    if status == 400:
        return b"Bad Request"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 429:
        return b"Too Many Requests"
    if status == 500:
        return b"Internal Server Error"
    if status == 503:
        return b"Service Unavailable"
    return b"Status"


cdef void write_head(conn_t* conn, int status, const char* content_type, int framing, int64_t length) noexcept nogil:
    cdef out_t* outbox = &conn.outbox
    # uvicorn keeps no HTTP/1.0 connection, whatever the client asks for, and sends chunks even there.
    cdef bint keeps_alive = (conn.request.keep_alive and conn.request.minor_version > 0 and framing != FRAME_CLOSE
                             and conn.fault.kind != FAULT_NO_KEEPALIVE)
    out_text(outbox, b"HTTP/1.0 " if conn.fault.kind == FAULT_HTTP10 else b"HTTP/1.1 ")
    out_int(outbox, status)
    out_text(outbox, b" ")
    out_text(outbox, reason(status))
    out_text(outbox, b"\r\ndate: ")
    out_text(outbox, conn.engine.date)
    out_text(outbox, b"\r\nserver: uvicorn\r\n")
    if status == 405:
        out_text(outbox, b"allow: POST\r\n")
    if conn.request.report_format != REPORT_NONE and status == 200 and framing == FRAME_LENGTH:
        write_load_report(outbox, &conn.engine.step, conn.request.report_format)      # never before a stream
    if framing == FRAME_LENGTH or framing == FRAME_BOTH:
        out_text(outbox, b"content-length: ")
        out_int(outbox, length)
        out_text(outbox, b"\r\n")
    if content_type != NULL:
        out_text(outbox, b"content-type: ")
        out_text(outbox, content_type)
        out_text(outbox, b"\r\n")
    if status == 429 or status == 503:
        out_text(outbox, b"retry-after: 1\r\n")
    out_text(outbox, b"vary: Origin\r\n")
    if not keeps_alive:
        out_text(outbox, b"connection: close\r\n")
        conn.closing = True
    if framing == FRAME_CHUNKED or framing == FRAME_BOTH:
        out_text(outbox, b"transfer-encoding: chunked\r\n")
    out_text(outbox, b"\r\n")


cdef void respond(conn_t* conn, int status, const char* content_type, out_t* body) noexcept nogil:
    """A whole response without faults; frees the body."""
    write_head(conn, status, content_type if body.size else NULL, FRAME_LENGTH, body.size)
    if conn.request.method != METHOD_HEAD and body.size:
        out_bytes(&conn.outbox, body.data, body.size)
    out_free(body)


cdef void respond_error(conn_t* conn, int status, const char* kind, const char* message) noexcept nogil:
    cdef out_t body
    memset(&body, 0, sizeof(body))
    reply_error(&body, status, kind, message)
    respond(conn, status, b"application/json", &body)


cdef void write_surplus(out_t* outbox) noexcept nogil:
    out_text(outbox, b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\ncontent-type: application/json\r\n\r\n"
                     b"{\"poisoned\":true}")

"""TLS on a socket, by the OpenSSL that Python itself runs on."""

from libc.stdint cimport int64_t, uint8_t

cdef enum tls_result:                # negative results of tls_read, tls_write and tls_handshake
    TLS_WANTS_READ = -1
    TLS_WANTS_WRITE = -2
    TLS_CLOSED = -3                  # close_notify, or EOF at a record border
    TLS_FAILED = -4

cdef class TlsContext:
    cdef void* context               # SSL_CTX*
    cdef readonly bint is_server
    cdef readonly bint verifies

    @staticmethod
    cdef TlsContext _make(bint is_server, str min_version)
    cdef _use_pair(self, str cert, str key)
    cdef _use_ca(self, str ca_file)

# SSL*, or NULL
cdef void* tls_begin(void* context, int fd, bint is_server, const char* server_name, bint verifies) noexcept nogil
cdef int tls_handshake(void* tls) noexcept nogil                                          # 0 done, or a tls_result
cdef int64_t tls_read(void* tls, uint8_t* buffer, size_t size) noexcept nogil             # > 0 bytes, or a tls_result
cdef int64_t tls_write(void* tls, const uint8_t* data, size_t size) noexcept nogil
# bytes read from the socket and not yet given
cdef bint tls_has_pending(void* tls) noexcept nogil
cdef void tls_end_sending(void* tls) noexcept nogil                                      # close_notify
cdef void tls_end(void* tls, bint orderly) noexcept nogil
cdef void tls_context_hold(void* context) noexcept nogil
cdef void tls_context_drop(void* context) noexcept nogil

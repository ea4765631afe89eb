"""TLS client connections on OpenSSL's shared library, found at run time so that building needs no headers of it."""

cdef bint tls_ready() noexcept nogil                            # the library is loaded
cdef void* tls_open(int fd) noexcept nogil                    # a client session on a connected socket; NULL on failure
cdef void tls_close(void* session) noexcept nogil
cdef int tls_handshake(void* session) noexcept nogil            # 1 done, 0 not yet, -1 failed
cdef ssize_t tls_recv(void* session, char* data, size_t size_bytes) noexcept nogil  # -2 not now, 0 closed, -1 failed
cdef ssize_t tls_send(void* session, const char* data, size_t size_bytes) noexcept nogil  # -2 not now, -1 failed

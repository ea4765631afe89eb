"""TLS client connections on OpenSSL's shared library, found at run time so that building needs no headers of it.

The generator's own TLS work is not measured, but it must keep up with the proxy, which Python's ssl module cannot.
Certificates are not checked: the peer is a proxy this bench started on the loopback.
"""

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW, RTLD_LOCAL
    void* dlopen(const char* name, int flags)
    void* dlsym(void* library, const char* name)

ctypedef void* (*make_f)() noexcept nogil
ctypedef void* (*make_from_f)(void*) noexcept nogil
ctypedef void (*free_f)(void*) noexcept nogil
ctypedef int (*with_int_f)(void*, int) noexcept nogil
ctypedef int (*step_f)(void*) noexcept nogil
ctypedef int (*read_f)(void*, void*, int) noexcept nogil
ctypedef int (*write_f)(void*, const void*, int) noexcept nogil

cdef enum:
    SSL_ERROR_WANT_READ = 2          # OpenSSL's ssl.h: part of its ABI
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_ZERO_RETURN = 6

cdef void* context = NULL
cdef make_from_f ssl_new
cdef free_f ssl_free
cdef with_int_f ssl_set_fd, ssl_get_error
cdef step_f ssl_connect
cdef read_f ssl_read
cdef write_f ssl_write


def load_openssl() -> bool:
    """Loads the library; False when this machine has none, and TLS cannot be measured."""
    global context, ssl_new, ssl_free, ssl_set_fd, ssl_get_error, ssl_connect, ssl_read, ssl_write
    cdef void* library = NULL
    cdef void* found[9]
    cdef int index
    if context != NULL:
        return True
    for name in (b"libssl.so.3", b"libssl.so.1.1", b"libssl.so"):
        library = dlopen(name, RTLD_NOW | RTLD_LOCAL)
        if library != NULL:
            break
    if library == NULL:
        return False
    index = 0
    for name in (b"TLS_client_method", b"SSL_CTX_new", b"SSL_new", b"SSL_free", b"SSL_set_fd", b"SSL_get_error",
                 b"SSL_connect", b"SSL_read", b"SSL_write"):
        found[index] = dlsym(library, name)
        if found[index] == NULL:
            return False
        index += 1
    ssl_new = <make_from_f>found[2]
    ssl_free = <free_f>found[3]
    ssl_set_fd = <with_int_f>found[4]
    ssl_get_error = <with_int_f>found[5]
    ssl_connect = <step_f>found[6]
    ssl_read = <read_f>found[7]
    ssl_write = <write_f>found[8]
    context = (<make_from_f>found[1])((<make_f>found[0])())
    return context != NULL


cdef bint tls_ready() noexcept nogil:
    return context != NULL


cdef void* tls_open(int fd) noexcept nogil:
    cdef void* session = ssl_new(context)
    if session != NULL:
        ssl_set_fd(session, fd)
    return session


cdef void tls_close(void* session) noexcept nogil:
    ssl_free(session)


cdef ssize_t _result(void* session, int rc) noexcept nogil:
    cdef int error
    if rc > 0:
        return rc
    error = ssl_get_error(session, rc)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        return -2
    return 0 if error == SSL_ERROR_ZERO_RETURN else -1


cdef int tls_handshake(void* session) noexcept nogil:
    cdef ssize_t rc = _result(session, ssl_connect(session))
    return 1 if rc > 0 else (0 if rc == -2 else -1)


cdef ssize_t tls_recv(void* session, char* data, size_t size_bytes) noexcept nogil:
    return _result(session, ssl_read(session, data, <int>size_bytes))


cdef ssize_t tls_send(void* session, const char* data, size_t size_bytes) noexcept nogil:
    return _result(session, ssl_write(session, data, <int>size_bytes))

"""TLS on a socket, by the OpenSSL that Python itself runs on.

The functions are looked up at import in the library that `_ssl` has loaded, so there is nothing more to install and
no second OpenSSL in the process; only OpenSSL 3's public, stable ABI is used. Where Python carries an OpenSSL whose
symbols cannot be reached, `available()` is false and configuring TLS is refused with that reason.

Contexts are made once per listener or endpoint; a connection costs one SSL object whose buffers are released while it
is idle.
"""

import _ssl
import os

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "dlfcn.h" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    enum:
        RTLD_NOW

cdef extern from *:
    """
    static struct {
        void* (*ctx_new)(const void*);
        void (*ctx_free)(void*);
        int (*ctx_up_ref)(void*);
        const void* (*server_method)(void);
        const void* (*client_method)(void);
        long (*ctx_ctrl)(void*, int, long, void*);
        int (*use_chain)(void*, const char*);
        int (*use_key)(void*, const char*, int);
        int (*check_key)(const void*);
        void (*set_verify)(void*, int, void*);
        int (*load_ca)(void*, const char*, const char*);
        int (*default_ca)(void*);
        void* (*ssl_new)(void*);
        void (*ssl_free)(void*);
        int (*set_fd)(void*, int);
        void (*accept_state)(void*);
        void (*connect_state)(void*);
        int (*handshake)(void*);
        int (*read)(void*, void*, int);
        int (*write)(void*, const void*, int);
        int (*get_error)(const void*, int);
        int (*has_pending)(const void*);
        int (*shutdown)(void*);
        void (*set_quiet_shutdown)(void*, int);
        long (*ctrl)(void*, int, long, void*);
        int (*set1_host)(void*, const char*);
        void* (*get0_param)(void*);
        int (*set1_ip)(void*, const char*);
        unsigned long (*err_get)(void);
        void (*err_clear)(void);
        void (*err_string)(unsigned long, char*, size_t);
        unsigned long (*set_options)(void*, uint64_t);
    } openssl;

    #define FAIRLEAD_TLS_LOAD(field, name) \\
        do { *(void**)&openssl.field = dlsym(handle, name); if (!openssl.field) return name; } while (0)

    static const char* fairlead_tls_load(void* handle) {
        FAIRLEAD_TLS_LOAD(ctx_new, "SSL_CTX_new");
        FAIRLEAD_TLS_LOAD(ctx_free, "SSL_CTX_free");
        FAIRLEAD_TLS_LOAD(ctx_up_ref, "SSL_CTX_up_ref");
        FAIRLEAD_TLS_LOAD(server_method, "TLS_server_method");
        FAIRLEAD_TLS_LOAD(client_method, "TLS_client_method");
        FAIRLEAD_TLS_LOAD(ctx_ctrl, "SSL_CTX_ctrl");
        FAIRLEAD_TLS_LOAD(use_chain, "SSL_CTX_use_certificate_chain_file");
        FAIRLEAD_TLS_LOAD(use_key, "SSL_CTX_use_PrivateKey_file");
        FAIRLEAD_TLS_LOAD(check_key, "SSL_CTX_check_private_key");
        FAIRLEAD_TLS_LOAD(set_verify, "SSL_CTX_set_verify");
        FAIRLEAD_TLS_LOAD(load_ca, "SSL_CTX_load_verify_locations");
        FAIRLEAD_TLS_LOAD(default_ca, "SSL_CTX_set_default_verify_paths");
        FAIRLEAD_TLS_LOAD(ssl_new, "SSL_new");
        FAIRLEAD_TLS_LOAD(ssl_free, "SSL_free");
        FAIRLEAD_TLS_LOAD(set_fd, "SSL_set_fd");
        FAIRLEAD_TLS_LOAD(accept_state, "SSL_set_accept_state");
        FAIRLEAD_TLS_LOAD(connect_state, "SSL_set_connect_state");
        FAIRLEAD_TLS_LOAD(handshake, "SSL_do_handshake");
        FAIRLEAD_TLS_LOAD(read, "SSL_read");
        FAIRLEAD_TLS_LOAD(write, "SSL_write");
        FAIRLEAD_TLS_LOAD(get_error, "SSL_get_error");
        FAIRLEAD_TLS_LOAD(has_pending, "SSL_has_pending");
        FAIRLEAD_TLS_LOAD(shutdown, "SSL_shutdown");
        FAIRLEAD_TLS_LOAD(set_quiet_shutdown, "SSL_set_quiet_shutdown");
        FAIRLEAD_TLS_LOAD(ctrl, "SSL_ctrl");
        FAIRLEAD_TLS_LOAD(set1_host, "SSL_set1_host");
        FAIRLEAD_TLS_LOAD(get0_param, "SSL_get0_param");
        FAIRLEAD_TLS_LOAD(set1_ip, "X509_VERIFY_PARAM_set1_ip_asc");
        FAIRLEAD_TLS_LOAD(err_get, "ERR_get_error");
        FAIRLEAD_TLS_LOAD(err_clear, "ERR_clear_error");
        FAIRLEAD_TLS_LOAD(err_string, "ERR_error_string_n");
        FAIRLEAD_TLS_LOAD(set_options, "SSL_CTX_set_options");
        return 0;
    }
    """
    ctypedef struct openssl_t:
        void* (*ctx_new)(const void*) noexcept nogil
        void (*ctx_free)(void*) noexcept nogil
        int (*ctx_up_ref)(void*) noexcept nogil
        const void* (*server_method)() noexcept nogil
        const void* (*client_method)() noexcept nogil
        long (*ctx_ctrl)(void*, int, long, void*) noexcept nogil
        int (*use_chain)(void*, const char*) noexcept nogil
        int (*use_key)(void*, const char*, int) noexcept nogil
        int (*check_key)(const void*) noexcept nogil
        void (*set_verify)(void*, int, void*) noexcept nogil
        int (*load_ca)(void*, const char*, const char*) noexcept nogil
        int (*default_ca)(void*) noexcept nogil
        void* (*ssl_new)(void*) noexcept nogil
        void (*ssl_free)(void*) noexcept nogil
        int (*set_fd)(void*, int) noexcept nogil
        void (*accept_state)(void*) noexcept nogil
        void (*connect_state)(void*) noexcept nogil
        int (*handshake)(void*) noexcept nogil
        int (*read)(void*, void*, int) noexcept nogil
        int (*write)(void*, const void*, int) noexcept nogil
        int (*get_error)(const void*, int) noexcept nogil
        int (*has_pending)(const void*) noexcept nogil
        int (*shutdown)(void*) noexcept nogil
        void (*set_quiet_shutdown)(void*, int) noexcept nogil
        long (*ctrl)(void*, int, long, void*) noexcept nogil
        int (*set1_host)(void*, const char*) noexcept nogil
        void* (*get0_param)(void*) noexcept nogil
        int (*set1_ip)(void*, const char*) noexcept nogil
        unsigned long (*err_get)() noexcept nogil
        void (*err_clear)() noexcept nogil
        void (*err_string)(unsigned long, char*, size_t) noexcept nogil
        unsigned long (*set_options)(void*, uint64_t) noexcept nogil
    openssl_t openssl
    const char* fairlead_tls_load(void* handle) nogil

# From OpenSSL 3's ssl.h and tls1.h.
cdef enum:
    SSL_FILETYPE_PEM = 1
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_ZERO_RETURN = 6
    SSL_VERIFY_NONE = 0
    SSL_VERIFY_PEER = 1
    SSL_CTRL_MODE = 33
    SSL_CTRL_SET_READ_AHEAD = 41
    SSL_CTRL_SET_TLSEXT_HOSTNAME = 55
    SSL_CTRL_SET_MIN_PROTO_VERSION = 123
    TLS1_2_VERSION = 0x0303
    TLS1_3_VERSION = 0x0304
    SSL_MODE_ENABLE_PARTIAL_WRITE = 1
    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER = 2
    SSL_MODE_RELEASE_BUFFERS = 16
    SSL_OP_NO_RENEGOTIATION = 1 << 30

cdef str missing = ""


def _load():
    global missing
    cdef void* handle = NULL
    cdef const char* name
    path = getattr(_ssl, "__file__", None)
    encoded = os.fsencode(path) if path else None
    if encoded is None:
        handle = dlopen(NULL, RTLD_NOW)          # _ssl is built into the interpreter
    else:
        handle = dlopen(encoded, RTLD_NOW)
    if handle == NULL:
        missing = "the _ssl module"
        return
    name = fairlead_tls_load(handle)
    missing = name.decode() if name != NULL else ""


_load()


def available() -> bool:
    """Whether this Python's OpenSSL can be used natively."""
    return not missing


cdef str last_error():
    cdef char text[256]
    cdef unsigned long code = openssl.err_get()
    cdef unsigned long later
    if code == 0:
        return "no reason given by OpenSSL"
    while True:
        later = openssl.err_get()
        if later == 0:
            break
    openssl.err_string(code, text, 256)
    return (<bytes>text).decode("utf-8", "replace")


cdef class TlsContext:
    """An SSL_CTX for one listener (`server`) or one endpoint (`client`).

    Raises ValueError naming the file and OpenSSL's reason when a certificate, key or CA file cannot be used.
    """

    def __cinit__(self):
        self.context = NULL

    def __dealloc__(self):
        if self.context != NULL:
            openssl.ctx_free(self.context)

    @staticmethod
    def server(str cert, str key, *, str min_version="1.2", str client_ca=None) -> TlsContext:
        cdef TlsContext made = TlsContext._make(True, min_version)
        made._use_pair(cert, key)
        if client_ca is not None:
            made._use_ca(client_ca)
            openssl.set_verify(made.context, 3, NULL)      # SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        return made

    @staticmethod
    def client(*, bint verify=True, str ca_file=None, str cert=None, str key=None) -> TlsContext:
        cdef TlsContext made = TlsContext._make(False, "1.2")
        cdef int is_loaded = 1
        made.verifies = verify
        if ca_file is not None:
            made._use_ca(ca_file)
        elif verify:
            with nogil:                      # a hundred certificates, in milliseconds: not while others wait
                is_loaded = openssl.default_ca(made.context)
        if is_loaded != 1:
            raise ValueError(f"the system's certificate authorities cannot be loaded: {last_error()}")
        openssl.set_verify(made.context, SSL_VERIFY_PEER if verify else SSL_VERIFY_NONE, NULL)
        if cert is not None:
            made._use_pair(cert, key if key is not None else cert)
        return made

    @staticmethod
    cdef TlsContext _make(bint is_server, str min_version):
        cdef TlsContext made = TlsContext.__new__(TlsContext)
        if missing:
            raise ValueError(f"TLS needs an OpenSSL 3 that Python shares; {missing} was not found in this Python's")
        made.is_server = is_server
        openssl.err_clear()
        made.context = openssl.ctx_new(openssl.server_method() if is_server else openssl.client_method())
        if made.context == NULL:
            raise ValueError(f"OpenSSL makes no context: {last_error()}")
        openssl.ctx_ctrl(made.context, SSL_CTRL_SET_MIN_PROTO_VERSION,
                         TLS1_3_VERSION if min_version == "1.3" else TLS1_2_VERSION, NULL)
        openssl.ctx_ctrl(made.context, SSL_CTRL_MODE, SSL_MODE_ENABLE_PARTIAL_WRITE
                         | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS, NULL)
        # One read of the socket per record instead of two (header, then body).
        openssl.ctx_ctrl(made.context, SSL_CTRL_SET_READ_AHEAD, 1, NULL)
        openssl.set_options(made.context, SSL_OP_NO_RENEGOTIATION)
        return made

    cdef _use_pair(self, str cert, str key):
        cert_path, key_path = os.fsencode(cert), os.fsencode(key)
        openssl.err_clear()
        if openssl.use_chain(self.context, cert_path) != 1:
            raise ValueError(f"certificate file {cert}: {last_error()}")
        if openssl.use_key(self.context, key_path, SSL_FILETYPE_PEM) != 1:
            raise ValueError(f"key file {key}: {last_error()}")
        if openssl.check_key(self.context) != 1:
            raise ValueError(f"key file {key} does not belong to certificate file {cert}")

    cdef _use_ca(self, str ca_file):
        cdef bytes encoded = os.fsencode(ca_file)
        cdef const char* path = encoded
        cdef int is_loaded
        openssl.err_clear()
        with nogil:
            is_loaded = openssl.load_ca(self.context, path, NULL)
        if is_loaded != 1:
            raise ValueError(f"CA file {ca_file}: {last_error()}")


cdef void* tls_begin(void* context, int fd, bint is_server, const char* server_name, bint verifies) noexcept nogil:
    cdef void* tls = openssl.ssl_new(context)
    if tls == NULL:
        return NULL
    openssl.set_fd(tls, fd)
    if is_server:
        openssl.accept_state(tls)
        return tls
    openssl.connect_state(tls)
    if server_name != NULL and server_name[0] != 0:
        # An address is verified as an address and sends no SNI (RFC 6066 section 3).
        if openssl.set1_ip(openssl.get0_param(tls), server_name) != 1:
            openssl.ctrl(tls, SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, <void*>server_name)
            if verifies:
                openssl.set1_host(tls, server_name)
    openssl.err_clear()
    return tls


cdef inline int outcome(void* tls, int result) noexcept nogil:
    cdef int error = openssl.get_error(tls, result)
    if error == SSL_ERROR_WANT_READ:
        return TLS_WANTS_READ
    if error == SSL_ERROR_WANT_WRITE:
        return TLS_WANTS_WRITE
    openssl.err_clear()
    # An EOF without close_notify is a failure: a cut connection must not look complete.
    return TLS_CLOSED if error == SSL_ERROR_ZERO_RETURN else TLS_FAILED


cdef int tls_handshake(void* tls) noexcept nogil:
    cdef int result = openssl.handshake(tls)
    if result == 1:
        return 0
    return outcome(tls, result)


cdef int64_t tls_read(void* tls, uint8_t* buffer, size_t size) noexcept nogil:
    cdef int result = openssl.read(tls, buffer, <int>size)
    if result > 0:
        return result
    return outcome(tls, result)


cdef int64_t tls_write(void* tls, const uint8_t* data, size_t size) noexcept nogil:
    cdef int result = openssl.write(tls, data, <int>size)
    if result > 0:
        return result
    return outcome(tls, result)


cdef bint tls_has_pending(void* tls) noexcept nogil:
    return openssl.has_pending(tls) == 1


cdef void tls_end_sending(void* tls) noexcept nogil:
    openssl.shutdown(tls)
    openssl.err_clear()


cdef void tls_end(void* tls, bint orderly) noexcept nogil:
    if orderly:
        openssl.shutdown(tls)        # sends close_notify; the peer's is not waited for
        openssl.err_clear()
    else:
        openssl.set_quiet_shutdown(tls, 1)
    openssl.ssl_free(tls)


cdef void tls_context_hold(void* context) noexcept nogil:
    openssl.ctx_up_ref(context)


cdef void tls_context_drop(void* context) noexcept nogil:
    openssl.ctx_free(context)

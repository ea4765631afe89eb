"""Endpoints and the keep-alive connections to them, as one worker holds them.

Idle connections form a list per endpoint: the most recently used is taken first, so that the surplus of a burst ages
at the other end and is closed. Invariants: an idle connection carries no exchange, and bytes on it close it;
open_count counts every connection from connect to close. An Endpoint outlives the snapshots that name it and its
connections stay through a reload.
"""

import socket

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from router.native.tls cimport TlsContext


cdef extern from "netinet/in.h" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        in6_addr sin6_addr
    unsigned short htons(unsigned short port)
    enum: AF_INET, AF_INET6

cdef extern from "sys/un.h" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]
    enum: AF_UNIX


cdef upstream_t* pool_take_idle(endpoint_t* endpoint) noexcept nogil:
    cdef upstream_t* upstream = endpoint.idle_first
    if upstream != NULL:
        pool_remove_idle(endpoint, upstream)
    return upstream


cdef void pool_put_idle(endpoint_t* endpoint, upstream_t* upstream, uint64_t now_us) noexcept nogil:
    upstream.state = UPSTREAM_IDLE
    upstream.exchange = NULL
    upstream.idle_since_us = now_us
    upstream.idle_previous = NULL
    upstream.idle_next = endpoint.idle_first
    if endpoint.idle_first != NULL:
        endpoint.idle_first.idle_previous = upstream
    else:
        endpoint.idle_last = upstream
    endpoint.idle_first = upstream
    endpoint.idle_count += 1


cdef void pool_remove_idle(endpoint_t* endpoint, upstream_t* upstream) noexcept nogil:
    if upstream.idle_previous != NULL:
        upstream.idle_previous.idle_next = upstream.idle_next
    else:
        endpoint.idle_first = upstream.idle_next
    if upstream.idle_next != NULL:
        upstream.idle_next.idle_previous = upstream.idle_previous
    else:
        endpoint.idle_last = upstream.idle_previous
    upstream.idle_next = upstream.idle_previous = NULL
    upstream.state = UPSTREAM_BUSY
    endpoint.idle_count -= 1


cdef upstream_t* pool_stale(endpoint_t* endpoint, uint64_t idle_before_us) noexcept nogil:
    cdef upstream_t* upstream = endpoint.idle_last
    if upstream != NULL and upstream.idle_since_us <= idle_before_us:
        return upstream
    return NULL


@cython.no_gc                         # thousands, of which none knows itself: no collection needs to look at them
cdef class Endpoint:
    """The Python handle of an endpoint_t: made from an EndpointTables (router/snapshot.py), then only read but for
    its addresses. `context` is for its TLS settings, where somebody has one.

    Raises ValueError when a TLS file cannot be used.
    """

    def __cinit__(self, tables, TlsContext context=None):
        memset(&self.endpoint, 0, sizeof(endpoint_t))
        self._kept = []
        self.identity, self.name, self.url = tables.identity, tables.name, tables.url
        self.endpoint.slot = tables.slot
        self.endpoint.weight = tables.weight
        self.endpoint.identity = tables.identity_hash
        self.endpoint.name = self.keep(tables.name.encode())
        self.endpoint.authority = self.keep(tables.authority.encode())
        self.endpoint.path_prefix = self.keep(tables.path_prefix.encode())
        self.endpoint.key_line = self.keep(tables.key_line.encode("latin-1"))
        self.endpoint.passes_client_key = tables.passes_client_key
        self.endpoint.load_report = tables.load_report
        self.endpoint.in_flight_max = tables.in_flight_max
        self.endpoint.connections_max = tables.connections_max
        self.endpoint.idle_max = tables.idle_max
        if tables.tls is not None:
            self._tls_tables = tables.tls
            self.take_context(context if context is not None else context_of(tables.tls))
            self.endpoint.server_name = <const char*>self.keep(tables.tls.server_name.encode("idna")).data
        if tables.rewrites:
            self.endpoint.rewrites = <rewrite_t*>calloc(len(tables.rewrites), sizeof(rewrite_t))
            if self.endpoint.rewrites == NULL:
                raise MemoryError
            for name, (engine_name, json_name) in tables.rewrites.items():
                self.endpoint.rewrites[self.endpoint.rewrite_count].name = self.keep(name.encode())
                self.endpoint.rewrites[self.endpoint.rewrite_count].engine_name = self.keep(engine_name.encode())
                self.endpoint.rewrites[self.endpoint.rewrite_count].json_name = self.keep(json_name.encode())
                self.endpoint.rewrite_count += 1
        self.set_addresses(list(tables.addresses))

    def __dealloc__(self):
        free(self.endpoint.rewrites)

    cdef text_t keep(self, bytes data):
        cdef text_t text
        self._kept.append(data)
        text.data = <const uint8_t*>data
        text.length = <uint32_t>len(data)
        return text

    cdef renew_tls(self):
        # Connections hold a reference of their own to the context before.
        if self._tls_tables is not None:
            self.take_context(context_of(self._tls_tables))

    cdef take_context(self, TlsContext context):
        self._tls = context
        self.endpoint.tls_context = context.context

    cpdef set_addresses(self, list addresses):
        """Takes resolved (host, port) pairs, or ("/path", 0) for a Unix socket; at most ENDPOINT_ADDRESSES_MAX are
        kept.
        """
        cdef sockaddr_in four
        cdef sockaddr_in6 six
        cdef sockaddr_un local
        cdef int count = 0
        cdef bytes packed
        for host, port in addresses[:ENDPOINT_ADDRESSES_MAX]:
            if host.startswith("/"):
                memset(&local, 0, sizeof(local))
                local.sun_family = AF_UNIX
                packed = host.encode()[:107]
                memcpy(local.sun_path, <const char*>packed, len(packed))
                memcpy(self.endpoint.addresses[count].bytes, &local, sizeof(local))
                self.endpoint.addresses[count].length = sizeof(local)
            elif ":" in host:
                memset(&six, 0, sizeof(six))
                six.sin6_family = AF_INET6
                six.sin6_port = htons(port)
                packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
                memcpy(six.sin6_addr.s6_addr, <const char*>packed, 16)
                memcpy(self.endpoint.addresses[count].bytes, &six, sizeof(six))
                self.endpoint.addresses[count].length = sizeof(six)
            else:
                memset(&four, 0, sizeof(four))
                four.sin_family = AF_INET
                four.sin_port = htons(port)
                packed = socket.inet_pton(socket.AF_INET, host)
                memcpy(&four.sin_addr.s_addr, <const char*>packed, 4)
                memcpy(self.endpoint.addresses[count].bytes, &four, sizeof(four))
                self.endpoint.addresses[count].length = sizeof(four)
            count += 1
        self.endpoint.address_count = count
        self.endpoint.address_turn = 0


def context_of(tls):
    """What connections by these TlsTables (router/snapshot.py) begin with. Raises ValueError."""
    return TlsContext.client(verify=tls.verify, ca_file=tls.ca_file, cert=tls.cert, key=tls.key)

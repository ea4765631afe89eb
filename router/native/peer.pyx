"""Who is on the other end: addresses as text, and whether they are trusted to say for whom they speak.

IPv4 is compared as v4-mapped IPv6, so that a dual-stack listener needs no second rule.
"""

import ipaddress

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset, strlen

from router.native.exchange cimport PEER_BYTES, network_t

cdef extern from "arpa/inet.h" nogil:
    struct sockaddr:
        unsigned short sa_family
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr
    const char* inet_ntop(int family, const void* source, char* target, uint32_t size)
    enum: AF_INET, AF_INET6


cdef bint as_mapped(const void* address, uint8_t* bytes) noexcept nogil:
    cdef int family = (<const sockaddr*>address).sa_family
    if family == AF_INET6:
        memcpy(bytes, (<const sockaddr_in6*>address).sin6_addr.s6_addr, 16)
        return True
    if family == AF_INET:
        memset(bytes, 0, 10)
        bytes[10] = bytes[11] = 0xFF
        memcpy(bytes + 12, &(<const sockaddr_in*>address).sin_addr, 4)
        return True
    return False


cdef uint8_t peer_text(const void* address, uint8_t* text) noexcept nogil:
    cdef uint8_t bytes[16]
    cdef const char* written
    cdef uint8_t* mapped = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
    if not as_mapped(address, bytes):
        memcpy(text, b"unix", 4)
        return 4
    if memcmp(bytes, mapped, 12) == 0:
        written = inet_ntop(AF_INET, bytes + 12, <char*>text, PEER_BYTES)
    else:
        written = inet_ntop(AF_INET6, bytes, <char*>text, PEER_BYTES)
    return <uint8_t>strlen(written) if written != NULL else 0


cdef bint peer_is_trusted(const void* address, const network_t* networks, uint32_t count) noexcept nogil:
    cdef uint8_t bytes[16]
    cdef uint32_t index, whole, rest
    if count == 0 or not as_mapped(address, bytes):
        return False
    for index in range(count):
        whole = networks[index].bits // 8
        rest = networks[index].bits % 8
        if memcmp(bytes, networks[index].bytes, whole) != 0:
            continue
        if rest == 0 or (bytes[whole] ^ networks[index].bytes[whole]) >> (8 - rest) == 0:
            return True
    return False


cdef int network_parse(object cidr, network_t* network) except -1:
    parsed = ipaddress.ip_network(cidr, strict=False)
    cdef bytes packed = parsed.network_address.packed
    if parsed.version == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    memcpy(network.bytes, <const uint8_t*>packed, 16)
    network.bits = parsed.prefixlen + (96 if parsed.version == 4 else 0)
    return 0


def describe(bytes address, list networks):
    """(text, whether it is trusted) of a sockaddr among CIDR `networks`. For tests. Raises ValueError for a bad
    network.
    """
    cdef uint8_t text[46]            # PEER_BYTES
    cdef network_t parsed[64]
    cdef const uint8_t* data = address
    cdef uint32_t index
    cdef uint8_t length
    if len(address) < 28 or len(networks) > 64:
        raise ValueError("a whole sockaddr_in6 and at most 64 networks are read")
    for index, network in enumerate(networks):
        network_parse(network, &parsed[index])
    length = peer_text(data, text)
    return text[:length].decode(), peer_is_trusted(data, parsed, <uint32_t>len(networks))
